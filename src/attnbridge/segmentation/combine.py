"""From class maps to label masks: the direct evaluation of AttnBN, Section 4.2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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

    >>> maps = torch.tensor([[[[0.9, 0.4]], [[0.5, 0.6]]]])
    >>> combine_maps(maps, torch.tensor([[0.8, 0.9]]), torch.tensor([[True, True]]), torch.tensor([0.55]))
    tensor([[[[1, 2]]]], dtype=torch.uint8)
    """
    background = torch.zeros(len(maps), 1, *maps.shape[2:], dtype=maps.dtype, device=maps.device)
    strength = (scores * present).to(maps.dtype)[:, :, None, None]
    labels = [torch.cat([background, strength * (maps > threshold)], dim=1).argmax(1) for threshold in thresholds]
    return torch.stack(labels).to(torch.uint8)


def enlarge_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps bilinearly to ``size`` and scale each to its own maximum; a map of zeros stays zero.

    >>> enlarge_maps(torch.full((1, 1, 2, 2), 3.0), (4, 4)).unique()
    tensor([1.])
    """
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-8)
