"""Results that people look at: overlays, label masks in colour, sheets of several pictures."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray[Any, Any]


def overlay(image: Array, heat: Array, strength: float = 0.55) -> Array:
    """Lay a class map over a picture in the colour map "turbo".

    Args:
        image: uint8 ``(H, W, 3)``.
        heat: float ``(h, w)`` in [0, 1]; enlarged bilinearly.
        strength: opacity of the map where it is 1; a map of 0 leaves the picture as it is.

    Returns:
        uint8 ``(H, W, 3)``.

    >>> overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((1, 1))).max()
    np.uint8(0)
    """
    size = (image.shape[1], image.shape[0])
    enlarged = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    level = (enlarged.clip(0, 1) * 255).round().astype(np.uint8)
    opacity = (strength * np.sqrt(np.arange(256) / 255)).astype(np.float32)[:, None]
    added = opacity * (mpl.colormaps["turbo"](np.arange(256))[:, :3] * 255).astype(np.float32)
    mixed: Array = (np.float32(1) - opacity)[level] * image
    mixed += added[level]
    return mixed.round().astype(np.uint8)


def class_colours(count: int) -> Array:
    """Distinct colours of ``count`` classes after black for the background, uint8 ``(count + 1, 3)``."""
    table = mpl.colormaps["tab10" if count <= 10 else "tab20"]
    colours = [table(i % table.N)[:3] for i in range(count)]
    scaled: Array = (np.array([(0, 0, 0), *colours]) * 255).round().astype(np.uint8)
    return scaled


def colour_mask(mask: Array, count: int) -> Array:
    """A label mask (0 background, 1..count, 255 ignored) in colour; ignored pixels are white."""
    colours = np.full((256, 3), 255, dtype=np.uint8)
    colours[: count + 1] = class_colours(count)
    coloured: Array = colours[mask.astype(np.uint8)]
    return coloured


def sheet(rows: Sequence[Sequence[Array]], header: Sequence[str] = (), cell: int = 144) -> Image.Image:
    """Pictures in rows and columns, with a title above each column; each keeps its shape.

    Args:
        rows: uint8 ``(H, W, 3)`` arrays; scaled to fit in cells that are as high as the most upright of them
            needs, up to twice their width.
        header: title of each column, or none.
        cell: width of a cell in pixels.
    """
    gap, top = 4, 22 if header else 0
    columns = max(len(row) for row in rows)
    high = round(cell * min(2.0, max(array.shape[0] / array.shape[1] for row in rows for array in row)))
    canvas = Image.new("RGB", (columns * (cell + gap) + gap, top + len(rows) * (high + gap) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for i, title in enumerate(header):
        draw.text((gap + i * (cell + gap), 4), title, fill="black", font=font)
    for y, row in enumerate(rows):
        for x, array in enumerate(row):
            scale = min(cell / array.shape[1], high / array.shape[0])
            size = (max(1, round(scale * array.shape[1])), max(1, round(scale * array.shape[0])))
            picture = Image.fromarray(array).resize(size, Image.Resampling.BILINEAR)
            left, above = (cell - size[0]) // 2, (high - size[1]) // 2
            canvas.paste(picture, (gap + x * (cell + gap) + left, top + gap + y * (high + gap) + above))
    return canvas


def mask_pairs(pairs: Sequence[tuple[Image.Image, Array]], count: int) -> Image.Image:
    """Pictures, each beside its label mask in colour, four pairs in a row.

    Args:
        pairs: pictures and masks, see :func:`colour_mask`.
        count: number of classes.
    """
    cells = []
    for picture, mask in pairs:
        for image in (picture, Image.fromarray(colour_mask(mask, count))):
            image.thumbnail((144, 288), Image.Resampling.NEAREST)
            cells.append(np.asarray(image))
    return sheet([cells[i : i + 8] for i in range(0, len(cells), 8)])


def caption(array: Array, text: str) -> Array:
    """The picture with a few words in its lower left corner."""
    image = Image.fromarray(array)
    draw = ImageDraw.Draw(image)
    draw.text(
        (3, image.height - 14), text, fill="white", font=ImageFont.load_default(11), stroke_width=1, stroke_fill="black"
    )
    captioned: Array = np.asarray(image)
    return captioned


def data_uri(image: Image.Image, quality: int = 88) -> str:
    """The picture as a JPEG inside a ``data:`` address, for a page that stands alone."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()


def to_uint8(image: Any) -> Array:
    """A float image ``(3, H, W)`` in [0, 1] as uint8 ``(H, W, 3)``."""
    array: Array = (image.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
    return array
