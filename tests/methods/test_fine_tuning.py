"""Fine-tuning near a source: each part trains what it should, the source never changes, a second stage starts anew."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from attnbridge.data.modules.classification import ClassificationDataModule
from attnbridge.data.sample import Batch, as_floats
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.fit import _start_from
from attnbridge.experiments.runs import Run
from attnbridge.methods import filter_ablation
from attnbridge.methods.filter_ablation import filter_importance
from attnbridge.methods.fine_tuning import FineTuning
from tests.methods.test_attention_transfer import first_batch
from tests.runs import check_part, make_trainer, record_of

SMALL: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "image_size": 32}
ALIGNED = ["layer1", "layer2"]
PARTS: dict[str, dict[str, Any]] = {
    "alignment": {"alignment": "spatial", "alignment_weight": 0.1, "layers": ALIGNED},
    "head": {"head_weight": 0.01},
    "start": {"start_weight": 0.1},
    "forgetting": {"forgetting_weight": 0.5},
    "shrinkage": {"shrinkage_weight": 0.001},
}


def make(folder: Path, **options: Any) -> tuple[FineTuning, ClassificationDataModule]:
    torch.manual_seed(0)
    data = ClassificationDataModule(str(folder), batch_size=8, val_share=0.2)
    given = {**SMALL, "head_weight": 0.0, "plain_loader": data.facts()["plain_loader"], **options}
    return FineTuning(data.classes, **given), data


def stage(folder: Path, classes: list[str]) -> Run:
    """The run of an earlier stage; its checkpoint is in the folder."""
    (folder / "run.json").write_text(json.dumps(record_of(classes=classes)))
    return Run(folder)


def moved(network: nn.Module, whole: bool = False) -> None:
    """Away from where it began, as after some training; with what is frozen, if ``whole``."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if whole or parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_logged_and_leaves_the_source(part: str, images: Path) -> None:
    method, data = make(images, **PARTS[part])
    source = copy.deepcopy(method.source.network.state_dict()) if method.source else {}
    along = copy.deepcopy({k: v for k, v in method.state_dict().items() if k.startswith(method.training_only_prefixes)})
    assert bool(along) == (part in ("alignment", "forgetting"))
    trainer = make_trainer(max_steps=3)
    trainer.fit(method, data)
    check_part(trainer, method, part)
    for name, value in source.items():
        assert torch.equal(value, method.source.network.state_dict()[name])
    changed = method.state_dict()
    assert all(not torch.equal(value, changed[name]) for name, value in along.items())


@pytest.mark.parametrize("kind", ["spatial", "channel", "delta", "attention"])
def test_alignment_is_zero_at_the_start_and_reaches_the_network(kind: str, images: Path) -> None:
    options: dict[str, Any] = {"alignment": kind, "alignment_weight": 1.0, "layers": ALIGNED, "batch_norm": "frozen"}
    method, data = make(images, **options)
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    for weights in method.importance.values():
        weights.data.fill_(1 / len(weights))
    batch = first_batch(data)
    assert method.losses(batch)["target/alignment"].item() == pytest.approx(0, abs=1e-10)
    moved(method.network)
    loss = method.losses(batch)["target/alignment"]
    loss.backward()
    assert loss > 0
    early = method.network.get_submodule("conv1.0").weight.grad
    assert early is not None
    assert early.abs().max() > 0
    learned = [p.grad for p in method.attention.parameters()]
    assert bool(learned) == (kind in ("spatial", "channel"))
    assert all(grad is not None and grad.abs().max() > 0 for grad in learned)


def test_the_loss_is_that_of_the_features_of_both(images: Path) -> None:
    options = {"alignment": "channel", "alignment_weight": 1.0, "layers": ALIGNED, "batch_norm": "frozen"}
    method, data = make(images, **options)
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    moved(method.network)
    found: dict[str, list[Tensor]] = {"ours": [], "theirs": []}
    for side, network in (("ours", method.network), ("theirs", method.source.network)):
        for name in ALIGNED:
            keep = lambda _m, _i, out, side=side: found[side].append(out.detach().clone())  # noqa: E731
            network.get_submodule(name).register_forward_hook(keep)
    loss = method.losses(first_batch(data))["target/alignment"]
    wanted = torch.zeros(())
    for number, (ours, theirs) in enumerate(zip(found["ours"], found["theirs"], strict=True)):
        weights = method.attention[str(number)](theirs)
        each = [
            w * (a - b).square().sum() for p in range(8) for w, a, b in zip(weights[p], ours[p], theirs[p], strict=True)
        ]
        wanted = wanted + torch.stack(each).sum() / 8 * ours.shape[1] / 2
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-6)


