"""Scores of class maps against masks and boxes, streaming: constant memory in the number of images.

An image here is one map with one mask: for several classes of an image, give one map per class; a mean over
classes, as in the pointing game's paper, takes one metric per class. The states are sums over images, which add
up over batches and processes. Before the first image a score is NaN, and torchmetrics warns. Metrics of one kind
with different settings may count the same in the first batch, and a ``torchmetrics.MetricCollection`` then takes
them for one: give it ``compute_groups=False``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_iou

from attnbridge.arguments import came, check_tensors
from attnbridge.bounds import Count, NotNegative, Share, check_number, check_value
from attnbridge.errors import AttnBridgeError, shown
from attnbridge.evaluation.settings import THRESHOLDS

BOX_THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(100))
TINY = torch.finfo(torch.float32).tiny  # any larger addend would make a score depend on the map's scale


class ThresholdIoU(NamedTuple):
    """The best mean IoU, the lowest threshold that reaches it, and the mean IoU at each threshold, ``(T,)``."""

    best: Tensor
    threshold: Tensor
    curve: Tensor


class BoxAccuracy(NamedTuple):
    """MaxBoxAccV2; the accuracies it is the mean of, one per IoU, ``(D,)``; the lowest thresholds reaching them."""

    mean: Tensor
    each: Tensor
    thresholds: Tensor


class _MapScore(Metric):
    """What the scores share: one state of sums and a count of images."""

    full_state_update = False
    higher_is_better = True
    count: Tensor

    def __init__(self, state: str, zeros: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.add_state(state, zeros, dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")


class _MaskScore(_MapScore):
    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Count a batch: maps ``(B, H, W)``, any finite values; masks ``(B, H, W)``, bool or 0 and 1, none empty.

        Anything else raises AttnBridgeError. Of boxes, :func:`box_masks` makes masks.
        """
        self._add(*_checked(maps, masks))
        self.count += len(maps)

    def _add(self, maps: Tensor, masks: Tensor) -> None:
        raise NotImplementedError


class PointingGame(_MaskScore):
    r"""Share of images in which the map's maximum lies on the object, in [0, 1].

    .. math:: \frac{\#\mathrm{hits}}{\#\mathrm{images}}, \qquad \mathrm{hit:}\;
              \min_{q \in \mathrm{mask}} \lVert \arg\max M - q \rVert_2 \le \mathrm{tolerance}

    (Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016; their tolerance is 15 pixels.)
    Where several pixels share the maximum, the first by rows counts. A constant map points nowhere: a miss.

    Args:
        tolerance: greatest distance between the maximum and the mask, in pixels, from centre to centre; a negative
            one raises AttnBridgeError.

    >>> metric = PointingGame(tolerance=1)
    >>> metric.update(torch.tensor([[[0.0, 0.9, 0.1, 0.2]]]), torch.tensor([[[False, False, True, True]]]))
    >>> float(metric.compute())
    1.0
    """

    hits: Tensor

    def __init__(self, tolerance: float = 0, **options: Any) -> None:
        super().__init__("hits", torch.tensor(0), **options)
        check_number("tolerance", tolerance, NotNegative)
        self.tolerance = tolerance

    def _add(self, maps: Tensor, masks: Tensor) -> None:
        flat, (height, width) = maps.flatten(1), maps.shape[1:]
        top = flat.argmax(1)[:, None, None]
        rows = torch.arange(height, device=maps.device)[:, None]
        columns = torch.arange(width, device=maps.device)
        near = (rows - top // width) ** 2 + (columns - top % width) ** 2 <= self.tolerance**2
        self.hits += ((masks & near).flatten(1).any(1) & (flat.amax(1) > flat.amin(1))).sum()

    def compute(self) -> Tensor:
        """Hits over images, in [0, 1]."""
        return self.hits / self.count


class EnergyInside(_MaskScore):
    r"""Share of the map's energy that lies on the object, mean over images, in [0, 1].

    .. math:: \frac{\sum_{p \in \mathrm{mask}} \max(M_p, 0)}{\sum_p \max(M_p, 0)}

    (The energy-based pointing game of Score-CAM, Wang et al., CVPR Workshops 2020.) Negative values count as 0; a
    map without a positive value scores 0.

    >>> metric = EnergyInside()
    >>> metric.update(torch.tensor([[[3.0, 1.0, -2.0]]]), torch.tensor([[[True, False, True]]]))
    >>> float(metric.compute())
    0.75
    """

    energy: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__("energy", torch.tensor(0.0, dtype=torch.float64), **options)

    def _add(self, maps: Tensor, masks: Tensor) -> None:
        positive = maps.double().clamp_min(0)
        inside, total = (positive * masks).sum((1, 2)), positive.sum((1, 2))
        self.energy += torch.where(total > 0, inside / total, 0).sum()

    def compute(self) -> Tensor:
        """Mean share of the energy inside, in [0, 1]."""
        return self.energy / self.count


class BestThresholdIoU(_MaskScore):
    r"""IoU of the thresholded map with the object, mean over images, at the best threshold of the whole set.

    .. math:: \max_t \frac{1}{B} \sum_b \frac{|\{M_b > t \max M_b\} \cap \mathrm{mask}_b|}
              {|\{M_b > t \max M_b\} \cup \mathrm{mask}_b|}

    (The seeds' score in IRN, Ahn et al., CVPR 2019, but the mean of the images' IoU in the place of the set's.)
    A map without a positive value covers nothing: IoU 0.

    Args:
        thresholds: relative to each map's own maximum; unless they rise within [0, 1), AttnBridgeError is raised.

    >>> metric = BestThresholdIoU(thresholds=(0.0, 0.5))
    >>> metric.update(torch.tensor([[[4.0, 3.0, 1.0, 0.0]]]), torch.tensor([[[True, True, False, False]]]))
    >>> score = metric.compute()
    >>> float(score.best), float(score.threshold)
    (1.0, 0.5)
    """

    iou: Tensor

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, **options: Any) -> None:
        self.thresholds = checked_thresholds(thresholds)
        super().__init__("iou", torch.zeros(len(self.thresholds), dtype=torch.float64), **options)

    def _add(self, maps: Tensor, masks: Tensor) -> None:
        # level: how many thresholds a pixel exceeds; a histogram per image, outside and inside the mask
        scaled = maps / maps.amax((1, 2), keepdim=True).clamp_min(TINY)
        levels = torch.bucketize(scaled, torch.tensor(self.thresholds, device=maps.device))
        image = torch.arange(len(maps), device=maps.device)[:, None, None]
        bins = len(self.thresholds) + 1
        cells = ((image * 2 + masks) * bins + levels).flatten()
        counts = torch.bincount(cells, minlength=len(maps) * 2 * bins).view(-1, 2, bins)
        above = counts.flip(2).cumsum(2).flip(2)[:, :, 1:]  # pixels above each threshold
        union = above[:, 0] + masks.sum((1, 2))[:, None]
        self.iou += (above[:, 1].double() / union).sum(0)

    def compute(self) -> ThresholdIoU:
        """The best mean IoU, its threshold, and the mean IoU at every threshold."""
        curve = self.iou / self.count
        which = curve.argmax()
        return ThresholdIoU(curve[which], curve.new_tensor(self.thresholds)[which], curve)


