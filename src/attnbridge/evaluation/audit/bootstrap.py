"""Means with intervals that say how far chance alone may have moved them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from attnbridge.evaluation.audit.tables import Interval

DRAWS, LEVEL = 2000, 0.95
MOST_AT_ONCE = 1 << 21
"""Values that are drawn at once; bounds the memory, and changes nothing."""


def bootstrap_mean(values: Iterable[float | bool | None], seed: int = 0) -> Interval | None:
    """The mean and its percentile bootstrap interval (Efron, Annals of Statistics 1979), of :data:`DRAWS` draws.

    Args:
        values: numbers; ``None`` is left out.
        seed: of the draws.

    Returns:
        ``None`` without any value.

    >>> bootstrap_mean([0.0, 1.0, None] * 50)
    Interval(mean=0.5, low=0.4, high=0.6, count=100)
    """
    known = np.array([value for value in values if value is not None], float)
    if not len(known):
        return None
    rng, means = np.random.default_rng(seed), []
    rows = max(1, MOST_AT_ONCE // len(known))
    for start in range(0, DRAWS, rows):
        picks = rng.integers(0, len(known), (min(rows, DRAWS - start), len(known)))
        means.append(known[picks].mean(1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(known.mean()), float(low), float(high), len(known))
