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
