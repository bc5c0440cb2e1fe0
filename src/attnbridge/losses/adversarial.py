"""The domain discriminator's loss and the loss that fools it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.arguments import check_tensors


def discriminator_loss(source: Tensor, target: Tensor) -> Tensor:
    r"""Cross-entropy of telling source (1) from target (0).

    .. math:: L_d = -\log D(F_s) - \log (1 - D(F_t))

    Equation 5 of AttnBN (Li et al., ICCV 2019) prints :math:`\log D(F_t)` for the second term, which
    would reward the same answer for both; this is the reading that agrees with its equation 6.

    Args:
        source: the discriminator's logits on source features, any shape.
        target: the same on target features.

    Returns:
        A scalar; 2 log 2 = 1.386 for a discriminator that cannot tell. The sum of two means, so that the
        value depends neither on the batch size nor on how many of it come from which domain.

    >>> import torch
    >>> discriminator_loss(torch.zeros(2, 1, 2, 2), torch.zeros(3, 1, 2, 2))
    tensor(1.3863)
    """
    check_tensors(source=(source, "..."), target=(target, "..."))
    return F.softplus(-source).mean() + F.softplus(target).mean()


class DiscriminatorLoss(nn.Module):
    """:func:`discriminator_loss` as a module."""

    forward = staticmethod(discriminator_loss)


def adversarial_loss(target: Tensor) -> Tensor:
    r"""How well the target's features pass for source features.

    .. math:: L_{adv} = -\log D(F_t)

    (Equation 6 of AttnBN.)

    Args:
        target: the discriminator's logits on target features, any shape.

    >>> import torch
    >>> adversarial_loss(torch.zeros(2, 1, 2, 2))
    tensor(0.6931)
    """
    check_tensors(target=(target, "..."))
    return F.softplus(-target).mean()


class AdversarialLoss(nn.Module):
    """:func:`adversarial_loss` as a module."""

    forward = staticmethod(adversarial_loss)
