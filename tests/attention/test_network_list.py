"""The list on which the finder of layers is judged is as broad as it claims; nothing is built here."""

from __future__ import annotations

from collections import Counter

from benchmarks.networks import NETWORKS

SHOWN = [entry for entry in NETWORKS if not entry.refused]
ORIGINS = {"timm", "torchvision", "transformers", "open_clip", "own"}


def test_at_least_120_configurations_of_60_families() -> None:
    assert len(SHOWN) >= 120
    assert len({entry.family for entry in SHOWN}) >= 60


def test_at_most_three_configurations_of_a_family() -> None:
    assert max(Counter(entry.family for entry in NETWORKS).values()) <= 3


def test_families_of_timm_and_of_others() -> None:
    assert {entry.origin for entry in NETWORKS} == ORIGINS
    assert len({entry.family for entry in SHOWN if entry.origin == "timm"}) >= 40
    assert len({entry.family for entry in SHOWN if entry.origin != "timm"}) >= 20


def test_names_are_unique() -> None:
    assert len({entry.name for entry in NETWORKS}) == len(NETWORKS)


def test_each_line_has_a_layer_with_a_grid_and_a_reason() -> None:
    for entry in SHOWN:
        assert entry.layer, entry.name
        assert entry.grid is not None, entry.name
        assert entry.grid.height * entry.grid.width >= 6, entry.name
        assert all(also.reason for also in entry.also), entry.name
        assert entry.layer not in {also.layer for also in entry.also if not also.copied}, entry.name
    assert all(len(entry.reason.split()) >= 2 for entry in NETWORKS)


def test_few_other_layers_are_accepted() -> None:
    assert max(len(entry.also) for entry in NETWORKS) <= 3
    assert sum(len(entry.also) for entry in SHOWN) <= len(SHOWN)


def test_few_are_refused() -> None:
    refused = [entry for entry in NETWORKS if entry.refused]
    assert 1 <= len(refused) <= 6
    assert all(not entry.layer and entry.grid is None and not entry.also for entry in refused)
