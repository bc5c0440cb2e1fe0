"""The options of methods, data and trainer, read from their signatures without importing them.

Importing torch and Lightning takes seconds; a misspelt option is answered before that. The signatures
stay the only place where options, types and defaults are written.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnbridge import bounds
from attnbridge.bounds import Bounds
from attnbridge.errors import AttnBridgeError, shown, unknown_name
from attnbridge.methods import method_entry

FROM_DATA = (
    "classes",
    "image_size",
    "frequencies",
    "domains",
    "generalise",
    "plain_loader",
    "network",
    "teacher_network",
)
"""Arguments of methods that no configuration sets: the data, or the caller, give them."""
_PART = "Share | Count | None"
TRAINER = {
    "num_nodes": "Count",
    "precision": "Literal['64', '32', '16', 64, 32, 16, 'bf16', '16-mixed', 'bf16-mixed', '16-true', 'bf16-true', "
    "'32-true', '64-true', 'transformer-engine', 'transformer-engine-float16', None]",
    "fast_dev_run": "bool | Natural",
    "min_epochs": "Natural | None",
    "min_steps": "Natural | None",
    "limit_train_batches": _PART,
    "limit_val_batches": _PART,
    "limit_test_batches": _PART,
    "limit_predict_batches": _PART,
    "overfit_batches": "UpToOne | Count",
    "val_check_interval": "Share | Count | str | dict[str, Count] | None",
    "max_time": "str | dict[str, Natural] | None",
    "log_every_n_steps": "Natural | None",
    "enable_checkpointing": "bool | None",
    "enable_progress_bar": "bool | None",
    "enable_model_summary": "bool | None",
    "accumulate_grad_batches": "Count",
    "gradient_clip_val": "NotNegative | None",
    "gradient_clip_algorithm": "Literal['norm', 'value', None]",
    "deterministic": "Literal[True, False, 'warn', None]",
    "benchmark": "bool | None",
    "reload_dataloaders_every_n_epochs": "Natural",
    "default_root_dir": "str | None",
}
"""What Lightning's own annotations do not say: ranges and choices."""


@dataclass(frozen=True)
class Option:
    """One argument of a signature: its annotation and default as written, and its line of documentation."""

    name: str
    annotation: str
    default: str | None
    doc: str


def method_options(name: str) -> dict[str, Option]:
    """The options of a method: its own and those of the base class, but for what the data gives it."""
    return {option: known for option, known in _arguments(method_entry(name).method).items() if option not in FROM_DATA}


def data_arguments(method: str) -> set[str]:
    """The arguments of a method that its data give."""
    return set(FROM_DATA) & set(_arguments(method_entry(method).method))


def _arguments(reference: str) -> dict[str, Option]:
    module, _, class_name = reference.partition(":")
    return _inherited(_source(module), class_name)


def data_options(method: str) -> dict[str, Option]:
    """The options of a method's data module."""
    return _arguments(method_entry(method).data.module)


def evaluation_options(method: str) -> tuple[str, ...]:
    """The settings of the evaluation that a method's scores depend on: ``uses`` in the body of its task's class.

    >>> evaluation_options("fine_tuning")
    ()
    """
    module, _, class_name = method_entry(method).task.partition(":")
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "uses":
            found: tuple[str, ...] = ast.literal_eval(node.value)
            return found
    return ()


def trainer_options() -> dict[str, Option]:
    """The options of Lightning's Trainer.

    Raises:
        AttnBridgeError: where Lightning is not installed.
    """
    spec = find_spec("lightning")
    if spec is None:
        raise AttnBridgeError("configurations of training need lightning: pip install 'attnbridge[train]'")
    known = signature(Path(str(spec.origin)).parent / "pytorch" / "trainer" / "trainer.py", "Trainer")
    return {name: replace(option, annotation=TRAINER.get(name, option.annotation)) for name, option in known.items()}


