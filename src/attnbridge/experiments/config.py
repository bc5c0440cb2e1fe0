"""Experiments: typed configurations. YAML files, those of the package by name; overrides; checked whole.

Free of torch.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from attnbridge.data.text import dump_yaml, read_text, read_yaml
from attnbridge.errors import AttnBridgeError, shown, unknown_name
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.experiments.config_checks import EVALUATION, Options, check_config, check_used
from attnbridge.experiments.options import check_value, data_options, evaluation_options, method_options
from attnbridge.experiments.overrides import read_overrides, set_option
from attnbridge.methods import METHODS, MethodEntry, method_entry

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SUFFIXES = (".yaml", ".yml")
SECTIONS = ("model", "data", "trainer")
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
        check_used(own.method, own.to_mapping().get("evaluation", {}), where)
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
    for key, value in read_overrides(overrides):
        section, _, option = key.partition(".")
        if section != "evaluation" or option in used or option not in EVALUATION:
            set_option(config, key, value)
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
