"""Images of one class each: top-1 and top-5 accuracy, protocol, page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy

from attnbridge.data.arrays import read_arrays
from attnbridge.data.images import load_image
from attnbridge.data.provenance import own_file
from attnbridge.data.text import read_table
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import caption, data_uri, overlay, sheet
from attnbridge.evaluation.gallery import IMAGES, AttentionGallery
from attnbridge.evaluation.page import as_figure, format_protocol, html_table, write_run_page
from attnbridge.evaluation.record import RunRecord
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.evaluation.source_attention import IMAGE, save_source_attention
from attnbridge.evaluation.tasks.base import VALIDATION, SplitScores, Task, save_examples
from attnbridge.methods.base import Method
from attnbridge.segmentation.combine import enlarge_maps

TOP = (1, 5)
SHARE = r"[0-9]{1,30}(\.[0-9]{0,30})?(e-[0-9]{1,3})?"
"""A share as a table has it."""


@rank_zero_only
def _write_names(names: Sequence[str], path: Path) -> None:
    with own_file(path) as partial:
        partial.write_text("".join(f"{name}\n" for name in names))


class ClassificationTask(Task):
    """The share of images whose class is found, see :class:`ClassScores`."""

    numbers = ("top1",)

    def __init__(self, data: Any, settings: EvaluationSettings) -> None:
        super().__init__(data, settings)
        self.scores = ClassScores(len(data.classes))

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """MapScores, and the attention of the same images after each epoch, if any is kept for validation.

        Which images those are is written to ``validation.txt``.
        """
        _write_names([record.id for record in self.data.records("val")], folder / VALIDATION)
        samples = self.data.samples("val", IMAGES)
        return [self.scores, *([AttentionGallery(folder, samples, method.classes)] if samples else [])]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """Score both splits; validation chooses nothing, it is there to choose settings by."""
        if self.data.records("val"):
            trainer.validate(method, self.data, verbose=False)
        trainer.test(method, self.data, verbose=False)
        return {**self.scores.accuracy["test"], "val_top1": self.scores.accuracy.get("val", {}).get("top1")}

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        return {
            "score": "share of the test images whose class is the most probable one",
            "split": "test, else val; the model is that of the last epoch, nothing was chosen on these images",
            "training": f"{len(self.data.records('train'))} images, {len(self.data.records('val'))} for validation",
            "resolution": f"{self.data.image_size} pixels, one crop",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test images with scores and maps, for pages, and what of a source counted in them."""
        samples = self.data.samples("test", IMAGES)
        save_examples(folder, method, samples)
        save_source_attention(method, samples, folder)

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        known = {name: value for name, value in record["scores"].items() if value is not None}
        return [", ".join(f"{name.replace('_', ' ')} {100 * value:.2f}" for name, value in known.items())]

    @staticmethod
    def write_page(
        path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
    ) -> None:
        image = data_uri(class_sheet(runs, folders))
        parts = [
            accuracy_table(runs),
            as_figure(accuracy_figure(runs, folders), "Top-1 accuracy on the validation images after each epoch."),
            f'<h2>Where they look</h2><figure><img alt="test images and maps" src="{image}">'
            "<figcaption>The map of each image's true class, to its own maximum, and the class that is answered."
            "</figcaption></figure>",
            *(_source_attention(run, folder) for run, folder in zip(runs, folders, strict=True)),
        ]
        write_run_page(path, title, introduction, parts, runs)

    @staticmethod
    def sheet(runs: Sequence[RunRecord], folders: Sequence[Path]) -> Image.Image:
        return class_sheet(runs, folders)


