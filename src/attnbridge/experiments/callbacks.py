"""What keeps a run on the disk while it trains: a whole checkpoint and a row of metrics after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from attnbridge.data.files import atomic_write
from attnbridge.data.provenance import OwnFiles, own_file
from attnbridge.data.text import write_rows

VALIDATED = ("val/", "target/")
"""What the names of validation's metrics begin with; an epoch without validation has none."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there: at each moment the place holds a whole one or none.

    Args:
        own: the files of the run's folder.
    """

    def __init__(self, own: OwnFiles | None = None) -> None:
        super().__init__()
        self.own = own

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        place = Path(path)
        ours = self.own is not None and place.is_relative_to(self.own.folder)
        writing = self.own.writing if self.own is not None and ours else atomic_write
        with writing(place) as partial:
            _save(checkpoint, partial)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; what the system refuses, as on a full disk, PyTorch tells in words of its own."""
    try:
        with path.open("wb") as handle:
            torch.save(checkpoint, handle)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


class LastCheckpoint(Checkpoint):
    """Keeps the state after the last whole epoch, random numbers included, so that a resumed run goes on as it would.

    Lightning's ``ModelCheckpoint(save_last=True, save_top_k=0)`` writes at the end of a run alone.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["random_state"])


class MetricsTable(Callback):
    """``metrics.csv``: a row for each epoch, rewritten after it.

    The rows are part of the checkpoint, so that a resumed run has those before it and none twice.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not self._validated:
            known = {name: value for name, value in known.items() if not name.startswith(VALIDATED)}
        self._validated = False
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **known})
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with own_file(self.path) as partial:
            write_rows(partial, [names, *([row.get(name, "") for name in names] for row in self.rows)])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
