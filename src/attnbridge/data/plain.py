"""Batches as any DataLoader of PyTorch gives them, as batches of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attnbridge.arguments import came
from attnbridge.data.sample import Batch, as_floats
from attnbridge.errors import AttnBridgeError

Third = Literal["saliency", "mask"]
"""What the third part of a plain batch may be."""


def as_batch(given: Any, num_classes: int, third: Third | None = None, where: str = "batch") -> Batch:
    """A batch of the library from a plain one, ``(images, labels)`` or ``(images, labels, third)``.

    Args:
        given: a tuple or list: images ``(B, 3, H, W)``, floats in [0, 1] or uint8; labels, long ``(B,)`` or 0 and 1 of
            each class ``(B, N)``; and a saliency map or a mask of each image. Or a mapping that is such a batch by name
            (:class:`~attnbridge.data.sample.Batch`), with labels of either kind.
        num_classes: number N of classes.
        third: what the third part is: ``saliency`` ``(B, H, W)`` or ``(B, 1, H, W)``, floats in [0, 1], uint8 or bool;
            or ``mask``, whole numbers, 0 background, k the k-th class, 255 unknown. ``None``: it is left out.
        where: what messages call the batch.

    Returns:
        Images and saliency as floats in [0, 1], labels as floats ``(B, N)``, masks as long ``(B, H, W)``.

    Raises:
        AttnBridgeError: for anything else, naming the part.

    >>> batch = as_batch((torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([2, 0])), 3)
    >>> batch["image"].dtype, batch["labels"].tolist()
    (torch.float32, [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """
    batch: dict[str, Any] = dict(given) if isinstance(given, Mapping) else _named(given, third, where)
    if "image" in batch and not _is_images(batch["image"]):
        raise AttnBridgeError(
            f"{where}: images must be (B, 3, H, W), floats in [0, 1] or uint8, but are {came(batch['image'])}"
        )
    if "labels" in batch:
        batch["labels"] = _labels(batch["labels"], num_classes, where)
    if isinstance(batch.get("saliency"), Tensor):
        batch["saliency"] = _one_channel(batch["saliency"])
        batch["saliency"] = batch["saliency"].float() if batch["saliency"].dtype == torch.bool else batch["saliency"]
    if isinstance(batch.get("mask"), Tensor):
        batch["mask"] = _one_channel(batch["mask"])
        if batch["mask"].is_floating_point() or batch["mask"].dtype == torch.bool:
            raise AttnBridgeError(
                f"{where}: masks must be whole numbers, 0 background, k the k-th class, 255 unknown, but are "
                f"{came(batch['mask'])}"
            )
    sizes = {name: tuple(value.shape) for name, value in batch.items() if isinstance(value, Tensor)}
    if len({shape[0] for shape in sizes.values()}) > 1:
        raise AttnBridgeError(f"{where}: its parts are of different numbers of images: {sizes}")
    floats: Any = as_floats(batch)  # type: ignore[type-var]
    return floats  # type: ignore[no-any-return]


def image_of(sample: Any) -> Tensor:
    """The image of a sample, ``(image, label)`` or a mapping, as floats in [0, 1].

    >>> image_of((torch.full((3, 1, 1), 51, dtype=torch.uint8), 4)).flatten()
    tensor([0.2000, 0.2000, 0.2000])
    """
    image = sample["image"] if isinstance(sample, Mapping) else sample[0]
    return as_floats({"image": image})["image"]  # type: ignore[type-var, no-any-return]


def _named(given: Any, third: Third | None, where: str) -> dict[str, Any]:
    if isinstance(given, Tensor):
        return {"image": given}
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) not in (2, 3):
        what = f"a list of {len(given)}" if isinstance(given, list | tuple) else came(given)
        raise AttnBridgeError(
            f"{where} must be (images, labels), (images, labels, saliency or masks), or a mapping with 'image' and "
            f"'labels', but is {what}"
        )
    names = ("image", "labels", *([third] if third and len(given) == 3 else []))
    return dict(zip(names, given, strict=False))


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and (value.dtype == torch.uint8 or value.is_floating_point())


def _one_channel(values: Tensor) -> Tensor:
    return values[:, 0] if values.ndim == 4 and values.shape[1] == 1 else values


def _labels(labels: Any, count: int, where: str) -> Tensor:
    """Labels of either kind as floats ``(B, N)``."""
    whole = isinstance(labels, Tensor) and not labels.is_complex()
    if whole and labels.ndim == 2 and labels.shape[1] == count:
        hot: Tensor = labels.float()
        return hot
    if not whole or labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise AttnBridgeError(
            f"{where}: labels are {came(labels)}, but there are {count} classes; give long (B,), the number of each "
            f"image's class, or (B, {count}), 1 for each class that it shows, else 0"
        )
    wrong = labels[(labels < 0) | (labels >= count)]
    if len(wrong):
        raise AttnBridgeError(f"{where}: label {int(wrong[0])} is of none of the {count} classes, 0 to {count - 1}")
    return one_hot(labels.long(), count).float()
