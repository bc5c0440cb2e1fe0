"""Every method over every row: what is logged, what learns, what is never seen, resume, two processes."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor

from attnbridge.data.sample import Batch, as_floats
from attnbridge.errors import AttnBridgeError, DivergedError
from attnbridge.evaluation.metrics.segmentation import MapSegmentation
from attnbridge.experiments.config import config_names, load_experiment
from attnbridge.methods import METHODS, load_method
from attnbridge.methods.attnbn import AttnBN
from tests.runs import make_data, make_method, make_trainer

ROWS = sorted(name for name in config_names() if load_experiment(name).method == "attnbn")
WEIGHTS = ("source_weight", "attention_weight", "target_weight", "adversarial_weight")


def row_weights(row: str) -> dict[str, Any]:
    return {name: load_experiment(row).model.get(name, 1) for name in WEIGHTS}


def batch_of(data: Any) -> dict[str, Batch]:
    data.trainer = make_trainer()
    batch, _, _ = next(iter(data.train_dataloader()))
    return {name: as_floats(part) for name, part in batch.items()}


def test_every_configuration_names_a_method_of_the_table() -> None:
    assert {load_experiment(row).method for row in config_names()} == set(METHODS)
    with pytest.raises(AttnBridgeError, match="unknown method 'atnbn'; did you mean 'attnbn'"):
        load_method("atnbn")


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_on_just_its_losses(row: str, scenes: Path) -> None:
    weights = row_weights(row)
    data = make_data(scenes)
    method = make_method(data, **weights)
    before = copy.deepcopy(method.state_dict())
    trainer = make_trainer(max_steps=2)
    trainer.fit(method, data)
    expected = {
        "source/classification": weights["source_weight"],
        "source/attention": weights["attention_weight"],
        "target/classification": weights["target_weight"],
        "target/adversarial": weights["adversarial_weight"],
        "discriminator": weights["adversarial_weight"] and 1.0,
    }
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    total = 0.0
    for name, weight in expected.items():
        assert (f"loss/{name}" in logged) == bool(weight), name
        if weight:
            assert logged[f"weighted/{name}"] == pytest.approx(weight * logged[f"loss/{name}"], rel=1e-5)
            total += logged[f"weighted/{name}"]
    assert logged["loss"] == pytest.approx(total, rel=1e-5)
    assert any(not torch.equal(before[k], v) for k, v in method.state_dict().items())


def gradients(method: AttnBN, loss: Tensor) -> set[str]:
    """Names of the parameters that a loss reaches."""
    method.zero_grad()
    loss.backward(retain_graph=True)
    return {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def open_residuals(method: AttnBN) -> None:
    """timm starts the last norm of a block at 0, which stops the gradients of what lies before it."""
    for module in method.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)


@pytest.fixture
def everything(scenes: Path) -> tuple[AttnBN, dict[str, Tensor]]:
    """AttnBN with all losses on a batch; the first stage frozen."""
    data = make_data(scenes)
    method = make_method(data, frozen=["conv1", "layer1"], adversarial_weight=0.1)
    open_residuals(method)
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    return method, method.train().losses(batch_of(data))


def test_the_attention_loss_reaches_the_network_and_nothing_else(
    everything: tuple[AttnBN, dict[str, Tensor]],
) -> None:
    method, losses = everything
    reached = gradients(method, losses["source/attention"])
    trained = {n for n, p in method.network.named_parameters(prefix="network") if p.requires_grad}
    head_bias = "network.fc.bias"  # a constant of the logit: no gradient of it depends on it
    assert reached == trained - {head_bias}
    assert not any(n.startswith(("network.conv1", "network.layer1", "discriminator")) for n in reached)


def test_first_order_attention_does_not_reach_the_head(scenes: Path) -> None:
    data = make_data(scenes)
    method = make_method(data, second_order="off", adversarial_weight=0)
    open_residuals(method)
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    reached = gradients(method, method.losses(batch_of(data))["source/attention"])
    assert "network.layer4.0.conv2.weight" in reached
    assert not any(n.startswith("network.fc") for n in reached)


def test_adversary_and_discriminator_share_no_parameter(everything: tuple[AttnBN, dict[str, Tensor]]) -> None:
    method, losses = everything
    fooled = gradients(method, losses["target/adversarial"])
    told = gradients(method, losses["discriminator"])
    assert fooled
    assert not any(n.startswith("discriminator") for n in fooled)
    assert told == {n for n, _ in method.named_parameters() if n.startswith("discriminator")}
    assert all(p.requires_grad for p in method.discriminator.parameters())  # type: ignore[union-attr]


def test_one_step_equals_a_step_written_out(scenes: Path) -> None:
    """The whole method against plain PyTorch: two forward passes, closed-form maps, one SGD step."""
    data = make_data(scenes)
    options = {"optimizer": "sgd", "schedule": "constant", "adversarial_weight": 0.0, "backbone_lr": 1.0}
    method = make_method(data, **options, weight_decay=0.0, lr=0.1)
    twin = copy.deepcopy(method.network)
    trainer = make_trainer(max_steps=1)
    seen: list[dict[str, Batch]] = []
    method.on_train_batch_start = lambda batch, _: seen.append(batch)  # type: ignore[method-assign, assignment]
    trainer.fit(method, data)
    loss = torch.zeros(())
    for name in ("source", "target"):
        images = (seen[0][name]["image"] - method.mean) / method.std
        features = twin.forward_features(images)  # type: ignore[operator]
        logits = twin.fc(features.mean((2, 3)))  # type: ignore[operator]
        loss = loss + torch.nn.functional.multilabel_soft_margin_loss(logits, seen[0][name]["labels"])
        if name == "source":
            weight = twin.fc.weight[seen[0][name]["labels"].argmax(1)]  # type: ignore[union-attr, index]
            size = features.shape[2] * features.shape[3]
            maps = (weight[:, :, None, None] * features).sum(1).clamp_min(0) / size
            wanted = torch.nn.functional.adaptive_avg_pool2d(seen[0][name]["saliency"], maps.shape[1:])
            loss = loss + 40 * (maps - wanted).square().mean()
    loss.backward()
    with torch.no_grad():
        for p in twin.parameters():
            p -= 0.1 * p.grad  # type: ignore[operator]
    for (name, ours), theirs in zip(method.network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_target_masks_never_reach_training(scenes: Path, tmp_path: Path) -> None:
    """Masks of other classes, or none at all: the trained weights stay the same."""
    results = []
    for variant in ("true", "wrong", "none"):
        folder = Path(shutil.copytree(scenes, tmp_path / variant))
        for path in (folder / "target/train/masks").iterdir():
            if variant == "wrong":
                Image.fromarray(np.full((48, 48), 5, dtype=np.uint8)).save(path)
            elif variant == "none":
                path.unlink()
        data = make_data(folder)
        method = make_method(data)
        make_trainer(max_steps=2).fit(method, data)
        results.append(method.state_dict())
    for other in results[1:]:
        assert all(torch.equal(value, other[name]) for name, value in results[0].items())


def test_without_target_weight_target_labels_do_not_matter(scenes: Path, tmp_path: Path) -> None:
    results = []
    for flip in (False, True):
        folder = Path(shutil.copytree(scenes, tmp_path / str(flip)))
        if flip:
            table = folder / "target/train/labels.csv"
            head, *rows = table.read_text().splitlines()
            swapped = [r.split(",")[0] + "," + ",".join("10"[int(c)] for c in r.split(",")[1:]) for r in rows]
            table.write_text("\n".join([head, *swapped]) + "\n")
        data = make_data(folder)
        method = make_method(data, target_weight=0, adversarial_weight=0.1)
        make_trainer(max_steps=2).fit(method, data)
        results.append(method.state_dict())
        given = next(iter(data.train_dataloader()))[0]
        assert torch.isnan(given["target"]["labels"]).all()  # a loss that read them would be none
        assert torch.isfinite(given["source"]["labels"]).all()
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def fit_epochs(scenes: Path, folder: Path, adversarial_weight: float, resume: bool) -> AttnBN:
    """Three epochs, at once or stopped after the first and resumed."""
    for stop in [1, None] if resume else [None]:
        data = make_data(scenes)
        method = make_method(data, adversarial_weight=adversarial_weight, discriminator_lr=1e-3)
        saver = ModelCheckpoint(folder, save_last=True, save_top_k=0, save_on_train_epoch_end=True)
        trainer = make_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[saver])
        if stop is not None:
            method.on_train_epoch_end = lambda t=trainer: setattr(  # type: ignore[method-assign]
                t, "should_stop", True
            )
        last = folder / "last.ckpt"
        trainer.fit(method, data, ckpt_path=str(last) if last.exists() else None)
        assert trainer.current_epoch == (stop or 3)
    return method


@pytest.mark.slow
@pytest.mark.parametrize(("adversarial_weight", "groups"), [(0.0, 2), (0.01, 3)])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    adversarial_weight: float, groups: int, scenes: Path, tmp_path: Path
) -> None:
    whole = fit_epochs(scenes, tmp_path / "a", adversarial_weight, resume=False)
    parts = fit_epochs(scenes, tmp_path / "b", adversarial_weight, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    states = [torch.load(tmp_path / f / "last.ckpt", weights_only=True)["optimizer_states"] for f in "ab"]
    assert [len(each["param_groups"]) for each in states[0]] == [groups]  # head, body, and the discriminator
    for one, other in zip(*states, strict=True):
        for key, value in one["state"].items():
            assert torch.equal(value["exp_avg"], other["state"][key]["exp_avg"])


TWO_PROCESSES = """
import sys, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from attnbridge.evaluation.tasks.maps import MapScores
from tests.runs import make_data, make_method, make_trainer
devices = int(sys.argv[1])
data = make_data(Path(sys.argv[2]), batch_size=8 // devices)
method = make_method(data, adversarial_weight=0.01)
scores = MapScores(len(data.classes))
trainer = make_trainer(max_steps=4, strategy="ddp" if devices > 1 else "auto", devices=devices, callbacks=[scores])
trainer.fit(method, data)
trainer.test(method, data, verbose=False)
if trainer.is_global_zero:
    loss = {{k: float(v) for k, v in trainer.callback_metrics.items()}}
    result = {{"iou": scores.iou["test"], "map": scores.average_precision["test"], "loss": loss}}
    torch.save({{**result, "weights": method.network.state_dict()}}, sys.argv[3])
"""


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(scenes: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES.format(root=str(Path(__file__).parents[2])))
    results = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.pt"
        command = [sys.executable, str(script), str(devices), str(scenes), str(out)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(torch.load(out, weights_only=True))
    one, two = results
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    for mode, iou in one["iou"].items():
        torch.testing.assert_close(two["iou"][mode], iou, rtol=0, atol=0.02, equal_nan=True)
    assert two["map"] == pytest.approx(one["map"], abs=1e-3)


def test_batch_norm_frozen_keeps_its_statistics(scenes: Path) -> None:
    data = make_data(scenes)
    for mode, same in (("frozen", True), ("train", False)):
        method = make_method(data, batch_norm=mode)
        before = method.network.bn1.running_mean.clone()  # type: ignore[union-attr, operator]
        make_trainer(max_steps=1).fit(method, data)
        assert torch.equal(before, method.network.bn1.running_mean) == same  # type: ignore[union-attr, arg-type]


def test_evidence_can_feed_the_discriminator(scenes: Path) -> None:
    data = make_data(scenes)
    method = make_method(data, discriminator_input="evidence", adversarial_weight=0.1)
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    losses = method.losses(batch_of(data))
    assert "network.fc.weight" in gradients(method, losses["target/adversarial"])


def test_what_cannot_be_is_said(scenes: Path) -> None:
    data = make_data(scenes)
    with pytest.raises(AttnBridgeError, match="nothing to learn"):
        make_method(data, **dict.fromkeys(WEIGHTS, 0))
    with pytest.raises(AttnBridgeError, match="unknown layer 'layer5'"):
        make_method(data, layer="layer5")
    with pytest.raises(AttnBridgeError, match="unknown layer 'layr1'; did you mean 'layer1'"):
        make_method(data, frozen=["layr1"])
    data.saliency = None
    method = make_method(data)
    with pytest.raises(AttnBridgeError, match="needs saliency maps"):
        method.losses(batch_of(data))


def test_a_loss_that_is_not_finite_stops_the_run(scenes: Path) -> None:
    data = make_data(scenes)
    method = make_method(data, lr=1e30, schedule="constant")
    with pytest.raises(AttnBridgeError, match="is not finite; lower the learning rate"):
        make_trainer(max_steps=8).fit(method, data)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"target_weight": 3e38}, r"target/classification \(\d.* with weight 3e\+38\) is not finite; "),
        ({"target_weight": 2e38, "source_weight": 3e38}, r"the sum of the losses, above all source/classification \("),
    ],
    ids=["one", "their sum"],
)
def test_a_weight_too_large_is_named_and_not_the_learning_rate(
    weights: dict[str, float], words: str, scenes: Path
) -> None:
    method = make_method(make_data(scenes), **weights)
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    losses = {"source/classification": torch.tensor(0.9), "target/classification": torch.tensor(1.2 / len(weights))}
    with pytest.raises(DivergedError, match=words) as error:
        method.weighted_sum(losses)
    large = " and ".join(f"model.{name} is {value:.3g}" for name, value in reversed(weights.items()))
    assert str(error.value).endswith(f"is not finite; {large}, beyond 1e+06: lower that")
    assert method.weighted_sum({"target/adversarial": torch.tensor(1.0)}) == pytest.approx(0.001)


def test_a_loss_that_is_no_number_is_told_with_its_weight(scenes: Path) -> None:
    method = make_method(make_data(scenes))
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    with pytest.raises(DivergedError, match=r"the loss b \(nan with weight 1\) is not finite; lower the learning rate"):
        method.weighted_sum({"a": torch.tensor(1.0), "b": torch.tensor(torch.nan)})


def test_predictions_leave_no_graph_and_work_in_inference_mode(scenes: Path) -> None:
    method = make_method(make_data(scenes)).eval()
    with torch.inference_mode():
        first = method.predict_batch(torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)))
    second = method.predict_batch(torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)))
    assert first["maps"].shape[:2] == (2, 8)
    assert not first["maps"].requires_grad
    assert torch.equal(first["maps"], second["maps"])
    MapSegmentation(8).update(
        second["scores"], second["maps"], torch.zeros(2, 48, 48, dtype=torch.long), torch.ones(2, 8)
    )
    assert isinstance(method, L.LightningModule)


@pytest.mark.parametrize("target_weight", [0.0, 1.0])
def test_label_shift_starts_each_domain_at_its_own_frequencies(scenes: Path, target_weight: float) -> None:
    """With a head of zeros the scores are those frequencies; target labels that may not be used are not looked at."""
    data = make_data(scenes)
    method = make_method(data, label_shift=True, target_weight=target_weight, lr=1e-12)
    torch.nn.init.zeros_(method.network.fc.weight)  # type: ignore[union-attr, arg-type]
    seen: list[Tensor] = []
    method.on_train_batch_start = lambda batch, _: seen.append(method.forward_batch(batch).logits)  # type: ignore[method-assign, assignment]
    make_trainer(max_steps=1).fit(method, data)
    records = {name: data.records(name) for name in ("source", "train")}
    wanted = {
        name: torch.tensor(
            [(sum(c in r.classes for r in found) + 1) / (len(found) + 2) for c in range(len(data.classes))]
        )
        for name, found in records.items()
    }
    begin = wanted["train"] if target_weight else wanted["source"]
    torch.testing.assert_close(seen[0].sigmoid(), begin.expand(len(seen[0]), -1))
    corrected = (seen[0] + method.source_offset).sigmoid()
    torch.testing.assert_close(corrected, wanted["source"].expand(len(seen[0]), -1))


def test_label_shift_leaves_a_resumed_head_alone(scenes: Path, tmp_path: Path) -> None:
    data = make_data(scenes)
    method = make_method(data, label_shift=True, schedule="constant")
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, save_on_train_epoch_end=True)
    make_trainer(callbacks=[saver], enable_checkpointing=True).fit(method, data)
    trained = method.network.fc.bias.detach().clone()  # type: ignore[union-attr, operator]
    other = make_method(make_data(scenes), label_shift=True, schedule="constant")
    biases: list[Tensor] = []
    other.on_train_batch_start = lambda *_: biases.append(other.network.fc.bias.detach().clone())  # type: ignore[method-assign, union-attr, operator]
    trainer = make_trainer(max_epochs=2)
    trainer.fit(other, make_data(scenes), ckpt_path=str(tmp_path / "last.ckpt"))
    torch.testing.assert_close(biases[0], trained)
