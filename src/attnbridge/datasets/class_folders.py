"""What the readers of single-label sets share: finding the folder, choosing the classes, going through the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbridge.data.folders import list_images
from attnbridge.datasets import resolve_split
from attnbridge.datasets.layouts import LabelledImage, read_mapping
from attnbridge.errors import AttnBridgeError


@dataclass(frozen=True)
class Labelled:
    """Images of one of a set's own labels.

    Attributes:
        label: the set's name for what they show.
        images: the images, or the folder in which they lie.
        prefix: begins their names, unless they begin with it already; empty for none.
    """

    label: str
    images: Path | Sequence[Path]
    prefix: str = ""


def find_root(root: Path, inside: Sequence[str], is_it: Callable[[Path], bool], expected: str) -> Path:
    """The first folder of ``inside``, paths below ``root``, that is what is looked for.

    Raises:
        AttnBridgeError: if there is none; the message says what was ``expected``.
    """
    if not root.is_dir():
        raise AttnBridgeError(f"{root}: no such folder; expected {expected}")
    for part in inside:
        if (root / part).is_dir() and is_it(root / part):
            return root / part
    raise AttnBridgeError(f"{root}: expected {expected}; give the folder that holds it")


def load_class_mapping(name: str, split: str, classes: str | None) -> dict[str, str] | None:
    """The mapping of the package from a set's labels to classes, or ``None`` for the set's own.

    Raises:
        AttnBridgeError: for a split or a mapping that the set does not have.
    """
    resolve_split(name, split, classes)
    return read_mapping(f"{name}_{classes}") if classes else None


def list_folders(folder: Path) -> list[Path]:
    """All folders directly in ``folder``, sorted by name; hidden ones are passed over."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def class_folder_images(
    root: Path, found: Sequence[Labelled], mapping: dict[str, str] | None, own: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Iterator[LabelledImage]]:
    """The classes and the images of a set.

    Args:
        root: named in errors.
        found: the images by label, in the order in which they shall come.
        mapping: of labels to classes; labels that it does not name are left out. ``None``: the labels are the classes.
        own: the set's own labels, if there are more of them than those found.

    Raises:
        AttnBridgeError: if no label is left, or, at the end, if there was no image.
    """
    kept = [one for one in found if mapping is None or one.label in mapping]
    if not kept:
        wanted = (
            "" if mapping is None else f" of the {len(mapping)} that have a class: {', '.join(list(mapping)[:5])}, ..."
        )
        raise AttnBridgeError(f"{root}: holds no class folder{wanted}")
    names = mapping.values() if mapping is not None else own or [one.label for one in found]
    return tuple(sorted(set(names))), _images(root, kept, mapping)


def _images(root: Path, kept: Sequence[Labelled], mapping: dict[str, str] | None) -> Iterator[LabelledImage]:
    number = 0
    for one in kept:
        label = one.label if mapping is None else mapping[one.label]
        for image in list_images(one.images) if isinstance(one.images, Path) else one.images:
            bare = not one.prefix or image.stem.startswith(f"{one.prefix}_")
            yield LabelledImage(label, image, image.stem if bare else f"{one.prefix}_{image.stem}")
            number += 1
    if not number:
        raise AttnBridgeError(f"{root}: its folders hold no image; is the download complete?")
