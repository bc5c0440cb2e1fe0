"""Cues beside a loop over pixels, and the rules for pixels that two labels claim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnbridge.errors import AttnBridgeError
from attnbridge.segmentation.cues import CueSettings, make_cue


def by_pixels(maps: Tensor, present: Tensor, saliency: Tensor, rule: str) -> Tensor:
    """The same, a pixel at a time."""
    area = [int((m > 0.3).sum()) if p else 0 for m, p in zip(maps, present, strict=True)]
    labels = torch.full(saliency.shape, 255, dtype=torch.uint8)
    for y in range(saliency.shape[0]):
        for x in range(saliency.shape[1]):
            claims = [c for c in range(len(maps)) if present[c] and maps[c, y, x] > 0.3]
            back = saliency[y, x] < 0.06
            if back and not claims:
                labels[y, x] = 0
            elif not back and claims:
                key = {"smallest_region": lambda c: -area[c], "highest_score": lambda c, y=y, x=x: float(maps[c, y, x])}
                if rule != "ignore_conflicts":
                    labels[y, x] = max(claims, key=key[rule]) + 1
                elif len(claims) == 1:
                    labels[y, x] = claims[0] + 1
    return labels


@pytest.mark.parametrize("rule", ["smallest_region", "highest_score", "ignore_conflicts"])
@pytest.mark.parametrize("seed", range(4))
def test_a_cue_is_what_its_rule_says_of_each_pixel(rule: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(4, 9, 7, generator=generator).square()
    present = torch.tensor([True, False, True, True])
    saliency = torch.rand(9, 7, generator=generator).square()
    cue = make_cue(maps, present, saliency, CueSettings(rule=rule))
    assert torch.equal(cue, by_pixels(maps, present, saliency, rule))
    assert {0, 255} < set(cue.flatten().tolist()) <= {0, 1, 3, 4, 255}


def test_without_saliency_the_background_is_where_no_map_is() -> None:
    maps = torch.tensor([[[1.0, 0.02, 0.2]], [[0.9, 0.9, 0.9]]])
    assert make_cue(maps, torch.tensor([True, False])).tolist() == [[1, 0, 255]]


def everything_first(claims: Tensor, maps: Tensor) -> Tensor:
    """A user's rule."""
    return torch.ones(claims.shape[1:], dtype=torch.long)


def not_labels(claims: Tensor, maps: Tensor) -> Tensor:
    """A user's rule that does not know what is wanted."""
    return torch.full(claims.shape[1:], 77)


def test_a_users_own_rule() -> None:
    maps, present = torch.rand(2, 3, 4), torch.tensor([True, True])
    settings = CueSettings(rule="tests.segmentation.test_cues:everything_first")
    assert make_cue(maps, present, settings=settings).unique().tolist() == [1]
    with pytest.raises(AttnBridgeError, match="values up to 77; expected labels"):
        make_cue(maps, present, settings=CueSettings(rule="tests.segmentation.test_cues:not_labels"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "smalest_region"}, "did you mean 'smallest_region'"),
        ({"rule": "no.such.module:rule"}, "cannot be imported"),
        ({"threshold": 1.0}, "--threshold must be at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], words: str) -> None:
    with pytest.raises(AttnBridgeError, match=words):
        make_cue(torch.rand(1, 2, 2), torch.tensor([True]), settings=CueSettings(**settings))  # type: ignore[arg-type]