def test_what_starts_from_itself_counts_no_head(images: Path) -> None:
    method, data = make(images, start_weight=1.0, batch_norm="frozen")
    batch = first_batch(data)
    assert method.losses(batch)["target/start"] == 0
    with torch.no_grad():
        method.network.fc.weight += 1.0
    assert method.losses(batch)["target/start"] == 0
    with torch.no_grad():
        method.network.conv1[0].weight += 0.5
    assert method.losses(batch)["target/start"].item() == pytest.approx(
        method.network.conv1[0].weight.numel() * 0.125, rel=1e-4
    )


def test_a_second_stage_starts_from_the_first_bit_by_bit(images: Path, tmp_path: Path) -> None:
    first, data = make(images, **PARTS["alignment"])
    saver = ModelCheckpoint(tmp_path / "checkpoints", save_last=True, save_top_k=0)
    make_trainer(max_steps=2, enable_checkpointing=True, callbacks=[saver]).fit(first, data)
    second, _ = make(images, alignment="channel", alignment_weight=0.1, layers=ALIGNED)
    fresh = copy.deepcopy(second.attention.state_dict())
    _start_from(second, stage(tmp_path, data.classes))
    learnt = first.network.state_dict()
    for network in (second.network, second.source.network):
        assert all(torch.equal(learnt[name], value) for name, value in network.state_dict().items())
    assert not second.source.network.training
    assert not any(p.requires_grad for p in second.source.network.parameters())
    assert all(torch.equal(fresh[name], value) for name, value in second.attention.state_dict().items())
    make_trainer(max_steps=2).fit(second, data)
    assert all(torch.equal(learnt[name], value) for name, value in second.source.network.state_dict().items())
    assert any(not torch.equal(learnt[name], value) for name, value in second.network.state_dict().items())


