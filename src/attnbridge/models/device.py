"""Which device a network runs on. Free of torch until one is picked, so that a typo is answered at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attnbridge.errors import AttnBridgeError

if TYPE_CHECKING:
    import torch

_FORM = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def device_name(text: str) -> str:
    """The name of a device, if it may be one.

    Raises:
        AttnBridgeError: if it has another form.

    >>> device_name("cuda:1")
    'cuda:1'
    """
    if not isinstance(text, str) or not _FORM.fullmatch(text):
        raise AttnBridgeError(f"--device must be auto, cpu, mps, cuda or cuda:NUMBER, not {text!r}")
    return text


def pick_device(name: str | None = None) -> torch.device:
    """The device of a name.

    Args:
        name: ``cpu``, ``mps``, ``cuda`` or ``cuda:NUMBER``; ``auto`` or ``None``: CUDA where there is a GPU, else MPS
            where there is one, else the CPU.

    Raises:
        AttnBridgeError: for one that has another form, or is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    import torch

    name = device_name("auto" if name is None else name)
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    known = ["cpu", *(["mps"] if mps else []), *(f"cuda:{i}" for i in range(torch.cuda.device_count()) if cuda)]
    if name not in known and not (name == "cuda" and cuda):
        raise AttnBridgeError(f"device {name!r} is not available here; there is: {', '.join(known)}")
    return torch.device(name)
