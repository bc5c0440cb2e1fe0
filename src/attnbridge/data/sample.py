"""The sample contract: what one image carries through the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict, TypeVar

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from attnbridge.arguments import came, check_tensors
from attnbridge.errors import AttnBridgeError, shown

IGNORE_INDEX = 255
"""Mask value of pixels that no score counts."""


class Sample(TypedDict, total=False):
    """One image and what is known of it.

    Attributes:
        image: float ``(3, H, W)`` in [0, 1], RGB; each network normalises it as *it* was trained.
        features: in the place of ``image``, where views are kept: what the network's frozen beginning makes of it.
        labels: multi-hot float ``(N,)``; a single-label image has exactly one 1.
        saliency: float ``(H, W)`` in [0, 1], where a foreground prior is known.
        mask: long ``(H, W)``: 0 background, 1..N the classes, 255 ignored. **For scoring only**; the
            training stream of a method that learns from image labels never carries it.
        difficult: bool ``(N,)``, the classes that are in the image only as objects marked difficult, which are neither
            positive nor negative; absent where there are none. **For scoring only**, as ``mask`` is.
        domain: ``"source"`` or ``"target"``.
        id: the image's path relative to its dataset.
    """

    image: Tensor
    features: Tensor
    labels: Required[Tensor]
    saliency: Tensor
    mask: Tensor
    difficult: Tensor
    domain: Required[str]
    id: Required[str]


class Batch(TypedDict, total=False):
    """Samples stacked: tensors gain a leading batch dimension, strings become lists."""

    image: Tensor
    features: Tensor
    labels: Required[Tensor]
    saliency: Tensor
    mask: Tensor
    difficult: Tensor
    domain: Required[list[str]]
    id: Required[list[str]]


BatchOrSample = TypeVar("BatchOrSample", Batch, Sample)


def multi_hot(classes: Sequence[int], count: int) -> Tensor:
    """Bool ``(count,)``, true at the classes.

    >>> multi_hot((2,), 3)
    tensor([False, False,  True])
    """
    wrong = [each for each in classes if not 0 <= each < count]
    if wrong:
        raise AttnBridgeError(f"class {wrong[0]} is not among the {count} classes, 0 to {count - 1}")
    found = torch.zeros(count, dtype=torch.bool)
    found[list(classes)] = True
    return found


def as_floats(batch: BatchOrSample) -> BatchOrSample:
    """A sample or batch with its image and saliency map in [0, 1] and its mask as long, from the 8 bits of each.

    Eight bits are a quarter to an eighth of what has to pass from the processes that load images. What is float or
    long already stays.

    Raises:
        AttnBridgeError: for something else than a mapping, or images and saliency maps of other types.

    >>> grey = torch.full((3, 1, 1), 51, dtype=torch.uint8)
    >>> as_floats(Sample(image=grey, labels=torch.ones(2), domain="source", id="a"))["image"].flatten()
    tensor([0.2000, 0.2000, 0.2000])
    """
    if not isinstance(batch, Mapping):
        raise AttnBridgeError(f"batch must be a mapping, as the data modules' loaders give it, not {came(batch)}")
    changed: dict[str, Any] = dict(batch)
    for name in ("image", "saliency"):
        if name in changed and not _is_8_bits_or_float(changed[name]):
            raise AttnBridgeError(f"{name} must be uint8, or floats in [0, 1], but is {came(changed[name])}")
    if "image" in changed:
        changed["image"] = to_dtype(changed["image"], torch.float32, scale=True)
    if "saliency" in changed and not changed["saliency"].is_floating_point():
        changed["saliency"] = changed["saliency"].float() / 255
    if "mask" in changed:
        check_tensors(empty=True, mask=(changed["mask"], "...", "number"))
        changed["mask"] = changed["mask"].long()
    return changed  # type: ignore[return-value]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch.

    Raises:
        AttnBridgeError: for no samples, if only some of them carry a saliency map or a mask, or if they are of several
            sizes.

    >>> one: Sample = {"image": torch.zeros(3, 4, 4), "labels": torch.ones(2), "domain": "source", "id": "a"}
    >>> batch = collate([one, one])
    >>> batch["image"].shape, batch["id"]
    (torch.Size([2, 3, 4, 4]), ['a', 'a'])
    """
    if not len(samples):
        raise AttnBridgeError("samples is empty; a batch has at least one")
    for sample in samples:
        if not isinstance(sample, Mapping) or "id" not in sample:
            raise AttnBridgeError(f"samples must be mappings with an 'id', as datasets give them, not {shown(sample)}")
    batch: dict[str, Any] = {}
    fields = sorted({key for sample in samples for key in sample})
    for key in fields:
        missing = [sample["id"] for sample in samples if key not in sample]
        if missing:
            raise AttnBridgeError(
                f"{missing[0]}: has no {key}, but other images of its batch do; give every image of a "
                f"dataset a {key}, or none"
            )
        values = [sample[key] for sample in samples]  # type: ignore[literal-required]
        batch[key] = _stacked(key, values, samples) if isinstance(values[0], Tensor) else values
    return batch  # type: ignore[return-value]


def _is_8_bits_or_float(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dtype == torch.uint8 or value.is_floating_point())


def _stacked(key: str, values: Sequence[Tensor], samples: Sequence[Sample]) -> Tensor:
    for value, sample in zip(values, samples, strict=True):
        if not isinstance(value, Tensor) or value.shape != values[0].shape:
            raise AttnBridgeError(
                f"{sample['id']}: its {key} is {came(value)}, but that of {samples[0]['id']} is {came(values[0])}; "
                "bring all images of a batch to one size"
            )
    return torch.stack([*values])
