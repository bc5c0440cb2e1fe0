"""The user's cache folder, checksums, and running other programs with clear errors."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from attnbridge.errors import AttnBridgeError, shown

MOST_LINKED = 100_000
"""Folders below a folder that are reached through links; a few that link to each other stand for any number."""


def cache_dir(*parts: str) -> Path:
    """Folder for downloaded files: ``$ATTNBRIDGE_CACHE``, else ``$XDG_CACHE_HOME/attnbridge``."""
    base = os.environ.get("ATTNBRIDGE_CACHE")
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "attnbridge"
    return root.joinpath(*parts)


def sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def given_path(path: Path | str, what: str = "a path") -> Path:
    """A path that a user gives.

    Raises:
        AttnBridgeError: for an empty one, which would be the working folder, one with a zero byte, or something else.
    """
    if not isinstance(path, str | Path):
        raise AttnBridgeError(f"{what} must be a path, not {shown(path)}")
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise AttnBridgeError(f"{what} is {text!r}, which names no file or folder; give a name, or `.` for this folder")
    return Path(path)


def inner_path(name: str, where: str) -> str:
    """A path that a file names, if it lies below the folder in which it is looked up.

    Args:
        name: of the file or folder.
        where: the file, and the place in it, that names it.

    Raises:
        AttnBridgeError: for an empty or absolute path, one with ``..``, or with a zero byte.

    >>> inner_path("street/1.jpg", "list.txt, line 1")
    'street/1.jpg'
    """
    parts = re.split(r"[/\\]", name)
    outside = ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:[/\\]", name)
    if outside or not name.strip() or name == "." or "\0" in name:
        raise AttnBridgeError(f"{where}: {name!r} leads outside the data; expected the name of a file in its folder")
    return name


def make_folder(path: Path) -> Path:
    """The folder, made with its parents where it is not there.

    Raises:
        AttnBridgeError: if it cannot be made, as below a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AttnBridgeError(f"{path}: cannot be made a folder ({error}); name another one") from None
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of ``path`` at the end: a reader sees the old one or the new, never half.

    Nothing is left of it after an exception. The folder is made where it is not there.
    """
    with beside(path) as partial:
        yield partial
        partial.replace(path)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """A write that the system refuses, as on a full disk, knows no name of its file: it is given this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write in the folder of ``path``, which is made where it is not there; gone at the end, unless moved."""
    partial = make_folder(path.parent) / _partial_name()
    try:
        partial.touch(exist_ok=False)  # who may read it is left to the umask
        with named(path):
            yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """A folder to fill, in another, which is made where it is not there; gone at the end, unless moved."""
    partial = make_folder(parent) / _partial_name()
    try:
        partial.mkdir()
        with named(parent):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_name() -> str:
    return f".partial{secrets.token_hex(4)}"


def walk_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, those in linked folders too; a link to a folder that it lies in is left out.

    A file is what is no folder: a link to nothing, too.

    Raises:
        AttnBridgeError: for links to each other that stand for more than :data:`MOST_LINKED` folders.
    """
    found: list[Path] = []
    linked, target = 0, cache(os.path.realpath)  # of a few links many times
    above = {os.fspath(folder): [target(folder)]}  # of a folder the real one, and those of the links on the way
    for place, folders, files in os.walk(folder, followlinks=True):
        reals = above.pop(place)
        linked += len(reals) > 1
        if linked > MOST_LINKED:
            raise AttnBridgeError(
                f"{folder}: its links stand for more than {MOST_LINKED:,} folders, as links to each other do, "
                f"{Path(place).relative_to(folder).parts[:3]}; take them out"
            )
        for name in folders:
            path, real = os.path.join(place, name), os.path.join(reals[0], name)  # noqa: PTH118 (paths take their time)
            if target(real) == real:
                above[path] = [real, *reals[1:]]
            elif not _holds_one(target(real), reals):
                above[path] = [target(real), *reals]
        folders[:] = [name for name in folders if os.path.join(place, name) in above]  # noqa: PTH118
        found += [Path(place, name) for name in files]
    return sorted(found)


def _holds_one(folder: str, others: Iterable[str]) -> bool:
    """Whether a folder is one of the others, or lies above one."""
    start = os.path.join(folder, "")  # noqa: PTH118
    return any(f"{other}{os.sep}".startswith(start) for other in others)


def output_paths(images: Iterable[str], out: Path) -> dict[str, Path]:
    """Where what is made of each image lies: its id below ``out``, as PNG.

    Raises:
        AttnBridgeError: for two that would be one file.
    """
    targets = {name: (out / name).with_suffix(".png") for name in images}
    names: dict[Path, str] = {}
    for name, path in targets.items():
        if path in names:
            raise AttnBridgeError(f"{name} and {names[path]} would both become {path}; rename one of them")
        names[path] = name
    return targets


def is_current(path: Path, *made_of: Path) -> bool:
    """Whether a file is there and not older than what it was made of."""
    if not path.is_file() or not all(each.is_file() for each in made_of):
        return False
    return all(path.stat().st_mtime_ns >= each.stat().st_mtime_ns for each in made_of)


def run_program(command: Sequence[str], purpose: str, cwd: Path | None = None) -> str:
    """Run a program and return what it printed.

    Args:
        command: its words.
        purpose: what it is run for, in messages.
        cwd: where; a folder of one's own, if the program reads files of the folder that it runs in.

    Raises:
        AttnBridgeError: if it is not installed or fails; the message ends with its last words.
    """
    try:
        done = subprocess.run(list(command), cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise AttnBridgeError(f"{purpose} needs the program {command[0]!r}, which is not installed") from None
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise AttnBridgeError(f"{purpose} failed: {' '.join(command[:3])} ... said: {last}")
    return done.stdout
