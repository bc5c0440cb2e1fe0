"""Ranges of numbers, as the signatures of methods and data write them. Free of torch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated

LARGEST = sys.float_info.max


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
            and (isinstance(value, int) or math.isfinite(value))
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
