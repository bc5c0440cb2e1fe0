"""What a folder was made of, whether it is current, and which of its files are the program's. Free of torch.

:class:`OwnFiles` keeps a ledger of the files that were written, so that no file of the user's is overwritten, and a
record of what made them. :class:`Stages` keeps folders that are made of each other in step.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from attnbridge.data.files import beside, inner_path, partial_folder, sha256, walk_files
from attnbridge.data.text import read_json, read_text
from attnbridge.errors import AttnBridgeError

console = Console()
LEDGER = ".attnbridge.jsonl"
"""Name and checksum of each file that was written, a line each, added before the file is put in its place. The checksum
of a link is that of where it leads."""
LOCK = ".attnbridge.lock"
"""Held by the process that writes, see :func:`~attnbridge.data.out_folders.owned`."""
PARTIAL = re.compile(r"\.partial[a-z0-9_]{8}")
"""Names of files and folders that are not in their place yet."""
STAGES = "pipeline.json"
_LINE = '{"file": "'


class OwnFiles:
    """The files of a folder that this program wrote; any other file in it is the user's and stays as it is.

    A file is the program's own as long as its bytes are those that were written: one that was edited or replaced since
    is the user's. One that was written and is empty now, as after a crash or on a full disk, holds nothing of anybody's
    and is written again. After a kill the ledger names at worst a file that is not there.

    Args:
        folder: need not exist yet.
        written: checksums by name; default: the folder's ledger is read.

    Raises:
        AttnBridgeError: for a ledger that this program did not write.
    """

    def __init__(self, folder: Path, written: dict[str, set[str]] | None = None) -> None:
        self.folder = folder
        self._written = self._read() if written is None else written
        self._stamps: dict[Path, str] = {}

    def check(self, paths: Iterable[Path]) -> None:
        """Check names that are to be written, before anything is; cheap, since no file is opened.

        Raises:
            AttnBridgeError: if there are files under these names that the program never wrote, or a link leads out of
                the folder.
        """
        self._refuse(paths, self._is_known, "was not written by attnbridge")

    def check_unchanged(self, paths: Iterable[Path]) -> None:
        """Check files that are to be replaced, before anything is written.

        Raises:
            AttnBridgeError: if some of them do not hold what the program wrote, and are not empty.
        """
        self._refuse(paths, self._is_replaceable, "was changed after attnbridge wrote it")

    def check_all(self) -> None:
        """Check all files of a folder that is to be removed, those with a ledger of their own by that.

        Raises:
            AttnBridgeError: see :meth:`check` and :meth:`check_unchanged`.
        """
        for own, paths in self._parts():
            own.check(sorted(paths))
            own.check_unchanged(sorted(paths))

    def any_left(self) -> bool:
        """Whether one of the files that were written is there, or there is no list of them."""
        return not (self.folder / LEDGER).is_file() or any(
            os.path.lexists(self.folder / name) for name in self._written
        )

    def wrote(self, path: Path, content: str | None = None) -> bool:
        """Whether a file of this name was ever written, with this content, or whatever it held."""
        known = self._written.get(self._name(path), set())
        return bool(known) if content is None else _checksum(content) in known

    def adopt(self, path: Path) -> None:
        """A file that was changed in a way that is no change is the program's again."""
        if not self._is_unchanged(path):
            self._claim(self._name(path), sha256(path))

    def note(self, path: Path, content: str) -> None:
        """Another form of what was written is known as that, see :meth:`wrote`."""
        self._claim(self._name(path), _checksum(content))

    def remove_all(self) -> None:
        """Remove a folder that was checked; at no time are its remains where it was."""
        if self.folder.exists():
            with partial_folder(self.folder.parent) as place:
                self.folder.rename(place / self.folder.name)

    def claim(self, name: str, made_of: dict[str, Any], what: str) -> None:
        """The folder remembers in a file what made the others, and holds those of one making only.

        Raises:
            AttnBridgeError: if it holds those of another, or the file is the user's.
        """
        record = self.folder / name
        self.check([record])
        self._refuse([record], self._is_unchanged, "was changed after attnbridge wrote it")
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
        self._check_way(path)
        with beside(path) as partial:
            yield partial
            self.put(partial, path)

    def put(self, made: Path, path: Path, grown: bool = False) -> None:
        """Move a file to its place, once the ledger names it.

        Args:
            made: the file.
            path: its place.
            grown: the one there was appended to since the ledger named it, so it need not be what was written.

        Raises:
            AttnBridgeError: if another one has come there that is not the program's.
        """
        self.check([path])
        if not grown:
            self.check_unchanged([path])
        self._claim(self._name(path), sha256(made))
        made.replace(path)
        self._stamps[path] = stamp(path)

    def link(self, target: Path, path: Path) -> None:
        """A symbolic link, once the ledger names it; one that was written before is replaced.

        Raises:
            AttnBridgeError: if there is something that is not the program's.
            OSError: where the file system has no links.
        """
        self._check_way(path)
        self.check([path])
        self.check_unchanged([path])
        self._claim(self._name(path), _link_checksum(str(target)))
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files that hold what the program wrote; others stay."""
        for path in paths:
            if os.path.lexists(path):
                self.check([path])
                self.check_unchanged([path])
                path.unlink()

    def lost(self) -> list[Path]:
        """Files that were written and are not there any more."""
        return [self.folder / name for name in self._written if not (self.folder / name).is_file()]

    def only(self, path: Path) -> OwnFiles:
        """What is known of one file, small enough to be sent to another process."""
        name = self._name(path)
        return OwnFiles(self.folder, {name: self._written[name]} if name in self._written else {})

    def _name(self, path: Path) -> str:
        return inner_path(path.relative_to(self.folder).as_posix(), str(self.folder))

    def _is_known(self, path: Path) -> bool:
        return self._is_unchanged(path) if path.is_symlink() else self._name(path) in self._written

    def _is_replaceable(self, path: Path) -> bool:
        return self._is_unchanged(path) or (self._is_known(path) and path.is_file() and path.stat().st_size == 0)

    def _is_unchanged(self, path: Path) -> bool:
        if path.is_symlink():
            return _link_checksum(str(path.readlink())) in self._written.get(self._name(path), ())
        if not path.is_file():
            return False
        if self._stamps.get(path) == stamp(path):  # this process wrote it last
            return True
        return sha256(path) in self._written.get(self._name(path), ())

    def _refuse(self, paths: Iterable[Path], fine: Callable[[Path], bool], words: str) -> None:
        wanted = list(paths)
        for one in {path.parent: path for path in wanted}.values():  # of each folder
            self._check_way(one)
        there = [path for path in wanted if os.path.lexists(path)]
        if all(map(fine, there)):
            return
        self._written = self._read()  # another process may have written some of them since
        strange = [path for path in there if not fine(path)]
        if strange:
            more = f" ({len(strange)} such files in all)" if len(strange) > 1 else ""
            raise AttnBridgeError(
                f"{strange[0]}: {words} and would be overwritten{more}; name another folder with --out, or move it "
                f"away (a folder that was copied needs its hidden {LEDGER}, too)"
            )

    def _check_way(self, path: Path) -> None:
        """That no link leads out of the folder on the way to a file."""
        place = path.parent
        while place != self.folder and place != place.parent:
            if place.is_symlink() and not place.resolve().is_relative_to(self.folder.resolve()):
                raise AttnBridgeError(
                    f"{place}: is a link out of {self.folder}, where nothing is written; move it away, or name another "
                    "folder with --out"
                )
            place = place.parent

    def _parts(self) -> list[tuple[OwnFiles, list[Path]]]:
        """The files of the folder by the ledger that they are in: its own, or that of a folder in it."""
        parts: dict[Path, tuple[OwnFiles, list[Path]]] = {}
        for name, folders, files in os.walk(self.folder):
            place = Path(name)
            known = place != self.folder and not (place / LEDGER).is_file()
            parts[place] = parts[place.parent] if known else (OwnFiles(place), [])
            links = [link for link in folders if (place / link).is_symlink()]
            parts[place][1].extend(place / name for name in [*files, *links] if not _is_ours(name))
            folders[:] = [folder for folder in folders if not _is_ours(folder)]
        return list({id(part): part for part in parts.values()}.values())

    def _read(self) -> dict[str, set[str]]:
        """Checksums of all that was ever written under each name; a line that a kill cut off is passed over.

        Raises:
            AttnBridgeError: for something else.
        """
        written: dict[str, set[str]] = {}
        ledger = self.folder / LEDGER
        if not os.path.lexists(ledger):
            return written
        for number, line in enumerate(read_text(ledger).split("\n"), 1):
            try:
                entry = json.loads(line or "null")
            except ValueError:
                entry = None if line.startswith(_LINE) or _LINE.startswith(line) else line
            if entry is None:
                continue
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("file", "sha256")):
                raise AttnBridgeError(
                    f"{ledger}: line {number} was not written by attnbridge; move it away, or name another folder "
                    "with --out"
                )
            written.setdefault(inner_path(entry["file"], f"{ledger}: line {number}"), set()).add(entry["sha256"])
        return written

    def _claim(self, name: str, checksum: str) -> None:
        line = json.dumps({"file": name, "sha256": checksum})
        with (self.folder / LEDGER).open("a") as ledger:
            ledger.write(f"\n{line}")  # so that a line that was cut off ends here
        self._written.setdefault(name, set()).add(checksum)


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def check_own_file(path: Path) -> None:
    """Check a file that is to be written by :func:`own_file`, before anything is.

    Raises:
        AttnBridgeError: if it is the user's.
    """
    own = OwnFiles(path.parent)
    own.check([path])
    own.check_unchanged([path])


def own_file(path: Path) -> AbstractContextManager[Path]:
    """A file to write that takes the place of ``path`` at the end, if that is the program's own or not there; the
    ledger lies beside it."""
    return OwnFiles(path.parent).writing(path)


@dataclass
class Stages:
    """Which stages are done, and from what: ``pipeline.json``.

    Attributes:
        out: folder of the pipeline.
        replaces: a stage that was made of something else is made again; else that is an error.
    """

    out: Path
    replaces: bool = False

    def run(self, name: str, made_of: dict[str, Any], make: Callable[[Path], None]) -> str:
        """Make ``out/name``, unless it is whole and made of the same; one that was made of something else goes first.

        Returns:
            What stands for the stage in the next one's ``made_of``.

        Raises:
            AttnBridgeError: for a folder that is not the pipeline's, or that may not be replaced, or that holds files
                of the user's.
        """
        text = json.dumps(made_of, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder, known = self.out / name, self._read()
        before = known.get(name, {})
        if before.get("key") == key and before.get("done") and folder.is_dir():
            console.print(f"[bold]{name}[/]: there already, in {folder}")
            return key
        if not before and _holds_something(folder):
            raise AttnBridgeError(f"{folder}: is there, but not made by this pipeline; name another folder with --out")
        if before and before.get("key") != key and _holds_something(folder):
            self._replace(name, known, difference(before.get("made_of"), json.loads(text)))
        entry = {"key": key, "made_of": json.loads(text)}
        self._write({**known, name: {**entry, "done": False}})
        console.print(f"[bold]{name}[/]")
        make(folder)
        self._write({**self._read(), name: {**entry, "done": True}})
        return key

    def _replace(self, name: str, known: dict[str, Any], changed: str) -> None:
        folder = self.out / name
        if not self.replaces:
            raise AttnBridgeError(
                f"{folder}: was made with {changed}; name another folder with --out, or have this one made again: "
                "`attnbridge pipeline` does so with --replace"
            )
        for each in known:  # all that will be replaced, before the first is
            OwnFiles(self.out / each).check_all()
        console.print(f"[bold]{name}[/]: was made with {changed}")
        OwnFiles(folder).remove_all()

    def _read(self) -> dict[str, Any]:
        path = self.out / STAGES
        known = read_json(path) if os.path.lexists(path) else {}
        if not isinstance(known, dict) or not all(isinstance(entry, dict) for entry in known.values()):
            raise AttnBridgeError(f"{path}: does not say which stages are done; name another folder with --out")
        return known

    def _write(self, known: dict[str, Any]) -> None:
        with own_file(self.out / STAGES) as partial:
            partial.write_text(json.dumps(known, indent=1))


def difference(before: Any, now: Any, name: str = "") -> str:
    """The first thing that differs between what something was made of and what it would be made of, in words.

    >>> difference({"config": {"seed": 0}, "images": ["a 3"]}, {"config": {"seed": 1}, "images": ["b 3"]})
    'config.seed = 0, not 1'
    >>> difference({"images": ["a 3"]}, {"images": ["a 3", "b 3"]})
    'other images, as b 3'
    """
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in [*now, *before] if before.get(key) != now.get(key))
        return difference(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    if isinstance(before, list) and isinstance(now, list):
        one, other = ({json.dumps(each, sort_keys=True): each for each in each_list} for each_list in (before, now))
        odd = [*(v for k, v in other.items() if k not in one), *(v for k, v in one.items() if k not in other)]
        return f"other {name}, as {odd[0]}" if odd else f"{name} in another order"
    return f"{name} = {before!r}, not {now!r}" if name else "other options or images"


def _link_checksum(target: str) -> str:
    return hashlib.sha256(os.fsencode(f"link to {target}")).hexdigest()


def _is_ours(name: str) -> bool:
    """Whether a name is of those that only this program gives, whatever the folder."""
    return name in (LEDGER, LOCK) or PARTIAL.fullmatch(name) is not None


def _holds_something(folder: Path) -> bool:
    return os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))


def file_stamps(folder: Path) -> list[str]:
    """Of all files in a folder; none if it is no folder."""
    return [stamp(path) for path in walk_files(folder) if path.is_file()] if folder.is_dir() else []


def stamp(path: Path) -> str:
    """Name, size and time of change of a file."""
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"
