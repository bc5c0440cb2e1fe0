"""Dense CRF and region growing beside the references: ``python -m benchmarks.crf``.

The backend pydensecrf takes an image at a time in one thread, torch a batch with all of PyTorch's threads
(``OMP_NUM_THREADS=1``: one); both take turns. Peak memory is that of a process of its own, beyond what it holds before.
The reference of region growing is a plain flood from each seed, pixel by pixel.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from attnbridge.evaluation.record import hardware
from attnbridge.segmentation.crf import Backend, mean_field
from attnbridge.segmentation.grow import grow_seeds
from benchmarks.memory import peak_memory


def make_case(count: int, side: int, labels: int) -> tuple[Tensor, Tensor]:
    """Smooth photographs ``(B, 3, H, W)`` in 8 bits and probabilities ``(B, L, H, W)``."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int, cells: int) -> Tensor:
        coarse = torch.rand(count, channels, cells, cells, generator=generator)
        return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)

    images = (smooth(3, 24) * 220 + 30 * torch.rand(count, 3, side, side, generator=generator)).clamp(0, 255)
    return images.byte(), (smooth(labels, 41) * 6).softmax(1)


def inference(backend: Backend, images: Tensor, probabilities: Tensor) -> Callable[[], Tensor]:
    """The CRF over the whole batch."""
    return lambda: mean_field(images, probabilities, backend=backend)


def flood(probabilities: Tensor, seeds: Tensor) -> Tensor:
    """Region growing by a stack of pixels."""
    best, top = probabilities.argmax(1).numpy(), probabilities.amax(1).numpy()
    first, grown = seeds.numpy(), seeds.numpy().copy()
    taken = first.any(1)
    for b, label, y, x in np.argwhere(first):
        stack = [(y, x)]
        while stack:
            y, x = stack.pop()
            for v in range(max(0, y - 1), min(best.shape[1], y + 2)):
                for u in range(max(0, x - 1), min(best.shape[2], x + 2)):
                    sure = best[b, v, u] == label and top[b, v, u] > (0.99 if label == 0 else 0.85)
                    if sure and not taken[b, v, u] and not grown[b, label, v, u]:
                        grown[b, label, v, u] = True
                        stack.append((v, u))
    return torch.from_numpy(grown)


def timed(steps: Mapping[str, Callable[[], Tensor]], turns: int) -> dict[str, list[float]]:
    """Seconds of each, in turns, the first of which is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def memory(name: Backend, images: int, side: int, labels: int) -> float:
    """MB that a process of its own needs beyond what it holds before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(grown, (name, images, side, labels))


def grown(name: Backend, images: int, side: int, labels: int) -> float:
    """The peak of this process while it runs a CRF, less what it held before, in MB (Linux)."""
    run = inference(name, *make_case(images, side, labels))
    before = peak_memory(lambda: None)
    return peak_memory(run) - before


def show(seconds: dict[str, list[float]], images: int) -> None:
    """A row each: median seconds an image, and the ratio to the first."""
    first = statistics.median(next(iter(seconds.values())))
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"| {name} | {1000 * middle / images:.1f} | {middle / first:.2f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=321)
    parser.add_argument("--labels", type=int, default=21)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    images, probabilities = make_case(arguments.images, arguments.side, arguments.labels)
    backends: list[Backend] = ["pydensecrf", "torch"] if find_spec("pydensecrf") else ["torch"]
    steps = {name: inference(name, images, probabilities) for name in backends}
    print(f"{hardware()}; {images.shape[0]} images of {arguments.side} pixels, {arguments.labels} labels\n")
    print("| dense CRF | ms an image | ratio |\n|---|---|---|")
    show(timed(steps, arguments.turns), arguments.images)
    size = (arguments.images, arguments.side, arguments.labels)
    print("\n" + ", ".join(f"{name}: {memory(name, *size):.0f} MB" for name in backends) + " at the peak")
    if len(steps) == 2:
        same = (steps["pydensecrf"]().argmax(1) == steps["torch"]().argmax(1)).float().mean()
        print(f"\n{100 * float(same):.3f}% of the labels are the same")
    small = torch.nn.functional.interpolate(probabilities, (41, 41), mode="bilinear").pow(12)
    small = small / small.sum(1, keepdim=True)
    sure = torch.rand(len(small), 41, 41, generator=torch.Generator().manual_seed(1)) < 0.05
    seeds = torch.nn.functional.one_hot(small.argmax(1), arguments.labels).permute(0, 3, 1, 2).bool() & sure[:, None]
    everything = torch.ones(len(small), arguments.labels - 1)
    growing = {"flood": lambda: flood(small, seeds), "attnbridge": lambda: grow_seeds(small, seeds, everything)}
    assert torch.equal(growing["flood"](), growing["attnbridge"]())
    print("\n| region growing, 41 x 41 | ms an image | ratio |\n|---|---|---|")
    show(timed(growing, arguments.turns), arguments.images)


if __name__ == "__main__":
    main()
