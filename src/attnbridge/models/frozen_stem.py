"""The frozen stem of a network: run it alone, and the rest of the network on what it gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from attnbridge.arguments import check_network, check_tensors
from attnbridge.attention.layers import check_layer, eval_mode
from attnbridge.attention.observe import forward_until, observe
from attnbridge.bounds import check_names
from attnbridge.data.sample import Batch, as_floats
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError


@dataclass(frozen=True)
class FrozenStem:
    """The modules that run up to the end of a network's last frozen one.

    Attributes:
        last: name of the module whose output the rest of the network continues from.
        modules: names of all that run before it ends, the outermost only, and its own.
    """

    last: str
    modules: tuple[str, ...]

    def run(self, network: nn.Module, images: Tensor) -> Tensor:
        """What the stem makes of ``images``, as the network wants them; no gradient is recorded."""
        with torch.no_grad():
            return forward_until(network, images, self.last)

    @contextmanager
    def skipped(self, network: nn.Module) -> Iterator[None]:
        """Inside, the network takes what :meth:`run` gives in the place of images."""
        with ExitStack() as stack:
            for name in self.modules:
                module = network.get_submodule(name)
                module.forward = _first
                stack.callback(module.__dict__.pop, "forward")
            yield


def _first(value: Any, *_: Any, **__: Any) -> Any:
    return value


def find_frozen_stem(
    network: nn.Module, frozen: Sequence[str], images: Tensor, layers: Sequence[str] = ()
) -> FrozenStem:
    """What of a network need not be run again, since it is not trained.

    Args:
        network: its modes are restored.
        frozen: names of the frozen modules.
        images: any, ``(B, 3, H, W)``, to try it on, in eval mode.
        layers: those whose features are looked at; none may lie before the end of the stem.

    Raises:
        AttnBridgeError: if nothing is frozen, a name is unknown or does not run, something that is trained runs before
            the end of what is frozen, or the rest of the network needs more than the output of the last frozen module.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> _ = network[0].requires_grad_(False)
    >>> stem = find_frozen_stem(network, ["0"], torch.rand(1, 3, 8, 8))
    >>> features = stem.run(network, torch.rand(2, 3, 8, 8))
    >>> with stem.skipped(network):
    ...     network(features).shape
    torch.Size([2, 5])
    """
    check_network(network)
    check_tensors(images=(images, "B C H W"))
    frozen, layers = check_names("frozen", frozen), check_names("layers", layers)
    if not frozen:
        raise AttnBridgeError("data.views needs model.frozen: the modules from the first one on that are not trained")
    for name in frozen:
        check_layer(network, name)
    with eval_mode(network):
        return _found(network, frozen, images, layers)


def find_stem_before(network: nn.Module, layer: str, images: Tensor) -> FrozenStem | None:
    """The longest stem of a network without trained weights that ends with ``layer`` or before it.

    Args:
        network: in eval mode.
        layer: name of a module that runs.
        images: any, ``(B, 3, H, W)``, to try it on.

    Returns:
        ``None`` where the network cannot be cut.

    >>> block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> stem = find_stem_before(network.requires_grad_(False).eval(), "1.0", torch.rand(1, 3, 8, 8))
    >>> stem.last
    '1.0'
    """
    order = _order(network, images)
    for name in reversed(order[: order.index(layer) + 1]):
        try:
            return _found(network, [name], images, ())
        except AttnBridgeError:
            continue
    return None


def _found(network: nn.Module, frozen: Sequence[str], images: Tensor, layers: Sequence[str]) -> FrozenStem:
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
    found = FrozenStem(ran[-1], outermost)
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


def _is_whole(network: nn.Module, stem: FrozenStem, images: Tensor, layers: Sequence[str]) -> bool:
    """Whether stem and rest make the network."""
    whole = observe(network, images, layers, grad=False)
    try:
        features = stem.run(network, images)
        with stem.skipped(network):
            parts = observe(network, features, layers, grad=False)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, AttnBridgeError):
        return False
    pairs = [(parts.logits, whole.logits), *((parts.features[name], whole.features[name]) for name in layers)]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


class StemCache:
    """What a frozen stem makes of images may be kept: this takes it in the place of the images, and makes it.

    Args:
        network: whose stem it is.
        frozen: names of its frozen modules.
        layers: those whose features are looked at, asked for when the stem is sought.
        normalised: from images in [0, 1] to what the network wants.
        image_size: side of the images, or height and width, pixels.
    """

    def __init__(
        self,
        network: nn.Module,
        frozen: Sequence[str],
        layers: Callable[[], Sequence[str]],
        normalised: Callable[[Tensor], Tensor],
        image_size: Size,
    ) -> None:
        self.network, self.frozen, self.layers = network, tuple(frozen), layers
        self.normalised, self.image_size = normalised, image_size
        self._stem: FrozenStem | None = None

    @property
    def stem(self) -> FrozenStem:
        """The part of the network that is frozen and need not be run again on the same image.

        Raises:
            AttnBridgeError: see :func:`find_frozen_stem`.
        """
        if self._stem is None:
            images = torch.rand(1, 3, *sides(self.image_size), generator=torch.Generator().manual_seed(0))
            device = next(self.network.parameters()).device
            self._stem = find_frozen_stem(self.network, self.frozen, self.normalised(images.to(device)), self.layers())
        return self._stem

    @contextmanager
    def inputs(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """What the network is to be given of several batches at once: their images, or, where it is kept, what its stem
        makes of them; inside, the network then does without its stem."""
        if "features" not in batches[0]:
            yield self.normalised(torch.cat([batch["image"] for batch in batches]))
            return
        dtype = next(self.network.parameters()).dtype
        kept = torch.cat([batch["features"] for batch in batches]).to(dtype)
        with self.stem.skipped(self.network):
            yield kept.contiguous(memory_format=torch.channels_last) if kept.ndim == 4 else kept

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """What of a batch of fixed views is kept: what the stem makes of the images.

        Args:
            batch: in 8 bits; its saliency maps and masks are kept as they are.
        """
        device = next(self.network.parameters()).device
        images = self.normalised(as_floats(batch)["image"].to(device))
        known: dict[str, Any] = {name: value for name, value in batch.items() if name in ("saliency", "mask")}
        return {"features": self.stem.run(self.network, images), **known}

    def key(self) -> tuple[str, dict[str, Tensor]]:
        """All that :meth:`features` depends on, but the normalisation: structure in words, weights by name."""
        modules = self.stem.modules
        inner = (f"{name}: {self.network.get_submodule(name)!r}" for name in modules)
        words = "\n".join([f"{type(self.network).__name__}, timm {timm.__version__}", *inner])
        inside = tuple(f"{name}." for name in modules)
        return words, {k: v for k, v in self.network.state_dict().items() if k.startswith(inside)}
