"""``report.html``: one self-contained page with tables and pictures."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from attnbridge.data.cache import replacing
from attnbridge.evaluation.metrics import THRESHOLDS
from attnbridge.evaluation.pictures import class_colours, colour_mask, data_uri, overlay, sheet
from attnbridge.segmentation.combine import combine_maps, enlarge_maps

Run = dict[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; text-align: right }
th { border-bottom: 2px solid #444 } td { border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% } figure { margin: 1.5rem 0 } figcaption { color: #555 }
pre { background: #f6f6f6; padding: 1rem; overflow: auto }
.best { font-weight: 700 }
"""

COLUMNS = (
    ("mIoU", "predicted", "miou_best"),
    ("at", "predicted", "threshold"),
    ("mIoU fixed", "predicted", "miou_fixed"),
    ("mIoU, true labels", "labels", "miou_best"),
    ("at", "labels", "threshold"),
)


def write_report(path: Path, title: str, introduction: str, runs: Sequence[Run], folders: Sequence[Path]) -> None:
    """Write the page of one or several runs.

    Args:
        path: the file to write.
        title: heading.
        introduction: a paragraph of plain text under it.
        runs: contents of the runs' ``run.json``.
        folders: the runs' folders, for ``examples.npz``.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>",
        score_table(runs),
        as_figure(
            curve_figure(runs),
            "mIoU on the test split at every background threshold; classes by prediction "
            "(solid) and by true labels (dashed). A dot marks the threshold chosen on validation.",
        ),
        as_figure(
            class_figure(runs),
            "IoU of each class, classes by prediction, at the threshold chosen on validation.",
        ),
        _examples(runs, folders),
        record(runs),
    ]
    write_page(path, title, parts)


def write_unscored_report(
    path: Path, title: str, introduction: str, runs: Sequence[Run], folders: Sequence[Path]
) -> None:
    """The page of runs whose target has no masks: training pictures and the maps of their classes."""
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>"]
    for run, folder in zip(runs, folders, strict=True):
        rows = []
        with np.load(folder / "examples.npz") as data:
            for image, labels, maps in zip(data["images"], data["labels"], data["maps"], strict=True):
                heat = [maps[c] / max(float(maps[c].max()), 1e-8) for c in np.flatnonzero(labels)]
                rows.append([image, *(overlay(image, each) for each in heat)])
        picture = data_uri(sheet(rows))
        parts.append(
            f'<h2>{html.escape(run["name"])}</h2><figure><img alt="pictures and maps" src="{picture}"><figcaption>'
            f"Training pictures and the map of each of their classes. {html.escape(words(run['protocol']))}"
            "</figcaption></figure>"
        )
    write_page(path, title, [*parts, record(runs)])


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
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def score_table(runs: Sequence[Run]) -> str:
    """The rows as an HTML table; the best mIoU of each kind is bold."""
    head = "".join(f"<th>{title}</th>" for title, *_ in COLUMNS)
    best = {key: max(r["scores"][key[0]][key[1]] for r in runs) for _, *key_ in COLUMNS for key in [tuple(key_)]}
    rows = []
    for run in runs:
        cells = [f"<td>{html.escape(run['name'])}</td><td>{run['seed']}</td>"]
        for _, mode, field in COLUMNS:
            value = run["scores"][mode][field]
            text = f"{value:.2f}" if field == "threshold" else f"{100 * value:.1f}"
            bold = field != "threshold" and value == best[mode, field] and len(runs) > 1
            cells.append(f"<td{' class=best' if bold else ''}>{text}</td>")
        cells.append(f"<td>{100 * run['scores']['map']:.1f}</td><td>{run['seconds']:.0f} s</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<table><tr><th>row</th><th>seed</th>{head}<th>mAP</th><th>time</th></tr>{''.join(rows)}</table>"
        f"<p>{html.escape(words(runs[0]['protocol']))}</p>"
    )


def words(protocol: dict[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in protocol.items()) + "."


def curve_figure(runs: Sequence[Run]) -> Figure:
    """mIoU over the threshold, a line per run and way of choosing the classes."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, run in enumerate(runs):
        for mode, line in (("predicted", "-"), ("labels", "--")):
            scores = run["scores"][mode]
            curve = 100 * np.array(scores["curve"])
            label = f"{run['name']} {run['seed']}" if mode == "predicted" else None
            axes.plot(THRESHOLDS, curve, line, color=f"C{number % 10}", label=label)
            chosen = THRESHOLDS.index(scores["threshold"])
            axes.plot(scores["threshold"], curve[chosen], "o", color=f"C{number % 10}")
    axes.set(xlabel="threshold, relative to the map's maximum", ylabel="mIoU, %", ylim=(0, None))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def class_figure(runs: Sequence[Run]) -> Figure:
    """IoU of each class as bars, a colour per run."""
    names = ["background", *runs[0]["classes"]]
    figure = Figure(figsize=(max(8.0, 0.9 * len(names)), 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(runs)
    for number, run in enumerate(runs):
        iou = [100 * (v or 0.0) for v in run["scores"]["predicted"]["iou"]]
        x = np.arange(len(names)) + (number - (len(runs) - 1) / 2) * width
        axes.bar(x, iou, width, color=f"C{number % 10}", label=f"{run['name']} {run['seed']}")
    axes.set_xticks(np.arange(len(names)), names, rotation=30, ha="right")
    axes.set_ylabel("IoU, %")
    axes.legend(fontsize=8)
    return figure


def example_sheet(runs: Sequence[Run], folders: Sequence[Path], cell: int = 144) -> Image.Image:
    """The same test pictures: image, each run's maps over it and the segmentation they give, truth."""
    data = [np.load(folder / "examples.npz") for folder in folders]
    count = len(runs[0]["classes"])
    rows = []
    for i, image in enumerate(data[0]["images"]):
        row = [image]
        for run, arrays in zip(runs, data, strict=True):
            row += _shown(image, arrays, i, run, count)
        rows.append([*row, colour_mask(data[0]["masks"][i], count)])
    header = ["picture", *(h for run in runs for h in (f"{run['name']}", "as mask")), "truth"]
    return sheet(rows, header, cell)


def _shown(image: Any, arrays: Any, i: int, run: Run, count: int) -> list[Any]:
    """Heat map of all predicted classes (their pixelwise maximum), and the label mask they give."""
    maps = enlarge_maps(torch.from_numpy(arrays["maps"][i : i + 1]), image.shape[:2])
    scores = torch.from_numpy(arrays["scores"][i : i + 1])
    present = scores > run["protocol"].get("score_threshold", 0.5)
    heat = (maps * present[:, :, None, None])[0].amax(0).numpy()
    threshold = torch.tensor([run["scores"]["predicted"]["threshold"]])
    mask = combine_maps(maps, scores, present, threshold)[0, 0].numpy()
    return [overlay(image, heat), colour_mask(mask, count)]


def _examples(runs: Sequence[Run], folders: Sequence[Path]) -> str:
    pairs = [(r, f) for r, f in zip(runs, folders, strict=True) if (f / "examples.npz").is_file()]
    if not pairs:
        return ""
    shown = [pairs[0], pairs[-1]] if len(pairs) > 2 else pairs
    image = example_sheet([r for r, _ in shown], [f for _, f in shown])
    colours = class_colours(len(runs[0]["classes"]))[1:]
    key = " ".join(
        f'<span style="color:rgb({r},{g},{b})">&#9632;</span>&nbsp;{html.escape(name)}'
        for name, (r, g, b) in zip(runs[0]["classes"], colours.tolist(), strict=True)
    )
    return (
        f'<h2>Where they look</h2><figure><img alt="test pictures, maps, masks and truth" src="{data_uri(image)}">'
        f"<figcaption>{key}. Maps of the predicted classes, each to its own maximum; masks at the threshold "
        "chosen on validation.</figcaption></figure>"
    )


def record(runs: Sequence[Run]) -> str:
    """What the runs were made with."""
    kept = [{key: run[key] for key in ("name", "seed", "date", "versions", "git", "hardware")} for run in runs]
    return f"<h2>Record</h2><pre>{html.escape(json.dumps(kept, indent=1))}</pre>"


def as_figure(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    image = Image.open(buffer).convert("RGB")
    return (
        f'<figure><img alt="{html.escape(caption)}" src="{data_uri(image, 92)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
