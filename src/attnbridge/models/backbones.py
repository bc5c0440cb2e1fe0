"""Classifiers with observable features: any network by name, with the stride that maps want."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.classifier import ClassifierHead
from torch import Tensor, nn
from torchvision.models import ResNet

from attnbridge.attention.finder import find_layer, no_maps
from attnbridge.attention.layers import check_layer, eval_mode, is_channels_last, to_maps, token_prefix
from attnbridge.attention.observe import observe
from attnbridge.bounds import Count, MapSize, check_number, check_value
from attnbridge.data.preparation import preparation_of
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError, check_choice, unknown_name
from attnbridge.models.checkpoints import under_names
from attnbridge.models.libraries import (
    Make,
    hub_folder,
    load_transformers,
    make_torchvision,
    make_transformers,
    skeleton,
    torchvision_state,
    weight_names,
)
from attnbridge.models.names import NetworkName, parse_name, read_config
from attnbridge.models.small_networks import WIDE_RESNETS as WIDE_RESNETS  # gives timm their names
from attnbridge.models.weights import PACKAGED, hub, load_file, load_packaged

Poolings = Literal["own", "deeplab"]
WHOLE = "_fc"
"""What the name of a VGG ends with that keeps its fully connected layers."""


@dataclass(frozen=True)
class Backbone:
    """A classifier and how to look into it.

    Attributes:
        network: the classifier, ``(B, 3, H, W)`` normalised to logits ``(B, N)``.
        layer: name of the layer whose features make the maps.
        channels: number of channels of those features.
        channels_last: whether that layer gives ``(B, H, W, C)``.
        mean: what the network wants subtracted from RGB in [0, 1].
        std: what it wants to be divided by.
        aspect: height of its images divided by their width.
        prefix: how many of that layer's tokens stand before those of the patches.
    """

    network: nn.Module
    layer: str
    channels: int
    channels_last: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    aspect: float = 1.0
    prefix: int = 0

    def maps(self, features: Tensor) -> Tensor:
        """The layer's output as ``(B, C, H, W)``."""
        return to_maps(features, self.prefix, self.channels_last, self.aspect)


def build_backbone(
    name: str | nn.Module,
    num_classes: int,
    *,
    weights: str = "imagenet",
    stride: int | None = 16,
    layer: str | None = None,
    image_size: Size = 224,
    dilated: bool = False,
    poolings: Poolings = "own",
) -> Backbone:
    """Build a classifier whose features can be observed.

    Args:
        name: a timm model name; ``torchvision/NAME``; ``hf/FOLDER``, a Hugging Face folder of transformers or timm;
            ``hf-hub:OWNER/NAME``, the same from its hub; or a network of one's own, from normalised images to logits,
            which is taken as it is, with ``layer`` alone. It is given images as it says itself
            (:func:`~attnbridge.data.preparation.preparation_of`), else as ImageNet's networks are.
            ``vgg16`` gets global average pooling and a linear head in place of its fully connected layers; ``vgg16_fc``
            keeps them, as AttnBN's authors do (timm's other VGGs likewise).
        num_classes: number of logits.
        weights: ``"imagenet"``: a package of the Python registry for ``tf_efficientnet_lite0`` to ``2`` and
            ``vgg16``, timm's hub for others; what comes with torchvision's and Hugging Face's networks; ``"none"``:
            random; else the path of a state dict, see :func:`~attnbridge.models.weights.read_weights`.
        stride: image pixels per feature position: 32, or 16 or 8 by dropping the last strides; ``None`` leaves
            the network as it is (transformers). Of torchvision's networks, ResNets have a choice; of a Hugging Face
            folder's, timm's do.
        layer: name of the layer to look at; default: the last spatial features.
        image_size: side of the images in pixels, or height and width, to size transformers and find the layer.
        dilated: keep the field of view where strides are dropped, as DeepLab does; class maps do without, which
            is faster. ``vgg16`` then can have a stride of 8.
        poolings: ``deeplab``: a VGG that is dilated has DeepLab's, over 3 x 3 positions with a padding of 1, rounded
            up as Caffe does (321 pixels become 41 positions, the i-th around pixel 8 i), and after the last an average
            over as many, which is the layer to look at. ``own`` leaves those that halve the resolution as they are. For
            networks that are no VGG, or not dilated, it changes nothing.

    Raises:
        AttnBridgeError: for an unknown model or layer, a stride it cannot have, weights not to be had, and without
            ``layer`` for a model whose blocks hide their features (:func:`find_layer`).

    >>> backbone = build_backbone("resnet10t", 5, weights="none", image_size=64)
    >>> backbone.layer, backbone.channels
    ('layer4', 512)
    """
    check_number("num_classes", num_classes, Count)
    check_value("image_size", image_size, MapSize)
    check_value("weights", weights, str)
    check_value("layer", layer, str | None)
    check_choice("poolings", poolings, get_args(Poolings))
    if isinstance(name, nn.Module):
        return _own(name, num_classes, layer, image_size)
    parsed = parse_name(name)
    if parsed.library != "timm":
        network = _build_other(parsed, num_classes, weights, stride, image_size, dilated)
        mean, std = _normalisation(network, parsed.text)
    else:
        network = _create(name, num_classes, weights, stride, image_size, dilated)
        if poolings == "deeplab" and dilated and name.startswith("vgg"):
            pooled = _pool_as_deeplab(network)
            layer = pooled if layer is None else layer
        cfg: Any = network.pretrained_cfg
        known = PACKAGED.get(name)  # its normalisation holds for a run that began with its weights, too
        mean, std = (known.mean, known.std) if known else (cfg["mean"], cfg["std"])
        if weights == "imagenet" and known:
            load_packaged(network, name)
        elif weights not in ("imagenet", "none"):
            load_file(network, Path(weights))
    if layer is not None:
        check_layer(network, layer)
    layer = layer or find_layer(network, image_size)
    channels, last, prefix, _ = _shape(network, layer, image_size)
    return Backbone(network, layer, channels, last, tuple(mean), tuple(std), _aspect(image_size), prefix)


