"""What fine-tuning keeps of the network that it starts from: features where they matter, weights, spectra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from attnbridge.arguments import came, check_tensors
from attnbridge.bounds import Count, check_number
from attnbridge.errors import AttnBridgeError, DivergedError, check_choice
from attnbridge.losses.transfer import Variant


class SpatialAttention(nn.Module):
    r"""Which positions of the source's features matter: the attentive module of AFA's first stage.

    .. math:: a = \mathrm{softmax}\bigl(W_2\, \mathrm{ReLU}(W_1\, \tfrac1C \sum_j F_s^j) + b\bigr)

    with :math:`W_1` from HW to H (Xie et al., Neural Networks 2021; the bias as in their code).

    Args:
        height: H of the features.
        width: their W.

    >>> weights = SpatialAttention(3, 2)(torch.rand(4, 8, 3, 2))
    >>> weights.shape, torch.allclose(weights.sum((1, 2)), torch.ones(4))
    (torch.Size([4, 3, 2]), True)
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        check_number("height", height, Count)
        check_number("width", width, Count)
        self.size = f"{height} {width}"
        self.squeeze = nn.Linear(height * width, height, bias=False)
        self.expand = nn.Linear(height, height * width)

    def forward(self, features: Tensor) -> Tensor:
        """Weights ``(B, h, w)`` of features ``(B, C, h, w)``; those of an image sum to 1."""
        check_tensors(features=(features, f"B C {self.size}"))
        scores: Tensor = self.expand(self.squeeze(features.mean(1).flatten(1)).relu())
        return scores.softmax(1).view(len(features), *features.shape[2:])


class ChannelAttention(nn.Module):
    r"""Which channels of the source's features matter: the attentive module of AFA's second stage.

    .. math:: a_j = \mathrm{softmax}_j\bigl(W_2\, \mathrm{ReLU}(W_1 F_s^j) + b_j\bigr)

    with :math:`W_1` from HW to H, the same for all channels (Xie et al., Neural Networks 2021; the biases as in their
    code).

    Args:
        channels: C of the features.
        height: their H.
        width: their W.

    >>> weights = ChannelAttention(8, 3, 2)(torch.rand(4, 8, 3, 2))
    >>> weights.shape, torch.allclose(weights.sum(1), torch.ones(4))
    (torch.Size([4, 8]), True)
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        for name, count in (("channels", channels), ("height", height), ("width", width)):
            check_number(name, count, Count)
        self.size = f"{channels} {height} {width}"
        self.squeeze = nn.Linear(height * width, height, bias=False)
        self.expand = nn.Linear(height, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Weights ``(B, C)`` of features ``(B, C, h, w)``; those of an image sum to 1."""
        check_tensors(features=(features, f"B {self.size}"))
        scores: Tensor = self.expand(self.squeeze(features.flatten(2)).relu())[..., 0] + self.bias
        return scores.softmax(1)


def spatial_alignment_loss(target: Tensor, source: Tensor, weights: Tensor, variant: Variant = "code") -> Tensor:
    r"""Distance of features to the source's, position by position as far as it matters.

    .. math:: \text{paper:}\ \sum_p \| a_p (F_t - F_s)_p \|^2, \qquad
              \text{code:}\ \tfrac12 \sum_p \| HW a_p (F_t - F_s)_p \|^2

    (AFA's first stage, Xie et al., Neural Networks 2021.) The mean over images.

    Args:
        target: ``(B, C, h, w)``.
        source: the same; gets no gradient.
        weights: ``(B, h, w)``, from :class:`SpatialAttention`.
        variant: the ``paper``'s, or what the authors published, in which uniform weights weigh 1.

    Returns:
        A scalar, 0 at equality.

    Raises:
        AttnBridgeError: for features of different shapes.

    >>> uniform = torch.full((1, 2, 2), 0.25)
    >>> spatial_alignment_loss(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), uniform)
    tensor(6.)
    """
    squared = _difference(target, source, variant, weights, "B h w").square().sum(1)
    if variant == "code":
        weights = weights * weights[0].numel()
    each = (weights.square() * squared).sum((1, 2))
    return each.mean() / (2 if variant == "code" else 1)


