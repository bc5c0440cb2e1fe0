"""Finished classifiers to look into: a network by name, with the names of its classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from attnbridge.arguments import check_network, check_tensors
from attnbridge.attention.answers import Output, Target
from attnbridge.attention.layers import check_layer, eval_mode
from attnbridge.attention.observe import observe
from attnbridge.bounds import MapSize, Positive, check_names, check_value
from attnbridge.data.files import sha256
from attnbridge.data.preparation import Preparation, preparation_of
from attnbridge.data.transforms import Shape, Size, sides
from attnbridge.errors import AttnBridgeError, check_choice, unknown_name
from attnbridge.models.checkpoints import under_names, weight_files
from attnbridge.models.device import pick_device
from attnbridge.models.labels import check_count
from attnbridge.models.libraries import (
    Make,
    call_function,
    check_torchvision,
    fill,
    hub_folder,
    load_transformers,
    make_folder,
    make_torchvision,
    skeleton,
    torchvision_state,
    weight_names,
    with_weights,
)
from attnbridge.models.names import CONFIG, NetworkName, check_folder, parse_name, read_config
from attnbridge.models.texts import load_image_text
from attnbridge.models.weights import PACKAGED, hub, load_packaged, read_weights

Activation = Literal["softmax", "sigmoid", "none"]


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
        activation: from logits to scores: ``softmax``, ``sigmoid`` for several labels an image, or ``none``.
        shape: whether images are brought to ``size`` by stretching or by padding.
        checksum: of the file of its weights, if it has one, and of class names that were given with it, to tell it from
            another of its name.
        bgr: whether it wants blue first; ``mean`` and ``std`` are in the order that it wants.
        output: where the logits are in its answer, see :func:`~attnbridge.attention.explain.explain`.
        target: from its answer to scores ``(B, N)`` in the place of logits.
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
    bgr: bool = False
    output: Output | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, get_args(Activation))
        check_choice("shape", self.shape, get_args(Shape))

    def normalise(self, images: Tensor) -> Tensor:
        """Images, floats in [0, 1], ``(B, 3, H, W)``, as the network wants them."""
        check_tensors(empty=True, images=(images, "B 3 H W"))
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return ((images.flip(1) if self.bgr else images) - mean) / std

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, N)``, or a target's scores; float32: half precision cannot tell those near 1 apart."""
        if self.activation == "none":
            return logits.float()
        return logits.float().softmax(1) if self.activation == "softmax" else logits.float().sigmoid()


@dataclass(frozen=True)
class _Loaded:
    """A network with its weights.

    Attributes:
        network: the network.
        count: number of its classes; ``None``: it is to be asked.
        classes: their names, if something says them, and what does.
        checksum: of its weights, if they are a file's.
    """

    network: nn.Module
    count: int | None = None
    classes: tuple[str, ...] | None = None
    source: str = ""
    checksum: str | None = None


def load_classifier(
    name: str,
    weights: str = "imagenet",
    device: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    size: Size | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: Output | None = None,
    target: Target | None = None,
    texts: Sequence[str] | None = None,
) -> Classifier:
    """A network with its classifier, by name.

    Args:
        name: timm's; ``torchvision/NAME``; ``hf/FOLDER``, a Hugging Face folder of transformers or timm;
            ``hf-hub:OWNER/NAME``, the same from its hub; or ``package.module:function``, a function of one's own that
            gives an ``nn.Module``, whose code runs.
        weights: ``imagenet``: those that come with the network; of timm's from a package of the Python registry for
            ``tf_efficientnet_lite0`` to ``2``, from timm's hub for others. Or a file, see
            :func:`~attnbridge.models.weights.read_weights`, whose classifier tells the number of classes.
        device: where the network is to be, see :func:`~attnbridge.models.device.pick_device`.
        classes: names of its classes; default: those in the file, or with the network; else ImageNet's for 1000, else
            numbers.
        size: side of its images, or height and width, pixels; default for this and the next: as the network says,
            see :func:`~attnbridge.data.preparation.preparation_of`.
        mean: what is subtracted from RGB in [0, 1].
        std: what it is divided by.
        output: where the logits are in its answer, if that does not say it: a name, an index, or a function.
        target: from its answer to scores in the place of classes, see :mod:`attnbridge.targets`.
        texts: in the place of classes, of a network that compares images with texts, as CLIP.

    Raises:
        AttnBridgeError: for an unknown model or device, weights that cannot be had or do not fit, another number of
            ``classes`` than the network has, or where nothing says how images are prepared.
    """
    place = pick_device(device)
    if texts is not None:
        loaded, activation, target = _load_texts(name, weights, texts, output, target)
    else:
        check_classifier(name)
        loaded = _load(parse_name(name), None if weights == "imagenet" else Path(weights))
        activation = "softmax" if target is None else "none"
    prepared, changed = _prepared(name, preparation_of(loaded.network), size, mean, std)
    network = loaded.network.eval()
    if loaded.count is None or output is not None or (target is not None and texts is None):
        loaded = replace(loaded, count=_count(network, prepared.size, output, target))
    names, checksum = _named(name, loaded, classes, numbered=target is not None and texts is None)
    how = (prepared.size, prepared.mean, prepared.std)
    return Classifier(
        changed, network.to(place), names, *how, activation=activation, checksum=checksum, bgr=prepared.bgr,
        output=output, target=target,
    )  # fmt: skip


