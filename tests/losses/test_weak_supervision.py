"""SEC's and DSRG's losses against loops over pixels, in value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from attnbridge.errors import AttnBridgeError
from attnbridge.losses.weak_supervision import BoundaryLoss, boundary_loss, expansion_loss, seed_loss


def case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator).requires_grad_()
    kind = torch.randint(0, 4, (2, 3, 5), generator=generator)
    seeds = torch.nn.functional.one_hot(kind, 4).permute(0, 3, 1, 2).bool()
    seeds &= (torch.rand(2, 3, 5, generator=generator) < 0.5)[:, None]
    seeds[1, 0] = False  # an image without seeds of the background
    return logits, seeds, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def naive_seeding(p: Tensor, seeds: Tensor, balanced: bool) -> Tensor:
    total = p.new_zeros(())
    for b in range(len(p)):
        terms: dict[bool, list[Tensor]] = {True: [], False: []}
        for c, y, x in torch.nonzero(seeds[b]).tolist():
            terms[balanced and c == 0].append(p[b, c, y, x].log())
        for found in terms.values():
            if found:
                total = total - torch.stack(found).mean()
    return total / len(p)


def naive_expansion(p: Tensor, labels: Tensor) -> Tensor:
    total = p.new_zeros(())

    def pool(values: Tensor, decay: float) -> Tensor:
        ranked = sorted(values.flatten(), key=lambda v: float(v.detach()), reverse=True)
        weights = [1.0 if j == 0 else decay**j for j in range(len(ranked))]
        return sum((w * v for w, v in zip(weights, ranked, strict=True)), p.new_zeros(())) / sum(weights)

    for b in range(len(p)):
        here = [pool(p[b, c + 1], 0.996).log() for c in range(3) if labels[b, c]]
        absent = [(1 - pool(p[b, c + 1], 0.0)).log() for c in range(3) if not labels[b, c]]
        total = total - torch.stack(here).mean() - torch.stack(absent).mean() - pool(p[b, 0], 0.999).log()
    return total / len(p)


def naive_boundary(p: Tensor, refined: Tensor) -> Tensor:
    total = p.new_zeros(())
    for b in range(2):
        for y in range(3):
            for x in range(5):
                for c in range(4):
                    q = (refined[b, c, y, x] + 1e-4) / (1 + 4e-4)
                    total = total + q * (q / p[b, c, y, x]).log() / 30
    return total


@pytest.mark.parametrize("kind", ["balanced", "plain", "expansion", "boundary"])
def test_a_loss_equals_a_loop_in_value_and_gradient(kind: str) -> None:
    logits, seeds, labels = case()
    refined = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(1)
    pairs: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "balanced": (lambda p: seed_loss(p, seeds), lambda p: naive_seeding(p, seeds, True)),
        "plain": (lambda p: seed_loss(p, seeds, balanced=False), lambda p: naive_seeding(p, seeds, False)),
        "expansion": (lambda p: expansion_loss(p, labels), lambda p: naive_expansion(p, labels)),
        "boundary": (lambda p: boundary_loss(p, refined), lambda p: naive_boundary(p, refined)),
    }
    ours = pairs[kind][0](logits.softmax(1))
    least = logits.softmax(1) + 1e-4
    theirs = pairs[kind][1](least / least.sum(1, keepdim=True))
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0].abs().max() > 0


def test_what_is_thought_impossible_can_be_learned() -> None:
    wrong = torch.tensor([[[[False]], [[True]]]])
    for loss in (
        lambda p: seed_loss(p, wrong),
        lambda p: boundary_loss(p, wrong.float()),
        lambda p: expansion_loss(p, torch.ones(1, 1)),
    ):
        logits = torch.tensor([[[[12.0]], [[0.0]]]], requires_grad=True)
        loss(logits.softmax(1)).backward()
        assert logits.grad[0, 1].item() < -0.01  # type: ignore[index]
    assert seed_loss(torch.tensor([[[[1.0]], [[0.0]]]]), wrong).item() == pytest.approx(-math.log(1e-4), rel=1e-3)


def test_half_precision_stays_finite() -> None:
    p = torch.tensor([[[[0.001]], [[0.999]]]], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(expansion_loss(p, torch.zeros(1, 1)))


def test_no_seeds_cost_nothing() -> None:
    assert seed_loss(torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 4, 4).bool()) == 0


def test_shapes_that_do_not_fit_are_told() -> None:
    with pytest.raises(AttnBridgeError, match=r"refined must be .* h = 3 as in probabilities"):
        boundary_loss(torch.rand(1, 2, 3, 3), torch.rand(1, 2, 4, 4))


def naive_published(p: np.ndarray, refined: np.ndarray, dsrg: bool) -> tuple[float, np.ndarray]:
    """The loss and its gradient by p, in numpy, position by position.

    speedinghzl/DSRG, 91efdf7, pylayers.py:85-91 (least probability; the CRF's gradient) and :163-165 (exp, clip);
    kolesman/SEC, c784190, pylayers.py:74-80 and :118-120.
    """
    batch, count, height, width = p.shape
    n = batch * height * width
    loss, gradient = 0.0, np.zeros_like(p)
    for b, y, x in np.ndindex(batch, height, width):
        q = np.maximum(refined[b, :, y, x], 1e-4)
        q = q / q.sum()
        for c in range(count):
            ratio = q[c] / p[b, c, y, x]
            inside = not dsrg or 0.05 <= ratio <= 20
            log = np.log(np.clip(ratio, 0.05, 20) if dsrg else ratio)
            loss += q[c] * log / n
            if inside:
                gradient[b, c, y, x] -= q[c] / p[b, c, y, x] / n
            if dsrg:  # by log q, which the CRF's layer multiplies by 1 - q
                gradient[b, c, y, x] += (q[c] * log + (q[c] if inside else 0)) / n * (1 - q[c])
    return loss, gradient


@pytest.mark.parametrize("published", ["sec", "dsrg"])
def test_the_published_boundary_loss_equals_numpy_in_value_and_gradient(published: Literal["sec", "dsrg"]) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = (4 * torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator)).requires_grad_()
    refined = (4 * torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator)).softmax(1)
    least = logits.softmax(1) + 1e-4
    p = least / least.sum(1, keepdim=True)
    value, by_p = naive_published(p.detach().numpy(), refined.numpy(), published == "dsrg")
    ratio = refined / p.detach()
    assert (ratio < 0.05).any()
    assert (ratio > 20).any()
    loss = boundary_loss(logits.softmax(1), refined, published)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    (ours,) = torch.autograd.grad(loss, logits)
    (theirs,) = torch.autograd.grad(p, logits, torch.from_numpy(by_p))
    torch.testing.assert_close(ours, theirs)
    assert BoundaryLoss()(logits.softmax(1), refined, published) == loss
    assert loss != boundary_loss(logits.softmax(1), refined)


def test_a_paper_that_is_unknown_is_told() -> None:
    same = torch.full((1, 2, 3, 3), 0.5)
    with pytest.raises(AttnBridgeError, match="published must be sec or dsrg, not 'dsgr'; did you mean 'dsrg'"):
        boundary_loss(same, same, "dsgr")  # type: ignore[arg-type]
