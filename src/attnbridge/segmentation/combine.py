"""From class maps to label masks: the direct evaluation of AttnBN, Section 4.2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.arguments import check_tensors
from attnbridge.bounds import MapSize, check_value
from attnbridge.errors import AttnBridgeError

LABELS = 255
"""Values of a mask in 8 bits, but for the one that is ignored."""


def combine_maps(maps: Tensor, scores: Tensor, present: Tensor, thresholds: Tensor) -> Tensor:
    """Label masks from the class maps of the classes that are present.

    A class covers a pixel where its map exceeds the threshold; where several do, the class with the
    largest score wins; where none does, it is background. No post-processing.

    Args:
        maps: ``(B, N, H, W)``, each map scaled to its own maximum, in [0, 1].
        scores: ``(B, N)`` in (0, 1).
        present: bool ``(B, N)``, the classes taken to be in the image.
        thresholds: ``(T,)`` in [0, 1).

    Returns:
        uint8 ``(T, B, H, W)``: 0 background, class index + 1.

    Raises:
        AttnBridgeError: for shapes that do not fit each other, or more classes than 8 bits have values for.

    >>> maps = torch.tensor([[[[0.9, 0.4]], [[0.5, 0.6]]]])
    >>> combine_maps(maps, torch.tensor([[0.8, 0.9]]), torch.tensor([[True, True]]), torch.tensor([0.55]))
    tensor([[[[1, 2]]]], dtype=torch.uint8)
    """
    check_tensors(
        empty=True,
        maps=(maps, "B N H W"),
        scores=(scores, "B N"),
        present=(present, "B N", "bool"),
    )
    check_tensors(thresholds=(thresholds, "T"))
    if maps.shape[1] >= LABELS:
        raise AttnBridgeError(f"maps are of {maps.shape[1]} classes, but a mask in 8 bits has room for {LABELS - 1}")
    background = torch.zeros(len(maps), 1, *maps.shape[2:], dtype=maps.dtype, device=maps.device)
    strength = (scores * present).to(maps.dtype)[:, :, None, None]
    labels = [torch.cat([background, strength * (maps > threshold)], dim=1).argmax(1) for threshold in thresholds]
    return torch.stack(labels).to(torch.uint8)


def enlarge_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps ``(B, N, h, w)`` bilinearly to ``size`` and scale each to its own maximum; zeros stay zero.

    >>> enlarge_maps(torch.full((1, 1, 2, 2), 3.0), (4, 4)).unique()
    tensor([1.])
    """
    check_tensors(empty=True, maps=(maps, "B N h w"))
    check_value("size", size, MapSize)
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-8)
