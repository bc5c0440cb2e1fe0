"""Variables of MATLAB's files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from attnbridge.errors import AttnBridgeError

MOST_BYTES = 1 << 28
"""What a file may hold, unpacked."""
COMPRESSED = 15
"""The type of a variable that is packed."""


def load_variable(path: Path, name: str) -> Any:
    """A variable of a MATLAB file.

    Raises:
        AttnBridgeError: for a file that is missing or broken, holds more than :data:`MOST_BYTES`, or lacks the
            variable.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise AttnBridgeError(
            f"{path}: {'is no regular file' if path.exists() else 'no such file'}; unpack the set again"
        )
    try:
        _check_size(path)
        found = loadmat(path, variable_names=[name])
    except Exception as error:  # SciPy raises whatever the bytes lead it to
        raise AttnBridgeError(f"{path}: cannot be read as a MATLAB file ({error}); unpack the set again") from None
    if name not in found:
        raise AttnBridgeError(f"{path}: has no variable {name!r}; unpack the set again")
    return found[name]


def _check_size(path: Path) -> None:
    """Raise ValueError for packed variables that unpack to more than may be; what is broken is left to SciPy."""
    data, place, held = path.read_bytes(), 128, 0
    order = "<" if data[126:128] == b"IM" else ">"
    while place + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place)
        if kind != COMPRESSED:
            held, place = held + length, place + 8 + length
            continue
        unpacker, rest = zlib.decompressobj(), data[place + 8 : place + 8 + length]
        while rest and held <= MOST_BYTES:
            held += len(unpacker.decompress(rest, 1 << 20))
            rest = unpacker.unconsumed_tail
        place += 8 + length
    if held > MOST_BYTES:
        raise ValueError(f"it holds more than {MOST_BYTES:,} bytes")
