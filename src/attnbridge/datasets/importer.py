"""Bring a public data set, or a table of one's own, into a layout that training reads."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbridge.data.files import given_path, inner_path
from attnbridge.data.labels import read_labels
from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.text import read_json
from attnbridge.data.voc import VOC_CLASSES, list_names, scan_voc
from attnbridge.datasets import PublicSet, find_set, how_to_get, load, resolve_split
from attnbridge.datasets.layouts import check_voc, write_class_folders, write_voc
from attnbridge.errors import AttnBridgeError

RECORD = "imports.json"
"""In a folder of VOC's layout that was written here: what its splits were made from."""


@dataclass(frozen=True)
class ImportResult:
    """What an import made.

    Attributes:
        folder: the data set, for ``data.source`` or ``data.target``.
        kind: see :class:`attnbridge.datasets.PublicSet`.
        split: its name.
        counts: images of each class, in index order.
        images: their number.
    """

    folder: Path
    kind: str
    split: str
    counts: dict[str, int]
    images: int


def import_dataset(
    name: str,
    root: Path,
    out: Path | None = None,
    split: str | None = None,
    classes: str | None = None,
    download: bool = False,
) -> ImportResult:
    """Bring one split into a layout that training reads. A second call with the same arguments gives the same.

    Args:
        name: in :data:`attnbridge.datasets.SETS`.
        root: the set's folder, in its own layout; where it is fetched to.
        out: folder to write; not for VOC, which is read where it lies. VOC 2012's kit for SBD.
        split: ``None`` for the set's first.
        classes: name of a mapping, ``None`` for the set's own classes.
        download: fetch the set first, where the table names a function for it.

    Raises:
        AttnBridgeError: for an unknown name, a folder that does not hold the set, and what is wrong with its files.
    """
    split = inner_path(resolve_split(name, split, classes), "--split")
    root, out = given_path(root, "ROOT"), None if out is None else given_path(out, "--out")
    entry = find_set(name)
    if entry.kind in ("class folders", "voc"):
        _check_out(name, root, out)
    if download:
        if entry.download is None:
            raise AttnBridgeError(f"{name} cannot be fetched by a program\n{how_to_get(name)}")
        _told(name, load(name, entry.download), root, split)
    if not root.is_dir():
        raise AttnBridgeError(f"{root}: no such folder\n{how_to_get(name)}")
    if entry.kind in ("into VOC2012", "in place"):
        kit = _told(name, load(name, entry.function), root, split, out)
        records = scan_voc(kit, VOC_CLASSES, split)
        found = Counter(VOC_CLASSES[k] for record in records for k in record.classes)
        return ImportResult(kit, entry.kind, split, {c: found[c] for c in VOC_CLASSES}, len(records))
    assert out is not None
    if entry.kind == "voc":
        with owned(out, RECORD) as own:
            return _bring_voc(name, root, own, split, classes)
    names, class_folder_images = _told(name, load(name, entry.function), root, split, classes)
    with owned(out, RECORD):
        counts = write_class_folders(class_folder_images, out)
    if not counts:
        raise AttnBridgeError(f"{root}: no image of {name} was found\n{how_to_get(name)}")
    return ImportResult(out, entry.kind, split, {c: counts.get(c, 0) for c in names}, sum(counts.values()))


def _check_out(name: str, root: Path, out: Path | None) -> None:
    if out is None:
        raise AttnBridgeError(f"--out is missing: {name} is written in another layout, so name a folder for it")
    if out.resolve().is_relative_to(root.resolve()):
        raise AttnBridgeError(f"{out}: lies in {root}, which is read; name another folder for --out")


def _told(name: str, call: Any, *arguments: Any) -> Any:
    """Call a set's function; an error says also where to get the set."""
    try:
        return call(*arguments)
    except AttnBridgeError as error:
        raise AttnBridgeError(f"{error}\n{how_to_get(name)}") from None


def _bring_voc(name: str, root: Path, own: OwnFiles, split: str, classes: str | None) -> ImportResult:
    """The claim on the split is written first and completed last, so that an interrupted import is made again."""
    entry, out = find_set(name), own.folder
    records = _records(own)
    claim = {"set": name, "root": str(root.resolve()), "classes": classes}
    files = _stamps(entry, root, split)
    listed = out / "ImageSets" / "Segmentation" / f"{split}.txt"
    old = records.get(split)
    if listed.is_file() and old is not None:
        if {key: old.get(key) for key in claim} != claim:
            raise AttnBridgeError(
                f"{listed}: was made from {old.get('set')} in {old.get('root')} with --classes {old.get('classes')}; "
                "name another folder for --out"
            )
        if files and old.get("files") == files:
            return _counted(out, split)
    names, multis = _told(name, load(name, entry.function), root, split, classes)
    check_voc(own, split)
    _record(own, records | {split: claim | {"files": None}})
    write_voc(multis, out, split, names)
    _record(own, records | {split: claim | {"files": files}})
    return _counted(out, split)


def _records(own: OwnFiles) -> dict[str, Any]:
    out, path = own.folder, own.folder / RECORD
    if not path.exists():
        for place in ("ImageSets", "labels.csv", "SegmentationClass", "JPEGImages"):
            if (out / place).exists():
                raise AttnBridgeError(
                    f"{out / place}: is of a data set that `attnbridge data import` did not write; name another folder "
                    "for --out"
                )
        return {}
    own.check([path])
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(record, dict) for record in found.values()):
        raise AttnBridgeError(f"{path}: does not say what was imported; remove {out} and import again")
    return found


def _record(own: OwnFiles, records: dict[str, Any]) -> None:
    with own.writing(own.folder / RECORD) as partial:
        partial.write_text(json.dumps(records, indent=2) + "\n")


def _stamps(entry: PublicSet, root: Path, split: str) -> list[list[Any]]:
    """Name, size and time of the files that say what a set holds."""
    found = sorted({path for glob in entry.tables for path in root.glob(glob.format(split=split))})
    return [[path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in found]


def _counted(out: Path, split: str) -> ImportResult:
    labels, wanted = read_labels(out / "labels.csv"), set(list_names(out, split))
    sums = Counter(k for name in wanted for k in labels.present.get(name, ()))
    return ImportResult(out, "voc", split, {name: sums[k] for k, name in enumerate(labels.classes)}, len(wanted))
