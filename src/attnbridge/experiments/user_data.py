"""What users give as data: a folder, options, a data module, or loaders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from attnbridge.data.files import given_path
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.modules.loaders import LoaderDataModule
from attnbridge.errors import AttnBridgeError, shown
from attnbridge.experiments.config import Experiment


def data_module_of(experiment: Experiment, data: Any) -> tuple[Experiment, ImageDataModule | None]:
    """The experiment on the data that the user gives, and the data module, if they are one.

    Args:
        experiment: what is to be trained.
        data: see :func:`~attnbridge.experiments.fit.fit`.

    Raises:
        AttnBridgeError: for something else, or a folder that is not there.
    """
    if data is None:
        return experiment, None
    if isinstance(data, ImageDataModule):
        return experiment, data
    if isinstance(data, str | Path):
        return experiment.with_options(data=folder_options(experiment, given_path(data, "data"))), None
    if isinstance(data, dict) and any(map(_holds_loader, data.values())):
        unknown = set(data) - {"train", "val", "test", "classes", "image_size"}
        if unknown or not {"train", "classes", "image_size"} <= set(data):
            raise AttnBridgeError(
                "data: loaders are given as {'train': {STREAM: loader}, 'val': loader, 'test': loader, 'classes': "
                f"[...], 'image_size': 224}}, val and test may be left out; not as {', '.join(map(repr, data))}"
            )
        return experiment, LoaderDataModule(**data)
    if isinstance(data, dict):
        return experiment.with_options(data=data), None
    raise AttnBridgeError(
        "data: expected a folder, options of the data module, an attnbridge data module, or loaders, not "
        f"{type(data).__name__} {shown(data)}"
    )


def _holds_loader(value: Any) -> bool:
    return isinstance(value, DataLoader) or (isinstance(value, dict) and any(map(_holds_loader, value.values())))


def folder_options(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """What a folder is to a data module: ``source``, ``saliency`` and ``target`` inside it, or the data themselves.

    Raises:
        AttnBridgeError: if it is not there.
    """
    if not folder.is_dir():
        raise AttnBridgeError(f"{folder}: no such folder; name the one that holds the data")
    parts: Iterable[str] = (name for name in ("source", "saliency", "target") if (folder / name).is_dir())
    found = {name: str(folder / name) for name in parts}
    return found if "target" in found else {experiment.entry.data.own_path: str(folder)}
