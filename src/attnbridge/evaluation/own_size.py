"""Masks as they lie in their files, and what a network says of an image at the image's own size."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule
from torch import Tensor

from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.transforms import over_image
from attnbridge.errors import AttnBridgeError


class OwnImages:
    """The images of a split that is scored, at their own sizes.

    Args:
        data: whose ``own_images`` they are.
        split: ``val`` or ``test``.

    Raises:
        AttnBridgeError: for data that are no files.
    """

    def __init__(self, data: ImageDataModule, split: str) -> None:
        found = data.own_images(split)
        if found is None:
            raise AttnBridgeError(
                "evaluation.size is own, but the data are loaders, whose images have one size; leave it out, or give "
                "folders"
            )
        self.images = found
        self.records = {record.id: record for record in found.records}
        self.given, self.shape = data.image_size, data.shape

    def path(self, identity: str) -> Path:
        """An image's file, by its id."""
        return self.records[identity].image

    def mask(self, identity: str) -> Tensor:
        """Its mask as it lies in its file, long ``(H, W)``; the values are the classes'.

        Raises:
            AttnBridgeError: for an image without one.
        """
        mask = self.images.own_mask(self.records[identity])
        if mask is None:
            raise AttnBridgeError("the split has no masks to score against; expected a masks/ folder")
        return mask.long()

    def over_image(self, values: Tensor, mask: Tensor) -> Tensor:
        """What a network says of an image it was given, ``(C, h, w)``, without what was padded to it."""
        return over_image(values, (mask.shape[0], mask.shape[1]), self.given, self.shape)


class OwnSplits:
    """:class:`OwnImages` of the split that a trainer is at, listed once.

    Args:
        data: whose splits they are.

    Raises:
        AttnBridgeError: for data that are no files.
    """

    def __init__(self, data: ImageDataModule) -> None:
        self.data = data
        self.listed = {"val": OwnImages(data, "val")}

    def of(self, module: LightningModule) -> OwnImages:
        """Those of the split that a method is scored on now; without a test split, ``val`` is the test."""
        split = "test" if module.trainer.testing and self.data.has("test") else "val"
        if split not in self.listed:
            self.listed[split] = OwnImages(self.data, split)
        return self.listed[split]
