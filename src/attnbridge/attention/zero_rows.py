"""Backward passes that leave out what is zero, whatever network they run through.

In the last block of a transformer only the class token is read. Behind the attention its gradients are zero at every
other token, and the products of the block's linear layers, one row a token, are mostly products of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SAMPLED = 8
"""Columns that are looked at first: they tell of most gradients, in no time, that they have no zero rows."""
_FEW = 64
"""Rows that are multiplied faster than looked at."""
_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"


class SkipZeroRows(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, products with a matrix that is mostly rows of zeros are made of its other rows; so is the backward pass
    of fused attention. What comes out is the same but for the order of sums.

    It works below autograd, so gradients that are made inside can be differentiated again, and below ``vmap``.

    >>> gradients = torch.zeros(100, 5)
    >>> gradients[7] = 1
    >>> with SkipZeroRows():
    ...     product = gradients @ torch.ones(5, 3)
    >>> product.sum(), product[7]
    (tensor(15.), tensor([5., 5., 5.]))
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, or the part of it that is not zero."""
        if func is torch.ops.aten.mm.default:
            return _product(func, *args)
        kwargs = kwargs or {}
        if func.name() == _ATTENTION and kwargs.get("attn_mask") is None:
            return _attention_backward(partial(func, **kwargs), *args)
        return func(*args, **kwargs)


def _product(multiply: Callable[..., Tensor], left: Tensor, right: Tensor) -> Tensor:
    rows = _rows(left)
    if rows is None:
        return multiply(left, right)
    return left.new_zeros(len(left), right.shape[1]).index_copy_(0, rows, multiply(left[rows], right))


def _attention_backward(
    run: Callable[..., tuple[Tensor, Tensor, Tensor]],
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    dropout: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries whose output has no gradient, in ``(B, heads, T, D)``, take no part."""
    rows = None if causal else _rows(gradient.permute(2, 0, 1, 3).flatten(1))
    if rows is None:
        return run(gradient, query, key, value, output, logsumexp, dropout, causal)
    parts = [whole[:, :, rows] for whole in (gradient, query, output, logsumexp)]
    queries, keys, values = run(*parts[:2], key, value, *parts[2:], dropout, causal)
    return torch.zeros_like(query).index_copy_(2, rows, queries), keys, values


def _rows(matrix: Tensor) -> Tensor | None:
    """Numbers of the rows that are not zero, if they are fewer than half."""
    if type(matrix) is not Tensor or len(matrix) < _FEW:
        return None
    step = max(1, matrix.shape[1] // _SAMPLED)
    if 2 * int(matrix[:, ::step].any(1).sum()) >= len(matrix):
        return None
    rows = matrix.any(1).nonzero()[:, 0]
    return rows if 2 * len(rows) < len(matrix) else None
