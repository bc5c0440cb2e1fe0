"""Masks, boxes and saliency maps that guide: what they say of each pixel, and clear errors."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.guidance import scan_guided
from attnbridge.data.transforms import eval_transform
from attnbridge.errors import AttnBridgeError
from attnbridge.methods.gain import GAIN
from tests.runs import SMALL, make_data, make_trainer

CLASSES = ("bird", "boat")
HEADER = "id,class,left,top,right,bottom\n"


def image(path: Path, mode: str = "RGB", array: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((6, 8, 3) if mode == "RGB" else (6, 8), 90) if array is None else array
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A source that names the classes; a target whose folder ``few`` holds one image of each kind."""
    for name in CLASSES:
        image(tmp_path / "source" / name / "0.png")
    for name in ("one", "both"):
        image(tmp_path / "target/few/images" / f"{name}.png")
    (tmp_path / "target/few/labels.csv").write_text("id,bird,boat\none,0,1\nboth,1,1\n")
    return tmp_path / "source", tmp_path / "target"


def masks(pair: tuple[Path, Path], kind: Any, names: str = "few") -> dict[str, torch.Tensor]:
    records = scan_guided(*pair, names, kind)
    dataset = ImageDataset(records, 2, "target", eval_transform((6, 8)))
    return {record.image.stem: dataset[i]["mask"] for i, record in enumerate(records)}


def test_boxes_are_objects_and_nothing_is_known_where_two_classes_overlap(pair: tuple[Path, Path]) -> None:
    rows = "one,boat,1,2,4,5\none,boat,3,2,6,5\nboth,bird,0,0,4,3\nboth,boat,2,1,8,6\n"
    (pair[1] / "few/boxes.csv").write_text(HEADER + rows)
    found = masks(pair, "boxes")
    one = torch.zeros(6, 8, dtype=torch.long)
    one[2:5, 1:6] = 2  # two boats overlap: still a boat
    assert torch.equal(found["one"], one)
    both = torch.zeros(6, 8, dtype=torch.long)
    both[0:3, 0:4], both[1:6, 2:8] = 1, 2
    both[1:3, 2:4] = 255
    assert torch.equal(found["both"], both)


def test_saliency_tells_the_only_class_and_the_background_of_several(pair: tuple[Path, Path]) -> None:
    values = np.zeros((6, 8))
    values[2:4], values[4:] = 127, 128
    values[5] = 255
    for name in ("one", "both"):
        image(pair[1] / f"few/saliency/{name}.png", "L", values)
    found = masks(pair, "saliency")
    assert found["one"][:, 0].tolist() == [0, 0, 0, 0, 2, 2]
    assert found["both"][:, 0].tolist() == [0, 0, 0, 0, 255, 255]


def test_boxes_of_the_kit_are_counted_from_one(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    kit = tmp_path / "VOC2012"
    image(kit / "JPEGImages/a.jpg")
    (kit / "ImageSets/Main").mkdir(parents=True)
    (kit / "ImageSets/Main/few.txt").write_text("a\n")
    (kit / "Annotations").mkdir()
    box = "<bndbox><xmin>2</xmin><ymin>1</ymin><xmax>4</xmax><ymax>3.0</ymax></bndbox>"
    corner = "<bndbox><xmin>7</xmin><ymin>6</ymin><xmax>8</xmax><ymax>6</ymax></bndbox>"
    hard = "<object><name>boat</name><difficult>1</difficult>" + corner + "</object>"
    other = "<object><name>dog</name>" + box + "</object>"
    text = f"<annotation><object><name>boat</name>{box}</object>{hard}{other}</annotation>"
    (kit / "Annotations/a.xml").write_text(text)
    expected = torch.zeros(6, 8, dtype=torch.long)
    expected[0:3, 1:4] = 2
    expected[5, 6:8] = 255  # difficult: no label says that it is there, and it is no background
    assert torch.equal(masks((pair[0], kit), "boxes")["a"], expected)
    (kit / "Annotations/a.xml").write_text("<annotation><object><name>boat</name></object></annotation>")
    with pytest.raises(AttnBridgeError, match=r"a.xml: cannot be read as an annotation with boxes"):
        masks((pair[0], kit), "boxes")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (HEADER + "one,boat,1,2,9,5\n", r"one.png: its box 1,2,9,5 does not lie in the image, which is 8x6 pixels"),
        (HEADER + "one,boat,4,2,4,5\n", r"does not lie in the image"),
        (HEADER + "one,bird,1,2,4,5\n", r"one.png: has a box of 'bird', which is not among its labels"),
        (HEADER + "both,boat,1,2,4,5\n", r"both.png: shows 'bird', but has no box of it"),
        (HEADER + "one,baot,1,2,4,5\n", r"boxes.csv, line 2: 'baot'; did you mean 'boat'"),
        (HEADER + "another,boat,1,2,4,5\n", r"boxes.csv: no such file; expected the boxes of at least one"),
        (HEADER + "one,boat,1,2,4\n", r"boxes.csv, line 2: expected 6 fields, found 5"),
        ("id,class,x,y,w,h\n", r"boxes.csv, line 1: expected a header 'id,class,left,top,right,bottom'"),
        (None, r"boxes.csv: no such file; expected the boxes of at least one"),
    ],
)
def test_clear_errors(pair: tuple[Path, Path], rows: str | None, words: str) -> None:
    if rows is not None:
        (pair[1] / "few/boxes.csv").write_text(rows)
    with pytest.raises(AttnBridgeError, match=words):
        scan_guided(*pair, "few", "boxes")


