"""What is suspicious in data that can be read, told once before training. Free of torch.

Files are opened by the hundred, not all: those that are looked at are spread evenly over a split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from attnbridge.data.images import ImageRecord, load_image
from attnbridge.data.masks import IGNORED, MaskLook, examine_mask
from attnbridge.errors import AttnBridgeError, warn_once

MASKS, MAPS, TWINS = 200, 64, 100
"""How many files of a split are looked at."""
ENDS = 1 << 14
"""Bytes at both ends of a file by which it is told from others of its size."""
T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most so many of them, evenly spread.

    >>> spread(range(10), 3)
    [0, 3, 6]
    """
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def check_scored(records: Sequence[ImageRecord], classes: Sequence[str], split: str) -> None:
    """Check the labels and masks of a split that is scored; what is only suspicious is warned of.

    Raises:
        AttnBridgeError: see :func:`check_masks`; for a split without labels.
    """
    if not any(record.classes for record in records):
        raise AttnBridgeError(f"{records[0].image}: has no label, nor has another image of {split}: nothing to score")
    masked = [record for record in records if record.mask is not None]
    looks = check_masks(masked, classes)
    if looks and len(looks) == len(masked) and not any(look.shown for look in looks):
        what = "has no pixel that is not 255 (ignored)" if looks[0].void else "shows no class"
        raise AttnBridgeError(f"{masked[0].mask}: {what}, nor does another mask of {split}: nothing to score")


def check_masks(records: Sequence[ImageRecord], classes: Sequence[str]) -> list[MaskLook]:
    """Check the masks of images that have one; what is only suspicious is warned of.

    Raises:
        AttnBridgeError: for a mask that is none, or more classes than 8 bits hold.
    """
    if records and len(classes) >= IGNORED:
        raise AttnBridgeError(f"{records[0].mask}: there are {len(classes)} classes, but 8-bit masks hold 254 at most")
    with ThreadPoolExecutor(4) as pool:
        looks = list(pool.map(lambda record: examine_mask(record, classes), spread(records, MASKS)))
    for kind in ("in the mask, but not in the labels", "void", "colours"):
        _tell(looks, kind)
    return looks


def _tell(looks: Sequence[MaskLook], kind: str) -> None:
    doubts = [look.doubts[kind] for look in looks if kind in look.doubts]
    if doubts:
        warn_once(f"{doubts[0]} ({len(doubts)} such masks of {len(looks)} that were looked at)")


def warn_of_absent(where: Path, classes: Sequence[str], splits: Mapping[str, Sequence[ImageRecord]]) -> None:
    """Warn of classes that no image of a split shows, and of those that occur nowhere."""
    counts = {split: Counter(c for record in records for c in record.classes) for split, records in splits.items()}
    nowhere = [c for c in range(len(classes)) if not any(count[c] for count in counts.values())]
    for split in ("source", "train"):
        absent = [c for c in range(len(classes)) if split in counts and not counts[split][c] and c not in nowhere]
        if absent:
            names = ", ".join(classes[c] for c in absent[:10])
            warn_once(f"{where}: no image of {split} shows {names}, so it cannot be learnt there")
    if nowhere:
        names = ", ".join(classes[c] for c in nowhere[:10])
        warn_once(f"{where}: no image of {', '.join(splits)} shows {names}; take it out of the classes, or add images")


def check_saliency(paths: Sequence[Path]) -> None:
    """Look at the saliency maps of a split: bright where the object is, so rarely at the border.

    Raises:
        AttnBridgeError: if all that are looked at hold one value each.
    """
    some = spread(paths, MAPS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(_centre_and_border, some))
    constant = [path for path, ends in zip(some, found, strict=True) if ends is None]
    if some and len(constant) == len(some):
        raise AttnBridgeError(
            f"{some[0]}: holds one value only, and so do all {len(some)} saliency maps that were looked at; they show "
            "no object: make them again"
        )
    if constant:
        warn_once(f"{constant[0]}: holds one value only ({len(constant)} of {len(some)} maps that were looked at)")
    inverted = [path for path, ends in zip(some, found, strict=True) if ends and ends[0] < ends[1]]
    if len(inverted) > 0.7 * (len(some) - len(constant)):
        warn_once(
            f"{inverted[0]}: is darker at its centre than at its border ({len(inverted)} of {len(some)} maps that were "
            "looked at); saliency is white where the object is: are the maps inverted?"
        )


def _centre_and_border(path: Path) -> tuple[float, float] | None:
    """Mean values of the middle and of the rim; ``None`` for a map of one value."""
    image = load_image(path, "L")
    low, high = image.getextrema()
    if low == high:
        return None
    small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float64)
    return float(small[2:6, 2:6].mean()), float((small.sum() - small[1:7, 1:7].sum()) / 28)


def warn_of_twins(splits: Mapping[str, Sequence[ImageRecord]]) -> None:
    """Warn of images that two splits share: the same file, or one of the same size and the same ends."""
    sizes = {split: _by_size([record.image for record in records]) for split, records in splits.items()}
    ends = cache(_ends)
    for first, second in combinations(splits, 2):
        few, many = sorted((first, second), key=lambda split: len(splits[split]))
        some = spread([record.image for record in splits[few]], TWINS)
        twins = [(a, b) for a in some for b in sizes[many].get(a.stat().st_size, ())[:TWINS] if ends(a) == ends(b)]
        shared = {a for a, _ in twins}
        if shared:
            one, other = twins[0]
            warn_once(
                f"{one}: is in {first} and in {second} ({'the same file' if one == other else f'as {other}'}), as are "
                f"{len(shared)} of {len(some)} images that were looked at; scores on images that were learnt from, or "
                "chosen by, say little"
            )


def _by_size(paths: Sequence[Path]) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stat().st_size, []).append(path)
    return found


def _ends(path: Path) -> bytes:
    with path.open("rb") as handle:
        digest = hashlib.sha256(handle.read(ENDS))
        handle.seek(max(0, path.stat().st_size - ENDS))
        digest.update(handle.read(ENDS))
    return digest.digest()
