"""Classification losses on image labels."""

from __future__ import annotations

from typing import get_args

import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.errors import check_choice
from attnbridge.losses.attention import Reduction


def multi_label_soft_margin_loss(logits: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
    r"""Binary cross-entropy of each class, averaged over classes and images.

    .. math:: L_{cl} = -\frac{1}{N} \sum_j l_j \log \sigma(o_j) + (1 - l_j) \log (1 - \sigma(o_j))

    (Equation 4 of AttnBN, Li et al., ICCV 2019, which prints the minus sign before the first term only, and a sum over
    the classes; the mean is PyTorch's ``MultiLabelSoftMarginLoss``.)

    Args:
        logits: ``(B, N)``.
        labels: multi-hot ``(B, N)``.
        reduction: over the classes; over the images it is always the mean.

    Returns:
        A scalar, not negative.

    Raises:
        AttnBridgeError: if the shapes differ, the batch is empty, or the reduction is none.

    >>> import torch
    >>> multi_label_soft_margin_loss(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(0.6931)
    """
    check_choice("reduction", reduction, get_args(Reduction))
    check_tensors(logits=(logits, "B N"), labels=(labels, "B N", "number"))
    mean = F.multilabel_soft_margin_loss(logits, labels.to(logits.dtype))
    return mean * logits.shape[1] if reduction == "sum" else mean


class MultiLabelSoftMarginLoss(nn.Module):
    """:func:`multi_label_soft_margin_loss` with its reduction."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :func:`multi_label_soft_margin_loss`."""
        return multi_label_soft_margin_loss(logits, labels, self.reduction)
