"""Of which network are these weights? Names and shapes beside those of models that people use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from attnbridge.errors import AttnBridgeError
from attnbridge.models.checkpoints import State, under_names

SECONDS = 8.0
"""That the search may take."""
AGREE = 0.5
"""Least share of names and shapes that a model has in common with the weights."""
FAMILIES: dict[str, str] = {
    "layer1.0.conv1.weight": "resnet18 resnet50 resnet34 resnet101 resnet152 resnet10t resnet14t resnet26 resnet26d "
    "resnet50d wide_resnet50_2 resnext50_32x4d seresnet50",
    "features.0.weight": "vgg16 vgg11 vgg13 vgg19 vgg16_bn torchvision/vgg16 torchvision/vgg11 torchvision/vgg19 "
    "torchvision/alexnet torchvision/squeezenet1_0 torchvision/squeezenet1_1",
    "blocks.0.attn.qkv.weight": "vit_base_patch16_224 vit_small_patch16_224 vit_tiny_patch16_224 vit_large_patch16_224 "
    "vit_base_patch32_224 vit_small_patch14_dinov2 vit_base_patch14_dinov2 deit_tiny_distilled_patch16_224 "
    "deit_small_distilled_patch16_224 deit_base_distilled_patch16_224 beit_base_patch16_224",
    "conv_stem.weight": "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 tf_efficientnet_lite0 "
    "tf_efficientnetv2_s mobilenetv2_100 mobilenetv3_large_100 mobilenetv3_small_100",
    "stages.0.blocks.0.conv_dw.weight": "convnext_tiny convnext_small convnext_base convnextv2_tiny convnextv2_base",
    "layers.0.blocks.0.attn.qkv.weight": "swin_tiny_patch4_window7_224 swin_small_patch4_window7_224 "
    "swin_base_patch4_window7_224 swinv2_tiny_window8_256",
    "features.denseblock1.denselayer1.norm1.weight": "densenet121 densenet169 torchvision/densenet121",
    "blocks.0.mlp_tokens.fc1.weight": "mixer_b16_224 mixer_s16_224",
    "s1.b1.conv1.conv.weight": "regnety_008 regnety_016 regnetx_008",
    "Conv2d_1a_3x3.conv.weight": "inception_v3",
    "features.0.0.weight": "torchvision/mobilenet_v2 torchvision/mobilenet_v3_small torchvision/mobilenet_v3_large "
    "torchvision/efficientnet_b0 torchvision/convnext_tiny torchvision/swin_t torchvision/swin_s",
    "encoder.layers.encoder_layer_0.ln_1.weight": "torchvision/vit_b_16 torchvision/vit_b_32 torchvision/vit_l_16",
    "stage2.0.branch1.0.weight": "torchvision/shufflenet_v2_x1_0 torchvision/shufflenet_v2_x0_5",
}
"""Models that people use, by the name of a weight that they have in common."""


def nearest_model(state: State) -> str:
    """The model whose names and shapes agree best with weights, in words for the end of an error.

    Args:
        state: the weights.

    Returns:
        Nothing where no model that was tried has half of them.

    >>> nearest_model(timm.create_model("resnet18", num_classes=1000).state_dict())
    "; of the models that were tried, 'resnet18' has most of its names and shapes (100%)"
    """
    best, share, until = "", AGREE, time.monotonic() + SECONDS
    for name in _candidates(state):
        with suppress(AttnBridgeError, RuntimeError, NotImplementedError), torch.device("meta"):
            found = _agreement(state, _make(name))
            if found > share:
                best, share = name, found
        if time.monotonic() > until or share == 1:
            break
    return f"; of the models that were tried, {best!r} has most of its names and shapes ({share:.0%})" if best else ""


def _candidates(state: State) -> Iterator[str]:
    for mark, names in FAMILIES.items():
        if any(name == mark or name.endswith(f".{mark}") for name in state):
            yield from names.split()


def _make(name: str) -> nn.Module:
    library, _, short = name.rpartition("/")
    network: nn.Module = torchvision.models.get_model(short) if library else timm.create_model(name)
    return network


def _agreement(state: State, network: nn.Module) -> float:
    """Shared names and shapes as a share of all."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in under_names(state, own, Path()).items()}
    both = sum(theirs.get(name) == shape for name, shape in own.items())
    return both / max(1, len(own.keys() | theirs.keys()))
