"""Rows of images in a file that grows while an audit goes on, so that a second call goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TextIO

from attnbridge.data.files import beside
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.text import read_text
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.audit.tables import Doubt, ImageRow

ROWS = "images.jsonl"
Entry = ImageRow | str
"""What is known of an image: its row, or why it could not be read."""
DECIDES = ("attnbridge", "model", "checksum", "layer", "classes", "images", "objects")
"""What the first line says: all that the rows hang on."""
NAMES = tuple(each.name for each in fields(ImageRow))


def to_line(name: str, entry: Entry) -> str:
    """An image's line."""
    if isinstance(entry, str):
        return json.dumps({"id": name, "error": entry})
    content = asdict(entry)
    return json.dumps(content | {"doubt": entry.doubt.name if entry.doubt else None}, allow_nan=False)


def from_line(content: Mapping[str, Any]) -> Entry:
    """What :func:`to_line` wrote; a KeyError or TypeError for something else."""
    if "error" in content:
        return str(content["error"])
    values = {name: content[name] for name in NAMES}
    doubt = values["doubt"]
    lists = {name: tuple(values[name]) for name in ("truth", "context")}
    return ImageRow(**values | lists | {"doubt": Doubt[doubt] if doubt else None})


def read_rows(path: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """The first line, which says what was audited, and what is known of each image; a last line that an interruption
    cut off is left out.

    Raises:
        AttnBridgeError: if there is no such file, or it was not written by this program.
    """
    texts = read_text(path).split("\n")
    header: dict[str, Any] = {}
    found: dict[str, Entry] = {}
    for number, text in enumerate(texts, 1):
        try:
            content = json.loads(text or "null")
            if number == 1:
                header = dict(content)
            elif content is not None:
                found[content["id"]] = from_line(content)
        except (ValueError, TypeError, KeyError):
            if 1 < number == len(texts):
                break
            raise AttnBridgeError(
                f"{path}, line {number}: was not written by attnbridge; name another folder with out="
            ) from None
    return header, found


def check_same(path: Path, before: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Raise unless a folder holds an audit of the same."""
    changed = next((name for name in [*header, *before] if before.get(name) != header.get(name)), None)
    if changed is not None:
        raise AttnBridgeError(
            f"{path}: this folder holds an audit with {changed} = {before.get(changed)!r}, not "
            f"{header.get(changed)!r}; name another folder with out=, or delete this one"
        )


@contextmanager
def growing(own: OwnFiles, header: Mapping[str, Any], done: Mapping[str, Entry]) -> Iterator[TextIO]:
    """The file of rows, with what is done, to add lines to."""
    write_rows(own, header, done.items())
    with (own.folder / ROWS).open("a") as handle:
        yield handle


def write_rows(own: OwnFiles, header: Mapping[str, Any], entries: Iterable[tuple[str, Entry]]) -> None:
    """The whole file anew."""
    path = own.folder / ROWS
    with beside(path) as partial:
        with partial.open("w") as handle:
            handle.write(json.dumps({name: header[name] for name in DECIDES if name in header}) + "\n")
            handle.writelines(f"{to_line(name, entry)}\n" for name, entry in entries)
        own.put(partial, path, grown=True)
