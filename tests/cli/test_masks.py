"""From a classifier to cues, to a segmentation network, to masks: the commands as a user runs them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbridge.cli import main
from attnbridge.data.images import load_image
from attnbridge.data.saliency import make_saliency
from attnbridge.evaluation.folders import cues as cue_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_cache")]
SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]", "--model.layer", "null"),
    *("--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "0", "--data.views", "null"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
ALONE = ["--data.source", "null", "--model.source_weight", "0"]


def paired(scenes: Path) -> list[str]:
    return [
        *("--data.source", str(scenes / "source/train"), "--data.saliency", str(scenes / "saliency/train")),
        *("--data.target", str(scenes / "target")),
    ]


@pytest.fixture(scope="module")
def classifier(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose class maps are taken."""
    run = tmp_path_factory.mktemp("runs") / "classifier"
    assert main(["fit", "grad_cam", *paired(scenes), "--out", str(run), *SMALL]) == 0
    return run


@pytest.fixture(scope="module")
def cues(classifier: Path, scenes: Path) -> Path:
    out = classifier.parent / "cues"
    assert main(["cues", "--checkpoint", str(classifier), "--out", str(out), "--saliency", "centre"]) == 0
    return out


@pytest.fixture(scope="module")
def network(cues: Path, scenes: Path) -> Path:
    """A segmentation network that was trained from the cues."""
    out = cues.parent / "dsrg"
    data = [*paired(scenes), "--data.cues", str(cues), "--evaluation.scales", "[1.0]"]
    assert main(["fit", "segmentation/dsrg", *data, "--model.head_width", "16", "--out", str(out), *SMALL]) == 0
    return out


def test_each_training_image_has_a_cue_of_its_own_classes(cues: Path, scenes: Path) -> None:
    with (scenes / "target/train/labels.csv").open() as handle:
        rows = list(csv.reader(handle))
    for name, *shown in rows[1:]:
        cue = Image.open(cues / f"{name}.png")
        assert (cue.mode, cue.size) == ("P", (48, 48))
        allowed = {0, 255} | {i + 1 for i, value in enumerate(shown) if value == "1"}
        assert set(np.unique(np.asarray(cue)).tolist()) <= allowed
    assert (cues / "sheet.jpg").is_file()
    assert json.loads((cues / "cues.json").read_text())["rule"] == "highest_score"


