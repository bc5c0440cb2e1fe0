"""``attnbridge score``: masks of any tool beside the true ones, printed and written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbridge.cli import main
from attnbridge.data.palette import palette_png
from attnbridge.data.provenance import LEDGER
from tests.evaluation.test_mask_scores import drawn, saved

NAMES = "cat,dog,cow,emu"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Folders of predicted and of true masks."""
    saved(tmp_path, drawn())
    return tmp_path


def score(place: Path, *words: str) -> int:
    return main(["score", str(place / "found"), "--truth", str(place / "truth"), *words])


def test_scores_are_printed_and_nothing_is_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(place.rglob("*"))
    assert score(place, "--classes", NAMES) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["background", *NAMES.split(","), "mIoU"]
    assert lines[3].split()[1:6] == ["IoU", "-", "boundary", "F", "-"]
    assert lines[-1].startswith("mIoU ")
    assert lines[-1].endswith(", 5 images")
    assert sorted(place.rglob("*")) == before


def test_what_is_written_says_what_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "scores"
    for _ in range(2):  # one's own results are replaced
        assert score(place, "--classes", NAMES, "--out", str(out)) == 0
    said = capsys.readouterr().out.splitlines()
    assert {path.name for path in out.iterdir()} == {
        "scores.json", "scores.csv", "confusion.png", "worst.png", LEDGER
    }  # fmt: skip
    record = json.loads((out / "scores.json").read_text())
    assert f"mIoU {100 * record['miou']:.1f}, boundary F {100 * record['boundary_f']:.1f}" in said[-2]
    assert said[-1] == str(out / "confusion.png")
    assert record["truth"] == str(place / "truth")
    assert "255 of the truth ignored" in record["protocol"]["iou"]
    lowest = [entry["iou"] for entry in record["lowest"]]
    assert lowest == sorted(lowest)
    with (out / "scores.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    for row, label, line in zip(rows, record["labels"], said, strict=False):
        assert (row["class"], int(row["pixels"])) == (label["name"], label["pixels"])
        assert row["iou"] == ("" if label["iou"] is None else f"{label['iou']:.4f}")
        assert line.startswith(row["class"])
    assert sum(map(sum, record["confusion"])) == sum(label["pixels"] for label in record["labels"])
    assert Image.open(out / "confusion.png").width > 300
    assert Image.open(out / "worst.png").width > 400


def test_a_kit_names_its_classes_and_its_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = tmp_path / "VOC2012"
    for folder in (kit / "SegmentationClass", tmp_path / "found"):
        folder.mkdir(parents=True)
        palette_png(np.full((6, 8), 15)).save(folder / "a.png")
    (kit / "ImageSets/Segmentation").mkdir(parents=True)
    (kit / "ImageSets/Segmentation/val.txt").write_text("a\n")
    assert main(["score", str(tmp_path / "found"), "--truth", str(kit), "--list", "val"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[15].split() == ["person", "IoU", "100.0", "boundary", "F", "100.0", "48", "pixels"]
    assert lines[-1] == "mIoU 100.0, boundary F 100.0, pixel accuracy 100.0, 1 images"


def test_pixels_without_a_label_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.zeros((4, 4))
    found = truth.copy()
    found[0] = 255
    saved(tmp_path, [(found, truth)])
    assert score(tmp_path) == 0
    said = capsys.readouterr().out
    assert "mIoU 75.0, boundary F -, pixel accuracy 75.0" in said
    assert "25% of the pixels have no predicted label (255), which counts as wrong" in said
