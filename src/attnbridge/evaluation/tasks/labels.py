"""Labels alone, where no split has masks: their mean average precision, protocol, page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch import Callback, LightningModule
from PIL import Image
from torchmetrics.classification import MultilabelAccuracy

from attnbridge.evaluation.gallery import IMAGES, AttentionGallery
from attnbridge.evaluation.metrics.segmentation import LabelPrecision
from attnbridge.evaluation.page import format_protocol, html_table, write_run_page
from attnbridge.evaluation.record import RunRecord
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.evaluation.tasks.base import SplitScores, Task, known, percent, save_examples
from attnbridge.evaluation.tasks.unscored import image_sheet, map_sheet
from attnbridge.methods.base import Method


class LabelTask(Task):
    """Which classes are in an image, see :class:`LabelScores`; no mask is read."""

    uses = ("score_threshold",)
    numbers = ("map",)

    def __init__(self, data: Any, settings: EvaluationSettings) -> None:
        super().__init__(data, settings)
        self.scores = LabelScores(len(data.classes), settings.score_threshold)

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """LabelScores, and the attention of the same images after each epoch."""
        return [self.scores, AttentionGallery(folder, self.data.samples("val", IMAGES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """Score both splits; nothing is chosen on either."""
        trainer.validate(method, self.data, verbose=False)
        trainer.test(method, self.data, verbose=False)
        found = self.scores
        return {
            "map": found.average_precision["test"],
            "accuracy": found.accuracy["test"],
            "val_map": found.average_precision["val"],
        }

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        return {
            "score": "mean average precision of the labels over the classes that occur, exact, on logits; of a class "
            "that is in an image only as difficult objects the image does not count",
            "split": "test" if self.data.has("test") else "val",
            "masks": "none are read (data.masks is false), so no map is scored, and evaluation.threshold, size, "
            "scales, flip and crf have nothing to decide",
            "predicted": f"a class is predicted where its probability exceeds {self.settings.score_threshold}",
            "score_threshold": self.settings.score_threshold,
            "resolution": f"images at {self.data.image_size} pixels",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test images with scores and maps, for pages."""
        save_examples(folder, method, self.data.samples("test" if self.data.has("test") else "val", IMAGES))

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        scores = record["scores"]
        return [
            f"mAP {percent(scores['map'])}, label accuracy {percent(scores['accuracy'])}; validation mAP "
            f"{percent(scores['val_map'])}; the target has no masks to score maps against"
        ]

    @staticmethod
    def write_page(
        path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
    ) -> None:
        head = ["row", "seed", "mAP", "label accuracy", "validation mAP", "time"]
        rows = [
            [
                run["name"],
                str(run["seed"]),
                *(percent(run["scores"][name]) for name in ("map", "accuracy", "val_map")),
                f"{run['seconds']:.0f} s",
            ]
            for run in runs
        ]
        table = f"{html_table(head, rows)}<p>{html.escape(format_protocol(runs[0]['protocol']))}</p>"
        words = "Test images and the map of each of their classes."
        images = [image_sheet(run, folder, words) for run, folder in zip(runs, folders, strict=True)]
        write_run_page(path, title, introduction, [table, *images], runs)

    @staticmethod
    def sheet(runs: Sequence[RunRecord], folders: Sequence[Path]) -> Image.Image:
        return map_sheet(folders)


class LabelScores(SplitScores):
    """Mean average precision and accuracy of the labels over one pass of a split.

    Reads ``logits`` and ``scores`` of what a method's validation or test step returns, ``labels`` of the batch and, if
    it is there, ``difficult``: such pairs of image and class count in neither score. After a pass they stand in
    :attr:`average_precision` and :attr:`accuracy`, in [0, 1] or ``None``, and ``val/map`` is logged.

    Args:
        num_classes: number of classes.
        score_threshold: probability from which on a class counts as predicted.
    """

    def __init__(self, num_classes: int, score_threshold: float = 0.5) -> None:
        self.precision = LabelPrecision(num_classes)
        self.labels = MultilabelAccuracy(num_classes, score_threshold, average="micro", ignore_index=-1)
        self.average_precision: dict[str, float | None] = {}
        self.accuracy: dict[str, float | None] = {}

    def start(self, module: LightningModule) -> None:
        for metric in (self.precision, self.labels):
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        labels, difficult = batch["labels"], batch.get("difficult")
        self.precision.update(outputs["logits"], labels, difficult)
        left_out = torch.zeros_like(labels, dtype=torch.bool) if difficult is None else difficult
        self.labels.update(outputs["scores"].float(), labels.long().masked_fill(left_out, -1))

    def finish(self, module: LightningModule, split: str) -> None:
        self.average_precision[split] = known(float(self.precision.compute()))
        self.accuracy[split] = known(float(self.labels.compute()))
        found = self.average_precision[split]
        if found is not None:
            module.log_dict({f"{split}/map": found}, prog_bar=True, sync_dist=False, rank_zero_only=False)
