"""A few fixed views of each training image, kept as what a frozen network, or its beginning, makes of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.files import cache_dir, partial_folder
from attnbridge.data.sample import Batch, Sample, collate
from attnbridge.data.text import read_cache
from attnbridge.errors import AttnBridgeError

_STEP = 1_000_003
_FORMAT = 1
FIELDS = "fields.json"
"""The shape of each field, written when all are whole."""


class CachedFeatureDataset(Dataset[Sample]):
    """Samples of what a method keeps of its views, floats as float16, saliency and mask in 8 bits.

    ``dataset[i, seed]`` is one of the views of image ``i``.

    Args:
        folder: made by :func:`cache_features`.
        images: the images that it was made from.
        views: how many views of each.
    """

    def __init__(self, folder: Path, images: ImageDataset, views: int) -> None:
        self.folder, self.images, self.views = folder, images, views
        self._fields: dict[str, np.ndarray[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fields": {}}  # a process that loads images opens the files itself

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        if not self._fields:
            self._fields = {path.stem: np.load(path, mmap_mode="r") for path in sorted(self.folder.glob("*.npy"))}
        index, seed = key
        record, domain = self.images.records[index % len(self.images.records)], self.images.domain
        row = index % len(self.images.records) * self.views + seed % self.views
        kept = {name: torch.from_numpy(np.array(values[row])) for name, values in self._fields.items()}
        return {**kept, "labels": self.images.labels(record), "domain": domain, "id": record.id}  # type: ignore[typeddict-item]


def feature_cache_dir(images: ImageDataset, views: int, structure: str, weights: Mapping[str, Tensor]) -> Path:
    """Where the views lie: a folder of the user's cache that is named after all that they depend on.

    Args:
        images: told by :meth:`~attnbridge.data.dataset.ImageDataset.identify` and their transform.
        views: how many of each.
        structure: of what is run on them, in words.
        weights: of what is run on them.
    """
    digest = hashlib.sha256(f"{_FORMAT} {views} {images.transform!r} {structure}".encode())
    images.identify(digest.update)
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.detach().cpu().double().contiguous().numpy().tobytes())
    return cache_dir("views", digest.hexdigest()[:16])


def cache_features(
    folder: Path, images: ImageDataset, views: int, keep: Callable[[Batch], Mapping[str, Tensor]], workers: int = 0
) -> None:
    """Make ``views`` views of each image, unless they are there.

    Each field is one ``.npy`` file, floats in half precision. The views are the same for every run, whatever its seed;
    the folder appears when it is whole.

    Args:
        folder: from :func:`feature_cache_dir`.
        images: with the transform of the training.
        views: how many of each.
        keep: from a batch in 8 bits to what is kept of it.
        workers: processes that load images.

    Raises:
        AttnBridgeError: if the disk has no room for them, or a value does not fit half precision.
    """
    if _is_whole(folder, len(images.records) * views):
        return
    if os.path.lexists(folder):  # half of it was lost; the cache is the program's own
        with partial_folder(folder.parent) as place:
            folder.rename(place / folder.name)
    with partial_folder(folder.parent) as partial:
        _fill(partial, images, views, keep, workers)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was faster
                raise


def _is_whole(folder: Path, rows: int) -> bool:
    """Whether all fields are there to their ends, each with a row for each view."""
    fields = read_cache(folder / FIELDS, dict)
    if not fields:
        return False
    for name, shape in fields.items():
        try:
            found = np.load(folder / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        if list(found.shape) != shape or len(found) != rows:
            return False
    return True


def _fill(
    place: Path, images: ImageDataset, views: int, keep: Callable[[Batch], Mapping[str, Tensor]], workers: int
) -> None:
    count = len(images.records)
    keys = [(index, view * _STEP + index) for index in range(count) for view in range(views)]
    options: dict[str, Any] = {"num_workers": workers, "generator": torch.Generator(), "collate_fn": collate}
    loader: DataLoader[Any] = DataLoader(images.stored, 16, sampler=keys, **options)
    words = f"keeping {views} views of {count} {images.domain} images"
    fields: dict[str, np.ndarray[Any, Any]] = {}
    begin = 0
    for batch in track(loader, words, transient=True, console=Console(stderr=True)):
        values = {name: _stored(name, value) for name, value in keep(batch).items()}
        if not fields:
            fields = _reserve(place, values, len(keys))
        for name, value in values.items():
            fields[name][begin : begin + len(value)] = value
        begin += len(batch["labels"])
    for field in fields.values():
        field.flush()  # type: ignore[attr-defined]
    (place / FIELDS).write_text(json.dumps({name: field.shape for name, field in fields.items()}))


def _stored(name: str, value: Tensor) -> np.ndarray[Any, Any]:
    value = value.to("cpu", torch.float16) if value.is_floating_point() else value.cpu()
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise AttnBridgeError(f"data.views: the {name} do not fit half precision; leave data.views out")
    return value.contiguous().numpy()


def _reserve(place: Path, values: Mapping[str, np.ndarray[Any, Any]], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """A file for ``rows`` rows like those of each value."""
    needed, free = sum(value[:1].nbytes for value in values.values()) * rows, shutil.disk_usage(place).free
    if needed > free:
        raise AttnBridgeError(
            f"data.views: {needed / 1e9:.1f} GB are needed in {place.parent}, but {free / 1e9:.1f} GB are free; ask "
            "for fewer views, or name another place with ATTNBRIDGE_CACHE"
        )
    opened = np.lib.format.open_memmap
    return {n: opened(place / f"{n}.npy", "w+", v.dtype, (rows, *v.shape[1:])) for n, v in values.items()}
