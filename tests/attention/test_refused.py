"""Networks, images and layers that no map can be made of: each has an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from attnbridge import explain
from attnbridge.errors import AttnBridgeError

IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return timm.create_model("resnet10t", num_classes=5).eval()  # type: ignore[no-any-return]


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)  # type: ignore


def exported() -> Any:
    return torch.export.export(network(), (IMAGES,)).module()


def in_tuple_of_objects() -> nn.Module:
    class Detections(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return [{"boxes": images}]

    return Detections()


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images: Tensor, mask: Tensor) -> Any:
        return self.network(images * mask)


Case = tuple[Callable[[], nn.Module], Tensor, dict[str, Any], str]
CASES: dict[str, Case] = {
    "one image without a batch": (
        network,
        IMAGES[0],
        {},
        r"images must be a float tensor \(B, C, H, W\).* \(3, 64, 64\)",
    ),
    "8 bits": (network, IMAGES.byte(), {}, r"torch.uint8 .* call .float\(\) on it, and divide 8 bits by 255"),
    "one channel": (network, IMAGES[:, :1], {}, "they have 1 channels, it takes 3"),
    "an empty batch": (network, IMAGES[:0], {}, "images is empty"),
    "half precision on one side": (
        lambda: network().half(),
        IMAGES,
        {},
        r"they are torch.float32, its weights torch.float16; bring both to one type",
    ),
    "quantised": (quantised, IMAGES, {}, r"fc is quantised \(Linear\), and has no gradients"),
    "TorchScript": (lambda: torch.jit.trace(network(), IMAGES), IMAGES, {}, "of TorchScript.* give the module"),
    "torch.export": (exported, IMAGES, {}, r"of torch\.export.* give the module"),
    "a layer without positions": (network, IMAGES, {"layer": "fc"}, r"layer 'fc': .* are no maps; .* as 'layer4'"),
    "no such layer": (network, IMAGES, {"layer": "layer5"}, "unknown layer 'layer5'; did you mean 'layer4'"),
    "no layer with positions": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)),
        IMAGES,
        {},
        "no layer of the network has spatial features",
    ),
    "answers of objects": (in_tuple_of_objects, IMAGES, {}, "is a list of dict; say with `output`"),
    "classes as 0 and 1": (
        network,
        IMAGES,
        {"classes": torch.eye(5, dtype=torch.long)[: len(IMAGES)]},
        r"0 and 1 for each of the 5 classes.*give `classes.bool\(\)`",
    ),
    "a forward of something else, too": (Masked, IMAGES, {}, "wants something else than images alone; give a module"),
    "a class out of range": (network, IMAGES, {"classes": 5}, "5"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_each_has_an_error_of_its_own(case: str) -> None:
    make, images, options, message = CASES[case]
    with pytest.raises(AttnBridgeError, match=message):
        explain(make(), images, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_processor_has_maps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = network()
    expected = explain(net, IMAGES, [0, 1, 2, 3, 4])
    made = explain(net.to(dtype), IMAGES.to(dtype), [0, 1, 2, 3, 4])
    assert made.dtype == torch.float32
    assert expected.max() > 0
    assert torch.nn.functional.cosine_similarity(made.flatten(), expected.flatten(), 0) > 0.99
