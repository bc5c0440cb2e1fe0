"""COCO, and sets in COCO's format: polygons and run-length masks of objects, drawn as label masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from attnbridge.data.files import inner_path
from attnbridge.data.images import ORIENTATION, open_image, orientation
from attnbridge.data.text import read_object
from attnbridge.data.voc import IGNORED
from attnbridge.datasets.ids import plain_ids
from attnbridge.datasets.layouts import VOID, Mask, MultiLabelImage, read_mapping
from attnbridge.errors import AttnBridgeError, shown, unknown_name

SPLITS = ("train2017", "val2017", "train2014", "val2014")
Entry = dict[str, Any]


def coco(root: Path, split: str, classes: str | None) -> tuple[tuple[str, ...], Iterator[MultiLabelImage]]:
    """The images of a split that show a wanted object, with label masks, sorted by name.

    Layout: ``ROOT/annotations/instances_SPLIT.json``, images in ``ROOT/SPLIT/`` or ``ROOT/images/SPLIT/``. Any split
    with such a file will do, so a set of your own in COCO's format too. Format: https://cocodataset.org/#format-data.

    Masks: objects are drawn by area, so a smaller one covers a larger one, of two equal ones the later. Categories that
    the mapping leaves out are background, also where they lie on a wanted object, as a pizza on a table. Crowd regions
    (``iscrowd``) of wanted categories are ignored (255), lie below all objects, and do not make a class present. A
    class is present where its pixels can be seen. Polygons of fewer than three points have no area and are left out.

    Annotations are taken to be of the pixels as they are stored. Images with an EXIF orientation are read upright, so
    their masks are turned too, unless the file gives the upright width and height.

    Args:
        root: COCO's folder.
        split: ``train2017``, ``val2017``, ``train2014``, ``val2014`` or the name of a split of your own.
        classes: ``voc`` for VOC's 20 classes, ``None`` for the categories of the file by their ids.

    Returns:
        The classes, and the images, whose masks are drawn when they are asked for.

    Raises:
        AttnBridgeError: for a missing file, folder or image, a malformed annotation, an image of another size.
    """
    _mask_tool()
    path = _instances(root, split)
    folder = _folder(root, split)
    content = _read(path)
    own = _categories(path, content["categories"])
    names, values = _values(path, own, classes)
    objects = _objects(path, content["annotations"], own, values)
    images = _images(path, content["images"], objects)
    ids = plain_ids(images, path)
    _check_there(folder, list(images), path)

    def items() -> Iterator[MultiLabelImage]:
        for name in sorted(images):
            entry = images[name]
            turn = _turn(folder / name, entry, path)
            mask = _draw(path, entry, objects[entry["id"]], values)
            shown = frozenset(names[v - 1] for v in np.unique(mask).tolist() if v not in (0, IGNORED))
            if shown:
                yield MultiLabelImage(ids[name], folder / name, shown, _upright(mask, turn))

    return names, items()


def _mask_tool() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise AttnBridgeError(
            "COCO's masks need pycocotools, which is not installed: pip install 'attnbridge[sets]'"
        ) from None
    return mask


def _instances(root: Path, split: str) -> Path:
    path = root / "annotations" / f"instances_{split}.json"
    if not path.exists():
        there = [p.stem.removeprefix("instances_") for p in sorted(path.parent.glob("instances_*.json"))]
        if there and split not in SPLITS:
            raise unknown_name(f"split of {root}:", split, there)
        raise AttnBridgeError(f"{path}: no such file; expected the objects of the split {split}")
    return path


def _folder(root: Path, split: str) -> Path:
    for folder in (root / split, root / "images" / split):
        if folder.is_dir():
            return folder
    raise AttnBridgeError(f"{root / split}: no such folder (nor images/{split}); expected the images of {split}")


def _read(path: Path) -> Entry:
    content = read_object(path)
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise AttnBridgeError(f"{path}: holds no list {key!r}; expected COCO's format for object detection")
    return content


def _field(path: Path, what: str, entry: Entry, key: str, kind: type | tuple[type, ...]) -> Any:
    """A field of one of the file's entries."""
    if not isinstance(entry.get(key), kind):
        raise AttnBridgeError(
            f"{path}: {what} {entry.get('id')!r} has no {key!r} of the kind that COCO's format has, "
            f"but {entry.get(key)!r}"
        )
    return entry[key]


