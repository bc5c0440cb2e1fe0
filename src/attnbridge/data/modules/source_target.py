"""The source/target pair as a LightningDataModule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from attnbridge.bounds import AtLeastOne, BatchSize, Count, Seed, Share, Side, Views, Workers, check_values
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.folders import (
    check_lists,
    find_images,
    has_split,
    hash_order,
    pair_classes,
    scan_pair,
    subsample_per_class,
)
from attnbridge.data.guidance import Guide, scan_guided
from attnbridge.data.images import ImageRecord
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.saliency import is_model, make_saliency, saliency_folder
from attnbridge.data.sample import Batch, Sample
from attnbridge.data.transforms import Augment, Shape, Size, eval_transform, train_transform
from attnbridge.errors import AttnBridgeError


class SourceTargetDataModule(ImageDataModule):
    """A single-label source domain with saliency maps and a multi-label target domain.

    Args:
        source: class folders, ``source/CLASS/*.jpg``; they name the classes. Null for a method that has no source: then
            the target names them.
        target: ``target/{train,val,test}``, each with ``images/`` and ``labels.csv``; ``val`` and ``test``
            with ``masks/`` too, for scoring. ``test`` may be left out, and ``val``: then nothing is scored. Or a folder
            in VOC's layout, see :func:`attnbridge.data.voc.scan_voc`.
        lists: in VOC's layout, the names of the lists for ``train``, ``val`` and ``test``, if they are others.
        source_share: share of each source class that is used, the same images whatever the seed.
        saliency: maps of the source images, the same tree and names, PNG; or the name of a saliency model
            (``u2net``, ...): its maps are made once, into the user's cache.
        guided: images of the target whose objects a method may know: a list in VOC's layout, else ``train`` or a
            folder beside it.
        guided_by: what they are guided by: ``masks``, ``boxes`` or ``saliency``, see
            :func:`attnbridge.data.guidance.scan_guided`.
        guided_count: only so many of them, the same whatever the seed.
        guided_batch: how many of them are in a training batch.
        image_size: side of the square images given to the network, or their height and width, pixels.
        shape: ``stretch`` brings images to that size whatever their aspect ratio; ``pad`` keeps it.
        batch_size: images of each domain in a training batch, per process.
        min_crop: smallest share of a training image's area that a random crop of ``full`` keeps.
        source_zoom_out: the most by which a source image is shrunk at random, onto grey; for sources whose single
            object fills the image, as it does not in the target.
        workers: processes that load images; null: as many as there are cores, up to 8, beside a GPU, and two less
            where the cores also train, since there they only take time from each other.
        views: a training image has so many fixed views, and what the network's frozen beginning makes of them is
            kept in the user's cache, so that neither is done again in a later epoch or run; null: a new random view
            each time.
        seed: of the order and the augmentation.
        augment: of training images: ``full``: random crops, resized, flipped, their colours changed; ``flip``,
            ``cut`` and ``none`` are those of DSRG, of its second training and of SEC, see
            :func:`attnbridge.data.transforms.train_transform`.
        masks: whether ``val`` and ``test`` have masks; without them labels alone are scored, by their mean average
            precision, as on all images of VOC that have annotations (its lists in ``Main``, named ``Main/val``).

    The training stream never carries masks, whatever lies in the folder, and no labels of the target for a method that
    is to do without: they are NaN then. A trainer turns the 8 bits of the loaders'
    batches into floats; in a loop of your own :func:`~attnbridge.data.sample.as_floats` does.
    """

    def __init__(
        self,
        source: str | None,
        target: str,
        saliency: str | None = None,
        lists: dict[str, str] | None = None,
        source_share: Share = 1.0,
        guided: str | None = None,
        guided_by: Guide = "masks",
        guided_count: Count | None = None,
        guided_batch: BatchSize = 8,
        image_size: Side | tuple[Side, Side] = 224,
        shape: Shape = "stretch",
        batch_size: BatchSize = 32,
        min_crop: Share = 0.5,
        source_zoom_out: AtLeastOne = 1.0,
        workers: Workers | None = None,
        views: Views | None = None,
        seed: Seed = 0,
        augment: Augment = "full",
        masks: bool = True,
    ) -> None:
        check_values(SourceTargetDataModule.__init__, locals(), "data.")
        super().__init__(batch_size, workers, views)
        self.source, self.target = Path(source) if source else None, Path(target)
        self.saliency_model = saliency if is_model(saliency) else None
        self.saliency = saliency_folder(self.source, saliency) if saliency and self.source else None
        self.lists, self.source_share = lists, source_share
        self.guided, self.guided_count, self.guided_batch = guided, guided_count, guided_batch
        self.guided_by: Guide = guided_by
        self.image_size: Size = image_size if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.shape: Shape = shape
        self.augment: Augment = augment
        self.min_crop, self.source_zoom_out = min_crop, source_zoom_out
        self.masks, self.seed = masks, seed
        self.classes = pair_classes(self.source, self.target)

    def prepare_data(self) -> None:
        """Make the saliency maps that are missing, in one process."""
        if self.saliency_model and self.saliency:
            bad = make_saliency(find_images([str(self.source)]), self.saliency, self.saliency_model)
            if bad:
                raise AttnBridgeError(f"{bad[0]} ({len(bad)} such images in all)")

    def records(self, split: str) -> list[ImageRecord]:
        """The records of ``source``, ``train``, ``guided``, ``val`` or ``test``, listed and checked."""
        if split == "guided":
            return self._guided()
        masks = self.masks and split != "train"
        records = scan_pair(self.source, self.target, self.saliency, split, self.lists, masks)
        return subsample_per_class(records, self.source_share) if split == "source" else records

    def _guided(self) -> list[ImageRecord]:
        if self.guided is None:
            raise AttnBridgeError(
                "data.guided is not set; name the list or folder of the images whose objects may be known"
            )
        records = scan_guided(self.source, self.target, self.guided, self.guided_by)
        if self.guided_count is None:
            return records
        if not 0 < self.guided_count <= len(records):
            raise AttnBridgeError(f"data.guided_count must be from 1 to {len(records)}, not {self.guided_count}")
        return hash_order(records)[: self.guided_count]

    def frequencies(self, split: str) -> list[float]:
        """Share of a split's images that show each class, as if two more were there, one with all classes."""
        records = self.records(split)
        counts = Counter(c for record in records for c in record.classes)
        return [(counts[c] + 1) / (len(records) + 2) for c in range(len(self.classes))]

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "frequencies": self.frequencies}

    def has(self, split: str) -> bool:
        """Whether the target has a split."""
        return has_split(self.target, split, self.lists)

    def train_dataloader(self) -> CombinedLoader:
        """Batches ``{"source": ..., "target": ...}``, of the streams that the method wants.

        All streams are as long as the longer domain, so an epoch has the same number of steps whichever
        losses are on; the shorter domain starts over.
        """
        kept = self.cached_datasets(self._training_sets())
        loaders = {}
        for number, name in enumerate(kept):
            sampler = self.sampler(kept[name], self.seed * 10 + number)
            size = self.guided_batch if name == "guided" else self.batch_size
            loaders[name] = self.loader(kept[name], sampler, size, drop_last=True)
        return CombinedLoader(loaders, "max_size_cycle")

    def training_length(self) -> int:
        """Counted without saliency maps, which may not have been made yet."""
        length = len(self.records("train"))
        if self.source is None:
            return length
        records = scan_pair(self.source, self.target, None, "source", self.lists)
        return max(length, len(subsample_per_class(records, self.source_share)))

    def _training_sets(self) -> dict[str, ImageDataset]:
        """The images of the streams that the method wants."""
        check_lists(self.target, self.lists)
        streams = self.request.streams
        records = {"target": self.records("train")}
        if self.source or "source" in streams:
            records["source"] = self.records("source")
        length = max(len(found) for found in records.values())
        self.check_batch(length, self.processes()[0])
        if "guided" in streams:
            records["guided"] = self.records("guided")
        sets = {}
        for name in streams:
            zoom_out = self.source_zoom_out if name == "source" else 1.0
            crop = (self.min_crop, 1.0)
            transform = train_transform(self.image_size, crop, self.shape, zoom_out, self.augment)
            samples = length // self.batch_size * self.guided_batch if name == "guided" else length
            domain = "source" if name == "source" else "target"
            withheld = name in self.request.withheld
            sets[name] = ImageDataset(records[name], len(self.classes), domain, transform, samples, withheld)
        return sets

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self._eval_loader("val") if self.has("val") else []

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("test" if self.has("test") else "val")

    def samples(self, split: str, count: int) -> list[Sample]:
        """The first ``count`` samples of ``val`` or ``test`` that show a class, as evaluation sees them."""
        records = [r for r in self.records(split) if r.classes][:count]
        dataset = ImageDataset(records, len(self.classes), "target", eval_transform(self.image_size, self.shape))
        return [dataset[i] for i in range(len(records))]

    def own_images(self, split: str) -> ImageDataset:
        transform = eval_transform(self.image_size, self.shape)
        return ImageDataset(self.records(split), len(self.classes), "target", transform, difficult=True)

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        return self.eval_loader(self.own_images(split))
