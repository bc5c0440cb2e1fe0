"""The list on which the finder of layers is judged is as broad as it claims; all but one tiny network stay unbuilt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import networks
from benchmarks.networks import NETWORKS, build, images, independent_map
from benchmarks.networks.network import Grid, features_and_scores

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


def test_nothing_of_attnbridge_takes_part() -> None:
    for file in Path(networks.__file__).parent.glob("*.py"):
        lines = file.read_text().splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("import attnbridge", "from attnbridge"))], file


def test_the_map_by_hand_is_cam_where_pooling_and_a_linear_layer_follow() -> None:
    """Zhou et al. 2016: the head's weights times the features, here over the number of positions."""
    entry = next(entry for entry in NETWORKS if entry.name == "own/pooled_cnn")
    network, batch = build(entry), images(entry)
    features, scores = features_and_scores(network, entry, batch, entry.layer)
    weight = network.get_submodule("11").weight[scores.argmax(1)]
    cam = torch.einsum("bc,bchw->bhw", weight, features).relu() / features[0, 0].numel()
    torch.testing.assert_close(independent_map(network, entry, batch)[:, 0], cam.detach())


def test_the_same_weights_at_each_build() -> None:
    entry = next(entry for entry in NETWORKS if entry.name == "own/pooled_cnn")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    once, again = build(entry).state_dict(), build(entry).state_dict()
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("grid", "shape"),
    [
        (Grid("channels first", 2, 3), (1, 4, 2, 3)),
        (Grid("channels last", 2, 3), (1, 2, 3, 4)),
        (Grid("tokens", 2, 3, prefix=1, suffix=2), (1, 9, 4)),
    ],
)
def test_a_grid_arranges_features_in_reading_order(grid: Grid, shape: tuple[int, ...]) -> None:
    wanted = torch.arange(24.0).reshape(1, 4, 2, 3)
    given = wanted if grid.kind == "channels first" else wanted.permute(0, 2, 3, 1)
    if grid.kind == "tokens":
        given = torch.cat([torch.zeros(1, 1, 4), given.reshape(1, 6, 4), torch.zeros(1, 2, 4)], 1)
    assert given.shape == shape
    assert torch.equal(grid.arrange(given), wanted)
    with pytest.raises(ValueError, match="are not Grid"):
        grid.arrange(torch.zeros(1, 5, 7))
