"""Experiments: typed configurations. YAML files, those of the package by name; overrides; checked whole.

Free of torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from attnbridge.data.text import dump_yaml, parse_yaml, read_text, read_yaml
from attnbridge.errors import AttnBridgeError, shown, unknown_name
from attnbridge.evaluation.settings import THRESHOLDS, EvaluationSettings
from attnbridge.experiments.options import (
    Option,
    check_value,
    data_options,
    evaluation_options,
    method_options,
    plain_type,
    trainer_options,
)
from attnbridge.methods import METHODS, MethodEntry, method_entry

CLASS = "class_path"
"""The key by which a configuration names a class, which is imported and called."""
OBJECTS = ("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator")
"""The trainer's options that may name a class without :data:`CLASS`."""
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SUFFIXES = (".yaml", ".yml")
SECTIONS = ("model", "data", "trainer")
Options = Mapping[str, Any]
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
MOST_BASES = 100
"""Files that one configuration may be merged of."""


@dataclass(frozen=True)
class Experiment:
    """What is trained: a method, its options, its data, how long, and how it is scored.

    Made by :func:`load_experiment` or :meth:`from_mapping`, which check every name, type, choice and range in it.

    Attributes:
        method: its name in :data:`attnbridge.methods.METHODS`.
        name: what the run is called.
        seed: of the run.
        init_from: the experiment, or the folder of a run, whose weights training begins with; trained first.
        init_overrides: what of that one is changed, by section.
        teacher: the experiment, or the folder of a run, that is the teacher; trained first.
        model: options of the method.
        data: options of its data module.
        trainer: options of Lightning's Trainer.
        evaluation: how it is scored.
        search: bounds of the options that a search chooses, by section.
    """

    method: str
    name: str = ""
    seed: int = 0
    init_from: str | None = None
    init_overrides: Options = field(default_factory=dict)
    teacher: str | None = None
    model: Options = field(default_factory=dict)
    data: Options = field(default_factory=dict)
    trainer: Options = field(default_factory=dict)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    search: Options = field(default_factory=dict)

    @property
    def entry(self) -> MethodEntry:
        """What is known of the method."""
        return method_entry(self.method)

    @classmethod
    def from_mapping(cls, config: Options, where: str = "the configuration") -> Experiment:
        """From sections and options, checked.

        Args:
            config: as YAML files hold it.
            where: what to call it in messages.

        Raises:
            AttnBridgeError: for an unknown section, option or choice, a wrong type, a number out of its range, or a
                setting of the evaluation that the method's scores do not depend on.

        >>> Experiment.from_mapping({"method": "attnbn", "model": {"lr": 1e-3}}).option("model.lr")
        0.001
        """
        check_config(dict(config), where)
        given = {name: value for name, value in config.items() if value is not None}
        evaluation = dict(given.pop("evaluation", {}))
        if "scales" in evaluation:
            evaluation["scales"] = tuple(evaluation["scales"])
        own = cls(**given, evaluation=EvaluationSettings(**evaluation))
        _check_used(own, where)
        return own if own.name else replace(own, name=own.method)

    def to_mapping(self) -> dict[str, Any]:
        """As YAML files hold it: what is set, in a fixed order."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, EvaluationSettings):
                plain = EvaluationSettings()
                own = {n: v for n, v in asdict(value).items() if v != getattr(plain, n)}
                value = {n: list(v) if isinstance(v, tuple) else v for n, v in own.items()}
            if value not in (None, {}, "") or each.name == "seed":
                found[each.name] = dict(value) if isinstance(value, Mapping) else value
        return found

    def option(self, path: str) -> Any:
        """An option, ``model.NAME`` or ``data.NAME``, as it is set, or its default; ``None`` where there is none.

        >>> Experiment("attnbn").option("model.attention_weight")
        40.0
        """
        section, _, name = path.partition(".")
        known = method_options(self.method) if section == "model" else data_options(self.method)
        default = known[name].default if name in known else None
        return getattr(self, section).get(name, ast.literal_eval(default or "None"))

    def with_options(self, **sections: Options) -> Experiment:
        """With other values of some options, ``data={"target": ...}``; they are checked.

        Raises:
            AttnBridgeError: see :meth:`from_mapping`.
        """
        before = self.to_mapping()
        changed = {name: {**(before.get(name) or {}), **own} for name, own in sections.items()}
        return Experiment.from_mapping({**before, **changed})

    def difference(self, other: Experiment) -> tuple[str, Any, Any] | None:
        """The first option that is set otherwise: its path, and both values; ``None`` where all are equal."""
        before, now = self.to_mapping(), other.to_mapping()
        for section in sorted({*before, *now}):
            old, new = before.get(section), now.get(section)
            if old == new:
                continue
            if isinstance(old or {}, dict) and isinstance(new or {}, dict):
                old, new = old or {}, new or {}
                name = next(n for n in [*old, *new] if old.get(n) != new.get(n))
                return f"{section}.{name}", old.get(name), new.get(name)
            return section, old, new
        return None


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
    _check_evaluation(_section(config, "evaluation", where))


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


def _check_evaluation(values: dict[str, Any]) -> None:
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


def _check_used(experiment: Experiment, where: str) -> None:
    """Raise for a setting of the evaluation that would do nothing; what is said as it is anyway does no harm."""
    used = evaluation_options(experiment.method)
    for name in experiment.to_mapping().get("evaluation", {}):
        if name not in used:
            raise AttnBridgeError(
                f"{where}: the scores of {experiment.method} do not depend on evaluation.{name}; they do on "
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
        if not path.exists():
            raise AttnBridgeError(f"{path}: no such configuration file; `attnbridge show attnbn > mine.yaml` makes one")
        return path
    if not (CONFIGS / f"{name}.yaml").is_file():
        raise unknown_name("configuration", name, config_names(), "see `attnbridge list`, or give a .yaml file")
    return CONFIGS / f"{name}.yaml"


def load_experiment(name: str, overrides: Sequence[str] = (), shared: bool = False) -> Experiment:
    """Read a configuration, apply ``--section.option value`` overrides, and check all of it.

    Args:
        name: of a configuration of the package, or a YAML file.
        overrides: as on the command line.
        shared: they are those of several experiments: settings of the evaluation that this one's scores do not depend
            on are another's.

    Raises:
        AttnBridgeError: for YAML that does not parse, or a name or value that cannot be.

    >>> load_experiment("attnbn", ["--model.lr", "1e-4"]).model["lr"]
    0.0001
    """
    path = config_path(name)
    config = read_config(name)
    method = config.get("method")
    used = evaluation_options(method) if shared and isinstance(method, str) and method in METHODS else EVALUATION
    for key, value in _pairs(overrides):
        section, _, option = key.partition(".")
        if section != "evaluation" or option in used or option not in EVALUATION:
            _set(config, key, value)
    for key in ("init_from", "teacher"):
        other = config.get(key)
        check_value(key, other, "str | None")
        if other is not None and other not in config_names() and not (Path(other) / "run.json").is_file():
            raise unknown_name(
                f"configuration in `{key}` of {path.name}:", other, config_names(), "or give a run's folder"
            )
    own = Path(name).suffix in SUFFIXES
    where = name if own else f"configuration {name!r}"
    return Experiment.from_mapping({"name": path.stem if own else name, **config}, where)


def read_config(name: str) -> dict[str, Any]:
    """A configuration as it is written, merged over those that its ``base`` names, the later over the earlier.

    Raises:
        AttnBridgeError: for YAML that does not parse, a base that does not exist, or one that leads back to itself.
    """
    return _read(name, (), [])


def _read(name: str, above: tuple[str, ...], read: list[str]) -> dict[str, Any]:
    """A configuration; ``above`` are those whose base it is, ``read`` all that were read."""
    path = config_path(name)
    place = str(path.resolve())
    if place in above:
        raise AttnBridgeError(f"{path}: its `base` leads back to itself; take it out")
    read.append(place)
    if len(read) > MOST_BASES:
        raise AttnBridgeError(f"{path}: is one of more than {MOST_BASES} files that are merged by `base`; merge fewer")
    config = read_yaml(path)
    if config is None:
        raise AttnBridgeError(f"{path}: is empty; name a `method` or a `base`")
    if not isinstance(config, dict):
        raise AttnBridgeError(f"{path}: expected sections such as `model:`, found {type(config).__name__}")
    bases = config.pop("base", None)
    bases = [bases] if isinstance(bases, str) else [] if bases is None else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise AttnBridgeError(f"{path}: `base` must be the name of a configuration, or a list, not {shown(bases)}")
    merged: dict[str, Any] = {}
    for part in [*(_read(base, (*above, place), read) for base in bases), config]:
        merged = _merged(merged, part)
    return merged


def config_text(name: str) -> str:
    """A configuration as a whole file: as it is written, or merged where it has a ``base``."""
    text = read_text(config_path(name))
    if "\nbase:" not in text:
        return text
    comment = text.split("\n", 1)[0]
    return f"{comment}\n{dump_yaml(read_config(name), short=True)}"


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
    for key, value in _pairs(overrides):
        section, _, name = key.partition(".")
        if section != "evaluation" or not name:
            raise AttnBridgeError(
                f"option --{key}: a run that was trained keeps its own; --evaluation.{{{','.join(EVALUATION)}}} can be "
                "changed, --target and --device be named"
            )
        _set(config, key, value)
    found: dict[str, Any] = config.get("evaluation", {})
    _check_evaluation(found)
    return found


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


def _set(config: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for number, key in enumerate(sections, 1):
        if config.get(key) is None:
            config[key] = {}
        config = config[key]
        if not isinstance(config, dict):
            above = ".".join(sections[:number])
            raise AttnBridgeError(f"option --{path}: {above} is {shown(config)}, which has no {name!r} in it")
    config[name] = value
