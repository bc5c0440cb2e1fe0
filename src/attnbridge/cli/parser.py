"""The verbs and their arguments."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attnbridge.attention.device import device_name
from attnbridge.cli.config import TABLES
from attnbridge.cli.sets import add_data

DESCRIPTION = "See where a vision network looks, teach it where to look, and carry that across datasets."
OVERRIDES = "Options of the configuration are written --section.option VALUE, as in --trainer.max_epochs 8."
DEVICE = "auto, cpu, cuda, cuda:NUMBER or mps; auto: a GPU where there is one"
Verbs = Any  # argparse's collection of sub-parsers, a private class

VERBS = (
    "demo", "explain", "fit", "search", "test", "predict", "verify", "segment", "submit", "cues", "pipeline",
    "saliency", "data", "benchmark", "list", "show", "init-config",
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """The verbs and their arguments."""
    parser = argparse.ArgumentParser("attnbridge", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"attnbridge {version('attnbridge')}")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND")

    for add in (_add_training, _add_looking, _add_masks, _add_data, _add_names):
        add(verbs)
    for verb, command in verbs.choices.items():
        if verb not in ("data", "list", "show", "init-config"):
            command.add_argument("--device", type=device_name, default="auto", help=DEVICE)
    return parser


def _add_training(verbs: Verbs) -> None:
    demo = verbs.add_parser("demo", help="Grad-CAM against AttnBN on composed scenes, with a report")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the results")
    demo.add_argument(
        "--pictures",
        choices=("auto", "photos", "shapes"),
        default="auto",
        help="real cut-outs from Debian packages, or drawn ones; auto: photos where apt exists",
    )
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--quick", action="store_true", help="a few small pictures, untrained: only to see it run")

    fit = verbs.add_parser("fit", help="train a configuration, evaluate it and write a run folder")
    fit.add_argument("config", help="a name from `attnbridge list`, or a YAML file")
    fit.add_argument("--out", type=Path, help="the run's folder; default: runs/NAME")
    fit.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    fit.epilog = OVERRIDES

    find = verbs.add_parser("search", help="choose options by the accuracy on validation pictures, with Optuna")
    find.add_argument("config", help="a name from `attnbridge list`, or a YAML file; its `search` names the options")
    find.add_argument("--out", type=Path, help="folder of the trials; default: runs/search_NAME")
    find.add_argument("--trials", type=int, default=8, help="how many runs in all; default: 8")
    find.epilog = OVERRIDES

    test = verbs.add_parser("test", help="score a run again, on its own or other data")
    test.add_argument("run", type=Path, help="folder of a run")
    test.add_argument("--target", type=Path, help="other target data, with val/ and test/")

    bench = verbs.add_parser("benchmark", help="a table of results over several seeds; resumes where it stopped")
    bench.add_argument(
        "name",
        choices=[name for name in TABLES if name != "demo"],
        help="scenes: the rows of Table 1, adversary: ways of using it, adaptation: the rows of Table 6; clothing: "
        "the rows of Table 1 on garments, clothing_source: with shares of the source, clothing_masks: GAIN with masks, "
        "clothing_unlabelled: Table 6; segmentation, clothing_segmentation: masks from cues of Grad-CAM and AttnBN; "
        "biased: GAIN where the background tells the class; table1, table2: the paper's own, on VOC 2012; at-cifar10: "
        "attention transfer, at-nin: by gradients; finetune: AFA and its baselines on class folders; "
        "domains: Table 7 on folders of domains, table7: at full size",
    )
    bench.epilog = OVERRIDES
    bench.add_argument("--out", type=Path, help="folder of the runs; default: runs/NAME")
    bench.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    bench.add_argument("--rows", nargs="+", help="these configurations instead of the table's")
    bench.add_argument("--pictures", choices=("auto", "photos", "shapes"), default="auto", help="of the scenes")
    bench.add_argument("--data", type=Path, help="folder of the garments, of VOC, of CIFAR, of your classes; see docs/")
    bench.add_argument("--domains", help="of --data: names with commas between; default: all")
    bench.add_argument(
        "--leave-one-out", action="store_true", help="domains: each from all others, unseen in training; NAME-unseen"
    )
    bench.add_argument("--trials", type=int, default=0, help="choose the options that a row's `search` names first")
    bench.add_argument("--saliency", default="u2net", help="model of the source's saliency maps")


def _add_looking(verbs: Verbs) -> None:
    explain = verbs.add_parser("explain", help="where a network looks: maps of your pictures as overlays and arrays")
    explain.add_argument("pictures", nargs="+", help="pictures, folders, or globs in quotes")
    explain.add_argument("--model", required=True, help="a timm model, or the folder of a run made by fit")
    explain.add_argument("--weights", default="imagenet", help="imagenet, or a state dict of the timm model")
    explain.add_argument("--out", type=Path, default=Path("maps"), help="folder to write; a second call goes on")
    explain.add_argument("--classes", nargs="+", help="names or numbers; default: the most probable ones")
    explain.add_argument("--top", type=int, default=1, help="how many of the most probable classes")
    explain.add_argument("--method", default="grad_cam", help="`attnbridge list` names them")
    explain.add_argument("--layer", help="layer to look at; default: the last spatial features")
    explain.add_argument("--batch", type=int, default=8, help="pictures at once")

    predict = verbs.add_parser("predict", help="class maps as overlays and arrays, label scores as CSV")
    predict.add_argument("run", type=Path, help="folder of a run")
    predict.add_argument("pictures", help="a picture, a folder of pictures, or a glob in quotes")
    predict.add_argument("--out", type=Path, required=True, help="folder to write")
    predict.add_argument("--threshold", type=float, default=0.5, help="probability from which on a class is shown")

    verify = verbs.add_parser("verify", help="do two pictures show one person: accuracy by folds and ROC, as for LFW")
    verify.add_argument("pictures", type=Path, help="a folder with one folder of pictures for each person")
    verify.add_argument("--model", required=True, help="a timm model, or the folder of a run made by fit")
    verify.add_argument("--weights", default="imagenet", help="imagenet, or a state dict of the timm model")
    verify.add_argument("--pairs", type=Path, help="LFW's pairs.txt, or a list like it; default: drawn, ten folds")
    verify.add_argument("--each", type=int, default=300, help="same pairs of a fold, at most, where they are drawn")
    verify.add_argument("--out", type=Path, default=Path("runs/verification"), help="folder to write")

    submit = verbs.add_parser("submit", help="segmentations of a list of VOC's kit, packed for VOC's test server")
    submit.add_argument("run", type=Path, help="folder of a run")
    submit.add_argument("kit", type=Path, help="VOC2012, the development kit with the test pictures")
    submit.add_argument("--list", dest="names", default="test", help="name of the list in ImageSets; default: test")
    submit.add_argument("--out", type=Path, required=True, help="folder to write results/ and results.tgz")
    submit.add_argument("--threshold", type=float, help="of the background; default: the one that the run chose")


def _add_masks(verbs: Verbs) -> None:
    cues = verbs.add_parser("cues", help="seeds for a segmentation network from a run's class maps; resumes")
    cues.add_argument("--checkpoint", type=Path, required=True, help="folder of a run, or its checkpoint")
    cues.add_argument("--data", type=Path, help="the target domain, its pictures' labels known; default: the run's own")
    cues.add_argument("--split", default="train", help="folder of the target, or list of VOC's layout; default: train")
    cues.add_argument("--saliency", help="folder with ID.png of each picture, or a saliency model: background seeds")
    cues.add_argument("--out", type=Path, required=True, help="folder to write: ID.png, sheet.jpg, scores.csv")
    _add_cue_settings(cues)
    cues.add_argument(
        "--scales", type=float, nargs="+", default=[0.75, 1.0, 1.25], help="of the pictures; default: 0.75 1 1.25"
    )
    cues.add_argument("--no-flip", action="store_true", help="without the mirrored pictures")

    segment = verbs.add_parser("segment", help="masks of your pictures as palette PNGs; resumes where it stopped")
    segment.add_argument("run", type=Path, help="folder of a run: a segmentation network, or a classifier for its maps")
    segment.add_argument("pictures", help="a picture, a folder of pictures, or a glob in quotes")
    segment.add_argument("--out", type=Path, required=True, help="folder to write, the tree of the pictures' folder")
    segment.add_argument("--threshold", type=float, help="of a classifier's maps; default: the one that the run chose")
    segment.add_argument("--workers", type=int, help="processes for the CRF; default: as many as cores, 0 beside a GPU")

    line = verbs.add_parser(
        "pipeline", help="from two folders of pictures to masks: AttnBN, cues, segmentation, report"
    )
    line.epilog = f"{OVERRIDES} They hold for both networks; for one alone name a YAML file."
    line.add_argument("--source", type=Path, required=True, help="class folders of simple pictures, CLASS/*.jpg")
    line.add_argument("--target", type=Path, required=True, help="train/, val/ (and test/), or VOC's layout; see docs/")
    line.add_argument("--saliency", default="u2net", help="of the source: a folder of maps, or a model")
    line.add_argument("--target-saliency", default="u2net", help="of the target, for the background's seeds")
    line.add_argument("--out", type=Path, default=Path("runs/pipeline"), help="folder of all stages")
    line.add_argument("--config", default="attnbn", help="of the first network: a name or a YAML file")
    line.add_argument("--segmentation", default="segmentation/dsrg", help="of the second one")
    line.add_argument(
        "--retrain", nargs="?", const="segmentation/retrain", help="train it again, on the masks of the first time"
    )
    _add_cue_settings(line)


def _add_cue_settings(cues: argparse.ArgumentParser) -> None:
    cues.add_argument("--threshold", type=float, default=0.3, help="of a map, relative to its maximum; default: 0.3")
    cues.add_argument(
        "--background", type=float, default=0.06, help="background where the saliency is below; default: 0.06"
    )
    cues.add_argument("--rule", default="stronger", help="stronger, smaller, nobody, or package.module:function")


def _add_data(verbs: Verbs) -> None:
    saliency = verbs.add_parser(
        "saliency", help="saliency maps of your pictures, one PNG each; resumes where it stopped"
    )
    saliency.add_argument("pictures", nargs="+", help="pictures, folders, or globs in quotes")
    saliency.add_argument("--out", type=Path, required=True, help="folder to write, the tree of the pictures' folder")
    saliency.add_argument("--model", default="u2net", help="`attnbridge list` names them; or the path of an .onnx file")
    saliency.add_argument("--refine", action="store_true", help="fit the maps to the pictures' edges with GrabCut")
    saliency.add_argument("--preview", action="store_true", help="write sheet.jpg, pictures and maps side by side")
    saliency.add_argument("--score", type=Path, metavar="MASKS", help="folder of true masks: MAE, F-beta, IoU")
    add_data(verbs)


def _add_names(verbs: Verbs) -> None:
    verbs.add_parser("list", help="methods and configurations")
    show = verbs.add_parser("show", help="a configuration, or a method with all its options")
    show.add_argument("name")
    init = verbs.add_parser("init-config", help="print a configuration to start your own from")
    init.add_argument("name")


def flags(parser: argparse.ArgumentParser, *verbs: str | None) -> list[str]:
    """The options of a command, of its action if it has actions."""
    if verbs[0] is None:
        return [*parser._option_string_actions, *VERBS]
    for verb in filter(None, verbs):
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = subparsers.choices[verb]
    return [flag for action in parser._actions for flag in action.option_strings]
