"""The verb ``cues``: seeds of a target's pictures from the class maps of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnbridge.cli.preflight import run_folder
from attnbridge.cli.run import load_run, shape_of
from attnbridge.data.cues import cue_path
from attnbridge.data.folders import pair_classes, scan_pair
from attnbridge.data.own_files import OwnFiles
from attnbridge.data.pictures import Record, load_picture
from attnbridge.data.saliency import is_model, make_saliency, saliency_folder
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.cue_folder import CueMaker, score_cues, write_scores
from attnbridge.evaluation.pictures import mask_pairs
from attnbridge.evaluation.predict import as_classifier
from attnbridge.methods import BRIDGE, DATA
from attnbridge.segmentation.cues import CueSettings, find_rule


def cues(options: argparse.Namespace) -> int:
    """Make what is missing, then the sheet and, where there are masks, the scores."""
    settings = CueSettings(options.threshold, options.background, options.rule)
    find_rule(settings.rule)
    run = run_folder(str(options.checkpoint))
    if run is None:
        raise AttnBridgeError(f"{options.checkpoint}: expected the folder of a run made by `attnbridge fit`")
    config, method = load_run(run)
    if DATA[config["method"]] != BRIDGE:
        raise AttnBridgeError(
            f"{run}: is no classifier of pictures with several classes; cues are made of the maps of one"
        )
    data = config["data"] if options.data is None else {**config["data"], "target": str(options.data)}
    records, masked = target_records(data, options.split, method.classes), masked_records(data, options.split)
    own, scores, page = OwnFiles(options.out), options.out / "scores.csv", options.out / "sheet.jpg"
    own.check([*(cue_path(options.out, record) for record in records), options.out / "cues.json", scores, page])
    own.check_unchanged([scores, page])
    saliency = target_saliency(records, options.saliency) if options.saliency else None
    model = as_classifier(method, run, shape_of(config), options.device)
    maker = CueMaker(model, saliency, settings, tuple(options.scales), not options.no_flip)
    maker.write(records, options.out)
    own.remove([scores])
    if masked:
        write_scores(score_cues(masked, options.out, len(method.classes)), method.classes, scores)
    write_sheet({record.image: cue_path(options.out, record) for record in records}, options.out, len(method.classes))
    return 0


def write_sheet(masks: Mapping[Path, Path], out: Path, classes: int, shown: int = 24) -> None:
    """``sheet.jpg``: the first pictures, each beside its cue or mask; those without one are passed over."""
    pairs = [(load_picture(p), np.array(load_picture(m, "P"))) for p, m in list(masks.items())[:shown] if m.is_file()]
    if pairs:
        with OwnFiles(out).writing(out / "sheet.jpg") as partial:
            mask_pairs(pairs, classes).save(partial, "JPEG", quality=88)
        print(out / "sheet.jpg")


def target_records(data: dict[str, Any], split: str, classes: tuple[str, ...]) -> list[Record]:
    """The pictures of a split that show a class, without masks.

    Raises:
        AttnBridgeError: for a target that knows other classes, or no picture with a class.
    """
    source, target = _pair(data)
    known = tuple(pair_classes(source, target))
    if known != classes:
        raise AttnBridgeError(
            f"{target}: the run knows the classes {', '.join(classes)}, in this order, but the data has "
            f"{', '.join(known)}"
        )
    found = [r for r in scan_pair(source, target, None, split, data.get("lists"), masks=False) if r.classes]
    if not found:
        raise AttnBridgeError(f"{target}: no picture of {split!r} shows one of {', '.join(classes)}")
    return found


def masked_records(data: dict[str, Any], split: str) -> list[Record]:
    """The same with their masks, for scores alone; none, and a word why, where there are none."""
    source, target = _pair(data)
    try:
        return [r for r in scan_pair(source, target, None, split, data.get("lists"), masks=True) if r.classes]
    except AttnBridgeError as error:
        print(f"cues are not scored: {error}")
        return []


def _pair(data: dict[str, Any]) -> tuple[Path | None, Path]:
    return Path(data["source"]) if data.get("source") else None, Path(data["target"])


def target_saliency(records: list[Record], saliency: str) -> Path:
    """The folder with the pictures' maps, ``ID.png``; a model's are made where they are missing.

    Raises:
        AttnBridgeError: for a folder that lacks one.
    """
    folder = saliency_folder(records[0].image.parent, saliency)
    if is_model(saliency):
        bad = make_saliency({record.image.name: record.image for record in records}, folder, saliency)
        if bad:
            raise AttnBridgeError(f"{bad[0]} ({len(bad)} such pictures in all)")
    for record in records:
        if not (folder / f"{record.image.stem}.png").is_file():
            raise AttnBridgeError(
                f"{folder / record.image.stem}.png: no such file; expected the saliency of {record.image}"
            )
    return folder
