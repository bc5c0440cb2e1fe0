"""Geometry shared by image, saliency and mask: torchvision's transforms v2 over tv_tensors."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from attnbridge.errors import check_choice

Size = int | tuple[int, int]
Shape = Literal["stretch", "pad"]
Augment = Literal["full", "flip", "cut", "none"]
GREY = 116
"""What is put around images."""
MEAN_PIXEL = (123, 117, 104)
"""RGB that DSRG's code puts around images that are too small to be cut (speedinghzl/DSRG, 91efdf7, train-f.prototxt:11
and layer.py:206)."""


class Saliency(tv_tensors.Mask):  # type: ignore[misc]
    """A saliency map: geometry as a mask's, but what is padded to it is 0 and not ignored."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width of a size that is one side or both.

    >>> sides(32), sides((48, 32))
    ((32, 32), (48, 32))
    """
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


class PadTo(v2.Transform):  # type: ignore[misc]
    """Pad at right and left, or above and below, to an aspect ratio: grey around the image, 0 around its saliency,
    255 (ignored) around its mask.

    Args:
        aspect: width divided by height.

    >>> PadTo(2.0)(tv_tensors.Image(torch.zeros(3, 10, 10, dtype=torch.uint8))).shape
    torch.Size([3, 10, 20])
    """

    def __init__(self, aspect: float) -> None:
        super().__init__()
        self.aspect = aspect

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = next(value for value in flat_inputs if isinstance(value, torch.Tensor)).shape[-2:]
        wide, high = padding(height, width, self.aspect)
        return {"padding": [wide // 2, high // 2, wide - wide // 2, high - high // 2]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        fill = 0 if isinstance(inpt, Saliency) else 255 if isinstance(inpt, tv_tensors.Mask) else GREY
        return TF.pad(inpt, params["padding"], fill=fill)


class PadBelow(v2.Transform):  # type: ignore[misc]
    """Pad at the right and below what is smaller than a size: :data:`MEAN_PIXEL` beside the image, 0 beside its
    saliency, 255 (ignored) beside its mask.

    Args:
        height: the least, pixels.
        width: the least, pixels.

    >>> PadBelow(12, 8)(tv_tensors.Image(torch.zeros(3, 10, 10, dtype=torch.uint8))).shape
    torch.Size([3, 12, 10])
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = next(value for value in flat_inputs if isinstance(value, torch.Tensor)).shape[-2:]
        return {"padding": [0, 0, max(0, self.width - width), max(0, self.height - height)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        fill = 0 if isinstance(inpt, Saliency) else 255 if isinstance(inpt, tv_tensors.Mask) else list(MEAN_PIXEL)
        return TF.pad(inpt, params["padding"], fill=fill)


def padding(height: int, width: int, aspect: float) -> tuple[int, int]:
    """Pixels that :class:`PadTo` adds to the width and to the height.

    >>> padding(10, 10, 2.0)
    (10, 0)
    """
    return max(0, round(height * aspect) - width), max(0, round(width / aspect) - height)


def without_padding(maps: Tensor, image: tuple[int, int], size: Size) -> Tensor:
    """Maps of an image that :class:`PadTo` padded, as maps of the image alone.

    Args:
        maps: ``(N, h, w)``, over the padded image.
        image: height and width of the image.
        size: that it was brought to; its aspect ratio is that of the padded image.

    Returns:
        ``(N, h, w)``, interpolated bilinearly.

    >>> without_padding(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), (10, 10), (10, 20))
    tensor([[[0.7500, 1.0000, 1.0000, 0.7500]]])
    """
    height, width = sides(size)
    wide, high = padding(*image, width / height)
    share = [image[1] / (image[1] + wide), image[0] / (image[0] + high)]
    theta = torch.tensor([[[share[0], 0.0, 0.0], [0.0, share[1], 0.0]]], dtype=maps.dtype, device=maps.device)
    grid = F.affine_grid(theta, [1, *maps.shape], align_corners=False)
    return F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)[0]


def over_image(values: Tensor, image: tuple[int, int], size: Size, shape: Shape) -> Tensor:
    """Maps ``(N, h, w)`` of an image that :func:`eval_transform` brought to ``size``, over the image alone."""
    return without_padding(values, image, size) if shape == "pad" else values


def train_transform(
    size: Size,
    scale: tuple[float, float] = (0.5, 1.0),
    shape: Shape = "stretch",
    zoom_out: float = 1.0,
    augment: Augment = "full",
) -> v2.Transform:
    """Random resized crop, zooming out, horizontal flip and mild colour jitter; or less.

    Args:
        size: side of the output in pixels, or its height and width.
        scale: lower and upper bound of the crop's share of the image's area.
        shape: ``stretch`` brings the crop to ``size``, its aspect ratio not kept beyond a quarter; ``pad`` keeps it,
            and pads the image first.
        zoom_out: the most by which a crop's sides are divided; it is then placed at random on grey, saliency 0 and
            mask 255 around it.
        augment: ``full``; ``flip``: resized as for evaluation, and flipped (DSRG); ``cut``: a random part of ``size``,
            not resized, and flipped, with :class:`PadBelow` around images that are smaller (DSRG's second training);
            ``none``: resized alone (SEC). Of these, ``full`` alone has ``scale`` and ``zoom_out``, and ``cut`` no
            ``shape``.

    Raises:
        AttnBridgeError: for another ``augment``.
    """
    check_choice("augment", augment, get_args(Augment))
    height, width = sides(size)
    if augment == "cut":
        return v2.Compose([PadBelow(height, width), v2.RandomCrop((height, width)), v2.RandomHorizontalFlip()])
    if augment != "full":
        flip = [v2.RandomHorizontalFlip()] if augment == "flip" else []
        return v2.Compose([eval_transform(size, shape), *flip])
    aspect = width / height
    fill = {Saliency: 0, tv_tensors.Mask: 255, tv_tensors.Image: GREY}
    shrink = [v2.RandomZoomOut(fill, (1.0, zoom_out), p=1.0), v2.Resize((height, width), antialias=True)]
    ratio = (0.8 * aspect, 1.25 * aspect)
    return v2.Compose(
        [
            *([PadTo(aspect)] if shape == "pad" else []),
            v2.RandomResizedCrop((height, width), scale=scale, ratio=ratio, antialias=True),
            *(shrink if zoom_out > 1 else []),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )


def eval_transform(size: Size, shape: Shape = "stretch") -> v2.Transform:
    """Resize to ``size``, so that every pixel is scored.

    Args:
        size: side of the output in pixels, or its height and width.
        shape: ``stretch`` does not keep the aspect ratio; ``pad`` does, with ignored pixels around.
    """
    height, width = sides(size)
    pad: list[v2.Transform] = [PadTo(width / height)] if shape == "pad" else []
    return v2.Compose([*pad, v2.Resize((height, width), antialias=True)])
