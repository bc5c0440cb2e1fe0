"""How a run is scored, as its configuration says it. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    threshold: float = 0.5
    score_threshold: float = 0.5
    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    flip: bool = True
    crf: bool = True
