"""From two folders of images to masks, by stages; what is there and current is skipped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from rich.console import Console

from attnbridge.data.cues import cue_path
from attnbridge.data.files import output_paths
from attnbridge.data.folders import SourceTarget
from attnbridge.data.images import ImageRecord, load_image
from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import STAGES, Stages, file_stamps, stamp
from attnbridge.data.saliency import MODELS, check_model, is_model
from attnbridge.data.sample import multi_hot
from attnbridge.data.text import read_yaml
from attnbridge.data.voc import is_voc
from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.evaluation.figures import colour_mask, data_uri, overlay, sheet
from attnbridge.evaluation.folders.cues import CueMaker, target_records, target_saliency
from attnbridge.evaluation.folders.segment import default_workers, write_masks
from attnbridge.evaluation.page import html_table, write_page
from attnbridge.experiments.checks import check_experiment, check_network
from attnbridge.experiments.config import SUFFIXES, Experiment, load_experiment, read_config
from attnbridge.experiments.fit import train
from attnbridge.experiments.process import untouched
from attnbridge.experiments.runs import CHECKPOINT, REPORT, Run
from attnbridge.methods import CUES, SOURCE_TARGET
from attnbridge.segmentation.cues import CueSettings, find_rule

Begin = Literal["classifier", "imagenet"]
console = Console()
SHOWN = 8
MIN_STEPS = 140
"""Training steps of each network, unless the user says how many."""


@dataclass(frozen=True)
class PipelineRequest:
    """What is asked of a pipeline.

    Attributes:
        source: class folders of simple images.
        target: ``train/``, ``val/`` (and ``test/``), or VOC's layout.
        saliency: of the source: a folder of maps, or a model.
        target_saliency: of the target, for the background's seeds.
        out: folder of all stages.
        config: of the first network: a name or a YAML file.
        segmentation: of the second one.
        retrain: of the second one's second training; ``None``: there is none.
        settings: of the cues.
        overrides: of both networks, as on the command line.
        device: where images are looked at and masked.
        replace: make stages again that were made with other options or of other images; else that is an error.
        begin: what the first segmentation network begins with, if its configuration does not say; ``None``: a
            published one with ``imagenet``'s weights, another with the ``classifier``'s.
    """

    source: Path
    target: Path
    saliency: str = "u2net"
    target_saliency: str = "u2net"
    out: Path = Path("runs/pipeline")
    config: str = "attnbn"
    segmentation: str = "segmentation/dsrg"
    retrain: str | None = None
    settings: CueSettings = field(default_factory=CueSettings)
    overrides: tuple[str, ...] = ()
    device: str | None = None
    replace: bool = False
    begin: Begin | None = None


@dataclass(frozen=True)
class Chain:
    """What the trained chain leaves.

    Attributes:
        images: of all splits of the target, by id; those that are scored with their masks.
        trained: those that cues were made for.
        last: name of the last stage.
        key: what stands for it.
    """

    images: dict[str, ImageRecord]
    trained: list[ImageRecord]
    last: str
    key: str


def run_pipeline(request: PipelineRequest) -> Path:
    """Saliency and AttnBN, cues, a segmentation network, masks, a page.

    Returns:
        The page; masks lie in ``masks`` beside it.

    Raises:
        AttnBridgeError: for what a stage would stumble over, before the first is made; see also :func:`train_chain`.
    """
    with owned(request.out, STAGES) as own:
        page = [own.folder / REPORT]
        own.check(page)
        own.check_unchanged(page)
        chain, stages = train_chain(request), Stages(request.out, request.replace)
        last, device = request.out / chain.last, request.device
        stages.run("masks", {chain.last: chain.key}, lambda f: mask(last, chain.images, f, False, device))
        write_report(request.out, chain.images, chain.trained[:SHOWN], chain.last, device)
    return request.out / REPORT


def train_chain(request: PipelineRequest) -> Chain:
    """All stages but the masks; see :class:`~attnbridge.data.provenance.Stages`.

    Raises:
        AttnBridgeError: if the folder's stages were made with other options, unless they are to be replaced.
    """
    find_rule(request.settings.rule)
    experiments = experiments_of(request)
    with owned(request.out, STAGES) as own:
        own.check([own.folder / STAGES])
        own.check_unchanged([own.folder / STAGES])
        return _run_stages(request, *experiments)


def _run_stages(request: PipelineRequest, bridge: Experiment, network: Experiment, again: Experiment | None) -> Chain:
    settings, out, device = request.settings, request.out, request.device
    stages, classifier = Stages(out, request.replace), Run(out / "classifier", trust=True)
    pair = pair_of(bridge)
    everything = all_images(pair)
    images = stamps(pair, str(bridge.data["saliency"]), everything.values())
    made_of = {"config": bridge.to_mapping(), "images": images}
    first = stages.run("classifier", made_of, lambda folder: fit_stage(bridge, folder))
    records = target_records(pair, "train", pair.classes)

    def cue(folder: Path) -> None:
        saliency = target_saliency(records, request.target_saliency)
        CueMaker(classifier.classifier(device), saliency, settings).write(records, folder)

    saliency = file_stamps(Path(request.target_saliency)) or request.target_saliency
    made_of = {"classifier": first, "settings": asdict(settings), "saliency": saliency}
    second = stages.run("cues", made_of, cue)
    made_of = {"cues": second, "config": network.to_mapping()}
    third = stages.run("segmentation", made_of, lambda folder: fit_stage(network, folder))
    if again is None:
        return Chain(everything, records, "segmentation", third)
    earlier, named = out / "segmentation", {record.image.name: record for record in records}
    labelled = not as_published(again)
    own_of: dict[str, Any] = {"segmentation": third}
    if not labelled:
        own_of["labelled"] = False
    own = stages.run("own-masks", own_of, lambda folder: mask(earlier, named, folder, labelled, device))
    made_of = {"masks": own, "config": again.to_mapping()}
    last = stages.run("retrained", made_of, lambda folder: fit_stage(again, folder))
    return Chain(everything, records, "retrained", last)


def experiments_of(request: PipelineRequest) -> tuple[Experiment, Experiment, Experiment | None]:
    """Those of AttnBN, of the segmentation network and of its second training, on the user's folders, checked.

    Raises:
        AttnBridgeError: for the first thing that one of them would stumble over.
    """
    given = {word.split("=")[0] for word in request.overrides}
    for word in ("--data.source", "--data.target", "--data.saliency", "--data.cues"):
        if word in given:
            raise AttnBridgeError(f"{word}: the folders have options of their own, and the cues are made")
    if "--model.source_weight" in given:
        raise AttnBridgeError(
            "--model.source_weight: both networks have one; name a file with it by --config or --segmentation"
        )
    if is_model(request.target_saliency):
        check_model(request.target_saliency)
    elif not Path(request.target_saliency).is_dir():
        raise unknown_name("folder or saliency model:", request.target_saliency, MODELS)
    folders = {"source": str(request.source), "target": str(request.target), "saliency": request.saliency}
    bridge = load_experiment(request.config, request.overrides, shared=True)
    if bridge.entry.data != SOURCE_TARGET:
        raise AttnBridgeError(f"--config {request.config}: is no classifier of a source and a target")
    bridge = replace(bridge.with_options(data=folders), name=Path(request.config).stem)
    check_experiment(bridge)
    check_network(bridge)
    network = stage_experiment(request.segmentation, bridge, request.out / "cues", request.overrides, request.begin)
    own_masks = request.out / "own-masks"
    again = None
    if request.retrain:
        again = stage_experiment(request.retrain, bridge, own_masks, request.overrides, second=True)
    if again is not None:
        _check_second(request, network, again)
    for name, each in ((request.config, bridge), (request.segmentation, network), (request.retrain, again)):
        if each is not None:
            _check_batch(str(name), each)
    if {"--trainer.max_epochs", "--trainer.max_steps"} & given:
        return bridge, network, again
    enough = [
        each if Path(name).suffix in SUFFIXES else long_enough(each)
        for name, each in ((request.config, bridge), (request.segmentation, network), (str(request.retrain), again))
        if each is not None
    ]
    return enough[0], enough[1], enough[2] if again else None


def _check_second(request: PipelineRequest, network: Experiment, again: Experiment) -> None:
    """Raise unless a second training that begins with the network of the first has one of the same structure."""
    if again.model.get("weights") != str(request.out / "segmentation" / CHECKPOINT):
        return
    for option in ("backbone", "layer", "stride", "setting", "head_width", "head_rate"):
        first, second = network.option(f"model.{option}"), again.option(f"model.{option}")
        if first != second:
            raise AttnBridgeError(
                f"{request.retrain}: model.{option} is {second}, but in {request.segmentation}, with whose network it "
                f"begins, {first}; make them the same, or name weights of its own"
            )


def _check_batch(name: str, experiment: Experiment) -> None:
    """Told before the first network is trained, not by the one that cannot be."""
    pair, size = pair_of(experiment), experiment.option("data.batch_size")
    streams = ("source", "train") if experiment.option("model.source_weight") else ("train",)
    images = max(len(pair.scan(split)) for split in streams)
    if images < size:
        raise AttnBridgeError(
            f"{name}: data.batch_size is {size}, but there are only {images} images for training; make it smaller"
        )


def long_enough(experiment: Experiment) -> Experiment:
    """As many epochs as make :data:`MIN_STEPS` steps, if its own make fewer: they are meant for thousands of images."""
    pair = pair_of(experiment)
    images = max(len(pair.scan(split)) for split in ("source", "train"))
    steps = max(1, images // experiment.option("data.batch_size"))
    epochs = experiment.trainer.get("max_epochs")
    if epochs is None:
        return experiment
    return experiment.with_options(trainer={"max_epochs": max(epochs, -(-MIN_STEPS // steps))})


def as_published(experiment: Experiment) -> bool:
    """Whether a segmentation network is that of the papers: then its training begins as theirs does."""
    return bool(experiment.option("model.setting") == "paper")


def stage_experiment(
    name: str,
    earlier: Experiment,
    cues: Path,
    overrides: Sequence[str],
    begin: Begin | None = None,
    second: bool = False,
) -> Experiment:
    """A segmentation network on the images of an earlier stage, whose sizes and seed it shares, and whose weights it
    begins with if it is of the same backbone, unless it says otherwise itself. As published, it begins with ImageNet's
    weights unless ``begin`` says otherwise, and its second training with the network of the first.

    Raises:
        AttnBridgeError: for one of another method.
    """
    found = load_experiment(name, overrides, shared=True)
    if found.entry.data != CUES:
        raise AttnBridgeError(f"{name}: trains {found.method}, no segmentation network; take segmentation/dsrg")
    own: dict[str, Any] = read_yaml(Path(name)) if Path(name).suffix in SUFFIXES else {}
    usual, named = read_config("segmentation/_settings")["data"], own.get("data") or {}
    given = {k: v for k, v in found.data.items() if k in named or v != usual.get(k)}
    shared = {k: earlier.data[k] for k in ("image_size", "shape") if k in earlier.data}
    everywhere = ("source", "source_share", "target", "lists", "saliency")
    forced = {k: earlier.data[k] for k in everywhere if k in earlier.data}
    data = {**shared, **given, **forced, "cues": str(cues)}
    if not found.model.get("frozen"):
        data["views"] = None  # nothing to keep
    model = {}
    stage: str = begin or ("imagenet" if as_published(found) else "classifier")
    if second and as_published(found):
        stage = "segmentation"
    same = stage == "segmentation" or found.option("model.backbone") == earlier.option("model.backbone")
    if "weights" not in found.model and stage != "imagenet" and same:
        model["weights"] = str(cues.parent / stage / CHECKPOINT)
    seed = found.seed if "seed" in read_config(name) else earlier.seed
    found = replace(found.with_options(data=data, model=model), name=Path(name).name, seed=seed)
    check_network(found)
    return found


def pair_of(experiment: Experiment) -> SourceTarget:
    """The folders that an experiment is on."""
    data = experiment.data
    return SourceTarget.of(data.get("source"), data["target"], data.get("lists"))


def fit_stage(experiment: Experiment, folder: Path) -> None:
    """Train, or go on."""
    with untouched():
        train(experiment, folder, resume=folder.exists())


def mask(run: Path, records: dict[str, ImageRecord], folder: Path, labelled: bool, device: str | None) -> None:
    """Masks of images by id; ``labelled``: of no other classes than their own.

    Raises:
        AttnBridgeError: for an image that cannot be read.
    """
    segmenter = Run(run, trust=True).segmenter(device=device)
    present = {i: multi_hot(r.classes, len(segmenter.classes)) for i, r in records.items()} if labelled else None
    workers = default_workers(segmenter.device)
    bad = write_masks(segmenter, {i: r.image for i, r in records.items()}, folder, present, workers)
    if bad:
        raise AttnBridgeError(f"{bad[0]} ({len(bad)} such images in all)")


def stamps(pair: SourceTarget, saliency: str, targets: Iterable[ImageRecord]) -> list[str]:
    """Names, labels, sizes and times of all images and their masks, and of the source's saliency maps, if they are
    the user's: when one changes, so does what is made of it."""
    records = [*pair.scan("source"), *targets]
    lines = [f"{r.classes} {stamp(path)}" for r in records for path in (r.image, r.mask) if path is not None]
    return lines + file_stamps(Path(saliency))


