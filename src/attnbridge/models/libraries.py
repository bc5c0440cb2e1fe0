"""Networks of other libraries: torchvision's, those in Hugging Face folders and on its hub, a user's own function."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from attnbridge.data.preparation import processor_preparation, share
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError, shown, unknown_name
from attnbridge.models.checkpoints import State
from attnbridge.models.names import (
    CONFIG,
    NetworkName,
    check_transformers,
    parse_name,
    read_config,
)
from attnbridge.models.nearest import nearest_model
from attnbridge.models.weights import FileWeights, hub, read_weights

Make = Callable[[int], nn.Module]
"""From a number of classes to a network without weights."""
FEW, MORE = 7, 11
"""Numbers of classes that tell which weights depend on it."""
WITH_AUXILIARY = ("googlenet", "inception_v3")
"""Torchvision's networks whose second and third classifier is left out; their weights want images of another scale."""
PROCESSOR = "preprocessor_config.json"


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """A network without memory for its weights, on the meta device; with it, where its own code computes with tensors,
    as torchvision's RegNets do."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:
        return make()


def weight_names(make: Make) -> dict[str, int | None]:
    """Names of a network's weights, each with the axis that is as long as there are classes; nothing is allocated.

    >>> weight_names(lambda count: nn.Sequential(nn.Linear(3, 5), nn.Linear(5, count, bias=False)))
    {'0.weight': None, '0.bias': None, '1.weight': 0}
    """
    few, more = (skeleton(partial(make, count)).state_dict() for count in (FEW, MORE))
    found: dict[str, int | None] = {}
    for name, value in few.items():
        shapes = zip(value.shape, more[name].shape, strict=True)
        found[name] = next((i for i, (a, b) in enumerate(shapes) if a != b), None)
    return found


def with_weights(
    make: Make, state: State, path: Path, name: str, names: dict[str, int | None]
) -> tuple[nn.Module, int]:
    """A network filled with all of its weights, with as many classes as these have, and their number.

    Args:
        make: makes it.
        state: its weights, under its names.
        path: where they are from, for messages.
        name: of the network, for messages.
        names: see :func:`weight_names`.

    Raises:
        AttnBridgeError: if something is missing, left over, or of another shape, with the nearest model.
    """
    count = class_count(state, names, path, name)
    network = make(count)
    fill(network, state, path, name)
    return network, count


def class_count(state: State, names: dict[str, int | None], path: Path, name: str) -> int:
    """The number of classes that weights have, see :func:`with_weights`.

    Raises:
        AttnBridgeError: if they have no classifier of the network.
    """
    classifier = {key: axis for key, axis in names.items() if axis is not None}
    if not classifier:
        raise AttnBridgeError(f"{name!r} has no classifier; take another model")
    lacking = [key for key, axis in classifier.items() if key not in state or state[key].ndim <= axis]
    if lacking:
        raise AttnBridgeError(
            f"{path}: holds no {lacking[0]}, the classifier of {name!r}; check the model's name{nearest_model(state)}"
        )
    key, axis = next(iter(classifier.items()))
    return state[key].shape[axis]


def fill(network: nn.Module, state: State, path: Path, name: str) -> None:
    """Fill a network with all of its weights.

    Raises:
        AttnBridgeError: see :func:`with_weights`.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        words = [line.strip() for line in str(error).splitlines()]
        first = " ".join(words[1:2] or words)
        first = first if len(first) < 300 else f"{first[:300]} ..."
        raise AttnBridgeError(f"{path}: does not fit {name!r} ({first}){nearest_model(state)}") from None


# ---- torchvision


def make_torchvision(name: NetworkName, num_classes: int) -> nn.Module:
    """A classifier of torchvision's without weights; it says itself how its images are prepared.

    Raises:
        AttnBridgeError: for a name that torchvision does not know as a classifier's.
    """
    check_torchvision(name)
    options: dict[str, Any] = {"num_classes": num_classes}
    if name.name in WITH_AUXILIARY:
        options |= {"aux_logits": False, "transform_input": True, "init_weights": True}
    network: Any = torchvision.models.get_model(name.name, weights=None, **options)
    transform = _default_weights(name).transforms()
    size, resized = transform.crop_size[0], transform.resize_size[0]
    network.pretrained_cfg = {
        "architecture": name.text, "num_classes": len(_default_weights(name).meta["categories"]),
        "input_size": (3, size, size), "crop_pct": share(size, resized), "crop_mode": "center",
        "mean": tuple(transform.mean), "std": tuple(transform.std), "interpolation": transform.interpolation.value,
    }  # fmt: skip
    made: nn.Module = network
    return made


