"""How the learning rate changes over a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, OneCycleLR, PolynomialLR

Schedule = Literal["one_cycle", "step", "poly", "constant"]


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
