"""Geometry shared by image, saliency and mask: torchvision's transforms v2 over tv_tensors."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

Size = int | tuple[int, int]
Shape = Literal["stretch", "pad"]


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
    """Pad at right and left, or above and below, to an aspect ratio: grey around the picture, 0 around its saliency,
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
        wide, high = max(0, round(height * self.aspect) - width), max(0, round(width / self.aspect) - height)
        return {"padding": [wide // 2, high // 2, wide - wide // 2, high - high // 2]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        fill = 0 if isinstance(inpt, Saliency) else 255 if isinstance(inpt, tv_tensors.Mask) else 116
        return TF.pad(inpt, params["padding"], fill=fill)


def train_transform(size: Size, scale: tuple[float, float] = (0.5, 1.0), shape: Shape = "stretch") -> v2.Transform:
    """Random resized crop, horizontal flip and mild colour jitter.

    Args:
        size: side of the output in pixels, or its height and width.
        scale: lower and upper bound of the crop's share of the picture's area.
        shape: ``stretch`` brings the crop to ``size``, its aspect ratio not kept beyond a quarter; ``pad`` keeps it,
            and pads the picture first.
    """
    height, width = sides(size)
    aspect = width / height
    ratio = (0.8 * aspect, 1.25 * aspect)
    return v2.Compose(
        [
            *([PadTo(aspect)] if shape == "pad" else []),
            v2.RandomResizedCrop((height, width), scale=scale, ratio=ratio, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.ToDtype(torch.float32, scale=True),
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
    return v2.Compose([*pad, v2.Resize((height, width), antialias=True), v2.ToDtype(torch.float32, scale=True)])
