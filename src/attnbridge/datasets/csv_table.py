"""Images of the user's own with several labels each, named in one table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attnbridge.data.folders import images_below
from attnbridge.data.images import IMAGE_SUFFIXES
from attnbridge.data.labels import warn_of_case
from attnbridge.data.text import read_lines, read_table
from attnbridge.datasets.ids import plain_ids
from attnbridge.datasets.layouts import MultiLabelImage
from attnbridge.errors import AttnBridgeError, unknown_name, warn_once

HEADER = "id,CLASS,CLASS,... or image,labels"
LABEL_COLUMNS = ("labels", "label", "classes", "class", "tags")
"""A table of two columns whose second is named so holds lists of labels."""
Rows = list[tuple[int, str, frozenset[str]]]
"""Line, image's name in the table, labels."""


def table(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[MultiLabelImage]]:
    """The images of a table of labels, in its order, without masks.

    Layout: images anywhere below ``ROOT``, and ``ROOT/SPLIT.csv``, or ``ROOT/labels.csv``, or the only CSV there.
    Either a column for each class, ``id,CLASS,CLASS,...`` and rows of 0 and 1; or two columns, ``image,labels``, where
    ``;``, ``|`` or ``,`` (in quotes) separate the labels, or white space if none of these is in the whole table.
    The columns may be separated by semicolons or tabs. The first column is the path below ``ROOT``, or the file's name
    where only one image has it, with or without suffix. Images without a row are left out.

    Classes are the columns' names, or ``ROOT/classes.txt``, one a line, or the labels that occur, sorted.

    Raises:
        AttnBridgeError: for a missing table, a malformed row, an unknown class, an image that is not there, is there
            twice, or has two rows.
    """
    path = _table(root, split)
    names, rows = read_label_table(path, root / "classes.txt")
    images = _images(root)
    found: dict[str, tuple[int, Path, frozenset[str]]] = {}
    for line, name, labels in rows:
        image = _image(images, name, f"{path}, line {line}", root)
        key = image.relative_to(root).as_posix()
        if key in found:
            raise AttnBridgeError(f"{path}, line {line}: {key} has a row already, in line {found[key][0]}; keep one")
        found[key] = line, image, labels
    if not found:
        raise AttnBridgeError(f"{path}: has no row after the header")
    left = sorted({path for paths in images.values() for path in paths} - {image for _, image, _ in found.values()})
    if left:
        warn_once(f"{left[0]}: has no row in {path}, so it is left out ({len(left)} such images in all)")
    never = [name for name in names if not any(name in labels for _, _, labels in found.values())]
    if never:
        warn_once(f"{path}: no image shows {', '.join(never[:10])}; a class that never occurs cannot be learnt")
    ids = plain_ids(found, root)
    return names, (MultiLabelImage(ids[key], image, labels) for key, (_, image, labels) in found.items())


def _table(root: Path, split: str) -> Path:
    for path in (root / f"{split}.csv", root / "labels.csv"):
        if path.is_file():
            return path
    there = sorted(p for p in root.glob("*.csv") if not p.name.startswith("."))
    if len(there) == 1:
        return there[0]
    if there:
        raise unknown_name(f"table in {root}:", f"{split}.csv", [p.name for p in there], "name a split after its table")
    raise AttnBridgeError(f"{root / 'labels.csv'}: no such file; expected a table of the images' labels")


def read_label_table(path: Path, listed: Path) -> tuple[tuple[str, ...], Rows]:
    """Classes and rows of a table of labels, see :func:`table`; ``listed`` is the file that may name the classes."""
    header, lines = read_table(path, HEADER)
    if len(header) < 2:
        raise AttnBridgeError(f"{path}, line 1: expected a header {HEADER!r}, found {header[0][:200]!r} alone")
    warn_of_case(header, path)
    for line, row in lines:
        if not row[0]:
            raise AttnBridgeError(f"{path}, line {line}: has no image; expected its name in the first column")
    if len(header) == 2 and header[1].lower() in LABEL_COLUMNS:
        return _label_lists(path, lines, listed)
    return tuple(header[1:]), [(n, row[0], _of_columns(row, header, f"{path}, line {n}")) for n, row in lines]


def _of_columns(row: list[str], header: list[str], where: str) -> frozenset[str]:
    for name, cell in zip(header[1:], row[1:], strict=True):
        if cell not in ("0", "1"):
            hint = "; a column of labels must be named 'labels'" if len(header) == 2 else ""
            raise AttnBridgeError(f"{where}: expected 0 or 1 for {name!r}, found {cell!r}{hint}")
    return frozenset(name for name, cell in zip(header[1:], row[1:], strict=True) if cell == "1")


def _label_lists(path: Path, lines: list[tuple[int, list[str]]], listed: Path) -> tuple[tuple[str, ...], Rows]:
    separators = r"[;|,]" if any(set(row[1]) & set(";|,") for _, row in lines) else r"\s"
    rows = [
        (line, row[0], frozenset(label.strip() for label in re.split(separators, row[1]) if label.strip()))
        for line, row in lines
    ]
    if listed.is_file():
        names = tuple(dict.fromkeys(line for _, line in read_lines(listed)))
    else:
        names = tuple(sorted({label for _, _, labels in rows for label in labels}))
    warn_of_case(names, path)
    for line, _, labels in rows:
        for label in sorted(labels - {*names}):
            raise unknown_name(f"class in {path}, line {line}:", label, names, f"{listed} does not name it")
    return names, rows


def _images(root: Path) -> dict[str, list[Path]]:
    """The images below a folder by all names that a row may give them; hidden ones are passed over."""
    named: dict[str, list[Path]] = {}
    for path in images_below(root):
        below = path.relative_to(root)
        for name in {below.as_posix(), below.with_suffix("").as_posix(), path.name, path.stem}:
            named.setdefault(name, []).append(path)
    return named


def _image(named: dict[str, list[Path]], name: str, where: str, root: Path) -> Path:
    wanted = Path(name.replace("\\", "/")).as_posix()
    if (root / wanted) in named.get(wanted, []):  # the path itself, before other folders' files of that name
        return root / wanted
    bare = Path(wanted).with_suffix("").as_posix() if Path(wanted).suffix.lower() in IMAGE_SUFFIXES else wanted
    found = named.get(wanted) or named.get(bare, [])
    exact = [path for path in found if path.relative_to(root).with_suffix("").as_posix() == bare]
    found = exact or found
    if not found:
        raise AttnBridgeError(f"{where}: no image {name!r} below {root}")
    if len(found) > 1:
        raise AttnBridgeError(f"{where}: {name!r} may be {found[0]} or {found[1]}; give the path below {root}")
    return found[0]
