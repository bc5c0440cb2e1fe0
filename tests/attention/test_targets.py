"""Maps of what is no class: texts, regions, boxes, values, likeness; and answers that are no tensor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnbridge import explain, observe
from attnbridge.errors import AttnBridgeError
from attnbridge.targets import BoxTarget, RegionTarget, SimilarityTarget, ValueTarget, text_target

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Answering(nn.Module):
    """A network of one convolution that packs its answer as it is told."""

    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.conv, self.act, self.head, self.pack = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Linear(6, 4), pack

    def forward(self, images: Tensor) -> Any:
        features = self.act(self.conv(images))
        return self.pack(self.head(features.mean((2, 3))), self.head(features.movedim(1, -1)).movedim(-1, 1))


def network(pack: Any) -> Answering:
    torch.manual_seed(0)
    return Answering(pack).eval()


def by_hand(net: Answering, score: Any) -> Tensor:
    """Grad-CAM of a score ``(B,)`` of the plain logits ``(B, N)`` and of those of each position."""
    features = net.conv(IMAGES).relu()
    logits, dense = net.head(features.mean((2, 3))), net.head(features.movedim(1, -1)).movedim(-1, 1)
    (gradient,) = torch.autograd.grad(score(logits, dense).sum(), features)
    return (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu().detach()


PACKED: dict[str, Any] = {
    "attribute": lambda logits, _: SimpleNamespace(loss=None, logits=logits),
    "key": lambda logits, _: {"features": torch.zeros(2, 4), "logits": logits},
    "out": lambda logits, _: {"out": logits, "aux": logits + 1},
    "tuple": lambda logits, _: (logits, logits + 1),
    "list": lambda logits, _: [logits],
}


@pytest.mark.parametrize("kind", PACKED)
def test_logits_are_found_in_any_packing(kind: str) -> None:
    net = network(PACKED[kind])
    torch.testing.assert_close(explain(net, IMAGES, 2, "act"), by_hand(net, lambda y, _: y[:, 2]))
    assert observe(net, IMAGES, "act").logits.shape == (2, 4)
    assert observe(net, IMAGES, (), grad=False).logits.shape == (2, 4)


@pytest.mark.parametrize("output", ["scores", 1, lambda answer: answer["scores"]])
def test_an_output_is_named_counted_or_computed(output: Any) -> None:
    net = network(lambda logits, _: {"logits": logits * torch.zeros(4), "scores": logits})
    torch.testing.assert_close(explain(net, IMAGES, 1, output=output), by_hand(net, lambda y, _: y[:, 1]))


def test_an_output_of_another_kind_is_named_where_the_layer_is_looked_for() -> None:
    with pytest.raises(AttnBridgeError, match="output must be a name, an index or a function, not a list"):
        explain(network(lambda logits, _: (logits, logits)), IMAGES, output=[1])  # type: ignore[arg-type]


def test_a_score_an_image_is_one_class() -> None:
    net = network(lambda logits, _: logits[:, 3])
    torch.testing.assert_close(explain(net, IMAGES), by_hand(net, lambda y, _: y[:, 3]))


def test_a_target_of_ones_own_has_a_map_for_each_score() -> None:
    net = network(lambda logits, _: {"logits": logits})

    def differences(answer: Any) -> Tensor:
        logits = answer["logits"]
        return torch.stack([logits[:, 0] - logits[:, 1], logits[:, 2].square()], 1)

    maps = explain(net, IMAGES, target=differences)
    torch.testing.assert_close(maps[:, :1], by_hand(net, lambda y, _: y[:, 0] - y[:, 1]))
    torch.testing.assert_close(maps[:, 1:], by_hand(net, lambda y, _: y[:, 2].square()))
    torch.testing.assert_close(explain(net, IMAGES, 1, target=differences), maps[:, 1:])
    for method in ("grad_cam_pp", "layer_cam", "input_gradient", "activation"):
        assert explain(net, IMAGES, target=differences, method=method).shape[:2] == (2, 2)  # type: ignore[arg-type]


def test_each_target_has_its_own_layer() -> None:
    """Two values that come from two branches: neither target is taken for the other, nor a function for its name's
    sake."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()) for _ in range(2))
            self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(2))

        def forward(self, images: Tensor) -> Tensor:
            parts = [branch(images).mean((2, 3)) for branch in (self.a, self.b)]
            return torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], 1)

    torch.manual_seed(0)
    net = Branches().eval()
    for targets in ([ValueTarget(0), ValueTarget(1)], [lambda y: y[:, :1], lambda y: y[:, 1:]]):
        for number, (target, layer) in enumerate(zip(targets, ("a", "b"), strict=True)):
            made = explain(net, IMAGES, target=target)
            torch.testing.assert_close(made, explain(net, IMAGES, number, layer))


