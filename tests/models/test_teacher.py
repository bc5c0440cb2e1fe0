"""A teacher answers as its network does, in the normalisation that it wants, and is never changed."""

from __future__ import annotations

import torch

from attnbridge.models.backbones import build_backbone
from attnbridge.models.teacher import Teacher


def make(name: str = "resnet10t") -> Teacher:
    torch.manual_seed(0)
    return Teacher(build_backbone(name, 4, weights="none", image_size=32), 32)


def test_it_gets_images_as_it_wants_them_and_records_no_graph() -> None:
    teacher = make()
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    images = torch.rand(2, 3, 32, 32)
    told = teacher.forward(images, ["layer1"])
    mean, std = (torch.tensor(teacher.network.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(teacher.normalised(images), (images - mean) / std)
    with torch.no_grad():
        torch.testing.assert_close(told.logits, teacher.network((images - mean) / std))
    assert told.features["layer1"].shape[0] == 2
    assert not told.logits.requires_grad
    assert not told.features["layer1"].requires_grad
    assert not teacher.network.training
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())


def test_tokens_are_told_as_maps() -> None:
    teacher = make("vit_tiny_patch16_224")
    assert teacher.forward(torch.rand(1, 3, 32, 32), ["blocks.3"]).features["blocks.3"].shape == (1, 192, 2, 2)


def test_the_fingerprint_is_of_all_that_its_answers_depend_on() -> None:
    words, weights = make().fingerprint()
    same, others = make().fingerprint()
    assert same == words
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert {"teacher.mean", "teacher.std", "teacher.fc.weight"} <= set(weights)
    assert make("resnet18").fingerprint()[0] != words