class ClassScores(SplitScores):
    """Top-1 and top-5 accuracy over one pass of a split, each image counted once.

    Reads ``scores`` of what a method's validation or test step returns, ``labels`` of the batch. After a pass
    :attr:`accuracy` holds ``{"top1": ..., "top5": ...}`` of that split, in [0, 1], and ``val/top1`` is logged.

    Args:
        num_classes: number of classes; with five or fewer there is no top 5.
    """

    def __init__(self, num_classes: int) -> None:
        self.metrics = {f"top{k}": MulticlassAccuracy(num_classes, k, average="micro") for k in tops(num_classes)}
        self.accuracy: dict[str, dict[str, float]] = {}

    def start(self, module: LightningModule) -> None:
        for metric in self.metrics.values():
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        for metric in self.metrics.values():
            metric.update(outputs["scores"].float(), batch["labels"].argmax(1))

    def finish(self, module: LightningModule, split: str) -> None:
        self.accuracy[split] = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        values = {f"{split}/{name}": value for name, value in self.accuracy[split].items()}
        module.log_dict(values, prog_bar=True, sync_dist=False, rank_zero_only=False)


def _source_attention(run: RunRecord, folder: Path) -> str:
    """What a run was held to of its source, if it kept an image of that."""
    if not (folder / IMAGE).is_file():
        return ""
    name = html.escape(f"{run['name']}, seed {run['seed']}")
    image = data_uri(load_image(folder / IMAGE))
    return (
        f'<h2>What {name} keeps of its source</h2><figure><img alt="attention to the source" src="{image}">'
        f"<figcaption>The weight of positions in each layer, or where the channels that weigh are active."
        "</figcaption></figure>"
    )


def tops(num_classes: int) -> list[int]:
    """Among how many answers an image's class is looked for.

    >>> tops(10), tops(5)
    ([1, 5], [1])
    """
    return [top for top in TOP if top < num_classes]


def accuracy_table(runs: Sequence[RunRecord]) -> str:
    """The rows as an HTML table."""
    rows = []
    for run in runs:
        known = tops(len(run["classes"]))
        errors = (f"{100 * (1 - run['scores'][f'top{top}']):.2f}" if top in known else "" for top in TOP)
        rows.append([run["name"], str(run["seed"]), *errors, f"{run['seconds']:.0f} s"])
    head = ["row", "seed", "error, %", "top-5 error, %", "time"]
    return f"{html_table(head, rows)}<p>{html.escape(format_protocol(runs[0]['protocol']))}</p>"


def accuracy_figure(runs: Sequence[RunRecord], folders: Sequence[Path]) -> Figure:
    """Validation accuracy over the epochs, a line per run."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for run, folder in zip(runs, folders, strict=True):
        points = _validation(folder / "metrics.csv")
        axes.plot([e + 1 for e, _ in points], [100 * v for _, v in points], ".-", label=f"{run['name']} {run['seed']}")
    axes.set(xlabel="epoch", ylabel="top-1 accuracy, %")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _validation(path: Path) -> list[tuple[int, float]]:
    """Epochs and validation accuracy of a run's ``metrics.csv``."""
    names, rows = read_table(path, "epoch,step,...")
    places = [names.index(name) for name in ("epoch", "val/top1") if name in names]
    if len(places) < 2:
        return []
    points = []
    for line, row in rows:
        epoch, value = (row[place] for place in places)
        if value and not (re.fullmatch("[0-9]{1,9}", epoch) and re.fullmatch(SHARE, value)):
            raise AttnBridgeError(f"{path}, line {line}: expected an epoch and an accuracy, found {epoch!r}, {value!r}")
        if value:
            points.append((int(epoch), float(value)))
    return points


def class_sheet(runs: Sequence[RunRecord], folders: Sequence[Path], cell: int = 144, most: int = 2) -> Image.Image:
    """The same test images: image, and each run's map of the true class with its answer; of more runs than ``most``
    the first and the last."""
    shown = list(zip(runs, folders, strict=True))
    shown = [shown[0], shown[-1]] if len(shown) > most else shown
    data = [read_arrays(folder / "examples.npz", "images", "labels", "scores", "maps") for _, folder in shown]
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
    return sheet(rows, ["image", *(run["name"] for run, _ in shown)], cell)
