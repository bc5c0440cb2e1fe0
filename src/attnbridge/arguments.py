"""What is given to functions: tensors of the right kind, shape and device, and networks.

Only dtypes, shapes and devices are looked at, never values, so that a GPU is not waited for.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError, shown

Kind = Literal["float", "unit", "bool", "long", "uint8", "number"]

IN_WORDS: dict[Kind, str] = {
    "float": "a float tensor",
    "unit": "a float or bool tensor",
    "bool": "a bool tensor",
    "long": "a long tensor",
    "uint8": "a uint8 tensor",
    "number": "a tensor of real numbers",
}
HINTS: dict[Kind, str] = {
    "float": "; call .float() on it, and divide 8 bits by 255",
    "unit": "; call .float() on it, and divide 8 bits by 255",
    "bool": "; compare it, as `labels > 0`",
    "long": "; call .long() on it",
}
EXACT: dict[Kind, torch.dtype] = {"bool": torch.bool, "long": torch.long, "uint8": torch.uint8}


def check_tensors(*, empty: bool = False, **given: tuple[Any, str] | tuple[Any, str, Kind]) -> None:
    """Raise unless all arguments are tensors of their kinds and shapes, on one device.

    Args:
        empty: whether there may be none of something.
        given: by the argument's name: what came, its shape, and, if it is not to be of floats, its kind. A shape has a
            name or a number for each axis; axes of one name have one size; ``...`` at the end stands for any others.

    >>> check_tensors(maps=(torch.rand(2, 4, 4), "B H W"), classes=(torch.zeros(2), "B", "long"))
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: classes must be a long tensor (B), but is torch.float32 of shape (2,); call
    .long() on it
    >>> check_tensors(maps=(torch.rand(2, 4, 4), "B H W"), classes=(torch.ones(3).long(), "B", "long"))
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: classes must be a long tensor (B) with B = 2 as in maps, but is torch.int64 of
    shape (3,)
    """
    sizes: dict[str, tuple[int, str]] = {}
    first: tuple[str, torch.device] | None = None
    for name, (value, shape, *kinds) in given.items():
        kind = kinds[0] if kinds else "float"
        if not isinstance(value, Tensor) or not _is_kind(value.dtype, kind):
            raise _wrong(name, value, shape, kind)
        axes = shape.split()
        if axes[-1] == "...":
            axes = axes[:-1]
            wrong = value.ndim < len(axes)
        else:
            wrong = value.ndim != len(axes)
        if wrong:
            raise _wrong(name, value, shape, kind)
        for axis, size in zip(axes, value.shape, strict=False):
            known = (int(axis), "") if axis.isdigit() else sizes.setdefault(axis, (size, name))
            if size != known[0]:
                same = f" with {axis} = {known[0]} as in {known[1]}" if known[1] else ""
                raise _wrong(name, value, shape, kind, same)
        if not empty and not value.numel():
            raise AttnBridgeError(f"{name} is empty, of shape {tuple(value.shape)}; expected ({_axes(shape)}), none 0")
        first = first or (name, value.device)
        if value.device != first[1]:
            raise AttnBridgeError(
                f"{name} is on the device {value.device}, but {first[0]} on {first[1]}; bring them to one device"
            )


def check_network(network: Any, name: str = "network") -> None:
    """Raise unless a network is a module."""
    if not isinstance(network, nn.Module):
        raise AttnBridgeError(f"{name} must be a network, an nn.Module, not {came(network)}")


def came(value: Any) -> str:
    """What was given, in a few words.

    >>> came(torch.zeros(2, 3)), came("cat"), came([1, 2])
    ('torch.float32 of shape (2, 3)', "'cat'", 'a list')
    """
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, str | int | float | type):
        return shown(value)
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _is_kind(dtype: torch.dtype, kind: Kind) -> bool:
    if kind in EXACT:
        return dtype == EXACT[kind]
    if kind == "number":
        return not dtype.is_complex
    return dtype.is_floating_point or (kind == "unit" and dtype == torch.bool)


def _axes(shape: str) -> str:
    return ", ".join(shape.split())


def _wrong(name: str, value: Any, shape: str, kind: Kind, same: str = "") -> AttnBridgeError:
    if isinstance(value, Tensor):
        hint = "" if _is_kind(value.dtype, kind) else HINTS.get(kind, "")
    else:
        hint = "; make a tensor of it" if hasattr(value, "__array__") or isinstance(value, list | tuple) else ""
    return AttnBridgeError(f"{name} must be {IN_WORDS[kind]} ({_axes(shape)}){same}, but is {came(value)}{hint}")
