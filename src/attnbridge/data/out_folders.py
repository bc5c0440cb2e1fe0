"""Folders that are written into: of one process at a time, and left as they were where nothing was made. Free of torch.

The lock is one of the operating system's, so it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnbridge.data.files import given_path, make_folder
from attnbridge.data.provenance import LEDGER, LOCK, PARTIAL, OwnFiles
from attnbridge.errors import AttnBridgeError, is_first_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUN = ("checkpoints/last.ckpt", "run.json")
"""What a run has beside its ``config.yaml``; of both, one."""
PARTS = ("attention", "checkpoints", "network")
"""Folders in a run that it fills itself."""
HOLDS = {
    "config.yaml": "a run of `attnbridge fit`",
    "cues.json": "cues of `attnbridge cues`",
    "masks.json": "masks of `attnbridge segment`",
    "saliency.json": "maps of `attnbridge saliency`",
    "manifest.jsonl": "maps of `attnbridge explain`",
    "results.tgz": "segmentations for a test server",
    "scores.json": "results of `attnbridge score`",
    "verification.json": "results of `attnbridge verify`",
    "pipeline.json": "the stages of `attnbridge pipeline`",
    "results.json": "the runs of a table",
    "search.json": "the runs of `attnbridge search`",
    "imports.json": "images of `attnbridge data import`",
    "audit.json": "an audit of `attnbridge.audit`",
}
"""A file of each kind of folder that commands write, and what such a folder holds."""
_held: set[tuple[int, int]] = set()
"""Device and number of the folders that this process holds."""
_handles: set[int] = set()


def check_out(out: Path | str, kind: str | None = None) -> Path:
    """A folder to write, before it is made.

    Args:
        out: the folder.
        kind: what it is to be, by the name of its file in :data:`HOLDS`.

    Raises:
        AttnBridgeError: for an empty path, the root, the home folder, a file, a path below a file, a link to nowhere,
            a folder that cannot be written, or, with ``kind``, one that holds what another command made.
    """
    path = given_path(out, "the folder to write, --out,")
    real = os.path.realpath(path)
    if real in (Path(real).anchor, os.path.realpath(os.path.expanduser("~"))):  # noqa: PTH111 (no error without a home)
        raise AttnBridgeError(f"{path}: is the root or the home folder; name a folder of its own below it with --out")
    above = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not above.is_dir():
        what = "is a link to nothing" if above.is_symlink() and not above.exists() else "is a file"
        raise AttnBridgeError(f"{path}: cannot be made a folder ({above} {what}); name another one with --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise AttnBridgeError(f"{path}: cannot be written ({above} is read-only); name another folder with --out")
    if kind is not None:
        _check_kind(path, Path(real), kind)
    return path


def _check_kind(path: Path, real: Path, kind: str) -> None:
    """Raise for a folder of another kind, or that a run fills."""
    words = next((f"holds {HOLDS[name]}" for name in HOLDS if name != kind and _is_of(real, name)), None)
    for above in real.parents:
        if real.relative_to(above).parts[0] in PARTS and _is_of(above, "config.yaml"):
            words = f"is a part of the run {above}"
    if words:
        raise AttnBridgeError(f"{path}: {words}, and nothing else is put there; name another folder with --out")


def _is_of(folder: Path, kind: str) -> bool:
    """Whether a folder is one of a kind: by what is in it if that is a run, else by the list of what was written."""
    if not (folder / kind).is_file():
        return False
    if kind == "config.yaml":
        return any((folder / name).is_file() for name in RUN)
    return OwnFiles(folder).wrote(folder / kind)


@contextmanager
def owned(out: Path | str, kind: str | None = None) -> Iterator[OwnFiles]:
    """The files of a folder, made where it is not there, which no other process writes into meanwhile.

    It may be asked for again inside. Processes of a group leave the lock to their first one. A folder in which nothing
    was made is as it was before; what a killed process was about to write is removed.

    Args:
        out: the folder.
        kind: what it is to be, see :func:`check_out`.

    Raises:
        AttnBridgeError: see :func:`check_out`; if another process writes there; if its list of files is not one.
    """
    folder = check_out(out, kind)
    if not is_first_process():
        yield OwnFiles(folder)
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with _alone(make_folder(folder)):
            yield OwnFiles(folder)
    finally:
        with suppress(OSError):  # something was made
            for place in made:
                place.rmdir()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    found = folder.stat()
    key, owner = (found.st_dev, found.st_ino), os.getpid()
    if key in _held:
        yield
        return
    before = [name for name in (LEDGER, LOCK) if os.path.lexists(folder / name)]
    handle = _lock(folder)
    _held.add(key)
    _handles.add(handle)
    try:
        OwnFiles(folder)  # a foreign list of files is told before anything else
        if before:
            _sweep(folder)
        yield
    except BaseException:  # an interrupt comes wherever it likes
        if os.getpid() == owner:
            _sweep(folder)
        raise
    finally:
        if os.getpid() == owner:  # else this is a fork's end
            _held.discard(key)
            _handles.discard(handle)
            if LEDGER not in before and not OwnFiles(folder).any_left():  # nothing was made
                (folder / LEDGER).unlink()
            (folder / LOCK).unlink(missing_ok=True)
            os.close(handle)


def _lock(folder: Path) -> int:
    """The open lock of a folder; where the file system has none, the file alone."""
    path = folder / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise AttnBridgeError(
                f"{path}: cannot be written ({error.strerror}); name another folder with --out"
            ) from None
        try:
            _take(handle, path)
        except BaseException:
            os.close(handle)
            raise
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), path.lstat()):
                os.truncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                return handle
        os.close(handle)  # the one before removed it


def _take(handle: int, path: Path) -> None:
    words = os.read(handle, 20).decode(errors="replace") if stat.S_ISREG(os.fstat(handle).st_mode) else "special"
    if words and not words.isdecimal():
        raise AttnBridgeError(f"{path}: was not written by attnbridge; move it away, or name another folder with --out")
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AttnBridgeError(
            f"{path.parent}: another process{f' ({words})' if words else ''} writes into it; wait until it has ended, "
            "or name another folder with --out"
        ) from None
    except OSError:
        pass  # no locks on this file system


def _sweep(folder: Path) -> None:
    """Remove what a killed process was about to write; folders with a list of their own are left to their owners."""
    for place, folders, files in os.walk(folder):
        for name in filter(PARTIAL.fullmatch, files):
            (Path(place) / name).unlink(missing_ok=True)
        for name in filter(PARTIAL.fullmatch, folders):
            shutil.rmtree(Path(place) / name, ignore_errors=True)
        folders[:] = [name for name in folders if not (Path(place) / name / LEDGER).is_file()]


def _forget() -> None:
    """A forked process does not keep its parent's locks when that is killed."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
