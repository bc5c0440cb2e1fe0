"""Saliency maps of a folder: a sheet to look at, and their scores beside masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attnbridge.data.images import load_image
from attnbridge.data.provenance import OwnFiles
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import sheet
from attnbridge.evaluation.metrics.saliency import SaliencyScore, SaliencyScores

SHOWN, CELL = 40, 144


def write_preview(pairs: Sequence[tuple[Path, Path]], path: Path) -> None:
    """Images and their maps side by side, the first :data:`SHOWN` of them."""
    cells = [
        np.asarray(load_image(one, least=CELL).resize((CELL, CELL), Image.Resampling.BILINEAR))
        for pair in pairs[:SHOWN]
        for one in pair
    ]
    with OwnFiles(path.parent).writing(path) as partial:
        sheet([cells[i : i + 8] for i in range(0, len(cells), 8)]).save(partial, "JPEG", quality=88)


def score_saliency(maps: Mapping[str, Path], masks: Path) -> SaliencyScore:
    """The scores of maps beside masks of the same names, white where the object is.

    Raises:
        AttnBridgeError: for a mask that is not there, or of another size.
    """
    scores = SaliencyScores()
    for name, path in maps.items():
        mask = masks / Path(name).with_suffix(".png")
        if not mask.is_file():
            raise AttnBridgeError(f"{mask}: no such file; expected the mask of {name}, white where the object is")
        truth, found = (np.array(load_image(p, "L")) for p in (mask, path))
        if truth.shape != found.shape:
            raise AttnBridgeError(f"{mask}: is {truth.shape[::-1]} pixels, but its saliency map {found.shape[::-1]}")
        if 0 < truth.max() < 128:
            raise AttnBridgeError(
                f"{mask}: its largest value is {truth.max()} of 255, so it shows no object; expected black, and white "
                "where the object is, not labels"
            )
        scores.update(torch.from_numpy(found) / 255, torch.from_numpy(truth > 127))
    return scores.compute()
