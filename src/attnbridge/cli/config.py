"""Configurations: YAML files, those of the package by name; overrides from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from attnbridge.cli.schema import check_config
from attnbridge.errors import AttnBridgeError, unknown

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SUFFIXES = (".yaml", ".yml")
PAPER = {"grad_cam": 30.2, "joint": 31.7, "source_guided": 37.5, "fine_tuned": 39.4, "bridged": 46.2, "attnbn": 50.9,
         "attnbn_10": 45.1, "attnbn_50": 49.2}  # fmt: skip
"""mIoU of the paper's Tables 1 and 2 on VOC 2012 val."""
ROWS = ("grad_cam", "joint", "source_guided", "fine_tuned", "bridged", "attnbn")
KEPT = ("l2", "feature_extraction", "l2_sp", "lwf", "soft", "delta", "bss", "attention", "afa_spatial", "afa")
TABLES: dict[str, tuple[str, ...]] = {
    "demo": ("grad_cam", "source_guided", "attnbn"),
    "scenes": ROWS,
    "adversary": ("bridged", "attnbn", "adversary/strong", "adversary/spectral", "adversary/evidence"),
    "clothing": tuple(f"clothing/{row}" for row in ("grad_cam", "grad_cam_shift", *ROWS[1:])),
    "clothing_source": ("clothing/attnbn_10", "clothing/attnbn_50", "clothing/attnbn"),
    "clothing_masks": tuple(f"clothing/{row}" for row in ("no_mask", "gain", "gain_10", "gain_30", "gain_100")),
    "clothing_unlabelled": tuple(f"clothing/adapt_{row}" for row in ("source", "ac", "adv", "ac_adv")),
    "biased": ("grad_cam", "gain", "biased/gain_1", "biased/gain_5", "biased/gain_20", "attnbn"),
    "table1": tuple(f"voc/{row}" for row in ROWS),
    "table2": ("voc/attnbn_10", "voc/attnbn_50", "voc/attnbn"),
    "at-cifar10": tuple(f"cifar10/{row}" for row in ("teacher", "student", "at", "kd", "at_kd", "f_act")),
    "at-nin": tuple(f"cifar10/nin_{row}" for row in ("teacher", "student", "symmetry", "gradient", "at")),
    "domains": tuple(f"domains/{row}" for row in ("source", "ac", "adv", "ac_adv")),
    "table7": tuple(f"domains/full_{row}" for row in ("source", "ac", "adv", "ac_adv")),
    "finetune": tuple(f"finetune/{row}" for row in KEPT),
    "segmentation": ("grad_cam", "attnbn"),
    "clothing_segmentation": ("clothing/grad_cam", "clothing/attnbn"),
    "adaptation": ("adapt_source", "source_guided", "adapt_adv", "adapt_ac_adv"),
}
"""Tables of results: name to the configurations that are their rows."""


def config_names() -> dict[str, str]:
    """The package's configurations: name to the first line of its comment."""
    found = {}
    for path in sorted(p for p in CONFIGS.rglob("*.yaml") if p.name[0] != "_"):
        first = path.read_text().split("\n", 1)[0].lstrip("# ")
        found[path.relative_to(CONFIGS).with_suffix("").as_posix()] = first
    return found


def config_path(name: str) -> Path:
    """A configuration by the package's name for it, or a YAML file of the user's.

    Raises:
        AttnBridgeError: for a file that does not exist or a name that is none.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise AttnBridgeError(f"{path}: no such configuration file; `attnbridge init-config attnbn` makes one")
        return path
    if not (CONFIGS / f"{name}.yaml").is_file():
        raise unknown("configuration", name, config_names(), "see `attnbridge list`, or give a .yaml file")
    return CONFIGS / f"{name}.yaml"


def load_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a configuration, apply ``--section.option value`` overrides, and check every name in it.

    Raises:
        AttnBridgeError: for YAML that does not parse, or a name or value that cannot be.
    """
    path = config_path(name)
    config = read_config(name)
    for key, value in _pairs(overrides):
        _set(config, key.split("."), value)
    after = config.get("after")
    if after and after not in config_names() and not (Path(after) / "run.json").is_file():
        raise unknown(f"configuration in `after` of {path.name}:", after, config_names(), "or give a run's folder")
    teacher = config.get("teacher")
    if teacher and teacher not in config_names() and not (Path(teacher) / "run.json").is_file():
        raise unknown(f"configuration in `teacher` of {path.name}:", teacher, config_names(), "or give a run's folder")
    check_config(config, str(path) if path.parent != CONFIGS else f"configuration {name!r}")
    return config


