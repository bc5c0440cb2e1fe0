"""Label masks as files: 8 bits a pixel, 0 background, 1..N the classes, 255 ignored. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from attnbridge.data.images import ImageRecord, load_image
from attnbridge.data.palette import voc_palette
from attnbridge.errors import AttnBridgeError

IGNORED = 255
JPEG = b"\xff\xd8\xff"


def load_mask(path: Path) -> Image.Image:
    """A label mask as it is stored, of mode P or L: its values are the labels.

    Raises:
        AttnBridgeError: see :func:`~attnbridge.data.images.load_image`; for a JPEG, whose values are not those that
            were drawn, and for colours, 16 bits, or black and white.
    """
    image = load_image(path, "P")
    with path.open("rb") as handle:
        if handle.read(3) == JPEG:
            raise AttnBridgeError(f"{path}: is a JPEG, which changes a mask's values; save it as PNG from its source")
    if image.mode not in ("P", "L"):
        raise AttnBridgeError(
            f"{path}: is of mode {image.mode}; expected 8-bit class indices (P or L): 0 background, 1 the first class"
        )
    return image


def held_values(path: Path, mask: Image.Image, largest: int) -> list[int]:
    """The values that a mask holds, in rising order.

    Args:
        path: where it was read, for the message.
        mask: of :func:`load_mask`.
        largest: value of a class.

    Raises:
        AttnBridgeError: for a value above the classes that is not 255.
    """
    values = [value for value, count in enumerate(mask.histogram()[:256]) if count]
    wrong = [value for value in values if largest < value != IGNORED]
    if wrong:
        raise AttnBridgeError(f"{path}: holds the value {max(wrong)}; expected 0 to {largest} or 255")
    return values


@dataclass(frozen=True)
class MaskLook:
    """What a mask shows.

    Attributes:
        shown: indices of the classes.
        void: whether every pixel is ignored.
        doubts: what is suspicious, by its kind; each names the file.
    """

    shown: frozenset[int]
    void: bool
    doubts: dict[str, str]


def examine_mask(record: ImageRecord, classes: Sequence[str]) -> MaskLook:
    """Look at every value of a record's mask.

    Raises:
        AttnBridgeError: see :func:`load_mask`; for a value above the classes that is not 255.
    """
    assert record.mask is not None
    path, mask = record.mask, load_mask(record.mask)
    values = held_values(path, mask, len(record.values) - 1 if record.values else len(classes))
    meant = [record.values[v] if record.values and v != IGNORED else v for v in values]
    shown, void = frozenset(v - 1 for v in meant if v not in (0, IGNORED)), values == [IGNORED]
    doubts = {}
    for kind, odd in (("in the mask, but not in the labels", shown - {*record.classes}),
                      ("in the labels, but not in the mask", {*record.classes} - shown)):  # fmt: skip
        if odd and not void:
            doubts[kind] = f"{path}: {', '.join(classes[c] for c in sorted(odd))} {kind}"
    if void:
        doubts["void"] = f"{path}: every pixel is 255 (ignored), so nothing of it counts"
    if not _usual_colours(mask, values):
        doubts["colours"] = (
            f"{path}: its palette is neither VOC's nor grey; its values, not its colours, are taken for the classes"
        )
    return MaskLook(shown, void, doubts)


def _usual_colours(mask: Image.Image, values: Sequence[int]) -> bool:
    palette = mask.getpalette("RGB") if mask.mode == "P" else None
    if palette is None:
        return True
    usual = voc_palette()
    return all(tuple(palette[3 * v : 3 * v + 3]) in (usual[v], (v, v, v)) for v in values)
