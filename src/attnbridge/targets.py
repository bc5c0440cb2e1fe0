"""What a map explains beside a class: :mod:`attnbridge.attention.targets` under its short name."""

from attnbridge.attention.targets import BoxTarget as BoxTarget
from attnbridge.attention.targets import RegionTarget as RegionTarget
from attnbridge.attention.targets import SimilarityTarget as SimilarityTarget
from attnbridge.attention.targets import ValueTarget as ValueTarget
from attnbridge.attention.targets import text_target as text_target

__all__ = ["BoxTarget", "RegionTarget", "SimilarityTarget", "ValueTarget", "text_target"]
