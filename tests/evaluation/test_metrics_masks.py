"""Scores of label masks against loops over pixels, scikit-learn, and cases made by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchmetrics.classification import MulticlassConfusionMatrix

from attnbridge.evaluation.metrics.masks import boundary_f_score, label_iou, mask_confusion

CLASSES = 3


def random_mask(rng: np.random.Generator, high: int = 12, wide: int = 9, void: float = 0.0) -> Tensor:
    """Blobs of 0 to 3, some of the pixels 255."""
    mask = rng.integers(0, CLASSES + 1, (high // 3, wide // 3)).repeat(3, 0).repeat(3, 1)
    return torch.from_numpy(np.where(rng.random(mask.shape) < void, 255, mask)).long()


@pytest.mark.parametrize("seed", range(5))
def test_iou_equals_a_loop_and_scikit_learn(seed: int) -> None:
    """Over a set of images, ignored pixels left out of both; what has no predicted label is wrong."""
    rng = np.random.default_rng(seed)
    pairs = [(random_mask(rng, void=0.1 * (seed % 2)), random_mask(rng, void=0.2)) for _ in range(4)]
    iou = label_iou(torch.stack([mask_confusion(*pair, CLASSES) for pair in pairs]).sum(0))
    found, truth = (torch.cat([pair[i].flatten() for pair in pairs]).numpy() for i in (0, 1))
    known = truth != 255
    labels = range(CLASSES + 1)
    for label in labels:
        one, other = (found == label) & known, (truth == label) & known
        assert iou[label] == (one & other).sum() / (one | other).sum()
    np.testing.assert_allclose(iou, jaccard_score(truth[known], found[known], labels=[*labels], average=None))


def test_a_folder_is_counted_as_a_run_is() -> None:
    """Whose pixels torchmetrics counts."""
    rng = np.random.default_rng(0)
    counted = MulticlassConfusionMatrix(CLASSES + 1, ignore_index=255)
    total = torch.zeros(CLASSES + 1, CLASSES + 2, dtype=torch.long)
    for _ in range(3):
        found, truth = random_mask(rng), random_mask(rng, void=0.2)
        counted.update(found, truth)
        total += mask_confusion(found, truth, CLASSES)
    assert total[:, :-1].equal(counted.compute())
    assert not total[:, -1].any()
    assert label_iou(total).equal(label_iou(counted.compute()))


def test_a_label_that_never_occurs_has_no_iou_and_one_that_is_only_ignored_neither() -> None:
    truth, found = torch.tensor([[0, 1, 255]]), torch.tensor([[0, 1, 2]])
    assert label_iou(mask_confusion(found, truth, 3))[:2].tolist() == [1, 1]
    assert label_iou(mask_confusion(found, truth, 3))[2:].isnan().all()


def beside(mask: Any, y: int, x: int) -> bool:
    """Whether a pixel of a class is beside one of something else."""
    around = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    inside = [(v, u) for v, u in around if 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1]]
    return bool(mask[y, x]) and any(not mask[v, u] for v, u in inside)


def naive(found: Any, truth: Any, label: int, tolerance: float) -> float:
    """Every pixel against every other, nothing ignored."""
    one, other = found == label, truth == label
    if not one.any() and not other.any():
        return math.nan
    places = [[at for at in np.ndindex(mask.shape) if beside(mask, *at)] for mask in (one, other)]
    if not places[0] or not places[1]:
        return float(one.all() and other.all())
    reach = tolerance * math.hypot(*truth.shape)
    shares = [
        sum(any(math.dist(p, q) <= reach for q in others) for p in own) / len(own)
        for own, others in (places, places[::-1])
    ]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


@pytest.mark.parametrize(("seed", "tolerance"), [*itertools.product(range(6), (0.0, 0.1, 0.2))])
def test_boundary_f_equals_every_pixel_against_every_other(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    found, truth = random_mask(rng, void=0.1 * (seed % 2)), random_mask(rng)
    expected = [naive(found.numpy(), truth.numpy(), label, tolerance) for label in range(1, CLASSES + 1)]
    scores = boundary_f_score(found, truth, CLASSES, tolerance)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12)


def square(side: int, low: int, high: int, label: int = 1) -> Tensor:
    mask = torch.zeros(side, side, dtype=torch.long)
    mask[low:high, low:high] = label
    return mask


def test_a_shift_within_the_tolerance_is_none() -> None:
    """0.75% of 141 pixels is 1.06, of 70 pixels 0.53."""
    truth = square(100, 20, 60)
    assert boundary_f_score(truth.roll(1, 0), truth, 1) == 1
    assert boundary_f_score(truth.roll(2, 0), truth, 1) < 1
    small = square(50, 10, 30)
    assert boundary_f_score(small.roll(1, 0), small, 1) < 1
    assert boundary_f_score(small, small, 1) == 1


def with_band(mask: Tensor, width: int) -> Tensor:
    """A mask whose boundaries lie in the middle of a band that is ignored, as VOC's."""
    high, low = (sign * max_pool2d(sign * mask[None].float(), 2 * width + 1, 1, width)[0] for sign in (1, -1))
    return mask.masked_fill(high != low, 255)


def test_what_is_predicted_in_an_ignored_band_changes_nothing() -> None:
    plain = square(100, 20, 60)
    truth, rng = with_band(plain, 2), np.random.default_rng(0)
    assert (truth == 255).any()
    noise = torch.from_numpy(rng.integers(0, 3, (100, 100)))
    for found in (plain, plain.roll(3, 0), square(100, 25, 70, 2)):
        noisy = torch.where(truth == 255, noise, found)
        torch.testing.assert_close(
            boundary_f_score(noisy, truth, 2), boundary_f_score(found, truth, 2), equal_nan=True, rtol=0, atol=0
        )
        assert mask_confusion(noisy, truth, 2).equal(mask_confusion(found, truth, 2))
    for found in (plain, truth, square(100, 19, 61), square(100, 21, 59)):
        assert boundary_f_score(found, truth, 2)[0] == 1


def test_the_edge_of_an_ignored_region_is_no_boundary() -> None:
    """Else a prediction of one class everywhere would have found half of it."""
    truth = with_band(square(100, 20, 60), 2)
    assert boundary_f_score(torch.ones_like(truth), truth, 1) == 0
    road = torch.ones(100, 100, dtype=torch.long)
    road[80:] = 255  # the car with the camera
    assert boundary_f_score(torch.ones_like(road), road, 1) == 1


def test_classes_that_are_missed_or_made_up_score_0_and_absent_ones_nothing() -> None:
    scores = boundary_f_score(square(40, 10, 20, 2), square(40, 10, 20, 1), 3)
    assert scores[:2].tolist() == [0, 0]
    assert scores[2].isnan()
    nothing = torch.full((4, 4), 255)
    assert boundary_f_score(square(4, 1, 3), nothing, 3).isnan().all()
