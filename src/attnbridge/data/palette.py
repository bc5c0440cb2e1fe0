"""Label masks as palette PNGs in PASCAL VOC's colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def palette_png(mask: np.ndarray[Any, Any]) -> Image.Image:
    """A label mask (uint8) as a palette PNG in PASCAL VOC's colours, so that viewers show it."""
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette([v for colour in voc_palette() for v in colour])
    return image


def voc_palette(count: int = 256) -> list[tuple[int, int, int]]:
    """PASCAL VOC's colour of each mask value.

    >>> voc_palette()[:3]
    [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    """
    colours = []
    for value in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((value >> (3 * bit + channel)) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours
