"""Region growing against a plain flood from each seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnbridge.errors import AttnBridgeError
from attnbridge.segmentation.grow import grow_seeds


def flooded(probabilities: Tensor, seeds: Tensor, labels: Tensor) -> Tensor:
    """Pixel by pixel, one image at a time."""
    batch, count, height, width = seeds.shape
    out = torch.zeros_like(seeds)
    for b in range(batch):
        present = [0, *(c + 1 for c in range(count - 1) if labels[b, c])]
        for label in present:
            stack = [tuple(place) for place in torch.nonzero(seeds[b, label]).tolist()]
            while stack:
                y, x = stack.pop()
                if out[b, label, y, x]:
                    continue
                out[b, label, y, x] = True
                for v in range(max(0, y - 1), min(height, y + 2)):
                    for u in range(max(0, x - 1), min(width, x + 2)):
                        best = max(present, key=lambda c: (float(probabilities[b, c, v, u]), -c))
                        threshold = 0.99 if label == 0 else 0.85
                        free = not any(seeds[b, c, v, u] for c in range(count))
                        if free and best == label and probabilities[b, label, v, u] > threshold:
                            stack.append((v, u))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_growing_equals_a_flood(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 12, 10, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(logits, 3, 1, 1) * 14
    probabilities = smooth.softmax(1)
    place = torch.rand(3, 12, 10, generator=generator)
    kind = torch.randint(0, 4, (3, 12, 10), generator=generator)
    seeds = torch.nn.functional.one_hot(kind, 4).permute(0, 3, 1, 2).bool() & (place < 0.08)[:, None]
    labels = torch.rand(3, 3, generator=generator) > 0.3
    found = grow_seeds(probabilities, seeds, labels)
    assert torch.equal(found, flooded(probabilities, seeds, labels))
    assert found.sum() > (seeds[:, 1:] & labels[:, :, None, None]).sum() + seeds[:, 0].sum()
    assert not found[:, 1:][~labels].any()


def test_growth_stops_at_another_labels_seed() -> None:
    probabilities = torch.zeros(1, 3, 1, 5)
    probabilities[:, 1] = 1.0
    seeds = torch.zeros(1, 3, 1, 5, dtype=torch.bool)
    seeds[0, 1, 0, 0] = seeds[0, 2, 0, 2] = True
    grown = grow_seeds(probabilities, seeds, torch.ones(1, 2))
    assert grown[0, 1, 0].tolist() == [True, True, False, False, False]
    assert grown[0, 2, 0].tolist() == [False, False, True, False, False]


def test_shapes_that_do_not_fit_are_told() -> None:
    with pytest.raises(AttnBridgeError, match=r"labels \(1, 3\) the shape \(B, L - 1\)"):
        grow_seeds(torch.rand(1, 3, 2, 2), torch.ones(1, 3, 2, 2).bool(), torch.ones(1, 3))


def flooded_as_published(probabilities: Tensor, seeds: Tensor, labels: Tensor) -> Tensor:
    """speedinghzl/DSRG, 91efdf7, pylayers.py:237-274, pixel by pixel: what is sure overrules seeds in the map that is
    flooded, but takes none of them."""
    batch, count, height, width = seeds.shape
    out = torch.zeros_like(seeds)
    for b in range(batch):
        present = [0, *(c + 1 for c in range(count - 1) if labels[b, c])]
        plan = torch.full((height, width), -1)
        for y in range(height):
            for x in range(width):
                for c in range(count):
                    if seeds[b, c, y, x]:
                        plan[y, x] = c
                best = max(present, key=lambda c: (float(probabilities[b, c, y, x]), -c))
                value = float(probabilities[b, best, y, x])
                if value > 0.85 and (best != 0 or value > 0.99):
                    plan[y, x] = best
        for label in present:
            reached = torch.zeros(height, width, dtype=torch.bool)
            stack = [(y, x) for y, x in torch.nonzero(seeds[b, label]).tolist() if plan[y, x] == label]
            while stack:
                y, x = stack.pop()
                if reached[y, x]:
                    continue
                reached[y, x] = True
                for v in range(max(0, y - 1), min(height, y + 2)):
                    for u in range(max(0, x - 1), min(width, x + 2)):
                        if plan[v, u] == label:
                            stack.append((v, u))
            for y, x in torch.nonzero(reached).tolist():
                out[b, label, y, x] = seeds[b, label, y, x] or seeds[b, :, y, x].sum() != 1
            out[b, label] |= seeds[b, label]
    return out


@pytest.mark.parametrize("seed", range(6))
def test_growing_as_published_equals_a_flood(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 12, 10, generator=generator)
    probabilities = (torch.nn.functional.avg_pool2d(logits, 3, 1, 1) * 14).softmax(1)
    kind = torch.randint(0, 4, (3, 12, 10), generator=generator)
    seeds = torch.nn.functional.one_hot(kind, 4).permute(0, 3, 1, 2).bool()
    seeds &= (torch.rand(3, 12, 10, generator=generator) < 0.2)[:, None]
    labels = torch.rand(3, 3, generator=generator) > 0.3
    found = grow_seeds(probabilities, seeds, labels, overruled=True)
    assert torch.equal(found, flooded_as_published(probabilities, seeds, labels))
    assert not torch.equal(found, grow_seeds(probabilities, seeds, labels))


def test_as_published_a_label_grows_past_seeds_that_are_overruled() -> None:
    probabilities = torch.zeros(1, 3, 1, 5)
    probabilities[:, 1] = 1.0
    seeds = torch.zeros(1, 3, 1, 5, dtype=torch.bool)
    seeds[0, 1, 0, 0] = seeds[0, 2, 0, 2] = True
    grown = grow_seeds(probabilities, seeds, torch.ones(1, 2), overruled=True)
    assert grown[0, 1, 0].tolist() == [True, True, False, True, True]
    assert grown[0, 2, 0].tolist() == [False, False, True, False, False]
