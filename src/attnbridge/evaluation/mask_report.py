"""``report.html`` of segmentation networks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from attnbridge.evaluation.pictures import colour_mask, data_uri, sheet
from attnbridge.evaluation.report import as_figure, html_table, record, words, write_page

Run = dict[str, Any]


def write_mask_report(path: Path, title: str, introduction: str, runs: Sequence[Run], folders: Sequence[Path]) -> None:
    """Write the page of one or several runs; see :func:`attnbridge.evaluation.report.write_report`."""
    picture = data_uri(mask_sheet(runs, folders))
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>",
        mask_table(runs),
        as_figure(iou_figure(runs), "IoU of each label on the test split, refined."),
        f'<h2>Masks</h2><figure><img alt="test pictures and masks" src="{picture}">'
        "<figcaption>Test pictures, their masks, and what the networks make of them.</figcaption></figure>",
        record(runs),
    ]
    write_page(path, title, parts)


def mask_table(runs: Sequence[Run]) -> str:
    """The rows as an HTML table."""
    rows = []
    for run in runs:
        scores = run["scores"]
        values = (scores["miou"], scores["plain"]["miou"], scores["val_miou"])
        rows.append([run["name"], str(run["seed"]), *(f"{100 * v:.1f}" for v in values), f"{run['seconds']:.0f} s"])
    head = ["row", "seed", "mIoU", "one scale, no CRF", "validation, one scale, no CRF", "time"]
    return f"{html_table(head, rows)}<p>{html.escape(words(runs[0]['protocol']))}</p>"


def iou_figure(runs: Sequence[Run]) -> Figure:
    """IoU of each label, a group of bars per label."""
    names = ("background", *runs[0]["classes"])
    figure = Figure(figsize=(max(6, 0.6 * len(names)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(runs)
    for number, run in enumerate(runs):
        values = [100 * (v or 0) for v in run["scores"]["iou"]]
        axes.bar(np.arange(len(names)) + number * width, values, width, label=f"{run['name']} {run['seed']}")
    axes.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, rotation=45, ha="right")
    axes.set(ylabel="IoU, %")
    axes.legend(fontsize=8)
    return figure


def mask_sheet(runs: Sequence[Run], folders: Sequence[Path], most: int = 2) -> Image.Image:
    """The same test pictures: image, true mask, and each run's mask, refined; with one run its plain one before it, of
    more runs than ``most`` the first and the last."""
    shown = list(zip(runs, folders, strict=True))
    shown = [shown[0], shown[-1]] if len(shown) > most else shown
    data = [np.load(folder / "examples.npz") for _, folder in shown]
    count = len(runs[0]["classes"])
    columns = [("picture", data[0]["images"]), ("mask", data[0]["masks"])]
    if len(shown) == 1:
        columns.append(("one scale, no CRF", data[0]["plain"]))
    columns += [(run["name"], arrays["refined"]) for (run, _), arrays in zip(shown, data, strict=True)]
    rows = [
        [values[i] if values[i].ndim == 3 else colour_mask(values[i], count) for _, values in columns]
        for i in range(len(data[0]["images"]))
    ]
    return sheet(rows, [name for name, _ in columns])
