"""One network of the list: how it is built and called, the layer that a person would choose, and its map by hand.

Nothing here imports attnbridge: the map is a plain hook, :func:`torch.autograd.grad` and the two lines of Grad-CAM
(Selvaraju et al. 2017, equations 1 and 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CLASSES = 10
SEED = 23


@dataclass(frozen=True)
class Grid:
    """How a layer's features become ``(B, C, height, width)``.

    Args:
        kind: ``"channels first"`` for ``(B, C, h, w)``, ``"channels last"`` for ``(B, h, w, C)``, ``"tokens"`` for
            ``(B, prefix + h * w + suffix, C)`` in reading order.
        height: rows of positions.
        width: columns of positions.
        prefix: tokens before the patches: class, distillation, registers.
        suffix: tokens after the patches: YOLOS's detection tokens.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0
    suffix: int = 0

    def arrange(self, features: Tensor) -> Tensor:
        """``(B, C, height, width)``, or ValueError where the features are of another shape."""
        height, width = self.height, self.width
        if self.kind == "channels first" and features.shape[2:] == (height, width):
            return features
        if self.kind == "channels last" and features.ndim == 4 and features.shape[1:3] == (height, width):
            return features.permute(0, 3, 1, 2)
        count = self.prefix + height * width + self.suffix
        if self.kind == "tokens" and features.ndim == 3 and features.shape[1] == count:
            patches = features[:, self.prefix : count - self.suffix]
            return patches.transpose(1, 2).reshape(len(features), -1, height, width)
        raise ValueError(f"features of shape {tuple(features.shape)} are not {self}")


def channels_first(height: int, width: int) -> Grid:
    return Grid("channels first", height, width)


def channels_last(height: int, width: int) -> Grid:
    return Grid("channels last", height, width)


def tokens(height: int, width: int, prefix: int = 0, suffix: int = 0) -> Grid:
    return Grid("tokens", height, width, prefix, suffix)


@dataclass(frozen=True)
class Also:
    """Another layer whose map is as defensible, and why.

    Args:
        layer: the module's name.
        reason: why its map is as good.
        grid: its grid; the network's own where None.
        copied: True for the features as the layer gave them, before an in-place activation that follows changes them.
    """

    layer: str
    reason: str
    grid: Grid | None = None
    copied: bool = False


def as_is(answer: Any) -> Any:
    """The answer is the logits, ``(B, K)``."""
    return answer


def dot_logits(answer: Any) -> Any:
    """``.logits`` of transformers' outputs."""
    return answer.logits


def key_logits(answer: Any) -> Any:
    """``["logits"]`` of a dict."""
    return answer["logits"]


def first(answer: Any) -> Any:
    """The first of a tuple."""
    return answer[0]


def one_logit(answer: Any) -> Any:
    """A binary network's ``(B,)`` as the scores of one class, ``(B, 1)``."""
    return answer[:, None]


USUAL = (as_is, dot_logits, key_logits, first, one_logit)


def call(network: nn.Module, images: Tensor) -> Any:
    """As nearly all are called: with the images, nothing else."""
    return network(images)


@dataclass(frozen=True)
class Network:
    """One configuration of the list.

    Args:
        name: of the configuration, unique.
        family: the architecture, whoever wrote it.
        origin: ``"timm"``, ``"torchvision"``, ``"transformers"``, ``"open_clip"`` or ``"own"``.
        build: makes the module, with random weights.
        layer: the module's name, chosen by hand; empty where ``refused``.
        reason: why this one; where ``refused``, why there is none.
        grid: how its features become ``(B, C, h, w)``; None where ``refused``.
        size: height and width of the images.
        score: from the raw answer to a class's scores, ``(B, K)``.
        forward: how the network is called with images ``(B, 3, *size)``.
        also: other layers that are as defensible, each with its reason.
        refused: True where no layer has positions, so that a clear error is the right answer.
        seed: of the weights.
    """

    name: str
    family: str
    origin: str
    build: Callable[[], nn.Module]
    layer: str
    reason: str
    grid: Grid | None
    size: tuple[int, int] = (96, 128)
    score: Callable[[Any], Tensor] = as_is
    forward: Callable[[nn.Module, Tensor], Any] = call
    also: tuple[Also, ...] = ()
    refused: bool = False
    seed: int = SEED

    @property
    def usual(self) -> bool:
        """True where nothing but the network and its images has to be told: the logits are found."""
        return self.score in USUAL and self.forward is call


