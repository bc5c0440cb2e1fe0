"""The layer that is found is no guess: a patch embedding or a stem that much follows is refused, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.attention.explain import explain
from attnbridge.attention.finder import find_layer, spatial_layers
from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone

WIDTH = 8
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor) -> Any:
        ready = self.norm1(x)
        x = x + self.attn(ready, ready, ready)[0]
        return x + self.mlp(self.norm2(x))


class AttentionBlock(Block):
    """One that hands on a tuple, and is called an attention."""

    def forward(self, x: Tensor) -> Any:
        return (super().forward(x),)


class Mixing(nn.Module):
    """One without modules inside, that hands on a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.channels = nn.Parameter(torch.randn(16, 16)), nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Any:
        return x + self.tokens @ x.tanh() @ self.channels, None


class Embedding(nn.Module):
    """Patches, 4 by 4 of them, as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Patches, tokens before them under any name, blocks of any kind; reads the first token, or the mean of all."""

    def __init__(self, block: Callable[[], nn.Module], before: dict[str, int], depth: int = 3) -> None:
        super().__init__()
        self.patch_embed = Embedding()
        self.before = list(before)
        for name, count in before.items():
            self.register_parameter(name, nn.Parameter(torch.randn(1, count, WIDTH)))
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([*(getattr(self, name).expand(len(x), -1, -1) for name in self.before), x], 1)
        for block in self.blocks:
            given = block(x)
            x = (
                given[0]
                if isinstance(given, tuple)
                else given.features
                if isinstance(given, SimpleNamespace)
                else given
            )
        return self.head(x[:, 0] if self.before else x.mean(1))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.layers(x), attentions=None)


class Clip(nn.Module):
    """A transformer whose class token has a name of its own, and whose encoder gives an object."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embedding(), Encoder()
        self.class_embedding = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.classifier = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.class_embedding.expand(len(x), -1, -1), self.embeddings(x)], 1)
        return self.classifier(self.encoder(x).last_hidden_state[:, 0])  # type: ignore[no-any-return]


class GatedAttention(nn.Module):
    """A convolution and a gate; gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.gate = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.bn(self.conv(x)))
        return {"features": x * self.gate(x).sigmoid()}


class Stages(nn.Module):
    """A convolutional network with a stem of any depth and stages that give dictionaries."""

    def __init__(self, stem: int = 1, stages: int = 3) -> None:
        super().__init__()
        self.text = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))  # runs first, and the stem does not read it
        convolutions = [nn.Conv2d(4 if i else 3, 4, 3, 1, 1) for i in range(stem)]
        self.stem = nn.Sequential(*convolutions, nn.BatchNorm2d(4), nn.ReLU())
        self.stages = nn.ModuleList(GatedAttention() for _ in range(stages))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        prompt = self.text(torch.ones(1, 6, 4)).mean(1)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)["features"]
        return self.head(x.mean((2, 3)) * prompt)  # type: ignore[no-any-return]


def test_layers_that_are_named_instead_have_maps() -> None:
    network = timm.create_model("resnet10t", num_classes=5).eval()
    names = spatial_layers(network, 64)
    assert names == ["layer4", "layer3", "layer2", "layer1", "act1"]
    for name in names:
        assert explain(network, torch.rand(1, 3, 64, 64), layer=name).ndim == 4
    with pytest.raises(AttnBridgeError, match=r"layer 'fc': .* \(1, 5\) are no maps; .* as 'layer4', 'layer3'"):
        explain(network, torch.rand(1, 3, 64, 64), layer="fc")
    with pytest.raises(AttnBridgeError, match=r"layer 'fc': .* are no maps; .* as 'layer4', 'layer3'"):
        build_backbone("resnet10t", 5, weights="none", layer="fc", image_size=64)


class Opaque(Mixing):
    """One that hands on an object."""

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(features=super().forward(x)[0])


