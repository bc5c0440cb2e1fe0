"""Loaders of one's own in the place of folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from attnbridge.bounds import MapSize, check_names, check_value
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.plain import Third, as_batch
from attnbridge.data.sample import Batch, Sample
from attnbridge.errors import AttnBridgeError, shown


class _Numbered(NamedTuple):
    """An image of a loader, of which nothing else is known."""

    id: str


class LoaderDataModule(ImageDataModule):
    """Loaders of plain batches or of :class:`~attnbridge.data.sample.Batch`, whatever they read.

    Args:
        train: of each stream, ``{"source": loader, "target": loader}``; those that a method does not ask for are left
            unread. A batch is ``(images, labels)``, or a mapping with ``image`` and ``labels``, as
            :func:`~attnbridge.data.plain.as_batch` takes it. A source whose attention is guided has ``saliency``, or a
            third part; a stream whose masks the method learns from has ``mask``, or a third part.
        classes: names in index order.
        image_size: side of the images, or height and width, pixels.
        val: with ``mask`` ``(B, H, W)``, or a third part, for methods of several classes an image; ``None``: nothing is
            scored.
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
        """One entry for each image that can be counted, with its number in the loader's data as ``id``."""
        loader = self._loader(split)
        count = len(loader.dataset) if loader is not None else 0  # type: ignore[arg-type]
        return [_Numbered(str(number)) for number in range(count)]

    def samples(self, split: str, count: int) -> list[Sample]:
        """The first ``count`` samples of a split that show a class."""
        loader = self._loader(split)
        found: list[Sample] = []
        for batch in loader if loader is not None else ():
            batch = self._checked(batch, "mask")
            for i in range(len(batch["labels"])):
                sample: Any = {name: value[i] for name, value in batch.items()}
                if sample["labels"].any() and len(found) < count:
                    found.append(sample)
            if len(found) == count:
                break
        return found

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, Mapping) or "image" in batch or "labels" in batch:
            return self._checked(batch, "mask")
        return {name: self._checked(part, self.request.third(name)) for name, part in batch.items()}

    def _checked(self, batch: Any, third: Third | None) -> Any:
        """The batch, if it is one.

        Raises:
            AttnBridgeError: for images or labels that are missing, or of another shape.
        """
        known = as_batch(batch, len(self.classes), third, "data: a batch")
        missing = [name for name in ("image", "labels") if name not in known]
        if missing:
            raise AttnBridgeError(f"data: a batch has no {missing[0]!r}; it must have 'image' and 'labels'")
        return known

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
