"""What may guide the maps of a few images of the target: masks, boxes, or saliency maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from attnbridge.data.folders import pair_classes, scan_pair
from attnbridge.data.images import Box, ImageRecord, check_record, image_size_of, open_image
from attnbridge.data.text import read_table, read_xml
from attnbridge.data.voc import IGNORED, MASK_FOLDERS, is_voc
from attnbridge.errors import AttnBridgeError, unknown_name, warn_once

Guide = Literal["masks", "boxes", "saliency"]
DIFFICULT = IGNORED - 1
"""The class of boxes in which nothing is known: drawn as a mask it is 255."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FIELDS = ("id", "class", "left", "top", "right", "bottom")


def scan_guided(source: Path | None, target: Path, names: str, kind: Guide) -> list[ImageRecord]:
    """The records of the images whose maps are guided: of those that are named, the ones that have what guides.

    - ``masks``: as in the splits that are scored.
    - ``boxes``: ``boxes.csv`` beside the images' folder, with the columns ``id,class,left,top,right,bottom`` in
      pixels (right and bottom are the first outside), else VOC's ``Annotations/ID.xml``. A box counts as the object;
      where boxes of two classes overlap, and in VOC's difficult ones, nothing is known.
    - ``saliency``: ``saliency/ID.png`` beside the images' folder, 8-bit grey. Where it is below half there is no
      object; where it is above, the image's class is there if it has only one, else nothing is known.

    Returns:
        Records with a mask, or with boxes to draw one from.

    Raises:
        AttnBridgeError: if no image has what guides, for a box or map that cannot be its image's, and as
            :func:`~attnbridge.data.folders.scan_pair`.
    """
    if kind not in get_args(Guide):
        raise unknown_name("data.guided_by", kind, get_args(Guide))
    records = scan_pair(source, target, None, names, masks=False)
    root, classes = target if is_voc(target) else target / names, pair_classes(source, target)
    if kind == "boxes":
        found, place = _boxed(records, root, classes)
    elif kind == "saliency":
        found, place = _in_folders(records, [root / "saliency"])
        found = [_by_saliency(record) for record in found]
    else:
        folders = MASK_FOLDERS if is_voc(target) else ("masks", "SegmentationClass")
        found, place = _in_folders(records, [root / folder for folder in folders])
    if not found:
        raise AttnBridgeError(f"{place}: no such file; expected the {kind} of at least one of the images of {names!r}")
    for record in found:
        check_record(record)
    return found


def _in_folders(records: Sequence[ImageRecord], folders: Sequence[Path]) -> tuple[list[ImageRecord], Path]:
    """Those with a PNG of their name in the first of the folders that has one; and where the first would have lain."""
    found = []
    for record in records:
        there = (path for folder in folders if (path := folder / f"{record.image.stem}.png").is_file())
        if mask := next(there, None):
            found.append(replace(record, mask=mask))
    return found, folders[-1] / f"{records[0].image.stem}.png"


def _by_saliency(record: ImageRecord) -> ImageRecord:
    assert record.mask is not None
    with open_image(record.mask) as image:
        if image.mode != "L":
            raise AttnBridgeError(f"{record.mask}: its mode is {image.mode}; a saliency map must be 8-bit grey (L)")
    inside = record.classes[0] + 1 if len(record.classes) == 1 else IGNORED
    return replace(record, values=(0,) * 128 + (inside,) * 128)


def _boxed(records: Sequence[ImageRecord], root: Path, classes: Sequence[str]) -> tuple[list[ImageRecord], Path]:
    table = root / "boxes.csv"
    if table.is_file():
        boxes = read_boxes(table, classes)
        strange = boxes.keys() - {record.image.stem for record in records}
        if strange:
            warn_once(f"{table}: has boxes of {min(strange)!r}, which is none of the images ({len(strange)} such ids)")
    else:
        files = {record.image.stem: root / "Annotations" / f"{record.image.stem}.xml" for record in records}
        boxes = {name: _boxes_xml(path, classes) for name, path in files.items() if path.is_file()}
    found = [_with_boxes(r, boxes[r.image.stem], classes) for r in records if r.image.stem in boxes]
    return found, table


def _with_boxes(record: ImageRecord, boxes: Sequence[Box], classes: Sequence[str]) -> ImageRecord:
    width, height = image_size_of(record.image)
    for label, left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise AttnBridgeError(
                f"{record.image}: its box {left},{top},{right},{bottom} does not lie in the image, which is "
                f"{width}x{height} pixels"
            )
        if label not in (*record.classes, DIFFICULT):
            raise AttnBridgeError(f"{record.image}: has a box of {classes[label]!r}, which is not among its labels")
    without = [classes[c] for c in record.classes if all(box[0] != c for box in boxes)]
    if without:
        raise AttnBridgeError(f"{record.image}: shows {without[0]!r}, but has no box of it")
    return replace(record, boxes=tuple(boxes))


def read_boxes(path: Path, classes: Sequence[str]) -> dict[str, list[Box]]:
    """The boxes of each image of a table with the columns :data:`FIELDS`, by the id."""
    found: dict[str, list[Box]] = {}
    header, rows = read_table(path, ",".join(FIELDS))
    if tuple(header) != FIELDS:
        raise AttnBridgeError(f"{path}, line 1: expected a header {','.join(FIELDS)!r}, found {','.join(header)!r}")
    for number, (identity, name, *corners) in rows:
        if not all(re.fullmatch("[0-9]{1,9}", corner) for corner in corners):
            raise AttnBridgeError(f"{path}, line {number}: expected an id, a class and four whole numbers of pixels")
        if name not in classes:
            raise unknown_name(f"class in {path}, line {number}:", name, classes)
        left, top, right, bottom = map(int, corners)
        found.setdefault(identity, []).append((classes.index(name), left, top, right, bottom))
    return found


def _boxes_xml(path: Path, classes: Sequence[str]) -> list[Box]:
    """Boxes of the known classes, those of difficult objects apart; the kit's corners count from 1 and lie inside."""
    objects = read_xml(path).findall("object")
    try:
        corners = [[int(float(o.findtext(f"bndbox/{c}") or "")) for c in CORNERS] for o in objects]
    except (ValueError, OverflowError) as error:
        raise AttnBridgeError(f"{path}: cannot be read as an annotation with boxes ({error})") from None
    names = [(o.findtext("name") or "").strip() for o in objects]
    usual = [o.findtext("difficult", "0").strip() != "1" for o in objects]  # the others are not among the labels
    return [
        (classes.index(name) if counts else DIFFICULT, left - 1, top - 1, right, bottom)
        for name, (left, top, right, bottom), counts in zip(names, corners, usual, strict=True)
        if name in classes
    ]
