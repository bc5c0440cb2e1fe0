"""The frozen beginning of a network: run it alone, and the rest of the network on what it gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnbridge.attention.layers import check_layer
from attnbridge.errors import AttnBridgeError


class _Reached(Exception):  # noqa: N818 (no error)
    """Ends a forward pass where its features are known."""


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
        found: list[Tensor] = []

        def reached(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found.append(output)
            raise _Reached

        handle = network.get_submodule(self.last).register_forward_hook(reached)
        try:
            with torch.no_grad():
                network(images)
        except _Reached:
            return found[0]
        finally:
            handle.remove()
        raise AttnBridgeError(f"{self.last!r} did not run in the forward pass")

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


def find_beginning(network: nn.Module, frozen: Sequence[str], images: Tensor) -> Beginning:
    """What of a network need not be run again, since it is not trained.

    Args:
        network: in the mode in which it is trained, its frozen modules in eval mode.
        frozen: names of the frozen modules.
        images: any, ``(B, 3, H, W)``, to try it on.

    Raises:
        AttnBridgeError: if nothing is frozen, something that is trained runs before the end of what is frozen, or the
            rest of the network needs more than the output of the last frozen module.

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
    order = _order(network, images)
    ran = order[: max(order.index(name) for name in frozen if name in order) + 1]
    outermost = tuple(n for n in ran if not any(n != m and n.startswith(f"{m}.") for m in ran))
    for name in outermost:
        if any(p.requires_grad for p in network.get_submodule(name).parameters()):
            raise AttnBridgeError(
                f"data.views: {name!r} is trained, but runs before {ran[-1]!r}, which is frozen; add it to model.frozen"
            )
    found = Beginning(ran[-1], outermost)
    if not _is_whole(network, found, images):
        raise AttnBridgeError(
            f"data.views: the network needs more than the output of its last frozen module, {found.last!r}; freeze up "
            "to another module, or leave data.views out"
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


def _is_whole(network: nn.Module, beginning: Beginning, images: Tensor) -> bool:
    """Whether beginning and rest make the network."""
    modes = {module: module.training for module in network.modules()}
    network.eval()  # dropout would differ
    try:
        features = beginning.run(network, images)
        with torch.no_grad(), beginning.skipped(network):
            answer = network(features)
        with torch.no_grad():
            return torch.allclose(answer, network(images), rtol=1e-3, atol=1e-4)
    except (RuntimeError, TypeError, AssertionError):
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
