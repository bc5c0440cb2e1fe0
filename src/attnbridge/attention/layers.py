"""Find the layer to look at, and bring its output to ``(B, C, H, W)``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError, unknown

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def find_layer(network: nn.Module, image_size: Size = 224, channels: int = 3) -> str:
    """Name of the layer with the last spatial features: the last module, in order of execution, whose output still
    has several positions that the answer depends on.

    Poolings are passed over, parts of an attention are, and layers that run more than once. That is conv5_3's
    activation for a VGG, ``layer4`` for a ResNet, the last activation before pooling for an EfficientNet, the input of
    the last attention for a transformer whose class token is read.

    Args:
        network: the classifier; run once in eval mode on a random picture, restored afterwards. For a network inside
            ``DistributedDataParallel`` or ``torch.compile`` the name is that in the network itself.
        image_size: side of that input, or its height and width, pixels.
        channels: of that input.

    Raises:
        AttnBridgeError: if no layer has spatial features.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> find_layer(net, 16)
    '1'
    """
    height, width = sides(image_size)
    network = unwrap(network)
    prefix = prefix_tokens(network)
    trace = _Trace(prefix, height / width)
    parameter = next(network.parameters(), torch.zeros(()))
    images = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    images = images.to(parameter.device, parameter.dtype).requires_grad_()
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name and type(module) is not nn.Identity and not _is_part(network, name):
                stack.callback(module.register_forward_hook(trace.hook(name)).remove)
        stack.enter_context(eval_mode(network))
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            answer = network(images)
            return trace.last(answer)


def _is_part(network: nn.Module, name: str) -> bool:
    """Whether a module lies inside an attention, whose queries, keys and values are no features, or is compiled."""
    parents = [name[:i] for i, letter in enumerate(name) if letter == "."]
    kinds = [type(network.get_submodule(parent)).__name__.lower() for parent in parents]
    return "_orig_mod" in name or any(kind.startswith(("attn", "attention")) or "attention" in kind for kind in kinds)


class _Trace:
    """The spatial outputs of a forward pass, in order of execution."""

    def __init__(self, prefix: int, aspect: float) -> None:
        self.prefix, self.aspect = prefix, aspect
        self.outputs: list[tuple[str, Tensor]] = []
        self.pooled: list[Tensor] = []
        self.head: tuple[Tensor, Tensor] | None = None  # input and output of the last linear layer

    def hook(self, name: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, nn.Linear) and isinstance(output, Tensor) and output.ndim == 2:
                self.head = (inputs[0], output)
            if isinstance(module, _POOLING):
                self.pooled.append(output)
            elif any(output is p for p in self.pooled):
                pass  # a container that ends with a pooling
            elif isinstance(output, Tensor) and _is_spatial(output, self.prefix, self.aspect):
                self.outputs.append((name, output))

        return record

    def last(self, answer: Any) -> str:
        """The last output that the answer depends on; before the head, which may be new and all zero."""
        names = [name for name, _ in self.outputs]
        candidates = [(name, output) for name, output in self.outputs if names.count(name) == 1]
        if not candidates:
            raise AttnBridgeError("no layer of the network has spatial features; name one with `layer`")
        target = self.head[0] if self.head is not None and self.head[1] is answer else answer
        if not isinstance(target, Tensor) or not target.requires_grad:
            return candidates[-1][0]
        weights = torch.linspace(1, 2, target.numel(), device=target.device, dtype=target.dtype).view_as(target)
        for name, output in reversed(candidates):
            if not output.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(target, output, weights, retain_graph=True, allow_unused=True)
            if gradient is not None and gradient[:, self.prefix if gradient.ndim == 3 else 0 :].any():
                return name
        return candidates[-1][0]


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DistributedDataParallel`` or ``DataParallel``.

    >>> inner = nn.Linear(1, 1)
    >>> unwrap(nn.DataParallel(inner)) is inner
    True
    """
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            network = network.module
        elif "_orig_mod" in network._modules:
            network = network.get_submodule("_orig_mod")
        else:
            return network


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode; each module's own mode is restored afterwards.

    >>> network = nn.Sequential(nn.Dropout()).train()
    >>> with eval_mode(network):
    ...     network[0].training
    False
    >>> network[0].training
    True
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_layer(network: nn.Module, name: str) -> None:
    """Raise, with the nearest names, if ``network`` has no module called ``name``."""
    names = [n for n, _ in network.named_modules() if n]
    if name not in names:
        raise unknown("layer", name, names)


