"""Attention transfer: which losses are on, whom they train, the teacher untouched and out of the checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from attnbridge.data.modules.classification import ClassificationDataModule
from attnbridge.data.sample import Batch, as_floats
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.tasks.classification import ClassScores
from attnbridge.losses.transfer import attention_transfer_loss
from attnbridge.methods.attention_transfer import AttentionTransfer
from tests.runs import check_part, make_trainer

GROUPS = [("group0", "group0"), ("group1", "group1"), ("group2", "group2")]
ALONE: dict[str, Any] = {"weights": "none"}
TAUGHT: dict[str, Any] = {**ALONE, "teacher": "wrn_16_2", "teacher_weights": "none"}
THIN: dict[str, Any] = {"backbone": "nin_thin", "teacher": "nin_thin", "teacher_weights": "none"}
PARTS = {
    "transfer": {**TAUGHT, "transfer_weight": 1000.0},
    "distillation": {**TAUGHT, "distillation_weight": 0.9},
    "hint": {**TAUGHT, "hint_weight": 1.0},
    "gradient": {**THIN, "gradient_weight": 1.0},
    "symmetry": {"backbone": "nin_thin", "symmetry_weight": 1.0},
}


def make(images: Path, **options: Any) -> tuple[AttentionTransfer, ClassificationDataModule]:
    torch.manual_seed(0)
    data = ClassificationDataModule(str(images), batch_size=8, val_share=0.2)
    return AttentionTransfer(data.classes, **options), data


def first_batch(data: ClassificationDataModule) -> dict[str, Batch]:
    batch, _, _ = next(iter(data.train_dataloader()))
    return {"target": as_floats(batch["target"])}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_logged_trains_the_student_and_leaves_the_teacher(part: str, images: Path) -> None:
    method, data = make(images, **PARTS[part], lr=0.01)
    teachers = [copy.deepcopy(method.teacher.network.state_dict())] if method.teacher else []
    before = copy.deepcopy(method.network.state_dict())
    regressors = copy.deepcopy(method.regressors.state_dict())
    assert bool(regressors) == (part == "hint")
    trainer = make_trainer(max_steps=2)
    trainer.fit(method, data)
    check_part(trainer, method, part)
    for was in teachers:
        teacher = method.teacher
        assert not teacher.network.training
        assert all(torch.equal(was[k], v) for k, v in teacher.network.state_dict().items())
        assert all(p.grad is None for p in teacher.network.parameters())
    assert any(not torch.equal(before[k], v) for k, v in method.network.state_dict().items())
    assert all(not torch.equal(regressors[k], v) for k, v in method.regressors.state_dict().items())


@pytest.mark.parametrize("part", [p for p in PARTS if p != "distillation"])
def test_a_part_reaches_the_early_layers(part: str, images: Path) -> None:
    method, data = make(images, **PARTS[part])
    method.train()
    losses = method.losses(first_batch(data))
    losses[f"target/{part}"].backward()
    first = next(method.network.parameters())
    assert first.grad is not None
    assert first.grad.abs().max() > 0


def test_the_loss_is_that_of_the_features_of_both(images: Path) -> None:
    method, data = make(images, **PARTS["transfer"])
    assert method.pairs == GROUPS
    method.eval()
    batch = first_batch(data)
    found: dict[str, list[Tensor]] = {}
    teacher: Any = method.teacher.network
    for network, side in ((method.network, "student"), (teacher, "teacher")):
        for name, _ in GROUPS:
            keep = lambda _m, _i, out, side=side: found.setdefault(side, []).append(out.detach())  # noqa: E731
            network.get_submodule(name).register_forward_hook(keep)
    method.network(method.normalised(batch["target"]["image"]))
    teacher(method.teacher.normalised(batch["target"]["image"]))
    wanted = sum(attention_transfer_loss(s, t) for s, t in zip(found["student"], found["teacher"], strict=True))
    assert torch.allclose(method.losses(batch)["target/transfer"], torch.as_tensor(wanted), rtol=1e-4)


def test_the_teacher_gets_images_as_it_wants_them(images: Path) -> None:
    method, _ = make(images, teacher="resnet10t", teacher_weights="none", distillation_weight=0.5)
    batch = torch.rand(2, 3, 32, 32)
    teacher = method.teacher
    mean, std = (torch.tensor(teacher.network.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    wanted = (batch - mean) / std
    assert torch.allclose(method.teacher.normalised(batch), wanted)
    assert not torch.allclose(method.normalised(batch), wanted)  # the student wants others


def test_the_teacher_is_in_no_checkpoint_and_its_weights_are_read_from_one(images: Path, tmp_path: Path) -> None:
    big, data = make(images, backbone="wrn_16_2", **ALONE, lr=0.01)
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    make_trainer(max_steps=2, enable_checkpointing=True, callbacks=[saver]).fit(big, data)
    options = {**PARTS["transfer"], "teacher_weights": str(tmp_path / "last.ckpt")}
    student, _ = make(images, **options)
    learnt = big.network.state_dict()
    teacher = student.teacher.network.state_dict()
    assert all(torch.equal(learnt[name], value) for name, value in teacher.items())
    assert {name.split(".")[0] for name in student.state_dict()} == {"network"}
    assert not any(p is q for p in student.parameters() for q in student.teacher.network.parameters())


def test_making_hints_leaves_the_students_statistics(images: Path) -> None:
    method, _ = make(images, **PARTS["hint"])
    norms = [m for m in method.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.all(m.running_mean == 0) and m.num_batches_tracked == 0 for m in norms)  # type: ignore[operator, union-attr]


def test_a_symmetric_network_has_no_loss_whatever_its_dropout(images: Path) -> None:
    method, data = make(images, **PARTS["symmetry"])
    for module in method.network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.weight.data = (module.weight.data + module.weight.data.flip(-1)) / 2
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):  # even sizes make strided pooling lopsided
            module.stride = 1
    method.train()
    batch = first_batch(data)
    plain = float(method.losses(batch)["target/symmetry"])
    lopsided, _ = make(images, **PARTS["symmetry"])
    assert plain < 0.05 * float(lopsided.train().losses(batch)["target/symmetry"])
    assert method.network.training


def test_beta_decays_to_nothing(images: Path) -> None:
    method, data = make(images, **PARTS["transfer"], distillation_weight=0.9, transfer_decay="linear", lr=0.01)
    weights = []
    method.on_before_zero_grad = lambda _: weights.append(method.loss_weights["target/transfer"])  # type: ignore[method-assign]
    make_trainer(max_epochs=4).fit(method, data)
    assert weights == pytest.approx([1000.0 * (1 - i / 8) for i in range(8)])


def test_it_learns_and_accuracy_counts_each_image_once(images: Path) -> None:
    method, data = make(images, **ALONE, lr=0.05)
    scores = ClassScores(2)
    trainer = make_trainer(max_epochs=6, limit_val_batches=1.0, callbacks=[scores])
    trainer.fit(method, data)
    trainer.test(method, data, verbose=False)
    assert scores.accuracy["test"] == {"top1": 1.0}
    counted = scores.metrics["top1"]
    assert int(counted.tp + counted.fn) == 8  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transfer_weight": 1.0}, r"model.teacher is not set"),
        ({"symmetry_weight": 1.0}, r"without batch norm \(nin_thin, nin_wide\), or batch_norm: frozen"),
        ({**PARTS["transfer"], "pairs": [["group0", "grupo0"]]}, r"'grupo0'; did you mean 'group0'"),
        ({**TAUGHT, "teacher": "wrn_16_3", "transfer_weight": 1.0}, r"'wrn_16_3'; did you mean"),
        ({**PARTS["transfer"], "pairs": ["group0", "group1"]}, r"model.pairs must be pairs of layers"),
        (
            {"teacher": "tf_efficientnet_lite0", "distillation_weight": 0.9},
            r"imagenet weights: have no classifier of 2 classes",
        ),
    ],
)
def test_clear_errors(options: dict[str, Any], words: str, images: Path) -> None:
    with pytest.raises(AttnBridgeError, match=words):
        make(images, **options)
