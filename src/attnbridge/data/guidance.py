"""What may guide the maps of a few pictures of the target: masks, boxes, or saliency maps."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from attnbridge.data.folders import pair_classes, scan_pair
from attnbridge.data.pictures import Box, Record, check_record, picture_size
from attnbridge.data.voc import IGNORED, is_voc
from attnbridge.errors import AttnBridgeError, unknown

Guide = Literal["masks", "boxes", "saliency"]
FIELDS = ("id", "class", "left", "top", "right", "bottom")


def scan_guided(source: Path | None, target: Path, names: str, kind: Guide) -> list[Record]:
    """The records of the pictures whose maps are guided; each has a mask, or boxes to draw one from.

    - ``masks``: as in the splits that are scored.
    - ``boxes``: ``boxes.csv`` beside the pictures' folder, with the columns ``id,class,left,top,right,bottom`` in
      pixels (right and bottom are the first outside), else VOC's ``Annotations/ID.xml``. A box counts as the object;
      where boxes of two classes overlap nothing is known.
    - ``saliency``: ``saliency/ID.png`` beside the pictures' folder. Where it is below half there is no object; where it
      is above, the picture's class is there if it has only one, else nothing is known.

    Raises:
        AttnBridgeError: for what is missing, and as :func:`~attnbridge.data.folders.scan_pair`.
    """
    if kind not in get_args(Guide):
        raise unknown("data.guided_by", kind, get_args(Guide))
    if kind == "masks":
        return scan_pair(source, target, None, names, masks=True)
    records = scan_pair(source, target, None, names, masks=False)
    root, classes = target if is_voc(target) else target / names, pair_classes(source, target)
    if kind == "saliency":
        return [_by_saliency(record, root / "saliency") for record in records]
    if (root / "boxes.csv").is_file():
        boxes = _boxes_csv(root / "boxes.csv", classes)
    elif is_voc(target):
        boxes = {r.image.stem: _boxes_xml(root / "Annotations" / f"{r.image.stem}.xml", classes) for r in records}
    else:
        raise AttnBridgeError(
            f"{root / 'boxes.csv'}: no such file; expected a header {','.join(FIELDS)!r} and a box a row"
        )
    return [_with_boxes(record, boxes.get(record.image.stem, ()), classes) for record in records]


def _by_saliency(record: Record, folder: Path) -> Record:
    path = folder / f"{record.image.stem}.png"
    if not path.is_file():
        raise AttnBridgeError(f"{path}: no such file; expected the saliency map of {record.image}")
    inside = record.classes[0] + 1 if len(record.classes) == 1 else IGNORED
    guided = replace(record, mask=path, values=(0,) * 128 + (inside,) * 128)
    check_record(guided)
    return guided


def _with_boxes(record: Record, boxes: Sequence[Box], classes: Sequence[str]) -> Record:
    width, height = picture_size(record.image)
    for label, left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise AttnBridgeError(
                f"{record.image}: its box {left},{top},{right},{bottom} does not lie in the picture, which is "
                f"{width}x{height} pixels"
            )
        if label not in record.classes:
            raise AttnBridgeError(f"{record.image}: has a box of {classes[label]!r}, which is not among its labels")
    without = [classes[c] for c in record.classes if all(box[0] != c for box in boxes)]
    if without:
        raise AttnBridgeError(f"{record.image}: shows {without[0]!r}, but has no box of it")
    return replace(record, boxes=tuple(boxes))


def _boxes_csv(path: Path, classes: Sequence[str]) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    with path.open(newline="") as handle:
        rows = csv.reader(handle)
        header = tuple(cell.strip() for cell in next(rows, []))
        if header != FIELDS:
            raise AttnBridgeError(f"{path}, line 1: expected a header {','.join(FIELDS)!r}, found {','.join(header)!r}")
        for number, row in enumerate(rows, start=2):
            if not row:
                continue
            cells = [cell.strip() for cell in row]
            if len(cells) != len(FIELDS) or not all(cell.isdecimal() for cell in cells[2:]):
                raise AttnBridgeError(
                    f"{path}, line {number}: expected an id, a class and four whole numbers of pixels"
                )
            if cells[1] not in classes:
                raise unknown(f"class in {path}, line {number}:", cells[1], classes)
            left, top, right, bottom = map(int, cells[2:])
            found.setdefault(cells[0], []).append((classes.index(cells[1]), left, top, right, bottom))
    return found


def _boxes_xml(path: Path, classes: Sequence[str]) -> list[Box]:
    """Boxes of the known classes; the kit's corners are counted from 1 and lie inside."""
    try:
        objects = ET.parse(path).getroot().findall("object")
        corners = [
            [int(float(o.findtext(f"bndbox/{c}") or "")) for c in ("xmin", "ymin", "xmax", "ymax")] for o in objects
        ]
    except (OSError, ET.ParseError, ValueError) as error:
        raise AttnBridgeError(f"{path}: cannot be read as an annotation with boxes ({error})") from None
    names = [(o.findtext("name") or "").strip() for o in objects]
    usual = [o.findtext("difficult", "0").strip() != "1" for o in objects]  # the others are not among the labels
    return [
        (classes.index(name), left - 1, top - 1, right, bottom)
        for name, (left, top, right, bottom), counts in zip(names, corners, usual, strict=True)
        if name in classes and counts
    ]
