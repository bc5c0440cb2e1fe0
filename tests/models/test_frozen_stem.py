"""The frozen stem of a network: with the rest it makes the network, or it is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone, freeze
from attnbridge.models.frozen_stem import find_frozen_stem


@pytest.mark.parametrize(
    ("name", "frozen", "outermost"),
    [
        ("vgg11", ["features.0", "features.3"], 4),
        ("tf_efficientnet_lite0", ["conv_stem", "bn1", "blocks.0", "blocks.1"], 4),
        ("resnet10t", ["conv1", "bn1", "layer1", "layer2"], 6),
    ],
)
def test_stem_and_rest_make_the_network(name: str, frozen: list[str], outermost: int) -> None:
    network = build_backbone(name, 4, weights="none", image_size=64).network.eval()
    freeze(network, frozen)
    images = torch.rand(2, 3, 64, 64)
    stem = find_frozen_stem(network, frozen, images)
    assert len(stem.modules) == outermost  # activations and poolings between the frozen ones too
    features = stem.run(network, images)
    assert not features.requires_grad
    with stem.skipped(network):
        answer = network(features)
    assert torch.allclose(answer, network(images), atol=1e-5)


class Around(nn.Module):
    """What follows its first convolution needs the image as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((self.first(x) + x).mean((2, 3)))


def test_a_network_that_goes_around_its_stem_is_refused() -> None:
    network = Around()
    network.first.requires_grad_(False)
    with pytest.raises(AttnBridgeError, match=r"more than the output of its last frozen module, 'first'"):
        find_frozen_stem(network, ["first"], torch.rand(1, 3, 8, 8))
    assert "forward" not in network.first.__dict__
    assert network.training


def test_a_layer_inside_the_stem_is_refused() -> None:
    network = build_backbone("vgg11", 4, weights="none", image_size=32).network
    freeze(network, ["features.0", "features.3"])
    images = torch.rand(1, 3, 32, 32)
    assert find_frozen_stem(network, ["features.3"], images, ["features.6"]).last == "features.3"
    with pytest.raises(AttnBridgeError, match=r"or the layer that is looked at, needs more"):
        find_frozen_stem(network, ["features.3"], images, ["features.0"])
