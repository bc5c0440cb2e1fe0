"""Rollout against attention made by hand, and the attention itself against the network's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from attnbridge.attention.explain import explain
from attnbridge.attention.transformers import attention_rollout, gradient_rollout, observe_attention
from attnbridge.errors import AttnBridgeError


def vit(fused: bool) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=4, img_size=48, depth=3).eval()
    nn.init.normal_(network.get_classifier().weight, std=0.1)
    for block in network.blocks:
        block.attn.fused_attn = fused
    return network  # type: ignore[no-any-return]


@pytest.mark.parametrize("fused", [True, False])
def test_the_networks_answer_stays_and_its_attention_is_seen(fused: bool) -> None:
    network, images = vit(fused), torch.rand(2, 3, 48, 48)
    sdpa = F.scaled_dot_product_attention
    logits, attention = observe_attention(network, images)
    torch.testing.assert_close(logits, network(images))
    assert [tuple(a.shape) for a in attention] == [(2, 3, 10, 10)] * 3
    torch.testing.assert_close(attention[1].sum(-1), torch.ones(2, 3, 10))
    assert F.scaled_dot_product_attention is sdpa
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_fused_and_written_out_attention_are_the_same() -> None:
    images = torch.rand(1, 3, 48, 48)
    for a, b in zip(observe_attention(vit(True), images)[1], observe_attention(vit(False), images)[1], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["ViT", "DeiT", "Beit", "Dinov2", "Dinov2WithRegisters"])
def test_attention_of_transformers_is_seen(name: str, implementation: str) -> None:
    """Beside the matrices that the network itself gives, rolled out by hand."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config = getattr(transformers, f"{name}Config")(**sizes, image_size=32, patch_size=8, num_labels=5)
    network, images = getattr(transformers, f"{name}ForImageClassification")(config).eval(), torch.rand(2, 3, 32, 32)
    network.set_attn_implementation("eager")
    with torch.no_grad():
        answer = network(images, output_attentions=True)
    rolled = torch.eye(answer.attentions[0].shape[-1])
    for matrix in answer.attentions:
        rolled = (matrix.mean(1) + torch.eye(matrix.shape[-1])) / 2 @ rolled
    before = rolled.shape[-1] - 16
    row = rolled[:, before:].mean(1) if name == "Beit" else rolled[:, 0]
    network.set_attn_implementation(implementation)
    logits, attention = observe_attention(network, images)
    torch.testing.assert_close(logits, answer.logits)
    assert len(attention) == 3
    torch.testing.assert_close(explain(network, images, method="rollout")[:, 0], row[:, before:].view(2, 4, 4))
    assert explain(network, images, [0, 1], method="gradient_rollout").amax((2, 3)).min() > 0


def test_attention_that_is_not_seen_names_its_implementation() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    network.config = SimpleNamespace(_attn_implementation="flash_attention_2")  # type: ignore[assignment]
    with pytest.raises(AttnBridgeError, match=r"seen \(attn_implementation is 'flash_attention_2'\); .*sdpa"):
        observe_attention(network, torch.rand(1, 3, 2, 2))


def test_torchvisions_attention_is_seen_in_eval_mode_without_autograd() -> None:
    network = torchvision.models.vit_b_16(num_classes=3, image_size=32).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        logits, attention = observe_attention(network, images)
        torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    assert len(attention) == 12
    assert torch.backends.mha.get_fastpath_enabled()


def test_everything_is_put_back_after_an_exception() -> None:
    network, sdpa = vit(True), F.scaled_dot_product_attention
    with pytest.raises(AttnBridgeError, match="32 pixels high"):
        observe_attention(network, torch.rand(1, 3, 32, 32))
    assert F.scaled_dot_product_attention is sdpa
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(AttnBridgeError, match="no attention matrix was seen"):
        observe_attention(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2))


@pytest.mark.parametrize("mask", [None, "bool", "float", "causal"])
def test_masks_and_scale_are_those_of_pytorch(mask: str | None) -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)[:, None]
            keep = torch.ones(16, 16, dtype=torch.bool).tril(2)
            options = {
                "bool": {"attn_mask": keep},
                "float": {"attn_mask": torch.linspace(-1, 1, 256).view(16, 16)},
                "causal": {"is_causal": True},
            }.get(mask or "", {"scale": 0.3})
            out = F.scaled_dot_product_attention(tokens, 2 * tokens, tokens + 1, **options)  # type: ignore
            return out.mean((1, 2))  # type: ignore[no-any-return]

    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(observe_attention(Block(), images)[0], Block()(images))


def attention_by_hand() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 2, 5, 5, generator=generator).softmax(-1) for _ in range(2)]


def test_rollout_is_the_product_of_mean_attention_and_identity() -> None:
    first, second = attention_by_hand()
    eye = torch.eye(5)
    a, b = (0.5 * m[0].mean(0) + 0.5 * eye for m in (first, second))
    torch.testing.assert_close(attention_rollout([first, second])[0, 0].flatten(), (b @ a)[0, 1:])
    rows = attention_rollout([first[..., 1:, 1:], second[..., 1:, 1:]], prefix=0)
    assert rows.shape == (1, 1, 2, 2)
    with pytest.raises(AttnBridgeError, match="make no grid"):
        attention_rollout([first], prefix=0)


def test_gradient_rollout_is_its_formula_written_out() -> None:
    attention = [a.requires_grad_() for a in attention_by_hand()]
    head = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    logits = torch.einsum("bhij,chij->bc", attention[1] @ attention[0], head)
    maps = gradient_rollout(attention, logits, torch.tensor([[2, 0]]))
    for k, c in enumerate((2, 0)):
        rolled = torch.eye(5)
        for matrix, gradient in zip(
            attention, torch.autograd.grad(logits[0, c], attention, retain_graph=True), strict=True
        ):
            rolled = rolled + (gradient * matrix)[0].clamp_min(0).mean(0) @ rolled
        torch.testing.assert_close(maps[0, k].flatten().detach(), rolled[0, 1:].detach())


def test_gradient_rollout_trains_the_network() -> None:
    network = vit(True)
    logits, attention = observe_attention(network, torch.rand(1, 3, 48, 48))
    gradient_rollout(attention, logits, torch.tensor([1])).sum().backward()
    assert network.blocks[0].attn.qkv.weight.grad.abs().sum() > 0  # type: ignore[index, union-attr]


def test_blocks_that_are_run_again_with_fused_attention_are_named() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5)
    network, images = transformers.ViTForImageClassification(config), torch.rand(1, 3, 32, 32)
    network.gradient_checkpointing_enable()
    network.train()
    with pytest.raises(AttnBridgeError, match=r"a block is checkpointed, .* attn_implementation=\"eager\""):
        explain(network, images, 0)
    network.set_attn_implementation("eager")
    assert explain(network, images, 0).shape == (1, 1, 4, 4)
