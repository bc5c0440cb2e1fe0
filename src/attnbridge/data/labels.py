"""``labels.csv``: which classes an image shows; and the images that are named in lists. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from attnbridge.data.images import IMAGE_SUFFIXES
from attnbridge.data.text import read_table
from attnbridge.errors import AttnBridgeError, warn_once

HEADER = "id,CLASS,..."


@dataclass(frozen=True)
class Labels:
    """What a table of labels says.

    Attributes:
        classes: its columns after ``id``.
        present: indices of the classes of each image, by its id.
        lines: of each id.
    """

    classes: tuple[str, ...]
    present: dict[str, tuple[int, ...]]
    lines: dict[str, int]


def read_labels(path: Path) -> Labels:
    """A table with the header ``id,CLASS,CLASS,...`` and a row of 0 and 1 for each image.

    An id that is there twice with the same labels, and names that differ only in upper and lower case, are warned of.

    Raises:
        AttnBridgeError: see :func:`~attnbridge.data.text.read_table`; for another header, a cell that is neither 0 nor
            1, a row without id, or two rows of one id that contradict each other.
    """
    if not path.is_file():
        raise AttnBridgeError(f"{path}: no such file; expected a header {HEADER!r} and a row per image")
    found = path.stat()
    return _read(path, found.st_mtime_ns, found.st_size)


@lru_cache(16)
def _read(path: Path, _changed: int, _size: int) -> Labels:
    names, rows = read_table(path, HEADER)
    if names[0] != "id":
        raise AttnBridgeError(f"{path}, line 1: expected a header {HEADER!r}, found {','.join(names)[:200]!r}")
    if len(names) < 2:
        raise AttnBridgeError(f"{path}, line 1: expected a header {HEADER!r}, but there is no class beside the id")
    labels = Labels(tuple(names[1:]), {}, {})
    for line, (identity, *cells) in rows:
        where = f"{path}, line {line}"
        if not identity:
            raise AttnBridgeError(f"{where}: has no id; expected the name of an image without suffix")
        for name, cell in zip(labels.classes, cells, strict=True):
            if cell not in ("0", "1"):
                raise AttnBridgeError(f"{where}: expected 0 or 1, found {cell[:80]!r} for {name!r}")
        present = tuple(k for k, cell in enumerate(cells) if cell == "1")
        before = labels.present.setdefault(identity, present)
        if before != present:
            raise AttnBridgeError(
                f"{where}: contradicts line {labels.lines[identity]}, which has other labels for {identity!r}; "
                "take one of them out"
            )
        if identity in labels.lines:
            warn_once(f"{where}: {identity!r} is there twice; first in line {labels.lines[identity]}")
        labels.lines.setdefault(identity, line)
    warn_of_case(labels.classes, path)
    warn_of_case(labels.present, path)
    return labels


def warn_of_case(names: Iterable[str], where: Path) -> None:
    """Warn of names that differ only in upper and lower case: on some systems they are one file."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            warn_once(f"{where}: {other!r} and {name!r} differ only in upper and lower case; are they meant to be two?")
            return


def images_by_id(folder: Path) -> dict[str, list[str]]:
    """Names of the image files directly in a folder by their stems; hidden ones are passed over."""
    found: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a hundred thousand paths take their time)
        if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
            found.setdefault(stem, []).append(name)
    return found


def image_of(folder: Path, identity: str, images: dict[str, list[str]], where: str) -> Path:
    """The image that a list names.

    Args:
        folder: of the images.
        identity: the name, without suffix.
        images: of :func:`images_by_id`.
        where: the list, and the line if there is one.

    Raises:
        AttnBridgeError: if there is none of this name, or two with different suffixes.
    """
    names: Sequence[str] = images.get(identity, ())
    if not names:
        raise AttnBridgeError(f"{where}: no image {identity!r} in {folder}{_hint(identity, images)}")
    if len(names) > 1:
        raise AttnBridgeError(
            f"{folder}: {names[0]} and {names[1]} both are the image {identity!r} of {where}; take one of them out"
        )
    return folder / names[0]


def _hint(identity: str, images: dict[str, list[str]]) -> str:
    """What may have been meant."""
    if Path(identity).suffix.lower() in IMAGE_SUFFIXES:
        return "; names are written without suffix"
    if set(identity) & set("/\\"):
        return "; names are written without folders"
    near = next((name for name in images if name.casefold() == identity.casefold()), None)
    return f"; there is {near!r}: upper and lower case count" if near else ""
