"""What a folder was made of, whether it is current, and which of its files are the program's. Free of torch.

:class:`OwnFiles` keeps a ledger of the files that were written, so that no file of the user's is overwritten, and a
record of what made them. :class:`Stages` keeps folders that are made of each other in step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from attnbridge.data.files import atomic_write, beside, sha256
from attnbridge.errors import AttnBridgeError

console = Console()
LEDGER = ".attnbridge.jsonl"
"""Name and checksum of each file that was written, a line each, added before the file is put in its place."""


class OwnFiles:
    """The files of a folder that this program wrote; any other file in it is the user's and stays as it is.

    A file is the program's own as long as its bytes are those that were written: one that was edited or replaced since
    is the user's. After a kill the ledger names at worst a file that is not there.

    Args:
        folder: need not exist yet.
        written: checksums by name; default: the folder's ledger is read.
    """

    def __init__(self, folder: Path, written: dict[str, set[str]] | None = None) -> None:
        self.folder = folder
        self._written = self._read() if written is None else written

    def check(self, paths: Iterable[Path]) -> None:
        """Check names that are to be written, before anything is; cheap, since no file is opened.

        Raises:
            AttnBridgeError: if there are files under these names that the program never wrote.
        """
        self._refuse(paths, lambda path: self._name(path) in self._written, "was not written by attnbridge")

    def check_unchanged(self, paths: Iterable[Path]) -> None:
        """Check files that are to be replaced, before anything is written.

        Raises:
            AttnBridgeError: if some of them do not hold what the program wrote.
        """
        self._refuse(paths, self._is_unchanged, "was changed after attnbridge wrote it")

    def check_all(self) -> None:
        """Check all files of a folder that is to be removed, if it has a ledger; hidden ones are passed over.

        Raises:
            AttnBridgeError: see :meth:`check` and :meth:`check_unchanged`.
        """
        if (self.folder / LEDGER).is_file():
            paths = [p for p in sorted(self.folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
            self.check(paths)
            self.check_unchanged(paths)

    def claim(self, name: str, made_of: dict[str, Any], what: str) -> None:
        """The folder remembers in a file what made the others, and holds those of one making only.

        Raises:
            AttnBridgeError: if it holds those of another, or the file is the user's.
        """
        record = self.folder / name
        self.check([record])
        self.check_unchanged([record])
        before = json.loads(record.read_text()) if record.is_file() else {}
        if before == made_of:
            return
        if before:
            changed = next(k for k in [*made_of, *before] if before.get(k) != made_of.get(k))
            raise AttnBridgeError(
                f"{self.folder}: holds {what} made with {changed} = {before.get(changed)!r}, not "
                f"{made_of.get(changed)!r}; name another folder, or delete this one"
            )
        with self.writing(record) as partial:
            partial.write_text(json.dumps(made_of))

    @contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """A file to write that takes the place of ``path`` at the end, see :meth:`put`; nothing is left after an
        exception."""
        with beside(path) as partial:
            yield partial
            self.put(partial, path)

    def put(self, made: Path, path: Path) -> None:
        """Move a file to its place, once the ledger names it.

        Raises:
            AttnBridgeError: if another one has come there that is not the program's.
        """
        self.check([path])
        self.check_unchanged([path])
        self._claim(self._name(path), sha256(made))
        made.replace(path)

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files that were checked."""
        for path in paths:
            path.unlink(missing_ok=True)

    def only(self, path: Path) -> OwnFiles:
        """What is known of one file, small enough to be sent to another process."""
        name = self._name(path)
        return OwnFiles(self.folder, {name: self._written[name]} if name in self._written else {})

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _is_unchanged(self, path: Path) -> bool:
        return path.is_file() and not path.is_symlink() and sha256(path) in self._written.get(self._name(path), ())

    def _refuse(self, paths: Iterable[Path], fine: Callable[[Path], bool], words: str) -> None:
        there = [path for path in paths if os.path.lexists(path)]
        if all(map(fine, there)):
            return
        self._written = self._read()  # another process may have written some of them since
        strange = [path for path in there if not fine(path)]
        if strange:
            more = f" ({len(strange)} such files in all)" if len(strange) > 1 else ""
            raise AttnBridgeError(
                f"{strange[0]}: {words} and would be overwritten{more}; name another folder with --out, or move it away"
            )

    def _read(self) -> dict[str, set[str]]:
        """Checksums of all that was ever written under each name; a line that was cut off is passed over."""
        written: dict[str, set[str]] = {}
        ledger = self.folder / LEDGER
        for line in ledger.read_text().splitlines() if ledger.is_file() else ():
            try:
                entry = json.loads(line)
                written.setdefault(entry["file"], set()).add(entry["sha256"])
            except (ValueError, KeyError, TypeError):
                continue
        return written

    def _claim(self, name: str, checksum: str) -> None:
        line = json.dumps({"file": name, "sha256": checksum})
        with (self.folder / LEDGER).open("a") as ledger:
            ledger.write(f"\n{line}")  # so that a line that was cut off ends here
        self._written.setdefault(name, set()).add(checksum)


@dataclass
class Stages:
    """Which stages are done, and from what: ``pipeline.json``.

    Attributes:
        out: folder of the pipeline.
        replaces: a stage that was made of something else is made again; else that is an error.
    """

    out: Path
    replaces: bool = True

    def run(self, name: str, made_of: dict[str, Any], make: Callable[[Path], None]) -> str:
        """Make ``out/name``, unless it is whole and made of the same; one that was made of something else goes first.

        Returns:
            What stands for the stage in the next one's ``made_of``.

        Raises:
            AttnBridgeError: for a folder that is not the pipeline's, or that may not be replaced, or that holds files
                of the user's beside masks or cues.
        """
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:16]
        folder, known = self.out / name, self._read()
        if known.get(name) == {"key": key, "done": True} and folder.is_dir():
            console.print(f"[bold]{name}[/]: there already, in {folder}")
            return key
        if name not in known and folder.exists():
            raise AttnBridgeError(f"{folder}: is there, but not made by this pipeline; name another folder with --out")
        if known.get(name, {}).get("key") not in (None, key):
            if not self.replaces:
                raise AttnBridgeError(
                    f"{folder}: was made with other options or images; name another folder with --out, or remove it"
                )
            OwnFiles(folder).check_all()
            console.print(f"[bold]{name}[/]: what it was made of has changed")
            _move_away(folder)
        self._write({**known, name: {"key": key, "done": False}})
        console.print(f"[bold]{name}[/]")
        make(folder)
        self._write({**self._read(), name: {"key": key, "done": True}})
        return key

    def _read(self) -> dict[str, Any]:
        path = self.out / "pipeline.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return known

    def _write(self, known: dict[str, Any]) -> None:
        with atomic_write(self.out / "pipeline.json") as partial:
            partial.write_text(json.dumps(known, indent=1))


def _move_away(folder: Path) -> None:
    """Remove a folder; at no time are its remains where it was."""
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def file_stamps(folder: Path) -> list[str]:
    """Of all files in a folder; none if it is no folder."""
    return [stamp(path) for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []


def stamp(path: Path) -> str:
    """Name, size and time of change of a file."""
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"
