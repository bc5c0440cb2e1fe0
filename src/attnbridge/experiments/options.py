"""The options of methods, data and trainer, read from their signatures without importing them.

Importing torch and Lightning takes seconds; a misspelt option is answered before that. The signatures
stay the only place where options, types and defaults are written.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnbridge import bounds
from attnbridge.bounds import Bounds
from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.methods import method_entry

FROM_DATA = ("classes", "image_size", "frequencies", "domains", "generalise", "plain_loader", "network")
"""Arguments of methods that no configuration sets: the data, or the caller, give them."""


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


def trainer_options() -> dict[str, Option]:
    """The options of Lightning's Trainer.

    Raises:
        AttnBridgeError: where Lightning is not installed.
    """
    spec = find_spec("lightning")
    if spec is None:
        raise AttnBridgeError("configurations of training need lightning: pip install 'attnbridge[train]'")
    return signature(Path(str(spec.origin)).parent / "pytorch" / "trainer" / "trainer.py", "Trainer")


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
    ('Count | None', 'None')
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

    >>> in_words("Count | None"), in_words("bool")
    ('int at least 1 | None', 'bool')
    """
    annotation = annotation.replace("tuple[Side, Side]", "two of them")
    parts = [_bounded(part) for part in annotation.split(" | ")]
    return " | ".join(kind if limits is None else f"{kind} {limits}" for kind, limits in parts)


def check_value(name: str, value: Any, annotation: str) -> None:
    """Check a value against the annotations that are plain; leave the others to the parser proper."""
    if annotation.startswith("Literal["):
        choices = ast.literal_eval("(" + annotation[len("Literal[") : -1] + ",)")
        if value not in choices:
            raise unknown_name(f"value of {name}:", str(value), [str(c) for c in choices])
        return
    if annotation.startswith("Sequence[") and (annotation[9:-1] in vars(bounds) or annotation[9:-1] == "str"):
        if not isinstance(value, list | tuple):
            kind = "names" if annotation[9:-1] == "str" else "numbers"
            raise AttnBridgeError(f"option {name} must be a list of {kind}, but is {value!r}")
        for each in value:
            check_value(name, each, annotation[9:-1])
        return
    options = [part.strip() for part in annotation.split(" | ")]
    if value is None and ("None" in options or annotation.startswith("Optional") or annotation == "Any"):
        return
    pairs = [part[6:-1].split(", ") for part in options if part.startswith("tuple[")]
    if isinstance(value, list | tuple) and pairs:
        if len(value) != len(pairs[0]):
            raise AttnBridgeError(f"option {name} must be {in_words(annotation)}, but is {value!r}")
        for each, part in zip(value, pairs[0], strict=True):
            check_value(name, each, part)
        return
    known = [_bounded(option) for option in options if not option.startswith("tuple[")]
    types = [PLAIN[kind] for kind, _ in known if kind in PLAIN]
    if not types or len(types) + ("None" in options) != len(known):
        return
    allowed = tuple(t for group in types for t in group)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise AttnBridgeError(f"option {name} must be {in_words(annotation)}, but is {value!r}")
    for _, limits in known:
        if limits is not None and isinstance(value, int | float) and not limits.hold(value):
            raise AttnBridgeError(f"option {name} must be {limits}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise AttnBridgeError(f"option {name} must be a finite number, not {value!r}")
