"""Seeded region growing: what is connected with a seed, and that the network is sure of, becomes a seed (DSRG)."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from attnbridge.arguments import check_tensors
from attnbridge.bounds import UpToOne, check_number, check_value
from attnbridge.errors import AttnBridgeError

EIGHT = np.zeros((3, 3, 3), dtype=bool)
EIGHT[1] = True  # neighbours in a plane, none in the next


def grow_seeds(
    probabilities: Tensor,
    seeds: Tensor,
    labels: Tensor,
    background: float = 0.99,
    foreground: float = 0.85,
    overruled: bool = False,
) -> Tensor:
    """Seeds and all that grows from them.

    A pixel that is no seed joins a label's region where the label is the most probable of those in the image, its
    probability exceeds the label's threshold, and it is 8-connected with a seed of the label over pixels of which the
    same is true, or seeds of it; a seed of another label is never taken (Huang et al., Deep seeded region growing, CVPR
    2018; from the original seeds each time). SciPy finds the components.

    The published code (speedinghzl/DSRG, 91efdf7, pylayers.py:237-274) lets what is sure overrule seeds
    (``overruled``): where another label is, a seed stays one, but nothing grows from it, and the other label grows
    past it, though not into it.

    Args:
        probabilities: ``(B, L, h, w)``, label 0 the background; no gradient is recorded.
        seeds: bool ``(B, L, h, w)``.
        labels: ``(B, L - 1)``, which classes are in an image; seeds of others are left out.
        background: threshold of label 0.
        foreground: of the others.
        overruled: as the published code does it.

    Returns:
        Bool ``(B, L, h, w)``, on the device of ``seeds``.

    Raises:
        AttnBridgeError: for shapes that do not fit each other, seeds that are not bool, or thresholds outside [0, 1].

    >>> probabilities = torch.tensor([[[[0.1, 0.1, 0.6, 0.1]], [[0.9, 0.9, 0.4, 0.9]]]])
    >>> seeds = torch.tensor([[[[False, False, False, False]], [[True, False, False, False]]]])
    >>> grow_seeds(probabilities, seeds, torch.ones(1, 1))[0, 1, 0]
    tensor([ True,  True, False, False])
    """
    check_number("background", background, UpToOne)
    check_number("foreground", foreground, UpToOne)
    check_value("overruled", overruled, bool)
    check_tensors(
        empty=True,
        probabilities=(probabilities, "B L h w"),
        seeds=(seeds, "b l y x", "bool"),
        labels=(labels, "c n", "number"),
    )
    if probabilities.shape != seeds.shape or labels.shape != (len(seeds), seeds.shape[1] - 1):
        raise AttnBridgeError(
            f"probabilities {tuple(probabilities.shape)} and seeds {tuple(seeds.shape)} must have one shape "
            f"(B, L, h, w), and labels {tuple(labels.shape)} the shape (B, L - 1)"
        )
    present = torch.nn.functional.pad(labels > 0, (1, 0), value=True)
    shown = probabilities.detach() * present[:, :, None, None]
    best = shown.argmax(1, keepdim=True)
    thresholds = torch.full((seeds.shape[1], 1, 1), foreground, device=seeds.device)
    thresholds[0] = background
    sure = torch.zeros_like(seeds).scatter_(1, best, True) & (shown > thresholds)
    own = seeds & present[:, :, None, None]
    if overruled:
        free = own & ~sure.any(1, keepdim=True)
        grown = _connected(sure | free, own)
        return own | (grown & ~(seeds.sum(1, keepdim=True) == 1))
    return _connected((sure & ~seeds.any(1, keepdim=True)) | own, own)  # a seed of one label is not taken by another


def _connected(open_to: Tensor, own: Tensor) -> Tensor:
    """The components of what is open, each label and image apart, that hold a seed."""
    parts, count = ndimage.label(open_to.flatten(0, 1).cpu().numpy(), structure=EIGHT)
    reached = np.zeros(count + 1, dtype=bool)
    reached[parts[own.flatten(0, 1).cpu().numpy()]] = True
    reached[0] = False
    return torch.from_numpy(reached[parts]).view(own.shape).to(own.device)
