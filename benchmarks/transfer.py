"""Cost of a step of attention transfer: ``python -m benchmarks.transfer``.

Beside a step of the student alone plus a forward pass of the teacher, and beside torchdistill's loss and hooks on the
same pair (``pip install '.[bench]'``). All take turns, so that noise of the machine hits all alike; the table gives the
median and the median of the ratios within each turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.data.sample import Batch
from attnbridge.evaluation.record import hardware
from attnbridge.experiments.memory import keep_freed_memory
from attnbridge.methods.attention_transfer import AttentionTransfer

CLASSES = 10


def make(arguments: argparse.Namespace, **options: Any) -> AttentionTransfer:
    """The student, with its teacher if it has one, in training."""
    torch.manual_seed(0)
    method = AttentionTransfer(
        [str(i) for i in range(CLASSES)], backbone=arguments.student, image_size=arguments.size, **options
    )
    return method.train()


def our_step(method: AttentionTransfer, batch: dict[str, Batch]) -> Callable[[], None]:
    """A step of the method without a trainer around it."""
    optimizer = torch.optim.SGD(method.parameters(), 0.1, 0.9)

    def step() -> None:
        losses, weights = method.losses(batch), method.loss_weights
        optimizer.zero_grad()
        torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
        optimizer.step()

    return step


def their_step(arguments: argparse.Namespace, batch: dict[str, Batch]) -> Callable[[], None] | None:
    """The same by torchdistill, where it is installed."""
    try:
        from torchdistill.core.forward_hook import ForwardHookManager
        from torchdistill.losses.mid_level import ATLoss
    except ImportError:
        return None
    method = make(arguments, **taught(arguments))
    teacher = method.teacher.network
    hooks = {side: ForwardHookManager(torch.device("cpu")) for side in ("student", "teacher")}
    pairs = {}
    for number, (ours, other) in enumerate(method.pairs):
        hooks["student"].add_hook(method.network, ours, requires_input=False)
        hooks["teacher"].add_hook(teacher, other, requires_input=False)
        layers = {"student": {"io": "output", "path": ours}, "teacher": {"io": "output", "path": other}}
        pairs[str(number)] = {**layers, "weight": 1000}
    loss = ATLoss(pairs, "code")
    optimizer = torch.optim.SGD(method.parameters(), 0.1, 0.9)
    images, labels = batch["target"]["image"], batch["target"]["labels"]

    def step() -> None:
        with torch.no_grad():
            teacher(method.teacher.normalised(images))
        logits = method.network(method.normalised(images))
        total: Tensor = F.cross_entropy(logits, labels)
        total = total + loss(hooks["student"].pop_io_dict(), hooks["teacher"].pop_io_dict())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def taught(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of attention transfer."""
    return {"teacher": arguments.teacher, "teacher_weights": "none", "transfer_weight": 1000.0}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="wrn_16_1")
    parser.add_argument("--teacher", default="wrn_16_2")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    keep_freed_memory()
    labels = F.one_hot(torch.arange(arguments.batch) % CLASSES, CLASSES).float()
    images = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    batch: dict[str, Batch] = {"target": {"image": images, "labels": labels, "domain": [], "id": []}}
    both = make(arguments, **taught(arguments))

    def listen() -> None:
        with torch.no_grad():
            both.teacher.network(both.teacher.normalised(images))

    steps = {
        "student's step": our_step(make(arguments), batch),
        "teacher's forward pass": listen,
        "attention transfer, attnbridge": our_step(both, batch),
        "attention transfer, torchdistill": their_step(arguments, batch),
    }
    times: dict[str, list[float]] = {name: [] for name, step in steps.items() if step}
    for turn in range(arguments.turns + 2):  # the first two warm up
        for name in times:
            start = time.perf_counter()
            steps[name]()  # type: ignore[misc]
            if turn > 1:
                times[name].append(time.perf_counter() - start)
    sums = [a + b for a, b in zip(times["student's step"], times["teacher's forward pass"], strict=True)]
    print(f"{arguments.student} from {arguments.teacher}, {arguments.batch} images of {arguments.size} pixels, "
          f"{hardware()}\n\n| | median, ms | of student's step + teacher's pass |\n|---|---|---|")  # fmt: skip
    for name, found in times.items():
        ratio = statistics.median(t / s for t, s in zip(found, sums, strict=True))
        print(f"| {name} | {1000 * statistics.median(found):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
