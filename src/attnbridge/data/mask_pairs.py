"""Predicted label masks and the true ones that they belong to, by their names. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attnbridge.data.files import given_path
from attnbridge.data.folders import images_below
from attnbridge.data.labels import read_labels
from attnbridge.data.masks import IGNORED
from attnbridge.data.voc import kit_classes, list_names, mask_of
from attnbridge.errors import AttnBridgeError, warn_once

LISTS = "ImageSets"
LIST = "val"
"""Of a kit, where no other is named."""
BACKGROUND = "background"


class MaskPair(NamedTuple):
    """A predicted mask and the true one; ``name`` is their path below their folders, without suffix."""

    name: str
    found: Path
    truth: Path


def pair_masks(masks: Path, truth: Path, names: str | None = None) -> list[MaskPair]:
    """The predicted mask of each true one, which has its name and lies where it does below its own folder.

    Predicted masks without a true one are warned of and left out.

    Args:
        masks: a folder of predicted masks, PNG; hidden files are passed over.
        truth: a folder of true ones, or VOC's development kit.
        names: of the kit's list; default: :data:`LIST`.

    Raises:
        AttnBridgeError: for a folder that is not there or holds no PNG, a list that the kit does not have, two masks of
            one name, or a true mask without a predicted one, since leaving it out would raise the scores.
    """
    masks, truth = given_path(masks, "the folder of predicted masks"), given_path(truth, "the folder of true masks")
    true = _true_masks(truth, names)
    if os.path.realpath(masks) == os.path.realpath(truth):
        raise AttnBridgeError(f"{masks}: is the folder of the true masks, too; name the folder of the predicted ones")
    found = _masks_below(masks, "predicted masks")
    missing = [name for name in true if name not in found]
    if missing:
        raise AttnBridgeError(
            f"{masks / missing[0]}.png: no such file; expected the predicted mask of {true[missing[0]]}"
            f"{_other(masks, missing[0])} ({len(missing)} of {len(true)} true masks have none; without them the scores "
            "would be those of another set)"
        )
    over = [name for name in found if name not in true]
    if over:
        warn_once(f"{found[over[0]]}: has no true mask in {truth}, so it is left out ({len(over)} such masks in all)")
    return [MaskPair(name, found[name], path) for name, path in true.items()]


def _true_masks(truth: Path, names: str | None) -> dict[str, Path]:
    if names is None and not is_kit(truth):
        return _masks_below(truth, "true masks")
    return {name: mask_of(truth, name) for name in list_names(truth, LIST if names is None else names)}


def is_kit(folder: Path) -> bool:
    """Whether a folder of true masks is a development kit, with lists."""
    return (folder / LISTS).is_dir()


def _masks_below(folder: Path, what: str) -> dict[str, Path]:
    """The PNGs below a folder by their path in it, without suffix."""
    if not folder.is_dir():
        raise AttnBridgeError(f"{folder}: no such folder; expected {what}, a PNG for each image")
    images = images_below(folder)
    found: dict[str, Path] = {}
    for path in images:
        if path.suffix.lower() != ".png":
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise AttnBridgeError(f"{path} and {found[name].name} both are the mask {name!r}; take one of them out")
        found[name] = path
    if not found:
        hint = f"; there is {images[0].name}, but only a PNG keeps each value as it is" if images else ""
        raise AttnBridgeError(f"{folder}: holds no PNG; expected {what}, a PNG for each image{hint}")
    return found


def _other(folder: Path, name: str) -> str:
    """A file of the same name that is no PNG."""
    place = folder / name
    stem = place.name
    if not place.parent.is_dir():
        return ""
    other = next((p.name for p in sorted(place.parent.iterdir()) if p.stem == stem and p.is_file()), None)
    return f"; there is {other}, but only a PNG keeps each value as it is" if other else ""


def mask_classes(truth: Path, classes: Sequence[str] | None = None) -> tuple[str, ...] | None:
    """Names of the masks' values from 1 on.

    Args:
        truth: the folder of true masks, or a kit, or a folder in one.
        classes: names that the user gives, which go before those of the data.

    Returns:
        Those of ``labels.csv`` in the folder or beside it, in the order of its columns; a kit's; ``None`` where nothing
        names them.

    Raises:
        AttnBridgeError: for names that are empty, there twice, or more than 254; for a ``labels.csv`` that is none.
    """
    if classes is not None:
        return _checked(tuple(classes), "the list of classes")
    for root in (truth, truth.parent):
        if is_kit(root):
            return _checked(kit_classes(root), f"{root}: its list of classes")
    for table in (truth / "labels.csv", truth.parent / "labels.csv"):
        if table.is_file():
            try:
                return _checked(read_labels(table).classes, f"{table}: its list of classes")
            except AttnBridgeError as error:
                raise AttnBridgeError(f"{error}; or name the classes with --classes") from None
    return None


def _checked(names: tuple[str, ...], what: str) -> tuple[str, ...]:
    if not names or not all(name.strip() for name in names):
        raise AttnBridgeError(f"{what} has an empty name; expected the names of the values 1, 2, ... of the masks")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AttnBridgeError(f"{what} names {twice!r} twice; give each of the masks' values its own name")
    if BACKGROUND in names:
        raise AttnBridgeError(f"{what} names {BACKGROUND!r}, which is the value 0; begin with the name of the value 1")
    if len(names) >= IGNORED:
        raise AttnBridgeError(f"{what} has {len(names)} names; a mask of 8 bits holds {IGNORED - 1} classes at most")
    return names


def check_apart(out: Path, *folders: Path) -> None:
    """Raise for results that would lie among masks, where the next scoring would take them for some."""
    real = Path(os.path.realpath(out))
    for folder in folders:
        if real.is_relative_to(os.path.realpath(folder)):
            raise AttnBridgeError(
                f"{out}: lies in {folder}, where its images would be taken for masks; name another folder with --out"
            )