def _source(module: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    return package.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _inherited(path: Path, class_name: str) -> dict[str, Option]:
    """The arguments of a class and of the classes of this package that it stands on."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    modules = {
        alias.name: entry.module or ""
        for entry in tree.body
        if isinstance(entry, ast.ImportFrom) and (entry.module or "").startswith("attnbridge.")
        for alias in entry.names
        if alias.name in bases
    }
    found: dict[str, Option] = {}
    for base, module in modules.items():
        found |= _inherited(_source(module or ""), base)
    own = signature(path, class_name)
    return found | {n: replace(o, doc=o.doc or found[n].doc) if n in found else o for n, o in own.items()}


@cache
def signature(path: Path, class_name: str) -> dict[str, Option]:
    """The arguments of a class's ``__init__``, from its source; none if it has no own.

    >>> options = signature(_source("attnbridge.data.modules.base"), "ImageDataModule")
    >>> options["views"].annotation, options["views"].default
    ('Views | None', 'None')
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases = {
        node.targets[0].id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    } | _imported_aliases(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            docs = _argument_docs(ast.get_docstring(node) or "")
            inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            return {o.name: o for init in inits for o in _options(init.args, aliases, docs)}
    raise LookupError(f"{path}: has no class {class_name}")


def _options(arguments: ast.arguments, aliases: dict[str, str], docs: dict[str, str]) -> Iterator[Option]:
    plain = arguments.args[1:]  # without self
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [
        *zip(plain, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        written = ast.unparse(argument.annotation) if argument.annotation else "Any"
        text = ast.unparse(default) if default is not None else None
        yield Option(argument.arg, aliases.get(written, written), text, docs.get(argument.arg, ""))


def _imported_aliases(tree: ast.Module) -> dict[str, str]:
    """Choices (``Literal[...]``) that a module imports from another one of this package."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnbridge."):
            names = {alias.name for alias in node.names if alias.name[0].isupper()}
            path = _source(node.module or "")
            if not names or not path.is_file():
                continue
            for other in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(other, ast.Assign) and isinstance(other.targets[0], ast.Name):
                    text = ast.unparse(other.value)
                    if other.targets[0].id in names and text.startswith("Literal"):
                        found[other.targets[0].id] = text
    return found


def _argument_docs(docstring: str) -> dict[str, str]:
    """The ``Args:`` section of a docstring: name to text."""
    docs: dict[str, str] = {}
    name, inside = "", False
    for line in docstring.splitlines():
        if line.strip() in ("Args:", "Attributes:", "Raises:", "Returns:"):
            inside = line.strip() == "Args:"
        elif inside and line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            docs[name] = text
        elif inside and line.startswith("     ") and name:
            docs[name] += " " + line.strip()
        elif line.strip():
            inside = False
    return docs


PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
CONTAINERS: dict[str, tuple[type, ...]] = {"Sequence": (list, tuple), "tuple": (list, tuple), "dict": (dict,)}


def _bounded(part: str) -> tuple[str, Bounds | None]:
    """The plain type of a part of an annotation, and its range if it has one.

    >>> _bounded("Count")
    ('int', Bounds(least=1, above=None, most=None, below=None))
    """
    alias: Any = getattr(bounds, part, None)
    if not hasattr(alias, "__metadata__"):
        return part, None
    return alias.__origin__.__name__, alias.__metadata__[0]


def plain_type(annotation: str) -> str:
    return " | ".join(_bounded(part)[0] for part in annotation.split(" | "))


def in_words(annotation: str) -> str:
    """An annotation as a person reads it.

    >>> in_words("Count | None"), in_words("Sequence[str]"), in_words("dict[str, str]"), in_words("bool")
    ('int at least 1 | None', 'a list of names', 'names by name, {NAME: NAME}', 'bool')
    """
    return " | ".join(_kind_in_words(kind) for kind in annotation.split(" | "))


def _kind_in_words(kind: str) -> str:
    outer, _, inner = kind.partition("[")
    if outer == "Sequence":
        return f"a list of {'names' if inner == 'str]' else 'numbers' if inner[:-1] in vars(bounds) else 'lists'}"
    if outer in CONTAINERS:
        return "two of them" if outer == "tuple" else "names by name, {NAME: NAME}"
    plain, limits = _bounded(kind)
    return plain if limits is None else f"{plain} {limits}"


def check_value(name: str, value: Any, annotation: str) -> None:
    """Check a value against an annotation: its type, its choice, its range, and so what it holds.

    Args:
        name: of the option, for messages.
        value: as YAML gives it.
        annotation: as written in a signature; one with parts that are not plain is left to the parser proper.

    Raises:
        AttnBridgeError: for a value that is none of the annotation's.

    >>> check_value("data.image_size", [64, 0], "Side | tuple[Side, Side]")
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: option data.image_size must be at least 8 and at most 8192, not 0
    """
    kinds = annotation.split(" | ")
    if not all(map(_is_plain, kinds)) or (value is None and "None" in kinds):
        return
    for kind in kinds:
        outer, _, inner = kind.partition("[")
        if outer == "Literal" and len(kinds) == 1:
            _check_choice(name, value, inner)
            return
        if isinstance(value, CONTAINERS.get(outer, ())):
            _check_items(name, value, kind, annotation)
            return
    _check_plain(name, value, kinds, annotation)


def _is_plain(kind: str) -> bool:
    """Whether a part of an annotation is understood here.

    >>> [_is_plain(kind) for kind in ("Sequence[str]", "Count", "None", "list[Callback]")]
    [True, True, True, False]
    """
    outer = kind.partition("[")[0]
    return kind == "None" or outer == "Literal" or outer in CONTAINERS or _bounded(kind)[0] in PLAIN


def _check_choice(name: str, value: Any, choices: str) -> None:
    known = ast.literal_eval(f"({choices[:-1]},)")
    if not any(value == each and type(value) is type(each) for each in known):
        raise unknown_name(f"value of {name}:", str(value), [str(each) for each in known])


def _check_items(name: str, value: Any, kind: str, annotation: str) -> None:
    """What a list, a pair or a mapping holds."""
    outer, _, inner = kind.partition("[")
    wanted = [inner[:-1]] * len(value) if outer == "Sequence" else inner[:-1].split(", ")
    if outer == "dict":
        for key, each in value.items():
            check_value(f"{name}, the key", key, wanted[0])
            check_value(f"{name}.{key}", each, wanted[1])
        return
    if len(value) != len(wanted):
        raise AttnBridgeError(f"option {name} must be {in_words(annotation)}, but is {value!r}")
    for each, part in zip(value, wanted, strict=True):
        check_value(name, each, part)


def _check_plain(name: str, value: Any, kinds: list[str], annotation: str) -> None:
    """A number, a text or a truth value, of one of several types and ranges."""
    known = [_bounded(kind) for kind in kinds]
    own = [limits for kind, limits in known if isinstance(value, PLAIN.get(kind, ()))]
    if not own or (isinstance(value, bool) and "bool" not in kinds):
        raise AttnBridgeError(f"option {name} must be {in_words(annotation)}, but is {shown(value)}")
    if isinstance(value, str):
        if not value.strip() or "\0" in value:
            raise AttnBridgeError(f"option {name} must not be {value!r}; name something, or leave it out")
        return
    ranges = [limits or Bounds() for limits in own]
    if not any(limits.hold(value) for limits in ranges):
        words = ranges[0].against(value) if len(ranges) == 1 else in_words(annotation)
        raise AttnBridgeError(f"option {name} must be {words or 'a finite number'}, not {shown(value)}")
