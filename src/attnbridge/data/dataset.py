"""Records become samples: decoding with clear errors, shared geometry, reproducible augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from attnbridge.bounds import Count, Natural, check_number
from attnbridge.data.images import Box, ImageRecord, image_size_of, load_image
from attnbridge.data.masks import load_mask
from attnbridge.data.sample import IGNORE_INDEX, Sample, as_floats, multi_hot
from attnbridge.data.transforms import Saliency
from attnbridge.errors import AttnBridgeError, check_choice, shown


class ImageDataset(Dataset[Sample]):
    """Samples of a list of records.

    Args:
        records: what to read, from :mod:`attnbridge.data.folders`.
        num_classes: length N of the multi-hot labels.
        domain: ``"source"`` or ``"target"``.
        transform: a torchvision v2 transform, applied to image, saliency and mask together.
        length: number of samples to present; beyond the records they start over. Default: all once.
        withheld: the labels are NaN, so that nothing can be learnt from them.
        difficult: the samples say which classes are only difficult in them, if a record knows of such: for scores.

    ``dataset[i]`` draws its augmentation from torch's global random numbers; ``dataset[i, seed]`` from
    ``seed`` alone, whatever the process or the order, which is what :class:`EpochSampler` yields. A loader takes
    :attr:`stored`, the same samples in 8 bits, and leaves :func:`~attnbridge.data.sample.as_floats` to the batch.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        num_classes: int,
        domain: str,
        transform: Callable[..., Any],
        length: int | None = None,
        withheld: bool = False,
        difficult: bool = False,
    ) -> None:
        check_number("num_classes", num_classes, Count)
        check_choice("domain", domain, ("source", "target"))
        if length is not None:
            check_number("length", length, Natural)
        if not callable(transform):
            raise AttnBridgeError(
                f"transform must be a function, as of torchvision.transforms.v2, not {shown(transform)}"
            )
        self.records = list(records)
        for record in self.records:
            if not isinstance(record, ImageRecord):
                raise AttnBridgeError(f"records must be a list of ImageRecord, but one is {shown(record)}")
        if length and not self.records:
            raise AttnBridgeError(f"records is empty, so there are no {length} samples of them")
        self.num_classes = num_classes
        self.domain = domain
        self.transform = transform
        self.length = len(self.records) if length is None else length
        self.withheld = withheld
        self.difficult = difficult and any(record.difficult for record in self.records)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        return as_floats(self.in_bytes(key))

    @property
    def stored(self) -> Uint8Dataset:
        """The same samples with image, saliency map and mask as ``uint8``."""
        return Uint8Dataset(self)

    def in_bytes(self, key: int | tuple[int, int]) -> Sample:
        """A sample with image, saliency map and mask as ``uint8``."""
        if isinstance(key, int):
            return self._sample(key)
        index, seed = key
        numbers = torch.default_generator  # torch.manual_seed asks every kind of accelerator too: a tenth of the time
        state = numbers.get_state()
        numbers.manual_seed(seed)
        try:
            return self._sample(index)
        finally:
            numbers.set_state(state)

    def identify(self, update: Callable[[bytes], Any]) -> None:
        """Tell a digest which images these are: by the names, sizes and times of change of all their files."""
        for record in self.records:
            update(f"{record.values} {record.boxes}".encode())
            for path in (record.image, record.saliency, record.mask):
                if path is not None:
                    found = path.stat()
                    update(f"{path.absolute()} {found.st_size} {found.st_mtime_ns}\n".encode())

    def record(self, index: int) -> ImageRecord:
        """The record of a sample; past the last one the IndexError that ends a loop over the samples."""
        if not -self.length <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        return self.records[index % len(self.records)]

    def labels(self, record: ImageRecord) -> torch.Tensor:
        """Multi-hot, ``(N,)``, or NaN."""
        if self.withheld:
            return torch.full((self.num_classes,), torch.nan)
        try:
            return multi_hot(record.classes, self.num_classes).float()
        except AttnBridgeError as error:
            raise AttnBridgeError(f"{record.id}: {error}") from None

    def _sample(self, index: int) -> Sample:
        record = self.record(index)
        image = tv_tensors.Image(TF.pil_to_tensor(load_image(record.image)))
        parts: dict[str, Any] = {"image": image}
        size = tuple(image.shape[-2:])
        if record.saliency is not None:
            saliency = TF.pil_to_tensor(load_image(record.saliency, "L"))[0]
            parts["saliency"] = Saliency(_same_size(saliency, size, record.saliency))
        mask = self._mask(record, size)
        if mask is not None:
            parts["mask"] = tv_tensors.Mask(mask)
        parts = self.transform(parts)
        sample: Sample = {
            "image": parts["image"].as_subclass(torch.Tensor),
            "labels": self.labels(record),
            "domain": self.domain,
            "id": record.id,
        }
        if "saliency" in parts:
            sample["saliency"] = parts["saliency"].as_subclass(torch.Tensor)
        if "mask" in parts:
            sample["mask"] = parts["mask"].as_subclass(torch.Tensor)
        if self.difficult:
            sample["difficult"] = multi_hot(record.difficult, self.num_classes)
        return sample

    def own_mask(self, record: ImageRecord) -> torch.Tensor | None:
        """The mask of a record at the size of its image, not transformed, uint8 ``(H, W)``; ``None``: it has none.

        Raises:
            AttnBridgeError: for a mask of another size, or with values that are no classes.
        """
        width, height = image_size_of(record.image)
        return self._mask(record, (height, width))

    def _mask(self, record: ImageRecord, size: tuple[int, ...]) -> torch.Tensor | None:
        """The labels that a record's mask or boxes stand for, uint8."""
        if record.mask is None:
            return None if record.boxes is None else _drawn(record.boxes, size)
        mask = torch.from_numpy(np.array(load_mask(record.mask)))
        largest = self.num_classes if record.values is None else len(record.values) - 1
        _check_values(mask, largest, record.mask)
        if record.values is not None:
            table = torch.full((256,), 255, dtype=torch.uint8)
            table[: len(record.values)] = torch.tensor(record.values, dtype=torch.uint8)
            mask = table[mask.long()]
        return _same_size(mask, size, record.mask)


