"""Options of a command line, ``--section.option VALUE``, as values of a configuration. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnbridge.data.text import parse_yaml
from attnbridge.errors import AttnBridgeError, shown
from attnbridge.experiments.config_checks import EVALUATION, check_evaluation


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


def evaluation_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of the evaluation that a command line gives.

    Raises:
        AttnBridgeError: for an option of another section: a run that was trained has its own.

    >>> evaluation_overrides(["--evaluation.threshold", "0.3"])
    {'threshold': 0.3}
    """
    config: dict[str, Any] = {}
    for key, value in read_overrides(overrides):
        section, _, name = key.partition(".")
        if section != "evaluation" or not name:
            raise AttnBridgeError(
                f"option --{key}: a run that was trained keeps its own; --evaluation.{{{','.join(EVALUATION)}}} can be "
                "changed, --target and --device be named"
            )
        set_option(config, key, value)
    found: dict[str, Any] = config.get("evaluation", {})
    check_evaluation(found)
    return found


def read_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    """``["--a.b", "1", "--c=x"]`` becomes ``[("a.b", 1), ("c", "x")]``.

    >>> read_overrides(["--a.b", "1", "--c=x"])
    [('a.b', 1), ('c', 'x')]
    """
    pairs = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise AttnBridgeError(f"unexpected argument {word!r}; options are written --section.option value")
        key, equals, text = word[2:].partition("=")
        if not all(key.split(".")):
            raise AttnBridgeError(f"option --{key}: a name is missing; options are written --section.option value")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise AttnBridgeError(f"option --{key} lacks its value")
            text = rest.pop(0)
        pairs.append((key, _scalar(text, f"option --{key}")))
    return pairs


def _scalar(text: str, where: str) -> Any:
    """A YAML value; text that is none, as a name with a colon in it, is text.

    >>> [_scalar(text, "--a") for text in ("1e-3", "true", "[1, 2]", "a: b: c")]
    [0.001, True, [1, 2], 'a: b: c']
    """
    try:
        return parse_yaml(text, where)
    except AttnBridgeError:
        if text.startswith(("[", "{", "&", "*")):
            raise
        return text


def set_option(config: dict[str, Any], path: str, value: Any) -> None:
    """Put a value into its section, which is made if it is not there."""
    *sections, name = path.split(".")
    for number, key in enumerate(sections, 1):
        if config.get(key) is None:
            config[key] = {}
        config = config[key]
        if not isinstance(config, dict):
            above = ".".join(sections[:number])
            raise AttnBridgeError(f"option --{path}: {above} is {shown(config)}, which has no {name!r} in it")
    config[name] = value
