"""Geometry shared by image, saliency and mask: torchvision's transforms v2 over tv_tensors."""

from __future__ import annotations

import torch
from torchvision.transforms import v2


def train_transform(size: int, scale: tuple[float, float] = (0.5, 1.0)) -> v2.Transform:
    """Random resized crop, horizontal flip and mild colour jitter, to ``size`` x ``size`` pixels.

    Args:
        size: side of the output in pixels.
        scale: lower and upper bound of the crop's share of the picture's area.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=scale, ratio=(0.8, 1.25), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def eval_transform(size: int) -> v2.Transform:
    """Resize to ``size`` x ``size`` pixels, aspect ratio not kept, so that every pixel is scored."""
    return v2.Compose([v2.Resize((size, size), antialias=True), v2.ToDtype(torch.float32, scale=True)])
