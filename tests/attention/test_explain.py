"""One call from network and images to maps: every kind of network, class and layer, and what is refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from attnbridge.attention.class_maps import activation_map, grad_cam_pp, input_gradient, layer_cam
from attnbridge.attention.explain import METHODS, ExplainMethod, explain
from attnbridge.attention.finder import find_layer
from attnbridge.attention.normalise import fuse_maps, normalise_maps
from attnbridge.attention.observe import observe
from attnbridge.attention.transformers import observe_attention
from attnbridge.errors import AttnBridgeError


class Net(nn.Module):
    """Two convolutions, pooling, a head; in double precision for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU())
        self.late = nn.Sequential(nn.Conv2d(4, 5, 3, 2), nn.Softplus())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(45, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(self.early(x)))  # type: ignore[no-any-return]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(5)
    return Net().double()


IMAGES = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def naive(net: Net, method: str, image: Tensor, c: int) -> Tensor:
    """One image, one class, loops over channels and positions."""
    seen = observe(net, image[None], "late")
    features = seen.features["late"]
    (g,) = torch.autograd.grad(seen.logits[0, c], features)
    result = torch.zeros_like(g[0, 0])
    for i in range(g.shape[1]):
        weight = torch.zeros_like(result)
        for y in range(g.shape[2]):
            for x in range(g.shape[3]):
                d = g[0, i, y, x]
                if method == "layer_cam":
                    weight[y, x] = d.clamp_min(0)
                else:
                    weight += d.clamp_min(0) * d**2 / (2 * d**2 + features[0, i].detach().sum() * d**3)
        result += weight * features[0, i].detach()
    return result.clamp_min(0)


@pytest.mark.parametrize("method", ["layer_cam", "grad_cam_pp"])
def test_equals_the_naive_loop(net: Net, method: Any) -> None:
    maps = explain(net, IMAGES, [0, 3], "late", method)
    for b in range(2):
        for k, c in enumerate((0, 3)):
            torch.testing.assert_close(maps[b, k].detach(), naive(net, method, IMAGES[b], c))


def test_activation_attention_is_a_sum_or_maximum_of_powers() -> None:
    features = torch.tensor([[[[1.0]], [[-2.0]], [[3.0]]]])
    assert activation_map(features, "sum").item() == 6
    assert activation_map(features, "sum_p", 3).item() == 36
    assert activation_map(features, "max_p", 2).item() == 9
    with pytest.raises(AttnBridgeError, match="not 'mean'"):
        activation_map(features, "mean")  # type: ignore[arg-type]


def test_input_gradient_is_that_of_finite_differences(net: Net) -> None:
    maps = explain(net, IMAGES[:1], 2, method="input_gradient")
    assert maps.shape == (1, 1, 8, 8)
    step = torch.zeros_like(IMAGES[:1])
    for y, x in ((0, 0), (3, 5)):
        slopes = []
        for i in range(3):
            step.zero_()[0, i, y, x] = 1e-5
            slopes.append((net(IMAGES[:1] + step) - net(IMAGES[:1] - step))[0, 2] / 2e-5)
        torch.testing.assert_close(maps[0, 0, y, x], torch.stack(slopes).abs().max(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [grad_cam_pp, layer_cam, input_gradient])
def test_maps_pass_gradcheck(net: Net, method: Any) -> None:
    """With second order on, a map's gradient is that of the whole map."""
    names = [n for n, _ in net.named_parameters()]

    def maps(*values: Tensor) -> Tensor:
        images = IMAGES[:1].clone().requires_grad_()
        store: dict[str, Tensor] = {}
        handle = net.late.register_forward_hook(lambda _m, _i, o: store.update(late=o))
        logits = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (images,))
        handle.remove()
        origin = images if method is input_gradient else store["late"]
        extra = {} if method is input_gradient else {"relu": False}
        return method(origin, logits, torch.tensor([[0, 3]]), **extra)  # type: ignore[no-any-return]

    values = [p.detach().clone().requires_grad_() for p in net.parameters()]
    assert torch.autograd.gradcheck(maps, values, atol=1e-6)


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_pp", "layer_cam"])
@pytest.mark.parametrize(("order", "head_learns"), [("on", True), ("off", False), ("auto", True)])
def test_second_order_decides_what_learns(net: Net, method: Any, order: Any, head_learns: bool) -> None:
    explain(net, IMAGES, [0, 1, 2, 3], "late", method, second_order=order).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.late.parameters())
    head = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.head.parameters() if p.ndim > 1]
    assert all(head) if head_learns else not any(head)


