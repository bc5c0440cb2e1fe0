"""Attention transfer from the command line, on a CIFAR-10 of 60 random images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbridge.cli import main
from attnbridge.methods.attention_transfer import AttentionTransfer

SHORT = [
    *("--data.train_count", "40", "--data.val_share", "0.2", "--data.batch_size", "16", "--data.workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the layout of the npm package: ten images of each class to train on, some to test with."""
    root = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for name, count in [*((f"data_batch_{i}", 12) for i in range(1, 6)), ("test_batch", 20)]:
        Image.fromarray(rng.integers(0, 256, (count, 1024, 3), np.uint8)).save(root / f"{name}.png")
    (root / "train_lables.json").write_text(json.dumps([i % 10 for i in range(60)]))
    (root / "test_lables.json").write_text(json.dumps([i % 10 for i in range(20)]))
    return root


@pytest.mark.slow
def test_the_table_trains_one_teacher_and_resumes(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    rows = ["cifar10/teacher", "cifar10/student", "cifar10/at_kd", "cifar10/f_act"]
    command = ["benchmark", "at-cifar10", "--data", str(cifar), "--out", str(out), "--seeds", "0", "1"]
    assert main([*command, "--rows", *rows, *SHORT]) == 0
    printed = capsys.readouterr().out
    for row in rows:
        assert f"| {row} | " in printed
    results = json.loads((out / "results.json").read_text())
    assert [(r["name"], r["seed"]) for r in results["rows"]] == [(row, seed) for seed in (0, 1) for row in rows]
    assert all(0 <= r["top1"] <= r["top5"] <= 1 for r in results["rows"])
    assert not list(out.glob("*/teacher"))  # the row of the first seed was the teacher of all
    page = (out / "report.html").read_text()
    assert "top-5 error, %" in page
    assert "Where they look" in page
    assert Image.open(out / "before_after.png").size[0] > 300
    assert main([*command, "--rows", *rows, *SHORT]) == 0
    assert capsys.readouterr().out.count("done already") == 8


@pytest.mark.slow
def test_a_run_brings_its_own_teacher_and_is_used_as_any_other(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "cifar10/at", "--out", "run", "--data.root", str(cifar), *SHORT]) == 0
    scores = json.loads(Path("run/run.json").read_text())["scores"]
    assert f"top1 {100 * scores['top1']:.2f}, top5 {100 * scores['top5']:.2f}" in capsys.readouterr().out
    assert Path("run/teacher/run.json").is_file()
    assert Path("run/attention/epoch_01.png").is_file()
    assert main(["test", "run"]) == 0
    assert f"top1 {100 * scores['top1']:.2f}" in capsys.readouterr().out
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("one.png")
    assert main(["explain", "one.png", "--model", "run", "--out", "maps", "--threshold", "0.5", "--all"]) == 0
    assert main(["explain", "one.png", "--model", "run", "--out", "looks"]) == 0
    header, line = Path("maps/scores.csv").read_text().splitlines()
    assert header.startswith("id,airplane,automobile")
    assert sum(map(float, line.split(",")[1:])) == pytest.approx(1, abs=2e-3)  # one class an image
    second = ["fit", "cifar10/kd", "--out", "second", "--teacher", "run/teacher", "--data.root", str(cifar)]
    assert main([*second, *SHORT]) == 0
    assert not Path("second/teacher").exists()


@pytest.mark.slow
def test_an_interrupted_row_with_a_teacher_goes_on(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fit", "cifar10/at", "--out", str(tmp_path / "run"), "--data.root", str(cifar), *SHORT]
    command[command.index("--trainer.max_epochs") + 1] = "2"
    step = AttentionTransfer.training_step

    def stop(self: AttentionTransfer, batch: Any, index: int) -> Any:
        if self.teacher and self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(AttentionTransfer, "training_step", stop)
    assert main(command) == 130
    monkeypatch.setattr(AttentionTransfer, "training_step", step)
    trained = (tmp_path / "run/teacher/checkpoints/last.ckpt").stat().st_mtime_ns
    assert main([*command, "--resume"]) == 0
    assert (tmp_path / "run/teacher/checkpoints/last.ckpt").stat().st_mtime_ns == trained
    assert (
        len((tmp_path / "run/teacher/metrics.csv").read_text().splitlines()) == 3
    )  # its trainer has the two epochs too
    other = [*command, "--teacher", str(tmp_path / "run/teacher")]
    record = tmp_path / "run/teacher/run.json"
    record.write_text(record.read_text().replace('"airplane"', '"aeroplane"'))
    other[other.index("--out") + 1] = str(tmp_path / "other")
    capsys.readouterr()
    assert main(other) == 2
    assert "the teacher knows aeroplane, automobile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "cifar10/at", "--data.data", "nowhere"], "nowhere/train: no such folder"),
        (["fit", "cifar10/at", "--data.augment", "crops"], "did you mean 'crop'"),
        (["fit", "cifar10/at", "--teacher", "cifar10/teecher"], "did you mean 'cifar10/teacher'"),
        (["fit", "cifar10/at", "--data.saliency", "u2net"], "unknown option data. 'saliency'"),
        (["fit", "cifar10/student", "--data.root", "nowhere", "--out", "run"], "cifar10 can not be found in nowhere"),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_wrong_input(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()