def _own(network: nn.Module, num_classes: int, layer: str | None, image_size: Size) -> Backbone:
    """A network of the user's."""
    mean, std = _normalisation(network, "network")
    if layer is not None:
        check_layer(network, layer)
    layer = layer or find_layer(network, image_size)
    channels, last, prefix, count = _shape(network, layer, image_size)
    if count != num_classes:
        raise AttnBridgeError(f"network: gives {count} logits, but there are {num_classes} classes; give it as many")
    return Backbone(network, layer, channels, last, tuple(mean), tuple(std), _aspect(image_size), prefix)


def _normalisation(network: nn.Module, name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that a network wants: as it says itself, else ImageNet's."""
    found = preparation_of(network)
    if found is not None and found.bgr:
        raise AttnBridgeError(
            f"{name}: wants images with blue first, which training does not give; look into it with `explain`, or "
            "train another network"
        )
    if found is not None:
        return found.mean, found.std
    cfg: Any = getattr(network, "pretrained_cfg", None) or {}
    return cfg.get("mean", IMAGENET_DEFAULT_MEAN), cfg.get("std", IMAGENET_DEFAULT_STD)


def layer_names(name: str, stride: int | None = 16, image_size: Size = 224, dilated: bool = False) -> list[str]:
    """Names of a backbone's modules; no weights are made or fetched.

    Raises:
        AttnBridgeError: for an unknown model, or a stride it cannot have.

    >>> layer_names("resnet10t")[-2:]
    ['global_pool.flatten', 'fc']
    """
    parsed, how = parse_name(name), (1, "none", stride, image_size, dilated)
    make = partial(_create, name, *how) if parsed.library == "timm" else partial(_build_other, parsed, *how)
    return [module for module, _ in skeleton(make).named_modules() if module]


def pretrained_classes(name: str) -> int:
    """The number of classes that the weights have which come with a network; 0 where that is not known.

    >>> pretrained_classes("resnet18"), pretrained_classes("torchvision/resnet18")
    (1000, 1000)
    """
    parsed = parse_name(name)
    if parsed.library == "timm":
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
        return int(cfg.num_classes or 0) if cfg is not None else 0
    if parsed.library == "torchvision":
        made: Any = skeleton(partial(make_torchvision, parsed, 1))
        return int(made.pretrained_cfg["num_classes"])
    if parsed.library == "hub":
        parsed = hub_folder(parsed, weights=False)
    return read_config(parsed.folder, name).count


def _build_other(
    name: NetworkName, num_classes: int, weights: str, stride: int | None, image_size: Size, dilated: bool
) -> nn.Module:
    """A network of torchvision's, of a Hugging Face folder, or of its hub, with its weights."""
    if name.library == "function":
        raise AttnBridgeError(
            f"backbone {name.text!r} is a function of your own, which a run could not be loaded without; train it from "
            "Python, as network=..."
        )
    _check_stride(stride)
    if name.library == "torchvision":
        return _build_torchvision(name, num_classes, weights, stride, dilated)
    if name.library == "hub":
        name = hub_folder(name, weights=weights == "imagenet")
    if read_config(name.folder, name.text).architecture is not None:
        return _build_timm_folder(name, num_classes, weights, stride, image_size, dilated)
    if stride is not None:
        raise _no_stride(name.text, stride)
    if weights == "none":
        return make_transformers(name, num_classes, image_size)
    return load_transformers(name, None if weights == "imagenet" else Path(weights), num_classes, image_size)[0]


def _filled(make: Make, num_classes: int, weights: str) -> nn.Module:
    """A network with random weights, or those of a file but for a classifier of another size."""
    network = make(num_classes)
    if weights != "none":
        load_file(network, Path(weights), [name for name, axis in weight_names(make).items() if axis is not None])
    return network


def _build_torchvision(
    name: NetworkName, num_classes: int, weights: str, stride: int | None, dilated: bool
) -> nn.Module:
    make = partial(make_torchvision, name)
    network = _filled(make, num_classes, "none" if weights == "imagenet" else weights)
    if weights == "imagenet":
        own = network.state_dict()
        state = under_names(torchvision_state(name), own, Path(name.text))
        renewed = {key for key, value in state.items() if key in own and own[key].shape != value.shape}
        network.load_state_dict({key: value for key, value in state.items() if key not in renewed}, strict=not renewed)
    if stride is not None and not isinstance(network, ResNet):
        raise _no_stride(name.text, stride)
    if stride in (8, 16) and isinstance(network, ResNet):
        _drop_strides(network, stride, dilated)
    return network


def _drop_strides(network: ResNet, stride: int, dilated: bool) -> None:
    """Drop the last strides of a ResNet of torchvision's; dilated, what follows looks as far apart as before, as by
    torchvision's ``replace_stride_with_dilation``."""
    dilation = 1
    for stage in (network.layer3, network.layer4)[0 if stride == 8 else 1 :]:
        before, dilation = dilation, dilation * 2
        for module in stage.modules():
            if not isinstance(module, nn.Conv2d):
                continue
            first = module.stride != (1, 1)
            module.stride = (1, 1)
            if dilated and module.kernel_size == (3, 3):
                wide = before if first else dilation
                module.dilation = module.padding = (wide, wide)


def _build_timm_folder(
    name: NetworkName, num_classes: int, weights: str, stride: int | None, image_size: Size, dilated: bool
) -> nn.Module:
    """The timm model of a Hugging Face folder."""
    known = read_config(name.folder, name.text)
    network: Any = _create(str(known.architecture), num_classes, "none", stride, image_size, dilated)
    network.pretrained_cfg = network.pretrained_cfg | known.pretrained
    if weights != "none":
        load_file(network, name.folder if weights == "imagenet" else Path(weights))
    made: nn.Module = network
    return made


def _no_stride(name: str, stride: int) -> AttnBridgeError:
    return AttnBridgeError(
        f"backbone {name!r} cannot have a stride of {stride}; it has its own alone: set `stride: null` (model.stride)"
    )


def _check_stride(stride: int | None) -> None:
    if stride not in (8, 16, 32, None):
        raise AttnBridgeError(f"stride must be 8, 16 or 32, or null for the network's own, not {stride}")


def _create(
    name: str, num_classes: int, weights: str, stride: int | None, image_size: Size, dilated: bool = False
) -> nn.Module:
    if not isinstance(name, str) or not timm.is_model(_timm_name(name)):
        raise unknown_name("backbone", name, timm.list_models(), "see `timm.list_models()`")
    _check_stride(stride)
    from_hub = weights == "imagenet" and name not in PACKAGED
    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": from_hub}
    if name.startswith("vgg"):
        return _create_vgg(name, num_classes, stride, from_hub, dilated)
    if name.startswith(("vit_", "deit", "swin")):
        options["img_size"] = image_size
    elif stride is not None and stride != 32:
        options["output_stride"] = stride
    try:
        with hub() if from_hub else nullcontext():
            network: nn.Module = timm.create_model(name, **options)
    except (TypeError, NotImplementedError, AssertionError) as error:
        raise AttnBridgeError(
            f"backbone {name!r} cannot have a stride of {stride} ({error}); set stride to null or 32"
        ) from None
    except (OSError, RuntimeError) as error:
        raise AttnBridgeError(
            f"the ImageNet weights of {name!r} cannot be had from timm's hub ({str(error).splitlines()[0]}); "
            f"give a local state dict with `weights: FILE.pth`, start from `weights: none`, or take a "
            f"backbone that needs no hub: {', '.join(PACKAGED)}"
        ) from None
    if not dilated:
        _drop_dilation(network)
    return network


def _timm_name(name: str) -> str:
    """What timm calls a VGG whose fully connected layers are kept."""
    return name.removesuffix(WHOLE) if name.startswith("vgg") else name


def _create_vgg(name: str, num_classes: int, stride: int | None, from_hub: bool, dilated: bool) -> nn.Module:
    """VGG with global average pooling; stride 16 leaves out the last pooling: features are conv5_3. Dilated it is
    DeepLab's: the last two poolings keep the resolution and conv5 looks as far apart."""
    if name.endswith(WHOLE):
        if stride not in (32, None):
            raise AttnBridgeError(f"backbone {name!r} has a stride of 32, or null for it, not {stride}")
        whole: nn.Module = timm.create_model(_timm_name(name), num_classes=num_classes, pretrained=from_hub)
        return whole
    strides = (8, None) if dilated else (16, None)
    if stride not in strides:
        raise AttnBridgeError(
            f"backbone {name!r} can have a stride of {strides[0]}, or null for the last pooling kept, not {stride}"
        )
    network: nn.Module = timm.create_model(name, num_classes=num_classes, pretrained=from_hub)
    features = list(network.get_submodule("features").children())
    if stride == 8:
        fourth, fifth = [i for i, module in enumerate(features) if isinstance(module, nn.MaxPool2d)][3:]
        for module in features[fourth + 1 : fifth]:
            if isinstance(module, nn.Conv2d):
                module.dilation = module.padding = (2, 2)
        features[fourth], features[fifth] = nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)
    network.features = nn.Sequential(*(features[:-1] if stride == 16 else features))
    network.pre_logits = nn.Identity()
    network.head = ClassifierHead(512, num_classes)
    return network


