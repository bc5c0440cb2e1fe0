"""What runs in a network's place while it is observed: compiled regions, and convolutions that are linear layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def replaced(modules: Iterable[nn.Module], make: Callable[[nn.Module], Callable[..., Any]]) -> Iterator[None]:
    """Let each module run what ``make`` gives for it, until the context ends; hooks run as before.

    Modules whose ``forward`` somebody else has replaced are left alone.
    """
    changed = []
    try:
        for module in modules:
            if "forward" not in vars(module):
                module.forward = make(module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def compiled_regions(network: nn.Module, names: Iterable[str], compiler: Callable[..., Any]) -> Any:
    """The largest parts of ``network`` that hold none of the named layers run compiled, and so do the layers.

    ``torch.compile`` of a whole network makes one graph of it, in which hooks that are set later never run and which
    can be differentiated neither twice nor for several classes at once. Cut at the layers it can be observed.

    Args:
        network: the network that was compiled.
        names: of the layers in it.
        compiler: what compiles a function, with the settings that the network was compiled with.
    """
    ancestors = {name.rpartition(".")[0] for name in names}
    ancestors |= {".".join(name.split(".")[:depth]) for name in ancestors for depth in range(name.count(".") + 1)}
    parts = [child for name in ancestors for child_name, child in network.get_submodule(name).named_children()
             if f"{name}.{child_name}".lstrip(".") not in ancestors]  # fmt: skip
    return replaced(parts, lambda part: partial(compiler(type(part).forward), part))


def linear_heads(network: nn.Module) -> Any:
    """Convolutions that cover their whole input run as the linear layers they are.

    VGG's first fully connected layer is a 7x7 convolution on 7x7 positions. As a convolution its backward pass for
    many classes is several times slower than as a matrix product of the same numbers; see ``benchmarks/maps.py``.
    """
    return replaced((m for m in network.modules() if _may_be_linear(m)), _linear_forward)


def _may_be_linear(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d:
        return False
    return module.groups == 1 and module.padding == (0, 0) and module.dilation == (1, 1)


def _linear_forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    assert isinstance(module, nn.Conv2d)

    def forward(features: Tensor) -> Tensor:
        if features.ndim != 4 or tuple(features.shape[2:]) != tuple(module.kernel_size):
            return nn.Conv2d.forward(module, features)
        weight = module.weight
        if not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
            features, weight = features.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        return F.linear(features.flatten(1), weight.flatten(1), module.bias)[:, :, None, None]

    return forward
