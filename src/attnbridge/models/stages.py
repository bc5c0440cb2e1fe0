"""Layers of two networks that belong together: the same resolution, the last of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from attnbridge.attention.layers import eval_mode, spatial_of, weighs
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError

Stages = dict[tuple[int, int], str]

SHORTCUTS = ("downsample", "shortcut")
"""What timm, torchvision and Hugging Face call a convolution beside a block's main path."""


def find_stages(network: nn.Module, image_size: Size) -> Stages:
    """For each resolution, from the finest on, the last module that gives features of it.

    Modules that hold layers are taken, as ``layer1`` of a ResNet; where a network has none, or one that holds all its
    convolutions, as VGG's ``features``, single layers. A convolution with its norm is no stage beside a larger one: the
    next stage may begin with it at the resolution of the last.

    >>> layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    >>> find_stages(nn.Sequential(*layers), 16)
    {(8, 8): '1', (4, 4): '2'}
    """
    return _stages(network, _outputs(network, image_size), image_size)


def _stages(network: nn.Module, ran: Sequence[tuple[str, nn.Module, Tensor]], image_size: Size) -> Stages:
    height, width = sides(image_size)
    stages: Stages = {}
    single: Stages = {}
    for name, module, output in ran:
        try:
            size = spatial_of(output, network, height, width)(output).shape[-2:]
        except AttnBridgeError:
            continue
        if min(size) < 2:
            continue
        place = (size[0], size[1])
        if not any(any(True for _ in child.parameters()) for child in module.children()):
            single[place] = name
        elif place not in stages or _layers(module) > 1 or _layers(network.get_submodule(stages[place])) == 1:
            stages[place] = name
    return dict(sorted((single if _is_flat(network, stages) else stages).items(), reverse=True))


def _layers(module: nn.Module) -> int:
    return sum(weighs(one) for one in module.modules())


def _is_flat(network: nn.Module, stages: Stages) -> bool:
    """Whether there are no stages, or the only one holds convolutions itself."""
    if len(stages) > 1:
        return False
    return all(any(isinstance(c, nn.Conv2d) for c in network.get_submodule(s).children()) for s in stages.values())


def _outputs(network: nn.Module, image_size: Size) -> list[tuple[str, nn.Module, Tensor]]:
    """The modules that give tokens or maps, in the order in which they end, with the shape of what they give in eval
    mode, as tensors without memory."""
    ran: list[tuple[str, nn.Module, Tensor]] = []

    def note(name: str, module: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            ran.append((name, module, output.to("meta")))

    with ExitStack() as stack, torch.no_grad(), eval_mode(network):
        for name, module in network.named_modules():
            if name:
                hook = module.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))
                stack.callback(hook.remove)
        parameter = next(network.parameters())
        network(torch.rand(1, 3, *sides(image_size), dtype=parameter.dtype, device=parameter.device))
    return ran


def pair_stages(student: nn.Module, teacher: nn.Module, image_size: Size) -> list[tuple[str, str]]:
    """The stages of two networks that have one resolution, student first.

    Raises:
        AttnBridgeError: if there are none, with the resolutions of both.

    >>> small = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> pair_stages(small, nn.Sequential(nn.Conv2d(3, 9, 3, 2, 1), nn.ReLU(), nn.Flatten()), 16)
    [('0', '1')]
    """
    ours, theirs = find_stages(student, image_size), find_stages(teacher, image_size)
    pairs = [(ours[size], theirs[size]) for size in ours if size in theirs]
    if not pairs:
        raise AttnBridgeError(
            f"student and teacher have no resolution in common ({sorted(ours)} and {sorted(theirs)}); name "
            "pairs of layers"
        )
    return pairs


def trained_stages(network: nn.Module, image_size: Size, count: int = 4) -> list[str]:
    """The deepest ``count`` stages that are trained, from the finest on.

    Raises:
        AttnBridgeError: if there are none.
    """
    return _trained(network, find_stages(network, image_size).values(), count)


def aligned_layers(network: nn.Module, image_size: Size, count: int = 4) -> list[str]:
    """The layers whose features are aligned: of the deepest ``count`` stages that are trained, from the finest on.

    Of each the last convolution of its last block, before batch norm, shortcut and ReLU (AFA's framework.py:83, DELTA's
    channel_eval.py:94): aligning what follows mostly aligns the batch's statistics with the running ones. Where a block
    does not end with a convolution, as in transformers and ConvNeXt, its output.

    Raises:
        AttnBridgeError: if there are none.

    >>> block = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
    >>> aligned_layers(nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16)
    ['0.0']
    """
    ran = _outputs(network, image_size)
    layers = dict.fromkeys(_last_convolution(ran, name) for name in _stages(network, ran, image_size).values())
    return _trained(network, layers, count)


def _trained(network: nn.Module, names: Iterable[str], count: int) -> list[str]:
    trained = [n for n in names if any(p.requires_grad for p in network.get_submodule(n).parameters())]
    if not trained:
        raise AttnBridgeError("no layer that is trained has features to align; freeze less, or name model.layers")
    return trained[-count:]


def _last_convolution(ran: Sequence[tuple[str, nn.Module, Tensor]], stage: str) -> str:
    """The convolution that makes a stage's channels, where only norms, shortcuts and layers without weights follow."""
    end = [name for name, *_ in ran].index(stage)
    for name, module, output in reversed(ran[: end + 1]):
        if weighs(module) and not any(part in SHORTCUTS for part in name.split(".")):
            whole = isinstance(module, nn.Conv2d) and output.shape[1] == ran[end][2].shape[1]
            return name if whole else stage
    return stage