def test_only_images_that_have_what_guides_are_used(pair: tuple[Path, Path]) -> None:
    (pair[1] / "few/boxes.csv").write_text(HEADER + "one,boat,1,2,6,5\n")
    assert list(masks(pair, "boxes")) == ["one"]
    for kind, folder in (("saliency", "saliency"), ("masks", "masks")):
        with pytest.raises(AttnBridgeError, match=rf"{folder}|SegmentationClass.*expected the {kind} of at least one"):
            scan_guided(*pair, "few", kind)  # type: ignore[arg-type]
        image(pair[1] / f"few/{folder}/both.png", "L", np.zeros((6, 8)))
        assert list(masks(pair, kind)) == ["both"]


def test_wrong_maps_and_a_wrong_kind_are_named(pair: tuple[Path, Path]) -> None:
    with pytest.raises(AttnBridgeError, match=r"'box'; did you mean 'boxes'"):
        scan_guided(*pair, "few", "box")  # type: ignore[arg-type]
    path = pair[1] / "few/saliency/one.png"
    image(path)
    with pytest.raises(AttnBridgeError, match=r"one.png: its mode is RGB; a saliency map must be 8-bit grey"):
        scan_guided(*pair, "few", "saliency")
    image(path, "L", np.zeros((3, 3)))
    with pytest.raises(AttnBridgeError, match=r"one.png: the mask is 3x3 pixels, but its image"):
        scan_guided(*pair, "few", "saliency")


def test_gain_learns_from_boxes(scenes: Path, tmp_path: Path) -> None:
    """Boxes around the masks of the validation images."""
    scenes = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    with (scenes / "target/val/boxes.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(HEADER.strip().split(","))
        for record in scan_guided(scenes / "source/train", scenes / "target", "val", "masks"):
            assert record.mask is not None
            mask = np.asarray(Image.open(record.mask))
            for label in record.classes:
                y, x = np.nonzero(mask == label + 1)
                name = make_data(scenes).classes[label]
                rows.writerow([record.image.stem, name, x.min(), y.min(), x.max() + 1, y.max() + 1])
    data = make_data(scenes, guided="val", guided_by="boxes", guided_batch=4)
    trainer = make_trainer(max_steps=2)
    trainer.fit(GAIN(data.classes, mining_weight=0, guidance_weight=10, **SMALL), data)
    assert float(trainer.callback_metrics["loss/guided/attention"]) > 0
    boxed, masked = (
        scan_guided(scenes / "source/train", scenes / "target", "val", kind) for kind in ("boxes", "masks")
    )
    for with_boxes, with_mask in zip(boxed, masked, strict=True):
        drawn, true = (
            ImageDataset([record], len(data.classes), "target", eval_transform(48))[0]["mask"]
            for record in (with_boxes, with_mask)
        )
        assert torch.all((drawn == true) | (true == 0) | (drawn == 255))  # a box covers its object
