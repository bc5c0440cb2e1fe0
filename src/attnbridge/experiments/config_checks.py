"""What a configuration may hold: names, types, choices and ranges of its sections. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnbridge.errors import AttnBridgeError, shown, unknown_name
from attnbridge.evaluation.settings import THRESHOLDS
from attnbridge.experiments.options import (
    Option,
    check_value,
    data_options,
    evaluation_options,
    method_options,
    plain_type,
    trainer_options,
)
from attnbridge.methods import METHODS

Options = Mapping[str, Any]
CLASS = "class_path"
"""The key by which a configuration names a class, which is imported and called."""
OBJECTS = ("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator")
"""The trainer's options that may name a class without :data:`CLASS`."""
TOP_LEVEL = (
    "name", "method", "init_from", "teacher", "seed", "model", "data", "trainer", "evaluation", "search",
    "init_overrides",
)  # fmt: skip
EVALUATION = {
    "threshold": "float",
    "score_threshold": "Inside",
    "size": "Literal['network', 'own']",
    "scales": "Sequence[Scale]",
    "flip": "bool",
    "crf": "bool",
    "combine": "Literal['mean', 'logits']",
    "corners": "bool",
}
RENAMED = {
    "after": "init_from",
    "first": "init_overrides",
    "transfer": "attention_transfer",
    "adaptation": "domain_adaptation",
}
"""Names of sections and methods that were others once."""
TRAINER = {
    "max_epochs": (1, -1),
    "max_steps": (1, -1),
    "check_val_every_n_epoch": (1, None),
    "num_sanity_val_steps": (0, -1),
}
"""The smallest value of some of the trainer's options, and the one that stands for none, or all."""


def check_names_no_class(config: Options, where: str) -> None:
    """Raise for a configuration of others that names a class, since naming one runs its code.

    Args:
        config: sections and options, as a YAML file holds them.
        where: what to call it in the message.

    Raises:
        AttnBridgeError: for a class that is not of this package.
    """
    for option, name in _classes(config):
        if not name.startswith("attnbridge."):
            raise AttnBridgeError(
                f"{where}: {option} names the class {name}, whose code would run; a run of others is only looked at: "
                "if you trust it, say --trust (trust=True in Python), or take the option out of the file"
            )


