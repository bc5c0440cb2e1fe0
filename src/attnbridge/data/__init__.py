"""Images, labels, saliency maps and masks in: folders, data modules, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbridge.lazy import exporter

if TYPE_CHECKING:
    from attnbridge.data.dataset import ImageDataset as ImageDataset
    from attnbridge.data.images import ImageRecord as ImageRecord
    from attnbridge.data.images import load_image as load_image
    from attnbridge.data.modules.classification import ClassificationDataModule as ClassificationDataModule
    from attnbridge.data.modules.cues import CueDataModule as CueDataModule
    from attnbridge.data.modules.domains import MultiDomainDataModule as MultiDomainDataModule
    from attnbridge.data.modules.loaders import LoaderDataModule as LoaderDataModule
    from attnbridge.data.modules.source_target import SourceTargetDataModule as SourceTargetDataModule
    from attnbridge.data.request import CacheRequest as CacheRequest
    from attnbridge.data.request import DataRequest as DataRequest
    from attnbridge.data.saliency import make_saliency as make_saliency
    from attnbridge.data.sample import Batch as Batch
    from attnbridge.data.sample import Sample as Sample
    from attnbridge.data.sample import as_floats as as_floats
    from attnbridge.data.sample import collate as collate

_NAMES = {
    "Batch": "attnbridge.data.sample",
    "CacheRequest": "attnbridge.data.request",
    "ClassificationDataModule": "attnbridge.data.modules.classification",
    "CueDataModule": "attnbridge.data.modules.cues",
    "DataRequest": "attnbridge.data.request",
    "ImageDataset": "attnbridge.data.dataset",
    "ImageRecord": "attnbridge.data.images",
    "LoaderDataModule": "attnbridge.data.modules.loaders",
    "MultiDomainDataModule": "attnbridge.data.modules.domains",
    "Sample": "attnbridge.data.sample",
    "SourceTargetDataModule": "attnbridge.data.modules.source_target",
    "as_floats": "attnbridge.data.sample",
    "collate": "attnbridge.data.sample",
    "load_image": "attnbridge.data.images",
    "make_saliency": "attnbridge.data.saliency",
}
__all__ = [
    "Batch",
    "CacheRequest",
    "ClassificationDataModule",
    "CueDataModule",
    "DataRequest",
    "ImageDataset",
    "ImageRecord",
    "LoaderDataModule",
    "MultiDomainDataModule",
    "Sample",
    "SourceTargetDataModule",
    "as_floats",
    "collate",
    "load_image",
    "make_saliency",
]
__getattr__ = exporter(__name__, _NAMES)
