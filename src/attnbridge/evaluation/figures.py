"""Results that people look at: overlays, label masks in colour, sheets of several images."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attnbridge.bounds import Count, UpToOne, check_names, check_number
from attnbridge.data.files import given_path
from attnbridge.data.images import BAND
from attnbridge.data.provenance import own_file
from attnbridge.errors import AttnBridgeError, shown
from attnbridge.evaluation.colours import TEN, TURBO, TWENTY

Array = np.ndarray[Any, Any]
NUMBERS = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
"""NumPy's codes of the types of real numbers."""
ROUNDING = 1e-3
"""By how much a map may leave [0, 1]."""


def overlay(image: Array, heat: Array, strength: float = 0.55) -> Array:
    """Lay a class map over an image in the colour map "turbo".

    Args:
        image: uint8 ``(H, W, 3)``.
        heat: float ``(h, w)`` in [0, 1]; enlarged bilinearly.
        strength: opacity of the map where it is 1; a map of 0 leaves the image as it is.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        AttnBridgeError: for arrays of other types or shapes, a map that is not in [0, 1], or such a strength.

    >>> overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((1, 1))).max()
    np.uint8(0)
    """
    _check_array("image", image, "uint8 (H, W, 3)", "B", (None, None, 3))
    _check_array("heat", heat, "float (h, w)", NUMBERS, (None, None))
    check_number("strength", strength, UpToOne)
    if not (heat.min() >= -ROUNDING and heat.max() <= 1 + ROUNDING):
        raise AttnBridgeError(
            f"heat must be in [0, 1], but goes from {heat.min()} to {heat.max()}; divide it by its maximum"
        )
    size = (image.shape[1], image.shape[0])
    enlarged = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    opacity = (strength * np.sqrt(np.arange(256) / 255)).astype(np.float32)[:, None]
    added = opacity * TURBO.astype(np.float32)
    laid = np.empty_like(image)
    rows = max(1, BAND // 16 // image.shape[1])
    for top in range(0, len(image), rows):  # floats of a whole large image would take gigabytes
        band = slice(top, min(top + rows, len(image)))
        heats = np.asarray(enlarged.crop((0, band.start, image.shape[1], band.stop)))
        level = (heats.clip(0, 1) * 255).round().astype(np.uint8)
        mixed: Array = (np.float32(1) - opacity)[level] * image[band]
        mixed += added[level]
        laid[band] = mixed.round().astype(np.uint8)
    return laid


def _check_array(name: str, value: Any, expected: str, types: str, shape: tuple[int | None, ...]) -> None:
    """Raise unless a value is an array of types, as NumPy's codes, and of a shape, ``None`` standing for any size."""
    came = f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "dtype") else shown(value)
    if not isinstance(value, np.ndarray):
        raise AttnBridgeError(f"{name} must be a numpy array, {expected}, not a {type(value).__name__}, {came}")
    sizes_fit = value.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, value.shape, strict=True))
    if not sizes_fit or not value.size or value.dtype.char not in types:
        raise AttnBridgeError(f"{name} must be {expected}, but is {came}")


def class_colours(count: int) -> Array:
    """Distinct colours of ``count`` classes after black for the background, uint8 ``(count + 1, 3)``."""
    table = TEN if count <= 10 else TWENTY
    return np.array([(0, 0, 0), *(table[i % len(table)] for i in range(count))], np.uint8)


def colour_mask(mask: Array, count: int) -> Array:
    """A label mask (0 background, 1..count, 255 ignored) in colour; ignored pixels are white."""
    colours = np.full((256, 3), 255, dtype=np.uint8)
    colours[: count + 1] = class_colours(count)
    coloured: Array = colours[mask.astype(np.uint8)]
    return coloured


