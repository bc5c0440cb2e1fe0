"""Data that the tests make: drawn shapes, composed into small scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnbridge.datasets.synthetic.scenes import SceneSpec, compose
from attnbridge.datasets.synthetic.shapes import prepare_shapes

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


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNBRIDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def two_colours(root: Path, counts: dict[str, int], side: int) -> Path:
    """Class folders of two classes that differ in their colour, so many images of each in each split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for number, name in enumerate(("blue", "red")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 90, (side, side, 3), np.uint8)
                image[..., 2 - 2 * number] += 120
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of images, to train and to test on."""
    return two_colours(tmp_path_factory.mktemp("images"), {"train": 10, "test": 4}, 32)


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a folder `val` in the place of `test`."""
    return two_colours(tmp_path_factory.mktemp("classes"), {"train": 12, "val": 4}, 40)
