"""The scores that a method logs itself, where no task counts: ``trainer.validate(method, loader)`` returns them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities.data import dim_zero_cat

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Count, check_number
from attnbridge.data.sample import IGNORE_INDEX, Batch
from attnbridge.errors import AttnBridgeError


class Scores:
    """What predictions of one pass over a split are worth, by name, in [0, 1].

    - ``top1``: share of the images whose class is the most probable one, of images of one class each.
    - ``map``: mean average precision of the labels, of images of several, see :class:`LabelPrecision`.
    - ``miou``: mean IoU of a segmentation network's masks at the masks' size, background a class, 255 ignored.

    Args:
        num_classes: number N of classes.
        one_class: whether an image has one class.
        device: where the predictions are.
    """

    def __init__(self, num_classes: int, one_class: bool, device: torch.device) -> None:
        self.labels: Any = (
            MulticlassAccuracy(num_classes, average="micro") if one_class else LabelPrecision(num_classes)
        )
        self.labels.to(device)
        side = num_classes + 1
        self.masks = MulticlassConfusionMatrix(side, ignore_index=IGNORE_INDEX, validate_args=False).to(device)
        self.one_class, self.counted = one_class, set[str]()

    def update(self, prediction: Any, batch: Batch) -> None:
        """Count a batch by its labels, or, of probabilities ``(B, N + 1, h, w)``, by its masks; nothing without."""
        if "probabilities" in prediction:
            if "mask" in batch:
                mask = batch["mask"]
                large = F.interpolate(prediction["probabilities"], mask.shape[1:], mode="bilinear", align_corners=False)
                self.masks.update(large.argmax(1), mask)
                self.counted.add("miou")
        elif "labels" in batch and self.one_class:
            self.labels.update(prediction["scores"].float(), batch["labels"].argmax(1))
            self.counted.add("top1")
        elif "labels" in batch:
            self.labels.update(prediction["logits"], batch["labels"], batch.get("difficult"))
            self.counted.add("map")

    def compute(self) -> dict[str, float]:
        """The scores by name; none for what was not counted, or where nothing could be."""
        found = {name: float(self._miou() if name == "miou" else self.labels.compute()) for name in self.counted}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def _miou(self) -> Tensor:
        """Of the labels that are there, or are said to be: 0 / 0 is NaN."""
        confusion = self.masks.compute().double()
        hit = confusion.diagonal()
        return (hit / (confusion.sum(0) + confusion.sum(1) - hit)).nanmean()


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
