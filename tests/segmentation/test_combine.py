"""Maps of several classes become one mask: against the naive loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnbridge.segmentation.combine import combine_maps, enlarge_maps


def naive_combine(maps: Tensor, scores: Tensor, present: Tensor, threshold: float) -> Tensor:
    n, h, w = maps.shape
    out = torch.zeros(h, w, dtype=torch.uint8)
    for y in range(h):
        for x in range(w):
            best = 0.0
            for c in range(n):
                if present[c] and maps[c, y, x] > threshold and scores[c] > best:
                    best = float(scores[c])
                    out[y, x] = c + 1
    return out


def test_combination_equals_the_naive_loop() -> None:
    maps, scores, present = torch.rand(3, 4, 6, 5), torch.rand(3, 4), torch.rand(3, 4) > 0.4
    ours = combine_maps(maps, scores, present, torch.tensor([0.3, 0.7]))
    for t, threshold in enumerate((0.3, 0.7)):
        for i in range(3):
            assert torch.equal(ours[t, i], naive_combine(maps[i], scores[i], present[i], threshold))


def test_enlarged_maps_reach_one_and_empty_maps_stay_empty() -> None:
    maps = torch.stack([torch.rand(1, 3, 3) * 5, torch.zeros(1, 3, 3)])
    large = enlarge_maps(maps, (12, 12))
    assert large[0].max() == pytest.approx(1.0)
    assert large[1].max() == 0
