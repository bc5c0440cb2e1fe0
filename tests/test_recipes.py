"""The recipes in the docs, run as they stand: Python blocks in one namespace, each line of a bash block a command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from attnbridge.cli import main

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(DOCS.glob("recipe_*.md")), ids=lambda path: path.stem)
def test_a_recipe_does_what_it_says(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", recipe.read_text(), re.DOTALL | re.MULTILINE)
    assert {language for language, _ in blocks} == {"python", "bash"}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(recipe), "exec"), names)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "attnbridge"
            assert main(arguments) == 0, line
