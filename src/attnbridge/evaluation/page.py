"""``report.html``: one self-contained page; what all of them share."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from attnbridge.data.provenance import own_file
from attnbridge.evaluation.figures import data_uri
from attnbridge.evaluation.record import RunRecord

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; text-align: right }
th { border-bottom: 2px solid #444 } td { border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% } figure { margin: 1.5rem 0 } figcaption { color: #555 }
pre { background: #f6f6f6; padding: 1rem; overflow: auto }
.best { font-weight: 700 }
"""


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain cells as an HTML table.

    >>> html_table(["a"], [["<1"]])
    '<table><tr><th>a</th></tr><tr><td>&lt;1</td></tr></table>'
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write an HTML page of parts that are HTML already."""
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style>{''.join(parts)}</html>"
    )
    with own_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def write_run_page(path: Path, title: str, introduction: str, parts: Sequence[str], runs: Sequence[RunRecord]) -> None:
    """Write the page of runs: a heading, a paragraph of plain text, parts that are HTML already, and the record."""
    head = f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>"
    write_page(path, title, [head, *parts, record_section(runs)])


def format_protocol(protocol: dict[str, Any]) -> str:
    """How scores were made, as a sentence.

    >>> format_protocol({"fixed_threshold": 0.5, "split": "test"})
    'fixed threshold: 0.5; split: test.'
    """
    return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in protocol.items()) + "."


def record_section(runs: Sequence[RunRecord]) -> str:
    """What the runs were made with."""
    kept = [{key: run[key] for key in ("name", "seed", "date", "versions", "git", "hardware")} for run in runs]
    return f"<h2>Record</h2><pre>{html.escape(json.dumps(kept, indent=1))}</pre>"


def as_figure(figure: Figure, caption: str) -> str:
    """A figure with its caption as HTML; a dollar in a name of a class or a run begins no formula."""
    for axes in figure.axes:
        for text in (*axes.findobj(Text), *axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    image = Image.open(buffer).convert("RGB")
    return (
        f'<figure><img alt="{html.escape(caption)}" src="{data_uri(image, 92)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
