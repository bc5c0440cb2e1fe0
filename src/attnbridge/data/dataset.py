"""Records become samples: decoding with clear errors, shared geometry, reproducible augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from attnbridge.data.folders import Record
from attnbridge.data.sample import Sample
from attnbridge.errors import AttnBridgeError


def load_picture(path: Path, mode: str = "RGB") -> Image.Image:
    """Decode a picture completely.

    Args:
        path: the file.
        mode: PIL mode to convert to; ``"P"`` keeps palette indices as they are stored.

    Raises:
        AttnBridgeError: if the file is missing, not a picture, or truncated.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy() if mode == "P" else image.convert(mode)
    except FileNotFoundError:
        raise AttnBridgeError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise AttnBridgeError(
            f"{path}: cannot be read as a picture ({error}); replace the file or take it out of the dataset"
        ) from None


def check_record(record: Record) -> None:
    """Open a record's files without decoding all of them; raise on what training would stumble over.

    A JPEG that lacks its end marker is decoded to make sure. Cost: about 0.1 ms a file.

    Raises:
        AttnBridgeError: for a corrupt or truncated picture, or a saliency map or mask of another size.
    """
    size = _checked_size(record.image)
    for what, path in (("saliency map", record.saliency), ("mask", record.mask)):
        if path is not None and _checked_size(path) != size:
            raise AttnBridgeError(
                f"{path}: the {what} is {_text(_checked_size(path))} pixels, but its picture {record.image} "
                f"is {_text(size)}; make them the same size"
            )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _checked_size(path: Path) -> tuple[int, int]:
    try:
        with path.open("rb") as handle:
            handle.seek(0, 2)
            length = handle.tell()
            handle.seek(max(0, length - 64))
            tail = handle.read()
            handle.seek(0)
            with Image.open(handle) as image:
                size, kind = image.size, image.format
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        load_picture(path)
        raise AttnBridgeError(f"{path}: cannot be read as a picture") from None
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if marker is not None and marker not in tail:
        load_picture(path)
    return size


class PictureDataset(Dataset[Sample]):
    """Samples of a list of records.

    Args:
        records: what to read, from :mod:`attnbridge.data.folders`.
        num_classes: length N of the multi-hot labels.
        domain: ``"source"`` or ``"target"``.
        transform: a torchvision v2 transform, applied to image, saliency and mask together.
        length: number of samples to present; beyond the records they start over. Default: all once.

    ``dataset[i]`` draws its augmentation from torch's global random numbers; ``dataset[i, seed]`` from
    ``seed`` alone, whatever the process or the order, which is what :class:`EpochSampler` yields.
    """

    def __init__(
        self,
        records: Sequence[Record],
        num_classes: int,
        domain: str,
        transform: Callable[..., Any],
        length: int | None = None,
    ) -> None:
        self.records = list(records)
        self.num_classes = num_classes
        self.domain = domain
        self.transform = transform
        self.length = len(self.records) if length is None else length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        if isinstance(key, int):
            return self._sample(key)
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._sample(index)

    def _sample(self, index: int) -> Sample:
        record = self.records[index % len(self.records)]
        image = tv_tensors.Image(TF.pil_to_tensor(load_picture(record.image)))
        parts: dict[str, Any] = {"image": image}
        size = tuple(image.shape[-2:])
        if record.saliency is not None:
            saliency = TF.pil_to_tensor(load_picture(record.saliency, "L"))[0]
            parts["saliency"] = tv_tensors.Mask(_same_size(saliency, size, record.saliency))
        if record.mask is not None:
            mask = torch.from_numpy(np.array(load_picture(record.mask, "P"), dtype=np.uint8))
            self._check_values(mask, record.mask)
            parts["mask"] = tv_tensors.Mask(_same_size(mask, size, record.mask))
        parts = self.transform(parts)
        labels = torch.zeros(self.num_classes)
        labels[list(record.classes)] = 1.0
        sample: Sample = {
            "image": parts["image"].as_subclass(torch.Tensor),
            "labels": labels,
            "domain": self.domain,
            "id": record.id,
        }
        if "saliency" in parts:
            sample["saliency"] = parts["saliency"].as_subclass(torch.Tensor).float() / 255
        if "mask" in parts:
            sample["mask"] = parts["mask"].as_subclass(torch.Tensor).long()
        return sample

    def _check_values(self, mask: torch.Tensor, path: Path) -> None:
        values = torch.unique(mask)
        wrong = values[(values > self.num_classes) & (values != 255)]
        if len(wrong):
            raise AttnBridgeError(
                f"{path}: holds the value {int(wrong[0])}; expected 0 (background), 1 to {self.num_classes} "
                "(the classes) or 255 (ignored)"
            )


def _same_size(tensor: torch.Tensor, size: tuple[int, ...], path: Path) -> torch.Tensor:
    if tuple(tensor.shape[-2:]) != size:
        raise AttnBridgeError(
            f"{path}: is {tensor.shape[-1]}x{tensor.shape[-2]} pixels, but its picture is {size[1]}x{size[0]}; "
            "make them the same size"
        )
    return tensor


class EpochSampler(DistributedSampler[Sample]):
    """Shuffled indices with a seed each, a function of (seed, epoch) alone.

    A run resumed at an epoch's start sees the pictures that the uninterrupted run would have seen, with
    the same augmentation. Each of several processes takes its share.
    """

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        seeds = torch.randint(2**31, (len(self.dataset),), generator=generator)  # type: ignore[arg-type]
        return ((int(i), int(seeds[int(i)])) for i in super().__iter__())
