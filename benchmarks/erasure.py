"""What the score of a class hangs on: ``python -m benchmarks.erasure RUN ...``, folders of runs on composed scenes.

For each true class of each image: its probability as the image is, with the object erased (by its true mask, in the
network's mean colour), with everything but the object erased, and with erased what the class's own map covers (GAIN's
soft mask); and that mask's area, the share of it on the object, and the share of the object under it. On the training
images, whose background tells the class, and on the test's. Composed scenes have masks of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.folders import scan_pair
from attnbridge.data.sample import Batch, collate
from attnbridge.data.transforms import eval_transform
from attnbridge.experiments.memory import keep_freed_memory
from attnbridge.experiments.runs import Run, load_run
from attnbridge.losses.mining import erase, soft_mask
from attnbridge.methods.base import Method

COLUMNS = (
    "image",
    "object erased",
    "all else erased",
    "own map erased",
    "map's area",
    "on the object",
    "of the object",
)


def batches(run: Run, method: Method, split: str, count: int) -> Iterator[Batch]:
    """Evenly chosen images of a split with their masks."""
    data = run.config.data
    source = Path(data["source"]) if data.get("source") else None
    records = scan_pair(source, Path(data["target"]), None, split, masks=True)
    records = [records[i * len(records) // count] for i in range(count)] if len(records) > count else records
    dataset = ImageDataset(records, len(method.classes), "target", eval_transform(method.image_size, run.shape))
    loader: DataLoader[Any] = DataLoader(dataset, 32, collate_fn=collate)
    yield from track(loader, split, transient=True, console=Console(stderr=True))


@torch.no_grad()
def look(method: Method, batch: Batch) -> Tensor:
    """The columns for each true class of each image, ``(P, 7)``."""
    images = batch["image"]
    seen = method.predict_batch(images)
    image, label = torch.nonzero(batch["labels"], as_tuple=True)
    shown = (batch["mask"][image] == label[:, None, None] + 1).float()
    maps = seen["maps"][image, label]
    own = soft_mask(maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12))
    large = F.interpolate(own[:, None], shown.shape[1:], mode="bilinear", align_corners=False)[:, 0]  # as `erase` does

    def score(mask: Tensor) -> Tensor:
        erased = erase(images[image], mask, "mean", method.mean)
        return method.predict_batch(erased)["scores"].gather(1, label[:, None])[:, 0]

    inside = (large * shown).sum((1, 2))
    areas = [large.mean((1, 2)), inside / large.sum((1, 2)).clamp_min(1e-12), inside / shown.sum((1, 2)).clamp_min(1)]
    return torch.stack([seen["scores"][image, label], score(shown), score(1 - shown), score(own), *areas], 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=400, help="of each split")
    arguments = parser.parse_args()
    keep_freed_memory()
    print(f"| run | images | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    for folder in arguments.runs:
        run = load_run(folder)
        method = run.method()
        for split in ("train", "test"):
            rows = torch.cat([look(method, batch) for batch in batches(run, method, split, arguments.images)])
            cells = " | ".join(f"{100 * value:.1f}" for value in rows.mean(0))
            print(f"| {folder.name} | {split} | {cells} |")


if __name__ == "__main__":
    main()
