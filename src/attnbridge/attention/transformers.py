"""Where a vision transformer looks, from its attention matrices: rollout, plain and weighed by gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.attention.answers import Output, Target
from attnbridge.attention.class_maps import in_float
from attnbridge.attention.gradients import SecondOrder, check_classes, keeps_graph
from attnbridge.attention.layers import grid_of, unwrap
from attnbridge.attention.observe import run_for_scores
from attnbridge.errors import AttnBridgeError

Pool = Literal["token", "mean"]


def observe_attention(
    network: nn.Module,
    images: Tensor,
    *,
    graph: bool | None = None,
    output: Output | None = None,
    target: Target | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run a transformer and capture the attention of each of its blocks.

    Fused attention never forms the matrix; for this call ``F.scaled_dot_product_attention`` is replaced by the same
    sum written out, and ``nn.MultiheadAttention``'s fast path is off. Attention that a network writes out itself is
    seen where it calls ``F.softmax``, as transformers' ``eager`` does, or passes a dropout named ``attn_drop``, as in
    timm. Kernels of other libraries (flash attention) are not seen. Not for several threads at once.

    Args:
        network: a vision transformer with global attention.
        images: ``(B, 3, H, W)``, normalised as the network expects.
        graph: record from attention to logits, for gradients. Default: whether autograd is on.
        output, target: as in :func:`~attnbridge.attention.observe.observe`.

    Returns:
        The logits ``(B, N)``, and the attention of each block, ``(B, heads, T, T)``, rows summing to 1.

    Raises:
        AttnBridgeError: if no attention was seen, or it is not over all tokens of an image.
    """
    seen: list[Tensor] = []
    graph = torch.is_grad_enabled() if graph is None else graph
    with torch.inference_mode(False), torch.set_grad_enabled(graph), _recording(unwrap(network), seen, graph):
        logits = run_for_scores(network, images.clone() if images.is_inference() else images, output, target)
    if not seen:
        raise AttnBridgeError(
            f"no attention matrix was seen{_implementation(network)}; rollout needs a vision transformer that calls "
            "F.scaled_dot_product_attention or writes its softmax out, as those of timm, torchvision and transformers "
            '(attn_implementation="sdpa" or "eager") do. For other networks use grad_cam'
        )
    shapes = {tuple(a.shape[::2]) for a in seen}  # batch and tokens
    if len(shapes) > 1 or any(a.shape[-1] != a.shape[-2] or len(a) != len(images) for a in seen):
        raise AttnBridgeError(
            f"the attention is not over all tokens of an image (shapes {sorted({tuple(a.shape) for a in seen})[:3]}), "
            "as in networks with windows; rollout is not defined there, use grad_cam"
        )
    return logits, seen


def _implementation(network: nn.Module) -> str:
    """What transformers calls the kernel of a network's attention, in brackets."""
    name = getattr(getattr(unwrap(network), "config", None), "_attn_implementation", None)
    return f" (attn_implementation is {name!r})" if name else ""


