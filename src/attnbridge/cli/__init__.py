"""The command line. Names and options are checked before torch is imported, so a typo is answered at once."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from attnbridge.attention import METHODS as MAP_METHODS
from attnbridge.attention.device import pick_device
from attnbridge.cli.config import TABLES, config_names, config_text, load_config, with_device
from attnbridge.cli.parser import VERBS, flags, make_parser
from attnbridge.cli.preflight import check_data, check_network, run_folder
from attnbridge.cli.schema import data_options, method_options, trainer_options
from attnbridge.cli.sets import data
from attnbridge.data.cache import make_folder
from attnbridge.data.folders import find_pictures
from attnbridge.data.saliency import MODELS as SALIENCY_MODELS
from attnbridge.data.saliency import check_device
from attnbridge.data.sets import SETS
from attnbridge.data.voc import list_names
from attnbridge.errors import AttnBridgeError, unknown
from attnbridge.methods import METHODS


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
    if rest and options.verb not in ("fit", "search", "benchmark", "pipeline"):
        where = f"of {options.verb}" if options.verb else "before a command"
        raise unknown(f"argument {where}:", rest[0], flags(parser, options.verb, getattr(options, "action", None)))
    if options.verb is None:
        parser.print_help()
        return 0
    if options.verb in ("list", "show", "init-config"):
        return {"list": _list, "show": _show, "init-config": _init_config}[options.verb](options)
    return _run(options, rest)


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
    if options.verb in ("fit", "search", "benchmark", "pipeline"):
        rest = with_device(rest, options.device)
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

        pick_device(options.device)
        return faces(options)
    elif options.verb == "cues":
        warnings.filterwarnings("ignore", module="lightning")
        from attnbridge.cli.cues import cues

        pick_device(options.device)
        return cues(options)
    elif options.verb == "pipeline":
        warnings.filterwarnings("ignore", module="lightning")
        from attnbridge.cli.pipeline import pipeline

        pick_device(options.device)
        return pipeline(options, rest)
    elif options.verb == "saliency":
        check_device(options.model, options.device)
        from attnbridge.cli.saliency import saliency

        return saliency(options)
    elif options.verb == "data":
        return data(options)
    elif options.verb in ("predict", "segment"):
        find_pictures([options.pictures])
    elif options.verb == "submit":
        list_names(options.kit, options.names)
    elif options.verb == "benchmark":
        configs = [load_config(row, rest) for row in options.rows or TABLES[options.name]]
        for config in configs:
            check_network(config)
    warnings.filterwarnings("ignore", module="lightning")
    from attnbridge.cli import verbs

    pick_device(options.device)
    if options.verb == "fit":
        return verbs.fit(config, options.config, options.out, options.resume)
    if options.verb == "search":
        return verbs.choose(config, options.config, options.out, options.trials)
    if options.verb == "benchmark":
        return verbs.benchmark(options, rest)
    commands = {
        "demo": verbs.demo,
        "test": verbs.test,
        "predict": verbs.predict,
        "segment": verbs.segment,
        "submit": verbs.submit,
    }
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
