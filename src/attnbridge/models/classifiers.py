"""Finished classifiers to look into: an ImageNet network by name, with the names of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.attention.layers import check_layer
from attnbridge.data.files import sha256
from attnbridge.data.transforms import Shape, Size
from attnbridge.errors import AttnBridgeError, check_choice, unknown_name
from attnbridge.models.device import pick_device
from attnbridge.models.weights import PACKAGED, hub, load_packaged, load_state

Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Classifier:
    """A network in eval mode and what is needed to feed and read it.

    Attributes:
        name: what it was made from.
        network: from normalised images ``(B, 3, size, size)`` to logits ``(B, N)``.
        classes: names of the N classes.
        size: side of its images, or height and width, pixels.
        mean: what it wants subtracted from RGB in [0, 1].
        std: what it wants to be divided by.
        layer: the layer to look at; ``None``: the last spatial features.
        activation: from logits to scores: ``softmax``, or ``sigmoid`` for several labels an image.
        shape: whether images are brought to ``size`` by stretching or by padding.
        checksum: of the file of its weights, if it has one, to tell it from another of its name.
    """

    name: str
    network: nn.Module
    classes: tuple[str, ...]
    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layer: str | None = None
    activation: Activation = "softmax"
    checksum: str | None = None
    shape: Shape = "stretch"

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, get_args(Activation))
        check_choice("shape", self.shape, get_args(Shape))

    def normalise(self, images: Tensor) -> Tensor:
        """Images, floats in [0, 1], ``(B, 3, H, W)``, as the network wants them."""
        check_tensors(empty=True, images=(images, "B 3 H W"))
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, N)``, float32: half precision cannot tell those near 1 apart."""
        return logits.float().softmax(1) if self.activation == "softmax" else logits.float().sigmoid()


def load_classifier(name: str, weights: str = "imagenet", device: str | None = None) -> Classifier:
    """A timm model with its classifier.

    Args:
        name: timm's name.
        weights: ``imagenet``: from a package of the Python registry for ``tf_efficientnet_lite0`` to ``2``, from timm's
            hub for others; or the file of a state dict, whose classifier tells the number of classes.
        device: where the network is to be, see :func:`~attnbridge.models.device.pick_device`.

    Raises:
        AttnBridgeError: for an unknown model or device, or weights that cannot be had or do not fit.
    """
    place = pick_device(device)
    check_classifier(name)
    if weights == "imagenet" and name in PACKAGED and PACKAGED[name].classifier:
        network: Any = timm.create_model(name)
        load_packaged(network, name)
        mean, std = PACKAGED[name].mean, PACKAGED[name].std
    elif weights == "imagenet":
        network = _from_hub(name)
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    else:
        network = _from_file(name, Path(weights))
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    if not network.num_classes:
        raise AttnBridgeError(f"{name!r} has no classifier, so it has no classes to explain; take another model")
    checksum = None if weights == "imagenet" else sha256(Path(weights))
    size = network.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    names = class_names(network.num_classes)
    return Classifier(name, network.eval().to(place), names, size, tuple(mean), tuple(std), checksum=checksum)


def check_classifier(name: str, layer: str | None = None) -> None:
    """Check the names of a timm model and of a layer of it; no weights are made or fetched.

    Raises:
        AttnBridgeError: for an unknown name, with the nearest ones.
    """
    if not isinstance(name, str) or not timm.is_model(name):
        raise unknown_name("model", name, timm.list_models(), "or name the folder of a run made by `attnbridge fit`")
    if layer:
        with torch.device("meta"):
            check_layer(timm.create_model(name), layer)


def _from_hub(name: str) -> nn.Module:
    try:
        with hub():
            network: nn.Module = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        packaged = ", ".join(n for n, entry in PACKAGED.items() if entry.classifier)
        raise AttnBridgeError(
            f"the ImageNet weights of {name!r} cannot be had from timm's hub ({f'{error} '.splitlines()[0]}); give a "
            f"local state dict with --weights FILE.pth, or take {packaged}, which needs no hub"
        ) from None
    return network


def _from_file(name: str, path: Path) -> nn.Module:
    state = load_state(path)
    with torch.device("meta"):
        cfg: Any = timm.create_model(name).pretrained_cfg
    head = cfg.get("classifier")
    if not head:
        raise AttnBridgeError(f"timm knows no classifier of {name!r}; take another model")
    key = f"{head}.weight" if isinstance(head, str) else f"{head[0]}.weight"
    if key not in state:
        raise AttnBridgeError(f"{path}: holds no {key}, the classifier of {name!r}; check the model's name")
    network: nn.Module = timm.create_model(name, num_classes=len(state[key]))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        words = [line.strip() for line in str(error).splitlines()]
        raise AttnBridgeError(f"{path}: does not fit {name!r} ({' '.join(words[1:2] or words)})") from None
    return network


def class_names(count: int) -> tuple[str, ...]:
    """ImageNet's names for 1000 classes, else the numbers.

    >>> class_names(1000)[281], class_names(2)
    ('tabby, tabby cat', ('0', '1'))
    """
    if count != 1000:
        return tuple(str(i) for i in range(count))
    info: Any = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(count))


def find_classes(wanted: list[str], classes: tuple[str, ...]) -> list[int]:
    """Indices of classes given by number, by name, or by one of the words of a name.

    Raises:
        AttnBridgeError: for one that is not known, with the nearest, or that several classes share.

    >>> find_classes(["1", "Tabby Cat"], ("dog", "bird", "tabby, tabby cat"))
    [1, 2]
    """
    index: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        for word in dict.fromkeys([name.lower(), *(part.strip().lower() for part in name.split(","))]):
            index.setdefault(word, []).append(i)
    found = []
    for text in wanted:
        if text.isascii() and text.isdecimal() and text not in index and int(text) < len(classes):
            found.append(int(text))
            continue
        if text.lower() not in index:
            raise unknown_name("class", text.lower(), index, f"or a number from 0 to {len(classes) - 1}")
        among = index[text.lower()]
        if len(among) > 1:
            raise AttnBridgeError(f"class {text!r} is the name of {' and '.join(map(str, among))}; give the number")
        found += among
    return found
