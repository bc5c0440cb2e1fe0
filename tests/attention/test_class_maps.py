"""Class maps against naive loops, the closed form, finite differences and captum."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.attention.class_maps import cam, grad_cam
from attnbridge.attention.normalise import normalise_maps
from attnbridge.attention.observe import observe
from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone


class Pooled(nn.Module):
    """Convolutions, global average pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 5, 3), nn.Softplus())
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).mean((2, 3)))  # type: ignore[no-any-return]


class Deep(Pooled):
    """The same with a non-linear head that sees positions, so that no closed form exists."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(5 * 36, 7), nn.Tanh(), nn.Linear(7, 4))  # type: ignore

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


@pytest.fixture(params=[Pooled, Deep])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return request.param().double()  # type: ignore[no-any-return]


IMAGES = torch.rand(3, 3, 8, 8, dtype=torch.float64)
CLASSES = torch.tensor([[0, 2], [3, 1], [1, 1]])


def naive_maps(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """One image, one class, one channel at a time."""
    result = []
    for image, wanted in zip(images, classes, strict=True):
        rows = []
        for c in wanted:
            seen = observe(network, image[None], "trunk")
            (gradient,) = torch.autograd.grad(seen.logits[0, c], seen.features["trunk"])
            total = torch.zeros(gradient.shape[2:], dtype=images.dtype)
            for i in range(gradient.shape[1]):
                total += gradient[0, i].mean() * seen.features["trunk"][0, i].detach()
            rows.append(total.clamp_min(0))
        result.append(torch.stack(rows))
    return torch.stack(result)


def test_all_classes_in_one_call_equal_the_naive_loop(network: nn.Module) -> None:
    seen = observe(network, IMAGES, "trunk")
    maps = grad_cam(seen.features["trunk"], seen.logits, CLASSES)
    torch.testing.assert_close(maps.detach(), naive_maps(network, IMAGES, CLASSES))


def test_closed_form_and_autograd_agree() -> None:
    network = build_backbone("resnet10t", 6, weights="none", image_size=64)
    seen = observe(network.network, torch.rand(4, 3, 64, 64), network.layer)
    classes = torch.arange(6).expand(4, -1)
    head = network.network.get_classifier()  # type: ignore[operator]
    ours = grad_cam(seen.features[network.layer], seen.logits, classes)
    closed = cam(seen.features[network.layer], head.weight, classes)
    assert ours.max() > 0
    torch.testing.assert_close(ours, closed, rtol=1e-5, atol=1e-6)


def test_maps_are_differentiable_to_second_order(network: nn.Module) -> None:
    names = [name for name, _ in network.named_parameters()]
    values = [p.detach() for p in network.parameters()]

    def maps(*parameters: Tensor) -> Tensor:
        for name, value in zip(names, parameters, strict=True):
            module, attribute = name.rsplit(".", 1)
            owner = network.get_submodule(module)
            if attribute in owner._parameters:
                del owner._parameters[attribute]
            setattr(owner, attribute, value)
        seen = observe(network, IMAGES[:1], "trunk")
        return grad_cam(seen.features["trunk"], seen.logits, CLASSES[:1], relu=False)

    assert torch.autograd.gradcheck(maps, [v.clone().requires_grad_() for v in values])


@pytest.mark.parametrize(("order", "head_learns"), [("on", True), ("off", False), ("auto", True)])
def test_second_order_decides_whether_the_head_learns(network: nn.Module, order: str, head_learns: bool) -> None:
    seen = observe(network, IMAGES, "trunk")
    grad_cam(seen.features["trunk"], seen.logits, CLASSES, second_order=order).square().sum().backward()  # type: ignore
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.trunk.parameters())  # type: ignore
    weights = [p for n, p in network.head.named_parameters() if n.endswith("weight")]  # type: ignore[union-attr]
    assert all((p.grad is not None and p.grad.abs().sum() > 0) == head_learns for p in weights)


def test_making_maps_leaves_no_gradient_behind(network: nn.Module) -> None:
    with torch.no_grad():
        seen = observe(network, IMAGES, "trunk")
        maps = grad_cam(seen.features["trunk"], seen.logits, CLASSES)
    assert not maps.requires_grad
    assert all(p.grad is None for p in network.parameters())
    torch.testing.assert_close(maps, naive_maps(network, IMAGES, CLASSES))


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "tf_efficientnet_lite0", "convnext_atto"])
def test_equals_captum(name: str) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is the oracle of this test")
    backbone = build_backbone(
        name, 7, weights="none", stride=16 if name.startswith(("vgg", "tf")) else None, image_size=64
    )
    network = backbone.network.eval()
    images, classes = torch.rand(2, 3, 64, 64), torch.tensor([4, 6])
    layer = network.get_submodule(backbone.layer)
    theirs = captum.LayerGradCam(network, layer).attribute(images, classes, relu_attributions=True)
    seen = observe(network, images, backbone.layer)
    ours = grad_cam(seen.features[backbone.layer], seen.logits, classes, relu=False)
    scale = ours.abs().max()
    torch.testing.assert_close((ours.relu() / scale).detach(), (theirs / scale).detach(), rtol=1e-5, atol=1e-5)


def test_transformer_tokens_become_maps() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", 5, weights="none", stride=None, image_size=64)
    nn.init.normal_(backbone.network.head.weight)  # type: ignore[union-attr, arg-type]
    seen = observe(backbone.network, torch.rand(2, 3, 64, 64), backbone.layer)
    maps = grad_cam(seen.features[backbone.layer], seen.logits, torch.tensor([0, 1]), spatial=backbone.maps, relu=False)
    assert backbone.layer.endswith("norm1")
    assert maps.shape == (2, 1, 4, 4)
    assert maps.abs().max() > 0


def test_channels_last_features_become_maps() -> None:
    backbone = build_backbone("swin_tiny_patch4_window7_224", 5, weights="none", stride=None, image_size=64)
    seen = observe(backbone.network, torch.rand(1, 3, 64, 64), backbone.layer)
    maps = grad_cam(seen.features[backbone.layer], seen.logits, torch.tensor([0]), spatial=backbone.maps)
    assert (maps.shape, backbone.channels) == ((1, 1, 2, 2), 768)


@pytest.mark.parametrize(
    ("mode", "low", "high"), [("max", 0.25, 1.0), ("minmax", 0.0, 1.0), ("sigmoid", 0.7311, 0.982)]
)
def test_normalisation(mode: str, low: float, high: float) -> None:
    maps = normalise_maps(torch.tensor([[[1.0, 4.0]], [[1.0, 4.0]]]), mode)  # type: ignore[arg-type]
    torch.testing.assert_close(maps, torch.tensor([[[low, high]]] * 2), atol=1e-4, rtol=0)
    assert torch.isfinite(normalise_maps(torch.zeros(1, 2, 2), mode)).all()  # type: ignore[arg-type]


def test_errors_say_what_to_do() -> None:
    features, logits = torch.rand(2, 3, 4, 4), torch.rand(2, 3)
    with pytest.raises(AttnBridgeError, match="carry no gradient"):
        grad_cam(features, logits, torch.tensor([0, 1]))
    features.requires_grad_()
    with pytest.raises(AttnBridgeError, match="do not depend on the features"):
        grad_cam(features, logits.requires_grad_() * 2, torch.tensor([0, 1]))
    with pytest.raises(AttnBridgeError, match=r"with B = 2.*\(3,\)"):
        grad_cam(features, features.mean((2, 3)), torch.tensor([0, 1, 2]))
    with pytest.raises(AttnBridgeError, match="not 'maxx'"):
        normalise_maps(features.detach(), "maxx")  # type: ignore[arg-type]


def test_a_model_of_the_users_needs_no_timm() -> None:
    network = nn.Sequential(timm.create_model("resnet10t", num_classes=0), nn.Linear(512, 3))
    seen = observe(network, torch.rand(1, 3, 64, 64), "0.layer4")
    maps = grad_cam(seen.features["0.layer4"], seen.logits, torch.tensor([[0, 1, 2]]))
    weight: Tensor = network[1].weight  # type: ignore[assignment]
    expected = F.relu(torch.einsum("nc,chw->nhw", weight / 4, seen.features["0.layer4"][0]))
    torch.testing.assert_close(maps[0], expected, rtol=1e-5, atol=1e-6)
