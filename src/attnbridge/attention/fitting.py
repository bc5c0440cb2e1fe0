"""What a network can take: what to say of images that it cannot, and of weights that are no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError

_TOO_SMALL = ("Kernel size", "too small", "doesn't match model")
"""What PyTorch and timm say of images of a size that a network cannot take."""


@contextmanager
def naming_misfits(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Inside, an error that the network raises because its images cannot be right becomes one that says what is wrong
    with them; the network's own errors are left as they are."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        words = _misfit(network, images, str(error))
        if words is None:
            raise
        first = str(error).partition("\n")[0]
        raise AttnBridgeError(f"images: the network cannot take them: {words} ({first})") from error


def _misfit(network: nn.Module, images: Tensor, said: str) -> str | None:
    if f"{type(network).__name__}.forward() " in said and "positional argument" in said:
        return "its forward wants something else than images alone; give a module whose forward takes them and adds it"
    weight = next(network.parameters(), None)
    if weight is not None and weight.device != images.device:
        return f"they are on the device {images.device}, it is on {weight.device}; bring both to one"
    autocast = torch.is_autocast_enabled(images.device.type)
    if weight is not None and weight.is_floating_point() and weight.dtype != images.dtype and not autocast:
        return f"they are {images.dtype}, its weights {weight.dtype}; bring both to one type"
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and images.ndim == 3:
        return f"they are of shape {tuple(images.shape)}; expected (B, C, H, W)"
    if first is not None and images.ndim == 4 and first.in_channels != images.shape[1]:
        return f"they have {images.shape[1]} channels, it takes {first.in_channels}"
    if "more than 1 value per channel" in said:
        return "in training mode its batch norm needs several of them; call network.eval(), or give more"
    if images.ndim == 4 and any(words in said for words in _TOO_SMALL):
        return f"they are {images.shape[2]} pixels high and {images.shape[3]} wide; give the size that it was made for"
    return None


def check_differentiable(network: nn.Module) -> None:
    """Raise for a network without gradients inside: quantised, or an archive that is no module any more.

    >>> check_differentiable(torch.jit.script(nn.Linear(1, 1)))
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: the network is of TorchScript, whose layers cannot be looked into; give the
    module that it was made from
    """
    archive = "TorchScript" if isinstance(network, torch.jit.ScriptModule) else None
    if archive is None and isinstance(network, torch.fx.GraphModule) and "validate_inputs" in vars(network):
        archive = "torch.export"
    if archive:
        raise AttnBridgeError(
            f"the network is of {archive}, whose layers cannot be looked into; give the module that it was made from"
        )
    for name, module in network.named_modules():
        if ".quantized" in type(module).__module__:
            raise AttnBridgeError(
                f"{name or 'the network'} is quantised ({type(module).__name__}), and has no gradients, so a class has "
                "no map; give the network as it was before"
            )


def check_maps(maps: Tensor, network: nn.Module, images: Tensor) -> Tensor:
    """The maps that a network gave, if they are finite.

    Raises:
        AttnBridgeError: if they are not, naming where that comes from.
    """
    finite = maps.detach().isfinite()
    if bool(finite.all()):
        return maps
    bad = (~finite.flatten(1).all(1)).nonzero().flatten().tolist()
    raise AttnBridgeError(f"the maps of images {bad} of the batch are not finite: {_source(network, images)}")


def check_no_nan(logits: Tensor, network: nn.Module, images: Tensor) -> Tensor:
    """A network's logits, if none of them is NaN.

    Raises:
        AttnBridgeError: if one is, naming where that comes from.
    """
    if bool(logits.detach().isnan().any()):
        raise AttnBridgeError(f"the network's logits are NaN: {_source(network, images)}")
    return logits


def _source(network: nn.Module, images: Tensor) -> str:
    if not bool(images.detach().isfinite().all()):
        return "the images hold NaN or infinity"
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.is_floating_point() and not bool(value.detach().isfinite().all()):
            return f"the network's {name!r} holds NaN or infinity; load other weights"
    return "its weights and the images are finite, so something overflows on the way; look at its half precision"
