"""Stages of networks, and which of two networks belong together."""

from __future__ import annotations

import pytest
from torch import nn

from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone
from attnbridge.models.stages import aligned_layers, find_stages, pair_stages, trained_stages


def test_pairs_are_found_by_resolution_across_families() -> None:
    names = ("resnet10t", "wrn_16_1")
    resnet, wide = (build_backbone(n, 3, weights="none", stride=None, image_size=64).network.eval() for n in names)
    deep = {(16, 16): "layer1", (8, 8): "layer2", (4, 4): "layer3", (2, 2): "layer4"}
    assert find_stages(resnet, 64) == {(32, 32): "conv1", **deep}  # its stem is a stage of three convolutions
    assert pair_stages(wide, resnet, 64) == [("group1", "conv1"), ("group2", "layer1")]
    assert resnet.training is False
    fine, coarse = (nn.Sequential(nn.Conv2d(3, 4, 3, padding=pad), nn.Flatten()) for pad in (1, 0))
    with pytest.raises(AttnBridgeError, match=r"no resolution in common"):
        pair_stages(fine, coarse, 8)


PUBLISHED = {
    "resnet101": ["layer1.2.conv3", "layer2.3.conv3", "layer3.22.conv3", "layer4.2.conv3"],  # AFA framework.py:83
    "resnet18": ["layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"],
    "resnet10t": ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"],  # shortcuts run after it
    "mobilenetv2_100": ["blocks.1.1.conv_pwl", "blocks.2.2.conv_pwl", "blocks.4.2.conv_pwl", "blocks.6.0.conv_pwl"],
    "tf_efficientnet_lite0": [
        *("blocks.1.1.conv_pwl", "blocks.2.1.conv_pwl", "blocks.4.2.conv_pwl", "blocks.6.0.conv_pwl"),
    ],
    "regnety_004": ["s1.b1.conv3.conv", "s2.b3.conv3.conv", "s3.b6.conv3.conv", "s4.b6.conv3.conv"],
    "vgg16": ["features.7", "features.14", "features.21", "features.28"],
    "vgg16_bn": ["features.10", "features.20", "features.30", "features.40"],
    "densenet121": [*(f"features.denseblock{n}" for n in (1, 2, 3)), "features"],  # its last convolution gives a part
    "convnext_tiny": ["stages.0", "stages.1", "stages.2", "stages"],  # its blocks end with linear layers
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_last_convolution_of_a_block_is_aligned(name: str) -> None:
    network = build_backbone(name, 3, weights="none", stride=None, image_size=64).network
    assert aligned_layers(network, 64) == PUBLISHED[name]


def test_aligned_features_come_before_batch_norm() -> None:
    network = build_backbone("resnet18", 3, weights="none", stride=None, image_size=64).network
    modules = dict(network.named_modules())
    names = list(modules)
    for name in aligned_layers(network, 64):
        after = names[names.index(name) + 1]
        assert isinstance(modules[name], nn.Conv2d)
        assert isinstance(modules[after], nn.BatchNorm2d)
        assert modules[name].out_channels == modules[after].num_features


def test_attention_is_that_of_what_blocks_give() -> None:
    network = build_backbone("resnet18", 3, weights="none", stride=None, image_size=64).network
    network.get_submodule("layer1").requires_grad_(False)
    assert trained_stages(network, 64) == ["layer2", "layer3", "layer4"]
