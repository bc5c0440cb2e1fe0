"""Cues as files: which images have one. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attnbridge.data.images import ImageRecord
from attnbridge.data.text import read_json, read_object
from attnbridge.errors import AttnBridgeError

MADE_OF = "cues.json"
"""What says of which images cues were made, and how."""


def cue_path(folder: Path, record: ImageRecord) -> Path:
    """Where the cue of an image lies."""
    return folder / f"{record.image.stem}.png"


def _check_images(cues: Path, images: Path) -> None:
    """That cues were made of the images of this folder, and not of others of the same names, as another split has.

    Images that were moved are known by the last two names of their folder.

    Raises:
        AttnBridgeError: naming both folders.
    """
    record = cues / MADE_OF
    made = read_object(record).get("images") if record.exists() else None
    if not isinstance(made, str) or os.path.realpath(made) == os.path.realpath(images):
        return
    moved = not Path(made).exists() and Path(made).absolute().parts[-2:] == images.absolute().parts[-2:]
    if not moved:
        raise AttnBridgeError(
            f"{cues}: its cues were made of the images in {made}, but training reads those in {images}; make cues of "
            "these in another folder (attnbridge cues --split train), or, if they are the same images at another "
            f'place, write this one as "images" into {record}'
        )


def _classes(record: Path) -> list[str]:
    """What the values of cues or masks stand for."""
    found = read_json(record)
    known = found.get("classes") if isinstance(found, dict) else None
    if not isinstance(known, list):
        raise AttnBridgeError(f"{record}: does not name the classes of the cues beside it; make them again")
    return [str(name) for name in known]


def with_cues(records: list[ImageRecord], cues: Path | None, classes: Sequence[str]) -> list[ImageRecord]:
    """The records whose cue is there, with it in the place of a mask.

    Args:
        records: of the training images.
        cues: their folder.
        classes: of the data, in the order of the cues' values.

    Raises:
        AttnBridgeError: if there is none, or they were made for other classes or another order of them, or of the
            images of another folder.
    """
    if cues is None:
        raise AttnBridgeError("data.cues is not set; name the folder that `attnbridge cues` wrote")
    for name in (MADE_OF, "masks.json"):
        known = _classes(cues / name) if (cues / name).exists() else list(classes)
        if known != list(classes):
            raise AttnBridgeError(
                f"{cues}: its values stand for {', '.join(known)}, but the data's classes are {', '.join(classes)}, in "
                "this order; name the same data.source for both, or make the cues again"
            )
    _check_images(cues, records[0].image.parent)
    found = [(record, cue_path(cues, record)) for record in records]
    kept = [replace(record, mask=cue, values=None) for record, cue in found if record.classes and cue.is_file()]
    if not kept:
        raise AttnBridgeError(
            f"{found[0][1]}: no such file, nor a cue of another training image; make them with `attnbridge cues`"
        )
    return kept
