"""Data that the tests make: drawn shapes, composed into small scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnbridge.data.scenes import SceneSpec, compose
from attnbridge.data.shapes import prepare_shapes

SPEC = SceneSpec(size=48, source=24, target=32, val=8, test=10, seed=3)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of cut-outs and backgrounds."""
    return prepare_shapes(tmp_path_factory.mktemp("shapes"), cutouts=9, places=8, size=64)


@pytest.fixture(scope="session")
def scenes(shapes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of composed scenes, 48 pixels."""
    return compose(*shapes, tmp_path_factory.mktemp("composed") / "scenes", SPEC)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's cache that is empty."""
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
