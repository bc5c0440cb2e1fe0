"""Ranges of numbers, as the signatures of methods and data write them. Free of torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from attnbridge.errors import AttnBridgeError, check_choice, shown

LARGEST = float.fromhex("0x1.fffffep127")
"""What single precision holds."""


@dataclass(frozen=True)
class Bounds:
    """Between what a number must lie.

    Args:
        least: the smallest that may be.
        above: what it must exceed.
        most: the largest that may be.
        below: what it must not reach.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether a number lies inside; one that is not finite, or no float holds, does not.

        >>> Bounds(above=0, most=1).hold(1), Bounds(least=0).hold(float("nan"))
        (True, False)
        """
        return (
            isinstance(value, int | float)
            and _is_finite(value)
            and abs(value) <= LARGEST
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """In words.

        >>> str(Bounds(above=0, most=1)), str(Bounds(least=1))
        ('above 0 and at most 1', 'at least 1')
        """
        known = {"above": self.above, "at least": self.least, "below": self.below, "at most": self.most}
        return " and ".join(f"{words} {value}" for words, value in known.items() if value is not None)

    def against(self, value: float) -> str:
        """In words, for a number outside; of one that single precision does not hold, that too.

        >>> Bounds(least=0).against(-1), Bounds(least=0).against(1e308)
        ('at least 0', 'at least 0 and at most 3.4e+38, what single precision holds')
        """
        held = "" if abs(value) <= LARGEST or not _is_finite(value) else "at most 3.4e+38, what single precision holds"
        return " and ".join(filter(None, (str(self), held)))


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(least=0)]
Share = Annotated[float, Bounds(above=0, most=1)]
ShareOrNone = Annotated[float, Bounds(least=0, below=1)]
UpToOne = Annotated[float, Bounds(least=0, most=1)]
Inside = Annotated[float, Bounds(above=0, below=1)]
AtLeastOne = Annotated[float, Bounds(least=1)]
Count = Annotated[int, Bounds(least=1)]
Natural = Annotated[int, Bounds(least=0)]
Seed = Annotated[int, Bounds(least=0, most=2**32 - 1)]
Side = Annotated[int, Bounds(least=8, most=8192)]
"""Of an image, pixels."""
Width = Annotated[int, Bounds(least=1, most=65536)]
"""Of a layer, channels."""
BatchSize = Annotated[int, Bounds(least=1, most=65536)]
Views = Annotated[int, Bounds(least=1, most=1000)]
"""Of an image that are kept."""
Workers = Annotated[int, Bounds(least=0, most=256)]
"""Processes that load images."""
Scale = Annotated[float, Bounds(least=0.1, most=8)]
"""Of an image's sides."""
MapSide = Annotated[int, Bounds(least=1, most=2**15)]
MapSize = MapSide | tuple[MapSide, MapSide]
"""Of maps: a side, or height and width."""


def check_number(name: str, value: Any, kind: Any) -> None:
    """Raise unless the value of an argument is a number of a kind of this module.

    >>> check_number("temperature", float("nan"), Positive)
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: temperature must be above 0, not nan
    """
    if not _is_number(value, kind.__origin__):
        raise AttnBridgeError(f"{name} must be {_in_words(kind)}, not {shown(value)}")
    if not _holds(value, kind):
        raise AttnBridgeError(f"{name} must be {kind.__metadata__[0].against(value)}, not {shown(value)}")


def check_value(name: str, value: Any, kind: Any) -> None:
    """Raise unless the value of an argument is as an annotation says; a list must hold something.

    >>> check_value("scales", (0.5, 0.0), Sequence[Positive])
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: scales must be a list, each of it a number above 0, not (0.5, 0.0)
    """
    if not _fits(value, kind) or (get_origin(kind) is Sequence and not value):
        _refuse(name, value, kind)


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """The names in a list of them; raise for anything else, a single name too.

    >>> check_names("classes", "cat")
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: classes must be a list of names, not 'cat'; put it into a list
    """
    if isinstance(value, str):
        raise AttnBridgeError(f"{name} must be a list of names, not {shown(value)}; put it into a list")
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise AttnBridgeError(f"{name} must be a list of names, not {shown(value)}")
    return tuple(value)


def check_values(function: Callable[..., Any], values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise unless arguments are as a function's signature writes them: its choices, ranges and lists.

    Args:
        function: whose annotations are read.
        values: of its arguments, by name.
        prefix: of their names in messages.

    >>> def f(variant: Literal["paper", "code"] = "paper", count: Count | None = None): ...
    >>> check_values(f, {"variant": "papers", "count": None})
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: variant must be paper or code, not 'papers'; did you mean 'paper'?
    """
    for name, kind in get_type_hints(function, include_extras=True).items():
        if name in values and not _fits(values[name], kind):
            _refuse(f"{prefix}{name}", values[name], kind)


def _refuse(name: str, value: Any, kind: Any) -> None:
    choices = [choice for part in _parts(kind) if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        check_choice(name, value, choices)
    plain = [part for part in _parts(kind) if part is not NoneType]
    if len(plain) == 1 and hasattr(plain[0], "__metadata__"):
        check_number(name, value, plain[0])
    if plain == [Sequence[str]]:
        check_names(name, value)
    raise AttnBridgeError(f"{name} must be {_in_words(kind)}, not {shown(value)}")


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)


def _holds(value: Any, kind: Any) -> bool:
    plain = value if isinstance(value, int | float) else kind.__origin__(value)  # NumPy's numbers
    return bool(kind.__metadata__[0].hold(plain))


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is as an annotation says, as far as that can be seen at once."""
    if len(_parts(kind)) > 1:
        return any(_fits(value, part) for part in _parts(kind))
    if hasattr(kind, "__metadata__"):
        return _is_number(value, kind.__origin__) and _holds(value, kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (Sequence, tuple):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if get_origin(inner[0]) is Sequence:  # pairs and the like: who takes them looks into them
            return True
        each = inner[:1] * len(value) if origin is Sequence else inner
        return len(value) == len(each) and all(map(_fits, value, each))
    if kind in (int, float):
        return _is_number(value, kind)
    if kind is str:
        return isinstance(value, str | os.PathLike)
    return isinstance(value, kind) if kind in (bool, NoneType) else True


def _in_words(kind: Any) -> str:
    """An annotation as a person reads it.

    >>> _in_words(Count | tuple[Count, Count] | None), _in_words(Sequence[Positive])
    ('a whole number at least 1 or 2 of them or None', 'a list, each of it a number above 0')
    """
    inner, parts = get_args(kind), _parts(kind)
    if len(parts) > 1:
        repeated = {part: f"{len(get_args(part))} of them" for part in parts if get_origin(part) is tuple}
        return " or ".join(repeated.get(part) or _in_words(part) for part in parts)
    if hasattr(kind, "__metadata__"):
        return f"{_in_words(kind.__origin__)} {kind.__metadata__[0]}"
    if get_origin(kind) is tuple:
        return f"{len(inner)} values, each {_in_words(inner[0])}"
    if get_origin(kind) is Sequence:
        return f"a list, each of it {_in_words(inner[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None"}
    return words.get(kind, str(kind))
