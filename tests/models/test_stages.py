"""Stages of networks, and which of two networks belong together."""

from __future__ import annotations

import pytest
from torch import nn

from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone
from attnbridge.models.stages import find_stages, pair_stages


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
