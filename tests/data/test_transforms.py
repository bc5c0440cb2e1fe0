"""How training images are changed: DSRG's and SEC's ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from attnbridge.data.transforms import MEAN_PIXEL, Saliency, eval_transform, train_transform
from attnbridge.errors import AttnBridgeError


def parts(height: int, width: int) -> dict[str, Any]:
    places = torch.arange(height * width, dtype=torch.uint8).view(1, height, width)
    return {
        "image": tv_tensors.Image(places.expand(3, -1, -1)),
        "saliency": Saliency(places),
        "mask": tv_tensors.Mask(places[0]),
    }


def test_flip_is_an_images_evaluation_or_its_mirror_image() -> None:
    given, seen = parts(12, 20), set()
    plain = eval_transform(16)(given)
    torch.manual_seed(0)
    for _ in range(20):
        found = train_transform(16, augment="flip")(given)
        turned = not torch.equal(found["image"], plain["image"])
        for name, value in found.items():
            assert torch.equal(value, plain[name].flip(-1) if turned else plain[name])
        seen.add(turned)
    assert seen == {False, True}


def test_none_is_what_evaluation_does() -> None:
    given = parts(12, 20)
    found, plain = train_transform((8, 16), augment="none")(given), eval_transform((8, 16))(given)
    assert all(torch.equal(found[name], plain[name]) for name in given)


def test_cut_is_a_part_of_the_image_or_of_its_mirror_image() -> None:
    """speedinghzl/DSRG, 91efdf7, layer.py:202-234."""
    given, seen = parts(10, 12), set()
    torch.manual_seed(0)
    for _ in range(200):
        found = train_transform(8, augment="cut")(given)
        assert torch.equal(found["image"][0], found["mask"])
        assert torch.equal(found["image"][:1], found["saliency"])
        turned = bool(found["mask"][0, 1] < found["mask"][0, 0])
        mask = found["mask"].flip(1) if turned else found["mask"]
        y, x = divmod(int(mask[0, 0]), 12)
        assert torch.equal(mask, given["mask"][y : y + 8, x : x + 8])
        seen.add((y, x, turned))
    assert len(seen) == 3 * 5 * 2


def test_cut_pads_small_images_at_the_right_and_below() -> None:
    """layer.py:203-213: with the mean pixel, which is 0 once subtracted, and with 255."""
    torch.manual_seed(0)
    found = [train_transform(8, augment="cut")(parts(5, 6)) for _ in range(10)]
    for each in found:
        turned = bool(each["mask"][0, 0] == 255)
        flat = {name: value.flip(-1) if turned else value for name, value in each.items()}
        assert torch.equal(flat["mask"][:5, :6], parts(5, 6)["mask"])
        beside = torch.ones(8, 8, dtype=torch.bool)
        beside[:5, :6] = False
        assert (flat["mask"][beside] == 255).all()
        assert (flat["saliency"][0][beside] == 0).all()
        assert (flat["image"][:, beside] == torch.tensor(MEAN_PIXEL)[:, None]).all()


def test_another_way_is_refused() -> None:
    with pytest.raises(AttnBridgeError, match="augment must be full, flip, cut or none, not 'crop'"):
        train_transform(8, augment="crop")  # type: ignore[arg-type]
