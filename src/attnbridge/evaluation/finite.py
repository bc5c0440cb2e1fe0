"""Numbers that are none are found where they leave a network, before they count as some answer."""

from __future__ import annotations

from torch import Tensor

from attnbridge.errors import AttnBridgeError


def check_finite(values: Tensor, what: str) -> None:
    """Raise unless all values are finite.

    >>> check_finite(Tensor([0.0, float("nan")]), "the maps of small")
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: the maps of small hold NaN or infinity, so they say nothing; its weights ...
    """
    if not values.isfinite().all():
        raise AttnBridgeError(
            f"{what} hold NaN or infinity, so they say nothing; its weights are broken, its training diverged, or it "
            "does not work in this precision"
        )
