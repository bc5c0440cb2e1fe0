"""The search for options: so many runs, chosen by validation, resumed without training twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from attnbridge.cli import main
from attnbridge.methods.fine_tuning import FineTuning
from tests.cli.test_fine_tuning import FROZEN, SHORT

pytestmark = pytest.mark.usefixtures("own_cache")
BOUNDS = ["--search.model.start_weight", "[1e-3, 10]"]


def command(classes: Path, out: Path, *more: str) -> list[str]:
    begin = ["search", "finetune/l2_sp", "--out", str(out), "--trials", "3", "--data.data", str(classes)]
    return [*begin, *SHORT, *FROZEN, *BOUNDS, *more]


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_finds_the_same(
    classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(classes, tmp_path / "whole")) == 0
    assert capsys.readouterr().out.count("trial ") == 3
    record = json.loads((tmp_path / "whole/search.json").read_text())
    values = [trial["options"]["model.start_weight"] for trial in record["trials"]]
    assert values == pytest.approx([0.1, 0.01, 1.0])
    assert record["best"]["val_top1"] == max(trial["val_top1"] for trial in record["trials"])
    for trial in record["trials"]:
        run = tmp_path / f"whole/trial-{trial['number']}"
        assert json.loads((run / "run.json").read_text())["scores"]["val_top1"] == trial["val_top1"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["start_weight"] == trial["options"]["model.start_weight"]
    best = yaml.safe_load((tmp_path / "whole/best.yaml").read_text())
    assert best["model"]["start_weight"] == record["best"]["options"]["model.start_weight"]
    assert "search" not in best
    assert Image.open(tmp_path / "whole/search.png").size[0] > 300
    step = FineTuning.training_step
    calls: list[float] = []

    def stop(self: FineTuning, batch: Any, index: int) -> Any:
        calls.append(self.start_weight)
        if len(calls) == 4:  # in the second trial
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(FineTuning, "training_step", stop)
    assert main(command(classes, tmp_path / "parts")) == 130
    assert main(command(classes, tmp_path / "parts")) == 0
    assert json.loads((tmp_path / "parts/search.json").read_text()) == record
    steps = len(calls)
    assert main(command(classes, tmp_path / "parts")) == 0
    assert len(calls) == steps
    assert main(command(classes, tmp_path / "parts", "--model.lr", "0.5")) == 2
    assert "holds the search of another configuration" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_takes_what_was_found(
    classes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = ["finetune/afa", "finetune/l2_sp"]
    words = ["benchmark", "finetune", "--data", str(classes), "--out", str(tmp_path), "--seeds", "0", "1"]
    assert main([*words, "--trials", "2", "--rows", *rows, *SHORT, *FROZEN]) == 0
    for row, option in (("finetune_afa", "alignment_weight"), ("finetune_l2_sp", "start_weight")):
        best = json.loads((tmp_path / f"search_{row}/search.json").read_text())["best"]
        run, trial = (
            json.loads((tmp_path / f / "run.json").read_text())
            for f in (f"{row}-0", f"search_{row}/trial-{best['number']}")
        )
        assert run == trial  # it is not trained again
        for seed in (0, 1):
            config = yaml.safe_load((tmp_path / f"{row}-{seed}/config.yaml").read_text())
            assert config["model"][option] == best["options"][f"model.{option}"]
            assert config["seed"] == seed
    first = yaml.safe_load((tmp_path / "finetune_afa-1/first/config.yaml").read_text())["model"]
    last = yaml.safe_load((tmp_path / "finetune_afa-1/config.yaml").read_text())["model"]
    assert first["alignment_weight"] == last["alignment_weight"]  # both stages are searched as one
    assert (first["alignment"], last["alignment"]) == ("spatial", "channel")
    assert (first.get("lr", 0.01), last["lr"]) == (0.01, 0.001)


@pytest.mark.slow
def test_a_trial_that_diverges_counts_as_nothing(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--search.model.start_weight", "[0.001, 1.0e+38]", "--trials", "4"]
    assert main(command(classes, tmp_path, *words)) == 0
    assert "counts as 0: the loss" in capsys.readouterr().out
    record = json.loads((tmp_path / "search.json").read_text())
    assert min(trial["val_top1"] for trial in record["trials"]) == 0
    assert record["best"]["val_top1"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search.model.start_wait", "[1, 2]"], "did you mean 'model.start_weight'"),
        (["--search.model.start_weight", "[2, 1]"], "must be [LOW, HIGH], 0 < LOW < HIGH, not [2, 1]"),
        (["--search.data.batch_size", "[8, 64]"], "search: data.batch_size takes no real numbers"),
        (["--search.model.start_weight", "[0, 1]"], "0 < LOW < HIGH"),
        (["--search", "null"], "nothing is searched: name options and bounds"),
        (["--trainer.devices", "2"], "a search runs in one process: trainer.devices must be 1, not 2"),
        (["--trials", "0"], "--trials must be at least 1, not 0"),
        pytest.param(
            ["--data.val_share", "0"],
            "there are no validation images to choose by; set data.val_share above 0",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_input(
    words: list[str],
    message: str,
    classes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(classes, tmp_path / "out", *words)) == 2
    assert message in capsys.readouterr().err
