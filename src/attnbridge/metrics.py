"""Scores of maps, labels and masks: :mod:`attnbridge.evaluation.metrics` under its short name."""

from lazy_loader import attach_stub

from attnbridge.evaluation import metrics
from attnbridge.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, attach_stub(metrics.__name__, metrics.__file__))
