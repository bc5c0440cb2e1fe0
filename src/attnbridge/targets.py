"""What a map explains beside a class: :mod:`attnbridge.attention.targets` under its short name."""

from lazy_loader import attach

from attnbridge import attention
from attnbridge.lazy import exports

_names = ["BoxTarget", "RegionTarget", "SimilarityTarget", "ValueTarget", "text_target"]
__getattr__, __dir__, __all__ = exports(__name__, attach(attention.__name__, submod_attrs={"targets": _names}))
