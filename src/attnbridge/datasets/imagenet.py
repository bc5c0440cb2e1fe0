"""ImageNet's classification set of ILSVRC-2012, by its WordNet ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attnbridge.data.folders import list_images
from attnbridge.data.text import read_xml
from attnbridge.datasets.class_folders import Labelled, class_folder_images, find_root, list_folders, load_class_mapping
from attnbridge.datasets.layouts import LabelledImage
from attnbridge.errors import AttnBridgeError

WNID = re.compile(r"n\d{8}")


def imagenet(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """ILSVRC-2012's classification and localization set (Russakovsky et al., IJCV 2015).

    Layouts: Kaggle's (imagenet-object-localization-challenge), ``ILSVRC/Data/CLS-LOC/train/n01440764/`` and the flat
    ``ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG``, whose class is the ``<object><name>`` of
    ``ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml``; and that which torchvision prepares,
    ``train/n01440764/`` and ``val/n01440764/``. A wnid begins its images' names, and the order is that of the wnids,
    in both.

    Args:
        root: ``ILSVRC``, the folder that holds it, or that of torchvision.
        split: ``train`` or ``val``.
        classes: ``voc``, or ``None`` for the wnids.

    Raises:
        AttnBridgeError: for another folder, split or mapping, or an annotation of ``val`` that is missing or broken.
    """
    mapping = load_class_mapping("imagenet", split, classes)
    base = find_root(
        root,
        (f"ILSVRC/Data/CLS-LOC/{split}", f"Data/CLS-LOC/{split}", split),
        lambda folder: True,
        f"ILSVRC/Data/CLS-LOC/{split}, or {split}/n01440764/IMAGE.JPEG",
    )
    folders = [folder for folder in list_folders(base) if WNID.fullmatch(folder.name)]
    if folders:
        found = [Labelled(folder.name, folder, folder.name) for folder in folders]
    else:
        found = _annotated(base, base.absolute().parent.parent.parent / "Annotations" / "CLS-LOC" / split)
    return class_folder_images(base, found, mapping)


def _annotated(base: Path, annotations: Path) -> list[Labelled]:
    """The images of a flat folder by the wnid in their annotations."""
    if not annotations.is_dir():
        raise AttnBridgeError(
            f"{base}: holds no folders n01440764, ..., and there is no {annotations} to name its images' classes; "
            "unpack the annotations too, or sort the images into class folders"
        )
    images: dict[str, list[Path]] = {}
    for image in list_images(base):
        images.setdefault(_wnid(annotations / f"{image.stem}.xml", image), []).append(image)
    return [Labelled(wnid, images[wnid], wnid) for wnid in sorted(images)]


def _wnid(path: Path, image: Path) -> str:
    if not path.exists():
        raise AttnBridgeError(f"{path}: no such file; expected the annotation of {image}")
    names = sorted({(entry.findtext("name") or "").strip() for entry in read_xml(path).findall("object")})
    if len(names) != 1 or not WNID.fullmatch(names[0]):
        raise AttnBridgeError(
            f"{path}: expected objects of one wnid such as n01440764, found {', '.join(names) or 'none'}"
        )
    return names[0]
