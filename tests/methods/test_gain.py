"""GAIN against plain loops, and a test for each bug that public ports of it have."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.data.sample import Batch, as_floats
from attnbridge.errors import AttnBridgeError
from attnbridge.methods.gain import GAIN
from tests.methods.test_methods import batch_of, gradients, open_residuals
from tests.runs import SMALL, make_data, make_trainer


def make_gain(classes: Any, **options: Any) -> GAIN:
    torch.manual_seed(0)
    method = GAIN(classes, **{**SMALL, **options})
    open_residuals(method)
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    return method.train()


def guided_data(scenes: Path, **options: Any) -> SourceTargetDataModule:
    """The masks of the validation images are those that may be used."""
    return make_data(scenes, guided="val", guided_batch=4, **options)


def batch_for(method: GAIN, data: SourceTargetDataModule) -> dict[str, Batch]:
    data.request = method.data_request()
    batch, _, _ = next(iter(data.train_dataloader()))
    return {name: as_floats(part) for name, part in batch.items()}


def naive_map(method: GAIN, image: Tensor, c: int, normalise: str = "max") -> Tensor:
    """The closed form of pooling and a linear head, one image, one class."""
    network: Any = method.network
    features = network.forward_features((image[None] - method.mean) / method.std)[0]
    heat = torch.zeros(features.shape[1:], dtype=features.dtype)
    for k in range(len(features)):
        heat = heat + network.fc.weight[c, k] * features[k]
    heat = heat.clamp_min(0)
    return heat / heat.max().clamp_min(1e-8) if normalise == "max" else heat / heat.numel()


def naive_mining(method: GAIN, batch: Batch) -> Tensor:
    images = []
    for image, labels in zip(batch["image"], batch["labels"], strict=True):
        scores = []
        for c in torch.nonzero(labels).flatten().tolist():
            mask = 1 / (1 + torch.exp(-method.mask_slope * (naive_map(method, image, c) - method.mask_threshold)))
            mask = F.interpolate(mask[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0]
            erased = image * (1 - mask) + method.mean * mask
            scores.append(method.network(((erased - method.mean) / method.std)[None])[0, c].sigmoid())
        if scores:
            images.append(torch.stack(scores).mean())
    return torch.stack(images).mean()


@pytest.mark.parametrize("stream", ["shared", "frozen"])
def test_mining_equals_a_loop_over_images_and_classes(scenes: Path, stream: str) -> None:
    """So the mask is that of its own class, the score is that of the erased class, and no map knows the batch."""
    data = make_data(scenes)
    method = make_gain(data.classes, mining_stream=stream)
    batch = batch_of(data)
    assert batch["target"]["labels"].sum(1).max() > 1
    torch.testing.assert_close(method.losses(batch)["target/mining"], naive_mining(method, batch["target"]))


def test_the_gradient_of_mining_equals_the_loops(scenes: Path) -> None:
    data = make_data(scenes)
    method = make_gain(data.classes).double()
    batch = batch_of(data)
    batch["target"]["image"] = batch["target"]["image"].double()
    batch = {"target": batch["target"]}
    parameters = [p for p in method.network.parameters() if p.requires_grad]
    ours = torch.autograd.grad(method.losses(batch)["target/mining"], parameters, allow_unused=True)
    theirs = torch.autograd.grad(naive_mining(method, batch["target"]), parameters, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


def test_one_class_drawn_at_random_has_the_mean_of_all(scenes: Path) -> None:
    data = make_data(scenes)
    batch = batch_of(data)
    batch["target"]["labels"][0] = 0  # an image without any
    every = make_gain(data.classes).losses(batch)["target/mining"]
    method = make_gain(data.classes, mined_classes="one")
    drawn = torch.stack([method.losses(batch)["target/mining"].detach() for _ in range(60)])
    assert drawn.std() > 0
    assert abs(float(drawn.mean() - every)) < 4 * float(drawn.std()) / 60**0.5


def test_frozen_mining_trains_through_the_mask_alone(scenes: Path) -> None:
    data = make_data(scenes)
    batch = batch_of(data)
    found = {}
    for stream in ("shared", "frozen"):
        method = make_gain(data.classes, mining_stream=stream)
        found[stream] = gradients(method, method.losses(batch)["target/mining"])
        assert all(p.requires_grad for p in method.network.parameters())
    assert "network.fc.weight" in found["frozen"]  # through the map's channel weights
    assert "network.conv1.0.weight" in found["frozen"]
    assert found["shared"] - found["frozen"] == {"network.fc.bias"}  # no map depends on it, the erased score does


def test_first_order_masks_hold_the_channel_weights_fixed(scenes: Path) -> None:
    data = make_data(scenes)
    method = make_gain(data.classes, mining_stream="frozen", second_order="off")
    reached = gradients(method, method.losses(batch_of(data))["target/mining"])
    assert "network.layer4.0.conv2.weight" in reached
    assert not any(name.startswith("network.fc") for name in reached)


def test_erased_images_do_not_enter_the_batch_statistics(scenes: Path) -> None:
    data = make_data(scenes)
    batch = batch_of(data)
    states = []
    for weight in (0.0, 1.0):
        method = make_gain(data.classes, mining_weight=weight, batch_norm="train")
        method.losses(batch)
        states.append({k: v for k, v in method.network.state_dict().items() if "running" in k or "tracked" in k})
        assert method.network.bn1.training
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("normalise", ["none", "max"])
def test_guidance_equals_a_loop_and_leaves_out_ignored_pixels(scenes: Path, normalise: str) -> None:
    data = guided_data(scenes)
    method = make_gain(data.classes, guidance_weight=10.0, mining_weight=0.0, normalise=normalise)
    batch = batch_for(method, data)
    guided = batch["guided"]
    guided["mask"][:, :, :24] = 255
    terms = []
    for image, labels, mask in zip(guided["image"], guided["labels"], guided["mask"], strict=True):
        classes = torch.nonzero(labels).flatten().tolist()
        each = []
        for c in classes:
            heat = naive_map(method, image, c, normalise)
            block = 48 // heat.shape[0]
            squared = torch.zeros(())
            weight = 0.0
            for y in range(heat.shape[0]):
                for x in range(heat.shape[1]):
                    part = mask[y * block : (y + 1) * block, x * block : (x + 1) * block]
                    known = part != 255
                    if known.any():
                        share = float(known.float().mean())
                        truth = (part[known] == c + 1).float().mean()
                        squared = squared + share * (heat[y, x] - truth) ** 2
                        weight += share
            each.append(squared / weight)
        terms.append(torch.stack(each).mean())
    losses = method.losses(batch)
    torch.testing.assert_close(losses["guided/attention"], torch.stack(terms).mean(), rtol=1e-4, atol=1e-6)
    assert set(losses) == {"target/classification", "guided/classification", "guided/attention"}


def test_the_guided_stream_has_masks_and_the_others_have_none(scenes: Path) -> None:
    data = guided_data(scenes, guided_count=3)
    method = make_gain(data.classes, guidance_weight=10.0, attention_weight=2.0)
    batch = batch_for(method, data)
    assert set(batch) == {"source", "target", "guided"}
    assert "mask" in batch["guided"]
    assert "mask" not in batch["target"]
    assert "mask" not in batch["source"]
    assert len(batch["guided"]["image"]) == 4
    assert len(set(batch["guided"]["id"])) <= 3
    names = [r.id for r in data.records("guided")]
    assert names == [r.id for r in guided_data(scenes, guided_count=5).records("guided")][:3]


def test_mining_composes_with_the_sources_constraint(scenes: Path) -> None:
    data = guided_data(scenes)
    method = GAIN(data.classes, **SMALL, source_weight=1.0, attention_weight=2.0, guidance_weight=10.0)
    before = copy.deepcopy(method.state_dict())
    trainer = make_trainer(max_steps=2)
    trainer.fit(method, data)
    logged = {name for name in trainer.callback_metrics if name.startswith("loss/")}
    parts = ("source/classification", "source/attention", "target/classification", "target/mining")
    assert logged == {f"loss/{name}" for name in (*parts, "guided/classification", "guided/attention")}
    assert any(not torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_what_is_missing_is_named(scenes: Path) -> None:
    data = make_data(scenes)
    method = make_gain(data.classes, guidance_weight=10.0)
    with pytest.raises(AttnBridgeError, match=r"data\.guided is not set"):
        batch_for(method, data)
    with pytest.raises(AttnBridgeError, match=r"data\.guided_count must be from 1 to 8, not 9"):
        guided_data(scenes, guided_count=9).records("guided")
    batch = batch_of(make_data(scenes))
    with pytest.raises(AttnBridgeError, match="guidance needs masks"):
        method.losses({**batch, "guided": batch["target"]})
