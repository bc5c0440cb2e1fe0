"""Exactness: our maps are those of captum and torch-cam, in float32, on networks that people use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from attnbridge.attention.class_maps import grad_cam, grad_cam_pp, layer_cam
from attnbridge.attention.explain import explain
from attnbridge.attention.finder import find_layer
from attnbridge.attention.layers import to_maps
from attnbridge.attention.observe import observe

captum = pytest.importorskip("captum.attr", reason="captum is the oracle of these tests")
torchcam = pytest.importorskip("torchcam.methods", reason="torch-cam is the oracle of these tests")

NETWORKS = {"vgg16": 224, "resnet50": 96, "efficientnet_b0": 96, "convnext_atto": 96}
CLASSES = torch.tensor([4, 6])


class Grid(nn.Module):
    """A transformer's norm whose patch tokens pass ``grid`` as ``(B, C, H, W)``, which captum wants."""

    def __init__(self, norm: nn.Module, prefix: int) -> None:
        super().__init__()
        self.norm, self.prefix, self.grid = norm, prefix, nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        patches = self.grid(to_maps(tokens, self.prefix)).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self.prefix], patches], 1)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = {"img_size": 96} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=7, **size).eval()
    nn.init.normal_(network.get_classifier().weight, std=0.05)  # type: ignore[union-attr, operator]
    return network  # type: ignore[no-any-return]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    scale = theirs.abs().max()
    assert scale > 0
    torch.testing.assert_close((ours / scale).detach(), (theirs / scale).detach(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_grad_cam_is_captums(name: str) -> None:
    network, images = make(name), torch.rand(2, 3, NETWORKS[name], NETWORKS[name])
    layer = find_layer(network, NETWORKS[name])
    theirs = captum.LayerGradCam(network, network.get_submodule(layer)).attribute(images, CLASSES)
    seen = observe(network, images, layer)
    assert_same(grad_cam(seen.features[layer], seen.logits, CLASSES, relu=False), theirs)
    assert_same(explain(network, images, CLASSES), theirs.relu())


def test_grad_cam_of_a_transformer_is_captums() -> None:
    network, images = make("vit_tiny_patch16_224"), torch.rand(2, 3, 96, 96)
    ours = explain(network, images, CLASSES)
    patches = explain(network, images, CLASSES, layer="patch_embed.proj")
    theirs = captum.LayerGradCam(network, network.patch_embed.proj).attribute(images, CLASSES)  # type: ignore
    assert_same(patches, theirs.relu())
    block: Any = network.blocks[-1]  # type: ignore[index, union-attr]
    block.norm1 = Grid(block.norm1, prefix=1)
    theirs = captum.LayerGradCam(network, block.norm1.grid).attribute(images, CLASSES)
    assert_same(ours, theirs.relu())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        ("GradCAM", grad_cam),
        ("GradCAMpp", lambda *a: grad_cam_pp(*a, variant="torchcam")),
        ("LayerCAM", layer_cam),
    ],
    ids=["grad_cam", "grad_cam_pp", "layer_cam"],
)
def test_maps_are_torchcams(name: str, peer: str, ours: Callable[..., Tensor]) -> None:
    network, images = make(name), torch.rand(2, 3, NETWORKS[name], NETWORKS[name])
    layer = find_layer(network, NETWORKS[name])
    with getattr(torchcam, peer)(network, layer) as extractor:
        (theirs,) = extractor(CLASSES.tolist(), network(images), normalized=False)
    seen = observe(network, images, layer)
    assert_same(ours(seen.features[layer], seen.logits, CLASSES)[:, 0], theirs)
