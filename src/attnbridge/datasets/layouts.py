"""The two layouts that training reads, written as links to the images where they lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from attnbridge.data.files import inner_path, make_folder
from attnbridge.data.palette import palette_png
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.text import read_rows, read_table, write_rows
from attnbridge.errors import AttnBridgeError

console = Console(stderr=True)
Mask = np.ndarray[Any, Any]
VOID = "void"
"""In a mapping: pixels of this label are ignored (255)."""


@dataclass(frozen=True)
class LabelledImage:
    """An image of one class.

    Attributes:
        label: the class, by the name that it will have.
        image: where the image lies.
        name: file name that it gets, without suffix, unique in its class.
    """

    label: str
    image: Path
    name: str


@dataclass(frozen=True)
class MultiLabelImage:
    """An image of several classes.

    Attributes:
        id: its name in lists, without suffix.
        image: where the image lies.
        labels: names of the classes in it.
        mask: its label mask, uint8, 0 background, k the k-th class, 255 ignored; or ``None``.
    """

    id: str
    image: Path
    labels: frozenset[str]
    mask: Mask | None = None


def write_class_folders(found: Iterable[LabelledImage], out: Path, expected: int | None = None) -> dict[str, int]:
    """``OUT/CLASS/NAME.jpg``, a link each; what is there stays, so several sets can go into one folder.

    Returns:
        Number of images written or found there, by class, sorted by name.

    Raises:
        AttnBridgeError: if nothing was found, or another image has one's name.
    """
    own = OwnFiles(out)
    counts: dict[str, int] = {}
    for one in track(found, "linking", expected, transient=True, console=console):
        inner_path(one.label, f"{one.image}: its class")
        link(one.image, out / one.label / (one.name + one.image.suffix.lower()), own)
        counts[one.label] = counts.get(one.label, 0) + 1
    if not counts:
        raise AttnBridgeError(f"no image was found for {out}")
    return dict(sorted(counts.items()))


def check_voc(own: OwnFiles, split: str) -> None:
    """That what :func:`write_voc` replaces is the program's own, before anything is written.

    Raises:
        AttnBridgeError: for files of the user's, or that were changed.
    """
    out = own.folder
    places = [out / "labels.csv", _list(out, split), *sorted((out / "SegmentationClass").glob("*"))]
    own.check(places)
    own.check_unchanged(places)


def _list(out: Path, split: str) -> Path:
    return out / "ImageSets" / "Segmentation" / f"{split}.txt"


def write_voc(
    found: Iterable[MultiLabelImage], out: Path, split: str, classes: Sequence[str], expected: int | None = None
) -> dict[str, int]:
    """A split in VOC's layout: images as links, masks as palette PNGs, ``labels.csv``, and the list last.

    Splits that are there stay; ``labels.csv`` gains rows. Since the list comes last, a split that was interrupted is
    not there yet, and the same call makes it.

    Returns:
        Number of images by class.

    Raises:
        AttnBridgeError: if the folder holds other classes, or nothing was found.
    """
    own, table = OwnFiles(out), out / "labels.csv"
    rows = _rows(table, classes)
    names = []
    counts = dict.fromkeys(classes, 0)
    for one in track(found, f"writing {split}", expected, transient=True, console=console):
        link(one.image, out / "JPEGImages" / (one.id + one.image.suffix.lower()), own)
        if one.mask is not None:
            with own.writing(out / "SegmentationClass" / f"{one.id}.png") as partial:
                palette_png(one.mask).save(partial, "PNG")
        rows[one.id] = [str(int(name in one.labels)) for name in classes]
        names.append(one.id)
        for name in one.labels:
            counts[name] += 1
    if not names:
        raise AttnBridgeError(f"{split}: no image was found for {out}")
    with own.writing(table) as partial:
        write_rows(partial, [["id", *classes], *([name, *row] for name, row in rows.items())])
    with own.writing(_list(out, split)) as partial:
        partial.write_text("".join(f"{name}\n" for name in names))
    return counts


def _rows(table: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Rows of an earlier call."""
    if not table.is_file():
        return {}
    header, rows = read_table(table, "id,CLASS,...")
    if header != ["id", *classes]:
        raise AttnBridgeError(f"{table}: is of the classes {', '.join(header[1:])}; name another folder for --out")
    return {row[0]: row[1:] for _, row in rows}


def link(image: Path, to: Path, own: OwnFiles) -> None:
    """A symbolic link to an image, or a copy where the file system has none.

    A link that was written here and leads to nothing any more, since the set was moved, is replaced.

    Raises:
        AttnBridgeError: if another file has that name.
    """
    make_folder(to.parent)
    wanted = Path(os.path.realpath(image))
    if to.is_symlink() and not to.exists():
        own.check([to])
    elif os.path.lexists(to):
        if Path(os.path.realpath(to)) == wanted or (not to.is_symlink() and to.stat().st_size == wanted.stat().st_size):
            return
        raise AttnBridgeError(
            f"{to}: is there already and is not {image}; two images of the set have one name, or the folder holds "
            "another set: name another one for --out"
        )
    try:
        own.link(wanted, to)
    except OSError:
        with own.writing(to) as partial:
            shutil.copyfile(wanted, partial)


def read_mapping(name: str) -> dict[str, str]:
    """A mapping of the package, ``data/sets/mappings/NAME.csv``: label of the set to class, in the file's order.

    Labels that the file does not name have no class. Lines that begin with ``#`` are remarks.
    """
    with as_file(files("attnbridge.datasets") / "mappings" / f"{name}.csv") as path:
        rows = [row for row in read_rows(path, ",") if not row[0].startswith("#")]
    return {label.strip(): own.strip() for label, own, *_ in rows[1:]}
