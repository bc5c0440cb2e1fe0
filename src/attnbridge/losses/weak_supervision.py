"""What a segmentation network learns from image labels and a few pixels: SEC and DSRG."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.bounds import UpToOne, check_number, check_value
from attnbridge.errors import check_choice

LEAST = 1e-4
"""What is added to every probability before it is brought back to a sum of 1, as in SEC's code, so that what is thought
impossible can be learned."""
CLIP = (0.05, 20.0)
"""Between what DSRG's code keeps the ratio of the refined probability to the network's."""


def seed_loss(probabilities: Tensor, seeds: Tensor, balanced: bool = True) -> Tensor:
    r"""How unlikely the network finds the seeds.

    .. math:: -\frac{1}{\sum_{c > 0} |S_c|} \sum_{c > 0} \sum_{u \in S_c} \log p_{u,c}
              - \frac{1}{|S_0|} \sum_{u \in S_0} \log p_{u,0}

    (Balanced: DSRG, Huang et al., CVPR 2018; else one mean over all seeds: SEC, Kolesnikov and Lampert, ECCV 2016.) The
    mean over images; an image without seeds of a kind counts 0 for it.

    Args:
        probabilities: ``(B, L, h, w)``, label 0 the background, those of a pixel summing to 1.
        seeds: bool ``(B, L, h, w)``.
        balanced: background and foreground are normalised apart.

    >>> seed_loss(torch.tensor([[[[0.5]], [[0.5]]]]), torch.tensor([[[[False]], [[True]]]]))
    tensor(0.6931)
    """
    check_value("balanced", balanced, bool)
    check_tensors(probabilities=(probabilities, "B L h w"), seeds=(seeds, "B L h w", "bool"))
    logs = torch.where(seeds, floored(probabilities).log(), 0).sum((2, 3))  # (B, L)
    counts = seeds.sum((2, 3))
    if not balanced:
        return -(logs.sum(1) / counts.sum(1).clamp_min(1)).mean()
    background = logs[:, 0] / counts[:, 0].clamp_min(1)
    foreground = logs[:, 1:].sum(1) / counts[:, 1:].sum(1).clamp_min(1)
    return -(background + foreground).mean()


class SeedLoss(nn.Module):
    """:func:`seed_loss` with its balance."""

    def __init__(self, balanced: bool = True) -> None:
        super().__init__()
        check_value("balanced", balanced, bool)
        self.balanced = balanced

    def forward(self, probabilities: Tensor, seeds: Tensor) -> Tensor:
        """See :func:`seed_loss`."""
        return seed_loss(probabilities, seeds, self.balanced)


def expansion_loss(
    probabilities: Tensor, labels: Tensor, foreground: float = 0.996, background: float = 0.999, absent: float = 0.0
) -> Tensor:
    r"""Whether the classes of an image are found in enough of it, the others nowhere: SEC's expansion loss.

    .. math:: -\frac{1}{|T|} \sum_{c \in T} \log G_c(d_+)
              - \frac{1}{|C \setminus T|} \sum_{c \notin T} \log(1 - G_c(d_-)) - \log G_0(d_0),

    .. math:: G_c(d) = \frac{\sum_j d^{j-1} p_{(j),c}}{\sum_j d^{j-1}}

    with :math:`p_{(1),c} \ge p_{(2),c} \ge \dots` (global weighted rank pooling; Kolesnikov and Lampert, ECCV
    2016). The mean over images.

    Args:
        probabilities: ``(B, L, h, w)``, label 0 the background.
        labels: ``(B, L - 1)``, which classes are in an image.
        foreground: :math:`d_+`; 1 is mean pooling, 0 max pooling.
        background: :math:`d_0`.
        absent: :math:`d_-`.

    Raises:
        AttnBridgeError: for labels of another number, or a decay outside [0, 1].
    """
    _check_decays(foreground, background, absent)
    check_tensors(probabilities=(probabilities, "B L h w"))
    classes = probabilities.shape[1] - 1
    check_tensors(probabilities=(probabilities, "B L h w"), labels=(labels, f"B {classes}", "number"))
    ranked = floored(probabilities).flatten(2).sort(2, descending=True).values  # (B, L, P)
    place = torch.arange(ranked.shape[2], device=ranked.device, dtype=ranked.dtype)

    def pooled(decay: float) -> Tensor:
        weights = torch.as_tensor(decay, device=ranked.device, dtype=ranked.dtype) ** place  # 0 ** 0 is 1
        return (ranked * weights).sum(2) / weights.sum()

    here = labels > 0
    there = torch.where(here, pooled(foreground)[:, 1:].log(), 0).sum(1) / here.sum(1).clamp_min(1)
    nowhere = torch.where(here, 0, (1 - pooled(absent)[:, 1:]).log()).sum(1) / (~here).sum(1).clamp_min(1)
    return -(there + nowhere + pooled(background)[:, 0].log()).mean()


class ExpansionLoss(nn.Module):
    """:func:`expansion_loss` with its decays."""

    def __init__(self, foreground: float = 0.996, background: float = 0.999, absent: float = 0.0) -> None:
        super().__init__()
        _check_decays(foreground, background, absent)
        self.foreground, self.background, self.absent = foreground, background, absent

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """See :func:`expansion_loss`."""
        return expansion_loss(probabilities, labels, self.foreground, self.background, self.absent)


def boundary_loss(probabilities: Tensor, refined: Tensor, published: Literal["sec", "dsrg"] | None = None) -> Tensor:
    r"""How far the network's answer is from what a CRF makes of it: SEC's and DSRG's constrain-to-boundary loss.

    .. math:: \frac1n \sum_u \sum_c Q_{u,c} \log \frac{Q_{u,c}}{p_{u,c}}

    (Kolesnikov and Lampert, ECCV 2016.) The mean over pixels and images.

    The authors' code raises what is below :data:`LEAST` in :math:`Q` to it (:func:`raised`). DSRG's
    (speedinghzl/DSRG, 91efdf7, pylayers.py:165 and :91) also clips the ratio to :data:`CLIP`, outside of which it has
    no gradient, and hands the gradient of :math:`\log Q` on to the network as if :math:`\partial \log Q_{u,c} /
    \partial p_{u,c} = 1 - Q_{u,c}`. SEC's (kolesman/SEC, c784190, pylayers.py:120 and :80) does neither.

    Args:
        probabilities: ``(B, L, h, w)``.
        refined: :math:`Q`, the same shape; gets no gradient.
        published: ``sec`` or ``dsrg``: as the code of that paper; ``None``: both probabilities get the same least one.

    Raises:
        AttnBridgeError: for tensors of different shapes, or another name of a paper.

    >>> same = torch.full((1, 2, 3, 3), 0.5)
    >>> boundary_loss(same, same)
    tensor(0.)
    """
    check_tensors(probabilities=(probabilities, "B L h w"), refined=(refined, "B L h w"))
    if published is not None:
        check_choice("published", published, ("sec", "dsrg"))
        return _boundary_as_published(floored(probabilities), raised(refined.detach()), published == "dsrg")
    wanted = floored(refined.detach())
    each = wanted * (wanted.log() - floored(probabilities).log())
    return each.sum(1).mean()


def _boundary_as_published(probabilities: Tensor, refined: Tensor, dsrg: bool) -> Tensor:
    if not dsrg:
        return (refined * (refined / probabilities).log()).sum(1).mean()
    logs = refined.log() + (1 - refined) * (probabilities - probabilities.detach())
    wanted = logs.exp()
    return (wanted * (wanted / probabilities).clamp(*CLIP).log()).sum(1).mean()


class BoundaryLoss(nn.Module):
    """:func:`boundary_loss` as a module."""

    forward = staticmethod(boundary_loss)


def floored(probabilities: Tensor) -> Tensor:
    """Probabilities ``(B, L, ...)`` that none of the labels lacks, in single precision at least: SEC's softmax, which
    adds :data:`LEAST` to each (kolesman/SEC, c784190, pylayers.py:28)."""
    least = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)) + LEAST
    return least / least.sum(1, keepdim=True)


def raised(probabilities: Tensor) -> Tensor:
    """Probabilities ``(B, L, ...)`` of which none is much below :data:`LEAST`: what SEC's and DSRG's code makes of
    what the CRF gives (speedinghzl/DSRG, 91efdf7, pylayers.py:85).

    >>> raised(torch.tensor([[0.0, 1.0]]))[0, 0] * (1 + LEAST)
    tensor(1.0000e-04)
    """
    enough = probabilities.clamp_min(LEAST)
    return enough / enough.sum(1, keepdim=True)


def _check_decays(foreground: float, background: float, absent: float) -> None:
    for name, decay in (("foreground", foreground), ("background", background), ("absent", absent)):
        check_number(name, decay, UpToOne)