def read_config(name: str) -> dict[str, Any]:
    """A configuration as it is written, merged over those that its ``base`` names, the later over the earlier.

    Raises:
        AttnBridgeError: for YAML that does not parse, or a base that does not exist.
    """
    path = config_path(name)
    try:
        config = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise AttnBridgeError(f"{path}: is not YAML: {str(error).replace(chr(10), ' ')}") from None
    if not isinstance(config, dict):
        raise AttnBridgeError(f"{path}: expected sections such as `model:`, found {type(config).__name__}")
    bases = config.pop("base", None) or []
    merged: dict[str, Any] = {}
    for part in [*(read_config(base) for base in ([bases] if isinstance(bases, str) else bases)), config]:
        merged = _merged(merged, part)
    return merged


def config_text(name: str) -> str:
    """A configuration as a whole file: as it is written, or merged where it has a ``base``."""
    text = config_path(name).read_text()
    if "\nbase:" not in text:
        return text
    comment = text.split("\n", 1)[0]
    return f"{comment}\n{yaml.safe_dump(read_config(name), sort_keys=False, default_flow_style=None)}"


def trainer_device(device: str) -> dict[str, Any]:
    """The trainer's options that stand for a device; none for ``auto``.

    >>> trainer_device("cuda:1"), trainer_device("cpu"), trainer_device("auto")
    ({'accelerator': 'gpu', 'devices': [1]}, {'accelerator': 'cpu'}, {})
    """
    kind, _, number = device.partition(":")
    named = {} if kind == "auto" else {"accelerator": "gpu" if kind == "cuda" else kind}
    return named | ({"devices": [int(number)]} if number else {})


def with_device(overrides: Sequence[str], device: str) -> list[str]:
    """The overrides of a command line, and those that ``--device`` is short for.

    Raises:
        AttnBridgeError: for one that is given both ways.

    >>> with_device(["--seed", "1"], "cuda:1")
    ['--seed', '1', '--trainer.accelerator=gpu', '--trainer.devices=[1]']
    """
    given = {word.split("=")[0] for word in overrides}
    for name in trainer_device(device):
        if f"--trainer.{name}" in given:
            raise AttnBridgeError(f"--device {device} sets trainer.{name}, and --trainer.{name} does; give one of them")
    return [*overrides, *(f"--trainer.{name}={value}" for name, value in trainer_device(device).items())]


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section.

    >>> _merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = _merged(below[key], above[key])
    return both


def _pairs(words: Sequence[str]) -> list[tuple[str, Any]]:
    """``["--a.b", "1", "--c=x"]`` becomes ``[("a.b", 1), ("c", "x")]``.

    >>> _pairs(["--a.b", "1", "--c=x"])
    [('a.b', 1), ('c', 'x')]
    """
    pairs = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise AttnBridgeError(f"unexpected argument {word!r}; options are written --section.option value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise AttnBridgeError(f"option --{key} lacks its value")
            text = rest.pop(0)
        pairs.append((key, _scalar(text)))
    return pairs


def _scalar(text: str) -> Any:
    """A YAML value; numbers such as 1e-3, which YAML 1.1 takes for text, are numbers.

    >>> _scalar("1e-3"), _scalar("true"), _scalar("[1, 2]"), _scalar("a: b: c")
    (0.001, True, [1, 2], 'a: b: c')
    """
    if "e" in text.lower():
        with suppress(ValueError):
            return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        if text.startswith(("[", "{")):
            raise
        return text


def _set(config: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        config = config.setdefault(key, {}) if isinstance(config, dict) else {}
    config[keys[-1]] = value