def test_cues_of_another_split_train_nothing(
    classifier: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its images have the names of the training images."""
    out = tmp_path / "cues"
    assert main(["cues", "--checkpoint", str(classifier), "--split", "val", "--out", str(out), "--scales", "1"]) == 0
    assert (out / "00003.png").is_file()
    data = [*paired(scenes), "--data.cues", str(out)]
    assert main(["fit", "segmentation/dsrg", *data, "--out", str(tmp_path / "run"), *SMALL]) == 2
    said = capsys.readouterr().err
    assert f"made of the images in {scenes / 'target/val/images'}, but training reads" in said
    assert f"training reads those in {scenes / 'target/train/images'}" in said
    assert not (tmp_path / "run").exists()


def test_precision_and_recall_are_counted_where_there_are_masks(cues: Path, scenes: Path) -> None:
    """Beside a loop over the classes."""
    with (cues / "scores.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    masks = sorted((scenes / "target/train/masks").glob("*.png"))
    found = np.stack([np.asarray(load_image(cues / path.name, "P")) for path in masks])
    truth = np.stack([np.asarray(load_image(path, "P")) for path in masks])
    for value, row in enumerate(rows):
        hits, seeds = ((found == value) & (truth == value)).sum(), ((found == value) & (truth != 255)).sum()
        for name, of in (("precision", seeds), ("recall", (truth == value).sum())):
            assert row[name] == (f"{hits / of:.4f}" if of else ""), row


def test_cues_that_are_there_are_kept(
    cues: Path, classifier: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []
    maps = cue_folder.CueMaker.maps

    def counted(self: Any, records: Any) -> Any:
        made.append(len(records))
        return maps(self, records)

    monkeypatch.setattr(cue_folder.CueMaker, "maps", counted)
    again = ["cues", "--checkpoint", str(classifier), "--out", str(cues), "--saliency", "centre"]
    lost = sorted(cues.glob("*.png"))[3]
    before = lost.read_bytes()
    lost.unlink()
    assert main(again) == 0
    assert made == [1]
    assert lost.read_bytes() == before
    assert main([*again, "--threshold", "0.7"]) == 2
    assert "holds cues made with threshold = 0.3, not 0.7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--split", "trian"], "trian/labels.csv: no such file"),
        (["--saliency", "nowhere"], "nowhere/.*: no such file; expected the saliency"),
        (["--rule", "smallest_regoin"], "did you mean 'smallest_region'"),
        (["--scales", "1", "0"], "--scales must be at least 0.1 and at most 8, not 0"),
        (["--scales", "nan"], "--scales must be at least 0.1 and at most 8, not nan"),
        (["--threshold", "2"], "--threshold must be at least 0 and below 1, not 2"),
        (["--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_cues_that_cannot_be(
    classifier: Path, tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cues", "--checkpoint", str(classifier), "--out", str(tmp_path / "cues"), *more]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert not list(tmp_path.glob("cues/*"))


def test_a_segmentation_run_has_its_scores_and_its_report(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((network / "run.json").read_text())
    scores = record["scores"]
    assert len(scores["iou"]) == len(record["classes"]) + 1
    assert f"{100 * scores['miou']:.1f}" in (network / "report.html").read_text()
    examples = np.load(network / "examples.npz")
    assert examples["refined"].shape == examples["masks"].shape == (8, 48, 48)
    assert main(["test", str(network)]) == 0
    said = capsys.readouterr().out
    assert f"mIoU {100 * scores['miou']:.1f}" in said
    assert f"{'background':<20} IoU {100 * scores['iou'][0]:5.1f}" in said


def test_masks_of_a_folder_are_palette_images_of_their_own_size(network: Path, scenes: Path, tmp_path: Path) -> None:
    images = tmp_path / "images" / "inner"
    images.mkdir(parents=True)
    for number, path in enumerate(sorted((scenes / "target/test/images").iterdir())[:3]):
        Image.open(path).resize((40 + 8 * number, 56)).save(images / f"{number}.png")
    command = ["segment", str(network), str(tmp_path / "images"), "--out", str(tmp_path / "masks"), "--workers"]
    assert main([*command, "0"]) == 0
    masks = sorted((tmp_path / "masks/inner").glob("*.png"))
    sizes = [(Image.open(path).mode, Image.open(path).size) for path in masks]
    assert sizes == [("P", (40 + 8 * number, 56)) for number in range(3)]
    before = [path.read_bytes() for path in masks]
    masks[1].unlink()
    assert main([*command, "2"]) == 0  # the CRF in other processes
    assert [path.read_bytes() for path in masks] == before


def test_a_runs_masks_score_as_the_run_does(network: Path, scenes: Path, tmp_path: Path) -> None:
    """Its images have the size that it is trained at; a folder's probabilities are kept in half precision."""
    masks, truth = tmp_path / "masks", scenes / "target/test"
    assert main(["segment", str(network), str(truth / "images"), "--out", str(masks), "--workers", "0"]) == 0
    assert main(["score", str(masks), "--truth", str(truth / "masks"), "--out", str(tmp_path / "scores")]) == 0
    record, run = (json.loads(path.read_text()) for path in (tmp_path / "scores/scores.json", network / "run.json"))
    assert [label["name"] for label in record["labels"]] == ["background", *run["classes"]]
    assert record["miou"] == pytest.approx(run["scores"]["miou"], abs=2e-3)
    for label, iou in zip(record["labels"], run["scores"]["iou"], strict=True):
        assert label["iou"] == pytest.approx(iou, abs=5e-3)


def test_without_a_test_split_validation_is_scored(cues: Path, scenes: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    for split in ("train", "val"):
        (target / split).symlink_to(scenes / "target" / split)
    data = [*ALONE, "--data.target", str(target), "--data.cues", str(cues), "--evaluation.scales", "[1.0]"]
    run = tmp_path / "run"
    assert main(["fit", "segmentation/sec", *data, "--model.head_width", "16", "--out", str(run), *SMALL]) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["protocol"]["split"] == "val"
    assert record["scores"]["plain"]["miou"] == record["scores"]["val_miou"]


def test_cues_of_other_classes_are_refused(
    cues: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same columns in another order: the cues' values would stand for other classes."""
    target = tmp_path / "target"
    for split in ("train", "val"):
        (target / split).mkdir(parents=True)
        for part in ("images", *(["masks"] if split == "val" else [])):
            (target / split / part).symlink_to(scenes / "target" / split / part)
        rows = [line.split(",") for line in (scenes / "target" / split / "labels.csv").read_text().splitlines()]
        swapped = "\n".join(",".join([row[0], *row[:0:-1]]) for row in rows)
        (target / split / "labels.csv").write_text(swapped + "\n")
    command = ["fit", "segmentation/dsrg", *ALONE, "--data.target", str(target), "--data.cues", str(cues)]
    assert main([*command, "--out", str(tmp_path / "run"), *SMALL]) == 2
    assert "in this order; name the same data.source for both" in capsys.readouterr().err


def test_saliency_of_two_splits_does_not_mix(classifier: Path, scenes: Path, tmp_path: Path) -> None:
    """Images of both have the same names."""
    made = {}
    for split in ("train", "val"):
        out = tmp_path / split
        command = ["cues", "--checkpoint", str(classifier), "--split", split, "--out", str(out)]
        assert main([*command, "--saliency", "spectral", "--background", "0.3"]) == 0
        made[split] = (np.asarray(load_image(out / "00000.png", "P")) == 0).tolist()
    assert made["train"] != made["val"]


def test_other_labels_make_another_cue(classifier: Path, scenes: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "train").mkdir(parents=True)
    (target / "train" / "images").symlink_to(scenes / "target/train/images")
    table = target / "train" / "labels.csv"
    table.write_text((scenes / "target/train/labels.csv").read_text())
    command = ["cues", "--checkpoint", str(classifier), "--data", str(target), "--out", str(tmp_path / "cues")]
    assert main(command) == 0
    head, first, *rest = table.read_text().splitlines()
    name, *shown = first.split(",")
    table.write_text("\n".join([head, ",".join([name, *("10"[int(value)] for value in shown)]), *rest]) + "\n")
    before = (tmp_path / "cues" / f"{name}.png").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "cues" / f"{name}.png").read_bytes() != before


def test_the_sources_seeds_need_their_saliency(
    cues: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [*paired(scenes), "--data.saliency", "null", "--data.cues", str(cues)]
    assert main(["fit", "segmentation/dsrg", *data, "--out", str(tmp_path / "run"), *SMALL]) == 2
    assert "data.saliency is not set, but model.source_weight needs" in capsys.readouterr().err


def test_two_images_of_one_name_are_told(
    network: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(iter((scenes / "target/test/images").iterdir()))
    for suffix in ("jpg", "png"):
        Image.open(image).save(tmp_path / f"a.{suffix}")
    assert main(["segment", str(network), str(tmp_path), "--out", str(tmp_path / "masks")]) == 2
    assert "would both become" in capsys.readouterr().err


def test_deeplabs_network_passes_the_first_checks(
    cues: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [*paired(scenes), "--data.cues", str(cues), "--model.backbone", "vgg16"]
    wrong = ["--model.layer", "features.99", "--model.frozen", "[]", "--model.stride", "8"]
    assert main(["fit", "segmentation/dsrg", *data, *wrong, "--out", str(tmp_path / "run")]) == 2
    assert "unknown layer 'features.99'" in capsys.readouterr().err  # not its stride of 8


def test_one_bad_image_does_not_stop_the_others(
    network: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "bad.png").write_bytes(b"no image")
    (images / "good.jpg").write_bytes(next(iter((scenes / "target/test/images").iterdir())).read_bytes())
    out = tmp_path / "masks"
    assert main(["segment", str(network), str(images), "--out", str(out), "--workers", "0"]) == 1
    assert "skipped: " in (said := capsys.readouterr().out)
    assert "bad.png" in said
    assert sorted(path.name for path in out.glob("[!.]*")) == ["good.png", "masks.json", "sheet.jpg"]


def test_a_classifiers_maps_make_masks_too(classifier: Path, scenes: Path, tmp_path: Path) -> None:
    command = ["segment", str(classifier), str(scenes / "target/test/images"), "--out", str(tmp_path / "masks")]
    assert main(command) == 0
    assert len(list((tmp_path / "masks").glob("*.png"))) == 10


def test_a_segmentation_network_knows_its_background(
    network: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["segment", str(network), str(scenes / "target/test/images"), "--out", str(tmp_path / "masks")]
    assert main([*command, "--threshold", "0.3"]) == 2
    assert "--threshold belongs to class maps" in capsys.readouterr().err


def test_cues_of_a_users_own_saliency(classifier: Path, scenes: Path, tmp_path: Path) -> None:
    images = scenes / "target/val/images"
    make_saliency({path.name: path for path in images.iterdir()}, tmp_path / "saliency", "centre")
    out = tmp_path / "cues"
    command = ["cues", "--checkpoint", str(classifier), "--split", "val", "--out", str(out)]
    assert main([*command, "--saliency", str(tmp_path / "saliency"), "--background", "0.3"]) == 0
    assert any((np.asarray(load_image(path, "P")) == 0).any() for path in out.glob("*.png"))
