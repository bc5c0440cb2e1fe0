"""Accuracy on the sources' validation pictures and on the target after each epoch, and which epoch is reported."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from attnbridge.evaluation.map_scores import EnergyInside
from attnbridge.segmentation.combine import enlarge_maps

SPLITS = ("val", "target")
SALIENT = 0.5
"""Saliency from which on a pixel counts as the object."""


class DomainScores(Callback):
    """Two validation loaders: the sources' held-out pictures, then the target's.

    After each epoch that is scored :attr:`curve` gains a point: the epoch, counted from 1, accuracy on both, and, where
    the target's pictures have saliency maps, the share of the true class's map that lies on the salient object. It is
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

        ``source_validation`` takes the epoch with the highest accuracy on the sources' validation pictures (the last of
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
    """The map of each picture's true class, and where its object is, of those that have one.

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
