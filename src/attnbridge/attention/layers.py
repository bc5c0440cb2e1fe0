"""Find the layer to look at, and bring its output to ``(B, C, H, W)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError, unknown


def find_layer(network: nn.Module, image_size: int = 224) -> str:
    """Name of the layer with the last spatial features: the last module, in order of execution, whose
    output still has several positions.

    That is conv5_3's activation for a VGG without its last pooling, ``layer4`` for a ResNet, the last
    activation before pooling for an EfficientNet, the input of the last attention for a vision transformer.

    Args:
        network: the classifier; run once in eval mode on zeros, restored afterwards.
        image_size: side of that input, pixels.

    Raises:
        AttnBridgeError: if no layer has spatial features.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> find_layer(net, 16)
    '1'
    """
    last: list[str] = []
    prefix = prefix_tokens(network)

    def hook(name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and _is_spatial(output, prefix):
                last.append(name)

        return record

    modes = {module: module.training for module in network.modules()}
    handles = [m.register_forward_hook(hook(n)) for n, m in network.named_modules() if n and type(m) is not nn.Identity]
    try:
        network.eval()
        parameter = next(network.parameters(), torch.zeros(()))
        with torch.no_grad():
            network(torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if prefix:  # after the last attention only the class token matters, so the tokens before it are looked at
        last = [name for name in last if name.endswith("norm1")] or last
    if not last:
        raise AttnBridgeError("no layer of the network has spatial features; name one with `layer`")
    return last[-1]


def check_layer(network: nn.Module, name: str) -> None:
    """Raise, with the nearest names, if ``network`` has no module called ``name``."""
    names = [n for n, _ in network.named_modules() if n]
    if name not in names:
        raise unknown("layer", name, names)


def prefix_tokens(network: nn.Module) -> int:
    """Number of class and register tokens that a timm transformer puts before its patch tokens."""
    return int(getattr(network, "num_prefix_tokens", 0))


def to_maps(features: Tensor, prefix: int = 0, channels_last: bool = False) -> Tensor:
    """Bring a layer's output to ``(B, C, H, W)``.

    Args:
        features: ``(B, C, H, W)``, ``(B, H, W, C)`` with ``channels_last``, or tokens ``(B, T, C)`` of a
            square grid.
        prefix: tokens before the patch tokens, dropped.
        channels_last: whether four-dimensional features have their channels last (Swin).

    >>> to_maps(torch.zeros(2, 1 + 9, 5), prefix=1).shape
    torch.Size([2, 5, 3, 3])
    """
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if channels_last else features
    if features.ndim == 3:
        side = round((features.shape[1] - prefix) ** 0.5)
        if side * side + prefix == features.shape[1]:
            grid = features[:, prefix:].transpose(1, 2)
            return grid.reshape(*grid.shape[:2], side, side)
    raise AttnBridgeError(
        f"features of shape {tuple(features.shape)} are no maps; expected (B, C, H, W), or tokens (B, T, C) "
        f"with T = {prefix} + a square number"
    )


def _is_spatial(output: Tensor, prefix: int) -> bool:
    if output.ndim == 4:  # NHWC networks have at least two positions in the middle as well
        return output.shape[2] > 1 and (output.shape[3] > 1 or output.shape[1] > 1)
    if output.ndim == 3:
        tokens = output.shape[1] - prefix
        return tokens > 1 and round(tokens**0.5) ** 2 == tokens
    return False
