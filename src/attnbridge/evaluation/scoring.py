"""Scores of a run: a callback that reads predictions, and the protocol that chooses the threshold."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.classification import MultilabelAccuracy

from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.map_scores import EnergyInside
from attnbridge.evaluation.metrics import THRESHOLDS, LabelPrecision, MapSegmentation, Present, mean_iou
from attnbridge.evaluation.split_scores import SplitScores
from attnbridge.segmentation.combine import enlarge_maps

MODES: tuple[Present, ...] = ("predicted", "labels")


class ModeScores(TypedDict):
    """Segmentation scores with the classes chosen one way; all in [0, 1], on the test split.

    Attributes:
        miou_fixed: at the fixed threshold.
        miou_best: at the threshold that is best on validation.
        threshold: that threshold.
        miou_oracle: at the best threshold on the test split itself, an upper bound and no result.
        curve: mIoU at each of :data:`~attnbridge.evaluation.metrics.THRESHOLDS`.
        iou: per class at ``threshold``, background first; ``None`` for a class that never occurs.
    """

    miou_fixed: float
    miou_best: float
    threshold: float
    miou_oracle: float
    curve: list[float]
    iou: list[float | None]


class Scores(SplitScores):
    """Accumulates mIoU curves and the mean average precision over one pass of a split.

    Reads ``logits``, ``scores`` and ``maps`` of what a method's validation or test step returns, ``mask`` and
    ``labels`` of the batch. After a pass the IoU curves and mAP of that split stand in :attr:`iou` and
    :attr:`average_precision`, and ``val/miou`` and ``val/map`` are logged.

    Args:
        num_classes: number of classes without background.
        score_threshold: probability from which on a class counts as predicted.
    """

    def __init__(self, num_classes: int, score_threshold: float = 0.5) -> None:
        self.segmentation = {
            mode: MapSegmentation(num_classes, mode, score_threshold=score_threshold) for mode in MODES
        }
        self.precision = LabelPrecision(num_classes)
        self.accuracy = MultilabelAccuracy(num_classes, score_threshold, average="micro")
        self.energy = EnergyInside()
        self.iou: dict[str, dict[Present, Tensor]] = {}
        self.average_precision: dict[str, float] = {}
        self.others: dict[str, dict[str, float]] = {}

    def start(self, module: LightningModule) -> None:
        for metric in (*self.segmentation.values(), self.precision, self.accuracy, self.energy):
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        if "mask" not in batch:
            raise AttnBridgeError("the split has no masks to score against; expected a masks/ folder")
        self.precision.update(outputs["logits"], batch["labels"])
        self.accuracy.update(outputs["scores"].float(), batch["labels"].long())
        self.energy.update(*objects(outputs["maps"].float(), batch["mask"], batch["labels"]))
        for metric in self.segmentation.values():
            metric.update(outputs["scores"].float(), outputs["maps"].float(), batch["mask"], batch["labels"])

    def finish(self, module: LightningModule, split: str) -> None:
        self.iou[split] = {mode: metric.compute().cpu() for mode, metric in self.segmentation.items()}
        self.average_precision[split] = float(self.precision.compute())
        self.others[split] = {"accuracy": float(self.accuracy.compute()), "energy": float(self.energy.compute())}
        best = mean_iou(self.iou[split]["predicted"]).max()
        values = {f"{split}/miou": float(best), f"{split}/map": self.average_precision[split]}
        module.log_dict(values, prog_bar=True, sync_dist=False, rank_zero_only=False)

    def result(self, fixed: float) -> dict[str, Any]:
        """The protocol: threshold from validation, scores from the test split.

        Args:
            fixed: the fixed background threshold that is reported beside the chosen one.
        """
        modes: dict[str, Any] = {
            mode: mode_scores(self.iou["val"][mode], self.iou["test"][mode], fixed) for mode in MODES
        }
        return {**modes, "map": self.average_precision["test"], **self.others["test"]}


def objects(maps: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The map and the mask of each class that is in a picture's labels and in its mask, for scores of single maps.

    Args:
        maps: ``(B, N, h, w)``.
        mask: long ``(B, H, W)``; the maps are 0 where it is ignored.
        labels: ``(B, N)``.

    Returns:
        ``(P, H, W)`` and bool ``(P, H, W)``.

    >>> mask = torch.tensor([[[1, 255]]])
    >>> [part.tolist() for part in objects(torch.ones(1, 2, 1, 2), mask, torch.ones(1, 2))]
    [[[[1.0, 0.0]]], [[[True, False]]]]
    """
    picture, label = torch.nonzero(labels, as_tuple=True)
    shown = mask[picture] == label[:, None, None] + 1
    there = shown.flatten(1).any(1)
    picture, label, shown = picture[there], label[there], shown[there]
    return enlarge_maps(maps[picture, label][:, None], (mask.shape[1], mask.shape[2]))[:, 0] * (
        mask[picture] != 255
    ), shown


def mode_scores(val: Tensor, test: Tensor, fixed: float) -> ModeScores:
    """Scores from the IoU ``(T, N + 1)`` of validation and test.

    Raises:
        AttnBridgeError: if ``fixed`` is not one of the thresholds that were counted.
    """
    if fixed not in THRESHOLDS:
        raise AttnBridgeError(f"the fixed threshold {fixed} is not one of {', '.join(map(str, THRESHOLDS))}")
    chosen = int(mean_iou(val).argmax())
    curve = mean_iou(test)
    return {
        "miou_fixed": float(curve[THRESHOLDS.index(fixed)]),
        "miou_best": float(curve[chosen]),
        "threshold": THRESHOLDS[chosen],
        "miou_oracle": float(curve.max()),
        "curve": [round(float(v), 5) for v in curve],
        "iou": [None if torch.isnan(v) else round(float(v), 5) for v in test[chosen]],
    }