@contextmanager
def _recording(network: nn.Module, seen: list[Tensor], graph: bool) -> Iterator[None]:
    def record(weights: Tensor) -> Tensor:
        seen.append(weights if weights.requires_grad or not graph else weights.detach().requires_grad_())
        return seen[-1]

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return F.dropout(record(scores.softmax(-1)), dropout_p) @ value

    softmax = F.softmax

    def written_out(scores: Tensor, *arguments: Any, **options: Any) -> Tensor:
        weights = softmax(scores, *arguments, **options)
        return record(weights) if weights.ndim == 4 and weights.shape[-1] == weights.shape[-2] else weights

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs if seen and inputs[0] is seen[-1] else (record(inputs[0]), *inputs[1:])

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name.rpartition(".")[2] == "attn_drop":
                stack.callback(module.register_forward_pre_hook(hook).remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled graphs know no replacement
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", attention))
        stack.enter_context(patch.object(F, "softmax", written_out))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        yield


def attention_rollout(
    attention: Sequence[Tensor], prefix: int = 1, aspect: float = 1.0, pool: Pool = "token"
) -> Tensor:
    r"""Attention rollout: how much of each patch reaches the output, through all blocks; whatever the class.

    .. math:: \hat A_l = \tfrac12\,\mathrm{mean}_h A_l + \tfrac12 I, \qquad R = \hat A_L \cdots \hat A_1

    (Abnar and Zuidema, ACL 2020.) The map is the class token's row of R, or the mean of the patches' rows.

    Args:
        attention: of each block, ``(B, heads, T, T)``; see :func:`observe_attention`.
        prefix: tokens before the patches, the class token first.
        aspect: height of the images divided by their width.
        pool: what the network's head reads: the class ``token``, or the ``mean`` of the patches.

    Returns:
        ``(B, 1, H, W)``, not negative.

    >>> attention_rollout([torch.full((1, 2, 5, 5), 0.2)] * 3).flatten()
    tensor([0.1750, 0.1750, 0.1750, 0.1750])
    """
    rolled = in_float(torch.eye(attention[0].shape[-1], dtype=attention[0].dtype, device=attention[0].device))
    with torch.autocast(rolled.device.type, enabled=False):
        for matrix in attention:
            rolled = 0.5 * in_float(matrix).mean(1) @ rolled + 0.5 * rolled
    return _to_grid(rolled, prefix, aspect, pool)[:, None]


def gradient_rollout(
    attention: Sequence[Tensor],
    logits: Tensor,
    classes: Tensor,
    prefix: int = 1,
    aspect: float = 1.0,
    pool: Pool = "token",
    *,
    second_order: SecondOrder = "auto",
) -> Tensor:
    r"""Rollout of the attention that speaks for a class.

    .. math:: \bar A_l = \mathrm{mean}_h\,\mathrm{ReLU}\Bigl(\frac{\partial y^c}{\partial A_l} \odot A_l\Bigr),
              \qquad R \leftarrow R + \bar A_l R, \qquad R_0 = I

    (Chefer, Gur and Wolf, ICCV 2021, equations 5 and 6.) The map is the class token's row, or the mean
    of the patches' rows.

    Args:
        attention: of each block, ``(B, heads, T, T)``, that ``logits`` were computed from.
        logits: ``(B, N)``.
        classes: long ``(B,)`` or ``(B, K)``.
        prefix: tokens before the patches, the class token first.
        aspect: height of the images divided by their width.
        pool: what the network's head reads: the class ``token``, or the ``mean`` of the patches.
        second_order: as in :func:`attnbridge.attention.class_maps.grad_cam`.

    Returns:
        ``(B, K, H, W)``, not negative.
    """
    classes, keep = check_classes(classes, *logits.shape), keeps_graph(second_order)
    rolled = []
    for wanted in classes.T:  # one backward pass each; together they would need as many times the memory
        cotangents = F.one_hot(wanted, logits.shape[1]).to(logits.dtype)
        gradients = torch.autograd.grad(logits, list(attention), cotangents, retain_graph=True, create_graph=keep)
        with torch.set_grad_enabled(keep or torch.is_grad_enabled()):
            rolled.append(_rolled(attention, gradients))
    return _to_grid(torch.stack(rolled, 1), prefix, aspect, pool)


def _rolled(attention: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """R without the identity that it begins with, ``(B, T, T)``."""
    rolled = in_float(torch.zeros_like(attention[0][:, 0]))
    with torch.autocast(rolled.device.type, enabled=False):
        for matrix, gradient in zip(attention, gradients, strict=True):
            weighed = F.relu(in_float(gradient) * in_float(matrix)).mean(1)
            rolled = rolled + weighed + weighed @ rolled
    return rolled


def _to_grid(rolled: Tensor, prefix: int, aspect: float, pool: Pool) -> Tensor:
    """The row that the head reads, ``(..., T, T)`` to ``(..., H, W)``."""
    height, width = grid_of(rolled.shape[-1] - prefix, aspect)
    if not height:
        raise AttnBridgeError(f"{rolled.shape[-1]} tokens, {prefix} of them before the patches, make no grid")
    row = rolled[..., 0, :] if prefix and pool == "token" else rolled[..., prefix:, :].mean(-2)
    return row[..., prefix:].reshape(*row.shape[:-1], height, width)
