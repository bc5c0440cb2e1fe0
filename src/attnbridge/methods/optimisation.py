"""The optimiser of a method, and how its learning rate changes over a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, OneCycleLR, PolynomialLR

Schedule = Literal["one_cycle", "step", "poly", "constant"]
OptimizerName = Literal["adamw", "sgd"]
Named = Iterable[tuple[str, torch.nn.Parameter]]
"""Parameters with their names."""


@dataclass(frozen=True)
class Optimisation:
    """The optimiser's options; see :class:`~attnbridge.methods.base.Method`."""

    optimizer: OptimizerName
    lr: float
    backbone_lr: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    step_at: tuple[float, ...]
    step_by: float

    def groups(self, head: Sequence[torch.nn.Parameter], rest: Sequence[torch.nn.Parameter]) -> list[dict[str, Any]]:
        """The head at ``lr``, the rest at ``lr * backbone_lr``."""
        return [{"params": list(head), "lr": self.lr}, {"params": list(rest), "lr": self.lr * self.backbone_lr}]

    def deeplab_groups(self, last: Named, head: Named, rest: Named) -> list[dict[str, Any]]:
        """DeepLab's: the last layers at ``10 lr``, the rest of the head at ``lr``, the rest at ``lr * backbone_lr``;
        all biases at twice as much, and without decay (speedinghzl/DSRG, 91efdf7, train-s.prototxt:46, 401, 463; the
        same in kolesman/SEC, c784190, train.prototxt:42, 396, 458)."""
        groups: list[dict[str, Any]] = []
        for named, lr in ((last, 10 * self.lr), (head, self.lr), (rest, self.lr * self.backbone_lr)):
            parameters = list(named)
            weights = [p for name, p in parameters if not name.endswith("bias")]
            biases = [p for name, p in parameters if name.endswith("bias")]
            groups.append({"params": weights, "lr": lr})
            groups.append({"params": biases, "lr": 2 * lr, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]

    def build(self, groups: list[dict[str, Any]], steps: int) -> dict[str, Any]:
        """Optimiser and schedule of a run of so many steps, as Lightning wants them."""
        optimizer: Optimizer
        if self.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)
        scheduler = make_schedule(optimizer, self.schedule, steps, self.step_at, self.step_by)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def make_schedule(
    optimizer: Optimizer, schedule: Schedule, steps: int, step_at: Sequence[float], step_by: float
) -> LRScheduler:
    """The schedule of a run of so many steps; see :class:`~attnbridge.methods.base.Method`."""
    if schedule == "one_cycle":
        return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps + 1)
    if schedule == "step":
        return MultiStepLR(optimizer, [max(1, int(share * steps)) for share in step_at], gamma=step_by)
    if schedule == "poly":
        return PolynomialLR(optimizer, total_iters=steps, power=0.9)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)
