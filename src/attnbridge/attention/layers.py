"""A network's modules by name, and their output as ``(B, C, H, W)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError, unknown_name

TOKENS = {
    *("cls_token", "class_token", "class_embedding"),
    *("distillation_token", "dist_token"),
    *("register_tokens", "reg_token", "storage_tokens"),
}
"""What timm, torchvision, transformers, open_clip and DINO call their tokens before the patches."""
AFTER = "detection_tokens"
"""Of YOLOS, after the patches."""
MOST_TOKENS = 16
"""Before the patches, where nothing says how many."""


def find_head(network: nn.Module) -> nn.Module:
    """The layer that gives the logits: what timm's networks name as their classifier, else the last linear layer.

    Raises:
        AttnBridgeError: if there is none.

    >>> find_head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9)))
    Linear(in_features=4, out_features=9, bias=True)
    """
    named = getattr(network, "get_classifier", None)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    head = named() if named is not None else linear[-1] if linear else None
    if not isinstance(head, nn.Module) or not any(True for _ in head.parameters()):
        raise AttnBridgeError("the network has no linear layer that gives the logits; end it with nn.Linear")
    return head


def weighs(module: nn.Module) -> bool:
    """Whether a module is a layer with a matrix of weights, as convolutions and linear layers are."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
        return True  # parametrised, its weights are in a child
    alone = not isinstance(module, nn.Embedding) and next(module.children(), None) is None
    return alone and any(p.ndim > 1 and len(p) > 1 and p[0].numel() > 1 for p in module.parameters())


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
        raise unknown_name("layer", name, names)


def prefix_tokens(network: nn.Module) -> int:
    """Number of class, distillation and register tokens that a transformer puts before its patch tokens, as timm's
    ``num_prefix_tokens`` or the parameters of these tokens say; the network may lie inside another.

    >>> import timm
    >>> prefix_tokens(timm.create_model("vit_tiny_patch16_224"))
    1
    """
    for module in network.modules():
        count: Any = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
        tokens = _tokens(module)
        if tokens:
            return sum(tokens.values())
    return 0


def _tokens(module: nn.Module) -> dict[str, int]:
    """How many tokens a module's own parameters are, by name; numbered ones are of several branches or stages."""
    found = {}
    for name, value in module._parameters.items():
        plain = name.rstrip("0123456789").rstrip("_")
        if plain in TOKENS and value is not None:
            found[plain] = 1 if value.ndim == 1 else int(value.shape[-2])
    return found


def token_prefix(network: nn.Module, tokens: int, height: int, width: int) -> int:
    """Of so many tokens of a layer, how many stand before those of the patches: what is left beside the patches that
    the first convolution cuts the image into; as many as the network puts there; none, if all together make a grid; or
    what is left beside the patches of another convolution.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 16, 16))
    >>> token_prefix(network, 196, 224, 224), token_prefix(network, 201, 224, 224), token_prefix(network, 25, 64, 64)
    (0, 5, 9)
    """
    for patches in _patches(network, height, width, first=True):
        if 0 <= tokens - patches <= MOST_TOKENS:
            return tokens - patches
    declared = prefix_tokens(network)
    for count in (declared, 0):
        if tokens - count > 1 and grid_of(tokens - count, height / width) != (0, 0):
            return count
    for patches in _patches(network, height, width):
        if 0 < tokens - patches <= MOST_TOKENS:
            return tokens - patches
    return declared


def _patches(network: nn.Module, height: int, width: int, first: bool = False) -> set[int]:
    """Into how many patches convolutions, or the first one, cut an image; unknown where tokens of other kinds follow
    the patches."""
    if any(AFTER in module._parameters for module in network.modules()):
        return set()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    convolutions = convolutions[:1] if first else convolutions
    sizes = {module.kernel_size for module in convolutions if module.kernel_size == module.stride}
    return {(height // size[0]) * (width // size[1]) for size in sizes if size[0] > 1}


def reads_class_token(network: nn.Module) -> bool:
    """Whether a transformer's answer comes from its class token, and not from the mean of its patches, as timm's
    ``global_pool`` or transformers' ``config.use_mean_pooling`` says."""
    if getattr(getattr(network, "config", None), "use_mean_pooling", False):
        return False
    for module in network.modules():
        if _tokens(module):
            return getattr(module, "global_pool", "token") == "token"
    return False


def is_channels_last(features: Tensor, height: int, width: int) -> bool:
    """Whether features of an image of that height and width are ``(B, H, W, C)`` and not ``(B, C, H, W)``.

    >>> import torch
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


def leading_tensor(output: Any) -> Tensor | None:
    """What a module gave, if it is a tensor, or a tuple or list that begins with one.

    >>> import torch
    >>> leading_tensor((torch.ones(1), None)), leading_tensor({"features": torch.ones(1)})
    (tensor([1.]), None)
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def spatial_of(features: Tensor, network: nn.Module, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """What brings a layer's output, or gradients of its shape, to ``(B, C, H, W)``: :func:`to_maps` for a network.

    Args:
        features: what the layer gave.
        network: whose layer it is.
        height: of the images, pixels.
        width: of the images, pixels.
    """
    prefix = token_prefix(network, features.shape[1], height, width) if features.ndim == 3 else 0
    last = is_channels_last(features, height, width)
    return partial(to_maps, prefix=prefix, channels_last=last, aspect=height / width)


def to_maps(features: Tensor, prefix: int = 0, channels_last: bool = False, aspect: float = 1.0) -> Tensor:
    """Bring a layer's output to ``(B, C, H, W)``.

    Args:
        features: ``(B, C, H, W)``, ``(B, H, W, C)`` with ``channels_last``, or tokens ``(B, T, C)`` of a grid.
        prefix: tokens before the patch tokens, dropped.
        channels_last: whether four-dimensional features have their channels last (Swin).
        aspect: height of the images divided by their width, for the grid of the tokens.

    >>> import torch
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
