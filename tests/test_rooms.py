"""The house: data flows one way, so a room imports only from rooms to its left."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attnbridge

ROOMS = (
    "data", "datasets", "attention", "segmentation", "losses", "models", "methods", "evaluation", "experiments", "cli",
)  # fmt: skip
ROOT = Path(attnbridge.__file__).parent
FILES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
BELOW = [p for p in FILES if p.relative_to(ROOT).parts[0] not in ("experiments", "cli")]
FRONT = {
    alias.name: f"attnbridge.{node.module}"
    for node in ast.walk(ast.parse((ROOT / "__init__.pyi").read_text()))
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
}
"""What the package's front exports, and the module that has it."""
HELPERS = ("arguments", "errors", "bounds", "lazy")
HEAVY = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "jsonargparse", "matplotlib")


def imported(tree: ast.AST) -> Iterator[str]:
    """All modules of this package that code imports, in functions and for types too.

    What the package's front exports is counted as the module that has it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "attnbridge")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = node.module or ""
            if module == "attnbridge":
                yield from (FRONT.get(alias.name, f"attnbridge.{alias.name}") for alias in node.names)
            elif module.split(".")[0] == "attnbridge":
                yield module


def rooms_of(modules: Iterator[str]) -> set[str]:
    """The rooms of modules; the short name of the metrics is a name for some of `evaluation`."""
    parts = {name.split(".")[1] for name in modules if "." in name}
    return {"evaluation" if part == "metrics" else part for part in parts} & {*ROOMS}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    rooms = rooms_of(imported(ast.parse(path.read_text())))
    wrong = {other for other in rooms if ROOMS.index(other) > ROOMS.index(room)}
    assert not wrong, f"{path.name} in {room} imports {wrong}, to its right"


def test_imports_are_seen_wherever_they_are() -> None:
    """In functions, and by the names that the package's front gives them."""
    code = "from attnbridge import fit, losses\ndef run():\n    from attnbridge.cli import main\n"
    assert rooms_of(imported(ast.parse(code))) == {"experiments", "losses", "cli"}


@pytest.mark.parametrize("path", BELOW, ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_below_reaches_experiments_by_name(path: Path) -> None:
    """A module whose name is a string is no import, but it is the same dependence."""
    words = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
    wrong = [w for w in words if isinstance(w, str) and re.fullmatch(r"attnbridge\.(experiments|cli)[\w.:]*", w)]
    assert not wrong


def test_all_rooms_are_known() -> None:
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert found == {*ROOMS}


@pytest.mark.parametrize("name", HELPERS)
def test_helpers_import_no_room(name: str) -> None:
    used = set(imported(ast.parse((ROOT / f"{name}.py").read_text())))
    assert used <= {f"attnbridge.{helper}" for helper in HELPERS}


def test_front_imports_no_room() -> None:
    """What the package exports is loaded by its name, when it is used."""
    assert set(imported(ast.parse((ROOT / "__init__.py").read_text()))) == {"attnbridge.lazy"}
    others = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__", *HELPERS}
    assert others == {"metrics", "targets"}
    for name, room in {"metrics": "evaluation", "targets": "attention"}.items():
        assert set(imported(ast.parse((ROOT / f"{name}.py").read_text()))) == {f"attnbridge.{room}", "attnbridge.lazy"}


@pytest.mark.parametrize(
    "code",
    [
        "import attnbridge",
        "import attnbridge.cli",
        "import attnbridge.experiments.checks, attnbridge.experiments.tables",
        "from attnbridge import data, losses, methods, metrics, models, segmentation",
        "from attnbridge.cli import main; main(['--help'])",
        "from attnbridge.cli import main; main(['--version'])",
        "from attnbridge.cli import main; main(['list'])",
        "from attnbridge.cli import main; main(['show', 'attnbn'])",
        "from attnbridge.cli import main; assert main(['fit', 'atnbn']) == 2",
        "from attnbridge.cli import main; assert main(['fit', 'attnbn', '--model.lrr', '1']) == 2",
    ],
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    """Names, help and mistakes are answered at once."""
    after = f"import sys; sys.exit(' '.join({{*{HEAVY}}} & {{*sys.modules}}) or None)"
    lines = f"try:\n    {code}\nexcept SystemExit:\n    pass\n{after}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
