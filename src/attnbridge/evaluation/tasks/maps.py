"""Class maps against masks, the threshold from validation: scores, protocol, page."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

import lightning as L
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from attnbridge.attention.layers import eval_mode
from attnbridge.data.arrays import read_arrays
from attnbridge.data.images import load_image
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.sample import IGNORE_INDEX
from attnbridge.data.transforms import sides
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import class_colours, colour_mask, data_uri, overlay, sheet, to_uint8
from attnbridge.evaluation.folders.segment import CERTAIN, refined_mask
from attnbridge.evaluation.gallery import IMAGES, AttentionGallery, look_at
from attnbridge.evaluation.metrics.maps import EnergyInside
from attnbridge.evaluation.metrics.masks import label_iou
from attnbridge.evaluation.metrics.segmentation import MapSegmentation, Present, mean_iou
from attnbridge.evaluation.own_size import OwnSplits
from attnbridge.evaluation.page import as_figure, format_protocol, write_run_page
from attnbridge.evaluation.record import Row, RunRecord
from attnbridge.evaluation.settings import THRESHOLDS, EvaluationSettings
from attnbridge.evaluation.tasks.base import SplitScores, Task, known, label_iou_lines, percent, row_head, save_examples
from attnbridge.evaluation.tasks.labels import LabelScores, LabelTask
from attnbridge.evaluation.tasks.masks import listed
from attnbridge.evaluation.tasks.unscored import UnscoredTask
from attnbridge.evaluation.views import ONE_VIEW, Views
from attnbridge.methods.base import Method
from attnbridge.segmentation.combine import combine_maps, enlarge_maps

COLUMNS = (
    ("mIoU", "predicted", "miou_best"),
    ("at", "predicted", "threshold"),
    ("mIoU fixed", "predicted", "miou_fixed"),
    ("mIoU, true labels", "labels", "miou_best"),
    ("at", "labels", "threshold"),
)
REFINED = (("mIoU, CRF", "predicted", "miou_crf"), ("mIoU, CRF, true labels", "labels", "miou_crf"))
MODES: tuple[Present, ...] = ("predicted", "labels")


class MapTask(Task):
    """Maps against masks, see :class:`MapScores`."""

    uses = ("threshold", "score_threshold", "size", "scales", "flip", "crf")
    defaults = MappingProxyType({"scales": (1.0,), "flip": False, "crf": False})
    numbers = tuple(f"{mode}.{field}" for mode in MODES for field in ("miou_fixed", "miou_best", "threshold"))
    lists = tuple(f"{mode}.{field}" for mode in MODES for field in ("curve", "iou"))

    def __init__(self, data: Any, settings: EvaluationSettings) -> None:
        super().__init__(data, settings)
        self.views = Views(tuple(self.settings.scales or ()), bool(self.settings.flip))
        own = OwnSplits(data) if self.settings.size == "own" else None
        self.scores = MapScores(len(data.classes), self.settings.score_threshold, self.views, own)

    @classmethod
    def of(cls, data: ImageDataModule, settings: EvaluationSettings) -> Task:
        if not data.has("val"):
            return UnscoredTask(data, settings)
        return cls(data, settings) if data.masks else LabelTask(data, settings)

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """MapScores, and the attention of the same images after each epoch.

        Raises:
            AttnBridgeError: before training, for scales that the network does not take.
        """
        if not self.views.single:
            images = torch.zeros(1, 3, *sides(method.image_size), device=method.device)
            view_maps(method, images, torch.ones(1, len(method.classes), dtype=torch.bool), self.views)
        return [self.scores, AttentionGallery(folder, self.data.samples("val", IMAGES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """Choose the threshold on validation, score the test split; see :meth:`MapScores.result`."""
        trainer.validate(method, self.data, verbose=False)
        if self.settings.crf:
            self.scores.refine_from_here()
        if self.data.has("test") or self.settings.crf:
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
            "resolution": self._resolution(),
            "overlap": "where maps of several classes exceed the threshold the class with the larger score wins",
            **({"crf": self._refinement()} if self.settings.crf else {}),
        }

    def _resolution(self) -> str:
        size = self.data.image_size
        where = f"images and masks at {size} pixels"
        if self.settings.size == "own":
            where = f"images at {size} pixels, maps enlarged to each image's own size, and masks at that"
        how = "one scale, not flipped or refined" if self.views.single and not self.settings.crf else str(self.views)
        return f"{where}, {how}{'' if self.settings.crf or self.views.single else ', not refined'}"

    def _refinement(self) -> str:
        return (
            f"the masks at the threshold of val, each label taken to be {CERTAIN:.0%} certain, refined by a dense CRF: "
            "miou_crf and iou_crf; all other scores, and the choice of the threshold, are without it"
        )

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test images with masks, scores and maps, for pages."""
        samples = self.data.samples("test" if self.data.has("test") else "val", IMAGES)
        masks = np.stack([sample["mask"].numpy().astype(np.uint8) for sample in samples])
        looked = look_at(method, list(samples))
        if not self.views.single:
            images = torch.stack([sample["image"] for sample in samples])
            shown = torch.from_numpy(looked["scores"]) > self.settings.score_threshold
            shown |= torch.stack([sample["labels"] for sample in samples]) > 0
            looked["maps"] = view_maps(method, images.to(method.device), shown, self.views).cpu().numpy()
        save_examples(folder, method, samples, looked, masks=masks)

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        scores, lines = record["scores"], []
        for mode, how in (("predicted", "classes by prediction"), ("labels", "classes by true labels")):
            s = scores[mode]
            lines.append(
                f"mIoU {100 * s['miou_best']:.1f} at threshold {s['threshold']} from validation, "
                f"{100 * s['miou_fixed']:.1f} at the fixed threshold ({how})"
                + (f"; {100 * s['miou_crf']:.1f} refined by the CRF" if "miou_crf" in s else "")
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
        refined = ("miou_crf",) if "miou_crf" in scores["predicted"] else ()
        fields = ("miou_fixed", "miou_best", "threshold", *refined)
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
        miou_crf: at ``threshold``, the masks refined by a dense CRF, where that was asked for.
        iou_crf: the same per class.
    """

    miou_fixed: float
    miou_best: float
    threshold: float
    miou_oracle: float
    curve: list[float]
    iou: list[float | None]
    miou_crf: NotRequired[float]
    iou_crf: NotRequired[list[float | None]]


@dataclass(frozen=True)
class Part:
    """Images whose maps and masks are compared at one size.

    Attributes:
        scores: ``(B, N)``.
        maps: ``(B, N, h, w)``, over the images alone.
        mask: long ``(B, H, W)``.
        labels: ``(B, N)``.
        images: makes those of ``(H, W)`` that a CRF sees.
    """

    scores: Tensor
    maps: Tensor
    mask: Tensor
    labels: Tensor
    images: Callable[[], list[Image.Image]]


class MapScores(SplitScores):
    """Accumulates mIoU curves and the mean average precision over one pass of a split.

    Reads ``logits``, ``scores`` and ``maps`` of what a method's validation or test step returns, ``mask`` and
    ``labels`` of the batch. After a pass the IoU curves and mAP of that split stand in :attr:`iou` and
    :attr:`average_precision`, and ``val/miou`` and ``val/map`` are logged. While a network is trained, maps are those
    of one scale and masks those of the batch: several views, own sizes and the CRF wait for the trained one.

    Args:
        num_classes: number of classes without background.
        score_threshold: probability from which on a class counts as predicted.
        views: that maps are averaged over; the scores of the classes are those of the image as it is.
        own: the images at their own sizes, by split; ``None``: masks are those of the batch.
    """

    def __init__(
        self,
        num_classes: int,
        score_threshold: float = 0.5,
        views: Views = ONE_VIEW,
        own: OwnSplits | None = None,
    ) -> None:
        self.segmentation = {
            mode: MapSegmentation(num_classes, mode, score_threshold=score_threshold) for mode in MODES
        }
        self.labels = LabelScores(num_classes, score_threshold)
        self.energy = EnergyInside()
        self.refined = {
            mode: MulticlassConfusionMatrix(num_classes + 1, ignore_index=IGNORE_INDEX, validate_args=False)
            for mode in MODES
        }
        self.score_threshold, self.views, self.own = score_threshold, views, own
        self.refined_at: dict[Present, float] = {}
        self.refined_iou: dict[Present, Tensor] = {}
        self.iou: dict[str, dict[Present, Tensor]] = {}
        self.average_precision: dict[str, float | None] = {}
        self.others: dict[str, dict[str, float | None]] = {}
        self.module: Any = None
        self.whole = False

    def refine_from_here(self) -> None:
        """Refine the masks at the threshold that is best on the validation that was scored, in what is scored next."""
        self.refined_at = {mode: THRESHOLDS[int(mean_iou(iou).argmax())] for mode, iou in self.iou["val"].items()}

    def start(self, module: LightningModule) -> None:
        self.module = module
        plain = self.views.single and self.own is None and not self.refined_at
        self.whole = plain or module.trainer.state.fn != TrainerFn.FITTING
        self.labels.start(module)
        for metric in (*self.segmentation.values(), *self.refined.values(), self.energy):
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        if "mask" not in batch:
            raise AttnBridgeError("the split has no masks to score against; expected a masks/ folder")
        self.labels.update(outputs, batch)
        for part in self._parts(outputs["scores"].float(), self._maps(outputs, batch), batch):
            self.energy.update(*object_maps(part.maps, part.mask, part.labels))
            for metric in self.segmentation.values():
                metric.update(part.scores, part.maps, part.mask, part.labels)
            if self.refined_at:
                self._refine(part)

    def _maps(self, outputs: Any, batch: Any) -> Tensor:
        """The maps of the classes that a score reads, ``(B, N, h, w)``."""
        if self.views.single or not self.whole:
            maps: Tensor = outputs["maps"].float()
            return maps
        wanted = (outputs["scores"] > self.score_threshold) | (batch["labels"] > 0)
        return view_maps(self.module, batch["image"], wanted, self.views).float()

    def _parts(self, scores: Tensor, maps: Tensor, batch: Any) -> Iterator[Part]:
        """The batch as it is, or each of its images at its own size: one is in memory at a time."""
        if self.own is None or not self.whole:
            yield Part(scores, maps, batch["mask"], batch["labels"], partial(_given_images, batch))
            return
        own = self.own.of(self.module)
        for i, identity in enumerate(batch["id"]):
            one, mask = slice(i, i + 1), own.mask(identity).to(maps.device)
            shown, images = own.over_image(maps[i], mask)[None], partial(_own_image, own.path(identity))
            yield Part(scores[one], shown, mask[None], batch["labels"][one], images)

    def _refine(self, part: Part) -> None:
        images = part.images()
        present = {"predicted": part.scores > self.score_threshold, "labels": part.labels > 0}
        maps = enlarge_maps(part.maps, (part.mask.shape[1], part.mask.shape[2]))
        for mode, threshold in self.refined_at.items():
            found = combine_maps(maps, part.scores, present[mode], torch.tensor([threshold], device=maps.device))[0]
            better = [refined_mask(*each) for each in zip(images, found, present[mode], strict=True)]
            self.refined[mode].update(torch.stack(better).long(), part.mask)

    def finish(self, module: LightningModule, split: str) -> None:
        self.iou[split] = {mode: metric.compute().cpu() for mode, metric in self.segmentation.items()}
        if self.refined_at:
            self.refined_iou = {mode: label_iou(metric.compute()) for mode, metric in self.refined.items()}
        best = known(float(mean_iou(self.iou[split]["predicted"]).max()))
        if best is not None:
            module.log_dict({f"{split}/miou": best}, prog_bar=True, sync_dist=False, rank_zero_only=False)
        self.labels.finish(module, split)
        self.average_precision[split] = self.labels.average_precision[split]
        self.others[split] = {"accuracy": self.labels.accuracy[split], "energy": known(float(self.energy.compute()))}

    def result(self, fixed: float) -> dict[str, Any]:
        """The protocol: threshold from validation, scores from the test split.

        Args:
            fixed: the fixed background threshold that is reported beside the chosen one.
        """
        modes: dict[str, Any] = {
            mode: mode_scores(self.iou["val"][mode], self.iou["test"][mode], fixed) for mode in MODES
        }
        for mode, iou in self.refined_iou.items():
            modes[mode] |= {"miou_crf": float(iou.nanmean()), "iou_crf": listed(iou)}
        return {**modes, "map": self.average_precision["test"], **self.others["test"]}


def _given_images(batch: Any) -> list[Image.Image]:
    return [Image.fromarray(to_uint8(image.cpu())) for image in batch["image"]]


def _own_image(path: Path) -> list[Image.Image]:
    return [load_image(path)]


def view_maps(method: Method, images: Tensor, present: Tensor, views: Views) -> Tensor:
    """Maps of the classes that are present in images in [0, 1], averaged over views, ``(B, N, h, w)``; the network is
    in eval mode.

    Raises:
        AttnBridgeError: for scales at which it takes no images.
    """
    with eval_mode(method.network):
        return views.maps(
            method.network, method.normalised(images), present.to(images.device), method.layer, "evaluation.scales"
        )


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
    columns = (*COLUMNS, *(REFINED if all("miou_crf" in run["scores"]["labels"] for run in runs) else ()))
    head = "".join(f"<th>{title}</th>" for title, *_ in columns)
    best = {key: max(r["scores"][key[0]][key[1]] for r in runs) for _, *key_ in columns for key in [tuple(key_)]}
    rows = []
    for run in runs:
        cells = [f"<td>{html.escape(run['name'])}</td><td>{html.escape(str(run['seed']))}</td>"]
        for _, mode, field in columns:
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
        "chosen on validation, at the resolution of the network and not refined.</figcaption></figure>"
    )
