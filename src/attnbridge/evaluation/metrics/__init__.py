"""Scores, streaming, on torchmetrics: of class maps, of labels, of saliency maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbridge.lazy import exporter

if TYPE_CHECKING:
    from attnbridge.evaluation.metrics.faithfulness import Deletion as Deletion
    from attnbridge.evaluation.metrics.faithfulness import Insertion as Insertion
    from attnbridge.evaluation.metrics.faithfulness import deletion_curve as deletion_curve
    from attnbridge.evaluation.metrics.faithfulness import insertion_curve as insertion_curve
    from attnbridge.evaluation.metrics.faithfulness import sanity_check as sanity_check
    from attnbridge.evaluation.metrics.maps import BestThresholdIoU as BestThresholdIoU
    from attnbridge.evaluation.metrics.maps import BoxAccuracy as BoxAccuracy
    from attnbridge.evaluation.metrics.maps import EnergyInside as EnergyInside
    from attnbridge.evaluation.metrics.maps import MaxBoxAccuracy as MaxBoxAccuracy
    from attnbridge.evaluation.metrics.maps import PointingGame as PointingGame
    from attnbridge.evaluation.metrics.maps import ThresholdIoU as ThresholdIoU
    from attnbridge.evaluation.metrics.maps import box_masks as box_masks
    from attnbridge.evaluation.metrics.saliency import SaliencyScores as SaliencyScores
    from attnbridge.evaluation.metrics.segmentation import LabelPrecision as LabelPrecision
    from attnbridge.evaluation.metrics.segmentation import MapSegmentation as MapSegmentation
    from attnbridge.evaluation.metrics.segmentation import average_precision as average_precision
    from attnbridge.evaluation.metrics.segmentation import mean_iou as mean_iou

_NAMES = {
    "BestThresholdIoU": "attnbridge.evaluation.metrics.maps",
    "BoxAccuracy": "attnbridge.evaluation.metrics.maps",
    "Deletion": "attnbridge.evaluation.metrics.faithfulness",
    "EnergyInside": "attnbridge.evaluation.metrics.maps",
    "Insertion": "attnbridge.evaluation.metrics.faithfulness",
    "LabelPrecision": "attnbridge.evaluation.metrics.segmentation",
    "MapSegmentation": "attnbridge.evaluation.metrics.segmentation",
    "MaxBoxAccuracy": "attnbridge.evaluation.metrics.maps",
    "PointingGame": "attnbridge.evaluation.metrics.maps",
    "SaliencyScores": "attnbridge.evaluation.metrics.saliency",
    "ThresholdIoU": "attnbridge.evaluation.metrics.maps",
    "average_precision": "attnbridge.evaluation.metrics.segmentation",
    "box_masks": "attnbridge.evaluation.metrics.maps",
    "deletion_curve": "attnbridge.evaluation.metrics.faithfulness",
    "insertion_curve": "attnbridge.evaluation.metrics.faithfulness",
    "mean_iou": "attnbridge.evaluation.metrics.segmentation",
    "sanity_check": "attnbridge.evaluation.metrics.faithfulness",
}
__all__ = [
    "BestThresholdIoU",
    "BoxAccuracy",
    "Deletion",
    "EnergyInside",
    "Insertion",
    "LabelPrecision",
    "MapSegmentation",
    "MaxBoxAccuracy",
    "PointingGame",
    "SaliencyScores",
    "ThresholdIoU",
    "average_precision",
    "box_masks",
    "deletion_curve",
    "insertion_curve",
    "mean_iou",
    "sanity_check",
]
__getattr__ = exporter("attnbridge.metrics", _NAMES)  # the name that users know
