"""Predicted masks find their true ones, and classes their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbridge.data.mask_pairs import mask_classes, pair_masks
from attnbridge.data.voc import VOC_CLASSES
from attnbridge.errors import AttnBridgeError, warn_once


def masks(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / name)
    return root


def kit(root: Path) -> Path:
    masks(root / "SegmentationClass", "a.png", "b.png")
    masks(root / "SegmentationClassAug", "b.png")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    (root / "ImageSets/Segmentation/train.txt").write_text("b\n")
    return root


def test_names_and_folders_pair_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = masks(tmp_path / "truth", "a.png", "street/a.PNG", "street/b.c.png")
    found = masks(tmp_path / "found", "a.png", "street/a.png", "street/b.c.png", "over.png", ".hidden/x.png")
    (found / "sheet.jpg").touch()
    warn_once.cache_clear()
    pairs = pair_masks(found, truth)
    assert [(p.name, p.found.relative_to(found).as_posix()) for p in pairs] == [
        ("a", "a.png"), ("street/a", "street/a.png"), ("street/b.c", "street/b.c.png")
    ]  # fmt: skip
    assert [p.truth.relative_to(truth).as_posix() for p in pairs] == ["a.png", "street/a.PNG", "street/b.c.png"]
    assert f"{found / 'over.png'}: has no true mask in {truth}, so it is left out (1 such masks in all)" in caplog.text


def test_a_kits_list_says_which(tmp_path: Path) -> None:
    root, found = kit(tmp_path / "VOC2012"), masks(tmp_path / "found", "a.png", "b.png")
    assert [p.truth.relative_to(root).as_posix() for p in pair_masks(found, root)] == [
        "SegmentationClass/a.png", "SegmentationClassAug/b.png"
    ]  # fmt: skip
    assert [p.name for p in pair_masks(found, root, "train")] == ["b"]
    with pytest.raises(AttnBridgeError, match=r"unknown list of images .*'vall'; did you mean 'val'"):
        pair_masks(found, root, "vall")


def test_a_missing_prediction_is_counted_and_the_first_named(tmp_path: Path) -> None:
    truth = masks(tmp_path / "truth", "a.png", "b.png", "c.png")
    found = masks(tmp_path / "found", "a.png", "b.jpg")
    with pytest.raises(AttnBridgeError) as error:
        pair_masks(found, truth)
    assert str(error.value).startswith(f"{found / 'b.png'}: no such file; expected the predicted mask of {truth}/b.png")
    assert "there is b.jpg, but only a PNG" in str(error.value)
    assert "(2 of 3 true masks have none" in str(error.value)


def test_classes_are_named_by_the_user_the_table_or_the_kit(tmp_path: Path) -> None:
    truth = masks(tmp_path / "val/masks", "a.png")
    assert mask_classes(truth) is None
    (tmp_path / "val/labels.csv").write_text("id,dog,cat\na,1,0\n")
    assert mask_classes(truth) == ("dog", "cat")
    assert mask_classes(truth, ["cat"]) == ("cat",)
    root = kit(tmp_path / "VOC2012")
    assert mask_classes(root) == mask_classes(root / "SegmentationClass") == VOC_CLASSES
    (root / "labels.csv").write_text("id,dog\na,1\n")
    assert mask_classes(root) == ("dog",)
