"""Loaders of one's own in the place of folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from attnbridge.bounds import MapSize, check_names, check_value
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.sample import Batch, Sample, as_floats
from attnbridge.errors import AttnBridgeError, shown


class LoaderDataModule(ImageDataModule):
    """Loaders of :class:`~attnbridge.data.sample.Batch`, whatever they read.

    Args:
        train: of each stream, ``{"source": loader, "target": loader}``; those that a method does not ask for are left
            unread. A batch has ``image`` ``(B, 3, H, W)`` in [0, 1], ``labels`` ``(B, N)``, ``domain`` and ``id``, and,
            of a source whose attention is guided, ``saliency`` ``(B, H, W)`` in [0, 1].
        classes: names in index order.
        image_size: side of the images, or height and width, pixels.
        val: with ``mask`` ``(B, H, W)`` for methods of several classes an image; ``None``: nothing is scored.
        test: the same; ``None``: ``val`` is the test.
    """

    def __init__(
        self,
        train: Mapping[str, DataLoader[Batch]],
        classes: Sequence[str],
        image_size: int | tuple[int, int],
        val: DataLoader[Batch] | None = None,
        test: DataLoader[Batch] | None = None,
    ) -> None:
        if not isinstance(train, Mapping) or not train or not all(map(_is_loader, train.values())):
            raise AttnBridgeError(
                f'train must be loaders by stream, as {{"target": DataLoader(...)}}, not {shown(train)}'
            )
        for name, loader in (("val", val), ("test", test)):
            if loader is not None and not _is_loader(loader):
                raise AttnBridgeError(f"{name} must be a DataLoader or None, not {shown(loader)}")
        check_value("image_size", image_size, MapSize)
        if not check_names("classes", classes):
            raise AttnBridgeError("classes is empty; give the names of the classes in index order")
        super().__init__(1, 0)
        self.train, self.val, self.test = dict(train), val, test
        self.classes, self.image_size = list(classes), image_size

    def has(self, split: str) -> bool:
        """Whether there is a loader for it."""
        return {"train": True, "val": self.val is not None, "test": self.test is not None}.get(split, False)

    def records(self, split: str) -> list[Any]:
        """One entry for each image that can be counted."""
        loader = self._loader(split)
        return list(range(len(loader.dataset))) if loader is not None else []  # type: ignore[arg-type]

    def samples(self, split: str, count: int) -> list[Sample]:
        """The first ``count`` samples of a split that show a class."""
        loader = self._loader(split)
        found: list[Sample] = []
        for batch in loader if loader is not None else ():
            batch = as_floats(self._checked(batch))
            for i in range(len(batch["labels"])):
                sample: Any = {name: value[i] for name, value in batch.items()}
                if sample["labels"].any() and len(found) < count:
                    found.append(sample)
            if len(found) == count:
                break
        return found

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if "image" in batch or "labels" in batch:
            return as_floats(self._checked(batch))
        return {name: as_floats(self._checked(part)) for name, part in batch.items()}

    def _checked(self, batch: Any) -> Any:
        """The batch, if it is one.

        Raises:
            AttnBridgeError: for images or labels that are missing, or labels of another shape.
        """
        missing = [name for name in ("image", "labels") if name not in batch]
        if missing:
            raise AttnBridgeError(f"data: a batch has no {missing[0]!r}; it must have 'image' and 'labels'")
        shape, count = tuple(batch["labels"].shape), len(self.classes)
        if shape != (len(batch["image"]), count):
            raise AttnBridgeError(
                f"data: the labels of a batch of {len(batch['image'])} images are of shape {shape}, but there are "
                f"{count} classes; give ({len(batch['image'])}, {count}), 1 for each class that an image shows, else 0"
            )
        return batch

    def _loader(self, split: str) -> DataLoader[Batch] | None:
        if split == "train":
            return self.train.get("target") or next(iter(self.train.values()))
        return self.val if split == "val" else self.test or self.val

    def train_dataloader(self) -> CombinedLoader:
        missing = [name for name in self.request.streams if name not in self.train]
        if missing:
            raise AttnBridgeError(
                f"data: the method learns from the stream {missing[0]!r}, but train has {', '.join(self.train)}"
            )
        return CombinedLoader({name: self.train[name] for name in self.request.streams}, "max_size_cycle")

    def val_dataloader(self) -> Any:
        return self.val if self.val is not None else []

    def test_dataloader(self) -> Any:
        return self._loader("test")


def _is_loader(value: Any) -> bool:
    return hasattr(value, "__iter__") and hasattr(value, "dataset")
