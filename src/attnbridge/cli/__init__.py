"""The command line. Names and options are checked before torch is imported, so a typo is answered at once."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attnbridge.attention import METHODS as MAP_METHODS
from attnbridge.cli.config import TABLES, config_names, config_text, load_config
from attnbridge.cli.preflight import check_data, check_network, run_folder
from attnbridge.cli.schema import data_options, method_options, trainer_options
from attnbridge.cli.sets import add_data, data
from attnbridge.data.cache import make_folder
from attnbridge.data.folders import find_pictures
from attnbridge.data.saliency import MODELS as SALIENCY_MODELS
from attnbridge.data.saliency import check_model
from attnbridge.data.sets import SETS
from attnbridge.data.voc import list_names
from attnbridge.errors import AttnBridgeError, unknown
from attnbridge.methods import METHODS

DESCRIPTION = "See where a vision network looks, teach it where to look, and carry that across datasets."
OVERRIDES = "Options of the configuration are written --section.option VALUE, as in --trainer.max_epochs 8."
Verbs = Any  # argparse's collection of sub-parsers, a private class
VERBS = (
    "demo", "explain", "fit", "search", "test", "predict", "verify", "submit", "saliency", "data", "benchmark",
    "list", "show", "init-config",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except AttnBridgeError as error:
        print(f"attnbridge: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("attnbridge: interrupted; the same command goes on, `fit` with --resume", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        raise unknown("command", words[0], VERBS, "see `attnbridge --help`")
    parser = make_parser()
    options, rest = parser.parse_known_args(words)
    if rest and options.verb not in ("fit", "search", "benchmark"):
        where = f"of {options.verb}" if options.verb else "before a command"
        raise unknown(f"argument {where}:", rest[0], _flags(parser, options.verb, getattr(options, "action", None)))
    if options.verb is None:
        parser.print_help()
        return 0
    if options.verb in ("list", "show", "init-config"):
        return {"list": _list, "show": _show, "init-config": _init_config}[options.verb](options)
    return _run(options, rest)


def make_parser() -> argparse.ArgumentParser:
    """The verbs and their arguments."""
    parser = argparse.ArgumentParser("attnbridge", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"attnbridge {version('attnbridge')}")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND")

    for add in (_add_training, _add_looking, _add_data, _add_names):
        add(verbs)
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
        "the rows of Table 1 on garments, clothing_source: with shares of the source, clothing_masks: GAIN with masks; "
        "biased: GAIN where the background tells the class; table1, table2: the paper's own, on VOC 2012; at-cifar10: "
        "attention transfer; finetune: AFA and its baselines on class folders",
    )
    bench.epilog = OVERRIDES
    bench.add_argument("--out", type=Path, help="folder of the runs; default: runs/NAME")
    bench.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    bench.add_argument("--rows", nargs="+", help="these configurations instead of the table's")
    bench.add_argument("--pictures", choices=("auto", "photos", "shapes"), default="auto", help="of the scenes")
    bench.add_argument("--data", type=Path, help="folder of the garments, of VOC, of CIFAR, of your classes; see docs/")
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


def _flags(parser: argparse.ArgumentParser, *verbs: str | None) -> list[str]:
    """The options of a command, of its action if it has actions."""
    if verbs[0] is None:
        return [*parser._option_string_actions, *VERBS]
    for verb in filter(None, verbs):
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = subparsers.choices[verb]
    return [flag for action in parser._actions for flag in action.option_strings]


def _list(_: argparse.Namespace) -> int:
    print("methods (attnbridge show NAME lists the options):")
    for name, (module, class_name) in METHODS.items():
        print(f"  {name:<22}{module}.{class_name}")
    print("ways of looking (attnbridge explain PICTURES --model NAME --method NAME):")
    for name, line in MAP_METHODS.items():
        print(f"  {name:<22}{line}")
    print("saliency models (attnbridge saliency PICTURES --out FOLDER --model NAME):")
    for name, line in SALIENCY_MODELS.items():
        print(f"  {name:<22}{line}")
    print("data sets (attnbridge data import NAME ROOT --out FOLDER):")
    for name, entry in SETS.items():
        print(f"  {name:<22}{entry.source}")
    print("configurations (attnbridge fit NAME, attnbridge init-config NAME > mine.yaml):")
    width = max(map(len, config_names())) + 1
    for name, line in config_names().items():
        print(f"  {name:<{width}}{line}")
    return 0


def _show(options: argparse.Namespace) -> int:
    if options.name in config_names():
        print(config_text(options.name), end="")
    if options.name in METHODS:
        sections = {"model": method_options(options.name), "data": data_options(options.name)}
        for section, known in sections.items():
            for option in known.values():
                default = f" = {option.default}" if option.default is not None else ""
                print(f"--{section}.{option.name}: {option.annotation}{default}\n      {option.doc}")
        print(f"--trainer.*: Lightning's Trainer: {', '.join(trainer_options())}")
    elif options.name not in config_names():
        raise unknown("name", options.name, [*METHODS, *config_names()], "see `attnbridge list`")
    return 0


def _init_config(options: argparse.Namespace) -> int:
    print(config_text(options.name), end="")
    return 0


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    """The verbs that compute: check what can be checked first, then import torch."""
    if options.verb in ("fit", "search"):
        config = load_config(options.config, rest)
        if config.get("after") in config_names():
            check_data({**load_config(config["after"]), "data": config.get("data")})
        check_data(config)
        check_network(config)
    elif options.verb == "explain":
        _check_explain(options)
        from attnbridge.cli.look import explain

        return explain(options)
    elif options.verb == "verify":
        _check_verify(options)
        from attnbridge.cli.faces import faces

        return faces(options)
    elif options.verb == "saliency":
        check_model(options.model)
        from attnbridge.cli.saliency import saliency

        return saliency(options)
    elif options.verb == "data":
        return data(options)
    elif options.verb == "predict":
        find_pictures([options.pictures])
    elif options.verb == "submit":
        list_names(options.kit, options.names)
    elif options.verb == "benchmark":
        configs = [load_config(row, rest) for row in options.rows or TABLES[options.name]]
        for config in configs:
            check_network(config)
    warnings.filterwarnings("ignore", module="lightning")
    from attnbridge.cli import verbs

    if options.verb == "fit":
        return verbs.fit(config, options.config, options.out, options.resume)
    if options.verb == "search":
        return verbs.choose(config, options.config, options.out, options.trials)
    if options.verb == "benchmark":
        return verbs.benchmark(options, rest)
    commands = {"demo": verbs.demo, "test": verbs.test, "predict": verbs.predict, "submit": verbs.submit}
    return commands[options.verb](options)


def _check_explain(options: argparse.Namespace) -> None:
    if options.method not in MAP_METHODS:
        raise unknown("method", options.method, MAP_METHODS, "see `attnbridge list`")
    for name in ("top", "batch"):
        if getattr(options, name) < 1:
            raise AttnBridgeError(f"--{name} must be 1 or more, not {getattr(options, name)}")
    options.pictures = find_pictures(options.pictures, options.out)
    make_folder(options.out)
    _check_model(options.model, options.weights, options.layer)


def _check_verify(options: argparse.Namespace) -> None:
    if not options.pictures.is_dir():
        raise AttnBridgeError(f"{options.pictures}: no such folder; expected one folder of pictures for each person")
    if options.each < 1:
        raise AttnBridgeError(f"--each must be 1 or more, not {options.each}")
    if options.pairs is not None and not options.pairs.is_file():
        raise AttnBridgeError(f"{options.pairs}: no such file; leave --pairs out to have pairs drawn")
    make_folder(options.out)
    _check_model(options.model, options.weights, None)


def _check_model(name: str, weights: str, layer: str | None) -> None:
    """A run's folder, or a timm model, its weights and its layer, by name."""
    if run_folder(name) is not None:
        if weights != "imagenet":
            raise AttnBridgeError("--weights belongs to a timm model; a run has its own")
    else:
        if weights != "imagenet" and not Path(weights).is_file():
            raise AttnBridgeError(f"{weights}: no such weight file; give a state dict, or `imagenet`")
        from attnbridge.attention.classifiers import check_classifier

        check_classifier(name, layer)
