"""The frozen beginning of a network: run it alone, and the rest of the network on what it gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnbridge.attention.layers import check_layer, eval_mode
from attnbridge.attention.observe import glance, reach
from attnbridge.errors import AttnBridgeError


@dataclass(frozen=True)
class Beginning:
    """The modules that run up to the end of a network's last frozen one.

    Attributes:
        last: name of the module whose output the rest of the network continues from.
        modules: names of all that run before it ends, the outermost only, and its own.
    """

    last: str
    modules: tuple[str, ...]

    def run(self, network: nn.Module, images: Tensor) -> Tensor:
        """What the beginning makes of ``images``, as the network wants them; no gradient is recorded."""
        with torch.no_grad():
            return reach(network, images, self.last)

    @contextmanager
    def skipped(self, network: nn.Module) -> Iterator[None]:
        """Inside, the network takes what :meth:`run` gives in the place of pictures."""
        with ExitStack() as stack:
            for name in self.modules:
                module = network.get_submodule(name)
                module.forward = _first
                stack.callback(module.__dict__.pop, "forward")
            yield


def _first(value: Any, *_: Any, **__: Any) -> Any:
    return value


def find_beginning(network: nn.Module, frozen: Sequence[str], images: Tensor, layers: Sequence[str] = ()) -> Beginning:
    """What of a network need not be run again, since it is not trained.

    Args:
        network: its modes are restored.
        frozen: names of the frozen modules.
        images: any, ``(B, 3, H, W)``, to try it on, in eval mode.
        layers: those whose features are looked at; none may lie before the end of the beginning.

    Raises:
        AttnBridgeError: if nothing is frozen, a name is unknown or does not run, something that is trained runs before
            the end of what is frozen, or the rest of the network needs more than the output of the last frozen module.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> _ = network[0].requires_grad_(False)
    >>> beginning = find_beginning(network, ["0"], torch.rand(1, 3, 8, 8))
    >>> features = beginning.run(network, torch.rand(2, 3, 8, 8))
    >>> with beginning.skipped(network):
    ...     network(features).shape
    torch.Size([2, 5])
    """
    if not frozen:
        raise AttnBridgeError("data.views needs model.frozen: the modules from the first one on that are not trained")
    for name in frozen:
        check_layer(network, name)
    with eval_mode(network):
        return _found(network, frozen, images, layers)


def _found(network: nn.Module, frozen: Sequence[str], images: Tensor, layers: Sequence[str]) -> Beginning:
    order = _order(network, images)
    places = [order.index(name) for name in frozen if name in order]
    if not places:
        raise AttnBridgeError(f"data.views: {frozen[0]!r} does not run in the forward pass; name modules that do")
    ran = order[: max(places) + 1]
    outermost = tuple(n for n in ran if not any(n != m and n.startswith(f"{m}.") for m in ran))
    for name in outermost:
        if any(p.requires_grad for p in network.get_submodule(name).parameters()):
            raise AttnBridgeError(
                f"data.views: {name!r} is trained, but runs before {ran[-1]!r}, which is frozen; add it to model.frozen"
            )
    found = Beginning(ran[-1], outermost)
    if not _is_whole(network, found, images, layers):
        raise AttnBridgeError(
            f"data.views: the network, or the layer that is looked at, needs more than the output of its last frozen "
            f"module, {found.last!r}; freeze up to another module, or leave data.views out"
        )
    return found


def _order(network: nn.Module, images: Tensor) -> list[str]:
    """Names of the modules in the order in which they end."""
    order: list[str] = []
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name:
                handle = module.register_forward_hook(lambda *_, name=name: order.append(name))
                stack.callback(handle.remove)
        with torch.no_grad():
            network(images)
    return order


def _is_whole(network: nn.Module, beginning: Beginning, images: Tensor, layers: Sequence[str]) -> bool:
    """Whether beginning and rest make the network."""
    whole = glance(network, images, layers)
    try:
        features = beginning.run(network, images)
        with beginning.skipped(network):
            parts = glance(network, features, layers)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, AttnBridgeError):
        return False
    pairs = [(parts.logits, whole.logits), *((parts.features[name], whole.features[name]) for name in layers)]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
