"""Backbones with another stride."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone


def test_deeplabs_vgg_keeps_a_stride_of_8_and_its_field_of_view() -> None:
    network = build_backbone("vgg11", 3, weights="none", stride=8, image_size=64, dilated=True)
    features = network.network.get_submodule("features")(torch.rand(1, 3, 65, 65))
    assert features.shape[2:] == (8, 8)
    dilations = [m.dilation[0] for m in network.network.modules() if isinstance(m, nn.Conv2d)]
    assert dilations == [1, 1, 1, 1, 1, 1, 2, 2]
    with pytest.raises(AttnBridgeError, match="can have a stride of 8"):
        build_backbone("vgg11", 3, weights="none", stride=16, dilated=True)
