"""What a trained method says of images: scores of the classes, and a map of each."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from attnbridge.attention.class_maps import grad_cam
from attnbridge.data.sample import Batch


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
    """The evaluation of a :class:`~attnbridge.methods.base.Method`: it predicts, others score."""

    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """From logits to scores: several classes an image, or one."""
    scores_maps: bool = True
    """Whether maps are made when the method is scored; without them that is a forward pass alone."""

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

    def validation_step(self: Any, batch: Batch, _index: int, dataloader_idx: int = 0) -> Any:
        """A :class:`Prediction`, without maps where they are not scored."""
        if self.scores_maps:
            return self.predict_batch(batch["image"])
        logits = self.network(self.normalised(batch["image"]))
        return {"logits": logits.float(), "scores": self.probabilities(logits)}

    def test_step(self: Any, batch: Batch, index: int, dataloader_idx: int = 0) -> Any:
        """As in validation."""
        return self.validation_step(batch, index, dataloader_idx)

    def predict_step(self: Any, batch: Batch, _index: int, dataloader_idx: int = 0) -> Any:
        """Maps and scores, for ``trainer.predict``."""
        return self.predict_batch(batch["image"])
