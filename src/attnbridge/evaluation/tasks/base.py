"""What a run is judged by: one object owns its callbacks, scores, protocol, examples, words, rows and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.provenance import own_file
from attnbridge.data.sample import Sample
from attnbridge.errors import AttnBridgeError, DivergedError
from attnbridge.evaluation.figures import to_uint8
from attnbridge.evaluation.gallery import look_at
from attnbridge.evaluation.record import Row, RunRecord
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.methods.base import Method

EXAMPLES, VALIDATION = "examples.npz", "validation.txt"


class Task:
    """What runs of a method are judged by.

    An instance belongs to the data of one run. What tells of finished runs needs their records alone and is static.

    Args:
        data: the run's data.
        settings: how it is scored.
    """

    scores: Any = None
    """The callback that counts; ``None`` where nothing is scored."""
    uses: tuple[str, ...] = ()
    """The settings of the evaluation that its scores depend on; a literal, read without importing the task."""
    defaults: Mapping[str, Any] = {}
    """Its own choice of those that are ``None``."""
    numbers: tuple[str, ...] = ()
    """Scores of a record that are numbers, as ``predicted.threshold``."""
    lists: tuple[str, ...] = ()
    """Scores of a record that are lists; those of IoU have a value for each label."""

    def __init__(self, data: Any, settings: EvaluationSettings) -> None:
        self.data, self.settings = data, settings.resolved(**self.defaults)

    def evaluation(self) -> dict[str, Any]:
        """The settings that its scores are made with, by name."""
        return {name: value for name, value in asdict(self.settings).items() if name in self.uses}

    @classmethod
    def of(cls, data: ImageDataModule, settings: EvaluationSettings) -> Task:
        """The task for some data: another one where they cannot be scored like this."""
        return cls(data, settings)

    @classmethod
    def reference(cls) -> str:
        """What ``run.json`` names the task by."""
        return f"{cls.__module__}:{cls.__qualname__}"

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """What watches the training."""
        raise NotImplementedError

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """The scores of a trained method."""
        raise NotImplementedError

    def protocol(self) -> dict[str, Any]:
        """How the scores were made, in words, to stand beside them."""
        raise NotImplementedError

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight images with scores and maps, for pages."""
        raise NotImplementedError

    @classmethod
    def check(cls, record: RunRecord, where: Path) -> None:
        """Check what a record says the scores are.

        Raises:
            AttnBridgeError: for a score that is not there, or is none; null is one that could not be told.
        """
        labels = len(record["classes"]) + 1
        for name in (*cls.numbers, *cls.lists):
            value: Any = record["scores"]
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if name in cls.numbers and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise AttnBridgeError(f"{where}: expected the score {name} to be a number, not {value!r:.80}")
            if name in cls.lists and not (isinstance(value, list) and all(map(_is_point, value))):
                raise AttnBridgeError(f"{where}: expected the score {name} to be a list of numbers, not {value!r:.80}")
            if name.endswith("iou") and name in cls.lists and len(value) != labels:
                raise AttnBridgeError(f"{where}: has {len(value)} values of {name} for {labels} labels")

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        """The scores as lines to read."""
        raise NotImplementedError

    @staticmethod
    def label_lines(record: RunRecord) -> list[str]:
        """A line for each label, where labels are scored apart."""
        return []

    @staticmethod
    def row(record: RunRecord) -> Row:
        """A run's line of a table's ``results.json``."""
        return {**row_head(record), **record["scores"]}

    @staticmethod
    def write_page(
        path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
    ) -> None:
        """Write the page of one or several runs.

        Args:
            path: the file to write.
            title: heading.
            introduction: a paragraph of plain text under it.
            runs: contents of the runs' ``run.json``.
            folders: the runs' folders, for ``examples.npz``.
        """
        raise NotImplementedError

    @staticmethod
    def sheet(runs: Sequence[RunRecord], folders: Sequence[Path]) -> Image.Image:
        """The same test images under each run."""
        raise NotImplementedError


def row_head(record: RunRecord) -> Row:
    """What all lines of ``results.json`` begin with."""
    return {"name": record["name"], "seed": record["seed"], "seconds": record["seconds"]}


def save_examples(
    folder: Path, method: Method, samples: Sequence[Sample], looked: dict[str, Any] | None = None, **more: Any
) -> None:
    """``examples.npz``: images, labels, scores and maps, and arrays of the task's own.

    Args:
        folder: the run's.
        method: trained.
        samples: to look at.
        looked: what the method says of them, if it was asked already.
        more: arrays.
    """
    save_arrays(
        folder / EXAMPLES,
        images=np.stack([to_uint8(sample["image"]) for sample in samples]),
        labels=np.stack([sample["labels"].numpy() for sample in samples]),
        **more,
        **(look_at(method, list(samples)) if looked is None else looked),
    )


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays as one file of numpy's."""
    with own_file(path) as partial, partial.open("wb") as handle:
        np.savez_compressed(handle, **arrays)


def label_iou_lines(classes: Sequence[str], iou: Sequence[float | None]) -> list[str]:
    """IoU of each label, in the order of the masks' values.

    >>> label_iou_lines(["cat"], [0.5, None])
    ['background           IoU  50.0', 'cat                  IoU     -']
    """
    return [
        f"{name:<20} IoU {'    -' if value is None else f'{100 * value:5.1f}'}"
        for name, value in zip(("background", *classes), iou, strict=True)
    ]


def percent(value: float | None) -> str:
    """A share as percent; a dash for one that is not known.

    >>> percent(0.5), percent(None)
    ('50.0', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"


def known(value: float) -> float | None:
    """A score, or ``None`` for NaN: there was nothing to score."""
    return None if np.isnan(value) else value


def check_answers(outputs: Any, batch: Any) -> None:
    """Check what a network says of images before it is scored.

    Raises:
        DivergedError: for a value that is NaN or infinite: it would count as some answer.
    """
    for name, values in outputs.items():
        if not isinstance(values, torch.Tensor) or not values.is_floating_point() or values.isfinite().all():
            continue
        wrong = (~values.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise DivergedError(
            f"{batch['id'][wrong[0]]}: the network's {name} of it are not finite, so there is nothing to score; its "
            "training diverged, or it does not work in this precision"
        )


def _is_point(value: Any) -> bool:
    """Whether this is a score of a list: a number, null, or several by name."""
    values = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(each, int | float | None) for each in values)


class CountsScores(Callback):
    """A callback that counts the scores of a method, which then logs none of its own."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        pl_module.logs_scores = False

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        pl_module.logs_scores = True


class SplitScores(CountsScores):
    """A callback that starts, updates and finishes its scores on each pass of ``val`` and of ``test``."""

    def start(self, module: LightningModule) -> None:
        """Before the first batch."""
        raise NotImplementedError

    def update(self, outputs: Any, batch: Any) -> None:
        """After each batch, with what the step returned."""
        raise NotImplementedError

    def finish(self, module: LightningModule, split: str) -> None:
        """After the last batch of ``split``."""
        raise NotImplementedError

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start(pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        check_answers(outputs, batch)
        self.update(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start(pl_module)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        check_answers(outputs, batch)
        self.update(outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(pl_module, "test")
