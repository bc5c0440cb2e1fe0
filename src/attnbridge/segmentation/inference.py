"""From a segmentation network to masks: several scales, mirrored, refined by a dense CRF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.arguments import came, check_tensors
from attnbridge.bounds import Scale, check_value
from attnbridge.errors import AttnBridgeError, check_choice, shown
from attnbridge.segmentation.crf import CRF, mean_field

Network = Callable[[Tensor], Tensor]
"""From images ``(B, 3, H, W)`` in [0, 1] to probabilities of the labels, ``(B, L, h, w)``."""
Combine = Literal["mean", "logits"]
LEAST = 1e-5
"""Least probability that the CRF is given of summed logits, as in DSRG's code (test-ms.py:102)."""


@dataclass(frozen=True)
class Inference:
    """How masks are made.

    Attributes:
        scales: multiples of the images' size whose answers are averaged; the published ones are 241, 321 and 401
            pixels of 321.
        flip: average with those of the mirrored images.
        crf: refine the average by a dense CRF.
        combine: ``mean`` of the probabilities; ``logits``: the logits are enlarged and summed, as in DSRG's code
            (speedinghzl/DSRG, 91efdf7, test-ms.py:90-103).
        corners: answers are enlarged with the centres of their outer positions on those of the outer pixels, where
            those of DeepLab's VGG16 are; else with their outer edges on those of the image.
    """

    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    flip: bool = True
    crf: bool = True
    combine: Combine = "mean"
    corners: bool = False

    def __post_init__(self) -> None:
        check_choice("combine", self.combine, get_args(Combine))
        check_value("scales", self.scales, Sequence[Scale])


@torch.no_grad()
def infer(network: Network, images: Tensor, how: Inference | None = None) -> Tensor:
    """Probabilities of the labels at the images' own resolution.

    Args:
        network: what to ask.
        images: ``(B, 3, H, W)`` in [0, 1].
        how: scales, mirroring, CRF.

    Raises:
        AttnBridgeError: for a scale at which the network takes no images, images that are not floats, or answers that
            are no finite probabilities.

    Returns:
        ``(B, L, H, W)``, the labels of a pixel sum to 1.

    >>> constant = lambda x: torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(len(x), 2, 3, 3)
    >>> infer(constant, torch.rand(1, 3, 8, 8)).argmax(1).unique()
    tensor([0])
    """
    how = how or Inference()
    if not callable(network):
        raise AttnBridgeError(f"network must be a function from images to probabilities, not {came(network)}")
    if not isinstance(how, Inference):
        raise AttnBridgeError(f"how must be an Inference, as Inference(flip=False), not {shown(how)}")
    check_tensors(images=(images, "B 3 H W"))
    size = (images.shape[2], images.shape[3])
    answers = []
    for scale in how.scales:
        sides = [max(1, round(scale * side)) for side in size]
        scaled = images if scale == 1 else F.interpolate(images, sides, mode="bilinear", antialias=True)
        try:
            answers.append(_enlarged(_answer(network, scaled), size, how))
        except AssertionError as error:  # timm's transformers take one size
            raise AttnBridgeError(
                f"the network takes no images of {sides[0]} x {sides[1]} pixels ({error}); set evaluation.scales to "
                "[1.0]"
            ) from None
        if how.flip:
            answers.append(_enlarged(_answer(network, scaled.flip(3)), size, how).flip(3))
    if how.combine == "logits":
        probabilities = torch.stack(answers).sum(0).softmax(1).clamp_min(LEAST)
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    else:
        probabilities = torch.stack(answers).mean(0)
    if not bool(probabilities.isfinite().all()):
        raise AttnBridgeError("the network's probabilities are not finite; look for NaN in its weights or the images")
    if not how.crf:
        return probabilities
    return mean_field((images.clamp(0, 1) * 255).round().byte(), probabilities, CRF.of_size(*size))


def _answer(network: Network, images: Tensor) -> Tensor:
    probabilities = network(images)
    check_tensors(images=(images, "B 3 H W"), probabilities=(probabilities, "B L h w"))
    return probabilities


def _enlarged(probabilities: Tensor, size: tuple[int, int], how: Inference) -> Tensor:
    """Probabilities, or, up to a number of each pixel's own, their logits."""
    if how.combine == "logits":
        probabilities = probabilities.float().clamp_min(torch.finfo(torch.float32).tiny).log()
    return F.interpolate(probabilities, size, mode="bilinear", align_corners=how.corners)


def enlarged(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinearly, ``(B, L, h, w)`` to ``(B, L, H, W)``."""
    return F.interpolate(probabilities, size, mode="bilinear", align_corners=False)
