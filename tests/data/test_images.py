"""Images that are only looked at are given at a half, a quarter or an eighth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbridge.data.images import load_image


def waves(size: tuple[int, int]) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 9, size[1]))
    return Image.fromarray((127 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], 2)).astype(np.uint8))


@pytest.mark.parametrize(("least", "size"), [(None, (320, 256)), (129, (320, 256)), (100, (160, 128)), (32, (40, 32))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_as_much_is_decoded_as_is_enough(kind: str, least: int | None, size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "a"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    waves((320, 256)).save(path, kind, quality=95, exif=exif)
    found = load_image(path, least=least)
    assert found.size == size[::-1]
    scale = 320 // size[0]
    wanted = np.asarray(waves((320, 256)).rotate(-90, expand=True)).reshape(size[0], scale, size[1], scale, 3)
    assert np.abs(np.asarray(found, np.float64) - wanted.mean((1, 3))).mean() < 2


def test_palette_indices_are_whole(tmp_path: Path) -> None:
    mask = Image.new("P", (64, 64), 3)
    mask.putpalette([0] * 768)
    mask.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", "P", least=8).size == (64, 64)
