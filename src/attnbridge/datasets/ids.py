"""Names that lists can hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attnbridge.errors import AttnBridgeError


def plain_id(path: str) -> str:
    """The name of an image in lists: no suffix, folders joined by two underscores, no white space.

    VOC's lists hold one word a line, so a name must be one word.

    >>> plain_id("street 1/photo 07.final.JPG")
    'street_1__photo_07.final'
    """
    stem = Path(path).with_suffix("").as_posix()
    return "_".join(stem.replace("/", "__").split())


def plain_ids(paths: Iterable[str], where: Path) -> dict[str, str]:
    """The names of several images, by path.

    Raises:
        AttnBridgeError: if two images would have the same.
    """
    owner: dict[str, str] = {}
    for path in paths:
        other = owner.setdefault(plain_id(path), path)
        if other != path:
            raise AttnBridgeError(f"{where}: {other!r} and {path!r} would have the same name in lists; rename one")
    return {path: name for name, path in owner.items()}
