"""What a trained method says of images: scores of the classes, and a map of each."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from attnbridge.attention.class_maps import grad_cam
from attnbridge.attention.observe import run_for_scores
from attnbridge.data.plain import as_batch
from attnbridge.data.sample import Batch
from attnbridge.methods.scores import Scores


class Prediction(TypedDict):
    """What a method says of a batch.

    Attributes:
        logits: of each class, ``(B, N)``, float32 whatever the network runs in.
        scores: probability of each class, ``(B, N)``, float32.
        maps: class map of each class, ``(B, N, h, w)``, not negative, at the features' resolution.
    """

    logits: Tensor
    scores: Tensor
    maps: Tensor


class Predicting:
    """The evaluation of a :class:`~attnbridge.methods.base.Method`: it predicts; where no task scores, it logs what its
    labels are worth."""

    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """From logits to scores: several classes an image, or one."""
    scores_maps: bool = True
    """Whether maps are made when the method is scored; without them that is a forward pass alone."""

    logs_scores: bool = True
    """Whether a pass over a split logs :class:`~attnbridge.methods.scores.Scores`; not where a task counts."""
    _scores: dict[int, Scores] | None = None

    def predict_batch(self: Any, images: Tensor) -> Prediction:
        """Scores and the maps of all classes of images in [0, 1]; leaves no graph behind."""
        with torch.inference_mode(False), torch.no_grad():  # Lightning's inference mode knows no gradient
            logits, features = self.forward_features(images.clone())
            classes = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
            maps = grad_cam(features, logits, classes, second_order="off", spatial=self.spatial)
        return {"logits": logits.detach().float(), "scores": self.probabilities(logits.detach()), "maps": maps.detach()}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Scores of the classes, ``(B, N)``, float32: half precision makes large logits equal."""
        logits = logits.float()
        return logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()

    def evaluate_batch(self: Any, batch: Batch) -> Any:
        """A :class:`Prediction`, without maps where they are not scored."""
        if self.scores_maps:
            return self.predict_batch(batch["image"])
        logits = run_for_scores(self.network, self.normalised(batch["image"]))
        return {"logits": logits.float(), "scores": self.probabilities(logits)}

    def validation_step(self: Any, batch: Any, _index: int, dataloader_idx: int = 0) -> Any:
        """A :class:`Prediction` of a batch; the third part of a plain one is a mask, see
        :func:`~attnbridge.data.plain.as_batch`."""
        batch = as_batch(batch, len(self.classes), "mask")
        answer = self.evaluate_batch(batch)
        if self._scores is not None:
            if dataloader_idx not in self._scores:
                self._scores[dataloader_idx] = Scores(len(self.classes), self.activation == "softmax", self.device)
            self._scores[dataloader_idx].update(answer, batch)
        return answer

    def test_step(self: Any, batch: Any, index: int, dataloader_idx: int = 0) -> Any:
        """As in validation."""
        return self.validation_step(batch, index, dataloader_idx)

    def on_validation_epoch_start(self) -> None:
        self._scores = {} if self.logs_scores else None

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self: Any, split: str) -> None:
        """Log what was counted, of several loaders each with its number."""
        found, self._scores = self._scores or {}, None
        for number, scores in sorted(found.items()):
            place = f"/{number}" if len(found) > 1 else ""
            values = {f"{split}/{name}{place}": value for name, value in scores.compute().items()}
            self.log_dict(values, prog_bar=True, sync_dist=False, rank_zero_only=False)

    def predict_step(self: Any, batch: Any, _index: int, dataloader_idx: int = 0) -> Any:
        """Maps and scores, for ``trainer.predict``; a batch, or images alone."""
        return self.predict_batch(as_batch(batch, len(self.classes))["image"])
