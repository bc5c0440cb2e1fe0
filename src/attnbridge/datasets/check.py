"""Verify a data set: counts per class and split, and every file that training would stumble over."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from attnbridge.errors import AttnBridgeError, warn_once

console = Console(stderr=True)
CHECKS = 2
"""Raised when more is looked for in a file."""
SPLITS = ("train", "val", "validation", "test")


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
    for split, records in splits:
        if isinstance(records, AttnBridgeError):
            check.problems.append(f"{split}: {records}")
            continue
        check.counts[split] = Counter(c for record in records for c in record.classes)
        check.images[split], scanned[split] = len(records), records
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


def _splits(root: Path) -> tuple[tuple[str, ...], Iterator[tuple[str, list[ImageRecord] | AttnBridgeError]]]:
    """The classes, and the records of each split or what is wrong with it."""
    if is_voc(root):
        classes = kit_classes(root)
        lists = sorted(p.stem for p in next(f for f in list_folders(root) if f.is_dir()).glob("*.txt"))
        has_mask = {
            p.stem for part in ("SegmentationClassAug", "SegmentationClass") for p in (root / part).glob("*.png")
        }

        def voc(name: str) -> list[ImageRecord]:
            plain = scan_voc(root, classes, name)
            masked = all(record.image.stem in has_mask for record in plain)
            return scan_voc(root, classes, name, masks=True) if masked else plain

        return classes, ((name, _tried(voc, name)) for name in lists)
    own = detect_layout(root)
    if own is not None:
        command = f"attnbridge data import {own} {shlex.quote(str(root))} --out FOLDER"
        raise AttnBridgeError(f"{root}: this is {own}'s own layout; bring it in with `{command}`")
    there = [name for name in SPLITS if (root / name).is_dir()]
    if there and (root / there[0] / "labels.csv").is_file():
        classes = read_labels(root / there[0] / "labels.csv").classes
        with_masks = {name: (root / name / "masks").is_dir() for name in there}
        return classes, ((n, _tried(lambda n: scan_multi_label(root / n, classes, with_masks[n]), n)) for n in there)
    parts = there or ["."]
    classes = tuple(dict.fromkeys(name for part in parts for name in class_names(root / part)))
    if not any(list_images(root / part / name) for part in parts for name in classes if (root / part / name).is_dir()):
        raise AttnBridgeError(
            f"{root}: is no data set; expected class folders, splits with labels.csv, or VOC's layout"
        )
    return classes, ((part, _tried(lambda part: scan_class_folders(root / part, classes), part)) for part in parts)


def _tried(scan: Any, name: str) -> list[ImageRecord] | AttnBridgeError:
    try:
        found: list[ImageRecord] = scan(name)
    except AttnBridgeError as error:
        return error
    return found


def _examine(record: ImageRecord, classes: Sequence[str], fine: dict[str, Any]) -> list[str]:
    """What is wrong with one image, its mask and its labels."""
    files = [path for path in (record.image, record.mask, record.saliency) if path is not None]
    stamp = [[path.stat().st_size, path.stat().st_mtime_ns] for path in files] + [list(record.classes), CHECKS]
    if fine.get(str(record.image)) == stamp:
        return []
    try:
        size = load_image(record.image).size
        problems = [] if record.mask is None else _examine_mask(record, record.mask, size, classes)
    except AttnBridgeError as error:
        return [str(error)]
    if not problems:
        fine[str(record.image)] = stamp
    return problems


def _examine_mask(record: ImageRecord, path: Path, size: tuple[int, int], classes: Sequence[str]) -> list[str]:
    look, own = examine_mask(record, classes), image_size_of(path)
    doubts = dict(look.doubts)
    colours = doubts.pop("colours", None)
    if colours:
        warn_once(colours)
    if own == size:
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