def all_images(pair: SourceTarget) -> dict[str, ImageRecord]:
    """The target's images of all splits by id: their place below the target, in VOC's layout their name; those that
    are scored with their masks."""
    found = [(s, r) for s in ("train", "val", "test") if pair.has(s) for r in pair.scan(s)]
    return {r.image.name if is_voc(pair.target) else f"{s}/{r.image.name}": r for s, r in found}


def write_report(
    out: Path, masks: dict[str, ImageRecord], records: Sequence[ImageRecord], last: str, device: str | None
) -> None:
    """``report.html``: images, class maps, cues and masks side by side; the scores before and after."""
    model = Run(out / "classifier", trust=True).classifier(device)
    classes, places = model.classes, output_paths(masks, out / "masks")
    named = {record.image: places[name] for name, record in masks.items()}
    maker = CueMaker(model, scales=(1.0,), flip=False)
    rows = []
    for record, maps in zip(records, maker.maps(records), strict=True):
        image = np.asarray(load_image(record.image))
        cells = [image, overlay(image, maps.amax(0).numpy())]
        for path in (cue_path(out / "cues", record), named[record.image]):
            cells.append(colour_mask(np.asarray(load_image(path, "P")), len(classes)))
        rows.append(cells)
    shown: Image.Image = sheet(rows, ["image", "class maps", "cue", "mask"], 200)
    parts = [
        f"<h1>From image labels to masks</h1><p>{html.escape(', '.join(classes))}</p>",
        score_table(out, last),
        f'<figure><img alt="images, maps, cues, masks" src="{data_uri(shown)}"><figcaption>Training images: the '
        "maps of all their classes, the cues (white: nothing known), the masks.</figcaption></figure>",
    ]
    write_page(out / REPORT, "attnbridge pipeline", parts)


def score_table(out: Path, last: str) -> str:
    """The scores before and after as an HTML table, if there is a split to score on."""
    before, after = (Run(out / name).scores for name in ("classifier", last))
    if not before:
        return "<p>The target has no val/ with masks, so nothing was scored.</p>"
    direct = ["class maps, no post-processing", f"{100 * before['predicted']['miou_best']:.1f}"]
    return html_table(
        ["masks from", "mIoU"], [direct, [f"the segmentation network ({last})", f"{100 * after['miou']:.1f}"]]
    )
