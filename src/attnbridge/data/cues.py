"""Cues as files: which images have one. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attnbridge.data.images import ImageRecord
from attnbridge.data.text import read_json
from attnbridge.errors import AttnBridgeError


def cue_path(folder: Path, record: ImageRecord) -> Path:
    """Where the cue of an image lies."""
    return folder / f"{record.image.stem}.png"


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
        AttnBridgeError: if there is none, or they were made for other classes or another order of them.
    """
    if cues is None:
        raise AttnBridgeError("data.cues is not set; name the folder that `attnbridge cues` wrote")
    for name in ("cues.json", "masks.json"):
        known = _classes(cues / name) if (cues / name).exists() else list(classes)
        if known != list(classes):
            raise AttnBridgeError(
                f"{cues}: its values stand for {', '.join(known)}, but the data's classes are {', '.join(classes)}, in "
                "this order; name the same data.source for both, or make the cues again"
            )
    found = [(record, cue_path(cues, record)) for record in records]
    kept = [replace(record, mask=cue, values=None) for record, cue in found if record.classes and cue.is_file()]
    if not kept:
        raise AttnBridgeError(
            f"{found[0][1]}: no such file, nor a cue of another training image; make them with `attnbridge cues`"
        )
    return kept
