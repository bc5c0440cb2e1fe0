"""The result of an audit: tables that can be saved, loaded and looked at."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from attnbridge.data.out_folders import owned
from attnbridge.data.text import read_object
from attnbridge.data.text import write_rows as write_csv
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.audit.rows import ROWS, read_rows, write_rows
from attnbridge.evaluation.audit.tables import ClassRow, Confusion, Context, ImageRow, Interval, Verdict
from attnbridge.evaluation.record import write_json

TABLES = "audit.json"
MEANS = ("accuracy", "area", "inside", "lift", "lift_other", "drop", "still", "fall")
"""Columns of a class that are means with intervals."""


@dataclass(frozen=True)
class Audit:
    """What :func:`attnbridge.audit` found.

    Attributes:
        images: a row for each image.
        classes: a row for each class, the biased ones first.
        contexts: what the attention outside the object lies on, for each class.
        confusions: labels that are taken for other classes, the most frequent pair first.
        skipped: a message for each image that could not be read.
        about: the network, the images, the objects, and the versions that it was made with.

    >>> Audit((), (), skipped=("cat.jpg: cannot be read",)).flagged
    ()
    """

    images: tuple[ImageRow, ...]
    classes: tuple[ClassRow, ...]
    contexts: tuple[Context, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    skipped: tuple[str, ...] = ()
    about: dict[str, Any] | None = None

    @property
    def flagged(self) -> tuple[str, ...]:
        """Images to mask: of the biased classes those whose answer hangs on the background, as it stays without the
        object or is lost before another background. Those with the least attention inside come first."""
        biased = {row.name for row in self.classes if row.verdict.biased}
        found = [
            row
            for row in self.images
            if row.name in biased and row.doubt is None and row.says and (row.says_removed or row.says_swapped is False)
        ]
        return tuple(row.id for row in sorted(found, key=lambda row: (row.inside or 0.0, row.id)))

    def save(self, folder: Path | str) -> Path:
        """Write ``audit.json``, ``images.jsonl`` and the tables as CSV.

        Args:
            folder: made where it is not there; an earlier audit in it is replaced.

        Returns:
            The folder.

        Raises:
            AttnBridgeError: if it holds other results, or files of the user's are in the way.
        """
        with owned(folder, TABLES) as own:
            tables = {"images": self.images, "classes": self.classes}
            tables |= {"contexts": self.contexts, "confusions": self.confusions}
            own.check([own.folder / name for name in (ROWS, TABLES, *(f"{name}.csv" for name in tables))])
            write_rows(own, self.about or {}, ((row.id, row) for row in self.images))
            for name, rows in tables.items():
                with own.writing(own.folder / f"{name}.csv") as partial:
                    write_csv(partial, _as_cells(rows))
            content = {name: [_as_json(row) for row in rows] for name, rows in tables.items() if name != "images"}
            write_json(own.folder / TABLES, {"about": self.about, "skipped": self.skipped, **content})
            return own.folder

    @classmethod
    def load(cls, folder: Path | str) -> Audit:
        """An audit that was saved.

        Raises:
            AttnBridgeError: if the folder holds none, or its files are not as they were written.
        """
        path = Path(folder) / TABLES
        if not path.is_file():
            raise AttnBridgeError(f"{path}: no such file; expected the folder of a finished audit")
        content, (_, entries) = read_object(path), read_rows(Path(folder) / ROWS)
        try:
            return cls(
                tuple(row for row in entries.values() if isinstance(row, ImageRow)),
                tuple(_class_row(each) for each in content["classes"]),
                tuple(Context(**each | {"typical": tuple(each["typical"])}) for each in content["contexts"]),
                tuple(Confusion(**each) for each in content["confusions"]),
                tuple(content["skipped"]),
                content["about"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise AttnBridgeError(
                f"{path}: is not what an audit wrote ({type(error).__name__} {error}); audit again"
            ) from None

    def _repr_html_(self) -> str:
        """The classes as a short table, for notebooks."""
        head = ("class", "images", "verdict", "accuracy", "attention inside", "lift", "reason")
        rows = [
            (
                row.name,
                str(row.images),
                row.verdict.value,
                *map(_text, (row.accuracy, row.inside, row.lift)),
                row.reason,
            )
            for row in self.classes
        ]
        return "<table>" + _html_row(head, "th") + "".join(_html_row(row, "td") for row in rows) + "</table>"


def _text(value: Interval | None) -> str:
    return "" if value is None else str(value)


def _html_row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _as_json(row: Any) -> dict[str, Any]:
    return {name: value.name if isinstance(value, Enum) else value for name, value in asdict(row).items()}


def _class_row(content: dict[str, Any]) -> ClassRow:
    means = {name: Interval(**content[name]) for name in MEANS if content[name] is not None}
    return ClassRow(**content | means | {"verdict": Verdict[content["verdict"]]})


def _as_cells(rows: Sequence[Any]) -> list[list[Any]]:
    """A header and the rows; an interval takes three columns, and the features of a context none."""
    if not rows:
        return []
    cells = [dict(_cells_of(row)) for row in rows]
    return [list(cells[0]), *(list(each.values()) for each in cells)]


def _cells_of(row: Any) -> Iterable[tuple[str, Any]]:
    for name in (each.name for each in fields(row) if each.name != "context"):
        value = getattr(row, name)
        if name in MEANS and isinstance(row, ClassRow):
            for part in ("mean", "low", "high"):
                yield f"{name}_{part}", "" if value is None else round(getattr(value, part), 6)
        else:
            yield name, _cell(value)


def _cell(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return "" if value is None else round(value, 6) if isinstance(value, float) else value