def check_torchvision(name: NetworkName) -> None:
    """Raise unless torchvision has a classifier of that name."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name.name not in known:
        raise unknown_name("classifier of torchvision", name.name, known, "see `torchvision.models.list_models()`")


def torchvision_state(name: NetworkName) -> State:
    """ImageNet's weights of a classifier of torchvision's: its default ones, from its server or the local cache.

    Raises:
        AttnBridgeError: if they cannot be had.
    """
    try:
        state: State = _default_weights(name).get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise AttnBridgeError(
            f"the ImageNet weights of {name.text!r} cannot be had from torchvision's server "
            f"({f'{error} '.splitlines()[0].strip()}); give a local state dict, weights: FILE.pth or --weights FILE.pth"
        ) from None
    return state


def _default_weights(name: NetworkName) -> Any:
    return torchvision.models.get_model_weights(name.name).DEFAULT


# ---- Hugging Face


def hub_folder(name: NetworkName, weights: bool) -> NetworkName:
    """What is on Hugging Face's hub under a name, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``, as a local folder.

    Args:
        name: of the network.
        weights: whether its weights are wanted, too.

    Raises:
        AttnBridgeError: if it cannot be had from the hub, nor from the local cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.name.partition("@")

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*patterns]))

    try:
        with hub():
            folder = fetch("*.json", *(["*.safetensors"] if weights else []))
            if weights and not any(folder.glob("*.safetensors")):
                folder = fetch("*.json", "*.bin")
    except HFValidationError as error:
        raise AttnBridgeError(f"{name.text}: is no name of the hub ({error}); write hf-hub:OWNER/NAME") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        words = f"{type(error).__name__} {error}".splitlines()[0]
        raise AttnBridgeError(
            f"{name.text}: cannot be had from Hugging Face's hub ({words}); check the name, or fetch the folder and "
            "name it as hf/FOLDER"
        ) from None
    return NetworkName(name.text, "folder", str(folder))


def make_folder(name: NetworkName, num_classes: int) -> nn.Module:
    """The network of a Hugging Face folder, of timm or transformers, without weights.

    Raises:
        AttnBridgeError: where it is no classifier of theirs.
    """
    of_timm = read_config(name.folder, name.text).architecture is not None
    return make_timm(name, num_classes) if of_timm else make_transformers(name, num_classes)


def make_timm(name: NetworkName, num_classes: int) -> nn.Module:
    """The timm model of a Hugging Face folder, without weights.

    Raises:
        AttnBridgeError: for an architecture that timm does not know.
    """
    known = read_config(name.folder, name.text)
    architecture = str(known.architecture)
    if not timm.is_model(architecture):
        raise unknown_name(f"architecture in {name.folder / CONFIG}:", architecture, timm.list_models())
    network: Any = timm.create_model(architecture, num_classes=num_classes, **known.arguments)
    network.pretrained_cfg = network.pretrained_cfg | known.pretrained
    made: nn.Module = network
    return made


def make_transformers(name: NetworkName, num_classes: int | None = None, image_size: Size | None = None) -> nn.Module:
    """A classifier of transformers, as a folder's configuration says, without weights.

    Args:
        name: of the folder.
        num_classes: number of logits; default: as the configuration says.
        image_size: pixels, for networks that are made for one size.

    Raises:
        AttnBridgeError: where it is none, or transformers is not installed.
    """
    with in_transformers(name) as auto:
        network: nn.Module = auto.AutoModelForImageClassification.from_config(_config(name, num_classes, image_size))
    return says_preparation(network, name)


