"""The logits of a network, and its head, the layer that gives them."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from attnbridge.attention.layers import eval_mode, find_head
from attnbridge.attention.observe import observe
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError, unknown_name

HEADS = (nn.Linear, nn.Conv2d)


def head_name(network: nn.Module, head: str | None, image_size: Size, check: bool = True) -> str:
    """The name of the layer that gives a network's logits.

    Args:
        network: from images to logits ``(B, N)``; run once in eval mode, its modes are restored.
        head: that name, a linear layer or a convolution; ``None``: what timm's networks name as their classifier, else
            the last linear layer (:func:`~attnbridge.attention.layers.find_head`).
        image_size: side of its images in pixels, or height and width.
        check: whether a layer that was found, and not named, has to be one that gives the logits.

    Raises:
        AttnBridgeError: for an unknown name, another kind of layer, or one that does not give the logits: it has
            another number of outputs, or a layer with weights comes after it.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    >>> head_name(network, None, 8)
    '3'
    >>> head_name(network, "0", 8)
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: head '0' does not give the logits: it has 4 outputs, and there are 9 logits; name
    the layer that does
    """
    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules() if name}
    if head is None:
        found = _found(network)
        if found not in names:
            raise AttnBridgeError(
                "network: is a single layer, so nothing lies before its head; give a network with features"
            )
        if check:
            _check_gives_logits(network, names[found], image_size)
        return names[found]
    if head not in names.values():
        likely = [name for module, name in names.items() if isinstance(module, HEADS)]
        raise unknown_name("head", head, likely)
    module = network.get_submodule(head)
    if not isinstance(module, HEADS):
        inside = [name for one, name in names.items() if name.startswith(f"{head}.") and isinstance(one, HEADS)]
        hint = f"; inside it there is {inside[-1]!r}" if inside else ""
        raise AttnBridgeError(
            f"head {head!r} is a {type(module).__name__}, but must be a Linear or a Conv2d, the layer that gives the "
            f"logits{hint}"
        )
    _check_gives_logits(network, head, image_size)
    return head


def _found(network: nn.Module) -> nn.Module:
    try:
        return find_head(network)
    except AttnBridgeError as error:
        raise AttnBridgeError(f"{error}, or name the layer that gives them, head=...") from None


def _check_gives_logits(network: nn.Module, head: str, image_size: Size) -> None:
    """Raise unless a head's outputs are the logits, or become them without further weights."""
    parameter = next(network.parameters())
    images = torch.rand(1, 3, *sides(image_size), generator=torch.Generator().manual_seed(0))
    order: list[str] = []
    with ExitStack() as stack, eval_mode(network):
        for name, module in network.named_modules():
            if name and any(True for _ in module.parameters(recurse=False)):
                hook = module.register_forward_hook(lambda *_, name=name: order.append(name))
                stack.callback(hook.remove)
        seen = observe(network, images.to(parameter.device, parameter.dtype), head, grad=False)
    given, logits = seen.features[head], seen.logits
    words = f"head {head!r} does not give the logits"
    if given.ndim not in (2, 4) or given.shape[1] != logits.shape[1]:
        count = given.shape[1] if given.ndim in (2, 4) else given.shape[-1]
        raise AttnBridgeError(
            f"{words}: it has {count} outputs, and there are {logits.shape[1]} logits; name the layer that does"
        )
    later = [name for name in order[order.index(head) + 1 :] if not head.startswith(f"{name}.")]
    if later and not _same(given, logits):
        raise AttnBridgeError(f"{words}: {later[-1]!r} comes after it; name the layer that does, head=...")


def _same(given: Tensor, logits: Tensor) -> bool:
    """Whether the outputs of a layer, or their means over positions, are the logits."""
    pooled = given.flatten(2).mean(2) if given.ndim == 4 else given
    return torch.allclose(pooled.float(), logits.float(), rtol=1e-3, atol=1e-5)
