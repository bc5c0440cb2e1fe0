"""Names of networks: timm's, torchvision's, a Hugging Face folder, its hub, a function of the user's. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from attnbridge.data.files import given_path
from attnbridge.data.text import read_object
from attnbridge.errors import AttnBridgeError
from attnbridge.models.labels import names_inside

Library = Literal["timm", "torchvision", "folder", "hub", "function"]
PREFIXES: dict[str, Library] = {"torchvision/": "torchvision", "hf/": "folder", "hf-hub:": "hub"}
NAMES = "a timm model, torchvision/NAME, hf/FOLDER, hf-hub:OWNER/NAME, or package.module:function"
EXTRA = "pip install 'attnbridge[networks]'"
FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
CONFIG = "config.json"


@dataclass(frozen=True)
class NetworkName:
    """Where a network comes from.

    Attributes:
        text: as it was given.
        library: of whom it is.
        name: what that library calls it; a folder, or a function of a module.
    """

    text: str
    library: Library
    name: str

    @property
    def folder(self) -> Path:
        """Of a Hugging Face folder, the path."""
        return Path(self.name)


def parse_name(text: str) -> NetworkName:
    """What a name of a network stands for; whether it exists is not looked at.

    Raises:
        AttnBridgeError: for a prefix without a name, or a colon in something that is no function of a module.

    >>> parse_name("torchvision/resnet50").library, parse_name("my.networks:make").library, parse_name("resnet50").name
    ('torchvision', 'function', 'resnet50')
    """
    if not isinstance(text, str):
        return NetworkName(text, "timm", text)  # who looks it up says that there is none
    for prefix, library in PREFIXES.items():
        if text.startswith(prefix):
            name = text.removeprefix(prefix)
            if not name.strip():
                raise AttnBridgeError(f"{text!r} lacks a name after {prefix!r}; give {NAMES}")
            return NetworkName(text, library, name)
    if FUNCTION.fullmatch(text):
        return NetworkName(text, "function", text)
    if ":" in text:
        raise AttnBridgeError(f"{text!r} names no function of a module; write package.module:function")
    return NetworkName(text, "timm", text)


def is_library_name(text: str) -> bool:
    """Whether a name says of which library it is, so that it is no path.

    >>> is_library_name("hf/model"), is_library_name("runs/model")
    (True, False)
    """
    return text.startswith(tuple(PREFIXES)) or FUNCTION.fullmatch(text) is not None


def is_folder_name(text: object) -> bool:
    """Whether a name is of a Hugging Face folder, here or on its hub.

    >>> is_folder_name("hf/model"), is_folder_name("hf-hub:someone/model"), is_folder_name("resnet18")
    (True, True, False)
    """
    return isinstance(text, str) and text.startswith(("hf/", "hf-hub:"))


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raise unless a name may be of a network of images and texts, and there are texts.

    >>> check_texts("resnet50", ["a boat"])
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: resnet50: texts belong to a network of images and texts, hf/FOLDER or
    hf-hub:OWNER/NAME; in Python, attnbridge.targets.text_target takes any
    """
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise AttnBridgeError("texts: expected at least one, none of them empty")
    if parse_name(name).library not in ("folder", "hub"):
        raise AttnBridgeError(
            f"{name}: texts belong to a network of images and texts, hf/FOLDER or hf-hub:OWNER/NAME; in Python, "
            "attnbridge.targets.text_target takes any"
        )


def check_folder(name: NetworkName) -> None:
    """Raise unless the Hugging Face folder that is named, if one is, can be read by what is installed."""
    if name.library == "folder" and read_config(name.folder, name.text).architecture is None:
        check_transformers(name.text)


@dataclass(frozen=True)
class FolderConfig:
    """What ``config.json`` of a Hugging Face folder says.

    Attributes:
        architecture: timm's name of the model; ``None``: it is one of transformers.
        classes: names of its classes, if it has them.
        count: how many there are.
        arguments: of timm's model.
        pretrained: of timm's model, its ``pretrained_cfg``.
    """

    architecture: str | None
    classes: tuple[str, ...] | None
    count: int
    arguments: dict[str, Any]
    pretrained: dict[str, Any]


def read_config(folder: Path, text: str) -> FolderConfig:
    """``config.json`` of a Hugging Face folder; transformers takes two classes where it says nothing of them.

    Args:
        folder: where it lies.
        text: how the network was named, for messages.

    Raises:
        AttnBridgeError: if there is none, or it is of no network.
    """
    path = given_path(folder, "the folder of the network") / CONFIG
    if not path.is_file():
        raise AttnBridgeError(
            f"{text}: there is no {path}; expected a folder with {CONFIG} and weights, as save_pretrained writes it"
        )
    found = read_object(path)
    if not any(isinstance(found.get(key), str) for key in ("model_type", "architecture")):
        raise AttnBridgeError(
            f"{path}: names no network: it has neither model_type (transformers) nor architecture (timm)"
        )
    classes = names_inside(found)
    said = found.get("num_labels") or found.get("num_classes")
    count = len(classes) if classes else said if isinstance(said, int) else 2
    parts = [found.get(key) or {} for key in ("model_args", "pretrained_cfg")]
    if not all(isinstance(part, dict) for part in parts):
        raise AttnBridgeError(f"{path}: expected model_args and pretrained_cfg to be objects, as timm writes them")
    return FolderConfig(None if "model_type" in found else found["architecture"], classes, count, *parts)


def check_transformers(text: str) -> None:
    """Raise where transformers is not installed."""
    if find_spec("transformers") is None:
        raise AttnBridgeError(f"{text}: is a network of transformers, which is not installed: {EXTRA}")
