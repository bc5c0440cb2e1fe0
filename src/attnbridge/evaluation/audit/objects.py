"""What can be measured of an object's mask, alone and beside its image and its map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from attnbridge.evaluation.audit.tables import Doubt
from attnbridge.evaluation.audit.thresholds import LEAST_AREA, MOST_AREA, MOST_FRAME, PART


def find_doubt(area: float, parts: int, frame: float, any_object: bool, drawn: bool) -> Doubt | None:
    """Why an object says nothing, if so; of one that a person drew, only whether it is there and not all."""
    if area < LEAST_AREA or not any_object:
        return Doubt.NOTHING
    if area > MOST_AREA:
        return Doubt.ALL
    if not drawn and frame > MOST_FRAME:
        return Doubt.FRAME
    return Doubt.SEVERAL if not drawn and parts > 1 else None


def inside_share(map_: Tensor, thing: Tensor) -> float | None:
    """Share of a map ``(H, W)`` inside a soft mask ``(H, W)``; ``None`` for a map without anything.

    >>> inside_share(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    0.75
    """
    total = map_.double().sum()
    return float((map_.double() * thing).sum() / total) if total > 0 else None


def count_parts(thing: np.ndarray[Any, Any]) -> int:
    """Separate 8-connected parts of at least the share PART of the largest.

    >>> count_parts(np.array([[True, True, False, True]])), count_parts(np.zeros((2, 2), bool))
    (2, 0)
    """
    labels, _ = ndimage.label(thing, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    return int((sizes >= PART * sizes.max()).sum()) if len(sizes) else 0


def frame_share(thing: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]) -> float:
    """Share of the frame, one pixel wide, that an object covers.

    >>> frame_share(np.array([[True, False], [True, False]]), np.ones((2, 2), bool))
    0.5
    """
    frame = valid & ~ndimage.binary_erosion(valid, np.ones((3, 3)))
    return float(thing[frame].mean()) if frame.any() else 0.0


def outline_fit(image: Tensor, thing: Tensor, valid: Tensor) -> float | None:
    r"""How much stronger the image's edges are along an object's outline than on the whole image; 1 is chance.

    .. math:: \frac{\sum_p |\nabla S|_p |\nabla I|_p / \sum_p |\nabla S|_p}{\frac{1}{HW} \sum_p |\nabla I|_p}

    Saliency that belongs to the image has its outline on edges; that of another image, or of a texture, has not.

    Args:
        image: ``(3, H, W)``.
        thing: soft mask ``(H, W)``.
        valid: bool ``(H, W)``, where the image is.

    Returns:
        ``None`` for a mask without outline, or an image without edges.
    """
    counted = (valid & ~_dilated(~valid)).double()
    edges, outline = (_slope(each) * counted for each in (image, thing[None]))
    if outline.sum() == 0 or edges.sum() == 0:
        return None
    return float((outline * edges).sum() / outline.sum() / (edges.sum() / counted.sum()))


def _dilated(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0


def _slope(values: Tensor) -> Tensor:
    """Length of the gradient of ``(C, H, W)``, by central differences, all channels together: ``(H, W)``."""
    padded = F.pad(values[None].double(), (1, 1, 1, 1), mode="replicate")[0]
    down, right = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    return (down**2 + right**2).sum(0).sqrt()


def soft_iou(one: Tensor, other: Tensor) -> float | None:
    """Sum of the smaller over the sum of the larger of two soft masks; ``None`` where both are empty.

    >>> soft_iou(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.5]))
    0.5
    """
    both = torch.maximum(one, other).double().sum()
    return float(torch.minimum(one, other).double().sum() / both) if both > 0 else None
