"""The attention of the same eight images, after each epoch and at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from attnbridge.data.provenance import OwnFiles
from attnbridge.evaluation.figures import caption, overlay, sheet, to_uint8

IMAGES = 8


class AttentionGallery(Callback):
    """After each epoch writes ``attention/epoch_NN.png``: eight validation images and the map of each
    true class, so that one sees attention grow.

    Args:
        folder: the run's folder.
        samples: eight samples with image and labels.
        classes: class names.
    """

    def __init__(self, folder: Path, samples: list[Any], classes: tuple[str, ...]) -> None:
        self.own, self.samples, self.classes = OwnFiles(folder), samples, classes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        examples = look_at(pl_module, self.samples)
        rows = [
            [to_uint8(sample["image"]), *_overlays(sample, maps, self.classes)]
            for sample, maps in zip(self.samples, examples["maps"], strict=True)
        ]
        name = f"epoch_{trainer.current_epoch + 1:02d}.png"
        with self.own.writing(self.own.folder / "attention" / name) as partial:
            sheet(rows, cell=112).save(partial, "PNG")


def _overlays(sample: Any, maps: Any, classes: tuple[str, ...]) -> list[Any]:
    image = to_uint8(sample["image"])
    present = torch.nonzero(sample["labels"]).flatten().tolist()
    maps = np.nan_to_num(maps, nan=0.0)  # of a network that diverges, which the loss tells
    heat = {c: overlay(image, maps[c] / max(float(maps[c].max()), 1e-8)) for c in present}
    return [caption(array, classes[c]) for c, array in heat.items()]


def look_at(method: Any, samples: list[Any]) -> dict[str, Any]:
    """What the method predicts of a few samples, as float32 arrays: maps ``(n, N, h, w)``, scores ``(n, N)``."""
    training = method.training
    method.eval()
    images = torch.stack([sample["image"] for sample in samples]).to(method.device)
    prediction = method.predict_batch(images)
    method.train(training)
    return {name: np.asarray(value.float().cpu()) for name, value in prediction.items()}
