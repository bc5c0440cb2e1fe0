"""``report.html`` of runs from source domains to a target without labels."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from attnbridge.evaluation.class_report import class_sheet
from attnbridge.evaluation.pictures import data_uri
from attnbridge.evaluation.report import as_figure, html_table, record, words, write_page

Run = dict[str, Any]
RULES = ("source_validation", "target_oracle", "last")


def write_domain_report(
    path: Path, title: str, introduction: str, runs: Sequence[Run], folders: Sequence[Path]
) -> None:
    """Write the page of one or several runs; see :func:`attnbridge.evaluation.report.write_report`."""
    picture = data_uri(class_sheet(runs, folders))
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>",
        rule_table(runs),
        as_figure(
            curves(runs), "Accuracy after each epoch: target (solid), the sources' validation pictures (dashed)."
        ),
        f'<h2>Where they look in the target</h2><figure><img alt="pictures of the target and maps" src="{picture}">'
        "<figcaption>After the last epoch: the map of each picture's true class, to its own maximum, and the answer."
        "</figcaption></figure>",
        record(runs),
    ]
    write_page(path, title, parts)


def rule_table(runs: Sequence[Run]) -> str:
    """The rows as an HTML table, target accuracy under each rule of selection."""
    rows = []
    for run in runs:
        scores = run["scores"]
        values = [*(scores[rule] for rule in RULES), scores["energy"]]
        cells = [run["name"], str(run["seed"]), run["protocol"]["domains"]]
        rows.append([*cells, *("" if v is None else f"{100 * v:.1f}" for v in values), f"{run['seconds']:.0f} s"])
    head = ["row", "seed", "domains", *(rule.replace("_", " ") for rule in RULES), "energy inside", "time"]
    return f"{html_table(head, rows)}<p>{html.escape(words(runs[0]['protocol']))}</p>"


def curves(runs: Sequence[Run]) -> Figure:
    """Accuracy over the epochs, a colour per run."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, run in enumerate(runs):
        points = run["scores"]["curve"]
        for name, line in (("target", "-"), ("val", "--")):
            label = f"{run['name']} {run['seed']}" if name == "target" else None
            values = [100 * point[name] for point in points]
            axes.plot([point["epoch"] for point in points], values, line, color=f"C{number % 10}", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy, %")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure
