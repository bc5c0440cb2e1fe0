"""Image files: where they lie, and reading and checking them with clear errors. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from attnbridge.errors import AttnBridgeError, warn_once

ORIENTATION = 0x0112
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


Box = tuple[int, int, int, int, int]
"""Class, left, top, right, bottom in pixels; right and bottom are the first outside."""


@dataclass(frozen=True)
class ImageRecord:
    """Where one image lies and what is known of it; nothing is opened yet.

    Attributes:
        id: path relative to the dataset's root, with forward slashes.
        image: the image.
        classes: indices of the classes in it, from 0.
        saliency: its saliency map (8-bit grey), if any.
        mask: its label mask (0 background, 1..N, 255 ignored), if any.
        values: what each value stored in the mask means (``values[k]`` for k), if it is not the value itself; 255
            stays 255.
        boxes: in the place of a mask.
    """

    id: str
    image: Path
    classes: tuple[int, ...]
    saliency: Path | None = None
    mask: Path | None = None
    values: tuple[int, ...] | None = None
    boxes: tuple[Box, ...] | None = None


def class_balanced_order(records: Sequence[ImageRecord]) -> list[int]:
    """Places of single-label records in an order that takes one of each class, then another of each, and so on.

    >>> class_balanced_order([ImageRecord(str(i), Path("x"), (c,)) for i, c in enumerate((0, 0, 1))])
    [0, 2, 1]
    """
    seen: Counter[int] = Counter()
    order = []
    for place, record in enumerate(records):
        (label,) = record.classes
        order.append((seen[label], label, place))
        seen[label] += 1
    return [place for *_, place in sorted(order)]


def load_image(path: Path, mode: str = "RGB") -> Image.Image:
    """Decode an image completely, upright as its EXIF tag says.

    Args:
        path: the file.
        mode: PIL mode to convert to; ``"P"`` keeps palette indices as they are stored.

    Raises:
        AttnBridgeError: if the file is missing, not an image, or truncated.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image if mode == "P" else _converted(image, mode)
    except FileNotFoundError:
        raise AttnBridgeError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AttnBridgeError(
            f"{path}: cannot be read as an image ({error}); replace the file or take it out of the dataset"
        ) from None


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """To 8 bits: 16-bit grey is scaled, transparent pixels become white."""
    if image.mode.startswith("I"):
        values = np.asarray(image, np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values go from {values.min():.0f} to {values.max():.0f}, not from 0 to 65535")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise ValueError("it holds floating point numbers, whose range is not known")
    if mode == "RGB" and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def check_record(record: ImageRecord) -> None:
    """Open a record's files without decoding all of them; raise on what training would stumble over.

    A JPEG that lacks its end marker is decoded to make sure. Cost: about 0.1 ms a file.

    Raises:
        AttnBridgeError: for a corrupt or truncated image, or a saliency map or mask of another size.
    """
    size = image_size_of(record.image)
    if min(size) < 2:
        warn_once(f"{record.image}: is {_text(size)} pixels; is it an image?")
    for what, path in (("saliency map", record.saliency), ("mask", record.mask)):
        if path is not None and image_size_of(path) != size:
            raise AttnBridgeError(
                f"{path}: the {what} is {_text(image_size_of(path))} pixels, but its image {record.image} "
                f"is {_text(size)}; make them the same size"
            )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def image_size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image as :func:`load_image` gives it, from its header.

    A JPEG or PNG that lacks its end marker is decoded to make sure.

    Raises:
        AttnBridgeError: if the file is missing, not an image, or truncated.
    """
    try:
        with path.open("rb") as handle:
            handle.seek(0, 2)
            length = handle.tell()
            handle.seek(max(0, length - 64))
            tail = handle.read()
            handle.seek(0)
            with Image.open(handle) as image:
                size, kind = image.size, image.format
                if image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):  # lies on its side
                    size = size[1], size[0]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        load_image(path)
        raise AttnBridgeError(f"{path}: cannot be read as an image") from None
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if marker is not None and marker not in tail:
        load_image(path)
    return size
