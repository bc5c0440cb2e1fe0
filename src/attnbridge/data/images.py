"""Image files: where they lie, and reading and checking them with clear errors. Free of torch."""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from attnbridge.bounds import Count, check_value
from attnbridge.data.tags import check_exif, check_header
from attnbridge.errors import AttnBridgeError, check_choice, shown, warn_once

ORIENTATION = 0x0112
MODES = ("RGB", "L", "P", "RGBA", "1")
"""Pillow's modes that images are read in."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What an image may be, whatever its name says. None of them starts a program, as EPS does; of several frames the first
is read."""
PIXELS_VARIABLE, MOST_PIXELS = "ATTNBRIDGE_MAX_PIXELS", 100_000_000
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError,
    RuntimeError, MemoryError, BufferError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow and its decoders raise for the bytes of a file."""
BAND = 1 << 24
"""Pixels that are converted at once."""


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
        difficult: indices of the classes that are in it only as objects marked difficult: neither there nor absent.
    """

    id: str
    image: Path
    classes: tuple[int, ...]
    saliency: Path | None = None
    mask: Path | None = None
    values: tuple[int, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    difficult: tuple[int, ...] = ()


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


def most_pixels() -> int:
    """How many pixels an image may have: 100 million, or ``$ATTNBRIDGE_MAX_PIXELS``.

    Raises:
        AttnBridgeError: for a value that is no whole number above 0.
    """
    text = os.environ.get(PIXELS_VARIABLE, str(MOST_PIXELS))
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise AttnBridgeError(f"{PIXELS_VARIABLE} must be a whole number of pixels above 0, not {text!r}")
    return int(text)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image file, its header read and its size checked, its pixels not yet decoded.

    Only a regular file of one of :data:`FORMATS` is opened. What Pillow raises inside is told with the file's name.

    Raises:
        AttnBridgeError: if the file is missing, no regular file, no image, broken, or larger than :func:`most_pixels`.
    """
    most = most_pixels()
    if not _is_file(path):
        raise AttnBridgeError(f"{path}: {_why_no_file(path)}")
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most  # Pillow warns above it
    try:
        with path.open("rb") as handle:
            check_header(handle, most)
            with Image.open(handle, formats=FORMATS) as image:
                if image.width * image.height > most:
                    raise Image.DecompressionBombError(f"{_text(image.size)} pixels")
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise AttnBridgeError(
            f"{path}: is larger than the {most:,} pixels that an image may have ({error}); make it smaller, or allow "
            f"more with {PIXELS_VARIABLE}"
        ) from None
    except BROKEN as error:
        words = f"it is none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else f"{error}"
        words = words or type(error).__name__
        raise AttnBridgeError(
            f"{path}: cannot be read as an image ({words}); replace the file or take it out of the dataset"
        ) from None


def _why_no_file(path: Path) -> str:
    if not os.path.lexists(path):
        return "no such image"
    if path.is_symlink() and not path.exists():
        return f"is a link to {shown(str(path.readlink()))}, where nothing is; mend it, or take it out of the dataset"
    return "is no regular file"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def load_image(path: Path, mode: str = "RGB", least: int | None = None) -> Image.Image:
    """Decode an image completely, upright as its EXIF tag says.

    Args:
        path: the file.
        mode: PIL mode to convert to, one of :data:`MODES`; ``"P"`` keeps palette indices as they are stored.
        least: pixels of the shorter side that are enough, for an image that is only looked at: it is given at a half, a
            quarter or an eighth, as long as it keeps so many. A JPEG is decoded at that scale, without the memory of
            the whole. Palette indices are whole.

    Raises:
        AttnBridgeError: see :func:`open_image`; for a truncated one, values that are not those of an image, or a mode
            that is none.
    """
    check_choice("mode", mode, MODES)
    if not isinstance(path, str | os.PathLike):
        raise AttnBridgeError(f"path must be a file's, not {shown(path)}")
    if least is not None:
        check_value("least", least, Count)
    with open_image(Path(path)) as image:
        scale = next((s for s in (8, 4, 2) if least and mode != "P" and min(image.size) >= s * least), 1)
        if image.format == "JPEG" and scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
            scale = 1
        image.load()
        orientation(image)
        ImageOps.exif_transpose(image, in_place=True)
        whole = image if mode == "P" else _converted(image, mode)
        return whole.reduce(scale) if scale > 1 else whole


def orientation(image: Image.Image) -> int:
    """Which way up an opened image lies, as its EXIF tag says; 1 for upright, as Pillow gives every TIFF."""
    if image.format == "TIFF":
        return 1
    if image.format == "PNG":
        image.load()  # its tags may follow its pixels
    raw = image.info.get("Raw profile type exif")
    if isinstance(raw, str):
        check_exif(bytes.fromhex("".join(raw.split("\n")[3:])))
    if isinstance(image.info.get("exif"), bytes):
        check_exif(image.info["exif"])
    turn = image.getexif().get(ORIENTATION, 1)
    return turn if isinstance(turn, int) else 1


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """To 8 bits, in bands, so that a large image takes little more than itself."""
    rows = max(1, BAND // image.width)
    if image.height <= rows or (image.mode == mode and "transparency" not in image.info):
        return _converted_band(image, mode)
    whole = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_converted_band(band, mode), (0, top))
    return whole


def _converted_band(image: Image.Image, mode: str) -> Image.Image:
    """16-bit grey is scaled, transparent pixels become white."""
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


def is_whole(path: Path) -> bool:
    """Whether a file is an image to its end, see :func:`image_size_of`."""
    try:
        return min(image_size_of(path)) > 0
    except AttnBridgeError:
        return False


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def image_size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image as :func:`load_image` gives it, from its header.

    A JPEG or PNG that lacks its end marker is decoded to make sure.

    Raises:
        AttnBridgeError: see :func:`load_image`.
    """
    with open_image(path) as image:
        size, marker = image.size, {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image.format or "")
        if orientation(image) in (5, 6, 7, 8):  # lies on its side
            size = size[1], size[0]
    if marker is not None and marker not in _tail(path):
        load_image(path)
    return size


def _tail(path: Path) -> bytes:
    """The end of a file."""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 64))
        return handle.read()
