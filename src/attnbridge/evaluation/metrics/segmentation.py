"""Scores of class maps and labels, streaming: of an image nothing is kept but its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Count, Inside, check_number
from attnbridge.errors import AttnBridgeError, check_choice
from attnbridge.evaluation.metrics.maps import checked_thresholds
from attnbridge.evaluation.settings import THRESHOLDS
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


class LabelPrecision(Metric):
    """Mean average precision of the labels, in [0, 1]: the mean of :func:`average_precision` over the classes.

    It is of ranks, so it reads logits: in float32 their sigmoids are equal from about 17 on. Classes without a positive
    image are dropped from the mean. Kept are logits and labels of all images, 8 bytes an image and class.

    Args:
        num_classes: number N of classes.

    >>> metric = LabelPrecision(2)
    >>> metric.update(torch.tensor([[90.0, 1.0], [70.0, 2.0], [80.0, 3.0]]), torch.tensor([[1, 0], [1, 0], [0, 0]]))
    >>> round(float(metric.compute()), 4)
    0.8333
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        check_number("num_classes", num_classes, Count)
        self.num_classes = num_classes
        # flat, since torchmetrics gathers an empty vector from a process without an image
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")
        self.logits: list[Tensor] | Tensor
        self.labels: list[Tensor] | Tensor

    def update(self, logits: Tensor, labels: Tensor, difficult: Tensor | None = None) -> None:
        """Keep a batch: logits ``(B, N)``, and labels ``(B, N)``, 0 or 1.

        Args:
            logits: of each class.
            labels: whether it is in the image.
            difficult: bool ``(B, N)``: pairs of image and class that do not count, neither as positive nor as negative,
                as VOC's difficult objects.
        """
        count = self.num_classes
        check_tensors(empty=True, logits=(logits, f"B {count}"), labels=(labels, f"B {count}", "number"))
        labels = labels.float()
        if difficult is not None:
            check_tensors(empty=True, labels=(labels, "B N"), difficult=(difficult, "B N", "bool"))
            labels = labels.masked_fill(difficult, torch.nan)
        self.logits.append(logits.detach().float().flatten())  # type: ignore[union-attr]
        self.labels.append(labels.flatten())  # type: ignore[union-attr]

    def compute(self) -> Tensor:
        """The mean over the classes that occur, float64; NaN if none does."""
        if not len(self.logits):
            return torch.tensor(torch.nan, dtype=torch.float64)
        logits = dim_zero_cat(self.logits).view(-1, self.num_classes)
        labels = dim_zero_cat(self.labels).view(-1, self.num_classes)
        occurs = (labels > 0).any(0).nonzero().flatten().tolist()
        counted = ~labels.isnan()
        each = [average_precision(logits[counted[:, c], c], labels[counted[:, c], c] > 0) for c in occurs]
        return torch.stack(each).mean() if each else logits.new_tensor(torch.nan, dtype=torch.float64)


def average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Exact average precision of one class.

    .. math:: AP = \sum_t (R_t - R_{t+1}) P_t

    with recall :math:`R_t` and precision :math:`P_t` of the images whose logit is at least t, over all different
    logits t in rising order; images with equal logits come together.

    Args:
        logits: ``(B,)``; any strictly increasing function of them gives the same.
        labels: bool ``(B,)``, at least one of them true.

    Returns:
        A scalar in (0, 1], float64.

    Raises:
        AttnBridgeError: for other shapes or types, labels of which none is true, or logits that are NaN.

    >>> average_precision(torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False])).item()
    0.8333333333333333
    """
    check_tensors(logits=(logits, "B"), labels=(labels, "B", "bool"))
    if not bool(labels.any()):
        raise AttnBridgeError("labels: none is true, so the class has no average precision")
    if bool(logits.isnan().any()):
        raise AttnBridgeError("logits hold NaN, which has no rank; look for NaN in the network's weights or the images")
    different, level = torch.unique(logits, return_inverse=True)
    found, right = (torch.bincount(at, minlength=len(different)).flip(0) for at in (level, level[labels]))
    precision = right.cumsum(0).double() / found.cumsum(0)
    return (right * precision).sum() / right.sum()
