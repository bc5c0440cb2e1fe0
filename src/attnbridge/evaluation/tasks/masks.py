"""A segmentation network's masks: IoU of each label over a whole split, protocol, page."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from attnbridge.data.arrays import read_arrays
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.sample import IGNORE_INDEX
from attnbridge.data.transforms import sides
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import colour_mask, data_uri, sheet, to_uint8
from attnbridge.evaluation.folders.segment import refine_mask
from attnbridge.evaluation.gallery import IMAGES, AttentionGallery
from attnbridge.evaluation.metrics.masks import label_iou
from attnbridge.evaluation.own_size import OwnImages, OwnSplits
from attnbridge.evaluation.page import as_figure, format_protocol, html_table, write_run_page
from attnbridge.evaluation.record import RunRecord
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.evaluation.tasks.base import EXAMPLES, SplitScores, Task, label_iou_lines, save_arrays
from attnbridge.evaluation.tasks.unscored import UnscoredTask
from attnbridge.methods.base import Method
from attnbridge.segmentation.inference import Inference, enlarged, infer


class MaskTask(Task):
    """A segmentation network's masks, see :class:`MaskScores`."""

    uses = ("size", "scales", "flip", "crf", "combine", "corners")
    defaults = MappingProxyType(asdict(Inference()))
    numbers = ("miou", "plain.miou", "val_miou")
    lists = ("iou",)

    def __init__(self, data: Any, settings: EvaluationSettings) -> None:
        super().__init__(data, settings)
        self.inference = inference_of(settings)
        own = OwnSplits(data) if self.settings.size == "own" else None
        self.scores = MaskScores(len(data.classes), self.inference, own)

    @classmethod
    def of(cls, data: ImageDataModule, settings: EvaluationSettings) -> Task:
        if not data.masks:
            raise AttnBridgeError("data.masks is false, but a segmentation network is scored by masks; leave it out")
        return cls(data, settings) if data.has("val") else UnscoredTask(data, settings)

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """MapScores, and the classes' probabilities in the same images after each epoch.

        Raises:
            AttnBridgeError: before training, for scales that the network does not take.
        """
        infer(_network(method), torch.zeros(1, 3, *sides(method.image_size), device=method.device), self.inference)
        return [self.scores, AttentionGallery(folder, self.data.samples("val", IMAGES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """Score both splits; nothing is chosen on either."""
        trainer.validate(method, self.data, verbose=False)
        trainer.test(method, self.data, verbose=False)
        result: dict[str, Any] = self.scores.result()
        return result

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        how = self.inference
        where = f"images and masks at {self.data.image_size} pixels"
        if self.settings.size == "own":
            refined = ", where the CRF sees it" if how.crf else ""
            where = (
                f"images at {self.data.image_size} pixels, answers enlarged to each image's own size{refined}, and "
                "masks at that"
            )
        return {
            "score": "mIoU over one confusion matrix of the whole split, background a class, 255 ignored",
            "split": "test" if self.data.has("test") else "val",
            "classes": "the network's own answer; the images' labels are not used",
            "masks": f"scales {', '.join(map(str, how.scales))}{', mirrored' if how.flip else ''}"
            f"{', logits summed' if how.combine == 'logits' else ''}{', corners aligned' if how.corners else ''}"
            f"{', dense CRF' if how.crf else ''}",
            "resolution": where,
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test images with their masks, the network's and the refined ones, for reports."""
        samples = self.data.samples("test" if self.data.has("test") else "val", IMAGES)
        images = torch.stack([sample["image"] for sample in samples]).to(method.device)
        ways = {"plain": Inference((1.0,), False, False), "refined": self.inference}
        found: dict[str, Any] = {
            name: infer(_network(method), images, how).argmax(1).byte().cpu().numpy() for name, how in ways.items()
        }
        save_arrays(
            folder / EXAMPLES,
            images=np.stack([to_uint8(sample["image"]) for sample in samples]),
            masks=np.stack([sample["mask"].numpy().astype(np.uint8) for sample in samples]),
            **found,
        )

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        scores = record["scores"]
        return [
            f"mIoU {100 * scores['miou']:.1f}, at one scale and without CRF {100 * scores['plain']['miou']:.1f}; "
            f"validation {100 * scores['val_miou']:.1f}, at one scale and without CRF"
        ]

    @staticmethod
    def label_lines(record: RunRecord) -> list[str]:
        return label_iou_lines(record["classes"], record["scores"]["iou"])

    @staticmethod
    def write_page(
        path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
    ) -> None:
        image = data_uri(mask_sheet(runs, folders))
        parts = [
            mask_table(runs),
            as_figure(iou_figure(runs), "IoU of each label on the test split, refined."),
            f'<h2>Masks</h2><figure><img alt="test images and masks" src="{image}">'
            "<figcaption>Test images, their masks, and what the networks make of them.</figcaption></figure>",
        ]
        write_run_page(path, title, introduction, parts, runs)

    @staticmethod
    def sheet(runs: Sequence[RunRecord], folders: Sequence[Path]) -> Image.Image:
        return mask_sheet(runs, folders)


def _network(method: Method) -> Callable[[torch.Tensor], torch.Tensor]:
    """From images to probabilities of the labels, in eval mode."""

    def network(images: torch.Tensor) -> torch.Tensor:
        training = method.training
        answer: Any = method.eval().predict_batch(images)
        method.train(training)
        return answer["probabilities"]  # type: ignore[no-any-return]

    return network


def inference_of(settings: EvaluationSettings) -> Inference:
    """How a segmentation run's masks are made."""
    known = settings.resolved(**MaskTask.defaults)
    return Inference(tuple(known.scales or ()), bool(known.flip), bool(known.crf), known.combine, known.corners)


class MaskScores(SplitScores):
    """One confusion matrix of all pixels of a split, 255 ignored: of the network's answer, and, on the test split, of
    what several scales and a CRF make of it.

    Args:
        num_classes: number N of classes without background.
        inference: how the test split's masks are made.
        own: the images at their own sizes, by split, where the trained network's masks are compared and refined;
            ``None``, and while it is trained: masks are those of the batch.
    """

    def __init__(self, num_classes: int, inference: Inference | None = None, own: OwnSplits | None = None) -> None:
        self.own = own
        self.inference = inference or Inference()
        self.plain, self.refined = (
            MulticlassConfusionMatrix(num_classes + 1, ignore_index=IGNORE_INDEX, validate_args=False) for _ in range(2)
        )
        self.iou: dict[str, Tensor] = {}
        self.module: Any = None

    def start(self, module: LightningModule) -> None:
        self.module = module
        for metric in (self.plain, self.refined):
            metric.to(module.device).reset()

    def update(self, outputs: Any, batch: Any) -> None:
        if "mask" not in batch:
            raise AttnBridgeError("the split has no masks to score against; expected a masks/ folder")
        if self.own is not None and self.module.trainer.state.fn != TrainerFn.FITTING:
            self._update_own(self.own.of(self.module), outputs["probabilities"], batch)
            return
        mask = batch["mask"]
        large = F.interpolate(outputs["probabilities"], mask.shape[1:], mode="bilinear", align_corners=False)
        self.plain.update(large.argmax(1), mask)
        if self.module.trainer.testing:
            refined = infer(lambda x: self.module.predict_batch(x)["probabilities"], batch["image"], self.inference)
            self.refined.update(refined.argmax(1), mask)

    def _update_own(self, own: OwnImages, plain: Tensor, batch: Any) -> None:
        """The same at the images' own sizes, as the masks of a folder are made; one image is in memory at a time."""
        how = self.inference
        views = None
        if self.module.trainer.testing:
            network = lambda images: self.module.predict_batch(images)["probabilities"]  # noqa: E731
            views = infer(network, batch["image"], Inference(how.scales, how.flip, crf=False))
        for i, identity in enumerate(batch["id"]):
            mask = own.mask(identity).to(plain.device)
            large = enlarged(own.over_image(plain[i], mask)[None], (mask.shape[0], mask.shape[1]))
            self.plain.update(large.argmax(1), mask[None])
            if views is not None:
                answer = own.over_image(views[i], mask).cpu().numpy()
                found = torch.from_numpy(refine_mask(own.path(identity), answer, how.crf, plain.device))
                self.refined.update(found[None].to(plain.device), mask[None])

    def finish(self, module: LightningModule, split: str) -> None:
        self.iou[split] = label_iou(self.plain.compute())
        if split == "test":
            self.iou["refined"] = label_iou(self.refined.compute())
        mean = self.iou[split].nanmean()
        if not mean.isnan():
            module.log(f"{split}/miou", mean, prog_bar=True, rank_zero_only=False)

    def result(self) -> dict[str, Any]:
        """Of the test split, all in [0, 1]: mIoU and the labels' IoU as refined, and ``plain`` the network's own; the
        validation's mIoU, plain.

        Raises:
            AttnBridgeError: if no pixel of a split was counted.
        """
        for split, iou in self.iou.items():
            if iou.isnan().all():
                raise AttnBridgeError(
                    f"{split}: every pixel of its masks is 255 (ignored), so there is nothing to score"
                )
        return {
            "miou": float(self.iou["refined"].nanmean()),
            "iou": listed(self.iou["refined"]),
            "plain": {"miou": float(self.iou["test"].nanmean()), "iou": listed(self.iou["test"])},
            "val_miou": float(self.iou["val"].nanmean()),
        }


def listed(iou: Tensor) -> list[float | None]:
    """IoU of each label as a record has it, ``None`` for NaN."""
    return [None if torch.isnan(value) else round(float(value), 5) for value in iou]


def mask_table(runs: Sequence[RunRecord]) -> str:
    """The rows as an HTML table."""
    rows = []
    for run in runs:
        scores = run["scores"]
        values = (scores["miou"], scores["plain"]["miou"], scores["val_miou"])
        rows.append([run["name"], str(run["seed"]), *(f"{100 * v:.1f}" for v in values), f"{run['seconds']:.0f} s"])
    head = ["row", "seed", "mIoU", "one scale, no CRF", "validation, one scale, no CRF", "time"]
    return f"{html_table(head, rows)}<p>{html.escape(format_protocol(runs[0]['protocol']))}</p>"


def iou_figure(runs: Sequence[RunRecord]) -> Figure:
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


def mask_sheet(runs: Sequence[RunRecord], folders: Sequence[Path], most: int = 2) -> Image.Image:
    """The same test images: image, true mask, and each run's mask, refined; with one run its plain one before it, of
    more runs than ``most`` the first and the last."""
    shown = list(zip(runs, folders, strict=True))
    shown = [shown[0], shown[-1]] if len(shown) > most else shown
    data = [read_arrays(folder / "examples.npz", "images", "masks", "plain", "refined") for _, folder in shown]
    count = len(runs[0]["classes"])
    columns = [("image", data[0]["images"]), ("mask", data[0]["masks"])]
    if len(shown) == 1:
        columns.append(("one scale, no CRF", data[0]["plain"]))
    columns += [(run["name"], arrays["refined"]) for (run, _), arrays in zip(shown, data, strict=True)]
    rows = [
        [values[i] if values[i].ndim == 3 else colour_mask(values[i], count) for _, values in columns]
        for i in range(len(data[0]["images"]))
    ]
    return sheet(rows, [name for name, _ in columns])
