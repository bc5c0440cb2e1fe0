"""Class maps against masks, the threshold from validation: scores, protocol, page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import lightning as L
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MultilabelAccuracy

from attnbridge.data.arrays import read_arrays
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import class_colours, colour_mask, data_uri, overlay, sheet
from attnbridge.evaluation.gallery import IMAGES, AttentionGallery
from attnbridge.evaluation.metrics.maps import EnergyInside
from attnbridge.evaluation.metrics.segmentation import LabelPrecision, MapSegmentation, Present, mean_iou
from attnbridge.evaluation.page import as_figure, format_protocol, write_run_page
from attnbridge.evaluation.record import Row, RunRecord
from attnbridge.evaluation.settings import THRESHOLDS, EvaluationSettings
from attnbridge.evaluation.tasks.base import SplitScores, Task, known, label_iou_lines, percent, row_head, save_examples
from attnbridge.evaluation.tasks.unscored import UnscoredTask
from attnbridge.methods.base import Method
from attnbridge.segmentation.combine import combine_maps, enlarge_maps

COLUMNS = (
    ("mIoU", "predicted", "miou_best"),
    ("at", "predicted", "threshold"),
    ("mIoU fixed", "predicted", "miou_fixed"),
    ("mIoU, true labels", "labels", "miou_best"),
    ("at", "labels", "threshold"),
)
MODES: tuple[Present, ...] = ("predicted", "labels")


class MapTask(Task):
    """Maps against masks, see :class:`MapScores`."""

    uses = ("threshold", "score_threshold")
    numbers = tuple(f"{mode}.{field}" for mode in MODES for field in ("miou_fixed", "miou_best", "threshold"))
    lists = tuple(f"{mode}.{field}" for mode in MODES for field in ("curve", "iou"))

    def __init__(self, data: Any, settings: EvaluationSettings) -> None:
        super().__init__(data, settings)
        self.scores = MapScores(len(data.classes), settings.score_threshold)

    @classmethod
    def of(cls, data: ImageDataModule, settings: EvaluationSettings) -> Task:
        return cls(data, settings) if data.has("val") else UnscoredTask(data, settings)

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """MapScores, and the attention of the same images after each epoch."""
        return [self.scores, AttentionGallery(folder, self.data.samples("val", IMAGES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """Choose the threshold on validation, score the test split; see :meth:`MapScores.result`."""
        trainer.validate(method, self.data, verbose=False)
        if self.data.has("test"):
            trainer.test(method, self.data, verbose=False)
        else:  # said in the protocol: the numbers are then those of the split that chose the threshold
            self.scores.iou["test"] = self.scores.iou["val"]
            self.scores.average_precision["test"] = self.scores.average_precision["val"]
            self.scores.others["test"] = self.scores.others["val"]
        result: dict[str, Any] = self.scores.result(self.settings.threshold)
        return result

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        split = "test" if self.data.has("test") else "val"
        same = " (the same split)" if split == "val" else ""
        return {
            "score": "mIoU over one confusion matrix of the whole split, background a class, 255 ignored",
            "split": split,
            "threshold": f"relative to each map's maximum; chosen on val{same}",
            "selection": "last: the weights are those of the last epoch",
            "fixed_threshold": self.settings.threshold,
            "predicted": f"a class is predicted where its probability exceeds {self.settings.score_threshold}",
            "score_threshold": self.settings.score_threshold,
            "resolution": f"images and masks at {self.data.image_size} pixels, one scale, not flipped or refined",
            "overlap": "where maps of several classes exceed the threshold the class with the larger score wins",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test images with masks, scores and maps, for pages."""
        samples = self.data.samples("test" if self.data.has("test") else "val", IMAGES)
        masks = np.stack([sample["mask"].numpy().astype(np.uint8) for sample in samples])
        save_examples(folder, method, samples, masks=masks)

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        scores, lines = record["scores"], []
        for mode, how in (("predicted", "classes by prediction"), ("labels", "classes by true labels")):
            s = scores[mode]
            lines.append(
                f"mIoU {100 * s['miou_best']:.1f} at threshold {s['threshold']} from validation, "
                f"{100 * s['miou_fixed']:.1f} at the fixed threshold ({how})"
            )
        return [
            *lines,
            f"mAP {percent(scores['map'])}, label accuracy {percent(scores['accuracy'])}, energy inside the objects "
            f"{percent(scores['energy'])}",
        ]

    @staticmethod
    def label_lines(record: RunRecord) -> list[str]:
        return label_iou_lines(record["classes"], record["scores"]["predicted"]["iou"])

    @staticmethod
    def row(record: RunRecord) -> Row:
        scores, names = record["scores"], ("background", *record["classes"])
        fields = ("miou_fixed", "miou_best", "threshold")
        return {
            **row_head(record),
            **{field: scores["predicted"][field] for field in fields},
            **{f"{field}_labels": scores["labels"][field] for field in fields},
            "map": scores["map"],
            "accuracy": scores["accuracy"],
            "energy": scores["energy"],
            "iou": dict(zip(names, scores["predicted"]["iou"], strict=True)),
            "iou_labels": dict(zip(names, scores["labels"]["iou"], strict=True)),
        }

    @staticmethod
    def write_page(
        path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
    ) -> None:
        parts = [
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
        ]
        write_run_page(path, title, introduction, parts, runs)

    @staticmethod
    def sheet(runs: Sequence[RunRecord], folders: Sequence[Path]) -> Image.Image:
        return example_sheet(runs, folders)