def test_second_order_off_takes_the_weights_for_constants(net: Net) -> None:
    """The gradient to the features is then the weights themselves."""
    seen = observe(net, IMAGES, "late")
    features = seen.features["late"]
    for method in (grad_cam_pp, layer_cam):
        maps = method(features, seen.logits, torch.tensor([1, 1]), second_order="off", relu=False)  # type: ignore
        (gradient,) = torch.autograd.grad(maps.sum(), features, retain_graph=True)
        torch.testing.assert_close((gradient * features).sum(1), maps[:, 0])


def test_without_autograd_nothing_is_recorded(net: Net) -> None:
    recorded = explain(net, IMAGES, [0, 1])
    with torch.no_grad():
        maps = explain(net, IMAGES, [0, 1])
    with torch.inference_mode():
        inferred = explain(net, IMAGES, [0, 1])
    seen_alone = explain(net, IMAGES, [0, 1], differentiable=False)
    assert [m.requires_grad for m in (recorded, maps, inferred, seen_alone)] == [True, False, False, False]
    torch.testing.assert_close(seen_alone, maps)
    torch.testing.assert_close(maps, recorded.detach())
    torch.testing.assert_close(inferred.clone(), maps)
    assert all(p.grad is None for p in net.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("differentiable", [True, False])
def test_the_trunk_keeps_a_graph_for_differentiable_maps_alone(net: Net, differentiable: bool) -> None:
    recorded = []
    handle = net.get_submodule("early").register_forward_hook(lambda *a: recorded.append(torch.is_grad_enabled()))
    explain(net, IMAGES, [0, 1], layer="late", differentiable=differentiable)
    handle.remove()
    assert recorded == [differentiable]


def test_a_frozen_network_still_gives_maps(net: Net) -> None:
    expected = explain(net, IMAGES, [0, 1]).detach()
    torch.testing.assert_close(explain(net.requires_grad_(False), IMAGES, [0, 1]).detach(), expected)
    assert not any(p.requires_grad for p in net.parameters())


def test_classes_in_every_form(net: Net) -> None:
    every = explain(net, IMAGES, [0, 1, 2, 3], "late")
    best = net(IMAGES).argmax(1)
    same = torch.testing.assert_close
    same(explain(net, IMAGES, layer="late")[:, 0], every[torch.arange(2), best])
    same(explain(net, IMAGES, 2, "late"), every[:, 2:3])
    same(explain(net, IMAGES, torch.tensor([3, 1]), "late")[:, 0], torch.stack([every[0, 3], every[1, 1]]))
    same(explain(net, IMAGES, torch.tensor([[3, 0], [1, 1]]), "late")[0], every[0, [3, 0]])
    same(explain(net, IMAGES, lambda logits: logits.topk(2).indices, "late")[:, :1], explain(net, IMAGES, None, "late"))
    wanted = torch.tensor([[True, False, True, True], [False, False, False, False]])
    same(explain(net, IMAGES, wanted, "late"), every * wanted[:, :, None, None])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (4, "class 4: the network knows the classes 0 to 3"),
        ([0, -1], "class -1"),
        ([], "an empty list"),
        (torch.tensor([0, 1, 2]), r"with B = 2.*\(3,\)"),
        (torch.tensor([[True, False]]), r"must be \(2, 4\)"),
    ],
)
def test_wrong_classes_are_named(net: Net, classes: Any, message: str) -> None:
    with pytest.raises(AttnBridgeError, match=message):
        explain(net, IMAGES, classes)


def test_wrong_names_are_answered_with_the_nearest(net: Net) -> None:
    with pytest.raises(AttnBridgeError, match="unknown method 'gradcam'; did you mean 'grad_cam'"):
        explain(net, IMAGES, method="gradcam")  # type: ignore[arg-type]
    with pytest.raises(AttnBridgeError, match="unknown layer 'lat'; did you mean 'late'"):
        explain(net, IMAGES, layer="lat")
    with pytest.raises(AttnBridgeError, match="leave `layer` out"):
        explain(net, IMAGES, layer="late", method="input_gradient")
    with pytest.raises(AttnBridgeError, match=r"images must be a float tensor \(B, C, H, W\)"):
        explain(net, IMAGES[0])
    with pytest.raises(AttnBridgeError, match="second_order must be"):
        explain(net, IMAGES, second_order="yes")  # type: ignore[arg-type]
    with pytest.raises(AttnBridgeError, match="cam is the closed form"):
        explain(net, IMAGES, method="cam")
    with pytest.raises(AttnBridgeError, match="no attention matrix was seen"):
        explain(net, IMAGES, method="rollout")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_every_method_on_every_kind_of_network(name: str, method: Any) -> None:
    options: dict[str, Any] = {} if name.startswith("resnet") else {"img_size": 64}
    network = timm.create_model(name, num_classes=4, **options).eval()
    nn.init.normal_(network.get_classifier().weight, std=0.1)
    refused = {
        "resnet10t": ("rollout", "gradient_rollout"),
        "vit_tiny_patch16_224": ("cam",),
        "swin_tiny_patch4_window7_224": ("rollout", "gradient_rollout"),
    }
    images = torch.rand(2, 3, 64, 64)
    if method in refused[name]:
        with pytest.raises(AttnBridgeError):
            explain(network, images, method=method)
        return
    maps = explain(network, images, [0, 3], method=method, size=(20, 24))
    seen_alone = explain(network, images.requires_grad_(), [0, 3], method=method, size=(20, 24), differentiable=False)
    assert not seen_alone.requires_grad
    torch.testing.assert_close(seen_alone, maps.detach(), rtol=1e-4, atol=1e-4 * float(maps.detach().max()))
    assert maps.shape == (2, 2, 20, 24)
    assert maps.min() >= 0
    assert torch.isfinite(maps).all()
    assert maps.max() > 0


