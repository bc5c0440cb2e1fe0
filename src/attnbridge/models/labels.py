"""Names of the classes of a network: from a file, from a checkpoint, ImageNet's, or numbers. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnbridge.data.text import read_json, read_lines
from attnbridge.errors import AttnBridgeError, shown

LISTS = ("classes", "class_names", "idx_to_class", "id2label", "class_to_idx", "label2id", "label_names")
"""Where checkpoints and configurations keep the names of classes."""
INSIDE = ("hyper_parameters", "config", "meta")
"""Where in a checkpoint these may lie."""


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of classes, in index order, from a file of the user's.

    Args:
        path: one name a line; or, if it ends with ``.json``, a list of names, or a mapping of indices to names or of
            names to indices.

    Raises:
        AttnBridgeError: if it cannot be read, or holds none.
    """
    if path.suffix.lower() != ".json":
        names = tuple(line for _, line in read_lines(path))
    else:
        found = read_json(path)
        names = names_of(found) or ()
        if not names:
            raise AttnBridgeError(
                f"{path}: expected a list of class names, or a mapping of the indices 0, 1, ... to names or of names "
                f"to indices, not {shown(found)}"
            )
    if not names:
        raise AttnBridgeError(f"{path}: holds no class names; expected one a line")
    return names


def names_of(found: Any) -> tuple[str, ...] | None:
    """Names in index order, of a list of names or a mapping between names and indices; ``None`` for anything else.

    >>> names_of(["cat", "dog"]), names_of({"1": "dog", "0": "cat"}), names_of({"dog": 1, "cat": 0}), names_of(2)
    (('cat', 'dog'), ('cat', 'dog'), ('cat', 'dog'), None)
    """
    if isinstance(found, Sequence) and not isinstance(found, str):
        return tuple(found) if found and all(isinstance(name, str) for name in found) else None
    if not isinstance(found, Mapping) or not found:
        return None
    pairs = [(key, value) if isinstance(value, str) else (value, key) for key, value in found.items()]
    indexed = {int(index): name for index, name in pairs if _is_index(index) and isinstance(name, str)}
    return tuple(indexed[i] for i in range(len(found))) if indexed.keys() == set(range(len(found))) else None


def _is_index(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdecimal())


def names_inside(found: Any) -> tuple[str, ...] | None:
    """The names of classes that a checkpoint or a configuration holds beside other things, if it does.

    >>> names_inside({"epoch": 3, "class_to_idx": {"dog": 1, "cat": 0}})
    ('cat', 'dog')
    """
    if not isinstance(found, Mapping):
        return None
    for place in (found, *(found[key] for key in INSIDE if isinstance(found.get(key), Mapping))):
        for key in LISTS:
            names = names_of(place.get(key))
            if names is not None:
                return names
    return None


def check_count(names: Sequence[str], count: int, source: str, network: str) -> None:
    """Raise unless there are as many names as a network has classes.

    Args:
        names: of classes.
        count: of the network's.
        source: where the names are from.
        network: its name.
    """
    if len(names) != count:
        raise AttnBridgeError(
            f"{source}: names {len(names)} classes, but {network} has {count}; give a file of {count} names with "
            "--class-names (in Python: classes=)"
        )