class ModeScores(TypedDict):
    """Segmentation scores with the classes chosen one way; all in [0, 1], on the test split.

    Attributes:
        miou_fixed: at the fixed threshold.
        miou_best: at the threshold that is best on validation.
        threshold: that threshold.
        miou_oracle: at the best threshold on the test split itself, an upper bound and no result.
        curve: mIoU at each of :data:`~attnbridge.evaluation.settings.THRESHOLDS`.
        iou: per class at ``threshold``, background first; ``None`` for a class that never occurs.
    """

    miou_fixed: float
    miou_best: float
    threshold: float
    miou_oracle: float
    curve: list[float]
    iou: list[float | None]


class MapScores(SplitScores):
    """Accumulates mIoU curves and the mean average precision over one pass of a split.

    Reads ``logits``, ``scores`` and ``maps`` of what a method's validation or test step returns, ``mask`` and
    ``labels`` of the batch. After a pass the IoU curves and mAP of that split stand in :attr:`iou` and
    :attr:`average_precision`, and ``val/miou`` and ``val/map`` are logged.

    Args:
        num_classes: number of classes without background.
        score_threshold: probability from which on a class counts as predicted.
    """

    def __init__(self, num_classes: int, score_threshold: float = 0.5) -> None:
        self.segmentation = {
            mode: MapSegmentation(num_classes, mode, score_threshold=score_threshold) for mode in MODES
        }
        self.precision = LabelPrecision(num_classes)
        self.accuracy = MultilabelAccuracy(num_classes, score_threshold, average="micro")
        self.energy = EnergyInside()
        self.iou: dict[str, dict[Present, Tensor]] = {}
        self.average_precision: dict[str, float | None] = {}
        self.others: dict[str, dict[str, float | None]] = {}

    def start(self, module: LightningModule) -> None:
        for metric in (*self.segmentation.values(), self.precision, self.accuracy, self.energy):
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        if "mask" not in batch:
            raise AttnBridgeError("the split has no masks to score against; expected a masks/ folder")
        self.precision.update(outputs["logits"], batch["labels"])
        self.accuracy.update(outputs["scores"].float(), batch["labels"].long())
        self.energy.update(*object_maps(outputs["maps"].float(), batch["mask"], batch["labels"]))
        for metric in self.segmentation.values():
            metric.update(outputs["scores"].float(), outputs["maps"].float(), batch["mask"], batch["labels"])

    def finish(self, module: LightningModule, split: str) -> None:
        self.iou[split] = {mode: metric.compute().cpu() for mode, metric in self.segmentation.items()}
        self.average_precision[split] = known(float(self.precision.compute()))
        others = {"accuracy": self.accuracy, "energy": self.energy}
        self.others[split] = {name: known(float(metric.compute())) for name, metric in others.items()}
        best = mean_iou(self.iou[split]["predicted"]).max()
        found = {f"{split}/miou": known(float(best)), f"{split}/map": self.average_precision[split]}
        values = {name: value for name, value in found.items() if value is not None}
        module.log_dict(values, prog_bar=True, sync_dist=False, rank_zero_only=False)

    def result(self, fixed: float) -> dict[str, Any]:
        """The protocol: threshold from validation, scores from the test split.

        Args:
            fixed: the fixed background threshold that is reported beside the chosen one.
        """
        modes: dict[str, Any] = {
            mode: mode_scores(self.iou["val"][mode], self.iou["test"][mode], fixed) for mode in MODES
        }
        return {**modes, "map": self.average_precision["test"], **self.others["test"]}


