"""Images of maps and masks."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from attnbridge.evaluation.figures import colour_mask, overlay, sheet
from attnbridge.evaluation.page import as_figure


def test_overlay_is_strong_where_the_map_is() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    heat = np.zeros((16, 16))
    heat[:8] = 1
    changed = np.abs(overlay(image, heat).astype(int) - 100).sum(2)
    assert (changed[:6] > 20).all()
    assert (changed[10:] == 0).all()


def test_masks_have_a_colour_per_class_and_white_for_ignored() -> None:
    coloured = colour_mask(np.array([[0, 1], [2, 255]], np.uint8), 2)
    assert coloured[0, 0].tolist() == [0, 0, 0]
    assert coloured[1, 1].tolist() == [255, 255, 255]
    assert coloured[0, 1].tolist() != coloured[1, 0].tolist()
    assert sheet([[coloured, coloured]], ["a", "b"], cell=20).size == (52, 50)
    upright = np.zeros((30, 20, 3), np.uint8)
    page = np.asarray(sheet([[upright, upright.transpose(1, 0, 2)]], cell=20))
    assert page.shape == (30 + 8, 52, 3)
    black = (page == 0).all(2)
    assert black[:, :26].sum() == 20 * 30
    assert black[:, 26:].sum() == 20 * 13  # keeps its shape in a cell that is too high for it


def test_a_dollar_in_a_name_begins_no_formula() -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.bar([0, 1], [1, 2], label="run $a^")
    axes.set_xticks([0, 1], ["$x_$", r"\$ and $\frac$"])
    axes.set_title("a $b^$ c")
    axes.legend()
    assert "<img" in as_figure(figure, "Names & dollars")
