"""The scores of a folder of masks are those of the whole set, whoever made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbridge.data.mask_pairs import MaskPair, pair_masks
from attnbridge.data.palette import palette_png
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.confusion import confusion_figure
from attnbridge.evaluation.folders.masks import score_masks
from attnbridge.evaluation.metrics.masks import boundary_f_score

Pairs = list[tuple[Any, Any]]


def drawn(count: int = 5) -> Pairs:
    """Predicted and true masks of several sizes, of the labels 0, 1, 2 and 4, some pixels ignored."""
    rng = np.random.default_rng(1)
    pairs: Pairs = []
    for number in range(count):
        truth = np.array([0, 1, 2, 4])[rng.integers(0, 4, (5, 4 + number % 2))].repeat(8, 0).repeat(8, 1)
        pairs.append((np.roll(truth, 3, 1), np.where(rng.random(truth.shape) < 0.1, 255, truth)))
    return pairs


def saved(root: Path, pairs: Pairs, grey: bool = False) -> list[MaskPair]:
    for number, both in enumerate(pairs):
        for folder, mask in zip(("found", "truth"), both, strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(mask.astype(np.uint8)) if grey else palette_png(mask)
            image.save(root / folder / f"{number}.png")
    return pair_masks(root / "found", root / "truth")


def test_iou_is_of_the_set_and_boundary_f_the_mean_over_images_that_show_the_class(tmp_path: Path) -> None:
    pairs = drawn()
    scores = score_masks(saved(tmp_path, pairs), ["a", "b", "c", "d"])
    found, truth = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    known, expected = truth != 255, []
    for label in (0, 1, 2, 4):
        one, other = (found == label) & known, (truth == label) & known
        expected.append((one & other).sum() / (one | other).sum())
    assert [*scores.iou[:3], scores.iou[4]] == pytest.approx(expected)
    assert scores.iou[3] is None
    assert scores.boundary_f[0] is scores.boundary_f[3] is None
    assert scores.miou == pytest.approx(np.mean(expected))
    assert scores.pixel_accuracy == pytest.approx((found == truth)[known].mean())
    assert scores.pixels == tuple((truth == label).sum() for label in range(5))
    tensors = [[torch.from_numpy(mask).long() for mask in pair] for pair in pairs]
    each = [boundary_f_score(one, other, 4) for one, other in tensors]
    means = torch.stack(each).nanmean(0)
    assert [scores.boundary_f[v] for v in (1, 2, 4)] == pytest.approx(means[[0, 1, 3]].tolist())
    assert scores.mean_boundary_f == pytest.approx(float(means.nanmean()))


def test_a_palette_and_grey_of_the_same_values_are_the_same(tmp_path: Path) -> None:
    one, other = (score_masks(saved(tmp_path / str(grey), drawn(), grey)) for grey in (False, True))
    assert one.confusion.equal(other.confusion)
    assert (one.iou, one.boundary_f, one.images) == (other.iou, other.boundary_f, other.images)


def test_without_names_the_values_that_occur_stand_for_themselves(tmp_path: Path) -> None:
    pairs = saved(tmp_path, drawn())
    plain, named = score_masks(pairs), score_masks(pairs, ["a", "b", "c", "d"])
    assert plain.names == ("background", "1", "2", "4")
    assert plain.values == (0, 1, 2, 4)
    assert plain.confusion.shape == (4, 5)
    assert plain.miou == named.miou
    assert plain.mean_boundary_f == named.mean_boundary_f


def test_no_predicted_label_is_wrong_and_the_truth_scores_1(tmp_path: Path) -> None:
    truth = drawn(1)[0][1]
    assert (truth == 255).any()
    right = score_masks(saved(tmp_path / "right", [(truth, truth)]))
    assert (right.miou, right.mean_boundary_f, right.pixel_accuracy, right.unlabelled) == (1, 1, 1, 0)
    holes = truth.copy()
    holes[:8] = 255
    some = score_masks(saved(tmp_path / "holes", [(holes, truth)]))
    assert some.pixel_accuracy == pytest.approx(1 - (truth[:8] != 255).sum() / (truth != 255).sum())
    assert some.unlabelled == pytest.approx(1 - some.pixel_accuracy)
    assert some.miou < 1


def test_images_that_are_ignored_as_a_whole_count_for_nothing(tmp_path: Path) -> None:
    pairs, void = drawn(2), np.full((8, 8), 255)
    alone = score_masks(saved(tmp_path / "alone", pairs))
    beside = score_masks(saved(tmp_path / "beside", [*pairs, (void * 0, void)]))
    assert beside.confusion.equal(alone.confusion)
    assert beside.images == alone.images
    with pytest.raises(AttnBridgeError, match=r"0\.png: every pixel of it .* is 255 \(ignored\)"):
        score_masks(saved(tmp_path / "void", [(void * 0, void)]))


def test_the_figure_has_a_row_for_each_true_label() -> None:
    """Of 100% each; no column for pixels without a label where there are none."""
    names = ("background", "a $b", "c")
    figure = confusion_figure(torch.tensor([[3, 1, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]), names)
    axes = figure.axes[0]
    assert tuple(label.get_text() for label in axes.get_xticklabels()) == names
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100"]
    holes = confusion_figure(torch.tensor([[3, 1], [1, 3]]).repeat(1, 2)[:, :3], names[:2])
    assert [label.get_text() for label in holes.axes[0].get_xticklabels()] == [*names[:2], "no label"]
    many = confusion_figure(torch.eye(254).long(), [f"class {i}" for i in range(254)])
    assert max(many.get_size_inches()) <= 31
    assert not many.axes[0].texts
