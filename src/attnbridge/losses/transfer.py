"""What a student takes from a teacher: where it looks, what it answers, what it computes on the way."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Positive, check_number
from attnbridge.errors import AttnBridgeError, check_choice

Statistic = Literal["sum", "sum_power", "max_power"]
Variant = Literal["paper", "code"]


def mean_activation_map(features: Tensor, statistic: Statistic = "sum_power", power: float = 2.0) -> Tensor:
    r"""Where a layer is active, whatever the class.

    .. math:: F_{sum} = \sum_i |A_i|, \quad F_{sum}^p = \sum_i |A_i|^p, \quad F_{max}^p = \max_i |A_i|^p

    (Section 3.1 of attention transfer, Zagoruyko and Komodakis, ICLR 2017.) Here the mean over channels stands for the
    sum: networks of other widths are then of one scale, and what follows is free of it.

    Args:
        features: ``(B, C, h, w)``.
        statistic: over the channels.
        power: :math:`p` of the two that have one, above 0.

    Returns:
        ``(B, h, w)``, not negative.

    >>> mean_activation_map(torch.tensor([[[[1.0]], [[-3.0]]]]))
    tensor([[[5.]]])
    """
    _check_statistic(statistic, power)
    check_tensors(features=(features, "B C h w"))
    if statistic == "sum":
        return features.abs().mean(1)
    if statistic == "sum_power":
        if power == 2:  # a norm keeps no squares of all channels in memory
            norms: Tensor = torch.linalg.vector_norm(features, dim=1)
            return norms.square() / features.shape[1]
        return features.abs().pow(power).mean(1)
    return features.abs().amax(1).pow(power)


def attention_transfer_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    variant: Variant = "code",
    statistic: Statistic = "sum_power",
    power: float = 2.0,
) -> Tensor:
    r"""Distance of a student's attention map to its teacher's, of one pair of layers.

    .. math:: \text{paper:}\ \tfrac12 \Bigl\| \tfrac{Q_S}{\|Q_S\|_2} - \tfrac{Q_T}{\|Q_T\|_2} \Bigr\|_2, \qquad
              \text{code:}\ \tfrac1{hw} \Bigl\| \tfrac{Q_S}{\|Q_S\|_2} - \tfrac{Q_T}{\|Q_T\|_2} \Bigr\|_2^2

    (``paper``: Equation 2, Zagoruyko and Komodakis, ICLR 2017; ``code``: what the authors published.) Averaged over the
    images; the weight :math:`\beta` is the paper's, 1000 for ``code``.

    Args:
        student: ``(B, C, h, w)``.
        teacher: ``(B, C', h', w')``; gets no gradient. The larger map is averaged down to the smaller.
        variant: of the distance.
        statistic: see :func:`mean_activation_map`.
        power: see :func:`mean_activation_map`.

    Returns:
        A scalar, not negative; it does not change when either side is multiplied by a number.

    Raises:
        AttnBridgeError: for features that are no maps, or batches of different sizes.

    >>> same = torch.rand(2, 3, 4, 4)
    >>> attention_transfer_loss(same, torch.cat([same, same], 1), variant="paper").item() < 1e-6
    True
    """
    check_choice("variant", variant, get_args(Variant))
    _check(student, teacher)
    ours, theirs = _one_size(
        mean_activation_map(student, statistic, power), mean_activation_map(teacher.detach(), statistic, power)
    )
    difference = F.normalize(ours.flatten(1)) - F.normalize(theirs.flatten(1))
    if variant == "code":
        return difference.square().mean()
    return _half_norm(difference)


class AttentionTransferLoss(nn.Module):
    """:func:`attention_transfer_loss` with its settings."""

    def __init__(self, variant: Variant = "code", statistic: Statistic = "sum_power", power: float = 2.0) -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        _check_statistic(statistic, power)
        self.variant: Variant = variant
        self.statistic: Statistic = statistic
        self.power = power

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`attention_transfer_loss`."""
        return attention_transfer_loss(
            student, teacher, variant=self.variant, statistic=self.statistic, power=self.power
        )


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of a student's features to its teacher's, channel by channel.

    .. math:: \tfrac12 \| r(F_S) - F_T \|_2^2

    (FitNets, Romero et al., ICLR 2015, Equation 3, here the mean over channels and positions; on every group of layers
    it is the full-activation transfer that attention transfer is compared with.)

    Args:
        student: ``(B, C, h, w)``, after the regressor :math:`r` where the channels differ.
        teacher: ``(B, C, h', w')``; gets no gradient. The larger is averaged down to the smaller.

    Raises:
        AttnBridgeError: for features that do not fit each other.

    >>> hint_loss(torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 4, 4))
    tensor(0.5000)
    """
    _check(student, teacher)
    if student.shape[1] != teacher.shape[1]:
        raise AttnBridgeError(
            f"the student's features have {student.shape[1]} channels, the teacher's {teacher.shape[1]}; bring them to "
            "one number with a 1x1 convolution"
        )
    ours, theirs = _one_size(student, teacher.detach())
    return (ours - theirs).square().mean() / 2


class HintLoss(nn.Module):
    """:func:`hint_loss` as a module."""

    forward = staticmethod(hint_loss)


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    r"""Divergence of softened answers.

    .. math:: T^2\, KL\bigl(\mathrm{softmax}(z_T / T) \,\|\, \mathrm{softmax}(z_S / T)\bigr)

    (Hinton, Vinyals, Dean, 2015.) Averaged over the images.

    Args:
        student: logits ``(B, N)``.
        teacher: logits ``(B, N)``; get no gradient.
        temperature: :math:`T`, above 0.

    Raises:
        AttnBridgeError: for logits of different shapes, or a temperature that is not above 0.

    >>> kd_loss(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor(0.)
    """
    check_number("temperature", temperature, Positive)
    check_tensors(student=(student, "B N"), teacher=(teacher, "B M"))
    if student.shape != teacher.shape:
        raise AttnBridgeError(
            f"the student's logits are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; both must "
            "have the same classes"
        )
    ours, theirs = (F.log_softmax(z / temperature, 1) for z in (student, teacher.detach()))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


class KDLoss(nn.Module):
    """:func:`kd_loss` with its temperature."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        check_number("temperature", temperature, Positive)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`kd_loss`."""
        return kd_loss(student, teacher, self.temperature)


def gradient_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of what two networks are sensitive to.

    .. math:: \tfrac12 \| J_S - J_T \|_2, \qquad J = \frac{\partial L(W, x)}{\partial x}

    (Equation 5 of attention transfer, Zagoruyko and Komodakis, ICLR 2017.) Averaged over the images. Its gradient is
    of second order: ``student`` must come from :func:`per_sample_input_gradient` with ``create_graph``.

    Args:
        student: ``(B, 3, H, W)``.
        teacher: the same shape; gets no gradient. For the symmetry loss: the student's own, of mirrored images,
            mirrored back; see :func:`symmetry`.

    >>> gradient_transfer_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, 4.0]]]]))
    tensor(2.5000)
    """
    check_tensors(student=(student, "B C H W"), teacher=(teacher, "B C H W"))
    return _half_norm(student - teacher.detach())


class GradientTransferLoss(nn.Module):
    """:func:`gradient_transfer_loss` as a module."""

    forward = staticmethod(gradient_transfer_loss)


def symmetry_loss(gradient: Tensor, mirrored: Tensor) -> Tensor:
    r"""Distance of what a network is sensitive to in an image and in its mirror image.

    .. math:: \tfrac12 \Bigl\| \frac{\partial L(W, x)}{\partial x} -
              \mathrm{flip}\Bigl(\frac{\partial L(W, \mathrm{flip}(x))}{\partial\, \mathrm{flip}(x)}\Bigr) \Bigr\|_2

    (Section 3.2 of attention transfer.) Averaged over the images; both sides get a gradient.

    Args:
        gradient: of the image, ``(B, 3, H, W)``.
        mirrored: of the image mirrored left to right, as it comes.

    >>> symmetry_loss(torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]]))
    tensor(0.)
    """
    check_tensors(gradient=(gradient, "B C H W"), mirrored=(mirrored, "B C H W"))
    return _half_norm(gradient - mirrored.flip(-1))


class SymmetryLoss(nn.Module):
    """:func:`symmetry_loss` as a module."""

    forward = staticmethod(symmetry_loss)


def per_sample_input_gradient(loss: Tensor, images: Tensor, *, create_graph: bool = False) -> Tensor:
    """Gradient of each image's own loss with respect to it, ``(B, 3, H, W)``.

    Args:
        loss: ``(B,)``, of a network without batch statistics, so that no image's loss depends on another's.
        images: that require a gradient.
        create_graph: keep the graph, as a loss on the gradient needs.

    Raises:
        AttnBridgeError: for another shape, images that require no gradient, or a loss that does not depend on them.
    """
    check_tensors(loss=(loss, "B"), images=(images, "B ..."))
    if not (images.requires_grad and loss.requires_grad):
        without = "loss" if images.requires_grad else "images"
        raise AttnBridgeError(f"{without}: carries no gradient; compute the loss with autograd on, from images that do")
    (gradient,) = torch.autograd.grad(loss.sum(), images, create_graph=create_graph, allow_unused=True)
    if gradient is None:
        raise AttnBridgeError("loss does not depend on images; give the images that it was computed from")
    return gradient


def _half_norm(difference: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1)
    return norms.mean() / 2


def _check(student: Tensor, teacher: Tensor) -> None:
    check_tensors(student=(student, "B C h w"), teacher=(teacher, "b c y x"))
    if len(student) != len(teacher):
        raise AttnBridgeError(f"the student saw {len(student)} images, the teacher {len(teacher)}")


def _one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """The larger one averaged down to the smaller, each side by itself."""
    size = (min(ours.shape[-2], theirs.shape[-2]), min(ours.shape[-1], theirs.shape[-1]))
    pooled = [x if x.shape[-2:] == size else F.adaptive_avg_pool2d(x, size) for x in (ours, theirs)]
    return pooled[0], pooled[1]


def _check_statistic(statistic: Statistic, power: float) -> None:
    check_choice("statistic", statistic, get_args(Statistic))
    check_number("power", power, Positive)
