"""A folder's ledger of what was written into it, so that no file of the user's is ever overwritten. Free of torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnbridge.data.cache import beside, sha256
from attnbridge.errors import AttnBridgeError

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

    def remember(self, name: str, settings: dict[str, Any], what: str) -> None:
        """The folder remembers in a file what made the others, and holds those of one setting only.

        Raises:
            AttnBridgeError: if it holds those of another, or the file is the user's.
        """
        record = self.folder / name
        self.check([record])
        self.check_unchanged([record])
        before = json.loads(record.read_text()) if record.is_file() else {}
        if before == settings:
            return
        if before:
            changed = next(k for k in [*settings, *before] if before.get(k) != settings.get(k))
            raise AttnBridgeError(
                f"{self.folder}: holds {what} made with {changed} = {before.get(changed)!r}, not "
                f"{settings.get(changed)!r}; name another folder, or delete this one"
            )
        with self.writing(record) as partial:
            partial.write_text(json.dumps(settings))

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
