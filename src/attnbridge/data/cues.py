"""Cues as files: which pictures have one. Free of torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from attnbridge.data.pictures import Record
from attnbridge.errors import AttnBridgeError


def cue_path(folder: Path, record: Record) -> Path:
    """Where the cue of a picture lies."""
    return folder / f"{record.image.stem}.png"


def with_cues(records: list[Record], cues: Path | None) -> list[Record]:
    """The records whose cue is there, with it in the place of a mask.

    Raises:
        AttnBridgeError: if there is none.
    """
    if cues is None:
        raise AttnBridgeError("data.cues is not set; name the folder that `attnbridge cues` wrote")
    found = [(record, cue_path(cues, record)) for record in records]
    kept = [replace(record, mask=cue, values=None) for record, cue in found if record.classes and cue.is_file()]
    if not kept:
        raise AttnBridgeError(
            f"{found[0][1]}: no such file, nor a cue of another training picture; make them with `attnbridge cues`"
        )
    return kept
