"""The verb ``saliency``: maps of a folder of pictures, a sheet to look at, and their scores."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from attnbridge.cli.preflight import report_skipped
from attnbridge.data.cache import own_targets
from attnbridge.data.folders import find_pictures
from attnbridge.data.own_files import OwnFiles
from attnbridge.data.pictures import load_picture
from attnbridge.data.saliency import make_saliency
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.pictures import sheet

SHOWN = 40


def saliency(options: argparse.Namespace) -> int:
    """Make what is missing, then the preview and the scores; status 1 if some pictures could not be read."""
    pictures = find_pictures(options.pictures, options.out)
    targets, page = own_targets(pictures, options.out), options.out / "sheet.jpg"
    own = OwnFiles(options.out)
    own.check([*targets.values(), options.out / "saliency.json", *([page] if options.preview else [])])
    own.check_unchanged([page] if options.preview else [])
    status = report_skipped(make_saliency(pictures, options.out, options.model, options.refine, options.device))
    maps = {name: path for name, path in targets.items() if path.is_file()}
    if options.preview and maps:
        _preview([(pictures[name], path) for name, path in list(maps.items())[:SHOWN]], page)
    if options.score:
        _score(maps, options.score)
    return status


def _preview(pairs: list[tuple[Path, Path]], path: Path) -> None:
    """Pictures and their maps side by side."""
    cells = [
        np.asarray(load_picture(one).resize((144, 144), Image.Resampling.BILINEAR)) for pair in pairs for one in pair
    ]
    with OwnFiles(path.parent).writing(path) as partial:
        sheet([cells[i : i + 8] for i in range(0, len(cells), 8)]).save(partial, "JPEG", quality=88)
    print(path)


def _score(maps: dict[str, Path], masks: Path) -> None:
    """Print the scores of the maps that have a mask of the same name."""
    import torch

    from attnbridge.evaluation.saliency_scores import SaliencyScores

    scores = SaliencyScores()
    for name, path in maps.items():
        mask = masks / Path(name).with_suffix(".png")
        if not mask.is_file():
            raise AttnBridgeError(f"{mask}: no such file; expected the mask of {name}, white where the object is")
        truth, found = (np.array(load_picture(p, "L")) for p in (mask, path))
        if truth.shape != found.shape:
            raise AttnBridgeError(f"{mask}: is {truth.shape[::-1]} pixels, but its saliency map {found.shape[::-1]}")
        scores.update(torch.from_numpy(found) / 255, torch.from_numpy(truth > 127))
    result = scores.compute()
    print(
        f"{len(maps)} maps: MAE {result.mae:.4f}, max F-beta {result.max_f:.4f} at threshold {result.threshold:.2f}, "
        f"IoU there {result.iou:.4f}"
    )
