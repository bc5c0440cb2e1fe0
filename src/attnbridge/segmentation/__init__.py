"""From maps to masks: combine, cues, growth of seeds, dense CRF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbridge.lazy import exporter

if TYPE_CHECKING:
    from attnbridge.segmentation.combine import combine_maps as combine_maps
    from attnbridge.segmentation.combine import enlarge_maps as enlarge_maps
    from attnbridge.segmentation.crf import CRF as CRF
    from attnbridge.segmentation.crf import mean_field as mean_field
    from attnbridge.segmentation.cues import CueSettings as CueSettings
    from attnbridge.segmentation.cues import make_cue as make_cue
    from attnbridge.segmentation.grow import grow_seeds as grow_seeds
    from attnbridge.segmentation.inference import Inference as Inference
    from attnbridge.segmentation.inference import infer as infer

_NAMES = {
    "CRF": "attnbridge.segmentation.crf",
    "CueSettings": "attnbridge.segmentation.cues",
    "Inference": "attnbridge.segmentation.inference",
    "combine_maps": "attnbridge.segmentation.combine",
    "enlarge_maps": "attnbridge.segmentation.combine",
    "grow_seeds": "attnbridge.segmentation.grow",
    "infer": "attnbridge.segmentation.inference",
    "make_cue": "attnbridge.segmentation.cues",
    "mean_field": "attnbridge.segmentation.crf",
}
__all__ = [
    "CRF",
    "CueSettings",
    "Inference",
    "combine_maps",
    "enlarge_maps",
    "grow_seeds",
    "infer",
    "make_cue",
    "mean_field",
]
__getattr__ = exporter(__name__, _NAMES)
