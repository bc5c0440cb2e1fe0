"""Find the layer to look at, and bring its output to ``(B, C, H, W)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError, unknown

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
_ATTENTION_INPUT = ("norm1", "ln_1")  # timm's and torchvision's name for what the attention of a block reads


def find_layer(network: nn.Module, image_size: int | tuple[int, int] = 224) -> str:
    """Name of the layer with the last spatial features: the last module, in order of execution, whose
    output still has several positions; poolings are passed over.

    That is conv5_3's activation for a VGG, ``layer4`` for a ResNet, the last activation before pooling for an
    EfficientNet, the input of the last attention for a transformer with a class token.

    Args:
        network: the classifier; run once in eval mode on zeros, restored afterwards. For a network inside
            ``DistributedDataParallel`` or ``torch.compile`` the name is that in the network itself.
        image_size: side of that input, or its height and width, pixels.

    Raises:
        AttnBridgeError: if no layer has spatial features.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> find_layer(net, 16)
    '1'
    """
    last: list[str] = []
    pooled: list[Tensor] = []
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    network = unwrap(network)
    prefix = prefix_tokens(network)

    def hook(name: str) -> Any:
        def record(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(module, _POOLING):
                pooled.append(output)
            elif any(output is p for p in pooled):
                pass  # a container that ends with a pooling
            elif isinstance(output, Tensor) and _is_spatial(output, prefix, height / width):
                last.append(name)

        return record

    modes = {module: module.training for module in network.modules()}
    handles = [m.register_forward_hook(hook(n)) for n, m in network.named_modules() if n and type(m) is not nn.Identity]
    try:
        network.eval()
        parameter = next(network.parameters(), torch.zeros(()))
        with torch.no_grad():
            network(torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if prefix:  # after the last attention only the class token matters, so the tokens before it are looked at
        last = [name for name in last if name.endswith(_ATTENTION_INPUT)] or last
    if not last:
        raise AttnBridgeError("no layer of the network has spatial features; name one with `layer`")
    return last[-1]


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


def check_layer(network: nn.Module, name: str) -> None:
    """Raise, with the nearest names, if ``network`` has no module called ``name``."""
    names = [n for n, _ in network.named_modules() if n]
    if name not in names:
        raise unknown("layer", name, names)


def prefix_tokens(network: nn.Module) -> int:
    """Number of class and register tokens that a transformer of timm or torchvision puts before its patch tokens."""
    count = getattr(network, "num_prefix_tokens", None)
    if count is None:
        count = any(isinstance(getattr(network, name, None), Tensor) for name in ("cls_token", "class_token"))
    return int(count)


def is_channels_last(features: Tensor, height: int, width: int) -> bool:
    """Whether features of a picture of that height and width are ``(B, H, W, C)`` and not ``(B, C, H, W)``.

    >>> is_channels_last(torch.zeros(1, 7, 7, 96), 224, 224), is_channels_last(torch.zeros(1, 96, 7, 7), 224, 224)
    (True, False)
    """
    if features.ndim != 4:
        return False
    _, a, b, c = features.shape
    aspect = height / width
    return abs(b - c * aspect) >= 1 and abs(a - b * aspect) < 1


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
    height = round((max(tokens, 0) * aspect) ** 0.5)
    width = tokens // height if height else 0
    return (height, width) if height * width == tokens and abs(height - width * aspect) < 1 else (0, 0)


def _is_spatial(output: Tensor, prefix: int, aspect: float) -> bool:
    if output.ndim == 4:  # NHWC networks have at least two positions in the middle as well
        return output.shape[2] > 1 and (output.shape[3] > 1 or output.shape[1] > 1)
    return output.ndim == 3 and output.shape[1] - prefix > 1 and grid_of(output.shape[1] - prefix, aspect) != (0, 0)