def images(entry: Network, count: int = 2) -> Tensor:
    """``(count, 3, *size)``: blobs of about a quarter of the image with fine noise on them, the same at each call."""
    generator = torch.Generator().manual_seed(entry.seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    fine = torch.randn(count, 3, *entry.size, generator=generator)
    return F.interpolate(coarse, entry.size, mode="bicubic") + 0.3 * fine


def build(entry: Network) -> nn.Module:
    """The network in eval mode and float32, the same weights at each call.

    What initialisation leaves constant (norms, biases, layer scales of 1e-6, zero heads) is drawn too, weights of
    nearly nothing are scaled up, and batch norms get the statistics of four images, so that no branch is silent,
    activations neither die nor explode, and positions differ.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entry.seed)
        network = entry.build().float().eval()
        draw_constants(network)
        strengthen(network)
        calibrate(network, entry)
    return network.requires_grad_(True)


@torch.no_grad()
def draw_constants(network: nn.Module) -> None:
    """Random values where a parameter is one constant."""
    for name, parameter in network.named_parameters():
        if parameter.numel() < 2 or parameter.min() != parameter.max():
            continue
        value = float(parameter.flatten()[0])
        scale = torch.rand_like(parameter) + 0.5
        if abs(value) >= 0.1:  # norms
            parameter.mul_(scale)
        elif value != 0 or (parameter.ndim == 1 and name.endswith("weight")):  # layer scales, last norms of a branch
            parameter.copy_(scale / 2)
        elif parameter.ndim == 1:
            parameter.normal_(0, 0.1)
        else:
            parameter.normal_(0, 0.5 / max(parameter[0].numel(), 1) ** 0.5)


@torch.no_grad()
def strengthen(network: nn.Module) -> None:
    """Linear layers and convolutions that are drawn with a small constant deviation keep their input's scale."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            gain = float(module.weight.std()) * module.weight[0].numel() ** 0.5
            if gain < 0.7:
                module.weight.mul_(1 / gain)


@torch.no_grad()
def calibrate(network: nn.Module, entry: Network) -> None:
    """Running statistics of four images for each batch norm that keeps them."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all that it has seen
        norm.train()
    entry.forward(network, images(entry, 4))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def first_tensor(output: Any) -> Tensor:
    """What a layer gave: itself, or the first tensor of a tuple, a mapping or an output object."""
    while not isinstance(output, Tensor):
        parts = output.values() if isinstance(output, Mapping) else output
        output = next(part for part in parts if part is not None)
    return output


def features_and_scores(
    network: nn.Module, entry: Network, images: Tensor, layer: str, copied: bool = False
) -> tuple[Tensor, Tensor]:
    """What the layer gave, as the network went on with it, and the scores of the classes ``(B, K)``.

    Of a layer that is called more than once the last call counts. With ``copied`` the network goes on with a copy, so
    that an in-place activation after the layer leaves the features as they are.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        seen.append(first_tensor(output))
        return output.clone() if copied else None

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = entry.score(entry.forward(network, images))
    finally:
        handle.remove()
    return seen[-1], scores


def independent_map(
    network: nn.Module,
    entry: Network,
    images: Tensor,
    classes: int | Tensor | None = None,
    accepted: Also | None = None,
) -> Tensor:
    r"""Grad-CAM by hand, ``(B, 1, h, w)``: :math:`\mathrm{ReLU}(\sum_k \alpha_k A_k)`, :math:`\alpha_k` the mean over
    positions of :math:`\partial s_c / \partial A_k`. Nothing is upsampled or normalised.

    Args:
        network: in eval mode, float32; see :func:`build`.
        entry: its line of the list.
        images: ``(B, 3, *entry.size)``.
        classes: one class for all images, one for each ``(B,)``, or None for each image's highest score.
        accepted: the layer of this line of ``entry.also`` in the place of ``entry.layer``.
    """
    layer, grid, copied = entry.layer, entry.grid, False
    if accepted is not None:
        layer, grid, copied = accepted.layer, accepted.grid or entry.grid, accepted.copied
    features, scores = features_and_scores(network, entry, images, layer, copied)
    chosen = scores.argmax(1) if classes is None else torch.as_tensor(classes).expand(len(scores))
    total = scores.gather(1, chosen[:, None]).sum()
    gradient = torch.autograd.grad(total, features, allow_unused=True)[0]
    if gradient is None or grid is None:
        raise ValueError(f"{entry.name}: the score does not depend on {layer}")
    weights = grid.arrange(gradient).mean((2, 3), keepdim=True)
    return (weights * grid.arrange(features)).sum(1, keepdim=True).relu().detach()