def _categories(path: Path, entries: list[Entry]) -> dict[int, str]:
    """Names of the categories by their ids."""
    own: dict[int, str] = {}
    for entry in entries:
        number, name = _field(path, "category", entry, "id", int), str(_field(path, "category", entry, "name", str))
        if not name.strip():
            raise AttnBridgeError(f"{path}: category {number} has an empty name")
        if own.setdefault(number, name.strip()) != name.strip():
            raise AttnBridgeError(f"{path}: {own[number]!r} and {name.strip()!r} both are category {number}")
    return own


def _values(path: Path, own: dict[int, str], classes: str | None) -> tuple[tuple[str, ...], dict[int, int]]:
    """The classes, and the masks' value of each wanted category."""
    mapping = read_mapping(f"coco_{classes}") if classes else {own[k]: own[k] for k in sorted(own)}
    names = tuple(name for name in dict.fromkeys(mapping.values()) if name != VOID)
    if len(names) >= IGNORED:
        raise AttnBridgeError(f"{path}: has {len(names)} categories, but 8-bit masks hold 254 at most")
    value = {name: k for k, name in enumerate(names, start=1)} | {VOID: IGNORED}
    values = {k: value[mapping[name]] for k, name in own.items() if name in mapping}
    if not values:
        raise AttnBridgeError(
            f"{path}: none of its categories ({', '.join(list(own.values())[:20])}) is in the mapping {classes}; "
            "leave --classes out to have its own"
        )
    return names, values


def _objects(
    path: Path, annotations: list[Entry], own: dict[int, str], values: dict[int, int]
) -> dict[int, list[Entry]]:
    """The objects, and the crowds of wanted categories, by image, for images with a wanted object."""
    objects: dict[int, list[Entry]] = {}
    wanted = set()
    for entry in annotations:
        category = _field(path, "annotation", entry, "category_id", int)
        if category not in own:
            raise AttnBridgeError(
                f"{path}: annotation {entry.get('id')!r} is of category {category}, which its list 'categories' lacks"
            )
        value = values.get(category, 0)
        image = _field(path, "annotation", entry, "image_id", int)
        crowd = entry.get("iscrowd", 0)
        if not isinstance(crowd, int) or crowd not in (0, 1):
            raise AttnBridgeError(
                f"{path}: annotation {entry.get('id')!r} has an 'iscrowd' that is neither 0 nor 1, but {shown(crowd)}"
            )
        if not crowd and value not in (0, IGNORED):
            wanted.add(image)
        if not crowd or value:
            objects.setdefault(image, []).append(entry)
    return {image: objects[image] for image in sorted(wanted)}


def _images(path: Path, entries: list[Entry], objects: dict[int, list[Entry]]) -> dict[str, Entry]:
    """The images with objects, by file name."""
    images: dict[str, Entry] = {}
    numbers: dict[int, str] = {}
    for entry in entries:
        number, name = _field(path, "image", entry, "id", int), str(_field(path, "image", entry, "file_name", str))
        if number not in objects:
            continue
        for key in ("width", "height"):
            _field(path, "image", entry, key, int)
        inner_path(name, f"{path}: image {number}")
        if numbers.setdefault(number, name) != name or images.get(name, entry)["id"] != number:
            raise AttnBridgeError(f"{path}: the image {number}, {name!r}, is there twice with another name or id")
        images[name] = entry
    lost = objects.keys() - {entry["id"] for entry in images.values()}
    if lost:
        raise AttnBridgeError(f"{path}: has annotations of the image {min(lost)}, which its list 'images' lacks")
    if not images:
        raise AttnBridgeError(f"{path}: no image has an object of a wanted category")
    return images


