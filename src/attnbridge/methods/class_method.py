"""What the methods share that learn from pictures of one class each."""

from __future__ import annotations

from typing import Any

from attnbridge.data.sample import Batch
from attnbridge.methods.base import Method


class ClassMethod(Method):
    """A method of :class:`~attnbridge.data.classes.ClassData`; see :class:`~attnbridge.methods.base.Method`."""

    streams = ("target",)
    activation = "softmax"

    def validation_step(self, batch: Batch, _index: int, dataloader_idx: int = 0) -> Any:
        """Logits and probabilities of the classes, ``(B, N)``."""
        logits = self.network(self.normalised(batch["image"]))
        return {"logits": logits.float(), "scores": self.probabilities(logits)}

    test_step = validation_step
