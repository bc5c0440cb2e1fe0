"""Scores of saliency maps against a naive loop over thresholds and images."""

from __future__ import annotations

import pytest
import torch

from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.metrics.saliency import SaliencyScores


def test_equals_the_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 256, (3, 6, 7), generator=generator) / 255
    masks = torch.rand(3, 6, 7, generator=generator) + 0.3 * maps > 0.6
    metric = SaliencyScores()
    for one, mask in zip(maps, masks, strict=True):
        metric.update(one, mask)
    best = (0.0, 0.0, 0.0)
    for step in range(255):
        threshold = (step + 0.5) / 255
        p = r = iou = 0.0
        for one, mask in zip(maps, masks, strict=True):
            taken = one > threshold
            hit = float((taken & mask).sum())
            p += hit / max(float(taken.sum()), 1) / 3
            r += hit / float(mask.sum()) / 3
            iou += hit / float((taken | mask).sum()) / 3
        f = 1.3 * p * r / max(0.3 * p + r, 1e-12)
        if f > best[0] + 1e-12:
            best = (f, threshold, iou)
    score = metric.compute()
    assert (score.max_f, score.threshold, score.iou) == pytest.approx(best)
    assert score.mae == pytest.approx(float((maps - masks.float()).abs().mean()), abs=1e-6)


def test_the_true_mask_is_perfect_and_its_opposite_is_not() -> None:
    mask = torch.tensor([[True, False, False]])
    right, wrong = SaliencyScores(), SaliencyScores()
    right.update(mask.float(), mask)
    wrong.update(1 - mask.float(), mask)
    assert right.compute()[:2] == (0.0, 1.0)
    assert right.compute().iou == 1.0
    assert (wrong.compute().mae, wrong.compute().max_f) == (1.0, 0.0)


def test_errors() -> None:
    with pytest.raises(AttnBridgeError, match="must have one size"):
        SaliencyScores().update(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(AttnBridgeError, match="no image was scored"):
        SaliencyScores().compute()