class SpatialAlignmentLoss(nn.Module):
    """:func:`spatial_alignment_loss` with its variant."""

    def __init__(self, variant: Variant = "code") -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        self.variant: Variant = variant

    def forward(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        """See :func:`spatial_alignment_loss`."""
        return spatial_alignment_loss(target, source, weights, self.variant)


def channel_alignment_loss(target: Tensor, source: Tensor, weights: Tensor, variant: Variant = "code") -> Tensor:
    r"""Distance of features to the source's, channel by channel as far as it matters.

    .. math:: \text{paper:}\ \sum_j a_j \| F_t^j - F_s^j \|^2, \qquad
              \text{code:}\ \tfrac{C}{2} \sum_j a_j \| F_t^j - F_s^j \|^2

    (AFA's second stage, Xie et al., Neural Networks 2021.) The mean over images.

    Args:
        target: ``(B, C, h, w)``.
        source: the same; gets no gradient.
        weights: ``(B, C)``, from :class:`ChannelAttention`.
        variant: as in :func:`spatial_alignment_loss`.

    Returns:
        A scalar, 0 at equality.

    Raises:
        AttnBridgeError: for features of different shapes.

    >>> channel_alignment_loss(torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), torch.tensor([[0.5, 0.5]]))
    tensor(4.)
    """
    squared = _difference(target, source, variant, weights, "B C").square().sum((2, 3))
    each = (weights * squared).sum(1)
    return each.mean() * (target.shape[1] / 2 if variant == "code" else 1)


class ChannelAlignmentLoss(nn.Module):
    """:func:`channel_alignment_loss` with its variant."""

    def __init__(self, variant: Variant = "code") -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        self.variant: Variant = variant

    def forward(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        """See :func:`channel_alignment_loss`."""
        return channel_alignment_loss(target, source, weights, self.variant)


def delta_alignment_loss(target: Tensor, source: Tensor, weights: Tensor, variant: Variant = "code") -> Tensor:
    r"""Distance of features to the source's, channel by channel as far as its filters are worth.

    .. math:: \text{paper:}\ \sum_j a_j \| F_t^j - F_s^j \|^2, \qquad
              \text{code:}\ \tfrac{C}{2 HW} \sum_j a_j \| F_t^j - F_s^j \|^2

    (DELTA, Li et al., ICLR 2019; the code is that of AFA's authors, who sum over the batch.) The mean over
    images.

    Args:
        target: ``(B, C, h, w)``.
        source: the same; gets no gradient.
        weights: ``(C,)``, from :func:`~attnbridge.methods.filter_ablation.filter_importance`.
        variant: as in :func:`spatial_alignment_loss`.

    >>> delta_alignment_loss(torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), torch.tensor([0.5, 0.5]))
    tensor(1.)
    """
    squared = _difference(target, source, variant, weights, "C").square().sum((2, 3))
    aligned = (weights * squared).sum(1).mean() * (target.shape[1] / 2 if variant == "code" else 1)
    return aligned / (target[0, 0].numel() if variant == "code" else 1)


class DeltaAlignmentLoss(nn.Module):
    """:func:`delta_alignment_loss` with its variant."""

    def __init__(self, variant: Variant = "code") -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        self.variant: Variant = variant

    def forward(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        """See :func:`delta_alignment_loss`."""
        return delta_alignment_loss(target, source, weights, self.variant)


def entropy(weights: Tensor) -> Tensor:
    r"""How evenly attention is spread, in [0, 1], the mean over images: 1 is uniform, 0 one place alone.

    .. math:: -\frac{1}{\log n} \sum_i a_i \log a_i

    Args:
        weights: ``(B, ...)``, those of an image summing to 1.

    >>> entropy(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    check_tensors(weights=(weights, "B h ..."))
    flat = weights.flatten(1)
    if flat.shape[1] == 1:
        return flat.new_zeros(())  # one place has it all
    each: Tensor = torch.special.entr(flat).sum(1)
    return each.mean() / torch.tensor(flat.shape[1]).log()


def l2_sp_loss(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    r"""How far weights have moved from where they started: L2-SP.

    .. math:: \tfrac12 \sum_i \| w_i - w_i^0 \|^2

    (Li, Grandvalet, Davoine, ICML 2018.)

    Args:
        parameters: trained ones by name.
        start: their values at the start; those that are not in it, such as a new head's, do not count.

    Raises:
        AttnBridgeError: if they have no name in common, or weights of one name have not one shape.

    >>> l2_sp_loss({"a": torch.ones(3), "new": torch.ones(9)}, {"a": torch.zeros(3)})
    tensor(1.5000)
    """
    for what, given in (("parameters", parameters), ("start", start)):
        if not isinstance(given, Mapping):
            raise AttnBridgeError(
                f"{what} must be tensors by name, as dict(network.named_parameters()), not {came(given)}"
            )
    for name, value in parameters.items():
        if name in start and value.shape != start[name].shape:
            raise AttnBridgeError(
                f"{name!r} is {tuple(value.shape)}, but {tuple(start[name].shape)} at the start; leave it out of start"
            )
    moved = [(value - start[name]).square().sum() for name, value in parameters.items() if name in start]
    if not moved:
        raise AttnBridgeError("none of the trained weights has a value to start from; look at their names")
    return torch.stack(moved).sum() / 2


class L2SPLoss(nn.Module):
    """:func:`l2_sp_loss` as a module."""

    forward = staticmethod(l2_sp_loss)


def spectral_shrinkage_loss(features: Tensor, count: int = 1) -> Tensor:
    r"""The smallest singular values of a batch's features, squared: directions that transfer nothing are given up.

    .. math:: \sum_{i=1}^{k} \sigma_{-i}^2

    (BSS, Chen et al., NeurIPS 2019.)

    Args:
        features: ``(B, D)``, what the head reads.
        count: :math:`k`, how many of the min(B, D) values.

    Raises:
        AttnBridgeError: for a count that is below 1 or above their number.
        DivergedError: for features that are not finite.

    >>> spectral_shrinkage_loss(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2)
    tensor(5.)
    """
    check_number("count", count, Count)
    check_tensors(features=(features, "B D"))
    if count > min(features.shape):
        raise AttnBridgeError(
            f"count must be from 1 to {min(features.shape)}, the number of singular values, not {count}"
        )
    try:
        values: Tensor = torch.linalg.svdvals(features.float())
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise DivergedError(f"features: have no singular values, so they hold NaN or infinity ({error})") from None
    return values[-count:].square().sum()


class SpectralShrinkageLoss(nn.Module):
    """:func:`spectral_shrinkage_loss` with its count."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        check_number("count", count, Count)
        self.count = count

    def forward(self, features: Tensor) -> Tensor:
        """See :func:`spectral_shrinkage_loss`."""
        return spectral_shrinkage_loss(features, self.count)


def _difference(target: Tensor, source: Tensor, variant: Variant, weights: Tensor, axes: str) -> Tensor:
    check_choice("variant", variant, get_args(Variant))
    check_tensors(target=(target, "..."), source=(source, "..."))
    if target.shape != source.shape or target.ndim != 4:
        raise AttnBridgeError(
            f"features of source and target must have one shape (B, C, h, w), not {tuple(source.shape)} and "
            f"{tuple(target.shape)}; name layers that both networks have"
        )
    check_tensors(target=(target, "B C h w"), weights=(weights, axes))
    return target - source.detach()
