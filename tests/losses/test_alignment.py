"""Losses of fine-tuning against loops, in value and gradient; the authors' code and the paper are told apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbridge.errors import AttnBridgeError
from attnbridge.losses.alignment import (
    ChannelAttention,
    SpatialAttention,
    channel_alignment_loss,
    delta_alignment_loss,
    entropy,
    l2_sp_loss,
    spatial_alignment_loss,
    spectral_shrinkage_loss,
)


def features(batch: int = 3, channels: int = 4, height: int = 3, width: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, height, width)
    target, source = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return target.requires_grad_(), source


def naive(kind: str, variant: str, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
    batch, channels, height, width = target.shape
    total = torch.zeros((), dtype=target.dtype)
    for b in range(batch):
        for j in range(channels):
            for y in range(height):
                for x in range(width):
                    difference = target[b, j, y, x] - source[b, j, y, x]
                    if kind == "spatial":
                        share = weights[b, y, x] * (height * width if variant == "code" else 1)
                        total = total + (share * difference) ** 2
                    else:
                        total = total + weights[b, j] * difference**2 * (channels if variant == "code" else 1)
    return total / batch / (2 if variant == "code" else 1)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("kind", ["spatial", "channel"])
def test_alignment_equals_a_loop_in_value_and_gradient(kind: str, variant: Any) -> None:
    target, source = features()
    attention: Any = SpatialAttention(3, 2) if kind == "spatial" else ChannelAttention(4, 3, 2)
    attention = attention.double()
    align = spatial_alignment_loss if kind == "spatial" else channel_alignment_loss
    found, grads = [], []
    for loss in (lambda *a: align(*a, variant), lambda *a: naive(kind, variant, *a)):
        value = loss(target, source, attention(source))
        trained = [target, *attention.parameters()]
        found.append(value)
        grads.append(torch.autograd.grad(value, trained, retain_graph=True))
    torch.testing.assert_close(found[0], found[1])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 0


def test_attention_equals_its_formula_image_by_image() -> None:
    _, source = features()
    spatial, channel = SpatialAttention(3, 2).double(), ChannelAttention(4, 3, 2).double()
    torch.nn.init.normal_(channel.bias)
    for b, image in enumerate(source):
        mean = image.mean(0).flatten()
        scores = spatial.expand.weight @ torch.relu(spatial.squeeze.weight @ mean) + spatial.expand.bias
        torch.testing.assert_close(spatial(source)[b].flatten(), torch.softmax(scores, 0))
        each = [channel.expand.weight[0] @ torch.relu(channel.squeeze.weight @ own.flatten()) for own in image]
        torch.testing.assert_close(channel(source)[b], torch.softmax(torch.stack(each) + channel.bias, 0))


@pytest.mark.parametrize("kind", ["spatial", "channel"])
def test_alignment_is_zero_at_equality_and_free_of_the_batch(kind: str) -> None:
    target, source = features()
    weights = torch.rand(3, 3, 2) if kind == "spatial" else torch.rand(3, 4)
    align = spatial_alignment_loss if kind == "spatial" else channel_alignment_loss
    assert align(source, source, weights) == 0
    twice = align(torch.cat([target, target]), torch.cat([source, source]), torch.cat([weights, weights]))
    torch.testing.assert_close(twice, align(target, source, weights))
    assert twice > 0


def test_the_source_gets_no_gradient() -> None:
    target, source = features()
    source.requires_grad_()
    channel_alignment_loss(target, source, torch.full((3, 4), 0.25, dtype=torch.float64)).backward()
    assert source.grad is None


def test_delta_has_one_weight_a_channel_and_in_the_code_the_mean_over_positions() -> None:
    target, source = features()
    shared = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for variant, divided in (("paper", 1), ("code", 6)):
        wanted = naive("channel", variant, target, source, shared.expand(3, 4)) / divided
        torch.testing.assert_close(delta_alignment_loss(target, source, shared, variant), wanted)  # type: ignore[arg-type]


def test_entropy_of_known_distributions() -> None:
    half = torch.tensor([[[0.5, 0.5], [0.0, 0.0]]])
    assert entropy(half).item() == pytest.approx(math.log(2) / math.log(4))
    assert entropy(torch.full((2, 5, 5), 1 / 25)).item() == pytest.approx(1)


def test_shrinkage_is_the_end_of_the_spectrum() -> None:
    target, _ = features(5, 3, 2, 2)
    matrix = target.flatten(1).float()
    gram = torch.linalg.eigvalsh(matrix.detach() @ matrix.detach().T)  # ascending squares of the singular values
    for count in (1, 2):
        torch.testing.assert_close(spectral_shrinkage_loss(matrix, count), gram[:count].sum(), rtol=1e-3, atol=1e-4)
    (grad,) = torch.autograd.grad(spectral_shrinkage_loss(matrix), target)
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0
    with pytest.raises(AttnBridgeError, match="count must be from 1 to 5"):
        spectral_shrinkage_loss(matrix, 6)


def test_a_start_counts_what_is_in_both() -> None:
    weights = {"a": torch.tensor([1.0, 3.0], requires_grad=True), "head": torch.ones(4)}
    start = {"a": torch.tensor([0.0, 1.0]), "gone": torch.ones(2)}
    penalty = l2_sp_loss(weights, start)
    assert penalty == 2.5
    penalty.backward()
    assert weights["a"].grad.tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    with pytest.raises(AttnBridgeError, match="none of the trained weights"):
        l2_sp_loss(weights, {})


def test_features_that_do_not_fit_are_named() -> None:
    with pytest.raises(AttnBridgeError, match=r"not \(1, 2, 3, 3\) and \(1, 4, 3, 3\)"):
        channel_alignment_loss(torch.rand(1, 4, 3, 3), torch.rand(1, 2, 3, 3), torch.ones(4))
