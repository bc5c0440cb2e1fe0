"""Tables as text: means and standard deviations over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from attnbridge.evaluation.page import html_table
from attnbridge.evaluation.record import Row, RunRecord
from attnbridge.evaluation.tasks.base import percent


def print_demo(results: dict[str, Any], console: Console) -> None:
    """The table that `make demo` ends with."""
    table = Table("row", "mIoU", "threshold", "mIoU, true labels", "mAP", "time")
    for row in results["rows"]:
        table.add_row(
            row["name"],
            f"{100 * row['miou_best']:.1f}",
            f"{row['threshold']:.2f}",
            f"{100 * row['miou_best_labels']:.1f}",
            percent(row["map"]),
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
        fields = ("miou_best", "miou_fixed", "miou_best_labels", "map")
        cells = [mean_text([_percent(r[f]) for r in rows]) for f in fields]
        cells.append("/".join(f"{r['threshold']:.2f}" for r in rows))
        cells.append(f"{statistics.mean(r['seconds'] for r in rows):.0f}")
        cells += [mean_text([_percent(r[f]) for r in rows]) for f in more]
        if without:
            cells += [mean_text([100 * _mean_iou(r[f], without) for r in rows]) for f in ("iou", "iou_labels")]
        if paper:
            cells.append(str(paper.get(name.rpartition("/")[2], "")))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def precision_table(results: dict[str, Any], paper: Mapping[str, float]) -> str:
    """Mean average precision and accuracy of the labels, mean and standard deviation over the seeds, as Markdown.

    >>> row = {"name": "voc/a", "map": 0.5, "accuracy": 0.9, "seconds": 9.0}
    >>> print(precision_table({"rows": [row]}, {"a": 61.3}).splitlines()[-1])
    | voc/a | 50.0 | 90.0 | 9 | 61.3 |
    """
    lines = ["| row | mAP | label accuracy | seconds | paper |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["name"] == name]
        cells = [mean_text([_percent(r[f]) for r in rows]) for f in ("map", "accuracy")]
        cells.append(f"{statistics.mean(r['seconds'] for r in rows):.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {paper.get(name.rpartition('/')[2], '')} |")
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


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def _mean_iou(iou: Mapping[str, float | None], without: str) -> float:
    return statistics.mean(value for name, value in iou.items() if value is not None and name != without)


def mean_text(values: Sequence[float], digits: int = 1) -> str:
    """Mean, and standard deviation of several values; a dash if one of them is NaN, not known."""
    if any(map(math.isnan, values)):
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def as_html(text: str) -> str:
    """A Markdown table as HTML.

    >>> as_html("| a |\\n|---|\\n| 1 |")
    '<table><tr><th>a</th></tr><tr><td>1</td></tr></table>'
    """
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return html_table(lines[0], lines[2:])


def domain_table(rows: Sequence[Row], score: str = "source_validation") -> str:
    """Accuracy by case and row, mean and deviation over the seeds, the mean over the cases, and how much that is above
    the first row's, as Markdown.

    >>> same = {"domains": "a to b"}
    >>> rows = [{"name": n, "seed": s, "source_validation": 0.5 + s / 10, **same} for n in "xy" for s in (0, 1)]
    >>> print("\\n".join(domain_table(rows).splitlines()[-2:]))
    | mean of 1 | 55.0 ± 7.1 | 55.0 ± 7.1 |
    | above x |  | 0.0 ± 0.0, in 0 of 1 |
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [f"| {score} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    cases = list(dict.fromkeys(row["domains"] for row in rows))
    for case in cases:
        lines.append(f"| {case} | {' | '.join(_cell(rows, name, score, case) for name in names)} |")
    means = {name: _over_cases(rows, name, score) for name in names}
    lines.append(f"| mean of {len(cases)} | {' | '.join(_words(list(means[name].values())) for name in names)} |")
    if len(names) > 1:
        above = [_above(rows, means, (name, names[0]), score) for name in names[1:]]
        lines.append(f"| above {names[0]} |  | {' | '.join(above)} |")
    return "\n".join(lines)


def _cell(rows: Sequence[Row], name: str, score: str, case: str) -> str:
    return _words(_values(rows, name, score, case))


def _words(values: Sequence[float]) -> str:
    return mean_text(values) if values else ""


def _values(rows: Sequence[Row], name: str, score: str, case: str) -> list[float]:
    """Of each seed, percent."""
    return [100 * r[score] for r in rows if (r["name"], r["domains"]) == (name, case) and r[score] is not None]


def _over_cases(rows: Sequence[Row], name: str, score: str) -> dict[int, float]:
    """The mean over the cases, of each seed that has all of them."""
    own = [r for r in rows if r["name"] == name and r[score] is not None]
    cases = {r["domains"] for r in rows}
    whole = [s for s in {r["seed"] for r in own} if {r["domains"] for r in own if r["seed"] == s} == cases]
    return {seed: 100 * statistics.mean(r[score] for r in own if r["seed"] == seed) for seed in whole}


def _above(rows: Sequence[Row], means: dict[str, dict[int, float]], pair: tuple[str, str], score: str) -> str:
    """By how much a row is above another with each seed, and in how many cases, means over the seeds."""
    differences = [means[pair[0]][seed] - means[pair[1]][seed] for seed in means[pair[0]] if seed in means[pair[1]]]
    if not differences:
        return ""
    cases = {row["domains"] for row in rows}
    mean = {(n, c): statistics.mean(_values(rows, n, score, c)) for n in pair for c in cases}
    higher = sum(mean[pair[0], case] > mean[pair[1], case] for case in cases)
    return f"{mean_text(differences)}, in {higher} of {len(cases)}"


def by_epoch(contents: Sequence[RunRecord]) -> str:
    """Accuracy in the target after each epoch that was scored, mean over all runs of a row, as Markdown.

    >>> runs = [{"name": "x", "scores": {"curve": [{"epoch": 2, "target": value}]}} for value in (0.5, 0.7)]
    >>> print(by_epoch(runs).splitlines()[-1])
    | 2 | 60.0 |
    """
    found: dict[tuple[int, str], list[float]] = {}
    for content in contents:
        for point in content["scores"]["curve"]:
            found.setdefault((int(point["epoch"]), content["name"]), []).append(100 * point["target"])
    names = list(dict.fromkeys(content["name"] for content in contents))
    lines = [f"| target after epoch | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for epoch in sorted({epoch for epoch, _ in found}):
        means = [f"{statistics.mean(found[epoch, name]):.1f}" if (epoch, name) in found else "" for name in names]
        lines.append(f"| {epoch} | {' | '.join(means)} |")
    return "\n".join(lines)


def heat_maps(rows: Sequence[Row], score: str = "source_validation") -> Figure:
    """A matrix for each row: what was learnt from by what was asked, mean over the seeds; several sources are all
    others."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    cases = {row["domains"]: row["domains"].split(" to ") for row in rows}
    ends = {case: ("all others" if ", " in source else source, target) for case, (source, target) in cases.items()}
    sources, targets = (sorted({end[i] for end in ends.values()}) for i in (0, 1))
    figure = Figure(figsize=(3.2 * len(names) + 1, 0.6 * len(sources) + 2), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), number + 1)
        cells = np.full((len(sources), len(targets)), np.nan)
        for case, (source, target) in ends.items():
            y, x = sources.index(source), targets.index(target)
            values = _values(rows, name, score, case)
            if values:
                cells[y, x] = value = statistics.mean(values)
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
        axes.imshow(cells, vmin=0, vmax=100, cmap="viridis")
        axes.set_title(name.rpartition("/")[2])
        axes.set_xticks(range(len(targets)), targets, rotation=45, ha="right")
        axes.set_yticks(range(len(sources)), sources if number == 0 else [""] * len(sources))
    return figure


def chain_table(rows: Sequence[Row], paper: Mapping[str, float] | None = None) -> str:
    """mIoU by row, mean and deviation over the seeds, as Markdown; ``paper``: of the last network, to stand beside.

    >>> row = {"name": "a", "seed": 0, "direct": 0.2, "direct_labels": 0.3, "plain": 0.25, "refined": 0.28}
    >>> print(chain_table([{**row, "seconds": 9.0}]).splitlines()[-1])
    | a | 20.0 | 30.0 | 25.0 | 28.0 | +8.0 | 9 |
    """
    fields = {
        "the maps": "direct",
        "the maps, true labels": "direct_labels",
        "network": "plain",
        "network, scales and CRF": "refined",
    }
    if any("retrained" in row for row in rows):
        fields["retrained"] = "retrained"
    last = [*fields.values()][-1]
    head = ["cues from", *fields, "gain", "seconds", *(["paper"] if paper else [])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        cells = [mean_text([100 * r[f] for r in own]) for f in fields.values()]
        gain = sum(r[last] - r["direct"] for r in own) / len(own)
        seconds = sum(r["seconds"] for r in own) / len(own)
        cells += [f"{100 * gain:+.1f}", f"{seconds:.0f}"]
        if paper:
            cells.append(str(paper.get(name.rpartition("/")[2], "")))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def label_table(rows: Sequence[Row], paper: Mapping[str, Sequence[float]]) -> str:
    """IoU of each label in percent, a column for each row, the mean over its seeds, and for each of the paper's.

    >>> row = {"name": "a", "iou": {"background": 0.9, "cat": None}}
    >>> print(label_table([row], {"DSRG": (87.5, 80.6)}))
    | label | a | DSRG, paper |
    |---|---|---|
    | background | 90.0 | 87.5 |
    | cat | - | 80.6 |
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    head = ["label", *names, *(f"{name}, paper" for name in paper)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for place, label in enumerate(rows[0]["iou"]):
        cells = [mean_text([_percent(r["iou"][label]) for r in rows if r["name"] == name]) for name in names]
        known = [str(values[place]) if place < len(values) else "" for values in paper.values()]
        lines.append(f"| {label} | {' | '.join([*cells, *known])} |")
    return "\n".join(lines)
