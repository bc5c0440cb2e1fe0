"""Scores of class maps and labels, streaming: of an image nothing is kept but its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Count, Inside, check_number
from attnbridge.errors import AttnBridgeError, check_choice
from attnbridge.evaluation.metrics.maps import checked_thresholds
from attnbridge.evaluation.settings import THRESHOLDS
from attnbridge.methods.scores import LabelPrecision as LabelPrecision
from attnbridge.methods.scores import average_precision as average_precision
from attnbridge.segmentation.combine import enlarge_maps

Present = Literal["predicted", "labels"]


class MapSegmentation(Metric):
    """mIoU of class maps as segmentations, at many background thresholds in one pass.

    One confusion matrix per threshold over the whole set; background is a class; 255 is ignored; classes
    that occur neither in the masks nor in the predictions are dropped from the mean. The labels are those of
    :func:`~attnbridge.segmentation.combine.combine_maps`, counted for all thresholds at once. Reads ``scores`` and
    ``maps`` of the prediction, ``mask`` and ``labels`` of the batch.

    Args:
        num_classes: number N of classes without background.
        present: ``predicted``: a class counts where its score exceeds ``score_threshold``, as in the
            paper; ``labels``: the true image labels, as in weakly-supervised segmentation.
        thresholds: background thresholds, relative to each map's maximum.
        score_threshold: probability from which on a class is predicted.
    """

    full_state_update = False

    def __init__(
        self,
        num_classes: int,
        present: Present = "predicted",
        thresholds: Sequence[float] = THRESHOLDS,
        score_threshold: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("num_classes", num_classes, Count)
        check_choice("present", present, get_args(Present))
        check_number("score_threshold", score_threshold, Inside)
        self.num_classes, self.present, self.score_threshold = num_classes, present, score_threshold
        self.thresholds = checked_thresholds(thresholds)
        side = num_classes + 1
        zeros = torch.zeros(len(self.thresholds), side, side, dtype=torch.long)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")
        self.confusion: Tensor

    def update(self, scores: Tensor, maps: Tensor, mask: Tensor, labels: Tensor) -> None:
        """Count a batch: scores and labels ``(B, N)``, maps ``(B, N, h, w)``, mask long ``(B, H, W)``.

        Raises:
            AttnBridgeError: for other shapes, or values in the mask that are neither a class nor 255.
        """
        count = self.num_classes
        check_tensors(
            empty=True,
            scores=(scores, f"B {count}"),
            maps=(maps, f"B {count} h w"),
            mask=(mask, "B H W", "long"),
            labels=(labels, f"B {count}", "number"),
        )
        if not len(scores):
            return
        present = scores > self.score_threshold if self.present == "predicted" else labels > 0
        order = (scores * present).argsort(1, descending=True)[:, : max(1, int(present.sum(1).max()))]
        shown = present.gather(1, order)
        maps = maps.gather(1, order[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
        maps = enlarge_maps(maps, (mask.shape[1], mask.shape[2])) * shown[:, :, None, None]
        counted = mask != 255
        truth = mask[counted]
        side = self.num_classes + 1
        known = torch.bincount(truth, minlength=side)
        if len(known) > side:
            raise AttnBridgeError(
                f"mask holds the value {len(known) - 1}; expected 0 (background), 1 to {count} (classes) or 255"
            )
        # level: how many thresholds a map exceeds at a pixel. Of the classes in order of their score, the k-th
        # wins at the thresholds from the highest level of those before it up to its own.
        levels = torch.bucketize(maps, torch.tensor(self.thresholds, device=maps.device))
        reached = torch.zeros_like(truth)
        won = self.confusion.new_zeros(self.confusion.shape[1] ** 2 * (len(self.thresholds) + 1))
        for k in range(order.shape[1]):
            label = (order[:, k] + 1)[:, None, None].expand_as(mask)[counted]
            cell = (truth * (self.num_classes + 1) + label) * (len(self.thresholds) + 1)
            level = torch.maximum(levels[:, k][counted], reached)
            won += torch.bincount(cell + reached, minlength=len(won))
            won -= torch.bincount(cell + level, minlength=len(won))
            reached = level
        counts = won.view(side, side, -1).cumsum(2)[:, :, :-1].permute(2, 0, 1).contiguous()
        counts[:, :, 0] = known - counts.sum(2)
        self.confusion += counts

    def compute(self) -> Tensor:
        """IoU ``(T, N + 1)`` of each threshold and class, NaN for a class that never occurs."""
        hit = self.confusion.diagonal(dim1=1, dim2=2).double()
        union = self.confusion.sum(1) + self.confusion.sum(2) - hit
        return torch.where(union > 0, hit / union, torch.nan)


def mean_iou(iou: Tensor) -> Tensor:
    """mIoU of each threshold, ``(T,)``, from :class:`MapSegmentation`'s IoU ``(T, N + 1)``, classes that occur only.

    NaN where none occurs.

    >>> mean_iou(torch.tensor([[0.5, float("nan"), 1.0]]))
    tensor([0.7500])
    """
    check_tensors(iou=(iou, "T C"))
    return iou.nanmean(1)