class MaxBoxAccuracy(_MapScore):
    r"""Share of images whose object is boxed rightly, at the best threshold of the whole set: MaxBoxAccV2.

    .. math:: \frac{1}{|\Delta|} \sum_{\delta \in \Delta} \max_t \frac{1}{B} \sum_b
              \mathbf{1}\Bigl[\max_{a, g} \mathrm{IoU}(a, g) \ge \delta\Bigr]

    with :math:`a` the boxes of the 8-connected parts of :math:`\{M_b \ge t\}`, :math:`M_b` scaled to [0, 1] by its
    minimum and maximum, and :math:`g` the boxes of the objects (Choe et al., Evaluating weakly supervised object
    localization methods right, CVPR 2020; their code takes 1000 thresholds). A constant map becomes 0
    everywhere, so it boxes the whole image at threshold 0 and nothing above.

    Args:
        iou: the :math:`\delta` from which on a box is right; outside (0, 1], AttnBridgeError is raised.
        thresholds: of the scaled map; unless they rise within [0, 1), AttnBridgeError is raised.

    >>> metric = MaxBoxAccuracy()
    >>> metric.update(torch.tensor([[[0.1, 0.8, 0.9, 0.0]]]), [torch.tensor([[1, 0, 3, 1]])])
    >>> float(metric.compute().mean)
    1.0
    """

    boxed: Tensor

    def __init__(
        self, iou: Sequence[float] = (0.3, 0.5, 0.7), thresholds: Sequence[float] = BOX_THRESHOLDS, **options: Any
    ) -> None:
        check_value("iou", iou, Sequence[Share])
        self.iou, self.thresholds = tuple(iou), checked_thresholds(thresholds)
        super().__init__("boxed", torch.zeros(len(iou), len(thresholds), dtype=torch.long), **options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Count a batch: maps ``(B, H, W)``, any finite values; for each the boxes ``(n, 4)``, n > 0, of its objects.

        A box is x0, y0, x1, y1 in the map's pixels, the ends exclusive. Anything else raises AttnBridgeError.
        """
        maps = _checked_maps(maps)
        if isinstance(boxes, Tensor) or not isinstance(boxes, Sequence):
            raise AttnBridgeError(f"boxes must be a list of a tensor (n, 4) for each map, not {came(boxes)}")
        if len(boxes) != len(maps):
            raise AttnBridgeError(f"expected a tensor of boxes for each of the {len(maps)} maps, but got {len(boxes)}")
        truths = [_checked_boxes(each).cpu().double() for each in boxes]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        scaled = (maps - low) / (high - low).clamp_min(TINY)
        levels = torch.bucketize(scaled, torch.tensor(self.thresholds, device=maps.device), right=True).cpu().numpy()
        for level, truth in zip(levels, truths, strict=True):
            best = torch.zeros(len(self.thresholds), dtype=torch.float64)
            for k in range(min(len(best), int(level.max()))):
                best[k] = box_iou(_part_boxes(level > k), truth).max()
            self.boxed += (best >= torch.tensor(self.iou, dtype=best.dtype)[:, None]).to(self.boxed.device)
        self.count += len(maps)

    def compute(self) -> BoxAccuracy:
        """The mean over the IoUs that are asked for, the accuracy at each of them, and its threshold."""
        each, which = (self.boxed.double() / self.count).max(1)
        return BoxAccuracy(each.mean(), each, each.new_tensor(self.thresholds)[which])


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Fill one box per image: bool masks ``(B, H, W)``.

    Args:
        boxes: ``(B, 4)``: x0, y0, x1, y1 in pixels, the ends exclusive: pixel x is inside if x0 <= x < x1. Another
            shape, or an end that is not after its start, raises AttnBridgeError.
        size: height H and width W.

    >>> box_masks(torch.tensor([[1, 0, 3, 1]]), (2, 4)).int()
    tensor([[[0, 1, 1, 0],
             [0, 0, 0, 0]]], dtype=torch.int32)
    """
    check_value("size", size, tuple[Count, Count])
    x0, y0, x1, y1 = _checked_boxes(boxes)[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=boxes.device) for side in size)
    return ((rows >= y0) & (rows < y1))[:, :, None] & ((columns >= x0) & (columns < x1))[:, None]


