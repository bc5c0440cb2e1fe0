"""Observation leaves the network as it was, whatever happens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnbridge.attention.finder import find_layer
from attnbridge.attention.layers import to_maps
from attnbridge.attention.observe import observe
from attnbridge.errors import AttnBridgeError


def make() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_logits_and_features_are_those_of_a_plain_pass() -> None:
    network, images = make().eval(), torch.rand(2, 3, 8, 8)
    seen = observe(network, images, ["2", "0"])
    assert torch.equal(seen.logits, network(images))
    assert torch.equal(seen.features["2"], network[:3](images))
    assert torch.equal(seen.features["0"], network[0](images))


def test_nothing_is_left_after_an_exception() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Fails())
    with torch.no_grad(), pytest.raises(RuntimeError, match="broken"):
        observe(network, torch.rand(1, 3, 8, 8), "0")
    assert hooks(network) == 0
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_flags_stay(training: bool) -> None:
    network = make().train(training)
    network[0].requires_grad_(False)
    observe(network, torch.rand(2, 3, 8, 8), "2")
    assert find_layer(network, 8) == "2"
    assert all(m.training == training for m in network.modules())
    assert [p.requires_grad for p in network.parameters()] == [False] * 2 + [True] * 4
    assert hooks(network) == 0


def test_without_grad_the_trunk_keeps_no_graph() -> None:
    network = make().eval()
    with torch.no_grad():
        seen = observe(network, torch.rand(2, 3, 8, 8), "2")
        assert not torch.is_grad_enabled()
    assert seen.features["2"].is_leaf
    (gradient,) = torch.autograd.grad(seen.logits.sum(), seen.features["2"])
    assert gradient.abs().sum() > 0
    assert seen.logits.grad_fn is not None


def test_a_typo_names_the_nearest_layer() -> None:
    network = nn.Sequential()
    network.add_module("layer4", make())
    with pytest.raises(AttnBridgeError, match="unknown layer 'layr4'; did you mean 'layer4'"):
        observe(network, torch.rand(2, 3, 8, 8), "layr4")


def test_a_layer_that_does_not_run_is_an_error() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = make(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    with pytest.raises(AttnBridgeError, match="'unused' did not run"):
        observe(Unused(), torch.rand(2, 3, 8, 8), "unused")


def test_a_layer_that_runs_twice_is_an_error() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 2, 3), relu, relu, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(AttnBridgeError, match="more than once"):
        observe(network, torch.rand(2, 3, 8, 8), "1")


def test_outputs_that_are_no_logits_are_named() -> None:
    with pytest.raises(AttnBridgeError, match=r"a tensor of shape \(1, 4, 6, 6\)"):
        observe(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.rand(1, 3, 8, 8), "0")
    with pytest.raises(AttnBridgeError, match="are no maps"):
        to_maps(torch.zeros(1, 8, 4), prefix=1)
    with pytest.raises(AttnBridgeError, match="no layer of the network"):
        find_layer(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)), 8)
