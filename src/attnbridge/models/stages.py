"""Layers of two networks that belong together: the same resolution, the last of each."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from attnbridge.attention.layers import eval_mode, is_channels_last, prefix_tokens, to_maps
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError

Stages = dict[tuple[int, int], str]


def find_stages(network: nn.Module, image_size: Size) -> Stages:
    """For each resolution, from the finest on, the last module that gives features of it.

    Modules that hold layers are taken, as ``layer1`` of a ResNet; where a network has none, single layers.

    >>> layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    >>> find_stages(nn.Sequential(*layers), 16)
    {(8, 8): '1', (4, 4): '2'}
    """
    height, width = sides(image_size)
    prefix = prefix_tokens(network)
    stages: Stages = {}
    single: Stages = {}

    def note(name: str, module: nn.Module, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim not in (3, 4):
            return
        try:
            maps = to_maps(output, prefix, is_channels_last(output, height, width), height / width)
        except AttnBridgeError:
            return
        if min(maps.shape[-2:]) > 1:
            found = stages if any(any(True for _ in child.parameters()) for child in module.children()) else single
            found[maps.shape[-2], maps.shape[-1]] = name

    with ExitStack() as stack, torch.no_grad(), eval_mode(network):
        for name, module in network.named_modules():
            if name:
                hook = module.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))
                stack.callback(hook.remove)
        parameter = next(network.parameters())
        network(torch.rand(1, 3, height, width, dtype=parameter.dtype, device=parameter.device))
    return dict(sorted((stages or single).items(), reverse=True))


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
    names = find_stages(network, image_size).values()
    trained = [n for n in names if any(p.requires_grad for p in network.get_submodule(n).parameters())]
    if not trained:
        raise AttnBridgeError("no layer that is trained has features to align; freeze less, or name model.layers")
    return trained[-count:]
