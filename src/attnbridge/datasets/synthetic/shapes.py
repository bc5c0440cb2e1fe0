"""Drawn cut-outs and textured backgrounds, for platforms without apt and for tests: no download at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles

SHAPES = ("cross", "disc", "moon", "ring", "square", "star", "triangle", "zigzag")


def prepare_shapes(
    folder: Path, cutouts: int = 18, places: int = 12, size: int = 160, seed: int = 0
) -> tuple[Path, Path]:
    """Draw cut-outs of eight shapes and textured backgrounds into ``folder``.

    Args:
        folder: where to write ``cutouts/SHAPE/*.png`` (RGBA) and ``places/*.png``.
        cutouts: how many of each shape; each has its own colours, texture and proportions.
        places: how many backgrounds.
        size: side of a cut-out in pixels; backgrounds are twice as large.
        seed: of everything drawn.

    Returns:
        The folder of cut-outs and the folder of backgrounds.

    Raises:
        AttnBridgeError: if there are files of the user's under their names.
    """
    with owned(folder) as own:
        drawn = [folder / "cutouts" / shape / f"{i:02d}.png" for shape in SHAPES for i in range(cutouts)]
        grounds = [folder / "places" / f"{i:02d}.png" for i in range(places)]
        own.check([*drawn, *grounds])
        own.check_unchanged([*drawn, *grounds])
        for number, shape in enumerate(SHAPES):
            rng = np.random.default_rng([seed, number])
            for path in drawn[number * cutouts : (number + 1) * cutouts]:
                _save(_cutout(shape, size, rng), path, own)
        rng = np.random.default_rng([seed, 99])
        for i, path in enumerate(grounds):
            _save(Image.fromarray(_texture(2 * size, i, rng)), path, own)
    return folder / "cutouts", folder / "places"


def _save(image: Image.Image, path: Path, own: OwnFiles) -> None:
    with own.writing(path) as partial:
        image.save(partial, "PNG")


def _cutout(shape: str, size: int, rng: np.random.Generator) -> Image.Image:
    """One shape, filled with two-coloured stripes, spots or a gradient, squeezed a little."""
    fill = Image.fromarray(_texture(size, int(rng.integers(3)), rng))
    scale = 4  # drawn large and shrunk, for smooth edges
    mask = Image.new("L", (size * scale, size * scale))
    _draw(ImageDraw.Draw(mask), shape, size * scale)
    mask = mask.resize((size, size), Image.Resampling.LANCZOS)
    fill.putalpha(mask)
    width = round(size * rng.uniform(0.7, 1.0))
    return fill.resize((width, size), Image.Resampling.LANCZOS)


def _draw(draw: ImageDraw.ImageDraw, shape: str, s: int) -> None:
    def polygon(*points: tuple[float, float]) -> None:
        draw.polygon([(x * s, y * s) for x, y in points], fill=255)

    if shape == "disc":
        draw.ellipse((0.05 * s, 0.05 * s, 0.95 * s, 0.95 * s), fill=255)
    elif shape == "ring":
        draw.ellipse((0.05 * s, 0.05 * s, 0.95 * s, 0.95 * s), fill=255)
        draw.ellipse((0.3 * s, 0.3 * s, 0.7 * s, 0.7 * s), fill=0)
    elif shape == "moon":
        draw.ellipse((0.05 * s, 0.05 * s, 0.95 * s, 0.95 * s), fill=255)
        draw.ellipse((0.35 * s, 0.0, 1.15 * s, 0.8 * s), fill=0)
    elif shape == "square":
        polygon((0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92))
    elif shape == "triangle":
        polygon((0.5, 0.05), (0.97, 0.93), (0.03, 0.93))
    elif shape == "cross":
        draw.rectangle((0.35 * s, 0.03 * s, 0.65 * s, 0.97 * s), fill=255)
        draw.rectangle((0.03 * s, 0.35 * s, 0.97 * s, 0.65 * s), fill=255)
    elif shape == "star":
        radii = [0.5 if i % 2 == 0 else 0.2 for i in range(10)]
        angles = [math.pi * i / 5 - math.pi / 2 for i in range(10)]
        polygon(*[(0.5 + r * math.cos(a), 0.5 + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])
    else:  # zigzag
        polygon(
            (0.05, 0.35),
            (0.35, 0.05),
            (0.6, 0.4),
            (0.95, 0.1),
            (0.95, 0.5),
            (0.6, 0.9),
            (0.35, 0.5),
            (0.05, 0.85),
        )


def _texture(size: int, kind: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """A two-coloured texture, uint8 (size, size, 3): stripes, spots, gradient or clouds, by ``kind``."""
    low, high = rng.integers(0, 256, (2, 3)).astype(float)
    y, x = np.mgrid[0:size, 0:size] / size
    angle, frequency = rng.uniform(0, math.pi), rng.uniform(4, 12)
    along = x * math.cos(angle) + y * math.sin(angle)
    if kind % 4 == 0:
        value = 0.5 + 0.5 * np.sin(2 * math.pi * frequency * along)
    elif kind % 4 == 1:
        across = y * math.cos(angle) - x * math.sin(angle)
        waves = np.sin(2 * math.pi * frequency * along) * np.sin(2 * math.pi * frequency * across)
        value = (waves > 0.2).astype(float)
    elif kind % 4 == 2:
        value = (along - along.min()) / np.ptp(along)
    else:
        coarse = Image.fromarray(rng.integers(0, 256, (7, 7), dtype=np.uint8))
        value = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 255.0
    noise = rng.normal(0, 6, (size, size, 1))
    texture: np.ndarray[Any, Any] = np.clip(low + value[..., None] * (high - low) + noise, 0, 255)
    return texture.astype(np.uint8)