FOUND: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "blocks that give tuples": (lambda: Transformer(AttentionBlock, {"cls_token": 1}), "blocks.2.norm1"),
    "blocks that give tuples, mean": (lambda: Transformer(AttentionBlock, {}), "blocks.2"),
    "blocks without modules": (lambda: Transformer(Mixing, {}), "blocks.2"),
    "an encoder that gives an object": (Clip, "encoder.layers.1.norm1"),
    "registers of any name": (lambda: Transformer(Block, {"cls_token": 1, "memory": 4}), "blocks.2.norm1"),
    "more tokens than patches": (lambda: Transformer(Block, {"cls_token": 20}), "blocks.2.norm1"),
}


@pytest.mark.parametrize("case", FOUND)
def test_tuples_objects_and_tokens_hide_no_layer(case: str) -> None:
    """The map is that of an independent sum over the patches of what the layer gives."""
    torch.manual_seed(0)
    make, layer = FOUND[case]
    network = make().eval()
    assert find_layer(network, 16) == layer
    features: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, given: features.append(given[0] if isinstance(given, tuple) else given)
    )
    scores = network(IMAGES)
    hook.remove()
    (gradient,) = torch.autograd.grad(scores[:, 3].sum(), features)
    weights, patches = gradient[:, -16:].mean(1), features[0][:, -16:]
    expected = torch.einsum("bc,btc->bt", weights, patches).relu().view(2, 1, 4, 4)
    torch.testing.assert_close(explain(network, IMAGES, 3), expected)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "stages that give dictionaries": (Stages, "stem", True),
    "blocks that give objects": (lambda: Transformer(Opaque, {}), "patch_embed", False),
    "too many tokens of no name": (lambda: Transformer(Block, {"memory": 17}), "patch_embed", False),
}
"""Network, the layer that is refused, and whether maps can be made of the layers that are named instead."""


@pytest.mark.parametrize("case", REFUSED)
def test_a_patch_embedding_or_stem_is_refused_and_later_layers_are_named(case: str) -> None:
    torch.manual_seed(0)
    make, refused, possible = REFUSED[case]
    network = make().eval()
    with pytest.raises(AttnBridgeError, match=f"'{refused}', a patch embedding or stem") as found:
        find_layer(network, 16)
    with pytest.raises(AttnBridgeError, match=re.escape(str(found.value))):
        explain(network, IMAGES)
    named = re.findall(r"'([\w.]+)'", str(found.value).partition("follow")[2])
    assert 1 <= len(named) <= 5 or not possible
    order = [name for name, _ in network.named_modules()]
    for name in named:
        assert order.index(name) > order.index(refused)
        if possible:
            assert explain(network, IMAGES, [0, 1, 2, 3, 4], name).amax((2, 3)).max() > 0
        else:
            with pytest.raises(AttnBridgeError, match=r"are no maps|not a tensor"):
                explain(network, IMAGES, layer=name)
    assert explain(network, IMAGES, layer=refused).shape[:2] == (2, 1)  # who names it, means it
    assert not any(module._forward_hooks for module in network.modules())


def test_the_number_of_tokens_before_the_patches_makes_the_layer_known() -> None:
    network = REFUSED["too many tokens of no name"][0]().eval()
    with pytest.raises(AttnBridgeError, match=r"`network.num_prefix_tokens` .* \(17 would fit\)"):
        explain(network, IMAGES)
    network.num_prefix_tokens = 17  # type: ignore[assignment]
    assert find_layer(network, 16) == "blocks.2.norm1"
    assert explain(network, IMAGES).shape == (2, 1, 4, 4)


def test_the_last_blocks_are_named_and_not_their_parts() -> None:
    with pytest.raises(AttnBridgeError, match=r"as 'blocks\.3\.norm1', 'blocks\.2', "):
        find_layer(Transformer(Block, {"memory": 17}, depth=4), 16)


@pytest.mark.parametrize(("stem", "stages", "refused"), [(3, 12, True), (3, 3, False)])
def test_a_stem_is_deep_only_if_the_network_is(stem: int, stages: int, refused: bool) -> None:
    """Of 24 layers 3 are an eighth; beside 6 they are half of the network."""
    network = Stages(stem, stages)
    if refused:
        with pytest.raises(AttnBridgeError, match="'stem', a patch embedding or stem that 24 layers"):
            find_layer(network, 16)
    else:
        assert find_layer(network, 16) == "stem"


