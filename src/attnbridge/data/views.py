"""A few fixed views of each training picture, kept as what the frozen beginning of a network makes of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attnbridge.data.cache import cache_dir, make_folder
from attnbridge.data.dataset import PictureDataset
from attnbridge.data.sample import Batch, Sample, as_floats, collate
from attnbridge.errors import AttnBridgeError

_STEP = 1_000_003
_FORMAT = 1


class ViewDataset(Dataset[Sample]):
    """Samples with ``features`` in the place of ``image``; ``dataset[i, seed]`` is one of the views of picture ``i``.

    Args:
        folder: made by :func:`make_views`.
        pictures: the pictures that it was made from.
        views: how many views of each.
    """

    def __init__(self, folder: Path, pictures: PictureDataset, views: int) -> None:
        self.pictures, self.views = pictures, views
        self.fields = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        record, domain = self.pictures.records[index % len(self.pictures.records)], self.pictures.domain
        row = index % len(self.pictures.records) * self.views + seed % self.views
        kept = {name: torch.from_numpy(np.array(values[row])) for name, values in self.fields.items()}
        return {**kept, "labels": self.pictures.labels(record), "domain": domain, "id": record.id}  # type: ignore[typeddict-item]


def views_folder(pictures: PictureDataset, made_with: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Path:
    """Where the views lie: a folder of the user's cache that is named after all that they depend on.

    Args:
        pictures: told by their names, sizes and times of change, as are their saliency maps and masks.
        made_with: how the views are made, in plain values.
        weights: of the beginning of the network.
    """
    digest = hashlib.sha256(json.dumps([_FORMAT, dict(made_with)]).encode())
    for record in pictures.records:
        digest.update(f"{record.values} {record.boxes}".encode())
        for path in (record.image, record.saliency, record.mask):
            if path is not None:
                found = path.stat()
                digest.update(f"{path.absolute()} {found.st_size} {found.st_mtime_ns}\n".encode())
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return cache_dir("views", digest.hexdigest()[:16])


def make_views(
    folder: Path, pictures: PictureDataset, views: int, beginning: Callable[[Tensor], Tensor], workers: int = 0
) -> None:
    """Make ``views`` views of each picture, unless they are there.

    Features are kept in half precision, saliency and masks in 8 bits, as one ``.npy`` file each. The views are the
    same for every run, whatever its seed; the folder appears when it is whole.

    Args:
        folder: from :func:`views_folder`.
        pictures: with the transform of the training.
        views: how many of each.
        beginning: from pictures ``(B, 3, H, W)`` in [0, 1] to features.
        workers: processes that load pictures.

    Raises:
        AttnBridgeError: if the disk has no room for them.
    """
    if folder.is_dir():
        return
    count = len(pictures.records)
    keys = [(index, view * _STEP + index) for index in range(count) for view in range(views)]
    loader: DataLoader[Any] = DataLoader(pictures.stored, 16, sampler=keys, num_workers=workers, collate_fn=collate)
    partial = Path(tempfile.mkdtemp(dir=make_folder(folder.parent), prefix=".partial"))
    try:
        fields: dict[str, np.ndarray[Any, Any]] = {}
        begin = 0
        for batch in track(loader, f"keeping {views} views of {count} {pictures.domain} pictures", transient=True):
            values = _kept(batch, beginning)
            if not fields:
                fields = {name: _reserve(partial / f"{name}.npy", v, len(keys)) for name, v in values.items()}
            for name, value in values.items():
                fields[name][begin : begin + len(value)] = value
            begin += len(batch["labels"])
        for field in fields.values():
            field.flush()  # type: ignore[attr-defined]
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _kept(batch: Batch, beginning: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    features = beginning(as_floats(batch)["image"]).to("cpu", torch.float16)
    if not torch.isfinite(features).all():
        raise AttnBridgeError("data.views: the features do not fit half precision; leave data.views out")
    kept = {"features": features, **{n: v for n, v in batch.items() if n in ("saliency", "mask")}}
    return {name: value.contiguous().numpy() for name, value in kept.items()}  # type: ignore[attr-defined]


def _reserve(path: Path, values: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """A file for ``rows`` rows like those of ``values``."""
    needed, free = values[:1].nbytes * rows, shutil.disk_usage(path.parent).free
    if needed > free:
        raise AttnBridgeError(
            f"data.views: {needed / 1e9:.1f} GB are needed in {path.parents[1]}, but {free / 1e9:.1f} GB are free; ask "
            "for fewer views, or name another place with ATTNBRIDGE_CACHE"
        )
    return np.lib.format.open_memmap(path, "w+", values.dtype, (rows, *values.shape[1:]))
