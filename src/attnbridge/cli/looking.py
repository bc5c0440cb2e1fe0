"""Verbs that look into a network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attnbridge.attention import METHODS
from attnbridge.cli.common import Verb, add_device, add_trust, number_of, out_for, path_of, report_skipped
from attnbridge.data.folders import find_images
from attnbridge.data.out_folders import owned
from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.experiments.runs import Run, run_folder
from attnbridge.models.device import pick_device
from attnbridge.models.labels import read_class_names
from attnbridge.models.names import NAMES, check_folder, check_texts, parse_name

OWN = ("size", "mean", "std", "class_names", "output", "target", "text")
"""Options of a network by name that a run has itself."""


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help=f"the folder of a run made by fit, {NAMES}, whose code runs")
    parser.add_argument(
        "--weights", default="imagenet", help="imagenet: those that come with the network; or the file of a state dict"
    )
    side, mean, std = (number_of(*o) for o in (("--size", "Side"), ("--mean", "UpToOne"), ("--std", "Share")))
    parser.add_argument(
        "--size", type=side, nargs="+", help="side of its images, or height and width; default for this and the next: "
        "as the network says"
    )  # fmt: skip
    parser.add_argument("--mean", type=mean, nargs=3, help="what is subtracted from red, green and blue in [0, 1]")
    parser.add_argument("--std", type=std, nargs=3, help="what they are then divided by")
    add_trust(parser)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="images, folders, or globs in quotes")
    _add_model(parser)
    parser.add_argument(
        "--out", type=out_for("manifest.jsonl"), default=Path("maps"), help="folder to write; a second call goes on"
    )
    parser.add_argument(
        "--class-names", type=path_of("--class-names"), help="a file of the classes' names: one a line, or JSON"
    )
    parser.add_argument(
        "--text", nargs="+", help="texts in the place of classes, of a network that compares them with images, as CLIP"
    )
    parser.add_argument("--output", help="where the logits are in what the network answers: a name, or an index")
    parser.add_argument(
        "--target",
        help="package.module:function of yours, from the answer to scores in the place of classes; its code runs",
    )
    parser.add_argument("--classes", nargs="+", help="names or numbers; default: the most probable ones")
    parser.add_argument(
        "--top", type=number_of("--top", "Count"), help="how many of the most probable classes; default: 1"
    )
    parser.add_argument(
        "--threshold",
        type=number_of("--threshold", "ShareOrNone"),
        help="all classes above this probability, and the most probable one",
    )
    parser.add_argument(
        "--all", action="store_true", help="arrays of the maps of all classes, not of the shown ones alone"
    )
    parser.add_argument("--method", default="grad_cam", help="`attnbridge list` names them")
    parser.add_argument("--layer", help="layer to look at; default: the last spatial features")
    parser.add_argument("--batch", type=number_of("--batch", "BatchSize"), default=8, help="images at once")
    add_device(parser)


def explain(options: argparse.Namespace) -> int:
    """Where a network looks on a user's images; status 1 if some could not be read."""
    if options.method not in METHODS:
        raise unknown_name("method", options.method, METHODS, "see `attnbridge list`")
    chosen = [name for name in ("classes", "top", "threshold") if getattr(options, name) is not None]
    if len(chosen) > 1:
        raise AttnBridgeError(f"--{chosen[0]} and --{chosen[1]} both choose the classes; give one of them")
    top = 1 if options.top is None else options.top
    images = find_images(options.images, options.out)
    _check_model(options, options.layer)

    from attnbridge.evaluation.folders.explain import ExplainSettings, choose_classes, explain_images

    model = _load(options)
    choose, words = choose_classes(model, options.classes, top, options.threshold)
    settings = ExplainSettings(options.method, options.layer, words, options.all)
    status = report_skipped(explain_images(model, images, options.out, choose, settings, options.batch))
    if (options.out / "sheet-1.jpg").is_file():
        print(options.out / "sheet-1.jpg")
    return status


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=path_of("images"), help="a folder with one folder of images for each person")
    _add_model(parser)
    parser.add_argument(
        "--pairs", type=path_of("--pairs"), help="LFW's pairs.txt, or a list like it; default: drawn, ten folds"
    )
    parser.add_argument(
        "--each",
        type=number_of("--each", "Count"),
        default=300,
        help="same pairs of a fold, at most, where they are drawn",
    )
    parser.add_argument(
        "--out", type=out_for("verification.json"), default=Path("runs/verification"), help="folder to write"
    )
    add_device(parser)
    parser.set_defaults(**dict.fromkeys(("class_names", "output", "target", "text")))


