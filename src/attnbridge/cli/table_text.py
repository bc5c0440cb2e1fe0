"""Tables as text: means and standard deviations over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from attnbridge.evaluation.report import html_table


def print_demo(results: dict[str, Any], console: Console) -> None:
    """The table that `make demo` ends with."""
    table = Table("row", "mIoU", "threshold", "mIoU, true labels", "mAP", "time")
    for row in results["rows"]:
        table.add_row(
            row["name"],
            f"{100 * row['miou_best']:.1f}",
            f"{row['threshold']:.2f}",
            f"{100 * row['miou_best_labels']:.1f}",
            f"{100 * row['map']:.1f}",
            f"{row['seconds']:.0f} s",
        )
    console.print(table)


def markdown_table(
    results: dict[str, Any],
    paper: Mapping[str, float] | None = None,
    without: str | None = None,
    more: Sequence[str] = (),
) -> str:
    """Mean and standard deviation over the seeds, as Markdown.

    Args:
        results: as written to ``results.json``.
        paper: the paper's mIoU of each row, to stand beside.
        without: a class; the mIoU of the others stands beside.
        more: other scores of a row to show, in [0, 1].

    >>> row = {"name": "a", "miou_best": 0.5, "miou_fixed": 0.4, "miou_best_labels": 0.6, "map": 0.7,
    ...        "threshold": 0.3, "seconds": 9.0}
    >>> print(markdown_table({"rows": [row]}).splitlines()[-1])
    | a | 50.0 | 40.0 | 60.0 | 70.0 | 0.30 | 9 |
    """
    head = ["row", "mIoU", "fixed threshold", "true labels", "mAP", "threshold", "seconds"]
    head += more
    head += [f"without {without}", f"true labels, without {without}"] if without else []
    head += ["paper"] if paper else []
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name in dict.fromkeys(row["name"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["name"] == name]
        cells = [mean_text([100 * r[f] for r in rows]) for f in ("miou_best", "miou_fixed", "miou_best_labels", "map")]
        cells.append("/".join(f"{r['threshold']:.2f}" for r in rows))
        cells.append(f"{statistics.mean(r['seconds'] for r in rows):.0f}")
        cells += [mean_text([100 * r[f] for r in rows]) for f in more]
        if without:
            cells += [mean_text([100 * _mean_iou(r[f], without) for r in rows]) for f in ("iou", "iou_labels")]
        if paper:
            cells.append(str(paper.get(name.rpartition("/")[2], "")))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def error_table(results: dict[str, Any]) -> str:
    """Error of each row, mean and standard deviation over the seeds, as Markdown.

    >>> rows = [{"name": "a", "seed": seed, "top1": 0.9 - 0.01 * seed, "seconds": 9.0} for seed in (0, 1)]
    >>> print(error_table({"rows": rows}).splitlines()[-1])
    | a | 10.50 ± 0.71 | 2 | 9 |
    """
    lines = ["| row | error, % | seeds | seconds |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["name"] == name]
        seconds = statistics.mean(r["seconds"] for r in rows)
        lines.append(
            f"| {name} | {mean_text([100 * (1 - r['top1']) for r in rows], 2)} | {len(rows)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def rank_table(results: dict[str, Any]) -> str:
    """Accuracy of each row and its mean rank among the rows of its seed, 1 the best, as Markdown.

    >>> rows = [{"name": n, "seed": s, "top1": 0.9 - 0.01 * s - (n == "b") / 10, "val_top1": 0.8, "seconds": 9.0}
    ...         for s in (0, 1) for n in ("a", "b")]
    >>> print(rank_table({"rows": rows}).splitlines()[-1])
    | b | 79.50 ± 0.71 | 80.00 ± 0.00 | 2.0 | 2 | 9 |
    """
    lines = ["| row | accuracy, % | validation, % | rank | seeds | seconds |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["name"] == name]
        ranks = [1 + sum(o["top1"] > r["top1"] for o in results["rows"] if o["seed"] == r["seed"]) for r in rows]
        scores = [mean_text([100 * r["top1"] for r in rows], 2)]
        known = [100 * r["val_top1"] for r in rows if r["val_top1"] is not None]
        scores.append(mean_text(known, 2) if known else "")
        seconds = statistics.mean(r["seconds"] for r in rows)
        lines.append(f"| {name} | {' | '.join(scores)} | {statistics.mean(ranks):.1f} | {len(rows)} | {seconds:.0f} |")
    return "\n".join(lines)


def _mean_iou(iou: Mapping[str, float | None], without: str) -> float:
    return statistics.mean(value for name, value in iou.items() if value is not None and name != without)


def mean_text(values: Sequence[float], digits: int = 1) -> str:
    """Mean, and standard deviation of several values."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def as_html(text: str) -> str:
    """A Markdown table as HTML.

    >>> as_html("| a |\\n|---|\\n| 1 |")
    '<table><tr><th>a</th></tr><tr><td>1</td></tr></table>'
    """
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return html_table(lines[0], lines[2:])
