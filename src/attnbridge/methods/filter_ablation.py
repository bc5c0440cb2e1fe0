"""How much each filter of a pretrained network is worth to new classes: DELTA's channel weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnbridge.attention.layers import is_channels_last
from attnbridge.attention.observe import capture_head_input, observe
from attnbridge.data.plain import as_batch, image_of
from attnbridge.data.sample import Batch
from attnbridge.losses.transfer import Variant
from attnbridge.models.frozen_stem import find_stem_before
from attnbridge.models.teacher import Teacher

IMAGES = 64
"""On how many training images the loss of filters is measured."""
AT_ONCE = 512
"""Images, each without another filter, that go through the network at once."""


def filter_importance(
    source: Teacher, layers: Sequence[str], images: DataLoader[Batch], num_classes: int, variant: Variant = "code"
) -> dict[str, Tensor]:
    r"""How much of each filter's worth to new classes belongs to a channel of a layer.

    .. math:: a_j = \mathrm{softmax}_j(g_j), \qquad g_j = L(F \setminus j) - L(F)

    with L the loss where channel j is zero (DELTA, Li et al., ICLR 2019); ``code``, as AFA's authors have
    it, softens standardised gains, :math:`(g_j - \bar g) / 5 \sigma_g`. The loss is that of a linear head on the
    source's features, trained on all training images by L-BFGS; it is measured on 64 of them, of each class as many
    as can be.

    Args:
        source: the pretrained network.
        layers: names, ``(C,)`` each in the answer.
        images: loader of the training images in order, as evaluation sees them; batches as
            :func:`~attnbridge.data.plain.as_batch` takes them.
        num_classes: number of classes.
        variant: of the softmax.

    Returns:
        Weights of each layer's channels, ``(C,)``, summing to 1.
    """
    device = source.mean.device
    loader = track(images, "reading images", transient=True, console=Console(stderr=True))
    read, labels = [], []
    for batch in loader:
        known = as_batch(batch, num_classes)
        read.append(_read(source, source.normalised(known["image"].to(device))))
        labels.append(known["labels"].argmax(1).to(device))
    head = _linear_head(torch.cat(read), torch.cat(labels), num_classes)
    chosen = _spread(torch.cat(labels).tolist())
    few = source.normalised(torch.stack([image_of(images.dataset[n]) for n in chosen]).to(device))
    gains = {name: _gains(source, name, few, torch.cat(labels)[chosen], head) for name in layers}
    if variant == "code":
        gains = {name: (each - each.mean()) / each.std().clamp_min(1e-12) / 5 for name, each in gains.items()}
    return {name: each.softmax(0) for name, each in gains.items()}


def _read(source: Teacher, given: Tensor) -> Tensor:
    """What the source's classifier reads of normalised images, or of what its beginning made of them, ``(B, D)``."""
    with torch.no_grad(), capture_head_input(source.network, source.head) as read:
        source.network(given)
    return read[0].float()


def _linear_head(read: Tensor, labels: Tensor, count: int, decay: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weight ``(N, D)`` and bias ``(N,)`` of a linear classifier of standardised features."""
    mean, std = read.mean(0), read.std(0).clamp_min(1e-6)
    scaled = (read - mean) / std
    weight = torch.zeros(count, read.shape[1], device=read.device, requires_grad=True)
    bias = torch.zeros(count, device=read.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(scaled @ weight.T + bias, labels) + decay / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    own = (weight / std).detach()
    return own, (bias - own @ mean).detach()


def _spread(labels: Sequence[int]) -> list[int]:
    """Places of images, the first of each class, then the second, and so on."""
    seen: Counter[int] = Counter()
    order = []
    for place, label in enumerate(labels):
        seen[label] += 1
        order.append((seen[label], label, place))
    return [place for *_, place in sorted(order)[:IMAGES]]


def _gains(source: Teacher, layer: str, images: Tensor, labels: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """What the loss gains from each channel's absence: several at once, each in a copy of the images.

    What comes before the layer is run once, where the network can be cut there.
    """
    network = source.network
    features = observe(network, images[:1], [layer], grad=False).features[layer]
    last = features.ndim == 3 or is_channels_last(features, *images.shape[-2:])
    axis = features.ndim - 1 if last else 1
    stem, given, cut = find_stem_before(network, layer, images[:1]), images, ExitStack()
    if stem is not None:
        given = stem.run(network, images)
        cut.enter_context(stem.skipped(network))
    gains = []
    step = max(1, AT_ONCE // len(images))
    begins = track(
        range(0, features.shape[axis], step), f"ablating {layer}", transient=True, console=Console(stderr=True)
    )
    with cut:
        whole = _loss(source, given, labels, head)
        for begin in begins:
            channels = range(begin, min(begin + step, features.shape[axis]))
            with _without(network.get_submodule(layer), channels, axis, len(images)):
                gains.append(_loss(source, torch.cat([given] * len(channels)), labels, head) - whole)
    return torch.cat(gains)


@contextmanager
def _without(module: nn.Module, channels: Sequence[int], axis: int, count: int) -> Iterator[None]:
    """Inside, the k-th ``count`` images of a batch lack the k-th of the channels."""

    def zero(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        for k, channel in enumerate(channels):
            output[k * count : (k + 1) * count].select(axis, channel).zero_()
        return output

    hook = module.register_forward_hook(zero)
    try:
        yield
    finally:
        hook.remove()


def _loss(source: Teacher, given: Tensor, labels: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each copy of the images, ``(K,)``."""
    logits = _read(source, given) @ head[0].T + head[1]
    each = F.cross_entropy(logits, labels.repeat(len(given) // len(labels)), reduction="none")
    return each.view(-1, len(labels)).mean(1)
