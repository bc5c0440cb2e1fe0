"""Scores of a segmentation network: IoU of each label over a whole split."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from attnbridge.data.sample import IGNORE_INDEX
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.split_scores import SplitScores
from attnbridge.segmentation.inference import Inference, infer


class MaskScores(SplitScores):
    """One confusion matrix of all pixels of a split, 255 ignored: of the network's answer, and, on the test split, of
    what several scales and a CRF make of it.

    Args:
        num_classes: number N of classes without background.
        inference: how the test split's masks are made.
    """

    def __init__(self, num_classes: int, inference: Inference | None = None) -> None:
        self.inference = inference or Inference()
        self.plain, self.refined = (
            MulticlassConfusionMatrix(num_classes + 1, ignore_index=IGNORE_INDEX, validate_args=False) for _ in range(2)
        )
        self.iou: dict[str, Tensor] = {}
        self.module: Any = None

    def start(self, module: LightningModule) -> None:
        self.module = module
        for metric in (self.plain, self.refined):
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        if "mask" not in batch:
            raise AttnBridgeError("the split has no masks to score against; expected a masks/ folder")
        mask = batch["mask"]
        large = F.interpolate(outputs["probabilities"], mask.shape[1:], mode="bilinear", align_corners=False)
        self.plain.update(large.argmax(1), mask)
        if self.module.trainer.testing:
            refined = infer(lambda x: self.module.predict_batch(x)["probabilities"], batch["image"], self.inference)
            self.refined.update(refined.argmax(1), mask)

    def finish(self, module: LightningModule, split: str) -> None:
        self.iou[split] = label_iou(self.plain.compute())
        if split == "test":
            self.iou["refined"] = label_iou(self.refined.compute())
        module.log(f"{split}/miou", self.iou[split].nanmean(), prog_bar=True, rank_zero_only=False)

    def result(self) -> dict[str, Any]:
        """Of the test split, all in [0, 1]: mIoU and the labels' IoU as refined, and ``plain`` the network's own; the
        validation's mIoU, plain."""
        return {
            "miou": float(self.iou["refined"].nanmean()),
            "iou": _listed(self.iou["refined"]),
            "plain": {"miou": float(self.iou["test"].nanmean()), "iou": _listed(self.iou["test"])},
            "val_miou": float(self.iou["val"].nanmean()),
        }


def label_iou(confusion: Tensor) -> Tensor:
    """IoU of each label from a confusion matrix, NaN for one that neither is there nor is said to be.

    >>> label_iou(torch.tensor([[2, 1, 0], [0, 1, 0], [0, 0, 0]])).tolist()
    [0.6666666666666666, 0.5, nan]
    """
    hit = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hit
    return torch.where(union > 0, hit / union, torch.nan).cpu()


def _listed(iou: Tensor) -> list[float | None]:
    return [None if torch.isnan(value) else round(float(value), 5) for value in iou]
