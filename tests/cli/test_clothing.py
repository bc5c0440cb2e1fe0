"""The garments' tables on a small set in their layout, which the test makes of drawn scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from attnbridge.cli import main
from attnbridge.experiments.tables import TABLES

SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[conv1, bn1]"),
    *("--saliency", "centre"),
    *("--data.image_size", "[64, 48]", "--data.batch_size", "4", "--data.workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture
def garments(scenes: Path, tmp_path: Path) -> Path:
    root = tmp_path / "clothing"
    shutil.copytree(scenes / "source/train", root / "source/train")
    target = root / "target"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (target / folder).mkdir(parents=True)
    rows: list[str] = []
    for split, name in (("train", "train_labels_only"), ("val", "val"), ("test", "test")):
        header, *lines = (scenes / "target" / split / "labels.csv").read_text().splitlines()
        ids = [line.split(",", 1)[0] for line in lines]
        for identity in ids:
            (image,) = (scenes / "target" / split / "images").glob(f"{identity}.*")
            shutil.copy(image, target / "JPEGImages" / f"{split}{identity}.jpg")
            if split != "train":
                mask = scenes / "target" / split / "masks" / f"{identity}.png"
                shutil.copy(mask, target / "SegmentationClass" / f"{split}{identity}.png")
        rows = rows or [header]
        rows += [f"{split}{line}" for line in lines]
        (target / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(f"{split}{i}" for i in ids))
    (target / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.slow
def test_the_table_of_the_garments(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path / "cache"))
    rows = ["clothing/source_guided", "clothing/fine_tuned", "clothing/attnbn_50"]
    command = ["benchmark", "clothing", "--data", str(garments), "--out", str(tmp_path / "out"), "--seeds", "0"]
    assert main([*command, "--rows", *rows, *SMALL]) == 0
    assert "| clothing/attnbn_50 |" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["name"] for row in results["rows"]] == rows
    assert "Garments" in results["protocol"]["data"]
    assert (tmp_path / "out/report.html").is_file()
    assert not (tmp_path / "out/clothing_fine_tuned-0/first").exists()  # the trained row was used
    assert list((tmp_path / "cache/saliency").rglob("*.png"))


def test_the_folder_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "clothing"]) == 2
    assert "--data: expected a folder with source/train/CLASS/*.jpg and target/" in capsys.readouterr().err
    assert main(["benchmark", "table1", "--data", "nowhere"]) == 2
    assert "nowhere: expected a folder with source/CLASS/*.jpg and VOC2012/" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_of_chains_from_cues_to_masks(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    command = ["benchmark", "clothing_segmentation", "--data", str(garments), "--out", str(out), "--seeds", "0", *SMALL]
    assert main([*command, "--model.layer", "layer4"]) == 0
    shown = capsys.readouterr().out.splitlines()
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(TABLES["clothing_segmentation"].rows)
    run = json.loads((out / "clothing_attnbn-0" / "segmentation" / "run.json").read_text())["scores"]
    assert (rows[1]["plain"], rows[1]["refined"]) == (run["plain"]["miou"], run["miou"])
    assert shown[-1].startswith(f"| clothing/attnbn | {100 * rows[1]['direct']:.1f} |")
    assert shown[-1] in _as_markdown((out / "report.html").read_text())
    assert main([*command, "--model.layer", "layer4"]) == 0
    assert capsys.readouterr().out.count("there already") == 6  # three stages of each row
    assert main([*command, "--model.layer", "layer3"]) == 2
    assert "classifier: was made with config.model.layer = 'layer4', not 'layer3'" in capsys.readouterr().err
    assert (out / "clothing_grad_cam-0/classifier/run.json").is_file()
    (garments / "target/ImageSets/Segmentation/val.txt").unlink()
    assert main([*command, "--model.layer", "layer4"]) == 2
    assert "has no val/ with masks; a table needs one" in capsys.readouterr().err
    assert main([*command, "--trials", "2"]) == 2
    assert "belong to other tables" in capsys.readouterr().err


def _as_markdown(page: str) -> str:
    return page.replace("<tr><td>", "\n| ").replace("</td><td>", " | ").replace("</td></tr>", " |")
