"""Verify a data set: counts per class and split, and every file that training would stumble over."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from attnbridge.data.doubts import warn_of_twins
from attnbridge.data.files import atomic_write, cache_dir
from attnbridge.data.folders import class_names, list_images, scan_class_folders, scan_multi_label
from attnbridge.data.images import ImageRecord, image_size_of, load_image
from attnbridge.data.labels import read_labels
from attnbridge.data.masks import examine_mask
from attnbridge.data.text import read_cache
from attnbridge.data.voc import is_voc, kit_classes, list_folders, scan_voc
from attnbridge.datasets import detect_layout
from attnbridge.datasets.class_folders import list_folders as folders_in
from attnbridge.errors import AttnBridgeError, gathering, warn_once

console = Console(stderr=True)
CHECKS = 2
"""Raised when more is looked for in a file."""
SPLITS = ("train", "val", "validation", "test")
IMAGE_FOLDERS, OTHER_FOLDERS = {"images", "JPEGImages"}, {"masks", "SegmentationClass", "saliency"}
"""Folders of a split with ``labels.csv``."""


@dataclass
class Check:
    """What was found.

    Attributes:
        classes: class names in index order.
        counts: images of each class, by split.
        images: number of images, by split.
        problems: one line each.
    """

    classes: tuple[str, ...]
    counts: dict[str, Counter[int]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check_set(root: Path) -> Check:
    """Open every file of a data set.

    Admitted are class folders, with or without a folder for each split, folders of splits with ``labels.csv``, and
    VOC's layout. Files that were fine are not opened again while their size and time stay.

    Raises:
        AttnBridgeError: if the folder has none of these layouts.
    """
    classes, splits = _splits(root)
    check = Check(classes)
    memory = cache_dir("checks", hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:16] + ".json")
    fine: dict[str, Any] = read_cache(memory, dict) or {}
    scanned: dict[str, list[ImageRecord]] = {}
    for split, scan in splits:
        faults: list[str] = []
        records: list[ImageRecord] | None = None
        with gathering(faults):
            records = scan(faults)
        check.problems += [f"{split}: {fault}" for fault in dict.fromkeys(faults)]
        if records is None:
            continue
        check.counts[split] = Counter(c for record in records for c in record.classes)
        check.images[split], scanned[split] = len(records), [r for r in records if _can_be_read(r.image)]
        check.problems += [f"{split}: class {name} has no image"
                           for i, name in enumerate(classes) if not check.counts[split][i]]  # fmt: skip
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda record: _examine(record, classes, fine), records)
            for problems in track(found, f"checking {split}", len(records), transient=True, console=console):
                check.problems += problems
    if len(check.counts) > 1:
        total = sum(check.counts.values(), Counter())
        check.problems += [f"class {name} has no image in any split" for i, name in enumerate(classes) if not total[i]]
    if not is_voc(root):  # whose lists share images
        warn_of_twins(scanned)
    with atomic_write(memory) as partial:
        partial.write_text(json.dumps(fine))
    return check


Scan = Callable[[list[str]], list[ImageRecord]]
"""Gives the records of a split; what is wrong with single images is added to the list."""


def _splits(root: Path) -> tuple[tuple[str, ...], list[tuple[str, Scan]]]:
    """The classes, and what lists each split."""
    if is_voc(root):
        classes = kit_classes(root)
        lists = sorted(p.stem for p in next(f for f in list_folders(root) if f.is_dir()).glob("*.txt"))
        has_mask = {
            p.stem for part in ("SegmentationClassAug", "SegmentationClass") for p in (root / part).glob("*.png")
        }

        def voc(name: str, faults: list[str]) -> list[ImageRecord]:
            plain = scan_voc(root, classes, name, faults=faults)
            masked = all(record.image.stem in has_mask for record in plain)
            return scan_voc(root, classes, name, masks=True, faults=faults) if masked else plain

        return classes, [(name, partial(voc, name)) for name in lists]
    own = detect_layout(root)
    if own is not None:
        command = f"attnbridge data import {own} {shlex.quote(str(root))} --out FOLDER"
        raise AttnBridgeError(f"{root}: this is {own}'s own layout; bring it in with `{command}`")
    there = [name for name in SPLITS if (root / name).is_dir()]
    if there and ((root / there[0] / "labels.csv").is_file() or any(_is_labelled(root / name) for name in there)):
        classes = _classes_of([root / name / "labels.csv" for name in there])

        def labelled(name: str, faults: list[str]) -> list[ImageRecord]:
            masks = any((root / name / part).is_dir() for part in ("masks", "SegmentationClass"))
            return scan_multi_label(root / name, classes, masks, faults)

        return classes, [(name, partial(labelled, name)) for name in there]
    if not there and _is_labelled(root):
        raise AttnBridgeError(
            f"{root}: is a split, no set of them; give the folder that holds it as train/, val/ or test/"
        )
    parts = there or ["."]
    classes = tuple(dict.fromkeys(name for part in parts for name in class_names(root / part)))
    if not any(list_images(root / part / name) for part in parts for name in classes if (root / part / name).is_dir()):
        raise AttnBridgeError(
            f"{root}: is no data set; expected class folders, splits with labels.csv, or VOC's layout"
        )

    def class_folders(part: str, _: list[str]) -> list[ImageRecord]:
        return scan_class_folders(root / part, classes)

    return classes, [(part, partial(class_folders, part)) for part in parts]


def _is_labelled(folder: Path) -> bool:
    """Whether a folder's own folders are those of a split with ``labels.csv``, be that there or not."""
    names = {path.name for path in folders_in(folder)} if folder.is_dir() else set()
    return bool(names & IMAGE_FOLDERS) and (names <= IMAGE_FOLDERS or bool(names & OTHER_FOLDERS))