def _part_boxes(covered: NDArray[np.bool_]) -> Tensor:
    """Boxes ``(n, 4)`` of the 8-connected parts."""
    parts, _ = ndimage.label(covered, structure=np.ones((3, 3)))
    return torch.tensor([[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(parts)]).double()


def _checked_maps(maps: Tensor) -> Tensor:
    check_tensors(empty=True, maps=(maps, "...", "number"))
    maps = maps.detach().float()
    if maps.ndim != 3:
        raise AttnBridgeError(f"maps must have the shape (B, H, W), one per image, but have {tuple(maps.shape)}")
    if not maps.isfinite().all():
        raise AttnBridgeError("maps must be finite, but hold NaN or infinity; look for an overflow in half precision")
    return maps


def _checked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    check_tensors(empty=True, maps=(maps, "...", "number"), masks=(masks, "...", "number"))
    maps = _checked_maps(maps)
    if masks.shape != maps.shape:
        came = f"{tuple(maps.shape)} and {tuple(masks.shape)}"
        raise AttnBridgeError(f"maps and masks must have one shape (B, H, W), not {came}; enlarge the maps first")
    if masks.dtype != torch.bool and not ((masks == 0) | (masks == 1)).all():
        raise AttnBridgeError("masks must be bool, or 0 and 1; of a label mask take `mask == index`")
    masks = masks.bool()
    empty = (~masks.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise AttnBridgeError(f"the masks of images {empty} of the batch are empty; leave such images out")
    return maps, masks


def _checked_boxes(boxes: Tensor) -> Tensor:
    check_tensors(empty=True, boxes=(boxes, "...", "number"))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise AttnBridgeError(f"boxes must have the shape (n, 4) with n > 0, but have {tuple(boxes.shape)}")
    wrong = boxes[~(boxes[:, 2:] > boxes[:, :2]).all(1)].tolist()  # NaN too
    if wrong:
        raise AttnBridgeError(f"a box is x0, y0, x1, y1 with exclusive ends, so x1 > x0 and y1 > y0; not {wrong[0]}")
    return boxes


def checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Thresholds, if they rise within [0, 1); else AttnBridgeError."""
    if not isinstance(thresholds, Sequence) or len(thresholds):
        check_value("thresholds", thresholds, Sequence[float])
    values = tuple(thresholds)
    if not values or not all(0 <= value < 1 for value in values) or list(values) != sorted(set(values)):
        raise AttnBridgeError(f"thresholds must rise within [0, 1), but are {shown(values)}; sort them, each once")
    return values
