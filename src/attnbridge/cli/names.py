"""Verbs that name what there is."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from attnbridge.attention import METHODS as MAP_METHODS
from attnbridge.cli.common import Verb
from attnbridge.data.saliency import MODELS
from attnbridge.datasets import SETS
from attnbridge.errors import unknown_name
from attnbridge.experiments.config import config_names, config_text
from attnbridge.experiments.options import data_options, in_words, method_options, trainer_options
from attnbridge.experiments.tables import TABLES
from attnbridge.methods import METHODS


def show_list(_: argparse.Namespace) -> int:
    """Print all names."""
    lists: dict[str, dict[str, str]] = {
        "methods (attnbridge show NAME lists the options):": {name: entry.method for name, entry in METHODS.items()},
        "ways of looking (attnbridge explain IMAGES --model NAME --method NAME):": MAP_METHODS,
        "saliency models (attnbridge saliency IMAGES --out FOLDER --model NAME):": MODELS,
        "data sets (attnbridge data import NAME ROOT --out FOLDER):": {n: entry.source for n, entry in SETS.items()},
        "tables (attnbridge benchmark NAME):": {name: table.help for name, table in TABLES.items()},
        "configurations (attnbridge fit NAME, attnbridge show NAME > mine.yaml):": config_names(),
    }
    for title, names in lists.items():
        print(title)
        width = max(22, *(len(name) + 1 for name in names))
        for name, line in names.items():
            print(f"  {name:<{width}}{line}")
    return 0


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of a configuration or a method")


def show(options: argparse.Namespace) -> int:
    """A configuration to start one's own from; of a method every option, as comments, so that the whole is YAML."""
    name = options.name
    if name not in METHODS and name not in config_names():
        raise unknown_name("name", name, [*METHODS, *config_names()], "see `attnbridge list`")
    if name in config_names():
        print(config_text(name), end="")
    if name in METHODS:
        print(f"# {name}: every option with its default")
        for section, known in {"model": method_options(name), "data": data_options(name)}.items():
            for option in known.values():
                default = f" = {option.default}" if option.default is not None else ""
                print(f"# --{section}.{option.name}: {in_words(option.annotation)}{default}\n#       {option.doc}")
        trainer = ", ".join(trainer_options()) if find_spec("lightning") else "pip install 'attnbridge[train]'"
        print(f"# --trainer.*: Lightning's Trainer: {trainer}")
    return 0


VERBS = (
    Verb("list", "data", "names of methods, tables, data sets and configurations", lambda parser: None, show_list),
    Verb("show", "data", "a configuration to start from, or a method with all its options", _add_show, show),
)
