"""A run that is killed: a real process, SIGKILL, and what the next one begins with."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
OPTIONS = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]", "--model.lr", "0.001"),
    *("--model.adversarial_weight", "0.1", "--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "2"),
    *("--trainer.max_epochs", "4", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.limit_train_batches", "3"),
]
CHILD = """
import os, signal, sys
import torch
from attnbridge.cli import main
from attnbridge.methods.attnbn import AttnBN

how, log, *words = sys.argv[1:]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)

def begins(self):
    with open(log, "a") as handle:
        handle.write(f"{self.current_epoch}\\n")

def batch(self, batch, index):
    if how == "batch" and self.current_epoch == 2 and index == 1:
        kill()

save = torch.save
def half(state, handle, *rest, **more):
    save(state, handle, *rest, **more)
    if how == "write" and isinstance(state, dict) and state.get("epoch") == 2:
        handle.truncate(handle.tell() // 2)
        kill()

AttnBN.on_train_epoch_start = begins
AttnBN.on_train_batch_start = batch
torch.save = half
sys.exit(main(words))
"""


def fit(how: str, log: Path, scenes: Path, out: Path, *more: str) -> int:
    data = [
        *("--data.source", str(scenes / "source/train"), "--data.saliency", str(scenes / "saliency/train")),
        *("--data.target", str(scenes / "target")),
    ]
    words = ["fit", "attnbn", "--out", str(out), *OPTIONS, *data, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", CHILD, how, str(log), *words], env=environment, check=False).returncode


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a process that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit("never", folder / "epochs", scenes, folder / "run") == 0
    assert (folder / "epochs").read_text().split() == ["0", "1", "2", "3"]
    return folder / "run"


@pytest.mark.parametrize("how", ["batch", "write"])
def test_a_killed_run_goes_on_with_the_epoch_after_its_last_whole_one(
    how: str, whole: Path, scenes: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "epochs"
    assert fit(how, log, scenes, out) == -signal.SIGKILL
    assert log.read_text().split() == ["0", "1", "2"]
    assert torch.load(out / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1  # whole, whenever it was killed
    log.unlink()
    assert fit("never", log, scenes, out, "--resume") == 0
    assert log.read_text().split() == ["2", "3"]
    ours, theirs = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (out, whole))
    for name, value in theirs["state_dict"].items():
        assert torch.equal(value, ours["state_dict"][name]), name
    assert str(ours["optimizer_states"]) == str(theirs["optimizer_states"])
    tables = [list(csv.DictReader((run / "metrics.csv").open())) for run in (out, whole)]
    assert [row["epoch"] for row in tables[0]] == ["0", "1", "2", "3"]
    assert tables[0] == tables[1]