def test_a_source_from_a_file_has_the_stride_of_the_network(images: Path, tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", num_classes=7)
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    options = {"alignment": "channel", "alignment_weight": 1.0, "batch_norm": "frozen", "stride": 16}
    method, data = make(images, **options, weights=str(tmp_path / "seven.pth"), forgetting_weight=1.0)
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    assert method.old_head.out_features == 7  # the file's own classifier
    losses = method.losses(first_batch(data))
    assert losses["target/alignment"].item() == pytest.approx(0, abs=1e-8)
    assert losses["target/forgetting"].item() == pytest.approx(0, abs=1e-6)
    method.on_weights_loaded()
    assert method.old_head.out_features == 2
    assert method.losses(first_batch(data))["target/forgetting"].item() == pytest.approx(0, abs=1e-6)


def test_a_source_follows_the_networks_precision(images: Path) -> None:
    method, data = make(images, **PARTS["alignment"], start_weight=1.0)
    make_trainer(max_steps=1, precision="bf16-true").fit(method, data)
    assert method.source.network.conv1[0].weight.dtype == torch.bfloat16


def test_another_first_stage_is_refused(images: Path, tmp_path: Path) -> None:
    first, data = make(images, head_weight=0.01, backbone="resnet18")
    saver = ModelCheckpoint(tmp_path / "checkpoints", save_last=True, save_top_k=0)
    make_trainer(max_steps=1, enable_checkpointing=True, callbacks=[saver]).fit(first, data)
    with pytest.raises(AttnBridgeError, match="has another network or other classes"):
        _start_from(make(images)[0], stage(tmp_path, data.classes))
    with pytest.raises(AttnBridgeError, match=r"has another network or other classes \(red, blue"):
        _start_from(make(images, backbone="resnet18")[0], stage(tmp_path, ["red", "blue"]))


def test_kept_views_give_the_losses_of_the_images(images: Path, own_cache: None) -> None:
    options = {
        "alignment": "spatial",
        "alignment_weight": 1.0,
        "frozen": ["conv1", "bn1", "layer1"],
        "start_weight": 1.0,
    }
    method, _ = make(images, **options, batch_norm="frozen")
    assert method.aligned == ["layer2.0.conv2", "layer3.0.conv2"]
    data = ClassificationDataModule(str(images), batch_size=8, val_share=0.2, views=2)
    make_trainer(max_steps=1).fit(method, data)
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    moved(method.network)
    kept: Any = data.train_dataloader().iterables["target"].dataset
    rows = range(8)
    samples = [as_floats(kept[row, 0]) for row in rows]
    labels = torch.stack([sample["labels"] for sample in samples])
    features: Batch = {"features": torch.stack([s["features"] for s in samples]), "labels": labels}  # type: ignore[typeddict-item]
    seen: Batch = {"image": torch.stack([kept.images[row, row]["image"] for row in rows]), "labels": labels}  # type: ignore[typeddict-item]
    one, other = (method.losses({"target": batch}) for batch in (features, seen))
    for name, loss in one.items():
        assert loss.item() == pytest.approx(other[name].item(), rel=2e-2)
    assert one["target/alignment"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("layers", [ALIGNED, ["layer1.0.conv2", "layer2"]], ids=["stages", "inside a block"])
def test_ablation_equals_a_loop_over_channels(layers: list[str], images: Path) -> None:
    method, data = make(images, alignment="delta", alignment_weight=1.0, layers=layers)
    network = method.source.network
    moved(network, whole=True)
    found = filter_importance(method.source, layers, data.facts()["plain_loader"](), 2, "paper")
    dataset = data.plain("train")
    batch = method.source.normalised(torch.stack([dataset[i]["image"] for i in range(len(dataset))]))
    labels = torch.stack([dataset[i]["labels"] for i in range(len(dataset))]).argmax(1)
    with torch.no_grad():
        pooled = network.forward_head(network.forward_features(batch), pre_logits=True)
    weight, bias = filter_ablation._linear_head(pooled, labels, 2)
    assert ((pooled @ weight.T + bias).argmax(1) == labels).float().mean() > 0.9

    def loss(layer: str, channel: int | None) -> Tensor:
        def zero(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
            out = out.clone()
            if channel is not None:
                out[:, channel] = 0
            return out

        hook = network.get_submodule(layer).register_forward_hook(zero)
        with torch.no_grad():
            read = network.forward_head(network.forward_features(batch), pre_logits=True)
        hook.remove()
        return F.cross_entropy(read @ weight.T + bias, labels)

    softened = filter_importance(method.source, layers, data.facts()["plain_loader"](), 2, "code")
    for layer in layers:
        gains = torch.stack([loss(layer, j) - loss(layer, None) for j in range(len(found[layer]))])
        torch.testing.assert_close(found[layer], gains.softmax(0), rtol=1e-3, atol=1e-6)
        standardised = (gains - gains.mean()) / gains.std()
        torch.testing.assert_close(softened[layer], (standardised / 5).softmax(0), rtol=1e-2, atol=1e-5)


def test_delta_weighs_channels_before_it_trains_and_keeps_the_weights(images: Path, tmp_path: Path) -> None:
    options = {"alignment": "delta", "alignment_weight": 0.1, "layers": ALIGNED}
    method, data = make(images, **options)
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    make_trainer(max_steps=1, enable_checkpointing=True, callbacks=[saver]).fit(method, data)
    weights = {name: value.clone() for name, value in method.importance.items()}
    assert all(value.sum().item() == pytest.approx(1, abs=1e-5) for value in weights.values())
    again, _ = make(images, **options)
    make_trainer(max_steps=2).fit(again, data, ckpt_path=str(tmp_path / "last.ckpt"))
    assert all(torch.equal(value, again.importance[name]) for name, value in weights.items())


def test_soft_labels_are_smoothed(images: Path) -> None:
    method, data = make(images, label_smoothing=0.1, batch_norm="frozen")
    batch = first_batch(data)
    method.eval()
    logits = method.network(method.normalised(batch["target"]["image"]))
    soft = 0.9 * batch["target"]["labels"] + 0.1 / 2
    wanted = -(soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(method.losses(batch)["target/classification"], wanted)


def test_what_cannot_be_is_named(images: Path) -> None:
    with pytest.raises(AttnBridgeError, match="an alignment needs a weight, and a weight an alignment"):
        make(images, alignment="spatial")
    with pytest.raises(AttnBridgeError, match="an alignment needs a weight, and a weight an alignment"):
        make(images, alignment_weight=0.1)
    with pytest.raises(AttnBridgeError, match="unknown layer 'layer9'"):
        make(images, alignment="spatial", alignment_weight=1.0, layers=["layer9"])
    frozen = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    with pytest.raises(AttnBridgeError, match="no layer that is trained has features to align"):
        make(images, alignment="spatial", alignment_weight=1.0, frozen=frozen)
