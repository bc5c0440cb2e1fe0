"""VOC's layout with its oddities, on a small tree that the test writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.folders import has_split, scan_pair, subsample_per_class
from attnbridge.data.images import ImageRecord
from attnbridge.data.transforms import PadTo, eval_transform, train_transform
from attnbridge.data.voc import VOC_CLASSES, list_names, scan_voc
from attnbridge.errors import AttnBridgeError

CLASSES = ("cat", "dog", "person")  # of 20: the others are ignored
CAT, DOG, SOFA = (VOC_CLASSES.index(name) + 1 for name in ("cat", "dog", "sofa"))


def annotation(*objects: tuple[str, int]) -> str:
    parts = [f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in objects]
    return f"<annotation>{''.join(parts)}</annotation>"


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in ("2007_000001", "2007_000002", "odd name"):
        suffix = ".JPG" if name == "2007_000002" else ".jpg"
        Image.new("RGB", (8, 6), "navy").save(root / "JPEGImages" / f"{name}{suffix}", "JPEG")
        mask = np.zeros((6, 8), np.uint8)
        mask[:, :2], mask[:, 2:4], mask[:, 4:5], mask[:, 5] = CAT, SOFA, 255, DOG
        image = Image.fromarray(mask, mode="P")
        image.putpalette([i for k in range(256) for i in (k, 255 - k, k)])
        image.save(root / "SegmentationClass" / f"{name}.png")
    (root / "Annotations/2007_000001.xml").write_text(annotation(("cat", 0), ("dog", 1), ("sofa", 0)))
    (root / "Annotations/2007_000002.xml").write_text(annotation(("dog", 1), ("dog", 0)))
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2007_000002\n\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_000001\n")
    (root / "ImageSets/Main/cat_trainval.txt").write_text("2007_000001  1\n2007_000002 -1\n")
    return root


def test_labels_are_the_objects_that_are_not_difficult(kit: Path) -> None:
    first, second = scan_voc(kit, CLASSES, "train")
    assert (first.classes, second.classes) == ((0,), (1,))
    assert second.image.name == "2007_000002.JPG"
    assert first.mask is None


def test_masks_have_the_wanted_classes_and_ignore_the_others(kit: Path) -> None:
    records = scan_voc(kit, CLASSES, "val", masks=True)
    mask = ImageDataset(records, 3, "target", eval_transform((6, 8)))[0]["mask"]
    assert mask[0].tolist() == [1, 1, 255, 255, 255, 2, 0, 0]


def test_without_annotations_the_masks_give_the_labels(kit: Path) -> None:
    (kit / "Annotations/2007_000001.xml").unlink()
    (kit / "SegmentationClassAug").mkdir()
    Image.fromarray(np.full((6, 8), DOG, np.uint8)).save(kit / "SegmentationClassAug/2007_000001.png")
    (record,) = scan_voc(kit, CLASSES, "val")
    assert record.classes == (1,)
    assert record.mask is None  # for labels alone; it does not reach the method


def test_labels_in_a_table_name_the_masks_values(kit: Path) -> None:
    (kit / "labels.csv").write_text("id,dog,cat,person\n2007_000001,1,0,1\n2007_000002,0,0,0\n")
    first, second = scan_voc(kit, CLASSES, "train", masks=True)
    assert (first.classes, second.classes) == ((1, 2), ())
    assert first.values == (0, 2, 1, 3)


def test_lists_with_two_columns_and_of_other_names(kit: Path, tmp_path: Path) -> None:
    assert list_names(kit, "cat_trainval") == ["2007_000001", "2007_000002"]
    source = tmp_path / "source"
    for name in CLASSES:
        (source / name).mkdir(parents=True)
    records = scan_pair(source, kit, None, "val", {"val": "train"})
    assert len(records) == 2
    assert records[0].mask is not None
    assert not has_split(kit, "test")
    assert has_split(kit, "test", {"test": "val"})


def test_what_is_missing_is_named(kit: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"unknown list of images.*'trai'; did you mean 'train'"):
        scan_voc(kit, CLASSES, "trai")
    with pytest.raises(AttnBridgeError, match=r"'dgo'; did you mean 'dog'"):
        scan_voc(kit, ["dgo"], "train")
    (kit / "ImageSets/Segmentation/val.txt").write_text("lost\n")
    with pytest.raises(AttnBridgeError, match=r"lost\.png: no such file; expected the mask of lost"):
        scan_voc(kit, CLASSES, "val", masks=True)
    (kit / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(AttnBridgeError, match=r"val\.txt: the list is empty"):
        scan_voc(kit, CLASSES, "val")
    (kit / "Annotations/2007_000001.xml").write_text("<annotation>")
    with pytest.raises(AttnBridgeError, match=r"2007_000001\.xml: is not XML"):
        scan_voc(kit, CLASSES, "train")
    (kit / "Annotations/2007_000001.xml").write_text(annotation(("catt", 0)))
    with pytest.raises(AttnBridgeError, match=r"2007_000001\.xml.*'catt'; did you mean 'cat'"):
        scan_voc(kit, CLASSES, "train")
    (kit / "labels.csv").write_text("id,dog,cat,person\n2007_000001,1,0\n")
    with pytest.raises(AttnBridgeError, match=r"labels\.csv, line 2: expected 4 fields, found 3"):
        scan_voc(kit, CLASSES, "train")


def test_padding_keeps_the_shape_and_says_what_is_not_image(kit: Path) -> None:
    records = scan_voc(kit, CLASSES, "val", masks=True)
    saliency = kit / "saliency.png"
    Image.new("L", (8, 6), 255).save(saliency)
    record = ImageRecord("x", records[0].image, (0,), saliency, records[0].mask, records[0].values)
    sample = ImageDataset([record], 3, "target", eval_transform((12, 8), "pad"))[0]
    assert sample["image"].shape == (3, 12, 8)
    assert sample["mask"][:3].unique().tolist() == [255]
    assert sample["mask"][3].tolist() == [1, 1, 255, 255, 255, 2, 0, 0]
    assert sample["saliency"].sum() == 6 * 8
    assert sample["saliency"][:3].max() == 0
    stretched = ImageDataset([record], 3, "target", eval_transform((12, 8)))[0]
    assert stretched["saliency"].min() == 1
    torch.manual_seed(0)
    trained = ImageDataset([record], 3, "target", train_transform((24, 16), shape="pad"))[0]
    assert trained["image"].shape == (3, 24, 16)
    assert ((trained["saliency"] > 0) | (trained["mask"] == 255)).all()
    assert PadTo(1.0)(torch.zeros(3, 4, 4)).shape == (3, 4, 4)


def test_a_share_of_the_source_is_of_each_class_and_nested() -> None:
    records = [ImageRecord(f"{c}/{i}", Path("x"), (c,)) for c in range(3) for i in range(20)]
    tenth, half = subsample_per_class(records, 0.1), subsample_per_class(records, 0.5)
    assert [sum(r.classes == (c,) for r in half) for c in range(3)] == [10, 10, 10]
    assert {r.id for r in tenth} < {r.id for r in half}
    assert subsample_per_class(records, 1.0) == records
    with pytest.raises(AttnBridgeError, match="above 0 and at most 1, not 2"):
        subsample_per_class(records, 2)
