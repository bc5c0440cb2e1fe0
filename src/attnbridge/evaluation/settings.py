"""How a run is scored, as its configuration says it. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Background thresholds, relative to a map's maximum, that all maps are scored at."""
ScoredSize = Literal["network", "own"]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is scored. What is ``None`` is the task's own choice: class maps are scored at one scale, not mirrored
    and not refined, a segmentation network's masks at three, mirrored and refined.

    Args:
        threshold: the fixed background threshold of class maps, reported beside the one that validation chooses; one of
            :data:`THRESHOLDS`.
        score_threshold: probability from which on a class counts as predicted.
        size: where masks are compared: at the size of the ``network``'s images, to which masks are resized with them,
            or at each image's ``own``, to which the network's answer is enlarged, as VOC is scored.
        scales: multiples of the network's size that maps, or a segmentation network's masks, are averaged over.
        flip: average with those of the mirrored images.
        crf: refine by a dense CRF.
        combine: ``mean`` of probabilities, or ``logits``, summed as DSRG's code does, see
            :class:`~attnbridge.segmentation.inference.Inference`.
        corners: enlarge answers with the centres of their outer positions on those of the outer pixels.
    """

    threshold: float = 0.5
    score_threshold: float = 0.5
    size: ScoredSize = "network"
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    crf: bool | None = None
    combine: Literal["mean", "logits"] = "mean"
    corners: bool = False

    def resolved(self, **defaults: Any) -> EvaluationSettings:
        """With a task's own choices in the place of ``None``.

        >>> EvaluationSettings(flip=False).resolved(flip=True, crf=True).crf
        True
        """
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})
