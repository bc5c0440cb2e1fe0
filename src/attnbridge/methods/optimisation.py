"""The optimiser of a method, and how its learning rate changes over a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
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

    def build(self, groups: list[dict[str, Any]], steps: int, adversary: Optimizer | None = None) -> dict[str, Any]:
        """Optimiser and schedule of a run of so many steps, as Lightning wants them.

        Args:
            groups: of parameters.
            steps: of the optimiser in the run.
            adversary: the optimiser of an adversary's parameters, stepped along with the other, without a schedule.
        """
        optimizer: Optimizer
        if self.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)
        if adversary is not None:
            optimizer = JointOptimizer(optimizer, adversary)
        scheduler = make_schedule(optimizer, self.schedule, steps, self.step_at, self.step_by)
        if isinstance(optimizer, JointOptimizer):
            optimizer.hold_adversary()  # a schedule sets a first rate
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class JointOptimizer(Optimizer):
    """A network's optimiser and its adversary's as one: they step together, so both sides' gradients are those of the
    same weights.

    Each keeps its own algorithm; the values and the steps are those of two optimisers. Groups and state are shared with
    the two, so that what is done to an optimiser is done to both: gradients are cleared, unscaled and saved together.

    Args:
        network: the network's optimiser; a schedule is of its rates.
        adversary: the adversary's, at constant options, see :meth:`hold_adversary`.

    >>> network, adversary = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    >>> both = JointOptimizer(torch.optim.SGD([network], lr=0.5), torch.optim.SGD([adversary], lr=0.1))
    >>> (network + adversary).backward()
    >>> both.step()
    >>> network.item(), round(adversary.item(), 3)
    (0.5, 0.9)
    """

    def __init__(self, network: Optimizer, adversary: Optimizer) -> None:
        self.sides = (network, adversary)
        self._sizes = [len(side.param_groups) for side in self.sides]
        self._held = [{k: v for k, v in group.items() if k != "params"} for group in adversary.param_groups]
        super().__init__([group for side in self.sides for group in side.param_groups], dict(network.defaults))
        self._share()

    def _share(self) -> None:
        """The sides have the groups and the state of the whole."""
        for side, (begin, end) in zip(self.sides, pairwise([0, self._sizes[0], sum(self._sizes)]), strict=True):
            side.param_groups, side.state = self.param_groups[begin:end], self.state

    def hold_adversary(self) -> None:
        """Put the adversary's rates and moments back to what they were, after a schedule that is of the network's."""
        for group, held in zip(self.sides[1].param_groups, self._held, strict=True):
            group.update(held)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each side, after the closure has made the gradients of both."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for side in self.sides:
            side.step()
        return value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


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