def test_a_value_and_what_lowers_it() -> None:
    net = network(lambda logits, _: logits)
    torch.testing.assert_close(explain(net, IMAGES, target=ValueTarget(2)), by_hand(net, lambda y, _: y[:, 2]))
    lower = explain(net, IMAGES, target=ValueTarget(2, lower=True))
    torch.testing.assert_close(lower, by_hand(net, lambda y, _: -y[:, 2]))


def test_likeness_to_another_image() -> None:
    net = network(lambda logits, _: logits)
    with torch.no_grad():
        other = net(IMAGES[:1] * 2)

    def cosine(embedding: Tensor, _: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(embedding, other)

    torch.testing.assert_close(explain(net, IMAGES, target=SimilarityTarget(other[0])), by_hand(net, cosine))


@pytest.mark.parametrize("size", [(15, 15), (30, 30)])
def test_a_class_in_a_region(size: tuple[int, int]) -> None:
    net = network(lambda _, dense: {"out": dense})
    region = torch.zeros(size, dtype=torch.bool)
    region[: size[0] // 3, : size[1] // 3] = True  # 5 x 5 of the 15 x 15 positions
    made = explain(net, IMAGES, layer="act", target=RegionTarget([1, 3], region))
    for place, number in enumerate((1, 3)):
        expected = by_hand(net, lambda _, dense, number=number: dense[:, number, :5, :5].mean((1, 2)))
        torch.testing.assert_close(made[:, place, None], expected)
    everywhere = explain(net, IMAGES, layer="act", target=RegionTarget(1))
    torch.testing.assert_close(everywhere, by_hand(net, lambda _, dense: dense[:, 1].mean((1, 2))))


def boxes_of(logits: Tensor) -> list[dict[str, Tensor]]:
    """Two detections an image, as torchvision gives them."""
    boxes = torch.tensor([[0.0, 0, 16, 16], [10, 10, 30, 30]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": row[:2].sigmoid()} for row in logits]


def test_a_box_of_torchvisions_detectors() -> None:
    net = network(lambda logits, _: boxes_of(logits))
    made = explain(net, IMAGES, layer="act", target=BoxTarget([[11, 10, 30, 30], [0, 0, 16, 15]], [2, 1], 32))
    torch.testing.assert_close(made[:, :1], by_hand(net, lambda y, _: y[:, 1].sigmoid()))
    torch.testing.assert_close(made[:, 1:], by_hand(net, lambda y, _: y[:, 0].sigmoid()))


def test_a_box_of_a_detector_with_queries() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.625, 0.625, 0.625, 0.625]]).expand(2, 2, 4)  # centre and size
    net = network(lambda logits, _: SimpleNamespace(logits=logits[:, None] * torch.ones(2, 1), pred_boxes=boxes))
    made = explain(net, IMAGES, layer="act", target=BoxTarget([0, 0, 16, 16], 3, 32))
    torch.testing.assert_close(made, by_hand(net, lambda y, _: y[:, 3]))


class ImagesAndTexts(nn.Module):
    """CLIP in open_clip's way: embeddings of images and of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.words = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Embedding(9, 6)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images: Tensor) -> Tensor:
        return self.act(self.conv(images)).mean((2, 3))  # type: ignore[no-any-return]

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.words(tokens).mean(1)  # type: ignore[no-any-return]

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_image(images), self.encode_text(texts), self.logit_scale.exp()


def test_texts_take_the_place_of_classes() -> None:
    torch.manual_seed(1)
    net, tokens = ImagesAndTexts().eval(), torch.tensor([[1, 2], [3, 4], [5, 6]])
    seen = observe(net, IMAGES, "act", target=text_target(net, tokens))
    with torch.no_grad():
        image, text, scale = net(IMAGES, tokens)
        expected = scale * nn.functional.normalize(image, dim=1) @ nn.functional.normalize(text, dim=1).T
    torch.testing.assert_close(seen.logits.detach(), expected)
    assert explain(net, IMAGES, target=text_target(net, tokens)).shape == (2, 3, 15, 15)


def test_a_text_of_transformers_clip() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 50, "max_position_embeddings": 8, "projection_dim": 16},
        vision_config={**small, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    net = transformers.CLIPModel(config).eval()
    tokens = {"input_ids": torch.tensor([[1, 5, 2], [1, 7, 2]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    layer = "vision_model.encoder.layers.1.layer_norm1"
    seen = observe(net, IMAGES, layer, target=text_target(net, tokens))
    torch.testing.assert_close(seen.logits, net(**tokens, pixel_values=IMAGES).logits_per_image)
    (gradient,) = torch.autograd.grad(seen.logits[:, 1].sum(), seen.features[layer])
    features = seen.features[layer][:, 1:]
    expected = torch.einsum("bc,btc->bt", gradient[:, 1:].mean(1), features).relu().view(2, 1, 4, 4)
    made = explain(net, IMAGES, 1, target=text_target(net, tokens))  # the layer is found
    torch.testing.assert_close(made, expected.detach(), atol=1e-6, rtol=1e-4)
    with pytest.raises(AttnBridgeError, match=r"compares images with texts.*text_target"):
        explain(net, IMAGES)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no such name": (lambda y, _: {"logits": y}, {"output": "logit"}, "unknown output 'logit'; did you mean 'logits'"),
    "no such index": (lambda y, _: (y, y), {"output": 2}, r"output 2: the network's answer is a tuple of a tensor"),
    "no output": (lambda y, _: y, {"output": 1.5}, "output must be a name, an index or a function, not 1.5"),
    "no logits": (lambda y, _: {"features": y}, {}, r"but is a dict of features \(a tensor .*`output`.*`target`"),
    "for each pixel": (lambda _, dense: dense, {}, r"\(2, 4, 15, 15\); expected logits .*RegionTarget"),
    "a list of dictionaries": (lambda y, _: boxes_of(y), {}, "is a list of dict; say with `output`"),
    "a target that gives none": (
        lambda y, _: y,
        {"target": lambda y: y.sum()},
        "target <lambda> gave a tensor",
    ),
    "another number of images": (lambda y, _: y[:1], {}, "scores of 1 images, but it was given 2"),
    "no value": (lambda y, _: y, {"target": ValueTarget(4)}, "it has no value 4"),
    "no embedding": (lambda _, dense: dense, {"target": SimilarityTarget(torch.ones(4))}, "must be an embedding"),
    "another width": (
        lambda y, _: y,
        {"target": SimilarityTarget(torch.ones(5))},
        "4 numbers, .* compare it with 5",
    ),
    "no pixels": (lambda y, _: y, {"target": RegionTarget(0)}, "expected a logit of each class at each pixel"),
    "no such class": (
        lambda _, dense: dense,
        {"target": RegionTarget(4)},
        "class 4 is out of range",
    ),
    "regions of others": (
        lambda _, dense: dense,
        {"target": RegionTarget(0, torch.ones(3, 9, 9))},
        "region is of 3 images, the batch of 2",
    ),
    "no detections": (
        lambda y, _: y,
        {"target": BoxTarget([0, 0, 9, 9], 1, 32)},
        "expected detections: of torchv",
    ),
    "no such object": (
        lambda y, _: boxes_of(y),
        {"target": BoxTarget([0, 0, 16, 16], 2, 32)},
        "image 0 of the batch: no detection of class 2 overlaps the box by half; the network found 2 objects",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_explained_is_said(case: str) -> None:
    pack, options, message = WRONG[case]
    net = network(pack)
    with pytest.raises(AttnBridgeError, match=message):
        explain(net, IMAGES, layer="act", **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoxTarget([0, 0, 33, 9], 1, 32), r"box \[0.0, 0.0, 33.0, 9.0\]: .* inside the image, which is 32"),
        (lambda: BoxTarget([9, 0, 9, 9], 1, (32, 48)), "expected left < right"),
        (lambda: BoxTarget([[0, 0, 9, 9]], [1, 2], 32), "1 boxes, but 2 labels"),
        (lambda: RegionTarget(0, torch.zeros(9, 9)), "region: has no position; it may lie outside the image"),
        (lambda: RegionTarget(-1), "classes"),
        (lambda: SimilarityTarget(torch.ones(2, 3, 4)), r"embeddings must be a float tensor \(K, D\)"),
        (lambda: text_target(nn.Linear(2, 2), None), "Linear compares no images with texts"),
    ],
)
def test_wrong_targets_are_refused_when_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(AttnBridgeError, match=message):
        make()


def test_a_network_without_a_classifier_has_no_logits() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", num_classes=0).eval()
    with pytest.raises(AttnBridgeError, match=r"no classifier \(num_classes is 0\).*SimilarityTarget"):
        explain(net, IMAGES)
    images = torch.rand(1, 3, 64, 64)
    assert explain(net, images, target=SimilarityTarget(torch.ones(512))).shape == (1, 1, 2, 2)