def sheet(rows: Sequence[Sequence[Array]], header: Sequence[str] = (), cell: int = 144) -> Image.Image:
    """Images in rows and columns, with a title above each column; each keeps its shape.

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
    font = _font(13)
    for i, title in enumerate(header):
        draw.text((gap + i * (cell + gap), 4), title, fill="black", font=font)
    for y, row in enumerate(rows):
        for x, array in enumerate(row):
            scale = min(cell / array.shape[1], high / array.shape[0])
            size = (max(1, round(scale * array.shape[1])), max(1, round(scale * array.shape[0])))
            image = Image.fromarray(array).resize(size, Image.Resampling.BILINEAR)
            left, above = (cell - size[0]) // 2, (high - size[1]) // 2
            canvas.paste(image, (gap + x * (cell + gap) + left, top + gap + y * (high + gap) + above))
    return canvas


def mask_pairs(pairs: Sequence[tuple[Image.Image, Array]], count: int) -> Image.Image:
    """Images, each beside its label mask in colour, four pairs in a row.

    Args:
        pairs: images and masks, see :func:`colour_mask`.
        count: number of classes.
    """
    cells = []
    for photo, mask in pairs:
        for image in (photo, Image.fromarray(colour_mask(mask, count))):
            image.thumbnail((144, 288), Image.Resampling.NEAREST)
            cells.append(np.asarray(image))
    return sheet([cells[i : i + 8] for i in range(0, len(cells), 8)])


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def caption(array: Array, text: str) -> Array:
    """The image with a few words in its lower left corner."""
    image = Image.fromarray(array)
    draw = ImageDraw.Draw(image)
    draw.text((3, image.height - 14), text, fill="white", font=_font(11), stroke_width=1, stroke_fill="black")
    captioned: Array = np.asarray(image)
    return captioned


def data_uri(image: Image.Image, quality: int = 88) -> str:
    """The image as a JPEG inside a ``data:`` address, for a page that stands alone."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()


def to_uint8(image: Any) -> Array:
    """A float image ``(3, H, W)`` in [0, 1] as uint8 ``(H, W, 3)``."""
    array: Array = (image.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
    return array


def show(
    images: Any, maps: Any, path: Path | str | None = None, names: Sequence[str] = (), cell: int = 192
) -> Image.Image:
    """Images, each beside its maps laid over it, to look at in a notebook or as a file.

    Args:
        images: float ``(B, 3, H, W)`` in [0, 1], as they were before any normalisation.
        maps: ``(B, K, h, w)``, as :func:`attnbridge.explain` gives them; each to its own maximum, negative as 0.
        path: a file to write too; its suffix says the format.
        names: a title of each of the K maps.
        cell: width of an image in pixels.

    Returns:
        The sheet, a row for each image; a notebook shows it as the value of a cell.

    Raises:
        AttnBridgeError: for other shapes, images that are not in [0, 1], maps that are not finite, or a file that
            cannot be written.

    >>> import torch
    >>> show(torch.rand(2, 3, 32, 32), torch.rand(2, 1, 4, 4)).size
    (396, 396)
    """
    from attnbridge.arguments import check_tensors

    check_number("cell", cell, Count)
    check_tensors(images=(images, "B 3 H W"))
    check_tensors(maps=(maps, f"{len(images)} K h w"))  # on whichever device
    if len(check_names("names", names)) not in (0, maps.shape[1]):
        raise AttnBridgeError(f"names must be {maps.shape[1]}, one for each map of an image, not {shown(names)}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise AttnBridgeError("show takes images in [0, 1]; give them as they were before they were normalised")
    if not maps.isfinite().all():
        raise AttnBridgeError("maps must be finite, but hold NaN or infinity")
    place = None if path is None else given_path(path, "show: path")
    kind = Image.registered_extensions().get(place.suffix.lower()) if place else None
    if place and kind not in Image.SAVE:
        raise AttnBridgeError(f"{place}: its suffix is of no image format that can be written; take .png or .jpg")
    rows = []
    for image, own in zip(images, maps, strict=True):
        plain, heats = to_uint8(image.float()), own.detach().float().clamp_min(0).cpu().numpy()
        rows.append([plain, *(overlay(plain, heat / max(float(heat.max()), 1e-8)) for heat in heats)])
    drawn = sheet(rows, ["image", *names] if names else (), cell)
    if place is not None:
        with own_file(place) as partial:
            drawn.save(partial, kind)
    return drawn
