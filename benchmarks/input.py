"""Speed of input: ``python -m benchmarks.input IMAGES``, a folder of class folders.

Images per second beside a plain torchvision pipeline, and how long training waits for them. A saliency map and a mask
of each image are made first, in a folder that goes away. The pipelines take turns, so that noise of the machine hits
all alike; the table gives the median and the median of the ratios within each turn. Waiting is the share of a training
step that passes before its batch is there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from attnbridge.data.dataset import EpochSampler, ImageDataset
from attnbridge.data.folders import class_names, scan_class_folders
from attnbridge.data.images import ImageRecord
from attnbridge.data.modules.base import default_workers
from attnbridge.data.sample import as_floats, collate
from attnbridge.data.transforms import train_transform
from attnbridge.evaluation.record import hardware
from attnbridge.experiments.memory import keep_freed_memory
from attnbridge.methods.attnbn import AttnBN
from benchmarks.step import one_step


class Plain(Dataset[Any]):
    """What one would write with torchvision alone."""

    def __init__(self, records: Sequence[ImageRecord], size: int, companions: bool) -> None:
        self.records, self.companions = records, companions
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop((size, size), scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        parts: list[Any] = [tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(record.image).convert("RGB")))]
        if self.companions:
            for path in (record.saliency, record.mask):
                assert path is not None
                parts.append(tv_tensors.Mask(v2.functional.pil_to_tensor(Image.open(path))[0]))
        return self.transform(*parts), record.classes[0]


def with_companions(records: Sequence[ImageRecord], folder: Path) -> list[ImageRecord]:
    """The records with a saliency map and a mask: a disc."""
    found = []
    for number, record in enumerate(records):
        with Image.open(record.image) as image:
            width, height = image.size
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        saliency, mask = folder / f"{number}-saliency.png", folder / f"{number}-mask.png"
        Image.fromarray((255 * np.exp(-2 * (x * x + y * y))).astype(np.uint8)).save(saliency)
        Image.fromarray((x * x + y * y < 0.5).astype(np.uint8)).save(mask)
        found.append(ImageRecord(record.id, record.image, record.classes, saliency, mask))
    return found


def ours(records: Sequence[ImageRecord], classes: int, arguments: argparse.Namespace) -> DataLoader[Any]:
    """attnbridge's pipeline."""
    dataset = ImageDataset(records, classes, "source", train_transform(arguments.size))
    sampler = EpochSampler(dataset, 1, 0, seed=0)
    options: dict[str, Any] = {"num_workers": arguments.workers, "collate_fn": collate, "drop_last": True}
    return DataLoader(dataset.stored, arguments.batch, sampler=sampler, **options)


def speed(loader: DataLoader[Any]) -> float:
    """Images per second, from the first batch on."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(1 for batch in batches if not isinstance(batch, dict) or as_floats(batch))
    return count * (loader.batch_size or 1) / (time.perf_counter() - start)


def waiting(loaders: Sequence[DataLoader[Any]], classes: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds of waiting and of computing over some steps of a training with both streams, the first left out."""
    method = AttnBN(
        [str(i) for i in range(classes)], backbone=arguments.backbone, weights="none", image_size=arguments.size
    ).train()
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(method.parameter_groups())]
    source, target = map(iter, loaders)
    waited = computed = 0.0
    for number in range(arguments.steps + 1):
        start = time.perf_counter()
        batch = {"source": as_floats(next(source)), "target": as_floats(next(target))}
        ready = time.perf_counter()
        spent = one_step(method, optimizers, batch)
        if number:
            waited, computed = waited + ready - start, computed + spent
    return waited, computed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="a folder of class folders")
    parser.add_argument("--size", type=int, default=224, help="side of the images")
    parser.add_argument("--batch", type=int, default=16, help="of each domain")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    keep_freed_memory()
    names = class_names(arguments.images)
    bare = scan_class_folders(arguments.images, names)[:1600]
    with tempfile.TemporaryDirectory() as folder:
        full = with_companions(bare, Path(folder))

        def plain(records: Sequence[ImageRecord], companions: bool) -> DataLoader[Any]:
            dataset = Plain(records, arguments.size, companions)
            return DataLoader(dataset, arguments.batch, shuffle=True, num_workers=arguments.workers, drop_last=True)

        makers: dict[str, Callable[[], DataLoader[Any]]] = {
            "torchvision, image": lambda: plain(bare, False),
            "attnbridge, image": lambda: ours(bare, len(names), arguments),
            "torchvision, image, saliency and mask": lambda: plain(full, True),
            "attnbridge, image, saliency and mask": lambda: ours(full, len(names), arguments),
        }
        speeds: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(arguments.turns):
            for name, make in makers.items():
                speeds[name].append(speed(make()))
        print(f"{len(bare)} images to {arguments.size} pixels, {arguments.workers} workers, {hardware()}")
        print("| pipeline | images per second | beside torchvision |\n|---|---|---|")
        for name, found in speeds.items():
            beside = speeds[name.replace("attnbridge", "torchvision")]
            ratio = statistics.median(a / b for a, b in zip(found, beside, strict=True))
            print(f"| {name} | {statistics.median(found):.0f} | {ratio:.2f} |")
        loaders = [ours(full, len(names), arguments), ours(full, len(names), arguments)]
        waited, computed = waiting(loaders, len(names), arguments)
    share = 100 * waited / (waited + computed)
    print(f"{arguments.backbone}, {arguments.batch} + {arguments.batch} images: {share:.2f}% of {arguments.steps} "
          f"steps of {computed / arguments.steps:.2f} s pass waiting for images")  # fmt: skip


if __name__ == "__main__":
    main()
