"""Attention mining: what the map of a class covers is erased, and the class must then not be recognised."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Positive, UpToOne, check_number
from attnbridge.errors import AttnBridgeError, check_choice
from attnbridge.losses.attention import mean_by_image

Fill = Literal["zero", "mean", "blur"]
BLUR = 8
"""``blur`` is the image at an eighth of its sides, enlarged again."""


def soft_mask(maps: Tensor, threshold: float = 0.5, slope: float = 10.0) -> Tensor:
    r"""A map as a soft mask.

    .. math:: T(A) = \frac{1}{1 + \exp(-\omega (A - \sigma))}

    (Equation 4 of GAIN, Li et al., CVPR 2018; :math:`\sigma` and :math:`\omega` are not given there. Public ports have
    0.5 and 10, 0.4 and 100, 0.25 and 100, 0.5 and 8.)

    Args:
        maps: any shape, each map scaled to its own maximum, in [0, 1].
        threshold: :math:`\sigma`, the value that becomes a half, in [0, 1].
        slope: :math:`\omega`, above 0.

    >>> soft_mask(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0067, 0.5000, 0.9933])
    """
    check_tensors(empty=True, maps=(maps, "..."))
    check_number("threshold", threshold, UpToOne)
    check_number("slope", slope, Positive)
    return torch.sigmoid(slope * (maps - threshold))


def erase(images: Tensor, mask: Tensor, fill: Fill = "mean", mean: Tensor | None = None) -> Tensor:
    r"""Images without what a mask covers.

    .. math:: I^{*c} = I - T(A^c) \cdot (I - fill)

    (Equation 3 of GAIN, where the fill is 0.) Differentiable in ``mask``.

    Args:
        images: ``(P, 3, H, W)`` in [0, 1].
        mask: ``(P, h, w)`` in [0, 1], enlarged bilinearly.
        fill: ``zero``: black; ``mean``: the colour ``mean``, which a network that subtracts it sees as 0; ``blur``:
            the image itself, blurred.
        mean: ``(3, 1, 1)``, for ``mean``.

    Raises:
        AttnBridgeError: for a fill that is none, ``mean`` without a colour, or images and masks that do not fit.

    >>> erase(torch.ones(1, 3, 2, 2), torch.full((1, 1, 1), 0.25), "zero").unique()
    tensor([0.7500])
    """
    check_choice("fill", fill, get_args(Fill))
    check_tensors(empty=True, images=(images, "P C H W"), mask=(mask, "P h w"))
    if fill == "mean":
        if mean is None:
            raise AttnBridgeError(
                "fill is 'mean', but mean is None; give the mean colour, (3, 1, 1), or take zero or blur"
            )
        check_tensors(empty=True, images=(images, "P C H W"), mean=(mean, "C 1 1"))
    mask = F.interpolate(mask[:, None], images.shape[-2:], mode="bilinear", align_corners=False)
    if fill == "zero":
        return images * (1 - mask)
    if mean is not None and fill == "mean":
        return images - mask * (images - mean)
    small = (max(1, images.shape[-2] // BLUR), max(1, images.shape[-1] // BLUR))
    blurred = F.interpolate(F.adaptive_avg_pool2d(images, small), images.shape[-2:], mode="bilinear")
    return images - mask * (images - blurred)


def attention_mining_loss(scores: Tensor, images: Tensor) -> Tensor:
    r"""How much of the classes is still recognised after each was erased.

    .. math:: L_{am} = \frac{1}{n} \sum_c S^c(I^{*c})

    (Equation 5 of GAIN: over the n classes of an image; here the mean over the images that have one.)

    Args:
        scores: ``(P,)``, of an image and class each, the score of that class after its erasure.
        images: long ``(P,)``, which image each belongs to.

    Returns:
        A scalar; 0 for no pairs.

    >>> attention_mining_loss(torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0, 0, 3]))
    tensor(0.6000)
    """
    return mean_by_image(scores, images)


class AttentionMiningLoss(nn.Module):
    """:func:`attention_mining_loss` as a module."""

    forward = staticmethod(attention_mining_loss)
