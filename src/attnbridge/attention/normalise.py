"""After a map is made: its range, its size, several layers in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.errors import AttnBridgeError, check_choice

Normalise = Literal["none", "max", "minmax", "sigmoid"]


def normalise_maps(maps: Tensor, mode: Normalise = "none", eps: float = 1e-8) -> Tensor:
    """Bring each map to a range of its own.

    Args:
        maps: ``(..., H, W)``.
        mode: ``none`` leaves them; ``max`` divides by the map's maximum (a map without positive evidence
            becomes 0); ``minmax`` maps minimum and maximum to 0 and 1; ``sigmoid`` squashes each value.
        eps: the least that is divided by.

    >>> normalise_maps(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "max")
    tensor([[0.2500, 0.5000],
            [0.7500, 1.0000]])
    """
    check_choice("normalise", mode, get_args(Normalise))
    if mode == "none":
        return maps
    if mode == "sigmoid":
        return maps.sigmoid()
    high = maps.amax((-2, -1), keepdim=True)
    low = maps.amin((-2, -1), keepdim=True) if mode == "minmax" else torch.zeros_like(high)
    return (maps - low) / (high - low).clamp_min(eps)


def resize_maps(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Bilinear to ``size``, a height and a width or both at once; ``(B, K, h, w)`` to ``(B, K, H, W)``.

    >>> resize_maps(torch.ones(1, 2, 3, 3), (4, 6)).shape
    torch.Size([1, 2, 4, 6])
    """
    wanted = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(maps.shape[2:]) == wanted:
        return maps
    return F.interpolate(maps, wanted, mode="bilinear", align_corners=False)


def fuse_maps(maps: Sequence[Tensor], how: Literal["max", "mean"] = "max") -> Tensor:
    """One map from those of several layers: each to its own maximum, enlarged to the finest, pixelwise maximum.

    (The fusion of LayerCAM, Jiang et al., TIP 2021, without its scaling by tanh.)

    Args:
        maps: ``(B, K, h, w)`` of each layer.
        how: pixelwise ``max`` or ``mean``.

    Returns:
        ``(B, K, H, W)`` at the largest of the sizes.

    >>> fuse_maps([torch.ones(1, 1, 2, 2), torch.eye(4)[None, None]]).mean().item()
    1.0
    """
    if how not in ("max", "mean"):
        raise AttnBridgeError(f"maps are fused by max or mean, not {how!r}")
    height, width = max(m.shape[2] for m in maps), max(m.shape[3] for m in maps)
    same = torch.stack([resize_maps(normalise_maps(m, "max"), (height, width)) for m in maps])
    return same.amax(0) if how == "max" else same.mean(0)