def test_an_answer_inside_an_object_tells_what_matters() -> None:
    class Answer(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network, self.idle = network, nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            logits = self.network(x)
            return {"loss": None, "logits": logits, "idle": self.idle(x)}

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    assert find_layer(Answer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)), 16) == "network.1"
    assert find_layer(Answer(Clip()), 16) == "network.encoder.layers.1.norm1"


def test_a_stem_that_only_pooling_a_head_or_one_attention_follows_is_found() -> None:
    plain = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    assert find_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *plain), 16) == "2"
    hidden = [nn.Flatten(), nn.Linear(4 * 14 * 14, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 5)]
    assert find_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *hidden), 16) == "1"
    assert find_layer(Transformer(AttentionBlock, {"cls_token": 1}, depth=1), 16) == "blocks.0.norm1"
    assert find_layer(Transformer(Block, {"cls_token": 1}, depth=1), 16) == "blocks.0.norm1"


@pytest.mark.parametrize("classes", [3, 4, 6])
def test_scores_of_positions_are_no_features(classes: int) -> None:
    """Nor are sides of a map that happen to be as many as there are classes: here 6 x 6 positions."""
    plain = nn.Sequential(
        nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert find_layer(plain, 8) == "1"
    alone = nn.Sequential(nn.Conv2d(3, classes, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_layer(alone, 8) == "1"  # nothing else has positions


def test_a_branch_of_several_and_class_tokens_that_come_late() -> None:
    """CrossViT's blocks give lists; CaiT's class token meets the patches in its last blocks alone."""
    crossvit = build_backbone("crossvit_tiny_240", 5, weights="none", stride=None, image_size=240)
    assert crossvit.layer == "blocks.2.fusion.1.norm1"
    cait = build_backbone("cait_xxs24_224", 5, weights="none", stride=None, image_size=224)
    assert cait.layer == "blocks_token_only.1.norm1"


class Queries(nn.Module):
    """A convolutional network, here with 8 by 8 positions, that learned queries, channels or columns end."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.queries = nn.Parameter(torch.randn(1, 9, 16))
        self.attn, self.flat = nn.MultiheadAttention(16, 2, batch_first=True), nn.Flatten(2)
        self.last, self.how = nn.LSTM(16, 16, batch_first=True), how
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(self.trunk(x))
        if self.how == "channels":
            return self.head(x.mean(2))  # type: ignore[no-any-return]
        x = x.transpose(1, 2)
        if self.how == "last state":
            return self.head(self.last(x)[0][:, -1])  # type: ignore[no-any-return]
        return self.head(self.norm(self.attn(self.queries.expand(len(x), -1, -1), x, x)[0]).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["channels", "queries", "last state"])
def test_tokens_that_make_a_square_and_are_no_positions_are_no_features(how: str) -> None:
    """16 channels are no 4 x 4 positions, nor are 9 queries 3 x 3 of them; a last state sums up the others."""
    assert find_layer(Queries(how).eval(), 16) == "trunk"
    assert explain(Queries(how).eval(), IMAGES).shape == (2, 1, 8, 8)


def test_prompts_that_make_a_square_with_the_patches_are_no_patches() -> None:
    """9 tokens before 16 patches are 25, and no 5 x 5 patches."""
    network = Transformer(Block, {"cls_token": 1, "prompts": 8}).eval()
    assert find_layer(network, 16) == "blocks.2.norm1"
    assert explain(network, IMAGES).shape == (2, 1, 4, 4)


def test_tokens_that_stand_after_the_patches_are_refused() -> None:
    """The grid of a map would be shifted by one position."""

    class Last(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.patch_embed(x), self.get_parameter("cls_token").expand(len(x), -1, -1)], 1)
            for block in self.blocks:
                x = block(x)
            return self.head(x[:, -1])  # type: ignore[no-any-return]

    with pytest.raises(AttnBridgeError, match=r"of the 17 tokens of 'blocks\.2\.norm1' .* stand at 16, and not before"):
        find_layer(Last(Block, {"cls_token": 1}).eval(), 16)
