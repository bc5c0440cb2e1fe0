"""Accuracy on a domain without labels, by the rule that selects the epoch: scores, protocol, page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import data_uri
from attnbridge.evaluation.gallery import IMAGES, AttentionGallery
from attnbridge.evaluation.metrics.maps import EnergyInside
from attnbridge.evaluation.page import as_figure, format_protocol, html_table, write_run_page
from attnbridge.evaluation.record import Row, RunRecord
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.evaluation.tasks.base import CountsScores, Task, check_answers, row_head, save_examples
from attnbridge.evaluation.tasks.classification import class_sheet
from attnbridge.methods.base import Method
from attnbridge.segmentation.combine import enlarge_maps

SPLITS = ("val", "target")
SALIENT = 0.5
"""Saliency from which on a pixel counts as the object."""
RULES = ("source_validation", "target_oracle", "last")


class DomainTask(Task):
    """Accuracy on a domain without labels, see :class:`DomainScores`."""

    numbers = (*RULES, "val_top1")
    lists = ("curve",)

    @classmethod
    def check(cls, record: RunRecord, where: Path) -> None:
        super().check(record, where)
        if not isinstance(record["protocol"].get("domains"), str):
            raise AttnBridgeError(f"{where}: its protocol names no domains")
        for point in record["scores"]["curve"]:
            if not isinstance(point, dict) or not {"epoch", "val", "target"} <= point.keys():
                raise AttnBridgeError(
                    f"{where}: expected points of the curve to have epoch, val and target, not {point}"
                )

    def __init__(self, data: Any, settings: EvaluationSettings) -> None:
        super().__init__(data, settings)
        self.scores = DomainScores(len(data.classes))

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """MapScores, and the attention of the same images of the target after each epoch."""
        return [self.scores, AttentionGallery(folder, self.data.samples("test", IMAGES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """What was counted after each epoch, under each rule of selection."""
        if not self.scores.curve or self.scores.curve[-1]["epoch"] < trainer.current_epoch:
            trainer.validate(method, self.data, verbose=False)  # a run that is scored again, or its last epoch was not
        result: dict[str, Any] = self.scores.result()
        return result

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        data = self.data
        return {
            "score": "share of the target's images whose class is the most probable one",
            "domains": f"{', '.join(data.sources)} to {data.target}",
            "target": "its images are withheld too" if data.generalise else "its images are seen without labels",
            "source_validation": f"the epoch that is best on held-out images of the sources, {data.val_share:.0%}",
            "target_oracle": "the epoch that is best on the target: an upper bound, no result",
            "energy": "of the true class's map inside the salient object, at the epoch of source_validation; saliency "
            f"by {data.saliency_model or 'given maps' if data.saliency else 'none'}",
            "resolution": f"{data.image_size} pixels, one crop",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight images of the target with scores and maps, for pages."""
        save_examples(folder, method, self.data.samples("test", IMAGES))

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        scores = record["scores"]
        rules = RULES if len(scores["curve"]) > 1 else ("last",)
        return ["target accuracy by rule of selection: " + ", ".join(f"{r} {100 * scores[r]:.1f}" for r in rules)]

    @staticmethod
    def row(record: RunRecord) -> Row:
        scores = {name: record["scores"][name] for name in ("source_validation", "target_oracle", "energy")}
        return {**row_head(record), "domains": record["protocol"]["domains"], **scores}

    @staticmethod
    def write_page(
        path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
    ) -> None:
        image = data_uri(class_sheet(runs, folders))
        parts = [
            rule_table(runs),
            as_figure(
                curves(runs), "Accuracy after each epoch: target (solid), the sources' validation images (dashed)."
            ),
            f'<h2>Where they look in the target</h2><figure><img alt="images of the target and maps" src="{image}">'
            "<figcaption>After the last epoch: the map of each image's true class, to its own maximum, and the "
            "answer."
            "</figcaption></figure>",
        ]
        write_run_page(path, title, introduction, parts, runs)

    @staticmethod
    def sheet(runs: Sequence[RunRecord], folders: Sequence[Path]) -> Image.Image:
        return class_sheet(runs, folders, most=len(runs))


