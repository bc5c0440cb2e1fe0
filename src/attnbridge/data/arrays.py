"""Files of numpy arrays: read without running code, and checked for how much they hold. Free of torch."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from attnbridge.errors import AttnBridgeError

Array = np.ndarray[Any, Any]
MOST_BYTES = 1 << 30
"""What the arrays of a file may hold, unpacked."""
BROKEN = (
    OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, ArithmeticError, MemoryError, RuntimeError,
    NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise for the bytes of a file."""


def read_arrays(path: Path, *names: str) -> dict[str, Array]:
    """Arrays of an ``.npz`` file; none of them may hold Python's objects, whose pickles run code.

    Args:
        path: of the file.
        names: of the arrays that it must hold.

    Raises:
        AttnBridgeError: for a file that is missing or broken, holds more than a gigabyte, objects, or lacks an array.
    """
    if not path.is_file():
        raise AttnBridgeError(f"{path}: {'is no regular file' if path.exists() else 'there is no such file'}")
    try:
        with zipfile.ZipFile(path) as packed:
            held = sum(packed.getinfo(f"{name}.npy").file_size for name in names)
            if held > MOST_BYTES:
                raise ValueError(f"it holds {held:,} bytes, more than {MOST_BYTES:,}")
            return {name: _read(packed, name) for name in names}
    except BROKEN as error:
        words = " ".join(f"{error}".split()) or type(error).__name__
        raise AttnBridgeError(f"{path}: cannot be read as arrays of numbers ({words}); make it again") from None


def _read(packed: zipfile.ZipFile, name: str) -> Array:
    with packed.open(f"{name}.npy") as handle:
        found: Array = np.lib.format.read_array(handle, allow_pickle=False)
        return found
