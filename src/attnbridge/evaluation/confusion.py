"""A confusion matrix as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

WRITTEN = 40
"""Labels up to which the cells have numbers."""
LARGEST = 30
"""Inches of a side."""


def confusion_figure(confusion: Tensor, names: Sequence[str]) -> Figure:
    """The shares of each true label's pixels by their predicted label, percent; a label that is nowhere true has an
    empty row.

    Args:
        confusion: ``(L, L)``, or ``(L, L + 1)`` with a last column of pixels without a label, which is left out where
            it holds none; see :func:`~attnbridge.evaluation.metrics.masks.mask_confusion`.
        names: of the labels, background first.
    """
    counts = confusion.cpu().numpy().astype(float)
    if counts.shape[1] > len(names) and not counts[:, -1].any():
        counts = counts[:, :-1]
    columns = [*names, "no label"][: counts.shape[1]]
    totals = counts.sum(1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    side = min(LARGEST, 2.5 + 0.42 * len(columns))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=100, cmap="viridis")
    size = 8 if len(columns) <= WRITTEN else 5
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    if len(columns) <= WRITTEN:
        _write_shares(axes, shares)
    figure.colorbar(image, shrink=0.6, label="% of the true label's pixels")
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)  # a dollar in a name begins no formula
    return figure


def _write_shares(axes: Any, shares: np.ndarray[Any, Any]) -> None:
    """Each share of half a percent or more into its cell."""
    for y, x in np.argwhere(shares >= 0.5):
        colour = "black" if shares[y, x] > 60 else "white"
        axes.text(x, y, f"{shares[y, x]:.0f}", ha="center", va="center", fontsize=7, color=colour)
