"""Clothes: single garments (clothing-dataset-small), and people who wear several (Clothing Co-Parsing)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnbridge.data.images import image_size_of
from attnbridge.datasets.class_folders import Labelled, class_folder_images, find_root, list_folders, load_class_mapping
from attnbridge.datasets.layouts import VOID, LabelledImage, MultiLabelImage
from attnbridge.datasets.matlab import load_variable
from attnbridge.errors import AttnBridgeError, unknown_name

LEFT_OUT = ("0536", "1707")
"""Of every split of ccp: an image with an empty mask, and a twin of 0025."""
NO_GARMENT = "0550"
"""The one other masked image without any of the ten classes; the protocol leaves it out."""
MASKED = 1004
"""Images 0001 to 1004 have masks, 1005 to 2098 tags."""
SHARES = {"few_masks": slice(0, 100), "val": slice(100, 200), "test": slice(200, 500)}
Values = np.ndarray[Any, Any]


def clothing_small(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """alexeygrigorev/clothing-dataset-small (CC0): single garments of ten classes.

    Layout: ``train``, ``validation`` and ``test``, each ``CLASS/IMAGE.jpg``; 3,068, 341 and 372 images.

    Args:
        root: the repository's folder, or the one that holds it.
        split: ``train``, ``validation`` or ``test``.
        classes: ``None``; the set has only its own.

    Raises:
        AttnBridgeError: for another folder or split, or a mapping.
    """
    mapping = load_class_mapping("clothing_small", split, classes)
    inside = ("", "clothing-dataset-small", "clothing-dataset-small-master")
    base = find_root(root, inside, lambda folder: (folder / split).is_dir(), f"{split}/dress/IMAGE.jpg") / split
    return class_folder_images(base, [Labelled(folder.name, folder) for folder in list_folders(base)], mapping)


def ccp(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[MultiLabelImage]]:
    """bearpaw/clothing-co-parsing (Yang, Luo and Lin, CVPR 2014): people in the street and what they wear.

    Layout: ``photos/0001.jpg``, ``label_list.mat`` (``label_list``, 59 names, the first ``null``),
    ``annotations/pixel-level/0001.mat`` (``groundtruth``, a label's number for each pixel) for 1,004 images and
    ``annotations/image-level/1005.mat`` (``tags``, the numbers of the labels) for the 1,094 others.

    Splits: ``image_level`` and ``pixel_level`` are all images with tags and all with masks. The protocol of training
    with labels and scoring with masks has ``train_labels_only``, the images with tags of which one is a class, and
    ``few_masks``, ``val`` and ``test``, 100, 100 and 300 of those with masks: 0001 to 1004 by the SHA-256 of their
    numbers' four digits, in that order. The images of :data:`LEFT_OUT` are in none, that of :data:`NO_GARMENT` is not
    in the protocol.

    Args:
        root: the repository's folder, or the one that holds it.
        split: one of the above.
        classes: ``clothing``, the ten classes of :func:`clothing_small`, or ``None`` for the 58 own ones.

    Raises:
        AttnBridgeError: for another folder, split or mapping, a file that is missing or broken, or, when its turn
            comes, a mask of another size than its image.
    """
    mapping = load_class_mapping("ccp", split, classes)
    base = find_root(
        root,
        ("", "clothing-co-parsing", "clothing-co-parsing-master"),
        lambda folder: (folder / "photos").is_dir() and (folder / "annotations").is_dir(),
        "photos/0001.jpg, annotations/pixel-level/0001.mat, annotations/image-level/1005.mat and label_list.mat",
    )
    tagged = split in ("image_level", "train_labels_only")
    folder = base / "annotations" / ("image-level" if tagged else "pixel-level")
    found = [(base / "photos" / f"{name}.jpg", folder / f"{name}.mat") for name in _names(folder, split)]
    for path in (path for pair in found for path in pair):
        if not path.is_file():
            raise AttnBridgeError(f"{path}: no such file, but {split} of ccp names it; is the download complete?")
    kept, values = _meanings(base / "label_list.mat", mapping)
    if tagged:
        return kept, _tagged(found, kept, values, split == "train_labels_only")
    return kept, _masked(found, kept, values)


def _names(folder: Path, split: str) -> list[str]:
    """The images of a split, sorted."""
    if split in SHARES:
        pool = [f"{number:04d}" for number in range(1, MASKED + 1)]
        pool = [name for name in pool if name not in (*LEFT_OUT, NO_GARMENT)]
        return sorted(sorted(pool, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[SHARES[split]])
    names = sorted(path.stem for path in folder.glob("*.mat") if not path.name.startswith("."))
    if not names:
        raise AttnBridgeError(f"{folder}: holds no .mat file; expected the annotations of {split}")
    return [name for name in names if name not in LEFT_OUT]


def _meanings(path: Path, mapping: dict[str, str] | None) -> tuple[tuple[str, ...], Values]:
    """The classes, and what each label's number becomes in a mask."""
    labels = [str(cell.item()) if np.size(cell) == 1 else "" for cell in _load(path, "label_list").ravel()]
    if labels[:1] != ["null"] or "" in labels or not 1 < len(labels) < 255:
        raise AttnBridgeError(f"{path}: expected label_list to be names, the first of them null, found {labels[:3]}")
    if mapping is None:
        return tuple(labels[1:]), np.arange(len(labels), dtype=np.uint8)
    for label in mapping:
        if label not in labels:
            raise unknown_name(f"label, which {path} does not have:", label, labels)
    kept = tuple(sorted(set(mapping.values()) - {VOID}))
    value = {name: number for number, name in enumerate(kept, start=1)} | {VOID: 255}
    return kept, np.array([value[mapping[label]] if label in mapping else 0 for label in labels], np.uint8)


def _tagged(
    found: Sequence[tuple[Path, Path]], kept: Sequence[str], values: Values, labelled_only: bool
) -> Iterator[MultiLabelImage]:
    for image, path in found:
        labels = _present(_translate(path, "tags", _load(path, "tags"), values), kept)
        if labels or not labelled_only:
            yield MultiLabelImage(image.stem, image, labels)


def _masked(found: Sequence[tuple[Path, Path]], kept: Sequence[str], values: Values) -> Iterator[MultiLabelImage]:
    for image, path in found:
        width, height = image_size_of(image)
        mask = _load(path, "groundtruth")
        if mask.shape != (height, width):
            shape = "x".join(str(side) for side in reversed(mask.shape))
            raise AttnBridgeError(f"{path}: the mask is {shape} pixels, but its image {image} is {width}x{height}")
        mask = _translate(path, "groundtruth", mask, values)
        yield MultiLabelImage(image.stem, image, _present(mask, kept), mask)


def _present(mask: Values, kept: Sequence[str]) -> frozenset[str]:
    return frozenset(kept[value - 1] for value in np.unique(mask) if value not in (0, 255))


def _translate(path: Path, variable: str, numbers: Values, values: Values) -> Values:
    """A variable that holds labels' numbers, as values of a mask."""
    if numbers.dtype.kind not in "uif" or not numbers.size or not 0 <= numbers.min() <= numbers.max() < len(values):
        raise AttnBridgeError(f"{path}: expected {variable} to be numbers from 0 to {len(values) - 1}")
    translated: Values = values[numbers.astype(np.intp)]
    return translated


def _load(path: Path, variable: str) -> Values:
    value: Values = load_variable(path, variable)
    return value
