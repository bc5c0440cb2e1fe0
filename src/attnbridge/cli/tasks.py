"""What a run is judged by: maps against masks, or the share of pictures whose class is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch import Callback

from attnbridge.data.classes import ClassData
from attnbridge.data.module import BridgeData
from attnbridge.data.sample import Sample
from attnbridge.evaluation.class_report import write_class_report
from attnbridge.evaluation.class_scores import ClassScores
from attnbridge.evaluation.gallery import PICTURES, AttentionGallery, look_at
from attnbridge.evaluation.pictures import to_uint8
from attnbridge.evaluation.report import write_report
from attnbridge.evaluation.scoring import Scores
from attnbridge.evaluation.source_attention import save_source_attention
from attnbridge.methods.base import Method

Config = dict[str, Any]
FIXED_THRESHOLD = 0.5


class MapTask:
    """Maps against masks, see :class:`~attnbridge.evaluation.scoring.Scores`."""

    def __init__(self, config: Config, data: BridgeData) -> None:
        self.data = data
        settings = config.get("evaluation") or {}
        self.fixed = settings.get("threshold", FIXED_THRESHOLD)
        self.score_threshold = settings.get("score_threshold", 0.5)
        self.scores = Scores(len(data.classes), self.score_threshold)

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """Scores, and the attention of the same pictures after each epoch."""
        return [self.scores, AttentionGallery(folder, self.data.samples("val", PICTURES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """Choose the threshold on validation, score the test split; see :meth:`Scores.result`."""
        trainer.validate(method, self.data, verbose=False)
        if self.data.has_test():
            trainer.test(method, self.data, verbose=False)
        else:  # said in the protocol: the numbers are then those of the split that chose the threshold
            self.scores.iou["test"] = self.scores.iou["val"]
            self.scores.average_precision["test"] = self.scores.average_precision["val"]
            self.scores.others["test"] = self.scores.others["val"]
        return self.scores.result(self.fixed)

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        split = "test" if self.data.has_test() else "val"
        same = " (the same split)" if split == "val" else ""
        return {
            "score": "mIoU over one confusion matrix of the whole split, background a class, 255 ignored",
            "split": split,
            "threshold": f"relative to each map's maximum; chosen on val{same}",
            "fixed_threshold": self.fixed,
            "predicted": f"a class is predicted where its probability exceeds {self.score_threshold}",
            "score_threshold": self.score_threshold,
            "resolution": f"pictures and masks at {self.data.image_size} pixels, one scale, not flipped or refined",
            "overlap": "where maps of several classes exceed the threshold the class with the larger score wins",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test pictures with scores and maps, for reports."""
        samples = self.data.samples("test" if self.data.has_test() else "val", PICTURES)
        masks = np.stack([sample["mask"].numpy().astype(np.uint8) for sample in samples])
        _save(folder, method, samples, masks=masks)


class ClassTask:
    """The share of pictures whose class is found, see :class:`~attnbridge.evaluation.class_scores.ClassScores`."""

    def __init__(self, data: ClassData) -> None:
        self.data = data
        self.scores = ClassScores(len(data.classes))

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """Scores, and the attention of the same pictures after each epoch, if any is kept for validation.

        Which pictures those are is written to ``validation.txt``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "validation.txt").write_text("".join(f"{record.id}\n" for record in self.data.records("val")))
        samples = self.data.samples("val", PICTURES)
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
            "score": "share of the test pictures whose class is the most probable one",
            "split": "test, else val; the model is that of the last epoch, nothing was chosen on these pictures",
            "training": f"{len(self.data.records('train'))} pictures, {len(self.data.records('val'))} for validation",
            "resolution": f"{self.data.image_size} pixels, one crop",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test pictures with scores and maps, for reports, and what of a source counted in them."""
        samples = self.data.samples("test", PICTURES)
        _save(folder, method, samples)
        save_source_attention(method, samples, folder)


Task = MapTask | ClassTask


def page_for(content: dict[str, Any]) -> Callable[..., None]:
    """What writes the report of runs like this one; see :func:`~attnbridge.evaluation.report.write_report`."""
    return write_class_report if "top1" in content["scores"] else write_report


def task_of(config: Config, data: Any) -> Task:
    """The task of a configuration."""
    return ClassTask(data) if isinstance(data, ClassData) else MapTask(config, data)


def _save(folder: Path, method: Method, samples: list[Sample], **more: Any) -> None:
    np.savez_compressed(
        folder / "examples.npz",
        images=np.stack([to_uint8(sample["image"]) for sample in samples]),
        labels=np.stack([sample["labels"].numpy() for sample in samples]),
        **more,
        **look_at(method, samples),
    )
