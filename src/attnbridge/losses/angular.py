"""ArcFace's margin, from PyTorch Metric Learning, on a classifier of the network's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Bounds, Positive, check_number
from attnbridge.errors import AttnBridgeError

_Margin = Annotated[float, Bounds(least=0, most=180)]


def angular_margin(classifier: nn.Module, margin: float, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A loss of features ``(B, D)`` and multi-hot labels ``(B, N)``, one class each.

    .. math:: -\log \frac{e^{s \cos(\theta_y + m)}}{e^{s \cos(\theta_y + m)} + \sum_{j \ne y} e^{s \cos \theta_j}}

    with :math:`\theta_j` the angle between the features and the classifier's weight of class j (Deng et al., CVPR 2019,
    Equation 3).

    Args:
        classifier: a linear layer; its weight is trained, its bias does not count.
        margin: :math:`m`, degrees, from 0 to 180.
        scale: :math:`s`, above 0.

    Raises:
        AttnBridgeError: if PyTorch Metric Learning is not installed, or the classifier is not linear.
    """
    if not isinstance(classifier, nn.Linear):
        raise AttnBridgeError(f"ArcFace needs a linear classifier, but this network has a {type(classifier).__name__}")
    check_number("margin", margin, _Margin)
    check_number("scale", scale, Positive)
    try:
        from pytorch_metric_learning.losses import ArcFaceLoss
    except ImportError:
        raise AttnBridgeError("ArcFace needs PyTorch Metric Learning; install attnbridge[faces]") from None
    loss: Any = ArcFaceLoss(classifier.out_features, classifier.in_features, margin=margin, scale=scale)
    del loss.W  # its own weight: the classifier's takes its place

    def angular(features: Tensor, labels: Tensor) -> Tensor:
        check_tensors(
            features=(features, f"B {classifier.in_features}"),
            labels=(labels, f"B {classifier.out_features}", "number"),
        )
        loss.W = classifier.weight.t()
        value: Tensor = loss(features, labels.argmax(1))
        return value

    return angular


@torch.no_grad()
def to_unit_length(classifier: nn.Module) -> None:
    """Bring a linear classifier's weights to unit length and its bias to 0: ArcFace's loss stays the same, and the
    plain logits then have the order of the cosines."""
    linear: Any = classifier
    linear.weight.copy_(F.normalize(linear.weight))
    if linear.bias is not None:
        linear.bias.zero_()
