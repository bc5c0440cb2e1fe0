"""The whole chain as one command: what it leaves, what it skips, what it makes again, and how it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from attnbridge.cli import main
from attnbridge.data.images import load_image
from attnbridge.experiments import pipeline
from attnbridge.experiments.config import Experiment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_cache")]
SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]", "--model.layer", "null"),
    *("--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "0", "--data.views", "null"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
STAGES = ["classifier", "cues", "segmentation", "own-masks", "retrained", "masks"]


@pytest.fixture(scope="module")
def command(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Stops at the second network, as when it is killed there."""
    out = tmp_path_factory.mktemp("line") / "out"
    (out.parent / "small.yaml").write_text(
        "base: segmentation/dsrg\nmodel: {head_width: 16}\nevaluation: {crf: false}\n"
    )
    (out.parent / "again.yaml").write_text(
        "base: segmentation/retrain\nmodel: {head_width: 16}\nevaluation: {crf: false}\n"
    )
    return [
        *("pipeline", "--source", str(scenes / "source/train"), "--target", str(scenes / "target")),
        *("--saliency", str(scenes / "saliency/train"), "--target-saliency", "centre", "--out", str(out)),
        *("--segmentation", str(out.parent / "small.yaml"), "--retrain", str(out.parent / "again.yaml"), *SMALL),
    ]


def out_of(command: list[str]) -> Path:
    return Path(command[command.index("--out") + 1])


def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that are made from here on."""
    names: list[str] = []
    run = pipeline.Stages.run

    def noted(self: pipeline.Stages, name: str, made_of: object, make: object) -> str:
        def made_now(folder: Path) -> None:
            names.append(name)
            make(folder)  # type: ignore[operator]

        return run(self, name, made_of, made_now)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.Stages, "run", noted)
    return names


def test_killed_at_a_stage_it_goes_on_from_there(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = pipeline.fit_stage

    def killed(experiment: Experiment, folder: Path) -> None:
        if folder.name == "segmentation":
            raise KeyboardInterrupt
        fit(experiment, folder)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fit_stage", killed)
        names = made(patch)
        assert main(command) == 130
        assert names == ["classifier", "cues", "segmentation"]
    names = made(monkeypatch)
    assert main(command) == 0
    assert names == STAGES[2:]
    out = out_of(command)
    record = json.loads((out / "pipeline.json").read_text())
    assert all(record[name]["done"] for name in STAGES)


def test_it_leaves_masks_of_all_images_and_a_page(command: list[str], scenes: Path) -> None:
    out = out_of(command)
    for split, count in (("train", 32), ("val", 8), ("test", 10)):
        assert len(list((out / "masks" / split).glob("*.png"))) == count
    page = (out / "report.html").read_text()
    after = json.loads((out / "retrained" / "run.json").read_text())["scores"]["miou"]
    assert f"{100 * after:.1f}" in page
    rows = (scenes / "target/train/labels.csv").read_text().splitlines()[1:]
    for name, *shown in (row.split(",") for row in rows):  # the masks that it learns from know the labels
        values = set(np.unique(load_image(out / "own-masks" / f"{name}.png", "P")).tolist())
        assert values <= {0} | {i + 1 for i, value in enumerate(shown) if value == "1"}


def test_what_is_current_is_skipped_and_what_is_not_is_made_again(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = made(monkeypatch)
    assert main(command) == 0
    assert names == []
    before = (out_of(command) / "cues/00000.png").read_bytes()
    assert main([*command, "--threshold", "0.5"]) == 2
    assert "cues: was made with settings.threshold = 0.3, not 0.5" in capsys.readouterr().err
    assert (names, (out_of(command) / "cues/00000.png").read_bytes()) == ([], before)
    assert main([*command, "--threshold", "0.5", "--replace"]) == 0
    assert names == STAGES[1:]
    assert "was made with settings.threshold = 0.3, not 0.5" in " ".join(capsys.readouterr().out.split())


def test_a_stage_that_was_deleted_is_made_again(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(out_of(command) / "masks")
    names = made(monkeypatch)
    assert main([*command, "--threshold", "0.5"]) == 0
    assert names == ["masks"]


def test_a_folder_that_is_not_its_own_is_left_alone(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier" / "mine.txt").write_text("mine")
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "not made by this pipeline" in capsys.readouterr().err
    assert (tmp_path / "classifier" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--source", "nowhere"], "nowhere: no such folder"),
        (["--segmentation", "segmentation/drsg"], "did you mean 'segmentation/dsrg'"),
        (["--rule", "largest"], "unknown rule 'largest'"),
        (["--retrain", "segmentation/retain"], "did you mean 'segmentation/retrain'"),
        (["--segmentation", "grad_cam"], "no segmentation network"),
        (["--target-saliency", "u2ned"], "did you mean 'u2net'"),
        (["--data.source", "x"], "the folders have options of their own"),
        (["--model.source_weight", "0"], "both networks have one"),
    ],
)
def test_wrong_inputs_are_told_before_anything_is_made(
    command: list[str], tmp_path: Path, change: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *change, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_any_mask_there_are_masks_but_no_scores(
    command: list[str], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "target").mkdir()
    train = tmp_path / "target" / "train"
    train.mkdir()
    (train / "images").symlink_to(scenes / "target/train/images")
    (train / "labels.csv").symlink_to(scenes / "target/train/labels.csv")
    out = tmp_path / "out"
    plain = [word for word in command if word not in ("--retrain", str(out_of(command).parent / "again.yaml"))]
    assert main([*plain, "--target", str(tmp_path / "target"), "--out", str(out)]) == 0
    assert len(list((out / "masks" / "train").glob("*.png"))) == 32
    assert "nothing was scored" in (out / "report.html").read_text()
    assert json.loads((out / "classifier" / "run.json").read_text())["scores"] == {}
    capsys.readouterr()
    assert main(["test", str(out / "classifier")]) == 2
    assert "has no val/ with masks to score against" in capsys.readouterr().err
    assert main(["segment", str(out / "classifier"), str(train / "images"), "--out", str(tmp_path / "masks")]) == 2
    assert "was not scored, so no threshold was chosen" in capsys.readouterr().err
    data = ["--data.source", str(scenes / "source/train"), "--data.target", str(tmp_path / "target")]
    assert main(["fit", "grad_cam", *data, "--data.saliency", "null", "--out", str(tmp_path / "fit"), *SMALL]) == 0
    assert "nothing was scored" in capsys.readouterr().out
    assert "since the target has no val split" in (tmp_path / "fit/report.html").read_text()
    assert (tmp_path / "fit/attention/epoch_01.png").is_file()


def test_the_chain_as_it_is_shipped(command: list[str], tmp_path: Path) -> None:
    """Packaged weights, kept views, the classifier's checkpoint to begin with; scored again where that is gone."""
    quick = ["--data.image_size", "48", "--data.workers", "0", "--trainer.max_epochs", "1", "--data.batch_size", "8"]
    quick += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    out = tmp_path / "out"
    assert main([*command[: command.index("--out")], "--out", str(out), *quick]) == 0
    config = yaml.safe_load((out / "segmentation" / "config.yaml").read_text())
    assert config["model"]["weights"] == str(out / "classifier" / "checkpoints" / "last.ckpt")
    shutil.rmtree(out / "classifier")
    assert main(["test", str(out / "segmentation")]) == 0
