"""Scores of maps, labels and masks: :mod:`attnbridge.evaluation.metrics` under its short name."""

from __future__ import annotations

from attnbridge.evaluation.metrics import __all__ as __all__
from attnbridge.evaluation.metrics import __getattr__ as __getattr__