def _drawn(boxes: Sequence[Box], size: tuple[int, ...]) -> torch.Tensor:
    """A mask of filled boxes, 255 where those of two classes overlap."""
    mask = torch.zeros(size, dtype=torch.uint8)
    for label, left, top, right, bottom in boxes:
        part = mask[top:bottom, left:right]
        part[(part != 0) & (part != label + 1)] = IGNORE_INDEX
        part[part == 0] = label + 1
    return mask


def _check_values(mask: torch.Tensor, largest: int, path: Path) -> None:
    wrong = mask[(mask > largest) & (mask != 255)]
    if len(wrong):
        raise AttnBridgeError(
            f"{path}: holds the value {int(wrong.min())}; expected 0 (background), 1 to {largest} "
            "(the classes) or 255 (ignored)"
        )


def _same_size(tensor: torch.Tensor, size: tuple[int, ...], path: Path) -> torch.Tensor:
    if tuple(tensor.shape[-2:]) != size:
        raise AttnBridgeError(
            f"{path}: is {tensor.shape[-1]}x{tensor.shape[-2]} pixels, but its image is "
            f"{size[1]}x{size[0]}; make them the same size"
        )
    return tensor


class Uint8Dataset(Dataset[Sample]):
    """The samples of a dataset of images in 8 bits."""

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        return self.images.in_bytes(key)


class EpochSampler(DistributedSampler[Sample]):
    """Shuffled indices with a seed each, a function of (seed, epoch) alone.

    A run resumed at an epoch's start sees the images that the uninterrupted run would have seen, with
    the same augmentation. Each of several processes takes its share.
    """

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        seeds = torch.randint(2**31, (len(self.dataset),), generator=generator)  # type: ignore[arg-type]
        order: Iterator[Any] = super().__iter__()
        return ((int(i), int(seeds[int(i)])) for i in order)


class ShardSampler(DistributedSampler[Sample]):
    """Every index once, in order, over all processes together; none is repeated to make shares equal.

    Scores over several processes are then those of one.
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]
