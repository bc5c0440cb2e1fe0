"""Images without their object, without a piece of their background, and before another background."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.arguments import check_tensors

MARGIN = 0.02
"""Of the longer side, by which a removed object is larger than its mask: its outline would give it away."""
GREY = 0.5
"""What is filled in where nothing of an image is left."""


def surroundings(images: Tensor, known: Tensor) -> Tensor:
    r"""Images whose unknown pixels are filled in from the known ones around them.

    .. math:: c_l = v_l + (1 - w_l) \cdot \mathrm{up}(c_{l+1})

    with :math:`w_0` 1 where a pixel is known, :math:`v_0 = w_0 I`, and both halved in size by their means from one
    level to the next (the pull-push of Gortler et al., The Lumigraph, SIGGRAPH 1996). No unknown pixel takes part: the
    blurred image, which insertion curves take, still shows the colours of what it hides, and one mean
    colour draws its outline.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        known: bool ``(B, H, W)``. Where none of an image is, it becomes grey.

    >>> images = torch.tensor([[[[0.2, 0.9, 0.4]]]])
    >>> surroundings(images, torch.tensor([[[True, False, True]]]))[0, 0, 0, [0, 2]]
    tensor([0.2000, 0.4000])
    """
    check_tensors(images=(images, "B C H W"), known=(known, "B H W", "bool"))
    weights = [known[:, None].to(images.dtype)]
    values = [images * weights[0]]
    while max(values[-1].shape[2:]) > 1:
        for levels in (weights, values):
            levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
    filled = torch.where(weights[-1] > 0, values[-1] / weights[-1].clamp_min(1e-12), GREY)
    for value, weight in zip(values[-2::-1], weights[-2::-1], strict=True):
        above = F.interpolate(filled, value.shape[2:], mode="bilinear", align_corners=False)
        filled = value + (1 - weight) * above
    return filled


def with_margin(objects: Tensor, share: float = MARGIN) -> Tensor:
    """Masks enlarged on all sides by a share of the longer side, at least one pixel, by a square.

    Args:
        objects: bool ``(B, H, W)``.
        share: of the longer side.

    >>> with_margin(torch.tensor([[[False, False, True, False, False]]])).int()
    tensor([[[0, 1, 1, 1, 0]]], dtype=torch.int32)
    """
    check_tensors(objects=(objects, "B H W", "bool"))
    reach = max(1, round(share * max(objects.shape[1:])))
    return F.max_pool2d(objects[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0


def place_control(hole: Tensor, thing: Tensor, inside: Tensor) -> tuple[Tensor, float]:
    r"""The shape of a hole, moved to where it covers the object least.

    .. math:: d^* = \arg\min_d \sum_p \mathrm{object}_p \, \mathrm{hole}_{p - d}

    over all whole-pixel moves that keep the shape inside the image; of equal ones the shortest, so that the control
    lies as near to the frame's middle as the object does, or nearly so. The sum is a correlation, taken by FFT.

    Args:
        hole: bool ``(H, W)``, what is removed.
        thing: bool ``(H, W)``, the object.
        inside: bool ``(H, W)``, the image without its padding; the shape stays in its bounding box.

    Returns:
        The moved shape ``(H, W)``, and the share of it that lies on the object, in [0, 1]. Without any hole: itself, 1.

    >>> hole = torch.tensor([[True, False, False]])
    >>> place_control(hole, hole, torch.ones(1, 3, dtype=torch.bool))
    (tensor([[False,  True, False]]), 0.0)
    """
    check_tensors(hole=(hole, "H W", "bool"), thing=(thing, "H W", "bool"), inside=(inside, "H W", "bool"))
    if not hole.any():
        return hole, 1.0
    height, width = hole.shape
    double = (2 * height, 2 * width)
    spectrum = torch.fft.rfft2(thing.double(), double) * torch.fft.rfft2(hole.double(), double).conj()
    overlaps = torch.fft.irfft2(spectrum, double).round()
    spans = [_span(hole, axis) for axis in (1, 0)]
    limits = [_span(inside, axis) for axis in (1, 0)]
    down, right = (
        torch.arange(min(0, limit[0] - span[0]), max(0, limit[1] - span[1]) + 1)
        for span, limit in zip(spans, limits, strict=True)
    )
    possible = overlaps[down % double[0]][:, right % double[1]].cpu()
    lengths = down[:, None] ** 2 + right[None] ** 2
    ranks = possible * (height**2 + width**2 + 1) + lengths
    place = divmod(int(ranks.argmin()), len(right))
    moved = hole.roll((int(down[place[0]]), int(right[place[1]])), (0, 1))
    return moved, float(possible[place] / hole.sum())


def _span(mask: Tensor, axis: int) -> tuple[int, int]:
    """First row or column with something of a mask, and the first after the last."""
    found = mask.any(axis).nonzero().flatten().tolist() or [0, -1]
    return found[0], found[-1] + 1


def on_background(images: Tensor, objects: Tensor, backgrounds: Tensor) -> Tensor:
    """Objects of images before other backgrounds.

    Args:
        images: ``(B, C, H, W)``.
        objects: bool ``(B, H, W)``.
        backgrounds: as the images.
    """
    check_tensors(
        empty=True,
        images=(images, "B C H W"),
        objects=(objects, "B H W", "bool"),
        backgrounds=(backgrounds, "B C H W"),
    )
    return torch.where(objects[:, None], images, backgrounds)
