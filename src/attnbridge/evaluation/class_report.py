"""``report.html`` of runs on pictures of one class each."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from attnbridge.evaluation.pictures import caption, data_uri, overlay, sheet
from attnbridge.evaluation.report import as_figure, html_table, record, words, write_page
from attnbridge.evaluation.source_attention import PICTURE
from attnbridge.segmentation.combine import enlarge_maps

Run = dict[str, Any]


def write_class_report(path: Path, title: str, introduction: str, runs: Sequence[Run], folders: Sequence[Path]) -> None:
    """Write the page of one or several runs; see :func:`attnbridge.evaluation.report.write_report`."""
    picture = data_uri(class_sheet(runs, folders))
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>",
        accuracy_table(runs),
        as_figure(accuracy_figure(runs, folders), "Top-1 accuracy on the validation pictures after each epoch."),
        f'<h2>Where they look</h2><figure><img alt="test pictures and maps" src="{picture}">'
        "<figcaption>The map of each picture's true class, to its own maximum, and the class that is answered."
        "</figcaption></figure>",
        *(_source_attention(run, folder) for run, folder in zip(runs, folders, strict=True)),
        record(runs),
    ]
    write_page(path, title, parts)


def _source_attention(run: Run, folder: Path) -> str:
    """What a run was held to of its source, if it kept a picture of that."""
    if not (folder / PICTURE).is_file():
        return ""
    name = html.escape(f"{run['name']}, seed {run['seed']}")
    picture = data_uri(Image.open(folder / PICTURE).convert("RGB"))
    return (
        f'<h2>What {name} keeps of its source</h2><figure><img alt="attention to the source" src="{picture}">'
        f"<figcaption>The weight of positions in each layer, or where the channels that weigh are active."
        "</figcaption></figure>"
    )


def accuracy_table(runs: Sequence[Run]) -> str:
    """The rows as an HTML table."""
    rows = []
    for run in runs:
        scores = run["scores"]
        errors = (f"{100 * (1 - scores[top]):.2f}" if top in scores else "" for top in ("top1", "top5"))
        rows.append([run["name"], str(run["seed"]), *errors, f"{run['seconds']:.0f} s"])
    head = ["row", "seed", "error, %", "top-5 error, %", "time"]
    return f"{html_table(head, rows)}<p>{html.escape(words(runs[0]['protocol']))}</p>"


def accuracy_figure(runs: Sequence[Run], folders: Sequence[Path]) -> Figure:
    """Validation accuracy over the epochs, a line per run."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for run, folder in zip(runs, folders, strict=True):
        with (folder / "metrics.csv").open(newline="") as handle:
            points = [(int(r["epoch"]), float(r["val/top1"])) for r in csv.DictReader(handle) if r.get("val/top1")]
        axes.plot([e + 1 for e, _ in points], [100 * v for _, v in points], ".-", label=f"{run['name']} {run['seed']}")
    axes.set(xlabel="epoch", ylabel="top-1 accuracy, %")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def class_sheet(runs: Sequence[Run], folders: Sequence[Path], cell: int = 144, most: int = 2) -> Image.Image:
    """The same test pictures: image, and each run's map of the true class with its answer; of more runs than ``most``
    the first and the last."""
    shown = list(zip(runs, folders, strict=True))
    shown = [shown[0], shown[-1]] if len(shown) > most else shown
    data = [np.load(folder / "examples.npz") for _, folder in shown]
    rows = []
    for i, image in enumerate(data[0]["images"]):
        high = round(cell * image.shape[0] / image.shape[1])
        large = np.asarray(Image.fromarray(image).resize((cell, high), Image.Resampling.BICUBIC))
        label = int(data[0]["labels"][i].argmax())
        row: list[Any] = [caption(large, runs[0]["classes"][label])]
        for (run, _), arrays in zip(shown, data, strict=True):
            heat = enlarge_maps(torch.from_numpy(arrays["maps"][i : i + 1, label : label + 1]), (high, cell))[0, 0]
            row.append(caption(overlay(large, heat.numpy()), run["classes"][int(arrays["scores"][i].argmax())]))
        rows.append(row)
    return sheet(rows, ["picture", *(run["name"] for run, _ in shown)], cell)