class DomainScores(CountsScores):
    """Two validation loaders: the sources' held-out images, then the target's.

    After each epoch that is scored :attr:`curve` gains a point: the epoch, counted from 1, accuracy on both, and, where
    the target's images have saliency maps, the share of the true class's map that lies on the salient object. It is
    kept in the checkpoint.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        self.accuracy = {name: MulticlassAccuracy(num_classes, average="micro") for name in SPLITS}
        self.energy = EnergyInside()
        self.curve: list[dict[str, float]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for metric in (*self.accuracy.values(), self.energy):
            metric.to(pl_module.device).reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        check_answers(outputs, batch)
        labels = batch["labels"].argmax(1)
        self.accuracy[SPLITS[dataloader_idx]].update(outputs["scores"].float(), labels)
        if dataloader_idx == 1 and "saliency" in batch:
            self.energy.update(*salient(outputs["maps"].float(), batch["saliency"], labels))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        accuracy = {name: float(metric.compute()) for name, metric in self.accuracy.items()}
        point = {"epoch": trainer.current_epoch + (trainer.state.fn == "fit"), **accuracy}  # counted on after each fit
        if self.energy.count:
            point["energy"] = float(self.energy.compute())
        values = {f"{name}/top1": value for name, value in accuracy.items()}
        pl_module.log_dict(values, prog_bar=True, rank_zero_only=False)
        if self.curve and self.curve[-1]["epoch"] >= point["epoch"]:
            if trainer.state.fn != "fit":  # a run that is done may be scored again
                return
            self.curve.pop()  # the same epoch, before its end
        self.curve.append(point)

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve = list(state_dict["curve"])

    def result(self) -> dict[str, Any]:
        """Accuracy on the target, in [0, 1], at the epoch that each rule selects, and what was found there.

        ``source_validation`` takes the epoch with the highest accuracy on the sources' validation images (the last of
        several), which a user could do too; ``target_oracle`` the best on the target itself, an upper bound; ``last``
        none.
        """
        chosen = {
            "source_validation": max(range(len(self.curve)), key=lambda i: (self.curve[i]["val"], i)),
            "target_oracle": max(range(len(self.curve)), key=lambda i: (self.curve[i]["target"], i)),
            "last": len(self.curve) - 1,
        }
        found: dict[str, Any] = {rule: self.curve[i]["target"] for rule, i in chosen.items()}
        best = self.curve[chosen["source_validation"]]
        return {**found, "val_top1": best["val"], "energy": best.get("energy"), "curve": self.curve}


def salient(maps: Tensor, saliency: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The map of each image's true class, and where its object is, of those that have one.

    Args:
        maps: ``(B, N, h, w)``.
        saliency: ``(B, H, W)`` in [0, 1].
        labels: ``(B,)``.

    Returns:
        ``(P, H, W)`` and bool ``(P, H, W)``.
    """
    own = maps.gather(1, labels[:, None, None, None].expand(-1, 1, *maps.shape[2:]))
    objects = saliency > SALIENT
    there = objects.flatten(1).any(1)
    large = enlarge_maps(own[there], (saliency.shape[1], saliency.shape[2]))
    return large[:, 0], objects[there]


def rule_table(runs: Sequence[RunRecord]) -> str:
    """The rows as an HTML table, target accuracy under each rule of selection."""
    rows = []
    for run in runs:
        scores = run["scores"]
        values = [*(scores[rule] for rule in RULES), scores["energy"]]
        cells = [run["name"], str(run["seed"]), run["protocol"]["domains"]]
        rows.append([*cells, *("" if v is None else f"{100 * v:.1f}" for v in values), f"{run['seconds']:.0f} s"])
    head = ["row", "seed", "domains", *(rule.replace("_", " ") for rule in RULES), "energy inside", "time"]
    return f"{html_table(head, rows)}<p>{html.escape(format_protocol(runs[0]['protocol']))}</p>"


def curves(runs: Sequence[RunRecord]) -> Figure:
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