def _named(
    name: str, loaded: _Loaded, classes: Sequence[str] | None, numbered: bool
) -> tuple[tuple[str, ...], str | None]:
    """Names of a network's classes, and its checksum, which given ones are part of.

    Args:
        name: of the network.
        loaded: it.
        classes: names that were given.
        numbered: whether its own names are of something else than the scores.
    """
    count = loaded.count
    if not count:
        raise AttnBridgeError(f"{name!r} has no classifier, so it has no classes to explain; take another model")
    if classes is not None:
        given = check_names("classes", classes)
        check_count(given, count, "the class names", name)
        return given, _digest(str(loaded.checksum), *given)
    names = numbers(count) if numbered else loaded.classes or class_names(count)
    check_count(names, count, loaded.source, name)
    return names, loaded.checksum


def _load_texts(
    name: str, weights: str, texts: Sequence[str], output: Output | None, target: Target | None
) -> tuple[_Loaded, Activation, Target]:
    """A network of images and texts, the texts as its classes."""
    if weights != "imagenet" or output is not None or target is not None:
        raise AttnBridgeError("texts belong to a folder with its own weights, and are the target; leave the others out")
    network, scores = load_image_text(name, texts)
    folder = parse_name(name).folder
    checksum = _digest(_checksum(folder) if folder.is_dir() else name, *texts)
    activation: Activation = "softmax" if getattr(network, "logit_bias", None) is None else "sigmoid"
    return _Loaded(network, len(texts), tuple(texts), "texts", checksum), activation, scores


def of_network(
    network: nn.Module, classes: Sequence[str] | None = None, preparation: Preparation | None = None
) -> Classifier:
    """A network of the user's, where it is and in the mode that it is in, with what is needed to feed and read it.

    Args:
        network: from normalised images to logits ``(B, N)``.
        classes: names of the N classes; default: ImageNet's for 1000, else numbers.
        preparation: how its images are prepared, of which size, mean, standard deviation and the order of the colours
            count; default: as the network says itself.

    Raises:
        AttnBridgeError: if nothing says how its images are prepared, or for another number of ``classes``.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> of_network(network, preparation=Preparation(32, (0.5,) * 3, (0.5,) * 3)).classes
    ('0', '1', '2', '3')
    """
    check_network(network)
    prepared = preparation or preparation_of(network)
    if prepared is None:
        raise AttnBridgeError(
            f"nothing says how images are prepared for {type(network).__name__}; give preparation=Preparation(size, "
            "mean, std), of attnbridge.data.preparation, as Preparation(224, (0.485, 0.456, 0.406), (0.229, 0.224, "
            "0.225))"
        )
    count = _count(network, prepared.size, None, None)
    names = class_names(count) if classes is None else check_names("classes", classes)
    check_count(names, count, "the class names", type(network).__name__)
    how = (prepared.size, prepared.mean, prepared.std)
    checksum = _digest(*_contents(network), *names)
    return Classifier(type(network).__name__, network, names, *how, checksum=checksum, bgr=prepared.bgr)


