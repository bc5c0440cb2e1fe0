"""What a run is judged by: maps or masks against masks, or the share of pictures whose class is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch import Callback

from attnbridge.data.classes import ClassData
from attnbridge.data.cue_data import CueData
from attnbridge.data.domains import DomainData
from attnbridge.data.module import BridgeData
from attnbridge.data.sample import Sample
from attnbridge.data.transforms import sides
from attnbridge.evaluation.class_report import write_class_report
from attnbridge.evaluation.class_scores import ClassScores
from attnbridge.evaluation.domain_report import write_domain_report
from attnbridge.evaluation.domain_scores import DomainScores
from attnbridge.evaluation.gallery import PICTURES, AttentionGallery, look_at
from attnbridge.evaluation.mask_report import write_mask_report
from attnbridge.evaluation.mask_scores import MaskScores
from attnbridge.evaluation.pictures import to_uint8
from attnbridge.evaluation.report import write_report, write_unscored_report
from attnbridge.evaluation.scoring import Scores
from attnbridge.evaluation.source_attention import save_source_attention
from attnbridge.methods.base import Method
from attnbridge.segmentation.inference import Inference, infer

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
        if self.data.has("test"):
            trainer.test(method, self.data, verbose=False)
        else:  # said in the protocol: the numbers are then those of the split that chose the threshold
            self.scores.iou["test"] = self.scores.iou["val"]
            self.scores.average_precision["test"] = self.scores.average_precision["val"]
            self.scores.others["test"] = self.scores.others["val"]
        return self.scores.result(self.fixed)

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        split = "test" if self.data.has("test") else "val"
        same = " (the same split)" if split == "val" else ""
        return {
            "score": "mIoU over one confusion matrix of the whole split, background a class, 255 ignored",
            "split": split,
            "threshold": f"relative to each map's maximum; chosen on val{same}",
            "selection": "last: the weights are those of the last epoch",
            "fixed_threshold": self.fixed,
            "predicted": f"a class is predicted where its probability exceeds {self.score_threshold}",
            "score_threshold": self.score_threshold,
            "resolution": f"pictures and masks at {self.data.image_size} pixels, one scale, not flipped or refined",
            "overlap": "where maps of several classes exceed the threshold the class with the larger score wins",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test pictures with scores and maps, for reports."""
        samples = self.data.samples("test" if self.data.has("test") else "val", PICTURES)
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


