"""The verb ``pipeline``: from two folders of pictures to masks, by stages; what is there and current is skipped."""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rich.console import Console

from attnbridge.cli.config import SUFFIXES, load_config, read_config
from attnbridge.cli.cues import target_records, target_saliency
from attnbridge.cli.masks import default_workers, load_segmenter
from attnbridge.cli.preflight import check_data, check_network
from attnbridge.cli.run import load_run, shape_of, train
from attnbridge.cli.schema import data_options, method_options, option_value
from attnbridge.cli.stages import Stages
from attnbridge.data.cache import make_folder, own_targets
from attnbridge.data.cues import cue_path
from attnbridge.data.folders import has_split, pair_classes, scan_pair
from attnbridge.data.pictures import Record, load_picture
from attnbridge.data.saliency import MODELS, check_model, is_model
from attnbridge.data.sample import multi_hot
from attnbridge.data.voc import is_voc
from attnbridge.errors import AttnBridgeError, unknown
from attnbridge.evaluation.cue_folder import CueMaker
from attnbridge.evaluation.pictures import colour_mask, data_uri, overlay, sheet
from attnbridge.evaluation.predict import as_classifier
from attnbridge.evaluation.report import html_table, write_page
from attnbridge.evaluation.segment import write_masks
from attnbridge.methods import BRIDGE, CUES, DATA
from attnbridge.segmentation.cues import CueSettings, find_rule

console = Console()
SHOWN = 8
LEAST = 140
"""Training steps of each network, unless the user says how many."""


@dataclass(frozen=True)
class Chain:
    """What the trained chain leaves.

    Attributes:
        pictures: of all splits of the target, by id; those that are scored with their masks.
        trained: those that cues were made for.
        last: name of the last stage.
        key: what stands for it.
    """

    pictures: dict[str, Record]
    trained: list[Record]
    last: str
    key: str


