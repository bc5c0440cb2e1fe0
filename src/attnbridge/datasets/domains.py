"""Sets of several domains that share their classes: PACS, VLCS and Office-31. The split is the domain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attnbridge.data.folders import class_names
from attnbridge.datasets.class_folders import Labelled, class_folder_images, find_root, list_folders, load_class_mapping
from attnbridge.datasets.layouts import LabelledImage
from attnbridge.errors import AttnBridgeError, unknown_name

PACS = ("art_painting", "cartoon", "photo", "sketch")
OFFICE31 = ("amazon", "dslr", "webcam")
VLCS = {"Caltech101": "CALTECH", "LabelMe": "LABELME", "SUN09": "SUN", "VOC2007": "PASCAL"}
VLCS_CLASSES = ("bird", "car", "chair", "dog", "person")


def pacs(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """PACS (Li et al., ICCV 2017): seven classes in four domains.

    Layout: ``DOMAIN/CLASS/pic_001.jpg``, or ``.png``, in ``root`` or in its ``kfold``, ``PACS`` or ``pacs_data``. The
    domain begins the images' names, so that several domains can go into one folder.

    Args:
        root: the folder that holds the domains, or one above it.
        split: the domain: ``art_painting``, ``cartoon``, ``photo`` or ``sketch``.
        classes: ``voc``, or ``None`` for the own ones, which are those of all domains that are there.

    Raises:
        AttnBridgeError: for another folder, domain or mapping.
    """
    mapping = load_class_mapping("pacs", split, classes)
    inside = ("", "kfold", "PACS", "PACS/kfold", "pacs_data", "images", "images/kfold")
    base = find_root(root, inside, lambda folder: (folder / split).is_dir(), f"{split}/CLASS/pic_001.jpg")
    return _domain(base, {name: base / name for name in PACS}, split, mapping)


def office31(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """Office-31 (Saenko et al., ECCV 2010): 31 classes in three domains.

    Layout: ``DOMAIN/images/CLASS/frame_0001.jpg``, or without ``images``, in ``root`` or in its ``office31`` or
    ``Original_images``. The domain begins the images' names, so that several domains can go into one folder.

    Args:
        root: the folder that holds the domains, or one above it.
        split: the domain: ``amazon``, ``dslr`` or ``webcam``.
        classes: ``voc``, or ``None`` for the own ones, which are those of all domains that are there.

    Raises:
        AttnBridgeError: for another folder, domain or mapping.
    """
    mapping = load_class_mapping("office31", split, classes)
    inside = ("", "office31", "Original_images", "office31/Original_images", "domain_adaptation_images")
    base = find_root(root, inside, lambda folder: (folder / split).is_dir(), f"{split}/images/CLASS/frame_0001.jpg")
    folders = {name: base / name / "images" for name in OFFICE31}
    folders = {name: folder if folder.is_dir() else base / name for name, folder in folders.items()}
    return _domain(base, folders, split, mapping)


def vlcs(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """VLCS (Torralba and Efros, CVPR 2011; Fang et al., ICCV 2013): bird, car, chair, dog and person in four domains.

    Layouts: DomainBed's, ``Caltech101/bird/IMAGE.jpg``, and an older one, ``CALTECH/train/0/IMAGE.jpg``, whose
    parts ``train``, ``crossval`` and ``test`` are put together (``full``, which repeats them, is not read) and whose
    folders 0 to 4 are the classes in the order above. The domain, and the part, begin the images' names.

    Args:
        root: the folder that holds the domains, or one above it that holds it as ``VLCS``.
        split: the domain, in either form: ``Caltech101`` or ``CALTECH``, ``LabelMe`` or ``LABELME``, ``SUN09`` or
            ``SUN``, ``VOC2007`` or ``PASCAL``.
        classes: ``voc`` or ``None``, which are the same here.

    Raises:
        AttnBridgeError: for another folder, domain or mapping, or a folder that is none of the classes.
    """
    mapping = load_class_mapping("vlcs", split, classes)
    forms = next(pair for pair in VLCS.items() if split in pair)
    expected = f"{forms[0]}/bird or {forms[1]}/train/0"
    base = find_root(root, ("", "VLCS"), lambda folder: any((folder / form).is_dir() for form in forms), expected)
    folder = next(base / form for form in forms if (base / form).is_dir())
    parts = [part for part in ("train", "crossval", "test") if (folder / part).is_dir()]
    numbers = {str(number): name for number, name in enumerate(VLCS_CLASSES)}
    found = []
    for part in parts or [""]:
        known = numbers if parts else dict(zip(VLCS_CLASSES, VLCS_CLASSES, strict=True))
        for name in class_names(folder / part):
            if name not in known:
                raise unknown_name(f"class folder in {folder / part}:", name, known)
            found.append(Labelled(known[name], folder / part / name, "_".join(filter(None, (forms[0], part)))))
    return class_folder_images(folder, sorted(found, key=lambda one: (one.label, one.prefix)), mapping, VLCS_CLASSES)


def _domain(
    base: Path, folders: dict[str, Path], split: str, mapping: dict[str, str] | None
) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """One domain's images, with the classes of all."""
    there = {name: [sub.name for sub in list_folders(folder)] for name, folder in folders.items() if folder.is_dir()}
    if not there[split]:
        raise AttnBridgeError(f"{folders[split]}: holds no class folders; expected {folders[split]}/CLASS/IMAGE.jpg")
    found = [Labelled(name, folders[split] / name, split) for name in there[split]]
    return class_folder_images(base, found, mapping, [name for names in there.values() for name in names])