def _prepared(
    name: str,
    found: Preparation | None,
    size: Size | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[Preparation, str]:
    """How images are prepared, and the network's name with what was given in the place of what it says itself."""
    given: dict[str, Any] = {"size": size, "mean": mean, "std": std}
    missing = [option for option, value in given.items() if value is None]
    if found is None and missing:
        raise AttnBridgeError(
            f"{name}: nothing says how its images are prepared; give its {', '.join(missing)}, as --size 224 --mean "
            "0.485 0.456 0.406 --std 0.229 0.224 0.225 (in Python: size=, mean=, std=)"
        )
    check_value("size", size, MapSize | None)
    for option, kind in (("mean", tuple[float, float, float]), ("std", tuple[Positive, Positive, Positive])):
        if given[option] is not None:
            check_value(option, given[option], kind)
    own: dict[str, Any] = {
        option: tuple(v) if isinstance(v, Sequence) else v for option, v in given.items() if v is not None
    }
    base = found or Preparation(224, (0.0,) * 3, (1.0,) * 3)
    words = [f"{option} {' '.join(map(str, v if isinstance(v, tuple) else (v,)))}" for option, v in own.items()]
    return replace(base, **own), ", ".join([name, *words])


def _count(network: nn.Module, size: Size, output: Output | None, target: Target | None) -> int:
    """The number of classes of a network, or of scores of a target, from its answer."""
    parameter = next(network.parameters(), torch.zeros(()))
    images = torch.zeros(1, 3, *sides(size), device=parameter.device, dtype=parameter.dtype)
    with eval_mode(network):
        return observe(network, images, [], grad=False, output=output, target=target).logits.shape[1]


def _digest(*parts: str | bytes) -> str:
    """A checksum of texts and bytes, in this order."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(f"{len(content)} ".encode())
        found.update(content)
    return found.hexdigest()


def _contents(network: nn.Module) -> Iterator[str | bytes]:
    """Names and bytes of a network's weights."""
    for name, value in network.state_dict().items():
        yield name
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _checksum(path: Path) -> str:
    """Of a file of weights; of a folder, of those in it and of its configuration."""
    if not path.is_dir():
        return sha256(path)
    return _digest(*(sha256(file) for file in (path / CONFIG, *weight_files(path)) if file.is_file()))


def check_classifier(name: str, layer: str | None = None) -> None:
    """Check the names of a model and of a layer of it; no weights are made or fetched, no function of the user's runs.

    Raises:
        AttnBridgeError: for an unknown name, with the nearest ones.
    """
    parsed = parse_name(name)
    make: Callable[[], nn.Module] | None = None
    if parsed.library == "timm":
        if not isinstance(name, str) or not timm.is_model(name):
            raise unknown_name(
                "model", name, timm.list_models(), "or name the folder of a run made by `attnbridge fit`"
            )
        make = partial(timm.create_model, name)
    elif parsed.library == "torchvision":
        check_torchvision(parsed)
        make = partial(make_torchvision, parsed, 1)
    elif parsed.library == "folder":
        check_folder(parsed)
        make = partial(make_folder, parsed, 1)
    if layer and make is not None:
        check_layer(skeleton(make), layer)


def _load(name: NetworkName, path: Path | None) -> _Loaded:
    """A network by name, with weights of its own, or of a file."""
    if name.library == "timm":
        return _load_timm(name.text, path)
    if name.library == "torchvision":
        return _load_torchvision(name, path)
    if name.library == "function":
        return _load_function(name, path)
    return _load_folder(hub_folder(name, weights=path is None) if name.library == "hub" else name, path)


def _load_timm(name: str, path: Path | None) -> _Loaded:
    if path is not None:
        return _from_file(lambda count: timm.create_model(name, num_classes=count), path, name)
    if name in PACKAGED and PACKAGED[name].classifier:
        network: Any = timm.create_model(name)
        load_packaged(network, name)
        network.pretrained_cfg = network.pretrained_cfg | {"mean": PACKAGED[name].mean, "std": PACKAGED[name].std}
    else:
        network = _from_hub(name)
    return _Loaded(network, network.num_classes)


def _load_torchvision(name: NetworkName, path: Path | None) -> _Loaded:
    if path is not None:
        return _from_file(partial(make_torchvision, name), path, name.text)
    network, place = make_torchvision(name, 1000), Path(name.text)
    fill(network, under_names(torchvision_state(name), network.state_dict(), place), place, name.text)
    return _Loaded(network, 1000)


def _load_function(name: NetworkName, path: Path | None) -> _Loaded:
    network = call_function(name.text)
    if path is None:
        return _Loaded(network, checksum=_digest(*_contents(network)))
    found = read_weights(path, network.state_dict())
    fill(network, found.state, path, name.text)
    return _Loaded(network, None, found.classes, str(path), _checksum(path))


def _load_folder(name: NetworkName, path: Path | None) -> _Loaded:
    """Of a Hugging Face folder, with its weights or those of a file."""
    known, source = read_config(name.folder, name.text), path or name.folder
    if known.architecture is not None:
        loaded = _from_file(partial(make_folder, name), source, name.text)
    else:
        network, count, found = load_transformers(name, path)
        loaded = _Loaded(network, count, found.classes, str(source), _checksum(source))
    if loaded.classes is None and known.classes is not None and len(known.classes) == loaded.count:
        return replace(loaded, classes=known.classes, source=str(name.folder / CONFIG))
    return loaded


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


def _from_file(make: Make, path: Path, name: str) -> _Loaded:
    """A network with the weights of a file, which tell the number of its classes."""
    names = weight_names(make)
    found = read_weights(path, names)
    network, count = with_weights(make, found.state, path, name, names)
    return _Loaded(network, count, found.classes, str(path), _checksum(path))


def class_names(count: int) -> tuple[str, ...]:
    """ImageNet's names for 1000 classes, else the numbers.

    >>> class_names(1000)[281], class_names(2)
    ('tabby, tabby cat', ('0', '1'))
    """
    if count != 1000:
        return numbers(count)
    info: Any = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(count))


def numbers(count: int) -> tuple[str, ...]:
    """Numbers as names.

    >>> numbers(3)
    ('0', '1', '2')
    """
    return tuple(str(i) for i in range(count))


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