class MaskTask:
    """A segmentation network's masks, see :class:`~attnbridge.evaluation.mask_scores.MaskScores`."""

    def __init__(self, config: Config, data: CueData) -> None:
        self.data = data
        self.inference = inference_of(config)
        self.scores = MaskScores(len(data.classes), self.inference)

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """Scores, and the classes' probabilities in the same pictures after each epoch.

        Raises:
            AttnBridgeError: before training, for scales that the network does not take.
        """
        infer(_network(method), torch.zeros(1, 3, *sides(method.image_size), device=method.device), self.inference)
        return [self.scores, AttentionGallery(folder, self.data.samples("val", PICTURES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """Score both splits; nothing is chosen on either."""
        trainer.validate(method, self.data, verbose=False)
        trainer.test(method, self.data, verbose=False)
        return self.scores.result()

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        how = self.inference
        return {
            "score": "mIoU over one confusion matrix of the whole split, background a class, 255 ignored",
            "split": "test" if self.data.has("test") else "val",
            "classes": "the network's own answer; the pictures' labels are not used",
            "masks": f"scales {', '.join(map(str, how.scales))}{', mirrored' if how.flip else ''}"
            f"{', dense CRF' if how.crf else ''}",
            "resolution": f"pictures and masks at {self.data.image_size} pixels",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight test pictures with their masks, the network's and the refined ones, for reports."""
        samples = self.data.samples("test" if self.data.has("test") else "val", PICTURES)
        images = torch.stack([sample["image"] for sample in samples]).to(method.device)
        ways = {"plain": Inference((1.0,), False, False), "refined": self.inference}
        found: dict[str, Any] = {
            name: infer(_network(method), images, how).argmax(1).byte().cpu().numpy() for name, how in ways.items()
        }
        np.savez_compressed(
            folder / "examples.npz",
            images=np.stack([to_uint8(sample["image"]) for sample in samples]),
            masks=np.stack([sample["mask"].numpy().astype(np.uint8) for sample in samples]),
            **found,
        )


def _network(method: Method) -> Callable[[torch.Tensor], torch.Tensor]:
    """From pictures to probabilities of the labels, in eval mode."""

    def network(pictures: torch.Tensor) -> torch.Tensor:
        training = method.training
        answer: Any = method.eval().predict_batch(pictures)
        method.train(training)
        return answer["probabilities"]  # type: ignore[no-any-return]

    return network


def inference_of(config: Config) -> Inference:
    """How a segmentation run's masks are made."""
    settings = config.get("evaluation") or {}
    known = {name: settings[name] for name in ("flip", "crf") if name in settings}
    return Inference(tuple(settings.get("scales", Inference.scales)), **known)


class DomainTask:
    """Accuracy on a domain without labels, see :class:`~attnbridge.evaluation.domain_scores.DomainScores`."""

    def __init__(self, data: DomainData) -> None:
        self.data = data
        self.scores = DomainScores(len(data.classes))

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """Scores, and the attention of the same pictures of the target after each epoch."""
        return [self.scores, AttentionGallery(folder, self.data.samples("test", PICTURES), method.classes)]

    def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
        """What was counted after each epoch, under each rule of selection."""
        if not self.scores.curve or self.scores.curve[-1]["epoch"] < trainer.current_epoch:
            trainer.validate(method, self.data, verbose=False)  # a run that is scored again, or its last epoch was not
        return self.scores.result()

    def protocol(self) -> dict[str, Any]:
        """How the numbers were made, in words, to stand beside them."""
        data = self.data
        return {
            "score": "share of the target's pictures whose class is the most probable one",
            "domains": f"{', '.join(data.sources)} to {data.target}",
            "target": "its pictures are withheld too" if data.generalise else "its pictures are seen without labels",
            "source_validation": f"the epoch that is best on held-out pictures of the sources, {data.val_share:.0%}",
            "target_oracle": "the epoch that is best on the target: an upper bound, no result",
            "energy": "of the true class's map inside the salient object, at the epoch of source_validation; saliency "
            f"by {data.saliency_model or 'given maps' if data.saliency else 'none'}",
            "resolution": f"{data.image_size} pixels, one crop",
        }

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight pictures of the target with scores and maps, for reports."""
        _save(folder, method, self.data.samples("test", PICTURES))


class Unscored:
    """A target without pictures for validation, so without masks: maps to look at, and no score."""

    scores: Any = None

    def __init__(self, data: BridgeData) -> None:
        self.data = data

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """The attention of the same training pictures after each epoch."""
        return [AttentionGallery(folder, self.data.samples("train", PICTURES), method.classes)]

    def evaluate(self, _method: Method, _trainer: L.Trainer) -> dict[str, Any]:
        """No scores."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """Why there are no numbers."""
        return {"score": "none, since the target has no val split"}

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight training pictures with scores and maps, for reports."""
        _save(folder, method, self.data.samples("train", PICTURES))


Task = MapTask | ClassTask | MaskTask | DomainTask | Unscored


def page_for(content: dict[str, Any]) -> Callable[..., None]:
    """What writes the report of runs like this one; see :func:`~attnbridge.evaluation.report.write_report`."""
    if not content["scores"]:
        return write_unscored_report
    if "target_oracle" in content["scores"]:
        return write_domain_report
    if "top1" in content["scores"]:
        return write_class_report
    return write_mask_report if "plain" in content["scores"] else write_report


def task_of(config: Config, data: Any) -> Task:
    """The task of a configuration."""
    if isinstance(data, ClassData):
        return ClassTask(data)
    if isinstance(data, DomainData):
        return DomainTask(data)
    if not data.has("val"):
        return Unscored(data)
    return MaskTask(config, data) if isinstance(data, CueData) else MapTask(config, data)


def _save(folder: Path, method: Method, samples: list[Sample], **more: Any) -> None:
    np.savez_compressed(
        folder / "examples.npz",
        images=np.stack([to_uint8(sample["image"]) for sample in samples]),
        labels=np.stack([sample["labels"].numpy() for sample in samples]),
        **more,
        **look_at(method, samples),
    )
