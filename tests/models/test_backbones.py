"""Backbones with another stride."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone

DEEPLAB: dict[str, Any] = {"weights": "none", "stride": 8, "image_size": 65, "dilated": True, "poolings": "deeplab"}


def test_deeplabs_vgg_keeps_a_stride_of_8_and_its_field_of_view() -> None:
    network = build_backbone("vgg11", 3, weights="none", stride=8, image_size=64, dilated=True)
    features = network.network.get_submodule("features")(torch.rand(1, 3, 65, 65))
    assert features.shape[2:] == (8, 8)
    dilations = [m.dilation[0] for m in network.network.modules() if isinstance(m, nn.Conv2d)]
    assert dilations == [1, 1, 1, 1, 1, 1, 2, 2]
    with pytest.raises(AttnBridgeError, match="can have a stride of 8"):
        build_backbone("vgg11", 3, weights="none", stride=16, dilated=True)


def test_deeplabs_poolings_make_41_positions_of_321_pixels() -> None:
    """speedinghzl/DSRG, 91efdf7, train-s.prototxt:83-393; Caffe rounds up."""
    with torch.device("meta"):
        network = build_backbone("vgg16", 3, **DEEPLAB)
        x, sides = torch.rand(1, 3, 321, 321), []
        for module in network.network.get_submodule("features"):  # type: ignore[union-attr]
            x = module(x)
            sides.append(x.shape[3])
        even = network.network.get_submodule("features")(torch.rand(1, 3, 48, 48))
    assert list(dict.fromkeys(sides)) == [321, 161, 81, 41]
    assert even.shape[2:] == (7, 7)  # 48, 25, 13, 7
    assert network.layer == "features.31"  # the average


def test_a_position_of_deeplabs_vgg_is_around_every_eighth_pixel() -> None:
    network = build_backbone("vgg11", 3, **DEEPLAB)
    assert network.layer == "features.21"  # the average
    poolings = [m for m in network.network.modules() if isinstance(m, nn.MaxPool2d)]
    x = torch.arange(65.0).expand(1, 1, 1, 65) - 1e3
    for pooling in poolings[:3]:
        x = -0.5 * (pooling(-x) - pooling(x))  # the middle of a window of an odd number of pixels
    assert (x[0, 0, 0, 1:-1] + 1e3).tolist() == [8.0 * i for i in range(1, 8)]


def test_poolings_that_are_none_are_refused() -> None:
    with pytest.raises(AttnBridgeError, match="poolings must be own or deeplab, not 'deplab'"):
        build_backbone("vgg11", 3, weights="none", stride=8, dilated=True, poolings="deplab")  # type: ignore[arg-type]