def verify(options: argparse.Namespace) -> int:
    """Do two images show one person."""
    images, out = options.images, options.out
    if not images.is_dir():
        raise AttnBridgeError(f"{images}: no such folder; expected one folder of images for each person")
    if options.pairs is not None and not options.pairs.is_file():
        raise AttnBridgeError(f"{options.pairs}: no such file; leave --pairs out to have pairs drawn")
    _check_model(options, None)
    pick_device(options.device)

    from attnbridge.data.face_pairs import draw_pairs, read_pairs
    from attnbridge.evaluation.folders.verification import check_verification, write_verification

    listed = options.pairs or out / "pairs.txt"
    with owned(out) as own:
        check_verification(own, draws=options.pairs is None)
        if options.pairs is None:
            draw_pairs(images, listed, options.each)
        pairs = read_pairs(listed, images)
        scores = write_verification(_load(options), pairs, out, listed)
    accuracy = f"accuracy {100 * scores['accuracy']:.2f} ± {100 * scores['deviation']:.2f}%"
    print(f"{accuracy} over {len(scores['folds'])} folds, AUC {100 * scores['auc']:.2f}%, {scores['pairs']} pairs")
    print(out / "roc.png")
    return 0


def _check_model(options: argparse.Namespace, layer: str | None) -> None:
    """A run's folder, or a network, its weights and its layer, by name."""
    name, weights = options.model, options.weights
    folder = run_folder(name)
    if folder is not None:
        given = next((option for option in OWN if getattr(options, option) is not None), None)
        if given or weights != "imagenet":
            option = given.replace("_", "-") if given else "weights"
            raise AttnBridgeError(f"--{option} belongs to a network by name, as a timm model; a run has its own")
        Run(folder, trust=options.trust).check()
        return
    if weights != "imagenet" and not Path(weights).exists():
        raise AttnBridgeError(f"{weights}: no such weight file; give a state dict, or `imagenet`")
    if options.size is not None and len(options.size) > 2:
        raise AttnBridgeError(f"--size must be a side, or height and width, not {len(options.size)} numbers")
    if options.class_names is not None:
        read_class_names(options.class_names)
    if options.text is not None:
        check_texts(name, options.text)
        given = next((option for option in ("output", "target", "class_names") if getattr(options, option)), None)
        if given:
            raise AttnBridgeError(
                f"--text and --{given.replace('_', '-')} both say what the classes are; give one of them"
            )
    check_folder(parse_name(name))
    from attnbridge.models.classifiers import check_classifier

    check_classifier(name, layer if options.text is None else None)


def _load(options: argparse.Namespace) -> Any:
    """The network of a run's folder, or by name, on a device."""
    folder = run_folder(options.model)
    if folder is not None:
        return Run(folder, trust=options.trust).classifier(options.device)
    from attnbridge.models.classifiers import load_classifier

    size = options.size and (options.size[0] if len(options.size) == 1 else tuple(options.size))
    classes = None if options.class_names is None else read_class_names(options.class_names)
    how: dict[str, Any] = {"classes": classes, "size": size, "mean": options.mean, "std": options.std}
    how |= {"output": _output(options.output), "target": _target(options.target), "texts": options.text}
    return load_classifier(options.model, options.weights, options.device, **how)


def _output(text: str | None) -> str | int | None:
    """A name of an output, or its index."""
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else text


def _target(text: str | None) -> Any:
    """A function of the user's."""
    if text is None:
        return None
    from attnbridge.models.libraries import import_object

    found = import_object(text)
    if not callable(found):
        raise AttnBridgeError(f"--target {text}: must be a function from the network's answer to scores (B, K)")
    return found


VERBS = (
    Verb("explain", "look", "maps of your images as overlays and arrays, label scores as CSV", _add_explain, explain),
    Verb("verify", "look", "do two images show one person: folds and ROC, as for LFW", _add_verify, verify, rare=True),
)
