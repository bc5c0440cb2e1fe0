"""What a method asks of its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attnbridge.bounds import check_names
from attnbridge.data.sample import Batch
from attnbridge.errors import AttnBridgeError, shown


@dataclass(frozen=True)
class CacheRequest:
    """What of fixed views of the training images is to be kept.

    Attributes:
        features: from a batch in 8 bits to what is kept of it, by name.
        key: all that :attr:`features` depends on: its structure in words, and its weights by name.
    """

    features: Callable[[Batch], Mapping[str, Tensor]]
    key: Callable[[], tuple[str, Mapping[str, Tensor]]]

    def __post_init__(self) -> None:
        for name in ("features", "key"):
            if not callable(getattr(self, name)):
                raise AttnBridgeError(f"{name} must be a function, not {shown(getattr(self, name))}")


@dataclass(frozen=True)
class DataRequest:
    """What a method asks of its data; a data module answers it: ``data.request = method.data_request()``.

    Attributes:
        streams: the training streams that it learns from; the others are left unread.
        withheld: those whose labels it is to do without: they are NaN, so that a loss which reads them is none.
        masks: those whose masks it learns from; no other training stream carries any.
        cache: what is kept where the data have fixed views; ``None``: the method can make nothing of that.
    """

    streams: tuple[str, ...] = ("source", "target")
    withheld: tuple[str, ...] = ()
    cache: CacheRequest | None = None
    masks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("streams", "withheld", "masks"):
            check_names(name, getattr(self, name))

    def third(self, stream: str) -> Literal["saliency", "mask"] | None:
        """What the third part of a plain batch ``(images, labels, third)`` of a stream is; ``None``: it is left out.

        >>> DataRequest(masks=("guided",)).third("source"), DataRequest().third("target")
        ('saliency', None)
        """
        return "mask" if stream in self.masks else "saliency" if stream == "source" else None
