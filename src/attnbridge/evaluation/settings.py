"""How a run is scored, as its configuration says it. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Background thresholds, relative to a map's maximum, that all maps are scored at."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is scored.

    Args:
        threshold: the fixed background threshold of class maps, reported beside the one that validation chooses; one of
            :data:`THRESHOLDS`.
        score_threshold: probability from which on a class counts as predicted.
        scales: multiples of the images' size whose masks a segmentation network averages.
        flip: average with those of the mirrored images.
        crf: refine the average by a dense CRF.
        combine: ``mean`` of probabilities, or ``logits``, summed as DSRG's code does, see
            :class:`~attnbridge.segmentation.inference.Inference`.
        corners: enlarge answers with the centres of their outer positions on those of the outer pixels.
    """

    threshold: float = 0.5
    score_threshold: float = 0.5
    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    flip: bool = True
    crf: bool = True
    combine: Literal["mean", "logits"] = "mean"
    corners: bool = False
