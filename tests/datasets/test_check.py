"""`attnbridge data check` on sets that the test writes and then spoils."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbridge.cli import main
from attnbridge.datasets import check as module
from attnbridge.datasets.check import check_set
from attnbridge.errors import AttnBridgeError
from tests.hostile import trees

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_good_set_is_counted_and_a_scan_is_remembered(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check_set(scenes / "source")
    assert sum(found.images.values()) == sum(sum(c.values()) for c in found.counts.values())
    assert main(["data", "check", str(scenes / "target")]) in (0, 1)  # a class may be missing in so small a set
    text = capsys.readouterr().out
    assert "| images | 32 | 8 | 10 |" in text
    assert all("has no image" in line for line in text.splitlines() if line.startswith("- "))
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_image", lambda *_: pytest.fail("opened again"))
        check_set(scenes / "target")


def test_every_kind_of_fault_is_found(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "target"
    shutil.copytree(scenes / "target", root)
    check_set(root)  # what was fine is remembered, what changes is seen
    (root / "val/images/00000.jpg").write_bytes((root / "val/images/00000.jpg").read_bytes()[:200])
    mask = np.array(Image.open(root / "val/masks/00001.png"))
    Image.fromarray(np.where(mask > 0, 77, mask).astype(np.uint8)).save(root / "val/masks/00001.png")
    Image.fromarray(mask[:-4]).save(root / "val/masks/00002.png")
    Image.fromarray(np.zeros_like(mask)).save(root / "val/masks/00003.png")
    Image.new("RGB", (48, 48)).save(root / "val/masks/00004.png")
    (root / "test/masks/00002.png").unlink()
    assert main(["data", "check", str(root), "--out", str(tmp_path / "report.md")]) == 1
    text = capsys.readouterr().out
    assert (tmp_path / "report.md").read_text() == text
    for part in (
        "00000.jpg: cannot be read as an image",
        "00001.png: holds the value 77; expected 0 to 8 or 255",
        "00002.png: is 48x44 pixels, but its image is 48x48",
        "in the labels, but not in the mask",
        "00004.png: is of mode RGB",
        "00002.png: no such file; expected the mask",
    ):
        assert part in text, part


def test_vocs_layout_and_empty_classes(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (6, 6)).save(tmp_path / f"JPEGImages/{name}.jpg")
    Image.fromarray(np.full((6, 6), 2, np.uint8)).save(tmp_path / "SegmentationClass/a.png")
    (tmp_path / "labels.csv").write_text("id,x,y,z\na,1,0,0\nb,0,1,0\n")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    (tmp_path / "ImageSets/Segmentation/weak.txt").write_text("b\n")
    found = check_set(tmp_path)
    assert found.images == {"val": 1, "weak": 1}
    assert any("y in the mask, but not in the labels" in p for p in found.problems)
    assert any("x in the labels, but not in the mask" in p for p in found.problems)
    assert "weak: class z has no image" in found.problems


def test_a_folder_that_is_no_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AttnBridgeError, match="is no data set; expected class folders"):
        check_set(tmp_path)
    with pytest.raises(AttnBridgeError, match="no such folder"):
        check_set(tmp_path / "lost")


@pytest.mark.parametrize("lost", [["train"], ["train", "val", "test"]], ids=["one", "all"])
def test_a_lost_table_of_labels_is_named_and_no_class_is_invented(
    lost: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trees.pair(tmp_path / "x") / "target"
    for split in lost:
        (root / split / "labels.csv").unlink()
    assert main(["data", "check", str(root)]) == (2 if "val" in lost else 1)
    out, error = capsys.readouterr()
    assert f"{root}/train/labels.csv: no such file; expected a header" in out + error
    assert "| masks |" not in out
    if "val" not in lost:  # the others say what the classes are
        assert "| class | val | test |" in out
        assert "| cat | 3 | 3 |" in out


def test_a_split_alone_is_told_as_one(tmp_path: Path) -> None:
    root = trees.pair(tmp_path / "x") / "target/train"
    with pytest.raises(AttnBridgeError, match=r"train: is a split, no set of them; give the folder that holds it"):
        check_set(root)


def test_class_folders_may_have_the_names_of_other_layouts(tmp_path: Path) -> None:
    for name in ("images", "paintings"):
        trees.noise(tmp_path / f"train/{name}/1.jpg", 1)
    assert check_set(tmp_path).classes == ("images", "paintings")


def test_what_is_wrong_with_single_images_is_listed_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trees.pair(tmp_path / "x") / "target"
    for name in ("val/images/000.jpg", "val/images/001.jpg"):
        (root / name).unlink()
        (root / name).symlink_to("/nowhere.jpg")
    for name in ("000", "002"):  # an image without pixels has a mask to look at
        Image.fromarray(np.full((trees.SIDE, trees.SIDE), 77, np.uint8)).save(root / f"val/masks/{name}.png")
    (root / "val/masks/003.png").unlink()
    (root / "test/images/002.jpg").unlink()
    (root / "test/images/003.jpg").write_bytes(b"broken")
    (root / "train/labels.csv").write_bytes(b"id,cat,dog\n00\xe9,1,0\n")
    assert main(["data", "check", str(root)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    expected = [
        ("train/labels.csv", "is not UTF-8"),
        ("val/masks/003.png", "no such file; expected the mask"),
        ("val/images/000.jpg", "is a link to '/nowhere.jpg', where nothing is"),
        ("val/masks/000.png", "holds the value 77"),
        ("val/images/001.jpg", "is a link to '/nowhere.jpg', where nothing is"),
        ("val/masks/002.png", "holds the value 77"),
        ("test/labels.csv, line 4", "no image '002'"),
        ("test/images/003.jpg", "cannot be read as an image"),
    ]
    assert len(lines) == len(expected), lines
    for line, (name, words) in zip(lines, expected, strict=True):
        assert f"{root}/{name}" in line
        assert words in line


def test_what_is_wrong_with_single_images_of_a_kit_is_listed_together(tmp_path: Path) -> None:
    kit = trees.kit(tmp_path / "kit")
    for name in ("a0", "a1"):
        path = kit / f"Annotations/{name}.xml"
        path.write_bytes(path.read_bytes().replace(b"<name>", b"<name>\xe9"))
    trees.noise(kit / "JPEGImages/a2.jpg", 3)
    with (kit / "ImageSets/Segmentation/train.txt").open("a") as names:
        names.write("a2\nlost\n")
    Image.new("RGB", (trees.SIDE, trees.SIDE)).save(kit / "a2.png")
    (kit / "SegmentationClass").mkdir()
    (kit / "a2.png").rename(kit / "SegmentationClass/a2.png")
    found = check_set(kit)
    told = [problem for problem in found.problems if "has no image" not in problem]
    for name, words in (("a0.xml", "is not XML"), ("a1.xml", "is not XML"), ("a2.png", "is of mode RGB"),
                        ("lost.png", "no such file"), ("train", "no image 'lost'")):  # fmt: skip
        assert [problem for problem in told if name in problem and words in problem], (name, told)
    assert len(told) == 5
    assert found.images == {"train": 3}
