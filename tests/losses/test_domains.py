"""What brings two domains together, beside skada and plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnbridge.errors import AttnBridgeError
from attnbridge.losses.domains import coral_loss, mmd_loss


def features(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64) * (1 + seed)


def test_coral_is_skadas() -> None:
    losses = pytest.importorskip("skada.deep.losses")
    source, target = features(9, 0), features(7, 1)
    torch.testing.assert_close(coral_loss(source, target), losses.deepcoral_loss(source, target))


def test_mmd_is_skadas_under_dans_kernels() -> None:
    losses = pytest.importorskip("skada.deep.losses")
    source, target = features(9, 0), features(7, 1)
    median = torch.cdist(source, source).square().median()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        found = torch.zeros(len(a), len(b), dtype=a.dtype)
        for row, x in enumerate(a):
            for column, y in enumerate(b):
                for step in range(-16, 17):
                    found[row, column] += torch.exp(-((x - y) ** 2).sum() / (2 ** (step / 2) * median)) / 33
        return found

    torch.testing.assert_close(mmd_loss(source, target), losses._maximum_mean_discrepancy(source, target, kernel))


def test_gradients_bring_domains_together() -> None:
    for loss in (coral_loss, mmd_loss):
        source, target = features(9, 0), (features(9, 1) + 0.5).requires_grad_()
        before = loss(source, target)
        before.backward()
        assert target.grad is not None
        assert loss(source, target.detach() - 0.05 * target.grad / target.grad.norm()) < before
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(features(9, 0), x), target)


def test_images_that_are_the_same_have_a_gradient() -> None:
    source = features(4, 0)
    target = source.clone().requires_grad_()
    mmd_loss(source, target).backward()
    assert target.grad is not None
    assert target.grad.isfinite().all()


def test_one_image_has_no_covariance() -> None:
    for loss in (coral_loss, mmd_loss):
        with pytest.raises(AttnBridgeError, match="target holds the features of one image"):
            loss(features(4, 0), features(1, 1))
        with pytest.raises(AttnBridgeError, match=r"target must be .*D = 5"):
            loss(features(4, 0), features(4, 1)[:, :3])
