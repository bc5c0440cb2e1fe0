"""The verbs ``segment`` and ``submit``: masks of pictures, as palette PNGs or as VOC's test server wants them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from attnbridge.attention.device import pick_device
from attnbridge.cli.cues import write_sheet
from attnbridge.cli.preflight import report_skipped
from attnbridge.cli.run import load_run, shape_of
from attnbridge.cli.tasks import inference_of
from attnbridge.data.cache import own_targets, sha256
from attnbridge.data.folders import find_pictures
from attnbridge.data.own_files import OwnFiles
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.predict import as_classifier
from attnbridge.evaluation.segment import FromMaps, FromNetwork, Segmenter, write_masks
from attnbridge.evaluation.submission import write_submission
from attnbridge.methods import BRIDGE, DATA
from attnbridge.methods.segmentation import Segmentation


def segment(options: argparse.Namespace) -> int:
    """Masks of a folder of pictures; status 1 if some could not be read."""
    segmenter = load_segmenter(options.run, options.threshold, options.device)
    pictures = find_pictures([options.pictures], options.out)
    workers = default_workers(segmenter.device) if options.workers is None else options.workers
    targets, page = own_targets(pictures, options.out), options.out / "sheet.jpg"
    own = OwnFiles(options.out)
    own.check([*targets.values(), options.out / "masks.json", page])
    own.check_unchanged([page])
    bad = write_masks(segmenter, pictures, options.out, workers=workers)
    masks = {path: targets[name] for name, path in pictures.items()}
    write_sheet(masks, options.out, len(segmenter.classes))
    return report_skipped(bad)


def submit(options: argparse.Namespace) -> int:
    """Segmentations for VOC's test server."""
    segmenter = load_segmenter(options.run, options.threshold, options.device)
    print(write_submission(segmenter, options.kit, options.names, options.out))
    return 0


def load_segmenter(run: Path, threshold: float | None = None, device: str | None = None) -> Segmenter:
    """What makes masks of a run: its segmentation network, or its class maps.

    Args:
        run: folder of the run.
        threshold: of the background of class maps; ``None``: the one that the run chose on validation.
        device: where it runs, see :func:`~attnbridge.attention.device.pick_device`.

    Raises:
        AttnBridgeError: for a run that has neither, or a threshold that cannot be, or a device that is not there.
    """
    config, method = load_run(run)
    if isinstance(method, Segmentation):
        if threshold is not None:
            raise AttnBridgeError(
                "--threshold belongs to class maps; a segmentation network says itself what is background"
            )
        method.to(pick_device(device))
        checksum = sha256(run / "checkpoints" / "last.ckpt")
        return FromNetwork(method, shape_of(config), inference_of(config), checksum)
    if DATA[config["method"]] != BRIDGE:
        raise AttnBridgeError(f"{run}: its pictures have one class each and no masks; it cannot segment")
    found = chosen_threshold(run) if threshold is None else threshold
    if not 0 <= found < 1:
        raise AttnBridgeError(f"--threshold is relative to a map's maximum: from 0 to below 1, not {found}")
    known = (config.get("evaluation") or {}).get("score_threshold", 0.5)
    return FromMaps(as_classifier(method, run, shape_of(config), device), found, known)


def chosen_threshold(run: Path) -> float:
    """The background threshold that a run chose on validation.

    Raises:
        AttnBridgeError: if it was not finished.
    """
    record = run / "run.json"
    if not record.is_file():
        raise AttnBridgeError(f"{record}: no such file, so no threshold was chosen; give one with --threshold")
    scores: dict[str, Any] = json.loads(record.read_text())["scores"]
    if not scores:
        raise AttnBridgeError(f"{run}: was not scored, so no threshold was chosen; give one with --threshold")
    return float(scores["predicted"]["threshold"])


def default_workers(device: torch.device) -> int:
    """Processes for the CRF: one for each core, or none beside a GPU that runs it."""
    if device.type == "cuda":
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
