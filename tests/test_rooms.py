"""The house: data flows one way, so a room imports only from rooms to its left."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import attnbridge

ROOMS = ["data", "attention", "segmentation", "losses", "methods", "evaluation", "cli"]
ROOT = Path(attnbridge.__file__).parent
FILES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "attnbridge" and len(parts) > 1 and parts[1] in ROOMS:
                found.add(parts[1])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    wrong = {other for other in imported_rooms(path) if ROOMS.index(other) > ROOMS.index(room)}
    assert not wrong, f"{path.name} in {room} imports {wrong}, to its right"


def test_files_stay_readable() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 300, path


@pytest.mark.parametrize("module", ["attnbridge", "attnbridge.cli", "attnbridge.cli.preflight"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