def _classes_of(tables: Sequence[Path]) -> tuple[str, ...]:
    """The classes by the first table that can be read; what is wrong with the others is told with their splits.

    Raises:
        AttnBridgeError: if there is none; what is wrong with the first.
    """
    faults: list[str] = []
    for table in tables:
        with gathering(faults):
            return read_labels(table).classes
    raise AttnBridgeError(faults[0])


def _can_be_read(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _examine(record: ImageRecord, classes: Sequence[str], fine: dict[str, Any]) -> list[str]:
    """What is wrong with one image, its mask and its labels."""
    files = [path for path in (record.image, record.mask, record.saliency) if path is not None]
    stamp = [_size_and_time(path) for path in files] + [list(record.classes), CHECKS]
    if fine.get(str(record.image)) == stamp:
        return []
    problems: list[str] = []
    size = None
    with gathering(problems):
        size = load_image(record.image).size
    if record.mask is not None:
        with gathering(problems):
            problems += _examine_mask(record, record.mask, size, classes)
    if not problems:
        fine[str(record.image)] = stamp
    return problems


def _size_and_time(path: Path) -> list[int]:
    """Nothing where nothing is, as behind a link."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _examine_mask(record: ImageRecord, path: Path, size: tuple[int, int] | None, classes: Sequence[str]) -> list[str]:
    look, own = examine_mask(record, classes), image_size_of(path)
    doubts = dict(look.doubts)
    colours = doubts.pop("colours", None)
    if colours:
        warn_once(colours)
    if size is None or own == size:
        return [*doubts.values()]
    return [f"{path}: is {own[0]}x{own[1]} pixels, but its image is {size[0]}x{size[1]}", *doubts.values()]


def table(check: Check) -> str:
    """Counts of each class and split, as Markdown.

    >>> print(table(Check(("cat",), {"train": Counter({0: 3})}, {"train": 5})))
    | class | train |
    |---|---|
    | cat | 3 |
    | images | 5 |
    """
    head = ["class", *check.counts]
    rows = [[name, *(str(check.counts[s][i]) for s in check.counts)] for i, name in enumerate(check.classes)]
    rows.append(["images", *(str(check.images[s]) for s in check.counts)])
    lines = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