def object_maps(maps: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The map and the mask of each class that is in an image's labels and in its mask, for scores of single maps.

    Args:
        maps: ``(B, N, h, w)``.
        mask: long ``(B, H, W)``; the maps are 0 where it is ignored.
        labels: ``(B, N)``.

    Returns:
        ``(P, H, W)`` and bool ``(P, H, W)``.

    >>> mask = torch.tensor([[[1, 255]]])
    >>> [part.tolist() for part in object_maps(torch.ones(1, 2, 1, 2), mask, torch.ones(1, 2))]
    [[[[1.0, 0.0]]], [[[True, False]]]]
    """
    image, label = torch.nonzero(labels, as_tuple=True)
    shown = mask[image] == label[:, None, None] + 1
    there = shown.flatten(1).any(1)
    image, label, shown = image[there], label[there], shown[there]
    return enlarge_maps(maps[image, label][:, None], (mask.shape[1], mask.shape[2]))[:, 0] * (mask[image] != 255), shown


def mode_scores(val: Tensor, test: Tensor, fixed: float) -> ModeScores:
    """MapScores from the IoU ``(T, N + 1)`` of validation and test.

    Raises:
        AttnBridgeError: if ``fixed`` is not one of the thresholds that were counted, or no pixel was.
    """
    for name, iou in (("val", val), ("test", test)):
        if iou.isnan().all():
            raise AttnBridgeError(f"{name}: every pixel of its masks is 255 (ignored), so there is nothing to score")
    if fixed not in THRESHOLDS:
        raise AttnBridgeError(f"the fixed threshold {fixed} is not one of {', '.join(map(str, THRESHOLDS))}")
    chosen = int(mean_iou(val).argmax())
    curve = mean_iou(test)
    return {
        "miou_fixed": float(curve[THRESHOLDS.index(fixed)]),
        "miou_best": float(curve[chosen]),
        "threshold": THRESHOLDS[chosen],
        "miou_oracle": float(curve.max()),
        "curve": [round(float(v), 5) for v in curve],
        "iou": [None if torch.isnan(v) else round(float(v), 5) for v in test[chosen]],
    }


def score_table(runs: Sequence[RunRecord]) -> str:
    """The rows as an HTML table; the best mIoU of each kind is bold."""
    head = "".join(f"<th>{title}</th>" for title, *_ in COLUMNS)
    best = {key: max(r["scores"][key[0]][key[1]] for r in runs) for _, *key_ in COLUMNS for key in [tuple(key_)]}
    rows = []
    for run in runs:
        cells = [f"<td>{html.escape(run['name'])}</td><td>{html.escape(str(run['seed']))}</td>"]
        for _, mode, field in COLUMNS:
            value = run["scores"][mode][field]
            text = f"{value:.2f}" if field == "threshold" else f"{100 * value:.1f}"
            bold = field != "threshold" and value == best[mode, field] and len(runs) > 1
            cells.append(f"<td{' class=best' if bold else ''}>{text}</td>")
        cells.append(f"<td>{percent(run['scores']['map'])}</td><td>{run['seconds']:.0f} s</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<table><tr><th>row</th><th>seed</th>{head}<th>mAP</th><th>time</th></tr>{''.join(rows)}</table>"
        f"<p>{html.escape(format_protocol(runs[0]['protocol']))}</p>"
    )


def curve_figure(runs: Sequence[RunRecord]) -> Figure:
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


def class_figure(runs: Sequence[RunRecord]) -> Figure:
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


def example_sheet(runs: Sequence[RunRecord], folders: Sequence[Path], cell: int = 144) -> Image.Image:
    """The same test images: image, each run's maps over it and the segmentation they give, truth."""
    data = [read_arrays(folder / "examples.npz", "images", "masks", "scores", "maps") for folder in folders]
    count = len(runs[0]["classes"])
    rows = []
    for i, image in enumerate(data[0]["images"]):
        row = [image]
        for run, arrays in zip(runs, data, strict=True):
            row += _shown(image, arrays, i, run, count)
        rows.append([*row, colour_mask(data[0]["masks"][i], count)])
    header = ["image", *(h for run in runs for h in (f"{run['name']}", "as mask")), "truth"]
    return sheet(rows, header, cell)


def _shown(image: Any, arrays: Any, i: int, run: RunRecord, count: int) -> list[Any]:
    """Heat map of all predicted classes (their pixelwise maximum), and the label mask they give."""
    maps = enlarge_maps(torch.from_numpy(arrays["maps"][i : i + 1]), image.shape[:2])
    scores = torch.from_numpy(arrays["scores"][i : i + 1])
    present = scores > run["protocol"].get("score_threshold", 0.5)
    heat = (maps * present[:, :, None, None])[0].amax(0).numpy()
    threshold = torch.tensor([run["scores"]["predicted"]["threshold"]])
    mask = combine_maps(maps, scores, present, threshold)[0, 0].numpy()
    return [overlay(image, heat), colour_mask(mask, count)]


def _examples(runs: Sequence[RunRecord], folders: Sequence[Path]) -> str:
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
        f'<h2>Where they look</h2><figure><img alt="test images, maps, masks and truth" src="{data_uri(image)}">'
        f"<figcaption>{key}. Maps of the predicted classes, each to its own maximum; masks at the threshold "
        "chosen on validation.</figcaption></figure>"
    )
