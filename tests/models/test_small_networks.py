"""WideResNets and Network in Network: the published sizes, timm's names, the features that are looked at."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbridge.attention.observe import observe
from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone
from attnbridge.models.small_networks import WideResNet


@pytest.mark.parametrize(
    ("name", "millions"),  # as the paper's Table 1 has them; its counts are rounded
    [
        ("wrn_16_1", 0.2),
        ("wrn_16_2", 0.7),
        ("wrn_40_1", 0.6),
        ("wrn_40_2", 2.2),
        ("nin_tiny", 0.06),
        ("nin_thin", 0.2),
        ("nin_wide", 1.0),
    ],
)
def test_the_sizes_are_the_papers(name: str, millions: float) -> None:
    network = timm.create_model(name, num_classes=10)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert network.get_classifier() is network.get_submodule(network.pretrained_cfg["classifier"])
    assert timm.create_model(name, num_classes=7)(torch.rand(1, 3, 32, 32)).shape == (1, 7)


def published(network: WideResNet, x: Tensor) -> Tensor:
    """The forward pass as the authors' code writes it."""
    x = F.conv2d(x, network.conv0.weight, padding=1)
    for number in range(3):
        for i, block in enumerate(network.get_submodule(f"group{number}")):  # type: ignore[arg-type]
            stride = 2 if number and i == 0 else 1
            o1 = F.relu(block.bn0(x))
            y = F.conv2d(o1, block.conv0.weight, stride=stride, padding=1)
            o2 = F.relu(block.bn1(y))
            z = F.conv2d(o2, block.conv1.weight, padding=1)
            x = z + (x if block.shortcut is None else F.conv2d(o1, block.shortcut.weight, stride=stride))
    x = F.avg_pool2d(F.relu(network.bn(x)), 8, 1, 0)
    return F.linear(x.flatten(1), network.fc.weight, network.fc.bias)


def test_a_wide_resnet_computes_what_the_authors_computes() -> None:
    network = WideResNet(16, 2).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network(images), published(network, images), atol=1e-5)
        groups = observe(network, images, ["group0", "group1", "group2"]).features
    assert [tuple(groups[f"group{i}"].shape[1:]) for i in range(3)] == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]


def test_they_are_backbones() -> None:
    backbone = build_backbone("wrn_16_1", 5, weights="none", stride=None, image_size=32)
    assert (backbone.layer, backbone.channels) == ("relu", 64)
    with pytest.raises(AttnBridgeError, match=r"'wrn_16_1' cannot have a stride of 16"):
        build_backbone("wrn_16_1", 5, weights="none", stride=16, image_size=32)
    with pytest.raises(AttnBridgeError, match=r"cannot be had from timm's hub \(there are no published weights"):
        build_backbone("nin_thin", 5, stride=None, image_size=32)
    with pytest.raises(ValueError, match=r"6 n \+ 4"):
        WideResNet(15, 1)