def _check_there(folder: Path, names: list[str], path: Path) -> None:
    lost = sorted(name for name in names if not (folder / name).is_file())
    if len(lost) == len(names):
        raise AttnBridgeError(f"{folder}: holds none of the {len(names)} images that {path.name} names")
    if lost:
        raise AttnBridgeError(
            f"{folder / lost[0]}: no such image, but {path.name} names it ({len(lost)} of {len(names)} are missing); "
            "unpack the images again"
        )


def _draw(path: Path, image: Entry, objects: list[Entry], values: dict[int, int]) -> Mask:
    """The label mask of an image: crowds first, then objects from the largest to the smallest."""
    tool = _mask_tool()
    size = image["height"], image["width"]
    mask = np.zeros(size, np.uint8)
    drawn = []
    for entry in objects:
        rle = _run_lengths(tool, path, entry, size)
        if rle is not None:
            value = IGNORED if entry.get("iscrowd") else values.get(entry["category_id"], 0)
            drawn.append((not entry.get("iscrowd"), -int(tool.area(rle)), value, rle))
    for _, _, value, rle in sorted(drawn, key=lambda one: one[:2]):
        mask[tool.decode(rle) > 0] = value
    return mask


def _run_lengths(tool: Any, path: Path, entry: Entry, size: tuple[int, int]) -> Any:
    """An annotation's mask in pycocotools' form; ``None`` where it has no area."""
    shape = entry.get("segmentation")
    where = f"{path}: annotation {entry.get('id')!r}"
    if not shape:
        raise AttnBridgeError(f"{where} has no 'segmentation'; boxes alone give no masks")
    if isinstance(shape, dict):
        if shape.get("size") != list(size):
            raise AttnBridgeError(f"{where} is of the size {shape.get('size')}, but its image of {list(size)}")
        packed = shape.get("counts")
        counts: Any = _unpacked(packed) if isinstance(packed, str) else packed
        whole = isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts)
        if not whole or sum(counts) != size[0] * size[1]:  # of fewer the decoder would make up the rest
            raise AttnBridgeError(f"{where} has counts that do not add up to {size[0]} x {size[1]} pixels")
        return shape if isinstance(packed, str) else tool.frPyObjects(shape, *size)
    try:
        polygons = [[float(number) for number in polygon] for polygon in shape]
    except (TypeError, ValueError):
        raise AttnBridgeError(f"{where} is neither a list of polygons nor a run-length mask") from None
    if any(len(polygon) % 2 for polygon in polygons):
        raise AttnBridgeError(f"{where} has a polygon with an odd number of coordinates")
    most = 2 * max(size)
    if not all(-most <= number <= most for polygon in polygons for number in polygon):
        raise AttnBridgeError(f"{where} has a polygon that leads far out of its image of {size[1]}x{size[0]} pixels")
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    return tool.merge(tool.frPyObjects(polygons, *size)) if polygons else None


def _unpacked(text: str) -> list[int] | None:
    """The counts of a run-length mask that is written as text, five bits a character; ``None`` if it is none.

    >>> _unpacked("0a0")
    [0, 17]
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


def _turn(file: Path, entry: Entry, path: Path) -> int:
    """The EXIF orientation by which a mask of the size that the file gives has to be turned like its image; else 1."""
    size = entry["width"], entry["height"]
    with open_image(file) as image:
        stored, turn = image.size, orientation(image)
    if stored != size and not (turn in (5, 6, 7, 8) and stored == size[::-1]):
        raise AttnBridgeError(
            f"{file}: is {stored[0]}x{stored[1]} pixels, but {path.name} says {size[0]}x{size[1]}; "
            "masks fit only images of their own size"
        )
    return int(turn) if stored == size else 1


def _upright(mask: Mask, turn: int) -> Mask:
    """The mask, turned like its image."""
    if turn == 1:
        return mask
    turned = Image.fromarray(mask)
    turned.getexif()[ORIENTATION] = turn
    return np.asarray(ImageOps.exif_transpose(turned))
