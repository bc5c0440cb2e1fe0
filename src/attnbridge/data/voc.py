"""Data sets in the layout of PASCAL VOC's development kit, with image labels from wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnbridge.data.files import inner_path
from attnbridge.data.images import ImageRecord
from attnbridge.data.labels import Labels, image_of, images_by_id, read_labels
from attnbridge.data.masks import load_mask
from attnbridge.data.text import read_lines, read_xml
from attnbridge.errors import AttnBridgeError, gathering, unknown_name, warn_once

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
IGNORED = 255
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


def is_voc(root: Path) -> bool:
    """Whether a folder has the kit's layout."""
    return (root / "JPEGImages").is_dir() and (root / "ImageSets").is_dir()


def scan_voc(
    root: Path, classes: Sequence[str], names: str, masks: bool = False, faults: list[str] | None = None
) -> list[ImageRecord]:
    """List the images of one of the kit's lists.

    The folder holds ``JPEGImages/``, ``ImageSets/Segmentation/NAME.txt`` (or ``Main/``), and image labels in the first
    of these that is there: ``labels.csv`` (``id,CLASS,...``, rows of 0 and 1, whose columns name the masks' values),
    ``Annotations/ID.xml`` (a class counts where one of its objects is not marked difficult), the masks themselves.
    A class whose objects in an image are all difficult is none of its ``classes``, so that training takes it for
    absent, and one of its ``difficult``, which average precision leaves out, as VOC's own does. Codes of
    weakly-supervised segmentation (AffinityNet, IRN) count such a class as present in training; a ``labels.csv`` does
    so here.
    Masks lie in ``SegmentationClassAug/``, for images that it has, else in ``SegmentationClass/``. Classes of the kit
    that are not in ``classes`` are ignored in the masks (255).

    Args:
        root: the folder, ``VOC2012`` in ``VOCdevkit``.
        classes: class names in index order.
        names: of the list: ``train``, ``trainaug``, ``val``, ...
        masks: list the masks too. Leave it off for a split that a method trains on.
        faults: what is wrong with single images is added here, and they are left out, or their masks; ``None``: the
            first fault is raised.

    Raises:
        AttnBridgeError: for a missing list, image, label or mask, or a class that the kit does not know.
    """
    labels = read_labels(root / "labels.csv") if (root / "labels.csv").is_file() else None
    kit = kit_classes(root)
    for name in classes:
        if name not in kit:
            raise unknown_name(f"class for {root}:", name, kit, "the target domain does not know it")
    index = {k: classes.index(name) if name in classes else None for k, name in enumerate(kit)}
    values = tuple([0] + [IGNORED if index[k] is None else index[k] + 1 for k in range(len(kit))])  # type: ignore[operator]
    records, images = [], _Images(root, f"the list {names}")
    for identity in list_names(root, names):
        mask: Path | None = None
        found: tuple[int, ...] | None = None
        hard: tuple[int, ...] = ()
        with gathering(faults):
            mask = mask_of(root, identity) if masks else None
        with gathering(faults):
            found, hard = _labels_of(root, identity, labels, kit, names)
        with gathering(faults):
            image = images.find(identity)
            present, difficult = (
                tuple(sorted(i for k in some or () if (i := index.get(k)) is not None)) for some in (found, hard)
            )
            comparable = mask if found is not None else None
            records.append(ImageRecord(image.name, image, present, mask=comparable, values=values, difficult=difficult))
    return records


def _labels_of(
    root: Path, identity: str, labels: Labels | None, kit: Sequence[str], names: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of an image's classes in the kit, and of those that are only difficult."""
    if labels:
        if identity not in labels.present:
            raise AttnBridgeError(f"{root / 'labels.csv'}: has no row for {identity!r} of the list {names}")
        return labels.present[identity], ()
    if _annotation(root, identity).is_file():
        return _annotated(_annotation(root, identity), kit)
    return _in_mask(mask_of(root, identity)), ()


def kit_classes(root: Path) -> tuple[str, ...]:
    """The classes of the masks' values, from 1 on: those of ``labels.csv`` if there is one, else VOC's."""
    return read_labels(root / "labels.csv").classes if (root / "labels.csv").is_file() else VOC_CLASSES


def list_folders(root: Path) -> list[Path]:
    """Where lists may lie."""
    return [root / "ImageSets" / part for part in ("Segmentation", "Main", "")]


def list_names(root: Path, names: str) -> list[str]:
    """The ids of a list; a second column, as in ``Main/CLASS_train.txt``, is left out.

    Raises:
        AttnBridgeError: if there is no such list, or it is empty.
    """
    inner_path(names, f"the list of images in {root / 'ImageSets'}")
    folders = list_folders(root)
    for folder in folders:
        path = folder / f"{names}.txt"
        if path.is_file():
            lines: dict[str, int] = {}
            for number, line in read_lines(path):
                name = inner_path(line.split()[0], f"{path}, line {number}")
                if name in lines:
                    warn_once(f"{path}, line {number}: {name!r} is there twice; first in line {lines[name]}")
                lines.setdefault(name, number)
            if not lines:
                raise AttnBridgeError(f"{path}: the list is empty; expected one image's name a line")
            return list(lines)
    there = [p.stem for folder in folders if folder.is_dir() for p in sorted(folder.glob("*.txt"))]
    if not there:
        raise AttnBridgeError(f"{root}: is no development kit of VOC: it has no lists, {folders[0]}/{names}.txt")
    raise unknown_name(f"list of images in {root / 'ImageSets'}:", names, there)


def find_images_of(root: Path, names: str) -> dict[str, Path]:
    """The images of a list by their names, whatever their suffixes.

    Raises:
        AttnBridgeError: see :func:`list_names`; for a name without image, or with two.
    """
    images = _Images(root, f"the list {names}")
    return {name: images.find(name) for name in list_names(root, names)}


class _Images:
    """The images of a kit by the names of lists, each folder listed once; ``where``: what names them."""

    def __init__(self, root: Path, where: str) -> None:
        self.root, self.where = root / "JPEGImages", where
        self.listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, identity: str) -> Path:
        path = self.root / identity
        if path.parent not in self.listed:
            self.listed[path.parent] = images_by_id(path.parent) if path.parent.is_dir() else {}
        return image_of(path.parent, path.name, self.listed[path.parent], self.where)


def mask_of(root: Path, identity: str) -> Path:
    """The mask of an image of a list.

    Raises:
        AttnBridgeError: if there is none.
    """
    for folder in MASK_FOLDERS:
        path = root / folder / f"{identity}.png"
        if path.is_file():
            return path
    raise AttnBridgeError(f"{root / 'SegmentationClass' / identity}.png: no such file; expected the mask of {identity}")


def _annotation(root: Path, identity: str) -> Path:
    return root / "Annotations" / f"{identity}.xml"


def _annotated(path: Path, kit: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of the classes of the objects that are not difficult, and of those that are only difficult."""
    found: set[int] = set()
    hard: set[int] = set()
    for entry in read_xml(path).findall("object"):
        name = (entry.findtext("name") or "").strip()
        if name not in kit:
            raise unknown_name(f"class in {path}:", name, kit)
        (hard if entry.findtext("difficult", "0").strip() == "1" else found).add(list(kit).index(name))
    return tuple(sorted(found)), tuple(sorted(hard - found))


def _in_mask(path: Path) -> tuple[int, ...]:
    counts = load_mask(path).histogram()[:256]
    return tuple(value - 1 for value, count in enumerate(counts) if count and value not in (0, IGNORED))
