"""Scores of a pass over a split: validation's hooks and the test's are one."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class SplitScores(Callback):
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
        self.update(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start(pl_module)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.update(outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(pl_module, "test")
