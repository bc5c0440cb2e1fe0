"""How much each filter of a pretrained network is worth to new classes: DELTA's channel weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from attnbridge.attention.beginning import find_beginning
from attnbridge.attention.observe import head_input
from attnbridge.data.classes import ClassData
from attnbridge.methods.teacher import Teacher

PICTURES = 64
"""On how many training pictures the loss of filters is measured."""
AT_ONCE = 512
"""Pictures, each without another filter, that go through the network at once."""


def filter_importance(source: Teacher, layers: Sequence[str], data: ClassData) -> dict[str, Tensor]:
    r"""Softmax over a layer's channels of what the loss of the new classes gains when the channel is zero.

    .. math:: a_j = \mathrm{softmax}_j\bigl(L(F \setminus j) - L(F)\bigr)

    (DELTA, Li et al., ICLR 2019, Section 3.2.) The loss is that of a linear head on the source's features, trained on
    all training pictures by L-BFGS; it is measured on 64 of them, as many of each class as can be.

    Args:
        source: the pretrained network.
        layers: names, ``(C,)`` each in the answer.
        data: whose training pictures and classes count.

    Returns:
        Weights of each layer's channels, ``(C,)``, summing to 1.
    """
    device = next(source.network.parameters()).device
    pictures, labels = _training(data)
    labels = labels.to(device)
    read = torch.cat([_read(source, part.to(device)) for part in torch.split(pictures, data.batch_size)])
    head = _linear_head(read, labels, len(data.classes))
    chosen = _spread(labels)
    images = source.normalised(pictures[chosen.cpu()].to(device))
    return {name: _ablated(source, name, images, labels[chosen], head) for name in layers}


def _training(data: ClassData) -> tuple[Tensor, Tensor]:
    """Training pictures as evaluation sees them, ``(n, 3, H, W)``, and their classes."""
    dataset = data.plain("train")
    samples = [dataset[i] for i in track(range(len(dataset)), "reading pictures", transient=True, console=_console())]
    return torch.stack([s["image"] for s in samples]), torch.stack([s["labels"] for s in samples]).argmax(1)


def _console() -> Console:
    return Console(stderr=True)


def _read(source: Teacher, images: Tensor) -> Tensor:
    """What the source's classifier reads of images in [0, 1], ``(B, D)``."""
    with head_input(source.network) as read:
        source.asked(images)
    return read[0]


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


def _spread(labels: Tensor) -> Tensor:
    """Places of pictures, the first of each class, then the second, and so on."""
    seen: dict[int, int] = {}
    order = []
    for place, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], label, place))
    return torch.tensor([place for *_, place in sorted(order)[:PICTURES]], device=labels.device)


def _ablated(source: Teacher, layer: str, images: Tensor, labels: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """The layer's weights: several channels at once, each taken from a copy of the pictures' features."""
    network = source.network
    beginning = find_beginning(network, [layer], images[:1])
    features = beginning.run(network, images)
    channels = features.shape[1]
    step = max(1, AT_ONCE // len(images))
    gains = []
    with torch.no_grad(), beginning.skipped(network):
        whole = _loss(source, features, labels, head)
        for begin in track(range(0, channels, step), f"ablating {layer}", transient=True, console=_console()):
            without = torch.arange(begin, min(begin + step, channels), device=features.device)
            copies = features.repeat(len(without), 1, 1, 1).view(len(without), *features.shape)
            copies[torch.arange(len(without)), :, without] = 0
            gains.append(_loss(source, copies.flatten(0, 1), labels, head) - whole)
    return torch.cat(gains).softmax(0)


def _loss(source: Teacher, features: Tensor, labels: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each copy of the pictures, ``(K,)``, from the features on."""
    with head_input(source.network) as read:
        source.network(features.contiguous(memory_format=torch.channels_last))
    logits = read[0] @ head[0].T + head[1]
    each = F.cross_entropy(logits, labels.repeat(len(features) // len(labels)), reduction="none")
    return each.view(-1, len(labels)).mean(1)
