"""What brings the features of two domains together: correlation alignment, maximum mean discrepancy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.errors import AttnBridgeError

KERNELS = 33
"""Of DAN: variances from 2^-8 to 2^8 of the median, a factor of the square root of 2 apart."""


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    r"""Distance of the covariances of two domains' features: deep CORAL.

    .. math:: \frac{1}{4 D^2} \|C_S - C_T\|_F^2

    (Sun and Saenko, ECCV Workshops 2016, Equation 1.) The covariances are unbiased.

    Args:
        source: ``(B, D)``, two images at least.
        target: ``(B', D)``, likewise.

    Raises:
        AttnBridgeError: for features of other shapes.

    >>> coral_loss(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [0.0], [0.0]]))
    tensor(1.)
    """
    _check(source, target)
    gap = source.T.cov() - target.T.cov()
    return gap.square().sum() / (4 * source.shape[1] ** 2)


def mmd_loss(source: Tensor, target: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy of two domains' features under the mean of several Gaussian kernels: DAN's.

    .. math:: \overline{k(s, s')} + \overline{k(t, t')} - 2 \overline{k(s, t)}, \qquad
              k(x, y) = \frac{1}{33} \sum_{u=-16}^{16} \exp\Bigl(-\frac{\|x - y\|^2}{2^{u / 2} \gamma}\Bigr)

    (Long, Cao, Wang, Jordan, ICML 2015. :math:`\gamma` is the median squared distance within the source, without
    gradient. The authors learn the kernels' weights, here all are equal; they take part of the pairs, here all
    are taken.)

    Args:
        source: ``(B, D)``, two images at least.
        target: ``(B', D)``, likewise.

    Raises:
        AttnBridgeError: for features of other shapes.

    >>> features = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> round(mmd_loss(features, features).item(), 6)
    0.0
    """
    _check(source, target)
    within = _squared_distances(source, source)
    steps = torch.arange(KERNELS, device=source.device, dtype=source.dtype) - KERNELS // 2
    variances = 2 ** (steps / 2) * within.detach().median().clamp_min(1e-7)

    def similarity(squared: Tensor) -> Tensor:
        return torch.exp(-squared[..., None] / variances).mean()

    across = similarity(_squared_distances(source, target))
    return similarity(within) + similarity(_squared_distances(target, target)) - 2 * across


class CoralLoss(nn.Module):
    """:func:`coral_loss` as a module."""

    forward = staticmethod(coral_loss)


class MMDLoss(nn.Module):
    """:func:`mmd_loss` as a module."""

    forward = staticmethod(mmd_loss)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Between all pairs, smooth where two are the same."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def _check(source: Tensor, target: Tensor) -> None:
    check_tensors(source=(source, "B D"), target=(target, "B' D"))
    for name, features in (("source", source), ("target", target)):
        if len(features) < 2:
            raise AttnBridgeError(f"{name} holds the features of one image; expected two or more")
