"""One class an image, no masks: class folders and CIFAR, as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from numpy.typing import NDArray
from torch.utils.data import DataLoader, SequentialSampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from attnbridge.bounds import BatchSize, Count, Seed, Share, ShareOrNone, Side, Views, Workers, check_values
from attnbridge.data.cifar import NAMES, Images, load_cifar
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.folders import check_read, class_names, class_splits, hash_order, scan_class_folders
from attnbridge.data.images import ImageRecord, check_record, class_balanced_order
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.sample import Batch, Sample
from attnbridge.data.transforms import eval_transform, sides, train_transform
from attnbridge.errors import AttnBridgeError

Augment = Literal["crop", "resized_crop", "none"]


class ArrayDataset(ImageDataset):
    """Samples of images in memory; see :class:`~attnbridge.data.dataset.ImageDataset`.

    Args:
        images: uint8 ``(n, H, W, 3)``.
        records: what is known of each; their files are not read.
        num_classes: length N of the multi-hot labels.
        transform: a torchvision v2 transform.
    """

    def __init__(
        self, images: NDArray[np.uint8], records: Sequence[ImageRecord], num_classes: int, transform: Callable[..., Any]
    ) -> None:
        super().__init__(records, num_classes, "target", transform)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def identify(self, update: Callable[[bytes], Any]) -> None:
        """Tell a digest which images these are: by the images themselves."""
        update(self.images.contiguous().numpy().tobytes())

    def _sample(self, index: int) -> Sample:
        record = self.record(index)
        image = self.transform(tv_tensors.Image(self.images[index % len(self.records)])).as_subclass(torch.Tensor)
        return {"image": image, "labels": self.labels(record), "domain": self.domain, "id": record.id}


class ClassificationDataModule(ImageDataModule):
    """Images of one class each, in training batches ``{"target": batch}``.

    Args:
        data: ``cifar10``, ``cifar100``, or a folder with ``train/CLASS/*.jpg``, ``test/CLASS/*.jpg`` and, if there is
            one, ``val/CLASS/*.jpg``. Without ``test``, as in ImageNet, ``val`` is what is scored in the end and
            chooses nothing.
        root: where CIFAR lies, see :func:`~attnbridge.data.cifar.load_cifar`.
        train_count: only so many training images, the same number of each class (rounded down), the same whatever the
            seed.
        val_share: share of the training images of each class that is kept for validation where there is no ``val``
            for it.
        image_size: side of the images given to the network, or height and width, pixels.
        augment: of training images: ``crop``: padded by an eighth by reflection, cropped, mirrored (CIFAR's);
            ``resized_crop``: crops of varying size, mirrored, mild colours, and the central 7/8 of an image in
            evaluation (ImageNet's); ``none``.
        min_crop: smallest share of an image's area that ``resized_crop`` keeps.
        batch_size: images in a batch, per process.
        workers: processes that load images; null: chosen by the machine, see
            :func:`~attnbridge.data.modules.base.default_workers`.
        views: a training image has so many fixed views, and what a teacher says of them, and what the network's
            frozen beginning makes of them, is kept in the user's cache; null: a new random view each time.
        seed: of the order and the augmentation.

    Batches come from the loaders in 8 bits; a trainer makes them floats.
    """

    def __init__(
        self,
        data: str,
        root: str | None = None,
        train_count: Count | None = None,
        val_share: ShareOrNone = 0.1,
        image_size: Side | tuple[Side, Side] = 32,
        augment: Augment = "crop",
        min_crop: Share = 0.5,
        batch_size: BatchSize = 128,
        workers: Workers | None = None,
        views: Views | None = None,
        seed: Seed = 0,
    ) -> None:
        check_values(ClassificationDataModule.__init__, locals(), "data.")
        super().__init__(batch_size, workers, views)
        self.data, self.root = str(data), Path(root) if root else None
        self.train_count, self.val_share = train_count, val_share
        self.image_size = image_size
        self.augment: Augment = augment
        self.min_crop = min_crop
        self.seed = seed
        self._memory: dict[str, Images] = {}
        self._records: dict[str, list[ImageRecord]] = {}
        self.classes = list(self._images("test").classes) if data in NAMES else class_names(Path(data) / "train")
        if len(self.classes) < 2:
            raise AttnBridgeError(f"{data}: has one class only; there is nothing to tell it from")

    def records(self, split: str) -> list[ImageRecord]:
        """The records of ``train``, ``val`` or ``test``, listed and checked once."""
        if split not in self._records:
            self._records[split] = self._chosen(split)
        return self._records[split]

    def _chosen(self, split: str) -> list[ImageRecord]:
        if split == "test" or (split == "val" and self._has_val()):
            return self._listed(split)
        kept = 0.0 if self._has_val() else self.val_share
        own: dict[int, list[ImageRecord]] = {label: [] for label in range(len(self.classes))}
        for record in hash_order(self._listed("train")):
            own[record.classes[0]].append(record)
        found: list[ImageRecord] = []
        for label, records in own.items():
            held = round(kept * len(records))
            found += records[:held] if split == "val" else self._some(records[held:], self.classes[label])
        return found

    def _some(self, records: list[ImageRecord], name: str) -> list[ImageRecord]:
        if self.train_count is None:
            return records
        each = self.train_count // len(self.classes)
        if not 0 < each <= len(records):
            raise AttnBridgeError(
                f"data.train_count asks for {each} images of each class, but of {name!r} there are {len(records)} "
                "for training"
            )
        return records[:each]

    def _has_val(self) -> bool:
        return self.data not in NAMES and "val" in class_splits(Path(self.data))

    def _listed(self, split: str) -> list[ImageRecord]:
        if self.data in NAMES:
            labels = self._images(split).labels
            return [ImageRecord(f"{split}/{i:05d}", Path(str(i)), (int(label),)) for i, label in enumerate(labels)]
        records = scan_class_folders(class_splits(Path(self.data))[split], self.classes)
        for record in records:
            check_record(record)
        return records

    def _images(self, split: str) -> Images:
        if split not in self._memory:
            self._memory[split] = load_cifar(self.data, split, self.root)
        return self._memory[split]

    def dataset(self, split: str) -> ImageDataset:
        """The samples of a split, augmented if it is ``train``."""
        return self._dataset(split, self._augmented() if split == "train" else self._plain())

    def plain(self, split: str) -> ImageDataset:
        """The samples of a split as evaluation sees them."""
        return self._dataset(split, self._plain())

    def _dataset(self, split: str, transform: v2.Transform) -> ImageDataset:
        records = self.records(split)
        if self.data not in NAMES:
            return ImageDataset(records, len(self.classes), "target", transform)
        images = self._images("test" if split == "test" else "train").images
        places = [int(record.image.name) for record in records]
        return ArrayDataset(images[places], records, len(self.classes), transform)

    def training_length(self) -> int:
        return len(self.records("train"))

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "plain_loader": self.plain_loader}

    def plain_loader(self) -> DataLoader[Batch]:
        """All training images in order, as evaluation sees them, in each of several processes."""
        dataset = self.plain("train")
        return self.loader(dataset.stored, SequentialSampler(dataset), self.batch_size, drop_last=False)

    def samples(self, split: str, count: int) -> list[Sample]:
        """``count`` samples of ``val`` or ``test`` as evaluation sees them, of as many classes as there are."""
        dataset = self.dataset(split)
        return [dataset[i] for i in class_balanced_order(dataset.records)[:count]]

    def _augmented(self) -> v2.Transform:
        height, width = sides(self.image_size)
        if self.augment == "resized_crop":
            return train_transform(self.image_size, (self.min_crop, 1.0))
        if self.augment == "none":
            return self._plain()
        pad = v2.Pad([width // 8, height // 8], padding_mode="reflect")
        resize = v2.Resize((height, width), antialias=True)
        return v2.Compose([resize, pad, v2.RandomCrop((height, width)), v2.RandomHorizontalFlip()])

    def _plain(self) -> v2.Transform:
        if self.augment != "resized_crop":
            return eval_transform(self.image_size)
        height, width = sides(self.image_size)
        shorter = v2.Resize(max(height, width) * 8 // 7, antialias=True)  # 256 for 224
        return v2.Compose([shorter, v2.CenterCrop((height, width))])

    def train_dataloader(self) -> CombinedLoader:
        check_read("data.root", self.root, "CIFAR's layout", Path(self.data), self.data in NAMES)
        dataset = self.dataset("train")
        self.check_batch(len(dataset), self.processes()[0])
        kept = self.cached_datasets({"target": dataset})["target"]
        sampler = self.sampler(kept, self.seed)
        return CombinedLoader({"target": self.loader(kept, sampler, self.batch_size, drop_last=True)}, "max_size_cycle")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.eval_loader(self.dataset("val"))

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.eval_loader(self.dataset("test"))
