"""The public surface: what users import stays as it is, unless someone means to change it; all of it is documented.

``python -m tests.test_surface`` prints the surface as it is now. ``tests/api_surface.json`` is changed by hand.
"""

from __future__ import annotations

import doctest
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any, is_typeddict

import pytest

import attnbridge

PINNED = Path(__file__).with_name("api_surface.json")
PLACES = ("attnbridge", "data", "losses", "methods", "metrics", "models", "segmentation", "targets")
Surface = dict[str, dict[str, Any]]


def module_of(place: str) -> Any:
    return attnbridge if place == "attnbridge" else getattr(attnbridge, place)


def parameters(known: Any) -> str:
    """Names, kinds and defaults; without annotations, which Python's versions write differently.

    >>> parameters(lambda a, *, b=1, **c: 0)
    '(a, *, b=1, **c)'
    """
    own = inspect.signature(known)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in own.parameters.values()]
    return str(own.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def described(known: Any) -> str:
    """A name's kind, and what it is called with or holds."""
    if isinstance(known, ModuleType):
        return "module"
    if is_typeddict(known):
        return f"keys {', '.join(sorted(inspect.get_annotations(known)))}"
    if inspect.isclass(known):
        return f"class {parameters(known)}"
    return f"function {parameters(known)}" if callable(known) else type(known).__name__


def members(known: Any) -> dict[str, str]:
    """What users reach in a class of the package's front; what it inherits is not counted."""
    found = {}
    for name, value in vars(known).items():
        if name.startswith("_"):
            continue
        plain = inspect.unwrap(value.__func__ if isinstance(value, classmethod | staticmethod) else value)
        found[name] = f"method {parameters(plain)}" if inspect.isfunction(plain) else "attribute"
    fields = {name: "attribute" for name in inspect.get_annotations(known) if not name.startswith("_")}
    return dict(sorted({**fields, **found}.items()))


def surface() -> Surface:
    """Of each place its names; of the classes at the front what is in them, too."""
    found: Surface = {}
    for place in PLACES:
        module = module_of(place)
        found[place] = {name: described(getattr(module, name)) for name in sorted(module.__all__)}
    for name in attnbridge.__all__:
        known = getattr(attnbridge, name)
        if inspect.isclass(known) and members(known):
            found[f"attnbridge.{name}"] = members(known)
    return found


def differences(before: Surface, now: Surface) -> list[str]:
    """A line for each name that went, came or changed.

    >>> differences({"a": {"f": "(x)", "g": "(x)"}}, {"a": {"g": "(y)", "h": "(z)"}})
    ['a.f: is gone, was (x)', 'a.g: is (y), was (x)', 'a.h: is new, (z)']
    """
    lines = []
    for place in sorted(before.keys() | now.keys()):
        old, new = before.get(place, {}), now.get(place, {})
        for name in sorted(old.keys() | new.keys()):
            where = f"{place}.{name}"
            if name not in new:
                lines.append(f"{where}: is gone, was {old[name]}")
            elif name not in old:
                lines.append(f"{where}: is new, {new[name]}")
            elif old[name] != new[name]:
                lines.append(f"{where}: is {new[name]}, was {old[name]}")
    return lines


def test_the_surface_is_the_pinned_one() -> None:
    lines = differences(json.loads(PINNED.read_text()), surface())
    words = (
        f"what users import differs from {PINNED.name}; if that is meant, change the file by hand (`python -m "
        "tests.test_surface` prints what is there now) and say why in CHANGELOG.md:"
    )
    assert not lines, "\n".join([words, *lines])


def public() -> list[tuple[str, str]]:
    return [(place, name) for place in PLACES for name in module_of(place).__all__]


@pytest.mark.parametrize(("place", "name"), public(), ids=lambda part: part)
def test_every_public_callable_is_documented(place: str, name: str) -> None:
    known = getattr(module_of(place), name)
    if callable(known):
        assert vars(known).get("__doc__") if inspect.isclass(known) else known.__doc__, f"{place}.{name}"


@pytest.mark.parametrize("name", sorted(attnbridge.__all__))
def test_what_the_front_exports_has_an_example_that_runs(name: str) -> None:
    known = getattr(attnbridge, name)
    if callable(known):
        module = inspect.getmodule(known)
        found = [t for t in doctest.DocTestFinder(recurse=False).find(known, name, module) if t.examples]
        assert found, f"attnbridge.{name} has no example in its docstring"
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        assert not any(doctest.DocTestRunner(optionflags=flags).run(each).failed for each in found)


def test_dir_and_all_agree() -> None:
    """What is exported is named once, and is what `dir` shows."""
    for place in PLACES:
        module = module_of(place)
        assert len({*module.__all__}) == len(module.__all__)
        assert {*dir(module)} <= {*module.__all__}


if __name__ == "__main__":
    print(json.dumps(surface(), indent=1))
