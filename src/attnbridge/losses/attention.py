"""The attention constraint: a class map is to match a saliency map."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.errors import AttnBridgeError, check_choice

Resolution = Literal["map", "saliency"]
Reduction = Literal["mean", "sum"]


def attention_loss(
    maps: Tensor,
    saliency: Tensor,
    *,
    resolution: Resolution = "map",
    reduction: Reduction = "mean",
    counted: Tensor | None = None,
) -> Tensor:
    r"""L2 distance of class maps to saliency maps, averaged over the images.

    .. math:: L_{ac} = (M^c - A)^2

    (Equation 3 of AttnBN, Li et al., ICCV 2019. Open in the paper: the resolution at which the two meet,
    and sum or mean over the positions.)

    Args:
        maps: ``(B, H, W)``, the map of each image's one true class.
        saliency: ``(B, H', W')`` in [0, 1].
        resolution: ``map`` averages the saliency down to H x W; ``saliency`` enlarges the maps bilinearly.
        reduction: over the positions; over the images it is always the mean, so that the value does not
            depend on the batch size.
        counted: bool ``(B, H', W')``, the pixels that count; the others are in no sum and no mean, and an image
            without any counts as 0.

    Returns:
        A scalar, not negative; 0 where the maps equal the saliency.

    Raises:
        AttnBridgeError: for shapes that do not belong together, saliency that is neither float nor bool, or a
            resolution or reduction that is none.

    >>> import torch
    >>> attention_loss(torch.zeros(1, 2, 2), torch.ones(1, 4, 4))
    tensor(1.)
    >>> attention_loss(torch.zeros(1, 2, 2), torch.ones(1, 4, 4), reduction="sum")
    tensor(4.)
    """
    each = attention_distance(maps, saliency, resolution=resolution, reduction=reduction, counted=counted)
    check_tensors(maps=(maps, "B H W"))
    return each.mean()


def attention_distance(
    maps: Tensor,
    saliency: Tensor,
    *,
    resolution: Resolution = "map",
    reduction: Reduction = "mean",
    counted: Tensor | None = None,
) -> Tensor:
    """:func:`attention_loss` of each map, ``(B,)``.

    >>> import torch
    >>> attention_distance(torch.zeros(2, 1, 1), torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]))
    tensor([0.2500, 1.0000])
    """
    _check_settings(resolution, reduction)
    check_tensors(empty=True, maps=(maps, "B H W"), saliency=(saliency, "B H' W'", "unit"))
    if counted is not None:
        check_tensors(empty=True, saliency=(saliency, "B H' W'", "unit"), counted=(counted, "B H' W'", "unit"))
    saliency = saliency.to(maps.dtype)
    weight = torch.ones_like(saliency) if counted is None else counted.to(maps.dtype)
    if maps.shape != saliency.shape:
        if resolution == "map":
            size = (maps.shape[1], maps.shape[2])
            saliency = F.adaptive_avg_pool2d(saliency * weight, size)
            weight = F.adaptive_avg_pool2d(weight, size)
            saliency = saliency / weight.clamp_min(1e-8)
        else:
            maps = F.interpolate(maps[:, None], saliency.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    summed = ((maps - saliency).square() * weight).flatten(1).sum(1)
    return summed / weight.flatten(1).sum(1).clamp_min(1e-8) if reduction == "mean" else summed


class AttentionLoss(nn.Module):
    """:func:`attention_loss` with its settings."""

    def __init__(self, resolution: Resolution = "map", reduction: Reduction = "mean") -> None:
        super().__init__()
        _check_settings(resolution, reduction)
        self.resolution: Resolution = resolution
        self.reduction: Reduction = reduction

    def forward(self, maps: Tensor, saliency: Tensor) -> Tensor:
        """See :func:`attention_loss`."""
        return attention_loss(maps, saliency, resolution=self.resolution, reduction=self.reduction)


def _check_settings(resolution: Resolution, reduction: Reduction) -> None:
    check_choice("resolution", resolution, get_args(Resolution))
    check_choice("reduction", reduction, get_args(Reduction))


def mean_by_image(values: Tensor, images: Tensor) -> Tensor:
    """The mean over the values of each image, then over the images that have any; 0 if none has.

    >>> mean_by_image(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 0, 2]))
    tensor(0.7500)
    """
    check_tensors(empty=True, values=(values, "P"), images=(images, "P", "long"))
    if not len(values):
        return values.sum()
    if images.device.type == "cpu" and int(images.min()) < 0:  # a GPU is not waited for
        raise AttnBridgeError(f"images must be numbers of images, 0 or more, not {int(images.min())}")
    counts = torch.bincount(images)
    return (values / counts[images]).sum() / (counts > 0).sum()
