"""Several domains of the same classes: learn on some, be scored on another, whose labels training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from attnbridge.bounds import BatchSize, Inside, Seed, Share, Side, Views, Workers, check_values
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.domain_folders import domain_classes, of_target, scan_domain
from attnbridge.data.folders import hash_order
from attnbridge.data.images import ImageRecord, check_record, class_balanced_order
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.saliency import is_model, make_saliency, saliency_folder
from attnbridge.data.sample import Batch, Sample
from attnbridge.data.transforms import Size, eval_transform, train_transform
from attnbridge.errors import AttnBridgeError


class MultiDomainDataModule(ImageDataModule):
    """Source domains with labels and saliency, and a target domain without.

    Args:
        data: ``data/DOMAIN/CLASS/*.jpg``; all domains have the same classes.
        sources: names of the domains that are learnt from.
        target: name of the domain that is scored. Its labels are withheld from training: in every training batch they
            are NaN, so that a loss which reads them is none.
        generalise: the target's images are withheld too (domain generalization; else adaptation).
        saliency: maps of the images, ``saliency/DOMAIN/CLASS/*.png``, or the name of a saliency model, whose maps are
            made once, into the user's cache. The target's serve the score of the energy alone; a folder may lack them.
        val_share: share of each source domain's and class's images that is kept for validation, at least one, the
            same whatever the seed.
        image_size: side of the square images given to the network, or their height and width, pixels.
        batch_size: images of the sources, and as many of the target, in a training batch.
        min_crop: smallest share of a training image's area that a random crop keeps.
        workers: processes that load images; null: chosen by the machine, see
            :func:`~attnbridge.data.modules.base.default_workers`.
        views: a training image has so many fixed views, and what the network's frozen beginning makes of them is
            kept; null: a new random view each time.
        seed: of the order and the augmentation.
    """

    def __init__(
        self,
        data: str,
        sources: Sequence[str],
        target: str,
        generalise: bool = False,
        saliency: str | None = None,
        val_share: Inside = 0.2,
        image_size: Side | tuple[Side, Side] = 224,
        batch_size: BatchSize = 32,
        min_crop: Share = 0.5,
        workers: Workers | None = None,
        views: Views | None = None,
        seed: Seed = 0,
    ) -> None:
        check_values(MultiDomainDataModule.__init__, locals(), "data.")
        super().__init__(batch_size, workers, views)
        self.root, self.sources, self.target = Path(data), tuple(sources), target
        self.classes = domain_classes(self.root, [*self.sources, target])
        self.generalise, self.val_share, self.min_crop, self.seed = generalise, val_share, min_crop, seed
        self.image_size: Size = image_size if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.saliency_model = saliency if is_model(saliency) else None
        self.saliency = saliency_folder(self.root, saliency) if saliency else None

    def prepare_data(self) -> None:
        """Make the saliency maps that are missing, in one process."""
        if not self.saliency_model or not self.saliency:
            return
        found = [r for domain in (*self.sources, self.target) for r in scan_domain(self.root, domain, self.classes)]
        images = {record.image.relative_to(self.root).as_posix(): record.image for record in found}
        bad = make_saliency(images, self.saliency, self.saliency_model)
        if bad:
            raise AttnBridgeError(f"{bad[0]} ({len(bad)} such images in all)")

    def records(self, split: str) -> list[ImageRecord]:
        """The records of ``source`` (for training), ``target`` (the same images as ``test``), ``val`` (of the
        sources) or ``test``."""
        if split in ("target", "test"):
            return self._listed(self.target)
        return [record for domain in self.sources for record in self._part(self._listed(domain), split)]

    def _part(self, listed: list[ImageRecord], split: str) -> list[ImageRecord]:
        own: dict[int, list[ImageRecord]] = {label: [] for label in range(len(self.classes))}
        for record in hash_order(listed):
            own[record.classes[0]].append(record)
        found = []
        for records in own.values():
            held = min(max(1, round(self.val_share * len(records))), len(records) - 1)
            found += records[:held] if split == "val" else records[held:]
        return found

    def _listed(self, domain: str) -> list[ImageRecord]:
        maps = of_target(self.saliency, domain) if domain == self.target else self.saliency
        records = scan_domain(self.root, domain, self.classes, maps)
        for record in records:
            check_record(record)
        return records

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "domains": self.sources, "generalise": self.generalise}

    def train_dataloader(self) -> CombinedLoader:
        """Batches ``{"source": ..., "target": ...}``; the target's without labels, or, when generalising, none. As long
        as the larger of the two, whether the method wants it or not, so that all rows of a table take as many steps."""
        records = {name: self.records(name) for name in self.wanted(self.request.streams)}
        length = self.training_length()
        self.check_batch(length, self.processes()[0])
        sets = {}
        for name, found in records.items():
            transform = train_transform(self.image_size, (self.min_crop, 1.0))
            given = found if name == "source" else unlabelled(found)
            sets[name] = ImageDataset(given, len(self.classes), name, transform, length, withheld=name == "target")
        kept = self.cached_datasets(sets)
        loaders = {}
        for number, name in enumerate(kept):
            sampler = self.sampler(kept[name], self.seed * 10 + number)
            loaders[name] = self.loader(kept[name], sampler, self.batch_size, drop_last=True)
        return CombinedLoader(loaders, "max_size_cycle")

    def training_length(self) -> int:
        """Counted without saliency maps, which may not have been made yet."""
        listed = {domain: scan_domain(self.root, domain, self.classes) for domain in (*self.sources, self.target)}
        lengths = {"source": sum(len(self._part(listed[domain], "source")) for domain in self.sources)}
        lengths["target"] = len(listed[self.target])
        return max(lengths[name] for name in self.wanted(("source", "target")))

    def wanted(self, streams: Sequence[str]) -> list[str]:
        """The streams of a method that there are."""
        return [name for name in streams if name == "source" or not self.generalise]

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Two: the sources' validation images, and the target's, which are counted apart.

        Raises:
            AttnBridgeError: if there are no validation images.
        """
        if not self.records("val"):
            raise AttnBridgeError(f"{self.root}: the sources' classes have one image each, so none for validation")
        return [self._eval_loader("val"), self._eval_loader("test")]

    def samples(self, split: str, count: int) -> list[Sample]:
        """``count`` samples of ``test``, the target, as evaluation sees them, of as many classes as there are; without
        saliency, which may not have been made yet."""
        if split != "test":
            raise AttnBridgeError(f"there are samples of the target alone, as `test`, not {split!r}")
        dataset = self._evaluated(scan_domain(self.root, self.target, self.classes))
        return [dataset[i] for i in class_balanced_order(dataset.records)[:count]]

    def _evaluated(self, records: list[ImageRecord]) -> ImageDataset:
        return ImageDataset(records, len(self.classes), "target", eval_transform(self.image_size))

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        records = self.records(split)
        return self.eval_loader(self._evaluated(records if split == "test" else without_saliency(records)))


def unlabelled(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The same records without saliency maps, and named by a number, since their folder is their class."""
    return [replace(r, id=f"{r.id.split('/')[0]}/{i}") for i, r in enumerate(without_saliency(records))]


def without_saliency(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The same records, their saliency maps left out."""
    return [replace(record, saliency=None) for record in records]
