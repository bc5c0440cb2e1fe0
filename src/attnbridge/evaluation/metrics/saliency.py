"""How good are saliency maps? Mean absolute error, F-beta and IoU against true masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from attnbridge.arguments import check_tensors
from attnbridge.errors import AttnBridgeError

LEVELS = 255


class SaliencyScore(NamedTuple):
    """Mean absolute error; the largest F-beta over all thresholds and that threshold; IoU at it; all in [0, 1]."""

    mae: float
    max_f: float
    threshold: float
    iou: float


class SaliencyScores(Metric):
    r"""Scores of saliency maps, streaming.

    .. math:: \mathrm{MAE} = \mathrm{mean} |S - G|, \qquad
              F_\beta = \frac{(1 + \beta^2) P R}{\beta^2 P + R}, \quad \beta^2 = 0.3

    Precision and recall are taken at each of 255 thresholds and averaged over the images, then the largest
    :math:`F_\beta` is sought (Achanta et al., CVPR 2009, and the protocol of the field since). The IoU is the mean
    over images at that threshold.

    >>> metric = SaliencyScores()
    >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([[True, False]]))
    >>> metric.compute().max_f, round(metric.compute().mae, 3)
    (1.0, 0.1)
    """

    full_state_update = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("precision", "recall", "iou"):
            self.add_state(name, torch.zeros(LEVELS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("error", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.precision: Tensor
        self.recall: Tensor
        self.iou: Tensor
        self.error: Tensor
        self.count: Tensor

    def update(self, saliency: Tensor, mask: Tensor) -> None:
        """Count one image: saliency float ``(H, W)`` in [0, 1], mask bool ``(H, W)``."""
        check_tensors(saliency=(saliency, "H W"), mask=(mask, "h w", "number"))
        if saliency.shape != mask.shape:
            raise AttnBridgeError(
                f"saliency and mask must have one size, not {tuple(saliency.shape)} and {tuple(mask.shape)}"
            )
        check_tensors(mask=(mask, "H W", "bool"))
        if not bool((saliency >= 0).all() & (saliency <= 1).all()):
            raise AttnBridgeError(f"saliency must be in [0, 1], but goes from {saliency.min()} to {saliency.max()}")
        truth = mask.flatten()
        level = (saliency.flatten() * LEVELS).round().long()  # a pixel is taken at the thresholds below its level
        taken = torch.stack([_at_least(level[truth]), _at_least(level[~truth])]).double()
        hits, wrong = taken[0], taken[1]
        positives = truth.sum().clamp_min(1)
        self.precision += hits / (hits + wrong).clamp_min(1)
        self.recall += hits / positives
        self.iou += hits / (wrong + positives)
        self.error += (saliency.double() - mask.double()).abs().mean()
        self.count += 1

    def compute(self) -> SaliencyScore:
        """The scores of all images so far."""
        if not self.count:
            raise AttnBridgeError("no image was scored")
        p, r = self.precision / self.count, self.recall / self.count
        f = 1.3 * p * r / (0.3 * p + r).clamp_min(1e-12)
        best = int(f.argmax())
        error, iou = float(self.error / self.count), float(self.iou[best] / self.count)
        return SaliencyScore(error, float(f[best]), (best + 0.5) / LEVELS, iou)


def _at_least(levels: Tensor) -> Tensor:
    """How many values exceed each of the thresholds, ``(LEVELS,)``."""
    return torch.bincount(levels, minlength=LEVELS + 1).flip(0).cumsum(0).flip(0)[1:]
