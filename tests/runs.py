"""Short runs for tests: a small network without weights on the small scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest

from attnbridge.data.images import load_image
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.data.palette import palette_png
from attnbridge.methods.attnbn import AttnBN

SMALL: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "image_size": 48, "lr": 1e-3}


def write_cues(scenes: Path, folder: Path, block: int = 6, every: int = 2, known: int = 1) -> None:
    """Cues that know a share of the true masks: of blocks of so many pixels, along diagonals, one of ``every``."""
    for path in sorted((scenes / "target/train/masks").glob("*.png")):
        mask = np.array(load_image(path, "P"))
        rows, columns = np.indices(mask.shape)
        blocks = (rows // block + columns // block) % every
        palette_png(np.where(blocks == known, mask, 255)).save(folder / path.name)


def record_of(**changes: Any) -> dict[str, Any]:
    """What ``run.json`` holds, of a run without scores."""
    return {
        "name": "mine", "method": "attnbn", "task": "attnbridge.evaluation.tasks.unscored:UnscoredTask", "seed": 0,
        "seconds": 1.5, "scores": {}, "classes": ["cat", "dog"], "protocol": {}, "date": "today", "versions": {},
        "git": None, "hardware": {}, **changes,
    }  # fmt: skip


def map_scores(classes: int = 2, **changes: Any) -> dict[str, Any]:
    """Scores of class maps as ``run.json`` has them."""
    mode = {"miou_fixed": 0.4, "miou_best": 0.5, "threshold": 0.35, "miou_oracle": 0.5, "curve": [0.5] * 19}
    mode["iou"] = [0.5] * (classes + 1)
    return {"predicted": {**mode}, "labels": {**mode}, "map": 0.7, "accuracy": 0.8, "energy": 0.6, **changes}


def make_data(scenes: Path, **options: Any) -> SourceTargetDataModule:
    settings: dict[str, Any] = {"image_size": 48, "batch_size": 8, "workers": 0, "seed": 1, **options}
    return SourceTargetDataModule(
        str(scenes / "source/train"), str(scenes / "target"), str(scenes / "saliency/train"), **settings
    )


def make_method(data: SourceTargetDataModule, **options: Any) -> AttnBN:
    L.seed_everything(0, verbose=False)
    method = AttnBN(data.classes, **{**SMALL, "frequencies": data.frequencies, **options})
    data.request = method.data_request()
    return method


class Trainer(L.Trainer):
    """Gives the data the method's request, as :func:`attnbridge.fit` does."""

    def fit(self, model: Any, *data: Any, **options: Any) -> None:
        for each in data:
            if isinstance(each, ImageDataModule):
                each.request = model.data_request()
        super().fit(model, *data, **options)


def make_trainer(**options: Any) -> L.Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_val_batches": 0,
    }
    return Trainer(**{**quiet, **options})


def check_part(trainer: L.Trainer, method: Any, part: str) -> None:
    """That classification and one more loss were logged, and that one with its weight."""
    logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("loss", "weighted"))}
    assert {k for k in logged if k.startswith("loss/")} == {"loss/target/classification", f"loss/target/{part}"}
    weight = method.loss_weights[f"target/{part}"]
    assert logged[f"weighted/target/{part}"] == pytest.approx(weight * logged[f"loss/target/{part}"], rel=1e-5)
    assert logged[f"loss/target/{part}"] > 0
