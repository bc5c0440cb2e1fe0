"""Class maps: where the evidence for a class lies, as pure functions of features and logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.errors import AttnBridgeError

SecondOrder = Literal["auto", "on", "off"]
Normalise = Literal["none", "max", "minmax", "sigmoid"]


def grad_cam(
    features: Tensor,
    logits: Tensor,
    classes: Tensor,
    *,
    second_order: SecondOrder = "auto",
    relu: bool = True,
    spatial: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Grad-CAM of several classes of every picture in one call, differentiable.

    .. math:: w_i^c = \frac{1}{HW} \sum_{x,y} \frac{\partial y^c}{\partial F_i(x, y)}, \qquad
              M^c = \mathrm{ReLU}\Bigl(\sum_i w_i^c F_i\Bigr)

    (Selvaraju et al., ICCV 2017; equations 1 and 2 of AttnBN, Li et al., ICCV 2019.) Gradients are taken
    from the logits to the features alone, so the trunk is never back-propagated for a map, and nothing is
    accumulated in any ``.grad``.

    Args:
        features: the features that ``logits`` were computed from, inside the graph: ``(B, C, H, W)``, or
            what ``spatial`` brings to that shape.
        logits: ``(B, N)``; the logits of one picture must not depend on another picture's features.
        classes: long ``(B,)`` or ``(B, K)``, the class indices of each picture.
        second_order: what a loss on the maps reaches. ``on``: the features and, through :math:`w`, the
            parameters between features and logits. ``off``: :math:`w` is a constant, so the features
            alone. ``auto``: ``on`` where autograd records, ``off`` under ``torch.no_grad()``.
        relu: keep only positive evidence.
        spatial: brings features and gradients, both as the layer gives them, to ``(B, C, H, W)``;
            see :func:`attnbridge.attention.layers.to_maps`.

    Returns:
        ``(B, K, H, W)``, K = 1 for ``classes`` of shape ``(B,)``; not negative with ``relu``.

    Raises:
        AttnBridgeError: for classes of a wrong shape or range, or logits that do not depend on the features.

    >>> features = torch.rand(2, 3, 4, 4, requires_grad=True)
    >>> logits = features.mean((2, 3)) @ torch.eye(3)
    >>> maps = grad_cam(features, logits, torch.tensor([[0, 2], [1, 1]]))
    >>> maps.shape, torch.allclose(maps[0, 1], features[0, 2] / 16)
    (torch.Size([2, 2, 4, 4]), True)
    """
    classes = _checked_classes(classes, logits)
    spatial = spatial or _identity
    keep = torch.is_grad_enabled() if second_order == "auto" else second_order == "on"
    gradients = _gradients(features, logits, classes, keep)
    weights = torch.stack([spatial(g).mean((2, 3)) for g in gradients], dim=1)  # (B, K, C)
    with torch.set_grad_enabled(torch.is_grad_enabled() or keep):
        maps = torch.einsum("bkc,bchw->bkhw", weights, spatial(features))
        return F.relu(maps) if relu else maps


def _identity(features: Tensor) -> Tensor:
    return features


def cam(features: Tensor, weight: Tensor, classes: Tensor, *, relu: bool = True) -> Tensor:
    r"""The closed form of :func:`grad_cam` for global average pooling and a linear head.

    .. math:: M^c = \mathrm{ReLU}\Bigl(\frac{1}{HW} \sum_i W_{ci} F_i\Bigr)

    (CAM, Zhou et al., CVPR 2016, with Grad-CAM's scale.)

    Args:
        features: ``(B, C, H, W)``.
        weight: ``(N, C)``, the head's weight.
        classes: long ``(B,)`` or ``(B, K)``.
        relu: keep only positive evidence.

    Returns:
        ``(B, K, H, W)``.

    >>> cam(torch.ones(1, 2, 2, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([0]))
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    classes = classes[:, None] if classes.ndim == 1 else classes
    positions = features.shape[2] * features.shape[3]
    maps = torch.einsum("bkc,bchw->bkhw", weight[classes] / positions, features)
    return F.relu(maps) if relu else maps


def _gradients(features: Tensor, logits: Tensor, classes: Tensor, keep: bool) -> Tensor:
    """Gradient of each class's logit to the features, ``(K, *features.shape)``."""
    if not (features.requires_grad and logits.requires_grad):
        raise AttnBridgeError(
            "the logits carry no gradient to the features; run the network with `observe` (or with autograd "
            "on), and take features and logits from the same forward pass"
        )
    cotangents = F.one_hot(classes.T, logits.shape[1]).to(logits.dtype)  # (K, B, N)
    single = len(cotangents) == 1  # no need of vmap
    try:
        (gradients,) = torch.autograd.grad(
            logits,
            features,
            cotangents[0] if single else cotangents,
            retain_graph=True,
            create_graph=keep,
            is_grads_batched=not single,
        )
    except RuntimeError as error:
        if "not have been used in the graph" not in str(error):
            raise
        raise AttnBridgeError(
            "the logits do not depend on the features; take both from the same forward pass"
        ) from None
    return gradients[None] if single else gradients


def _checked_classes(classes: Tensor, logits: Tensor) -> Tensor:
    if classes.ndim not in (1, 2) or len(classes) != len(logits) or classes.dtype != torch.long:
        raise AttnBridgeError(
            f"classes must be long indices of shape (B,) or (B, K) with B = {len(logits)}, "
            f"but are {classes.dtype} of shape {tuple(classes.shape)}"
        )
    return classes[:, None] if classes.ndim == 1 else classes


def normalise_maps(maps: Tensor, mode: Normalise = "none", eps: float = 1e-8) -> Tensor:
    """Bring each map to a range of its own.

    Args:
        maps: ``(..., H, W)``.
        mode: ``none`` leaves them; ``max`` divides by the map's maximum (a map without positive evidence
            becomes 0); ``minmax`` maps minimum and maximum to 0 and 1; ``sigmoid`` squashes each value.
        eps: added to what is divided by.

    >>> normalise_maps(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "max")
    tensor([[0.2500, 0.5000],
            [0.7500, 1.0000]])
    """
    if mode == "none":
        return maps
    if mode == "sigmoid":
        return maps.sigmoid()
    high = maps.amax((-2, -1), keepdim=True)
    low = maps.amin((-2, -1), keepdim=True) if mode == "minmax" else torch.zeros_like(high)
    if mode not in ("max", "minmax"):
        raise AttnBridgeError(f"normalise must be none, max, minmax or sigmoid, not {mode!r}")
    return (maps - low) / (high - low).clamp_min(eps)
