"""The verbs that compute: fit, test, predict."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from attnbridge.cli import tables
from attnbridge.cli.chains import SEGMENTERS, chains
from attnbridge.cli.config import trainer_device
from attnbridge.cli.domains import domains
from attnbridge.cli.masks import segment, submit
from attnbridge.cli.preflight import check_data, report_skipped
from attnbridge.cli.run import load_run, shape_of, train
from attnbridge.cli.search import search
from attnbridge.cli.tables import demo
from attnbridge.cli.tasks import page_for, task_of
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.predict import as_classifier, predict_pictures
from attnbridge.methods import DATA, DOMAINS, PAIRED, load_data

__all__ = ["benchmark", "choose", "demo", "fit", "predict", "segment", "submit", "test"]


def fit(config: dict[str, Any], name: str, out: Path | None, resume: bool) -> int:
    """Train, evaluate, report."""
    name = Path(name).stem
    folder = out or Path("runs") / name
    content = train({"name": name, **config}, folder, resume=resume)
    page_for(content)(folder / "report.html", f"attnbridge: {name}", _introduction(content), [content], [folder])
    _print_scores(content["scores"])
    print(f"{folder / 'report.html'}")
    return 0


def benchmark(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """A named table; those of domains and of chains have cases and stages of their own."""
    if options.name in SEGMENTERS:
        return chains(options, overrides)
    if options.name in ("domains", "table7"):
        return domains(options, overrides)
    return tables.benchmark(options, overrides)


def choose(config: dict[str, Any], name: str, out: Path | None, trials: int) -> int:
    """Search for the values of a configuration's options."""
    name = Path(name).stem
    folder = out or Path("runs") / f"search_{name}"
    if trials < 1:
        raise AttnBridgeError(f"--trials must be at least 1, not {trials}")
    search({"name": name, **config}, folder, trials)
    print(f"{folder / 'best.yaml'}")
    return 0


def test(options: argparse.Namespace) -> int:
    """Score a run again; with ``--target`` on other data."""
    config, method = load_run(options.run)
    if options.target:
        config["data"]["target" if DATA[config["method"]] in PAIRED else "data"] = str(options.target)
    check_data(config, training=False)
    if DATA[config["method"]] == DOMAINS:
        config["data"]["saliency"] = None
    without = {"source": None} if DATA[config["method"]] in PAIRED else {}
    data = load_data(config["method"])(**without | config["data"])
    if tuple(data.classes) != method.classes:
        raise AttnBridgeError(
            f"the run knows the classes {', '.join(method.classes)}, in this order, but the data has "
            f"{', '.join(data.classes)}; bring its columns or folders to the run's"
        )
    task = task_of(config, data)
    if task.scores is None:
        raise AttnBridgeError(f"{data.target}: has no val/ with masks to score against")
    trainer = L.Trainer(
        logger=False, callbacks=[task.scores], use_distributed_sampler=False, **trainer_device(options.device)
    )
    scores = task.evaluate(method, trainer)
    _print_scores(scores)
    _print_labels(scores, data.classes)
    return 0


def predict(options: argparse.Namespace) -> int:
    """Maps and scores of a user's pictures; status 1 if some could not be read."""
    config, method = load_run(options.run)
    model = as_classifier(method, options.run, shape_of(config), options.device)
    return report_skipped(predict_pictures(model, options.pictures, options.out, options.threshold))


def _introduction(content: dict[str, Any]) -> str:
    return f"One run, seed {content['seed']}, {content['seconds']:.0f} seconds of training."


def _print_labels(scores: dict[str, Any], classes: Sequence[str]) -> None:
    """IoU of each label, in the order of the masks' values; of a classifier's maps those by prediction."""
    if "top1" in scores or "target_oracle" in scores:
        return
    iou = scores["iou"] if "plain" in scores else scores["predicted"]["iou"]
    for name, value in zip(("background", *classes), iou, strict=True):
        print(f"{name:<20} IoU {'    -' if value is None else f'{100 * value:5.1f}'}")


def _print_scores(scores: dict[str, Any]) -> None:
    if not scores:
        print("nothing was scored: the target has no val/ with masks")
        return
    if "plain" in scores:
        print(
            f"mIoU {100 * scores['miou']:.1f}, at one scale and without CRF {100 * scores['plain']['miou']:.1f}; "
            f"validation {100 * scores['val_miou']:.1f}, at one scale and without CRF"
        )
        return
    if "target_oracle" in scores:
        rules = ("source_validation", "target_oracle", "last") if len(scores["curve"]) > 1 else ("last",)
        print("target accuracy by rule of selection: " + ", ".join(f"{r} {100 * scores[r]:.1f}" for r in rules))
        return
    if "top1" in scores:
        print(", ".join(f"{n.replace('_', ' ')} {100 * value:.2f}" for n, value in scores.items() if value is not None))
        return
    for mode, how in (("predicted", "classes by prediction"), ("labels", "classes by true labels")):
        s = scores[mode]
        print(
            f"mIoU {100 * s['miou_best']:.1f} at threshold {s['threshold']} from validation, "
            f"{100 * s['miou_fixed']:.1f} at the fixed threshold ({how})"
        )
    print(
        f"mAP {100 * scores['map']:.1f}, label accuracy {100 * scores['accuracy']:.1f}, energy inside the objects "
        f"{100 * scores['energy']:.1f}"
    )
