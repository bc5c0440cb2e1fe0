"""Tags of TIFF and Exif, looked at before Pillow reads them all: many may stand for the same bytes. Free of torch."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each of TIFF's types."""
NUMBERS = {1: "B", 3: "H", 4: "L", 16: "Q"}
"""Types of whole numbers, as :mod:`struct` writes them."""
TILE = (0x0142, 0x0143)
"""A tile's width and height."""
EXIF, APP1, START_OF_SCAN = b"Exif\0\0", 0xE1, 0xDA
SLACK = 1 << 20
"""So many bytes may tags hold more than there are."""


def check_header(handle: BinaryIO, most: int) -> None:
    """Check the tags of a TIFF, or the Exif of a JPEG; other files pass. The handle is at its beginning afterwards.

    Args:
        handle: of the file.
        most: pixels that an image may have.

    Raises:
        ValueError: if the tags stand for more bytes than there are, or a tile is larger than an image may be.
    """
    handle.seek(0)
    head = handle.read(4)
    if head[:2] in (b"II", b"MM"):
        _check_tags(handle, most)
    elif head[:2] == b"\xff\xd8":
        check_exif(_jpeg_exif(handle))
    handle.seek(0)


def check_exif(data: bytes) -> None:
    """The same for the Exif of an image."""
    while data.startswith(EXIF):
        data = data[len(EXIF) :]
    if data[:2] in (b"II", b"MM"):
        _check_tags(io.BytesIO(data), len(data))


def _check_tags(handle: BinaryIO, most: int) -> None:
    """The tags of the first directory, as Pillow finds them; what is no directory is left to it."""
    length = handle.seek(0, 2)
    handle.seek(0)
    head = handle.read(16)
    order, big = "<" if head[:2] == b"II" else ">", head[2:3] == b"\x2b"
    try:
        (place,) = struct.unpack(order + "Q", head[8:16]) if big else struct.unpack(order + "L", head[4:8])
        handle.seek(place)
        (count,) = struct.unpack(order + "Q", handle.read(8)) if big else struct.unpack(order + "H", handle.read(2))
    except (struct.error, OSError, OverflowError):
        return
    entry = struct.Struct(order + ("HHQ8s" if big else "HHL4s"))
    table = handle.read(min(count * entry.size, length))
    held = 0
    sides: list[int] = []
    for tag, kind, number, value in entry.iter_unpack(table[: len(table) // entry.size * entry.size]):
        held += SIZES.get(kind, 0) * number
        if tag in TILE and kind in NUMBERS and number == 1:
            sides += struct.unpack_from(order + NUMBERS[kind], value)
    if held > length + SLACK:
        raise ValueError(f"its tags stand for {held:,} bytes, but there are {length:,}")
    if len(sides) > 1 and sides[0] * sides[1] > most:
        raise ValueError(f"its tiles are {sides[0]}x{sides[1]} pixels, more than {most:,}")


def _jpeg_exif(handle: BinaryIO) -> bytes:
    """All Exif before a JPEG's pixels, in one piece, as Pillow puts it together."""
    handle.seek(2)
    found: list[bytes] = []
    while True:
        mark = handle.read(2)
        if len(mark) < 2 or mark == bytes((0xFF, START_OF_SCAN)):
            return b"\n".join(found)
        if mark[0] != 0xFF or mark[1] in (0x00, 0xFF):  # junk between segments
            handle.seek(-1, 1)
            continue
        size = handle.read(2)
        data = handle.read(6) if mark[1] == APP1 else b""
        rest = int.from_bytes(size, "big") - 2 - len(data)
        if data == EXIF:
            found.append((data if not found else b"") + handle.read(max(rest, 0)))
        else:
            handle.seek(max(rest, 0), 1)