def prefix_tokens(network: nn.Module) -> int:
    """Number of class and register tokens that a transformer, of timm or torchvision, puts before its patch tokens;
    the network may lie inside another."""
    for module in network.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
        if _class_token(module) is not None:
            return 1
    return 0


def reads_class_token(network: nn.Module) -> bool:
    """Whether a transformer's answer comes from its class token, and not from the mean of its patches."""
    for module in network.modules():
        if _class_token(module) is not None:
            return getattr(module, "global_pool", "token") == "token"
    return False


def _class_token(module: nn.Module) -> Tensor | None:
    for name in ("cls_token", "class_token"):
        if isinstance(token := getattr(module, name, None), Tensor):
            return token
    return None


def is_channels_last(features: Tensor, height: int, width: int) -> bool:
    """Whether features of a picture of that height and width are ``(B, H, W, C)`` and not ``(B, C, H, W)``.

    >>> is_channels_last(torch.zeros(1, 7, 7, 96), 224, 224), is_channels_last(torch.zeros(1, 96, 7, 7), 224, 224)
    (True, False)
    """
    if features.ndim != 4:
        return False
    _, a, b, c = features.shape
    aspect = height / width
    return not _fits(b, c, aspect) and _fits(a, b, aspect)


def _fits(height: int, width: int, aspect: float) -> bool:
    return abs(height - width * aspect) < max(1.0, aspect)


def to_maps(features: Tensor, prefix: int = 0, channels_last: bool = False, aspect: float = 1.0) -> Tensor:
    """Bring a layer's output to ``(B, C, H, W)``.

    Args:
        features: ``(B, C, H, W)``, ``(B, H, W, C)`` with ``channels_last``, or tokens ``(B, T, C)`` of a grid.
        prefix: tokens before the patch tokens, dropped.
        channels_last: whether four-dimensional features have their channels last (Swin).
        aspect: height of the pictures divided by their width, for the grid of the tokens.

    >>> to_maps(torch.zeros(2, 1 + 9, 5), prefix=1).shape, to_maps(torch.zeros(2, 8, 5), aspect=2).shape
    (torch.Size([2, 5, 3, 3]), torch.Size([2, 5, 4, 2]))
    """
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if channels_last else features
    if features.ndim == 3:
        height, width = grid_of(features.shape[1] - prefix, aspect)
        if height * width:
            grid = features[:, prefix:].transpose(1, 2)
            return grid.reshape(*grid.shape[:2], height, width)
    raise AttnBridgeError(
        f"features of shape {tuple(features.shape)} are no maps; expected (B, C, H, W), or tokens (B, T, C) "
        f"with T = {prefix} + the positions of a grid"
    )


def grid_of(tokens: int, aspect: float = 1.0) -> tuple[int, int]:
    """Height and width of a grid of that many tokens, or ``(0, 0)`` if they make none.

    >>> grid_of(196), grid_of(8, aspect=0.5), grid_of(7)
    ((14, 14), (2, 4), (0, 0))
    """
    pairs = [(h, tokens // h) for h in range(1, max(tokens, 0) + 1) if tokens % h == 0]
    height, width = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / aspect)), default=(0, 0))
    return (height, width) if height and _fits(height, width, aspect) else (0, 0)


def _is_spatial(output: Tensor, prefix: int, aspect: float) -> bool:
    if output.ndim == 4:  # NHWC networks have at least two positions in the middle as well
        return output.shape[2] > 1 and (output.shape[3] > 1 or output.shape[1] > 1)
    return output.ndim == 3 and output.shape[1] - prefix > 1 and grid_of(output.shape[1] - prefix, aspect) != (0, 0)
