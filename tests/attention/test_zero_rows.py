"""Gradients of a class token's answer: those of plain autograd, at a part of the work."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnbridge.attention.gradients import class_gradients
from attnbridge.attention.observe import Observation, observe
from attnbridge.attention.zero_rows import SkipZeroRows

CLASSES = torch.tensor([[0, 4], [2, 2]])


def seen_by(pool: str, dtype: torch.dtype = torch.float32) -> Observation:
    options: dict[str, Any] = {"img_size": 128, "depth": 2, "num_classes": 5, "global_pool": pool}
    network = timm.create_model("vit_tiny_patch16_224", **options).eval().to(dtype)
    nn.init.normal_(network.get_classifier().weight, std=0.1)  # type: ignore[union-attr, operator]
    with torch.no_grad():
        return observe(network, torch.rand(2, 3, 128, 128, dtype=dtype), "blocks.1.norm1")


def plain(features: Tensor, logits: Tensor) -> Tensor:
    """A backward pass for each class of each image."""
    rows = [torch.stack([torch.autograd.grad(logits[image, int(c)], features, retain_graph=True)[0][image]
                         for c in wanted]) for image, wanted in enumerate(CLASSES)]  # fmt: skip
    return torch.stack(rows)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_gradients_are_those_of_plain_autograd(pool: str) -> None:
    seen = seen_by(pool, torch.float64)
    features = seen.features["blocks.1.norm1"]
    found = class_gradients(features, seen.logits, CLASSES, lambda g: g, second_order="off")
    torch.testing.assert_close(found, plain(features, seen.logits), rtol=1e-10, atol=1e-14)


def test_what_only_the_class_token_needs_is_done_for_it_alone() -> None:
    counts = {}
    for pool in ("token", "avg"):
        seen = seen_by(pool)
        with FlopCounterMode(display=False) as counter:
            class_gradients(seen.features["blocks.1.norm1"], seen.logits, CLASSES, lambda g: g, second_order="off")
        counts[pool] = counter.get_total_flops()
    assert counts["token"] < 0.35 * counts["avg"]  # keys and values are of all tokens: 3/12 of the block


def test_gradients_can_be_differentiated_again() -> None:
    def second(skip: bool) -> Tensor:
        torch.manual_seed(0)
        tokens, layer = torch.rand(2, 65, 6, requires_grad=True), nn.Linear(6, 6)
        query, key = layer(tokens), torch.rand(2, 65, 6)
        with sdpa_kernel(SDPBackend.MATH):
            answer = layer(nn.functional.scaled_dot_product_attention(query, key, tokens))[:, 0].square().sum()
        if skip:
            with SkipZeroRows():  # type: ignore[no-untyped-call]
                (first,) = torch.autograd.grad(answer, tokens, create_graph=True)
        else:
            (first,) = torch.autograd.grad(answer, tokens, create_graph=True)
        return torch.autograd.grad(first.square().sum(), tokens)[0]

    torch.testing.assert_close(second(skip=True), second(skip=False))


def test_masked_and_causal_attention_is_left_whole() -> None:
    query = torch.rand(1, 2, 65, 4, requires_grad=True)
    mask = torch.rand(65, 65)
    for options in ({"attn_mask": mask}, {"is_causal": True}, {}):
        answer = nn.functional.scaled_dot_product_attention(query, query, query, **options)[:, :, 3].sum()
        (expected,) = torch.autograd.grad(answer, query, retain_graph=True)
        with SkipZeroRows():  # type: ignore[no-untyped-call]
            (found,) = torch.autograd.grad(answer, query)
        torch.testing.assert_close(found, expected)
