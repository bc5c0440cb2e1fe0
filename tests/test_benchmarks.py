"""The commands behind figures in the docs, on little: they run, check what they compare, and print their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import explain_folder, maps


@pytest.mark.slow
def test_maps_of_all_peers_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    for library in maps.MODULES.values():
        pytest.importorskip(library)
    maps.main(["--quick"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    cells = {(model.strip(), count.strip(), name.strip()) for model, _, count, name, *_ in rows}
    few = [(model, "1", name) for model in maps.QUICK for name in maps.MAKERS]
    assert cells >= {*few, ("resnet18", "3", "attnbridge"), ("vit_tiny_patch16_224", "3", "torch-cam")}


@pytest.mark.slow
def test_a_folder_is_explained_beside_the_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    explain_folder.main(["--images", "3", "--turns", "1", "--batch", "2", "--model", "resnet10t", "--weights", "none"])
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["", "plain loop", "plain loop, PNGs as ours", "attnbridge explain"]


def test_made_images_are_as_large_as_photographs(tmp_path: Path) -> None:
    (path,) = explain_folder.make_images(tmp_path, 1).iterdir()
    assert 40_000 < path.stat().st_size < 150_000
    assert np.asarray(Image.open(path)).shape == (375, 500, 3)
