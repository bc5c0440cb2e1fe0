"""Classification losses on image labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.arguments import check_tensors


def multi_label_soft_margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Binary cross-entropy of each class, averaged over classes and images.

    .. math:: L_{cl} = -\frac{1}{N} \sum_j l_j \log \sigma(o_j) + (1 - l_j) \log (1 - \sigma(o_j))

    (Equation 4 of AttnBN, Li et al., ICCV 2019, which prints the minus sign before the first term only
    and leaves sum or mean over the classes open; the mean is PyTorch's ``MultiLabelSoftMarginLoss``.)

    Args:
        logits: ``(B, N)``.
        labels: multi-hot ``(B, N)``.

    Returns:
        A scalar, not negative.

    Raises:
        AttnBridgeError: if the shapes differ, or the batch is empty.

    >>> import torch
    >>> multi_label_soft_margin_loss(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(0.6931)
    """
    check_tensors(logits=(logits, "B N"), labels=(labels, "B N", "number"))
    return F.multilabel_soft_margin_loss(logits, labels.to(logits.dtype))


class MultiLabelSoftMarginLoss(nn.Module):
    """:func:`multi_label_soft_margin_loss` as a module."""

    forward = staticmethod(multi_label_soft_margin_loss)
