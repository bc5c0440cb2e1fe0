"""Gradients of class logits to features: all classes of a batch together, the trunk never back-propagated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from attnbridge.arguments import came, check_tensors
from attnbridge.attention.zero_rows import SkipZeroRows
from attnbridge.errors import AttnBridgeError, check_choice

SecondOrder = Literal["auto", "on", "off"]
CHUNK_BYTES = 1 << 24
"""Classes are taken together up to this size of their gradients; more at once costs memory and no longer time."""


def keeps_graph(second_order: SecondOrder) -> bool:
    """Whether gradients are themselves differentiable: ``auto`` follows autograd's mode.

    >>> keeps_graph("auto"), keeps_graph("off")
    (True, False)
    """
    check_choice("second_order", second_order, get_args(SecondOrder))
    return torch.is_grad_enabled() if second_order == "auto" else second_order == "on"


def class_gradients(
    features: Tensor,
    logits: Tensor,
    classes: Tensor,
    reduce: Callable[[Tensor], Tensor],
    *,
    second_order: SecondOrder = "auto",
) -> Tensor:
    r"""Reduced gradients :math:`r(\partial y^c / \partial F)` of several classes of every image.

    The classes are batched through one backward pass from the logits to the features, in chunks, and each chunk
    is reduced before the next is made, so the whole gradient never lies in memory.

    Args:
        features: any tensor ``(B, ...)`` that ``logits`` were computed from.
        logits: ``(B, N)``; the logits of one image must not depend on another image's features.
        classes: long ``(B,)`` or ``(B, K)``.
        reduce: from the gradients of some classes, ``(k, B, ...)``, to ``(k, B, *R)``.
        second_order: whether a loss on the result reaches the parameters between features and logits.

    Returns:
        ``(B, K, *R)``.

    Raises:
        AttnBridgeError: for classes of a wrong shape or range, or logits that do not depend on the features.

    >>> features = torch.ones(1, 2, requires_grad=True)
    >>> logits = features @ torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> class_gradients(features, logits, torch.tensor([[1, 0]]), lambda g: g, second_order="off")
    tensor([[[2., 4.],
             [1., 3.]]])
    """
    check_tensors(features=(features, "B ..."), logits=(logits, "B N"))
    classes = check_classes(classes, *logits.shape)
    check_tensors(logits=(logits, "B N"), classes=(classes, "B K", "long"))
    keep = keeps_graph(second_order)
    if not (features.requires_grad and logits.requires_grad):
        raise AttnBridgeError(
            "the logits carry no gradient to the features; run the network with `observe` (or with autograd "
            "on), and take features and logits from the same forward pass"
        )
    size = max(1, CHUNK_BYTES // max(1, features.numel() * features.element_size()))
    cotangents = F.one_hot(classes.T, logits.shape[1]).to(logits.dtype)  # (K, B, N)
    with torch.set_grad_enabled(keep or torch.is_grad_enabled()):
        parts = [reduce(_gradients(features, logits, chunk, keep)) for chunk in torch.split(cotangents, size)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(0, 1)


def _gradients(features: Tensor, logits: Tensor, cotangents: Tensor, keep: bool) -> Tensor:
    """``(k, *features.shape)``; batched if every operation on the way can be, else one class after the other."""
    if len(cotangents) > 1:
        try:
            return _grad(features, logits, cotangents, keep, batched=True)
        except RuntimeError as error:  # a custom autograd function or a compiled graph on the way
            if not any(word in str(error) for word in ("vmap", "atching rule", "functorch")):
                raise
    return torch.stack([_grad(features, logits, one, keep, batched=False) for one in cotangents])


def _grad(features: Tensor, logits: Tensor, cotangents: Tensor, keep: bool, *, batched: bool) -> Tensor:
    on_cpu = features.device.type == "cpu"  # a GPU is not asked for its values
    try:
        with SkipZeroRows() if on_cpu else nullcontext():  # type: ignore[no-untyped-call]
            (gradient,) = torch.autograd.grad(
                logits, features, cotangents, retain_graph=True, create_graph=keep, is_grads_batched=batched
            )
    except RuntimeError as error:
        if isinstance(error, CheckpointError):
            raise AttnBridgeError(
                "between the layer and the logits a block is checkpointed, whose attention is another one when it is "
                "run again: a map's gradients pass attention that is written out. Turn checkpointing off from there "
                'on, or, in transformers, give attn_implementation="eager"'
            ) from error
        if "not have been used in the graph" not in str(error):
            raise
        raise AttnBridgeError(
            "the logits do not depend on the features; take both from the same forward pass"
        ) from None
    return gradient


def check_classes(classes: Any, batch: int, count: int) -> Tensor:
    """Class indices as long ``(B, K)``.

    Args:
        classes: what came.
        batch: number B of images.
        count: number N of the network's classes.

    Raises:
        AttnBridgeError: if they are not long of shape ``(B,)`` or ``(B, K)``, or not of the network's classes.
    """
    whole = isinstance(classes, Tensor) and classes.dtype == torch.long
    if not whole or classes.ndim not in (1, 2) or len(classes) != batch:
        raise AttnBridgeError(
            f"classes must be long indices of shape (B,) or (B, K) with B = {batch}, but are {came(classes)}"
        )
    wrong = (classes < 0) | (classes >= count)
    outside = classes[wrong] if classes.device.type == "cpu" else classes[:0]  # a GPU is not waited for
    if len(outside):
        raise unknown_class(int(outside[0]), count)
    if count > 2 and classes.shape == (batch, count) and classes.device.type == "cpu" and bool((classes <= 1).all()):
        raise AttnBridgeError(
            f"classes hold 0 and 1 for each of the {count} classes, but must be their numbers; give `classes.bool()`, "
            "or `classes.argmax(1)`"
        )
    if not classes.numel():
        raise AttnBridgeError(f"classes: an empty list of classes; the network knows 0 to {count - 1}")
    indices: Tensor = classes[:, None] if classes.ndim == 1 else classes
    return indices


def unknown_class(number: int, count: int) -> AttnBridgeError:
    """The error for a class that a network of so many does not know."""
    return AttnBridgeError(f"class {number}: the network knows the classes 0 to {count - 1}")
