"""What all data modules share: loaders that give 8 bits, shares of several processes, floats for the method."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from attnbridge.bounds import BatchSize, Views, Workers, check_values
from attnbridge.data.dataset import EpochSampler, ImageDataset, ShardSampler
from attnbridge.data.feature_cache import CachedFeatureDataset, cache_features, feature_cache_dir
from attnbridge.data.request import DataRequest
from attnbridge.data.sample import Batch, Sample, as_floats, collate
from attnbridge.data.transforms import Shape, Size
from attnbridge.errors import AttnBridgeError


class ImageDataModule(LightningDataModule):
    """A data module of images.

    Args:
        batch_size: images in a batch, per process.
        workers: processes that load images; null: see :func:`default_workers`.
        views: so many fixed views of each training image are kept; null: a new random view each time.
    """

    classes: list[str]
    image_size: Size
    shape: Shape = "stretch"
    """How images are brought to that size."""
    masks: bool = True
    """Whether the splits that are scored have masks."""
    request: DataRequest = DataRequest()
    """What the method asks for, see :class:`~attnbridge.data.request.DataRequest`."""

    def __init__(self, batch_size: BatchSize, workers: Workers | None, views: Views | None = None) -> None:
        check_values(ImageDataModule.__init__, locals(), "data.")
        super().__init__()
        self.views = views
        self.batch_size = batch_size
        self._epochs = 0
        self.workers = default_workers() if workers is None else workers

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Images, saliency maps and masks come from the loaders in 8 bits; methods get floats."""
        if "labels" in batch:
            return as_floats(batch)
        return {name: as_floats(part) for name, part in batch.items()}

    def processes(self) -> tuple[int, int]:
        """Number of processes and which one this is."""
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)

    def sampler(self, dataset: Dataset[Sample], seed: int) -> EpochSampler:
        """Each sample once an epoch, in that epoch's order, shared between the processes."""
        sampler = EpochSampler(dataset, *self.processes(), seed=seed)
        sampler.set_epoch(self._epochs)
        return sampler

    def state_dict(self) -> dict[str, Any]:
        """How many epochs are done: the loaders of a resumed trainer read ahead before it names its epoch."""
        progress: Any = self.trainer.fit_loop.epoch_progress.current if self.trainer else None
        return {"epochs": progress.processed if progress else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epochs = state_dict["epochs"]

    def facts(self) -> dict[str, Any]:
        """What the data tell a method, by the names of its arguments: classes, size of the images, ..."""
        return {"classes": self.classes, "image_size": self.image_size}

    def has(self, split: str) -> bool:
        """Whether there is a split to score on."""
        return True

    def own_images(self, split: str) -> ImageDataset | None:
        """The images of a split that is scored, for their masks as they are in their files; ``None``: there are no
        files."""
        return None

    def training_length(self) -> int | None:
        """How many images an epoch has, once the method's request is known; ``None``: nobody knows."""
        return None

    def check_batch(self, length: int | None, processes: int) -> None:
        """Check that an epoch of so many images has a whole batch for each process.

        Raises:
            AttnBridgeError: if there are fewer images.
        """
        if length is not None and length < self.batch_size * processes:
            raise AttnBridgeError(
                f"data.batch_size is {self.batch_size} on {processes} process(es), but there are only {length} images "
                "for training (of the larger domain); make it smaller"
            )

    def cached_datasets(self, sets: Mapping[str, ImageDataset]) -> dict[str, Dataset[Sample]]:
        """The training images in 8 bits, or, with ``views``, what the method keeps of their views: made where it is
        missing."""
        if self.views is None:
            return {name: images.stored for name, images in sets.items()}
        if self.request.cache is None:
            raise AttnBridgeError(
                "data.views keeps what a method's frozen modules make of the images, but no method has asked for it; "
                "give the data its request: data.request = method.data_request()"
            )
        key = self.request.cache.key()
        cached: dict[str, Dataset[Sample]] = {}
        for name, images in sets.items():
            folder = feature_cache_dir(images, self.views, *key)
            if self.trainer is None or self.trainer.local_rank == 0:
                cache_features(folder, images, self.views, self.request.cache.features, self.workers)
            if self.trainer is not None:
                self.trainer.strategy.barrier()
            cached[name] = CachedFeatureDataset(folder, images, self.views)
        return cached

    def eval_loader(self, dataset: ImageDataset) -> DataLoader[Batch]:
        """Each image once, in order, shared between the processes."""
        return self.loader(dataset.stored, ShardSampler(dataset, *self.processes()), self.batch_size, drop_last=False)

    def loader(
        self, dataset: Dataset[Sample], sampler: Sampler[Any], batch_size: int, drop_last: bool
    ) -> DataLoader[Any]:
        """Batches as :func:`~attnbridge.data.sample.collate` makes them."""
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.workers,
            collate_fn=collate,
        )


def default_workers() -> int:
    """Processes that load images on this machine: as many as there are cores, up to 8, beside a GPU, and two less
    where the cores also train, since there they only take time from each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores if torch.cuda.is_available() else max(0, cores - 2))
