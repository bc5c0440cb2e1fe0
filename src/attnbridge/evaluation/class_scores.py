"""Accuracy of pictures with one class each: a callback that reads a method's scores."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torchmetrics.classification import MulticlassAccuracy

from attnbridge.evaluation.split_scores import SplitScores

TOP = (1, 5)


class ClassScores(SplitScores):
    """Top-1 and top-5 accuracy over one pass of a split, each picture counted once.

    Reads ``scores`` of what a method's validation or test step returns, ``labels`` of the batch. After a pass
    :attr:`accuracy` holds ``{"top1": ..., "top5": ...}`` of that split, in [0, 1], and ``val/top1`` is logged.

    Args:
        num_classes: number of classes; with five or fewer there is no top 5.
    """

    def __init__(self, num_classes: int) -> None:
        tops = [top for top in TOP if top < num_classes]
        self.metrics = {f"top{top}": MulticlassAccuracy(num_classes, top, average="micro") for top in tops}
        self.accuracy: dict[str, dict[str, float]] = {}

    def start(self, module: LightningModule) -> None:
        for metric in self.metrics.values():
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        for metric in self.metrics.values():
            metric.update(outputs["scores"].float(), batch["labels"].argmax(1))

    def finish(self, module: LightningModule, split: str) -> None:
        self.accuracy[split] = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        values = {f"{split}/{name}": value for name, value in self.accuracy[split].items()}
        module.log_dict(values, prog_bar=True, sync_dist=False, rank_zero_only=False)
