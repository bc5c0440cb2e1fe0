"""Mutated images: an image, or an error that names the file; `python -m benchmarks.fuzz` has 10,000 of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from benchmarks.fuzz import fuzz


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.hostile)])
def test_a_mutated_image_is_read_or_refused(count: int, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts, failures = fuzz(count, 0, tmp_path / "keep")
    assert not failures
    assert counts["read"] > count / 20
    assert counts["refused"] > count / 10