def _pool_as_deeplab(network: nn.Module) -> str:
    """DeepLab's poolings of a VGG (speedinghzl/DSRG, 91efdf7, train-s.prototxt:83-393; the same in kolesman/SEC); the
    name of the last one."""
    features = network.get_submodule("features")
    for name, module in list(features.named_children()):
        if isinstance(module, nn.MaxPool2d):
            features.register_module(name, nn.MaxPool2d(3, module.stride, 1, ceil_mode=True))
    features.append(nn.AvgPool2d(3, 1, 1))  # type: ignore[operator]
    return [str(name) for name, _ in network.named_modules() if name.startswith("features.")][-1]


def _drop_dilation(network: nn.Module) -> None:
    """timm trades a dropped stride for dilation; undo the dilation, which only costs time here."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            padding: Any = module.padding
            module.padding = (padding[0] // module.dilation[0], padding[1] // module.dilation[1])
            module.dilation = (1, 1)


def _aspect(size: Size) -> float:
    height, width = sides(size)
    return height / width


def _shape(network: nn.Module, layer: str, image_size: Size) -> tuple[int, bool, int, int]:
    """Number of channels of the layer's features, whether they come last, how many tokens stand before the patches, and
    the number of logits."""
    device = next(network.parameters(), torch.zeros(())).device
    with torch.no_grad(), eval_mode(network):
        seen = observe(network, torch.zeros(1, 3, *sides(image_size), device=device), layer)
    features = seen.features[layer]
    last = is_channels_last(features, *sides(image_size))
    prefix = token_prefix(network, features.shape[1], *sides(image_size)) if features.ndim == 3 else 0
    try:
        channels = to_maps(features, prefix, last, _aspect(image_size)).shape[1]
    except AttnBridgeError as error:
        raise no_maps(layer, error, network, image_size) from None
    return channels, last, prefix, seen.logits.shape[1]


def freeze(network: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Stop the gradient of the named modules and put their batch norms into eval mode.

    Returns:
        The frozen modules; put them into eval mode again after each ``network.train()``.

    Raises:
        AttnBridgeError: for a name that is no module.
    """
    frozen = []
    for name in names:
        check_layer(network, name)
        module = network.get_submodule(name)
        module.requires_grad_(False).eval()
        frozen.append(module)
    return frozen
