"""What a plain batch is, and what is none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbridge.data.plain import as_batch, image_of
from attnbridge.errors import AttnBridgeError

FLOATS = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
BYTES = (FLOATS * 255).byte()
LABELS = torch.tensor([2, 0])
HOT = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
MASK = torch.tensor([[[0, 3], [255, 1]]] * 2)


@pytest.mark.parametrize("pack", [tuple, list])
@pytest.mark.parametrize("images", [FLOATS, BYTES])
@pytest.mark.parametrize("labels", [LABELS, LABELS.int(), HOT, HOT.bool(), HOT.long()])
def test_images_and_labels_of_every_kind(pack: Any, images: Tensor, labels: Tensor) -> None:
    batch = as_batch(pack([images, labels]), 3)
    assert set(batch) == {"image", "labels"}
    assert torch.equal(batch["labels"], HOT)
    assert batch["labels"].dtype == batch["image"].dtype == torch.float32
    torch.testing.assert_close(batch["image"], FLOATS if images is FLOATS else BYTES.float() / 255)


@pytest.mark.parametrize("extra", [(), (1,)])
def test_the_third_part_is_what_the_stream_has(extra: tuple[int, ...]) -> None:
    saliency = FLOATS[:, 0].view(2, *extra, 4, 4)
    for values in (saliency, (saliency * 255).byte(), saliency > 0.5):
        found = as_batch((FLOATS, LABELS, values), 3, "saliency")["saliency"]
        wanted = values.float() / (255 if values.dtype == torch.uint8 else 1)
        torch.testing.assert_close(found, wanted.view(2, 4, 4))
    masks = MASK.view(2, *extra, 2, 2)
    for values in (masks, masks.byte()):
        found = as_batch((FLOATS, LABELS, values), 3, "mask")["mask"]
        assert found.dtype == torch.long
        assert torch.equal(found, MASK)
    assert set(as_batch((FLOATS, LABELS, masks), 3)) == {"image", "labels"}  # a stream without a third part


def test_a_mapping_is_a_batch_already_and_images_alone_are_one() -> None:
    given = {"image": BYTES, "labels": LABELS, "id": ["a", "b"], "saliency": BYTES[:, 0]}
    batch: Any = as_batch(given, 3)
    assert torch.equal(batch["labels"], HOT)
    assert batch["id"] == ["a", "b"]
    assert batch["saliency"].max() <= 1
    assert given["labels"] is LABELS
    withheld = {"image": FLOATS, "labels": torch.full((2, 3), torch.nan)}
    assert as_batch(withheld, 3)["labels"] is withheld["labels"]
    assert set(as_batch(FLOATS, 3)) == {"image"}


def test_the_image_of_a_sample() -> None:
    for sample in ((BYTES[0], 1), [BYTES[0], 1], {"image": BYTES[0]}):
        torch.testing.assert_close(image_of(sample), BYTES[0].float() / 255)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((FLOATS,), "batch must be (images, labels), (images, labels, saliency or masks), or a mapping with"),
        ([FLOATS, LABELS, MASK, MASK], "but is a list of 4"),
        ("cat", "but is 'cat'"),
        (None, "but is None"),
        ((LABELS, FLOATS), "images must be (B, 3, H, W), floats in [0, 1] or uint8, but are torch.int64 of shape (2,)"),
        ((FLOATS.long(), LABELS), "images must be (B, 3, H, W)"),
        (([1, 2], LABELS), "images must be (B, 3, H, W), floats in [0, 1] or uint8, but are a list"),
        ((FLOATS, torch.tensor([3, 0])), "label 3 is of none of the 3 classes, 0 to 2"),
        ((FLOATS, torch.tensor([0, -1])), "label -1 is of none"),
        (
            (FLOATS, LABELS.float()),
            "labels are torch.float32 of shape (2,), but there are 3 classes; give long (B,), the number of",
        ),
        ((FLOATS, HOT[:, :2]), "labels are torch.float32 of shape (2, 2), but there are 3 classes"),
        ((FLOATS, ["cat", "dog"]), "labels are a list, but there are 3 classes"),
        ((FLOATS, LABELS[:1]), "of different numbers of images"),
        ((FLOATS, LABELS, FLOATS[:, 0]), "masks must be whole numbers, 0 background, k the k-th class, 255 unknown"),
        ((FLOATS, LABELS, FLOATS[:, 0] > 0.5), "masks must be whole numbers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_batch(given: Any, words: str) -> None:
    with pytest.raises(AttnBridgeError, match=re.escape(words)):
        as_batch(given, 3, "mask")
