"""Fine-tuning from the command line: AFA's two stages as one run, resumed in either, and the table of methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from attnbridge.cli import main
from attnbridge.methods.fine_tuning import FineTuning

SHORT = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.layers", "[layer1, layer2]"),
    *("--data.image_size", "32", "--data.batch_size", "8", "--data.workers", "0"),
    *("--trainer.max_epochs", "2", "--init_overrides.trainer.max_epochs", "2", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false"),
]
FROZEN = ["--model.frozen", "[conv1, bn1]"]

pytestmark = pytest.mark.usefixtures("own_cache")


def state(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return found


def afa(classes: Path, out: Path) -> list[str]:
    return ["fit", "finetune/afa", "--out", str(out), "--data.data", str(classes), *SHORT, *FROZEN]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["spatial", "channel"])
def test_an_interruption_in_either_stage_changes_nothing(
    stage: str, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(afa(classes, tmp_path / "whole")) == 0
    step = FineTuning.training_step

    def stop(self: FineTuning, batch: Any, index: int) -> Any:
        if self.alignment == stage and self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(FineTuning, "training_step", stop)
    assert main(afa(classes, tmp_path / "parts")) == 130
    monkeypatch.setattr(FineTuning, "training_step", step)
    assert main([*afa(classes, tmp_path / "parts"), "--resume"]) == 0
    for part in ("", "first"):
        whole, parts = state(tmp_path / "whole" / part), state(tmp_path / "parts" / part)
        assert whole.keys() == parts.keys()
        assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    first = tmp_path / "whole/first"
    spent = [json.loads((run / "run.json").read_text())["seconds"] for run in (first, first.parent)]
    assert spent[1] > spent[0]  # that of both stages
    assert Image.open(first / "source_attention.png").size[0] > 400
    assert not (first / "source_channels.csv").exists()
    lines = (tmp_path / "whole/source_channels.csv").read_text().splitlines()[1:]
    weights = [float(line.split(",")[2]) for line in lines if line.startswith("layer1,")]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(len(weights), rel=1e-2)
    held = (tmp_path / "whole/validation.txt").read_text().splitlines()
    assert len(held) == 4  # 0.17 of twelve images of each class
    assert {name.split("/")[0] for name in held} == {"blue", "red"}
    assert "keeps of its source" in (tmp_path / "whole/report.html").read_text()
    assert "alignment: spatial" in (first / "config.yaml").read_text()
    assert any(name.startswith("attention.") for name in state(first))
    header = (first / "metrics.csv").read_text().splitlines()[0]
    assert {"entropy/layer1", "entropy/layer2", "loss/target/alignment"} <= set(header.split(","))


@pytest.mark.slow
def test_the_table_compares_and_resumes(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["finetune/l2", "finetune/delta", "finetune/afa"]
    command = ["benchmark", "finetune", "--data", str(classes), "--out", str(tmp_path), "--seeds", "0", "--rows", *rows]
    assert main([*command, *SHORT, *FROZEN]) == 0
    printed = capsys.readouterr().out
    assert "| row | accuracy, % | validation, % | rank |" in printed
    assert all(f"| {row} | " in printed for row in rows)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {r["name"] for r in results["rows"]} == set(rows)
    assert all(r["val_top1"] is not None for r in results["rows"])
    assert main([*command, *SHORT, *FROZEN]) == 0
    assert capsys.readouterr().out.count("done already") == 3
    assert main([*command, *SHORT, *FROZEN, "--model.lr", "0.02"]) == 2
    words = capsys.readouterr().err
    assert "was begun with model.lr = None, not 0.02" in words
    assert "name another folder, or remove this one" in words
    assert main([*command, *SHORT, *FROZEN, "--trials", "2"]) == 2
    assert "was begun without --trials" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_used_without_its_source(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", "finetune/lwf", "--out", str(tmp_path / "run"), "--data.data", str(classes), *SHORT, *FROZEN]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert main(["test", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.split("top1")[1].split(",")[0] == printed.split("top1")[1].split(",")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["benchmark", "finetune"], "--data: expected a folder with train/CLASS/*.jpg"),
        (["fit", "finetune/afa", "--model.alignment", "spatal"], "did you mean 'spatial'"),
        pytest.param(
            ["fit", "finetune/lwf", "--model.backbone", "vgg16", "--data.data"],
            "have no classifier of",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_wrong_input(words: list[str], message: str, classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if words[-1] == "--data.data":
        words = [*words, str(classes), "--model.frozen", "[]"]
    assert main(words) == 2
    assert message in capsys.readouterr().err