def test_torchvision_networks_and_images_that_are_not_square() -> None:
    network = torchvision.models.vit_b_16(num_classes=3, image_size=32).eval()
    nn.init.normal_(network.heads.head.weight)
    for method in ("grad_cam", "rollout", "gradient_rollout"):
        assert explain(network, torch.rand(1, 3, 32, 32), method=method).shape == (1, 1, 2, 2)  # type: ignore
    wide = timm.create_model("vit_tiny_patch16_224", num_classes=3, dynamic_img_size=True).eval()
    assert explain(wide, torch.rand(1, 3, 32, 80)).shape == (1, 1, 2, 5)
    assert explain(wide, torch.rand(1, 3, 32, 80), method="rollout").shape == (1, 1, 2, 5)
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=(64, 128)).eval()
    assert explain(swin, torch.rand(1, 3, 64, 128)).shape == (1, 1, 2, 4)


def test_the_layer_is_looked_for_once_a_model(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    explain(net, IMAGES)
    explain(net, IMAGES)
    assert len(calls) == 3  # to look for it, and twice to explain


def test_several_layers_become_one_map(net: Net) -> None:
    early, late = (explain(net, IMAGES, 1, name, "layer_cam") for name in ("early", "late"))
    fused = explain(net, IMAGES, 1, ["late", "early"], "layer_cam")
    assert fused.shape == early.shape
    large = F.interpolate(normalise_maps(late, "max"), (8, 8), mode="bilinear")
    torch.testing.assert_close(fused, torch.maximum(normalise_maps(early, "max"), large))
    assert fuse_maps([early, late], "mean").max() <= 1
    with pytest.raises(AttnBridgeError, match="by max or mean"):
        fuse_maps([early], "sum")  # type: ignore[arg-type]


def test_scales_and_flip_are_a_mean() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images = torch.rand(1, 3, 16, 16)
    both = explain(net, images, 1, "1", flip=True)
    plain = normalise_maps(explain(net, images, 1, "1"), "max")
    mirrored = normalise_maps(explain(net, images.flip(3), 1, "1"), "max").flip(3)
    torch.testing.assert_close(both, (plain + mirrored) / 2)
    assert explain(net, images, scales=(0.5, 1.0, 2.0), flip=True, size=20).shape == (1, 1, 20, 20)
    assert explain(net, images, scales=(0.5, 1.0)).shape == (1, 1, 14, 14)


def test_mode_flags_and_hooks_stay(net: Net) -> None:
    net.train()
    net.early.eval()
    net.late.requires_grad_(False)
    modes = [m.training for m in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    with pytest.raises(AttnBridgeError, match="they have 2 channels, it takes 3"):
        explain(net, IMAGES[:, :2])
    for method in ("grad_cam", "input_gradient"):
        explain(net, IMAGES, method=method)  # type: ignore[arg-type]
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Wrapped(nn.Module):
    """A transformer inside a module of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=2)
        self.head = nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]


def test_a_transformer_inside_another_module_is_understood() -> None:
    network = Wrapped().eval()
    assert find_layer(network, 64) == "backbone.blocks.1.norm1"
    for method in ("grad_cam", "rollout", "gradient_rollout"):
        assert explain(network, torch.rand(1, 3, 64, 64), 1, method=method).shape == (1, 1, 4, 4)  # type: ignore


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "grad_cam_pp", "input_gradient", "gradient_rollout"])
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_losses_on_a_transformers_maps_train_it(library: str, method: Any) -> None:
    """With second order, which fused attention does not know."""
    torch.manual_seed(0)
    if library == "timm":
        network: Any = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)
        nn.init.normal_(network.head.weight, std=0.1)
    else:
        network = torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=3)
        nn.init.normal_(network.heads.head.weight)
    explain(network, torch.rand(2, 3, 32, 32), [0, 1, 2], method=method).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert sum(bool(p.grad.abs().sum() > 0) for p in network.parameters() if p.grad is not None) > 8


def test_a_layer_before_an_operation_in_place_is_seen_as_it_was() -> None:
    def make(inplace: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 5, 3), nn.ReLU(inplace),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
        )  # fmt: skip

    images = torch.rand(2, 3, 9, 9)
    expected = explain(make(False), images, [0, 1, 2], "2")
    torch.testing.assert_close(explain(make(True), images, [0, 1, 2], "2"), expected)
    with torch.no_grad():
        torch.testing.assert_close(explain(make(True), images, [0, 1, 2], "2"), expected.detach())


def test_layers_that_the_answer_does_not_depend_on_are_passed_over() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 2)
            nn.init.zeros_(self.head.weight)  # a new head must not hide the layers

        def forward(self, x: Tensor) -> Tensor:
            used = self.used(x)
            self.idle(x)
            return self.head(used.mean((2, 3)))  # type: ignore[no-any-return]

    assert find_layer(Idle(), 8) == "used"
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(3, 2, 3), relu, nn.Conv2d(2, 2, 3), relu, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_layer(twice, 16) == "2"


def test_the_layer_is_found_anew_for_another_size() -> None:
    network = timm.create_model("resnet10t", num_classes=2).eval()
    small = explain(network, torch.rand(1, 3, 32, 32)).shape
    assert explain(network, torch.rand(1, 3, 128, 128)).shape == (1, 1, 4, 4)
    assert explain(network, torch.rand(1, 3, 32, 32)).shape == small == (1, 1, 2, 2)


def test_tall_images_through_networks_with_channels_last() -> None:
    swin = torchvision.models.swin_t(num_classes=3).eval()
    assert explain(swin, torch.rand(1, 3, 200, 68), layer="features.7").shape == (1, 1, 7, 3)
    assert explain(swin, torch.rand(1, 3, 68, 200), layer="features.7").shape == (1, 1, 3, 7)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_gives_float32_maps(method: Any) -> None:
    if method in ("rollout", "gradient_rollout"):
        network = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2).eval()
    else:
        network = timm.create_model("resnet10t", num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32) if "rollout" in method else torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert explain(network, images, [0, 1], method=method).dtype == torch.float32
    with torch.no_grad():
        maps = explain(network.bfloat16(), images.bfloat16(), [0, 1], method=method, normalise="max")
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()


def test_rollout_reads_the_row_that_the_head_reads() -> None:
    """Registers are no class token, and a class token may go unread."""
    for options in ({"class_token": False, "reg_tokens": 2, "global_pool": "avg"}, {"global_pool": "avg"}):
        network = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=48, depth=1, **options).eval()
        nn.init.normal_(network.head.weight, std=0.1)
        assert explain(network, torch.rand(1, 3, 48, 48), [0, 1, 2], method="gradient_rollout").max() > 0
        images = torch.rand(1, 3, 48, 48)
        attention = observe_attention(network, images)[1][0]
        prefix = network.num_prefix_tokens
        expected = (0.5 * attention.mean(1)[:, prefix:, prefix:] + 0.5 * torch.eye(9)).mean(1)
        torch.testing.assert_close(explain(network, images, method="rollout").flatten(1), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["cat"]}, "a list of numbers"),
        ({"classes": [1.7]}, "a list of numbers"),
        ({"classes": [[0, 1]]}, "a tensor of each image's own"),
        ({"scales": ()}, r"scales must be a list, each of it a number at least 0.1 .*, not \(\)"),
        ({"scales": (0.0, 1.0)}, r"a number at least 0.1 .*, not \(0.0, 1.0\)"),
        ({"layer": []}, "no layer is named"),
        ({"second_order": "on", "differentiable": False}, "maps that a loss trains"),
    ],
)
def test_wrong_values_are_named(net: Net, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnBridgeError, match=message):
        explain(net, IMAGES, **arguments)


def test_sigmoid_leaves_unwanted_classes_zero_and_answers_are_checked(net: Net) -> None:
    wanted = torch.tensor([[True, False, True, True], [False, False, True, False]])
    maps = explain(net, IMAGES, wanted, normalise="sigmoid")
    assert maps[~wanted].max() == 0
    assert maps[wanted].min() >= 0.5
    for method in ("grad_cam", "input_gradient"):
        with pytest.raises(AttnBridgeError, match=r"\(\d, 4, 6, 6\); expected logits of .* a target such as"):
            explain(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.rand(1, 3, 8, 8), method=method)  # type: ignore


def test_the_table_and_the_type_name_the_same_methods() -> None:
    assert set(get_args(ExplainMethod)) == set(METHODS)


def test_images_of_one_channel() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert explain(network, torch.rand(2, 1, 8, 8)).shape == (2, 1, 6, 6)