def load_transformers(
    name: NetworkName, path: Path | None = None, num_classes: int | None = None, image_size: Size | None = None
) -> tuple[nn.Module, int, FileWeights]:
    """A classifier of transformers with weights, which transformers brings to the names of its version.

    Args:
        name: of the folder.
        path: of a file with weights; default: the folder's.
        num_classes: number of logits, whose layer begins anew if the weights have another; default: as they have it.
        image_size: pixels, for networks that are made for one size.

    Returns:
        The network, its number of classes, and what was read.

    Raises:
        AttnBridgeError: if weights are missing or do not fit: all but the classifier's, or, without ``num_classes``,
            any.
    """
    names, source = weight_names(lambda n: make_transformers(name, n, image_size)), path or name.folder
    found = read_weights(source, names)
    count = class_count(found.state, names, source, name.text) if num_classes is None else num_classes
    with in_transformers(name) as auto:
        config = _config(name, count, image_size)
        kind: Any = type(skeleton(lambda: auto.AutoModelForImageClassification.from_config(config)))
        network, info = kind.from_pretrained(
            None, config=config, state_dict=dict(found.state), dtype=torch.float32,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    renewed = set() if num_classes is None else {key for key, axis in names.items() if axis is not None}
    _check_loaded(info, renewed, source, name, found.state, strict=path is not None)
    return says_preparation(network, name), count, found


def _check_loaded(
    info: Mapping[str, Any], renewed: set[str], source: Path, name: NetworkName, state: State, strict: bool
) -> None:
    """Raise where weights were missing, of another shape, or, if that is strict, left over."""
    shapes = [(key, theirs, own) for key, theirs, own in sorted(info["mismatched_keys"], key=str) if key not in renewed]
    missing = sorted(set(info["missing_keys"]) - renewed)
    left = sorted(info["unexpected_keys"]) if strict else []
    if missing or left:
        raise AttnBridgeError(
            f"{source}: does not fit {name.text!r}: lacks {missing[:3] or 'nothing'}, has unknown "
            f"{left[:3] or 'nothing'}{nearest_model(state)}"
        )
    if shapes:
        key, theirs, own = shapes[0]
        raise AttnBridgeError(
            f"{source}: its {key} is {tuple(theirs)}, but {tuple(own)} in {name.text!r}; if that is the size of the "
            "images, set data.image_size to what its config.json says, or start from `weights: none`"
        )


def _config(name: NetworkName, num_classes: int | None, image_size: Size | None) -> Any:
    from transformers import AutoConfig

    own = {} if num_classes is None else {"num_labels": num_classes}
    config = AutoConfig.from_pretrained(name.folder, local_files_only=True, trust_remote_code=False, **own)
    if image_size is not None and getattr(config, "image_size", None) is not None:
        height, width = sides(image_size)
        config.image_size = height if height == width else (height, width)
    return config


@contextmanager
def in_transformers(name: NetworkName) -> Iterator[Any]:
    """transformers, without its progress bars and reports; what it raises names the folder."""
    check_transformers(name.text)
    import transformers

    before, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield transformers
    except AttnBridgeError:
        raise
    except Exception as error:  # transformers' errors have no common class
        words = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise AttnBridgeError(
            f"{name.text}: is no image classifier that transformers can make ({words}); load it yourself, and give the "
            "module"
        ) from None
    finally:
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.logging.enable_progress_bar()


def says_preparation(network: nn.Module, name: NetworkName) -> nn.Module:
    """It, saying itself how its images are prepared, if its folder does."""
    count = read_config(name.folder, name.text).count
    cfg: dict[str, Any] = {"architecture": name.text, "num_classes": count}
    found = processor_preparation(name.folder) if (name.folder / PROCESSOR).is_file() else None
    if found is not None:
        cfg |= {
            "input_size": (3, *sides(found.size)), "mean": found.mean, "std": found.std, "crop_pct": found.crop,
            "crop_mode": found.mode, "interpolation": found.interpolation, "bgr": found.bgr,
        }  # fmt: skip
    network.pretrained_cfg = cfg  # type: ignore[assignment]
    return network


# ---- a function of the user's


def call_function(text: str) -> nn.Module:
    """The network that a function of the user's gives, ``package.module:function``; its code runs.

    Modules are found as Python finds them, and in the working folder.

    Raises:
        AttnBridgeError: if there is no such module or function, it raises, or gives something else.

    >>> call_function("torchvision.models:resnet99")
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: torchvision.models:resnet99: the module has no 'resnet99'; did you mean ...
    """
    with _working_folder_first():
        found = import_object(text)
        if isinstance(found, nn.Module):
            return found
        if not callable(found):
            raise AttnBridgeError(f"{text}: must be a function that gives an nn.Module, not {shown(found)}")
        try:
            network = found()
        except Exception as error:
            words = f"{type(error).__name__}: {error}".splitlines()[0]
            raise AttnBridgeError(f"{text}: raised {words}; it is called without arguments") from error
    if not isinstance(network, nn.Module):
        raise AttnBridgeError(f"{text}: must give an nn.Module, but gave {shown(network)}")
    return network


def import_object(text: str) -> Any:
    """What a name of the user's stands for, ``package.module:name``; the module's code runs.

    Modules are found as Python finds them, and in the working folder.

    Raises:
        AttnBridgeError: if there is no such module, or nothing of that name in it.

    >>> import_object("math:pi")
    3.14...
    """
    parsed = parse_name(text)
    if parsed.library != "function":
        raise AttnBridgeError(f"{text!r} names no function of a module; write package.module:function")
    module, _, name = parsed.name.partition(":")
    with _working_folder_first():
        found: Any = _import(module, text)
    for part in name.split("."):
        if not hasattr(found, part):
            near = unknown_name("name", part, [n for n in dir(found) if not n.startswith("_")])
            raise AttnBridgeError(f"{text}: the module has no {part!r}; {str(near).split('; ', 1)[1]}")
        found = getattr(found, part)
    return found


def _import(module: str, text: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise AttnBridgeError(
                f"{text}: there is no module {error.name!r}, in {Path.cwd()} nor installed; check the name"
            ) from None
        raise AttnBridgeError(f"{text}: its module needs {error.name!r}, which is not installed") from error
    except Exception as error:
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        raise AttnBridgeError(f"{text}: its module cannot be imported ({words})") from error


@contextmanager
def _working_folder_first() -> Iterator[None]:
    """Modules are looked for in the working folder, too, as by ``python -m``."""
    folder = os.getcwd()  # noqa: PTH109 (sys.path holds texts)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
