"""Caltech-101 and Caltech-256: one object an image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attnbridge.data.files import make_folder
from attnbridge.datasets.class_folders import Labelled, class_folder_images, find_root, list_folders, load_class_mapping
from attnbridge.datasets.layouts import LabelledImage
from attnbridge.datasets.voc import fetch

NUMBERED = re.compile(r"\d{3}\.(.+)")


def caltech101(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """Caltech-101 (Fei-Fei, Fergus and Perona, 2004; data.caltech.edu/records/mzrjq-6wc02).

    Layout: ``101_ObjectCategories/CLASS/image_0001.jpg``. ``BACKGROUND_Google`` is left out. A label begins its
    images' names.

    Args:
        root: ``101_ObjectCategories``, or the folder that holds it.
        split: ``all``; the set has no splits.
        classes: ``voc``, or ``None`` for the 101 own ones.

    Raises:
        AttnBridgeError: for another folder, split or mapping.
    """
    mapping = load_class_mapping("caltech101", split, classes)
    base = find_root(
        root,
        ("", "101_ObjectCategories", "caltech-101/101_ObjectCategories", "caltech101/101_ObjectCategories"),
        lambda folder: any(folder.glob("*/image_[0-9][0-9][0-9][0-9].*")),
        "101_ObjectCategories/CLASS/image_0001.jpg",
    )
    found = [
        Labelled(folder.name, folder, folder.name)
        for folder in list_folders(base)
        if folder.name != "BACKGROUND_Google"
    ]
    return class_folder_images(base, found, mapping)


def download_caltech101(root: Path, split: str) -> None:
    """Fetch Caltech-101 into ``ROOT/caltech101`` with torchvision, which checks its MD5.

    Raises:
        AttnBridgeError: if it cannot be fetched.
    """
    from torchvision import datasets

    make_folder(root)
    fetch("Caltech-101", lambda: datasets.Caltech101(str(root), download=True))


def download_caltech256(root: Path, split: str) -> None:
    """Fetch Caltech-256 into ``ROOT/caltech256``; see :func:`download_caltech101`."""
    from torchvision import datasets

    make_folder(root)
    fetch("Caltech-256", lambda: datasets.Caltech256(str(root), download=True))


def caltech256(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """Caltech-256 (Griffin, Holub and Perona, 2007; data.caltech.edu/records/nyy15-4j048).

    Layout: ``256_ObjectCategories/001.ak47/001_0001.jpg``. A label is the folder's name without the number; the
    ``-101`` of classes that come from Caltech-101 stays. ``257.clutter`` is left out, and so is what is no image
    directly in a class folder, as ``056.dog/greg/`` and ``198.spider/RENAME2``. A label begins its images' names.

    Args:
        root: ``256_ObjectCategories``, or the folder that holds it.
        split: ``all``; the set has no splits.
        classes: ``voc``, or ``None`` for the 256 own ones.

    Raises:
        AttnBridgeError: for another folder, split or mapping.
    """
    mapping = load_class_mapping("caltech256", split, classes)
    base = find_root(
        root,
        ("", "256_ObjectCategories", "256_ObjectCategories/256_ObjectCategories", "caltech256/256_ObjectCategories"),
        lambda folder: any(NUMBERED.fullmatch(sub.name) for sub in list_folders(folder)),
        "256_ObjectCategories/001.ak47/001_0001.jpg",
    )
    numbered = [(folder, NUMBERED.fullmatch(folder.name)) for folder in list_folders(base)]
    labels = sorted((match[1], folder) for folder, match in numbered if match and match[1] != "clutter")
    return class_folder_images(base, [Labelled(label, folder, label) for label, folder in labels], mapping)
