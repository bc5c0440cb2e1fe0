"""Every loss against a naive loop: value, gradient, and the weights after one optimiser step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbridge.errors import AttnBridgeError
from attnbridge.losses.adversarial import adversarial_loss, discriminator_loss
from attnbridge.losses.attention import AttentionLoss, attention_loss
from attnbridge.losses.classification import MultiLabelSoftMarginLoss, multi_label_soft_margin_loss
from attnbridge.losses.mining import attention_mining_loss, erase, soft_mask


def naive_soft_margin(logits: Tensor, labels: Tensor) -> Tensor:
    terms = []
    for row, truth in zip(logits, labels, strict=True):
        for o, t in zip(row, truth, strict=True):
            p = 1 / (1 + torch.exp(-o))
            terms.append(-(t * torch.log(p) + (1 - t) * torch.log(1 - p)))
    return torch.stack(terms).mean()


def naive_attention(maps: Tensor, saliency: Tensor, reduction: str) -> Tensor:
    images = []
    for m, a in zip(maps, saliency, strict=True):
        block = [a.shape[0] // m.shape[0], a.shape[1] // m.shape[1]]
        terms = []
        for y in range(m.shape[0]):
            for x in range(m.shape[1]):
                patch = a[y * block[0] : (y + 1) * block[0], x * block[1] : (x + 1) * block[1]]
                terms.append((m[y, x] - patch.mean()) ** 2)
        images.append(torch.stack(terms).mean() if reduction == "mean" else torch.stack(terms).sum())
    return torch.stack(images).mean()


def naive_counted(maps: Tensor, saliency: Tensor) -> Tensor:
    """Pixels that do not count are in no mean; 2 x 2 pixels a position."""
    images = []
    for m, a, k in zip(maps, saliency, COUNTED, strict=True):
        total, weight = torch.zeros((), dtype=m.dtype), 0.0
        for y in range(m.shape[0]):
            for x in range(m.shape[1]):
                known = k[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                if known.any():
                    wanted = a[2 * y : 2 * y + 2, 2 * x : 2 * x + 2][known].mean()
                    share = float(known.double().mean())
                    total, weight = total + share * (m[y, x] - wanted) ** 2, weight + share
        images.append(total / weight)
    return torch.stack(images).mean()


def naive_mining(scores: Tensor) -> Tensor:
    """Two images of one class and of three."""
    return (scores[0] + (scores[1] + scores[2] + scores[3]) / 3) / 2


def naive_erased(maps: Tensor) -> Tensor:
    """Every value written out: the mask, and the black where it is 1."""
    total = torch.zeros((), dtype=maps.dtype)
    for image, m in zip(BATCH, maps, strict=True):
        for y in range(2):
            for x in range(2):
                mask = 1 / (1 + torch.exp(-8 * (m[y, x] - 0.4)))
                total = total + (image[:, y, x] * (1 - mask)).sum()
    return total


def naive_discriminator(source: Tensor, target: Tensor) -> Tensor:
    told = torch.stack([-torch.log(1 / (1 + torch.exp(-v))) for v in source.flatten()]).mean()
    other = torch.stack([-torch.log(1 - 1 / (1 + torch.exp(-v))) for v in target.flatten()]).mean()
    return told + other


def naive_adversarial(target: Tensor) -> Tensor:
    return torch.stack([-torch.log(1 / (1 + torch.exp(-v))) for v in target.flatten()]).mean()


LABELS = (torch.rand(5, 4) > 0.5).double()
SALIENCY = torch.rand(3, 8, 8, dtype=torch.float64)
COUNTED = torch.rand(3, 8, 8) > 0.4
COUNTED[0, :2, :2] = False  # a position without any
IMAGES = torch.tensor([0, 4, 4, 4])
BATCH = torch.rand(3, 3, 2, 2, dtype=torch.float64)
SOURCE = torch.randn(2, 1, 3, 3, dtype=torch.float64)

CASES: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "soft_margin": ((5, 4), lambda x: multi_label_soft_margin_loss(x, LABELS), lambda x: naive_soft_margin(x, LABELS)),
    "soft_margin_sum": (
        (5, 4),
        lambda x: multi_label_soft_margin_loss(x, LABELS, "sum"),
        lambda x: 4 * naive_soft_margin(x, LABELS),
    ),
    "attention_mean": (
        (3, 4, 4),
        lambda x: attention_loss(x, SALIENCY),
        lambda x: naive_attention(x, SALIENCY, "mean"),
    ),
    "attention_sum": (
        (3, 4, 4),
        lambda x: attention_loss(x, SALIENCY, reduction="sum"),
        lambda x: naive_attention(x, SALIENCY, "sum"),
    ),
    "attention_counted": (
        (3, 4, 4),
        lambda x: attention_loss(x, SALIENCY, counted=COUNTED),
        lambda x: naive_counted(x, SALIENCY),
    ),
    "mining": ((4,), lambda x: attention_mining_loss(x, IMAGES), naive_mining),
    "erase": ((3, 2, 2), lambda x: erase(BATCH, soft_mask(x, 0.4, 8), "zero").sum(), naive_erased),
    "discriminator": (
        (4, 1, 2, 2),
        lambda x: discriminator_loss(SOURCE, x),
        lambda x: naive_discriminator(SOURCE, x),
    ),
    "discriminator_source": (
        (4, 1, 2, 2),
        lambda x: discriminator_loss(x, SOURCE),
        lambda x: naive_discriminator(x, SOURCE),
    ),
    "adversarial": ((4, 1, 2, 2), adversarial_loss, naive_adversarial),
}


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_one_step_equal_the_naive_loop(name: str) -> None:
    shape, loss, naive = CASES[name]
    start = torch.randn(shape, dtype=torch.float64)
    after = []
    for function in (loss, naive):
        x = start.clone().requires_grad_()
        optimizer = torch.optim.AdamW([x], lr=0.1)
        value = function(x)
        value.backward()
        gradient = x.grad.clone()  # type: ignore[union-attr]
        optimizer.step()
        after.append((value.detach(), gradient, x.detach()))
    for ours, theirs in zip(*after, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str) -> None:
    shape, loss, _ = CASES[name]
    assert torch.autograd.gradcheck(loss, torch.randn(shape, dtype=torch.float64, requires_grad=True))


def test_values_do_not_depend_on_the_batch_size() -> None:
    maps, saliency = torch.rand(4, 3, 3), torch.rand(4, 6, 6)
    logits, labels = torch.randn(4, 5), (torch.rand(4, 5) > 0.5).float()
    pairs: list[tuple[Any, tuple[Tensor, ...]]] = [
        (attention_loss, (maps, saliency)),
        (multi_label_soft_margin_loss, (logits, labels)),
        (adversarial_loss, (torch.randn(4, 1, 2, 2),)),
        (discriminator_loss, (torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2))),
    ]
    for loss, inputs in pairs:
        twice = [torch.cat([x, x]) for x in inputs]
        torch.testing.assert_close(loss(*twice), loss(*inputs))


def test_attention_is_zero_at_equality_and_meets_at_either_resolution() -> None:
    maps = torch.rand(2, 4, 4)
    assert attention_loss(maps, maps) == 0
    enlarged = torch.nn.functional.interpolate(maps[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
    assert AttentionLoss("saliency")(maps, enlarged) == 0
    assert AttentionLoss("map")(maps, enlarged) > 0


def test_discriminator_that_tells_has_a_low_loss_and_one_that_is_fooled_a_high_one() -> None:
    sure = torch.full((2, 1, 2, 2), 8.0)
    assert discriminator_loss(sure, -sure) < 0.01
    assert discriminator_loss(-sure, sure) > 10
    assert adversarial_loss(sure) < 0.01 < adversarial_loss(-sure)


def test_losses_stay_finite_for_extreme_logits() -> None:
    far = torch.tensor([[200.0, -200.0]], requires_grad=True)
    total = discriminator_loss(-far, far) + adversarial_loss(far) + multi_label_soft_margin_loss(far, torch.ones(1, 2))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(far.grad).all()  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(AttnBridgeError, match=r"labels must be .* N = 3 as in logits, .*\(2, 4\)"):
        MultiLabelSoftMarginLoss()(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(AttnBridgeError, match=r"saliency must be .* B = 2 as in maps, .*\(1, 3, 3\)"):
        attention_loss(torch.zeros(2, 3, 3), torch.zeros(1, 3, 3))


def test_fills_are_put_where_the_mask_is_and_nothing_else_changes() -> None:
    images = torch.rand(2, 3, 16, 16)
    mask = torch.zeros(2, 4, 4)
    mask[:, :, 2:] = 1
    mean = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1)
    for fill, wanted in (("zero", torch.zeros(3, 1, 1)), ("mean", mean)):
        erased = erase(images, mask, fill, mean)  # type: ignore[arg-type]
        torch.testing.assert_close(erased[:, :, :, :6], images[:, :, :, :6])
        torch.testing.assert_close(erased[:, :, :, 10:], wanted.expand(2, 3, 16, 6))
    blurred = erase(images, mask, "blur")
    assert blurred[:, :, :, 10:].std() < images[:, :, :, 10:].std() / 2
    with pytest.raises(AttnBridgeError, match="fill must be zero, mean"):
        erase(images, mask, "grey")  # type: ignore[arg-type]
    assert float(attention_mining_loss(torch.zeros(0), torch.zeros(0, dtype=torch.long))) == 0