def _classes(value: Any, option: str = "") -> Iterator[tuple[str, str]]:
    """The classes that a configuration names, with the option that names each.

    >>> list(_classes({"trainer": {"callbacks": [{"class_path": "a.B"}], "logger": "a.C", "strategy": "ddp"}}))
    [('trainer.callbacks', 'a.B'), ('trainer.logger', 'a.C')]
    """
    if isinstance(value, Mapping):
        if CLASS in value:
            yield option or CLASS, str(value[CLASS])
        for name, each in value.items():
            yield from _classes(each, f"{option}.{name}" if option else str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _classes(each, option)
    elif isinstance(value, str):
        named = option.split(".")[-1] in OBJECTS and ("." in value or value[:1].isupper())
        if named or CLASS in value:
            yield option, value


def check_config(config: dict[str, Any], where: str) -> None:
    """Raise on an unknown section, option or choice, a value of a wrong type, or a number out of its range.

    Args:
        config: the merged configuration.
        where: what to call it in the message: a file or a name.
    """
    _check_keys(config, where)
    for key in config:
        if key in RENAMED:
            raise AttnBridgeError(f"{where}: the section `{key}` is called `{RENAMED[key]}` now; rename it")
        if key not in TOP_LEVEL:
            raise unknown_name(f"section in {where}:", key, TOP_LEVEL)
    method = str(config.get("method"))
    if method in RENAMED:
        raise AttnBridgeError(f"{where}: the method {method!r} is called {RENAMED[method]!r} now; rename it")
    if method not in METHODS:
        raise unknown_name(f"method in {where}:", method, METHODS, "see `attnbridge list`")
    if config.get("seed") is not None:
        check_value("seed", config["seed"], "Seed")
    for name in ("name", "init_from", "teacher"):
        check_value(name, config.get(name), "str | None")
    if config.get("name") and Path(config["name"]).stem in ("", ".."):
        raise AttnBridgeError(f"option name must be a name that a folder can have, not {config['name']!r}")
    sections = {"model": method_options(method), "data": data_options(method), "trainer": trainer_options()}
    for section, known in sections.items():
        for name, value in _section(config, section, where).items():
            if name not in known:
                raise unknown_name(f"option {section}.", name, known)
            check_value(f"{section}.{name}", value, known[name].annotation)
    _check_trainer(_section(config, "trainer", where), "trainer")
    for section, name, value in _named(config, "init_overrides", sections, where):
        check_value(f"init_overrides.{section}.{name}", value, sections[section][name].annotation)
    _check_trainer(dict(config.get("init_overrides") or {}).get("trainer", {}), "init_overrides.trainer")
    for section, name, value in _named(config, "search", sections, where):
        _check_search(section, name, value, sections[section][name])
    check_evaluation(_section(config, "evaluation", where))


def _check_keys(values: Any, where: str) -> None:
    """Names of sections and options are text, whatever YAML takes them for: `yes` is true, and `1` a number."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if not isinstance(key, str):
            raise AttnBridgeError(f"{where}: the name {key!r} is no text; write it in quotes if it is meant")
        _check_keys(value, where)


def _section(config: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    values = config.get(name)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise AttnBridgeError(f"{where}: {name} must hold options, `{name}: {{...}}`, not {shown(values)}")
    return values


def _check_trainer(values: dict[str, Any], where: str) -> None:
    for name, (least, none) in TRAINER.items():
        value = values.get(name)
        check_value(f"{where}.{name}", value, "int | None")
        if value is not None and value != none and value < least:
            raise AttnBridgeError(f"option {where}.{name} must be at least {least}, not {shown(value)}")
    if "devices" in values and not _may_be_devices(values["devices"]):
        raise AttnBridgeError(
            f"option {where}.devices must be a count of devices from 1 on, a list of their numbers, or auto, not "
            f"{shown(values['devices'])}"
        )


def _may_be_devices(value: Any) -> bool:
    """Whether a value may stand for devices.

    >>> [_may_be_devices(value) for value in (1, "auto", [0, 1], "0,1", -1, 0, True, [], [1, 1], "x")]
    [True, True, True, True, True, False, False, False, False, False]
    """
    if isinstance(value, str):
        return value == "auto" or bool(re.fullmatch(r"-1|[1-9]\d{0,4}|\d{1,5}(,\d{1,5})+,?|\d{1,5},", value))
    if isinstance(value, list):
        return bool(value) and all(type(n) is int and n >= 0 for n in value) and len({*value}) == len(value)
    return type(value) is int and (value == -1 or value > 0)


def _check_search(section: str, name: str, value: Any, option: Option) -> None:
    if "float" not in plain_type(option.annotation):
        raise AttnBridgeError(f"search: {section}.{name} takes no real numbers; search a weight or a rate")
    numbers = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
    if not numbers or not 0 < value[0] < value[1]:
        raise AttnBridgeError(
            f"search: the bounds of {section}.{name} must be [LOW, HIGH], 0 < LOW < HIGH, not {shown(value)}"
        )
    for bound in value:
        check_value(f"search.{section}.{name}", bound, option.annotation)


def check_evaluation(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name not in EVALUATION:
            raise unknown_name("option evaluation.", name, EVALUATION)
        check_value(f"evaluation.{name}", value, EVALUATION[name])
    if "scales" in values and not values["scales"]:
        raise AttnBridgeError("option evaluation.scales must be one or more numbers above 0, not []")
    threshold = values.get("threshold")
    if threshold is not None and threshold not in THRESHOLDS:
        raise AttnBridgeError(
            f"option evaluation.threshold must be one of {', '.join(map(str, THRESHOLDS))}, not {threshold}"
        )


def check_used(method: str, evaluation: Options, where: str) -> None:
    """Raise for a setting of the evaluation that would do nothing; what is said as it is anyway does no harm."""
    used = evaluation_options(method)
    for name in evaluation:
        if name not in used:
            raise AttnBridgeError(
                f"{where}: the scores of {method} do not depend on evaluation.{name}; they do on "
                f"{', '.join(used) or 'none'}; leave it out"
            )


def _named(
    config: dict[str, Any], where: str, known: dict[str, dict[str, Option]], file: str
) -> Iterator[tuple[str, str, Any]]:
    """Section, option and value of options by section, ``{model: {OPTION: VALUE}}``, all of which must be known."""
    for section, own in _section(config, where, file).items():
        if section not in known:
            raise unknown_name(f"section in {where}:", section, known)
        for name, value in _section({f"{where}.{section}": own}, f"{where}.{section}", file).items():
            if name not in known[section]:
                raise unknown_name(
                    f"option in {where}:", f"{section}.{name}", [f"{s}.{n}" for s in known for n in known[s]]
                )
            yield section, name, value
