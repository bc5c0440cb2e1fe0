"""What the package asks for is no more than it needs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize(
    ("name", "oldest", "older"), [("torch", "2.6.0", "2.5.1"), ("torchvision", "0.21.0", "0.20.1")]
)
def test_the_oldest_torch_that_the_tests_pass_with_is_enough(name: str, oldest: str, older: str) -> None:
    """2.6 is the first with `torch.compiler.set_stance`, which networks inside torch.compile are observed with."""
    requirements = [Requirement(text) for text in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]]
    (wanted,) = (r.specifier for r in requirements if r.name == name)
    assert oldest in wanted
    assert older not in wanted
