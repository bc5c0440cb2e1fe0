"""Cost of a training step beside plain classification of the same images: ``python -m benchmarks.step METHOD``.

The variants take turns, so that noise of the machine hits all alike; the table gives the median step and
the median of the ratios within each turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from attnbridge.data.sample import Batch
from attnbridge.evaluation.record import hardware
from attnbridge.experiments.memory import keep_freed_memory
from attnbridge.methods import load_method
from attnbridge.methods.attnbn import AttnBN

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "attnbn": {
        "two-stream classification": {"attention_weight": 0.0, "adversarial_weight": 0.0},
        "+ L_ac": {"adversarial_weight": 0.0},
        "AttnBN": {},
        "AttnBN, discriminator of width 64 on a projection to 32": {"discriminator_width": 64},
        "AttnBN, discriminator of width 64 on all channels (the paper's)": {
            "discriminator_width": 64,
            "discriminator_projection": None,
        },
    },
    "gain": {
        "classification": {"mining_weight": 0.0},
        "GAIN": {},
        "GAIN, frozen stream": {"mining_stream": "frozen"},
        "GAIN, one class of each image": {"mined_classes": "one"},
    },
}
"""The first of each is what the others are compared with."""


def make_batch(size: int, images: int, classes: int, present: int = 1) -> dict[str, Batch]:
    """Random images of both domains, with so many classes each."""
    labels = torch.zeros(images, classes).scatter(1, torch.rand(images, classes).argsort(1)[:, :present], 1.0)
    stream: Batch = {
        "image": torch.rand(images, 3, size, size),
        "labels": labels,
        "saliency": torch.rand(images, size, size),
        "domain": [],
        "id": [],
    }
    return {"source": stream, "target": {**stream, "image": torch.rand(images, 3, size, size)}}


def make_step(options: dict[str, Any], arguments: argparse.Namespace) -> tuple[AttnBN, list[torch.optim.Optimizer]]:
    """The method and its optimisers, without a trainer around them."""
    torch.manual_seed(0)
    method: AttnBN = load_method(arguments.method)(
        [str(i) for i in range(arguments.classes)],
        backbone=arguments.backbone,
        weights="none",
        image_size=arguments.size,
        frozen=arguments.frozen,
        **options,
    ).train()
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(method.parameter_groups())]
    if method.discriminator is not None:
        optimizers.append(torch.optim.Adam(method.discriminator.parameters()))
    return method, optimizers


def one_step(method: AttnBN, optimizers: list[torch.optim.Optimizer], batch: dict[str, Batch]) -> float:
    """Seconds of one step: losses, backward pass, optimisers."""
    start = time.perf_counter()
    total: Tensor = method.weighted_sum(method.losses(batch))
    for optimizer in optimizers:
        optimizer.zero_grad()
    total.backward()
    for optimizer in optimizers:
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", nargs="?", choices=list(VARIANTS), default="attnbn")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--frozen", nargs="*", default=["conv_stem", "bn1", *(f"blocks.{i}" for i in range(4))])
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    parser.add_argument("--images", type=int, default=32, help="of each domain in a batch")
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--present", type=int, default=1, help="classes in an image")
    parser.add_argument("--turns", type=int, default=12)
    arguments = parser.parse_args()
    keep_freed_memory()
    batch = make_batch(arguments.size, arguments.images, arguments.classes, arguments.present)
    steps = {name: make_step(options, arguments) for name, options in VARIANTS[arguments.method].items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.turns + 2):
        for name, (method, optimizers) in steps.items():
            spent = one_step(method, optimizers, batch)
            if turn >= 2:
                seconds[name].append(spent)
    plain = next(iter(seconds.values()))
    print(
        f"{arguments.backbone}, {arguments.images} images of {arguments.size} pixels of each domain, "
        f"{arguments.present} class(es) each, {arguments.turns} turns, {hardware()}"
    )
    print("| step | median, ms | ratio |\n|---|---|---|")
    for name, spent in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(spent, plain, strict=True))
        print(f"| {name} | {1000 * statistics.median(spent):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
