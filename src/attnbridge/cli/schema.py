"""The options of methods, data and trainer, read from their signatures without importing them.

Importing torch and Lightning takes seconds; a misspelt option is answered before that. The signatures
stay the only place where options, types and defaults are written.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnbridge.errors import AttnBridgeError, unknown
from attnbridge.methods import DATA, METHODS

TOP_LEVEL = ("name", "method", "after", "teacher", "seed", "model", "data", "trainer", "evaluation", "search", "first")
LINKED = ("classes", "image_size")  # of the model: taken from the data
EVALUATION = {"threshold": "float", "score_threshold": "float", "scales": "list[float]", "flip": "bool", "crf": "bool"}


@dataclass(frozen=True)
class Option:
    """One argument of a signature: its annotation and default as written, and its line of documentation."""

    name: str
    annotation: str
    default: str | None
    doc: str


def check_config(config: dict[str, Any], where: str) -> None:
    """Raise on an unknown section, option or choice, or a value of a wrong plain type.

    Args:
        config: the merged configuration.
        where: what to call it in the message: a file or a name.
    """
    for key in config:
        if key not in TOP_LEVEL:
            raise unknown(f"section in {where}:", key, TOP_LEVEL)
    method = config.get("method")
    if method not in METHODS:
        raise unknown(f"method in {where}:", str(method), METHODS, "see `attnbridge list`")
    sections = {"model": method_options(method), "data": data_options(method), "trainer": trainer_options()}
    for section, known in sections.items():
        values = config.get(section) or {}
        if not isinstance(values, dict):
            raise AttnBridgeError(f"{where}: {section} must hold options, `{section}: {{...}}`, not {values!r}")
        for name, value in values.items():
            if name not in known:
                raise unknown(f"option {section}.", name, known)
            _check_value(f"{section}.{name}", value, known[name].annotation)
    for section, name, value in _named(config.get("first") or {}, sections, "first"):
        _check_value(f"first.{section}.{name}", value, sections[section][name].annotation)
    for section, name, value in _named(config.get("search") or {}, sections, "search"):
        if "float" not in sections[section][name].annotation:
            raise AttnBridgeError(f"search: {section}.{name} takes no real numbers; search a weight or a rate")
        with suppress(TypeError, ValueError):  # YAML takes 1e-3 for text
            value[:] = [float(v) if isinstance(v, str) else v for v in value]
        numbers = isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
        if not numbers or not 0 < value[0] < value[1]:
            raise AttnBridgeError(
                f"search: the bounds of {section}.{name} must be [LOW, HIGH], 0 < LOW < HIGH, not {value}"
            )
    for name, value in (config.get("evaluation") or {}).items():
        if name not in EVALUATION:
            raise unknown("option evaluation.", name, EVALUATION)
        _check_value(f"evaluation.{name}", value, EVALUATION[name])


def _named(values: Any, known: dict[str, dict[str, Option]], where: str) -> Iterator[tuple[str, str, Any]]:
    """Section, option and value of options by section, ``{model: {OPTION: VALUE}}``, all of which must be known."""
    for section, own in values.items() if isinstance(values, dict) else [("", values)]:
        for name, value in own.items() if isinstance(own, dict) else [("", own)]:
            if name not in known.get(section, {}):
                raise unknown(f"option in {where}:", f"{section}.{name}", [f"{s}.{n}" for s in known for n in known[s]])
            yield section, name, value


def method_options(name: str) -> dict[str, Option]:
    """The options of a method: its own and those of the base class, but for what the data gives it."""
    module, class_name = METHODS[name]
    options = _inherited(_source(module), class_name)
    return {name: option for name, option in options.items() if name not in LINKED}


def option_value(section: dict[str, Any], known: dict[str, Option], name: str) -> Any:
    """An option as it is set, or its default; ``None`` where there is no such option."""
    default = known[name].default if name in known else None
    return section.get(name, ast.literal_eval(default or "None"))


def data_options(method: str) -> dict[str, Option]:
    """The options of a method's data module."""
    module, class_name = DATA[method]
    return _inherited(_source(module), class_name)


def trainer_options() -> dict[str, Option]:
    """The options of Lightning's Trainer."""
    spec = find_spec("lightning")
    folder = Path(str(spec.origin)).parent if spec else Path()
    return signature(folder / "pytorch" / "trainer" / "trainer.py", "Trainer")


def _source(module: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    return package.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _inherited(path: Path, class_name: str) -> dict[str, Option]:
    """The arguments of a class and of the classes of this package that it stands on."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    modules = {
        alias.name: entry.module
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

    >>> options = signature(_source("attnbridge.data.module"), "BridgeData")
    >>> options["batch_size"].annotation, options["batch_size"].default
    ('int', '32')
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


def _check_value(name: str, value: Any, annotation: str) -> None:
    """Check a value against the annotations that are plain; leave the others to the parser proper."""
    options = [part.strip() for part in annotation.split(" | ")]
    if value is None and ("None" in options or annotation.startswith("Optional") or annotation == "Any"):
        return
    if annotation.startswith("Literal["):
        choices = ast.literal_eval("(" + annotation[len("Literal[") : -1] + ",)")
        if value not in choices:
            raise unknown(f"value of {name}:", str(value), [str(c) for c in choices])
        return
    checks: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
    }
    types = [checks[o] for o in options if o in checks]
    if not types or len(types) + ("None" in options) != len(options):
        return
    allowed = tuple(t for group in types for t in group)
    wrong = not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)
    if wrong:
        raise AttnBridgeError(f"option {name} must be {annotation}, but is {value!r}")