def pipeline(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Saliency and AttnBN, cues, a segmentation network, masks, a report."""
    chain = train_chain(options, overrides)
    last, device = options.out / chain.last, options.device
    Stages(options.out).run("masks", {chain.last: chain.key}, lambda f: mask(last, chain.pictures, f, False, device))
    write_report(options.out, chain.pictures, chain.trained[:SHOWN], chain.last, device)
    console.print(f"masks in {options.out / 'masks'}; look at {options.out / 'report.html'}")
    return 0


def train_chain(options: argparse.Namespace, overrides: Sequence[str], replaces: bool = True) -> Chain:
    """All stages but the masks; see :class:`Stages`."""
    settings = CueSettings(options.threshold, options.background, options.rule)
    find_rule(settings.rule)
    bridge, network, again = configurations(options, overrides)
    stages, classifier = Stages(make_folder(options.out), replaces), options.out / "classifier"
    target = Path(bridge["data"]["target"])
    everything = all_pictures(bridge["data"])
    pictures = stamps(bridge["data"], everything.values())
    first = stages.run("classifier", {"config": bridge, "pictures": pictures}, lambda folder: fit(bridge, folder))
    classes = tuple(pair_classes(Path(bridge["data"]["source"]), target))
    records = target_records(bridge["data"], "train", classes)

    def cue(folder: Path) -> None:
        saliency = target_saliency(records, options.target_saliency)
        config, method = load_run(classifier)
        model = as_classifier(method, classifier, shape_of(config), options.device)
        CueMaker(model, saliency, settings).write(records, folder)

    saliency = file_stamps(Path(options.target_saliency)) or options.target_saliency
    made_of = {"classifier": first, "settings": vars(settings), "saliency": saliency}
    second = stages.run("cues", made_of, cue)
    third = stages.run("segmentation", {"cues": second, "config": network}, lambda folder: fit(network, folder))
    if again is None:
        return Chain(everything, records, "segmentation", third)
    earlier, named = options.out / "segmentation", own_names(records)
    own = stages.run(
        "own-masks", {"segmentation": third}, lambda folder: mask(earlier, named, folder, True, options.device)
    )
    last = stages.run("retrained", {"masks": own, "config": again}, lambda folder: fit(again, folder))
    return Chain(everything, records, "retrained", last)


def configurations(
    options: argparse.Namespace, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """Those of AttnBN, of the segmentation network and of its second training, on the user's folders, checked.

    Raises:
        AttnBridgeError: for the first thing that one of them would stumble over.
    """
    for word in overrides:
        if word.split("=")[0] in ("--data.source", "--data.target", "--data.saliency", "--data.cues"):
            raise AttnBridgeError(f"{word}: the folders have options of their own, and the cues are made")
        if word.split("=")[0] == "--model.source_weight":
            raise AttnBridgeError(f"{word}: both networks have one; name a file with it by --config or --segmentation")
    if is_model(options.target_saliency):
        check_model(options.target_saliency)
    elif not Path(options.target_saliency).is_dir():
        raise unknown("folder or saliency model:", options.target_saliency, MODELS)
    bridge = load_config(options.config, overrides)
    paths = {"source": str(options.source), "target": str(options.target), "saliency": options.saliency}
    bridge["data"] = {**(bridge.get("data") or {}), **paths}
    bridge["name"] = Path(options.config).stem
    check_data(bridge)
    check_network(bridge)
    if DATA[bridge["method"]] != BRIDGE:
        raise AttnBridgeError(f"--config {options.config}: is no classifier of a source and a target")
    network = load_stage(options.segmentation, bridge, options.out / "cues", overrides)
    again = load_stage(options.retrain, bridge, options.out / "own-masks", overrides) if options.retrain else None
    if not any(word.split("=")[0] in ("--trainer.max_epochs", "--trainer.max_steps") for word in overrides):
        named = {options.config: bridge, options.segmentation: network, options.retrain: again}
        for config in (c for name, c in named.items() if c and Path(name).suffix not in SUFFIXES):
            train_enough(config)
    return bridge, network, again


def train_enough(config: dict[str, Any]) -> None:
    """As many epochs as make :data:`LEAST` steps, if its own make fewer: they are meant for thousands of pictures."""
    data = config["data"]
    both, lists = (Path(data["source"]), Path(data["target"])), data.get("lists")
    pictures = max(len(scan_pair(*both, None, split, lists)) for split in ("source", "train"))
    steps = max(1, pictures // option_value(data, data_options(config["method"]), "batch_size"))
    trainer = config["trainer"] = dict(config.get("trainer") or {})
    if "max_epochs" in trainer:
        trainer["max_epochs"] = max(trainer["max_epochs"], -(-LEAST // steps))


def load_stage(name: str, earlier: dict[str, Any], cues: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """A segmentation network's configuration on the pictures of an earlier stage, whose sizes and seed it shares, and
    whose weights it begins with if it is of the same backbone, unless it says otherwise itself.

    Raises:
        AttnBridgeError: for one of another method.
    """
    config = load_config(name, overrides)
    if DATA[config["method"]] != CUES:
        raise AttnBridgeError(f"{name}: trains {config['method']}, no segmentation network; take segmentation/dsrg")
    own: dict[str, Any] = yaml.safe_load(Path(name).read_text()) if Path(name).suffix in SUFFIXES else {}
    usual, named = read_config("segmentation/_settings")["data"], own.get("data") or {}
    given = {k: v for k, v in (config.get("data") or {}).items() if k in named or v != usual.get(k)}
    shared = {k: earlier["data"][k] for k in ("image_size", "shape") if k in earlier["data"]}
    everywhere = ("source", "source_share", "target", "lists", "saliency")
    forced = {k: earlier["data"][k] for k in everywhere if k in earlier["data"]}
    data = {**(config.get("data") or {}), **shared, **given, **forced, "cues": str(cues)}
    model = dict(config.get("model") or {})
    if not model.get("frozen"):
        data["views"] = None  # nothing to keep
    if "weights" not in model and backbone_of(config) == backbone_of(earlier):
        model["weights"] = str(cues.parent / "classifier" / "checkpoints" / "last.ckpt")
    config |= {"model": model, "data": data, "name": Path(name).name}
    config.setdefault("seed", earlier.get("seed", 0))
    check_network(config)
    return config


def backbone_of(config: dict[str, Any]) -> str:
    """The name of the network."""
    return str(option_value(config.get("model") or {}, method_options(config["method"]), "backbone"))


def fit(config: dict[str, Any], folder: Path) -> None:
    """Train, or go on."""
    train(config, folder, resume=folder.exists())


def mask(run: Path, records: dict[str, Record], folder: Path, labelled: bool, device: str | None) -> None:
    """Masks of pictures by id; ``labelled``: of no other classes than their own.

    Raises:
        AttnBridgeError: for a picture that cannot be read.
    """
    segmenter = load_segmenter(run, device=device)
    present = {i: multi_hot(r.classes, len(segmenter.classes)) for i, r in records.items()} if labelled else None
    workers = default_workers(segmenter.device)
    bad = write_masks(segmenter, {i: r.image for i, r in records.items()}, folder, present, workers)
    if bad:
        raise AttnBridgeError(f"{bad[0]} ({len(bad)} such pictures in all)")


def stamps(data: dict[str, Any], targets: Iterable[Record]) -> list[str]:
    """Names, labels, sizes and times of all pictures and their masks, and of the source's saliency maps, if they are
    the user's: when one changes, so does what is made of it."""
    records = [*scan_pair(Path(data["source"]), Path(data["target"]), None, "source"), *targets]
    lines = [f"{r.classes} {_stamp(path)}" for r in records for path in (r.image, r.mask) if path is not None]
    return lines + file_stamps(Path(data["saliency"]))


def file_stamps(folder: Path) -> list[str]:
    """Of all files in a folder; none if it is no folder."""
    return [_stamp(path) for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def own_names(records: Sequence[Record]) -> dict[str, Record]:
    """Records by the names of their files."""
    return {record.image.name: record for record in records}


def all_pictures(data: dict[str, Any]) -> dict[str, Record]:
    """The target's pictures of all splits by id: their place below the target, in VOC's layout their name; those that
    are scored with their masks."""
    source, target, lists = Path(data["source"]), Path(data["target"]), data.get("lists")
    splits = [s for s in ("train", "val", "test") if has_split(target, s, lists)]
    found = [(s, r) for s in splits for r in scan_pair(source, target, None, s, lists)]
    return {r.image.name if is_voc(target) else f"{s}/{r.image.name}": r for s, r in found}


def write_report(out: Path, masks: dict[str, Record], records: Sequence[Record], last: str, device: str | None) -> None:
    """``report.html``: pictures, class maps, cues and masks side by side; the scores before and after."""
    config, method = load_run(out / "classifier")
    classes, places = method.classes, own_targets(masks, out / "masks")
    named = {record.image: places[name] for name, record in masks.items()}
    model = as_classifier(method, out / "classifier", shape_of(config), device)
    maker = CueMaker(model, scales=(1.0,), flip=False)
    rows = []
    for record, maps in zip(records, maker.maps(records), strict=True):
        picture = np.asarray(load_picture(record.image))
        cells = [picture, overlay(picture, maps.amax(0).numpy())]
        for path in (cue_path(out / "cues", record), named[record.image]):
            cells.append(colour_mask(np.asarray(load_picture(path, "P")), len(classes)))
        rows.append(cells)
    shown: Image.Image = sheet(rows, ["picture", "class maps", "cue", "mask"], 200)
    parts = [
        f"<h1>From image labels to masks</h1><p>{html.escape(', '.join(classes))}</p>",
        score_table(out, last),
        f'<figure><img alt="pictures, maps, cues, masks" src="{data_uri(shown)}"><figcaption>Training pictures: the '
        "maps of all their classes, the cues (white: nothing known), the masks.</figcaption></figure>",
    ]
    write_page(out / "report.html", "attnbridge pipeline", parts)


def score_table(out: Path, last: str) -> str:
    """The scores before and after as an HTML table, if there is a split to score on."""
    before, after = (json.loads((out / name / "run.json").read_text())["scores"] for name in ("classifier", last))
    if not before:
        return "<p>The target has no val/ with masks, so nothing was scored.</p>"
    direct = ["class maps, no post-processing", f"{100 * before['predicted']['miou_best']:.1f}"]
    return html_table(
        ["masks from", "mIoU"], [direct, [f"the segmentation network ({last})", f"{100 * after['miou']:.1f}"]]
    )
