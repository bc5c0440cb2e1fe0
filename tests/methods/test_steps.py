"""A step is a batch: how many there are, the rate of each, and what a step does, with an adversary and without."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch.optim.lr_scheduler import OneCycleLR

from attnbridge.data.sample import Batch
from attnbridge.methods import load_data, load_method
from attnbridge.methods.attnbn import AttnBN
from tests.conftest import two_colours
from tests.runs import SMALL, make_data, make_method, make_trainer

STEPS = 6
ALONE: dict[str, Any] = {"adversarial_weight": 0.0}
ADVERSARY: dict[str, Any] = {"adversarial_weight": 0.1, "discriminator_lr": 1e-3, "discriminator_width": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "attnbn": ALONE,
    "attnbn, adversary": ADVERSARY,
    "gain": {},
    "gain, adversary": {**ADVERSARY, "source_weight": 1.0},
    "domain_adaptation": {"reversal_weight": 1.0},
    "domain_adaptation, adversary": {**ADVERSARY, "reversal_weight": 1.0},
    "attention_transfer": {"teacher": "resnet10t", "teacher_weights": "none", "distillation_weight": 0.5},
    "fine_tuning": {"start_weight": 0.1},
    "segmentation": {"head_width": 8, "boundary_weight": 0.0},
}
LEAST, TOP = 1 / 25 / 1e4, 0.3 * (STEPS + 1) - 1
SHARES = {
    "one_cycle": [
        *(1 - (1 - 1 / 25) * (1 + math.cos(math.pi * step / TOP)) / 2 for step in (0, 1)),
        *(LEAST + (1 - LEAST) * (1 + math.cos(math.pi * (step - TOP) / (STEPS - TOP))) / 2 for step in range(2, STEPS)),
        LEAST,
    ],
    "step": [1, 1, 1, 1, 0.1, 0.1, 0.1],
    "poly": [(1 - step / STEPS) ** 0.9 for step in range(STEPS + 1)],
}
"""Of the highest rate, at the beginning of each of the batches and after the last."""


class Noted(Callback):
    """The rates and the step that each batch begins with."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.steps: list[int] = []

    def note(self, trainer: L.Trainer) -> None:
        self.rates.append([group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups])
        self.steps.append(trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.note(trainer)

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.note(trainer)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_colours(tmp_path_factory.mktemp("domains"), {"a": 10, "c": 12}, 32)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SHARES)
@pytest.mark.parametrize("family", FAMILIES)
def test_so_many_steps_are_so_many_batches_and_the_whole_schedule(
    family: str, schedule: str, scenes: Path, domains: Path, images: Path
) -> None:
    name = family.split(",")[0]
    folders: dict[str, Any] = {
        "domain_adaptation": {"data": str(domains), "sources": ["a"], "target": "c", "workers": 0},
        "attention_transfer": {"data": str(images)},
        "fine_tuning": {"data": str(images)},
        "segmentation": {
            "cues": str(scenes / "target/train/masks"),
            "source": None,
            "target": str(scenes / "target"),
            "workers": 0,
        },
    }
    size = {} if folders.get(name) == {"data": str(images)} else {"image_size": 32}
    given = {**folders.get(name, {}), **size, "batch_size": 4}
    data = load_data(name)(**given) if name in folders else make_data(scenes, **given)
    options = {**SMALL, "image_size": 32, "backbone_lr": 0.5, "step_at": (2 / 3,), "step_by": 0.1, **FAMILIES[family]}
    method = load_method(name)(data.classes, **options, schedule=schedule)
    noted = Noted()
    trainer = make_trainer(max_epochs=100, max_steps=STEPS, callbacks=[noted])
    trainer.fit(method, data)
    assert noted.steps == [*range(STEPS), STEPS]
    assert trainer.estimated_stepping_batches == STEPS
    assert len(trainer.optimizers) == 1
    for (head, body, *adversary), share in zip(noted.rates, SHARES[schedule], strict=True):
        assert head == pytest.approx(1e-3 * share, abs=1e-12)
        assert body == pytest.approx(0.5 * head)
        assert adversary == ([1e-3] if family.endswith("adversary") else [])


def written_out(method: Any, batches: list[dict[str, Batch]], every: int = 1, clip: float | None = None) -> None:
    """The training of a method in plain PyTorch, by two optimisers: one backward pass, the network's step, the
    adversary's; a step after ``every`` so many batches, the gradients of each side clipped to a norm."""
    method.log = method.log_dict = lambda *_, **__: None
    kinds: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "sgd": partial(torch.optim.SGD, momentum=method.optimisation.momentum),
    }
    network = kinds[method.optimisation.optimizer](
        method.parameter_groups(), weight_decay=method.optimisation.weight_decay
    )
    steps = len(batches) // every
    schedule = OneCycleLR(network, [group["lr"] for group in network.param_groups], total_steps=steps + 1)
    optimizers: list[torch.optim.Optimizer] = [network]
    if method.discriminator is not None:
        optimizers.append(torch.optim.Adam(method.discriminator.parameters(), lr=1e-3, betas=(0.9, 0.99)))
    method.train()
    for number, batch in enumerate(batches):
        weights = method.loss_weights
        losses = [weights.get(name, 1.0) * loss for name, loss in method.losses(batch).items()]
        if number % every == 0:
            method.zero_grad()
        (torch.stack(losses).sum() / every).backward()
        if number % every < every - 1:
            continue
        for optimizer in optimizers:
            if clip is not None:
                own = [p for group in optimizer.param_groups for p in group["params"]]
                assert torch.nn.utils.clip_grad_norm_(own, clip) > clip
            optimizer.step()
        schedule.step()


@pytest.mark.slow
@pytest.mark.parametrize("adversary", [ALONE, ADVERSARY], ids=["alone", "adversary"])
@pytest.mark.parametrize(
    ("name", "optimizer", "every", "clip"),
    [
        ("attnbn", "adamw", 1, None),
        ("gain", "adamw", 1, None),
        ("attnbn", "sgd", 1, None),
        ("attnbn", "adamw", 2, None),
        ("attnbn", "adamw", 1, 1e-3),
        ("attnbn", "sgd", 2, 1e-3),
    ],
)
def test_training_is_bit_for_bit_the_loop_written_out(
    name: str, optimizer: str, every: int, clip: float | None, adversary: dict[str, Any], scenes: Path
) -> None:
    """With an adversary too, that is the loop of two optimisers, each with its own algorithm and its own norm."""
    data = make_data(scenes, image_size=32)
    adversary = {**adversary, "optimizer": optimizer}
    options = {**SMALL, "image_size": 32, "batch_norm": "train", "source_weight": 1.0, **adversary}
    method = load_method(name)(data.classes, **options)
    twin = copy.deepcopy(method)
    seen: list[dict[str, Batch]] = []
    method.on_train_batch_start = lambda batch, _: seen.append(batch)
    make_trainer(accumulate_grad_batches=every, gradient_clip_val=clip).fit(method, data)
    assert len(seen) == 4
    written_out(twin, seen, every, clip)
    for key, value in method.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


@pytest.mark.parametrize("adversary", [ALONE, ADVERSARY], ids=["alone", "adversary"])
def test_a_stopped_run_of_so_many_steps_goes_on_where_it_was(
    adversary: dict[str, Any], scenes: Path, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    states: list[Any] = []
    for stop in (True, False):
        data = make_data(scenes, image_size=32)
        method = make_method(data, image_size=32, **adversary)
        noted, saver = Noted(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, save_on_train_epoch_end=True)
        trainer = make_trainer(max_epochs=100, max_steps=STEPS, enable_checkpointing=True, callbacks=[noted, saver])
        if stop:  # after the first epoch
            method.on_train_epoch_end = lambda t=trainer: setattr(t, "should_stop", True)  # type: ignore[method-assign]
        else:
            states.append(torch.load(path, weights_only=True)["optimizer_states"])
            method.on_train_start = lambda t=trainer: states.append(  # type: ignore[method-assign]
                [copy.deepcopy(optimizer.state_dict()) for optimizer in t.optimizers]
            )
        trainer.fit(method, data, ckpt_path=None if stop else path)
        assert noted.steps == ([*range(5)] if stop else [4, 5, 6])
    assert [rates[0] for rates in noted.rates] == pytest.approx([1e-3 * share for share in SHARES["one_cycle"][4:]])
    saved, restored = states
    assert [len(each["param_groups"]) for each in saved] == [2 if adversary is ALONE else 3]
    torch.testing.assert_close(restored, saved, rtol=0, atol=0)


class OwnOptimiser(AttnBN):
    """A user's subclass."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_an_optimiser_of_the_users_trains_both_sides_each_by_its_own_gradient(scenes: Path) -> None:
    data = make_data(scenes, image_size=32)
    method = OwnOptimiser(data.classes, **{**SMALL, "image_size": 32}, **ADVERSARY)
    twin = copy.deepcopy(method)
    seen: list[dict[str, Batch]] = []
    method.on_train_batch_start = lambda batch, _: seen.append(batch)  # type: ignore[method-assign, assignment]
    make_trainer(max_steps=2, gradient_clip_val=1e9).fit(method, data)
    any_twin: Any = twin
    any_twin.log = any_twin.log_dict = lambda *_, **__: None
    twin.train()
    for batch in seen:
        losses = twin.losses(batch)
        told = losses.pop("discriminator")
        total = torch.stack([twin.loss_weights[name] * loss for name, loss in losses.items()]).sum()
        assert twin.discriminator is not None
        sides = [list(twin.discriminator.parameters()), [p for p in twin.network.parameters() if p.requires_grad]]
        gradients = [torch.autograd.grad(told, sides[0]), torch.autograd.grad(total, sides[1])]
        with torch.no_grad():
            for side, found in zip(sides, gradients, strict=True):
                for parameter, gradient in zip(side, found, strict=True):
                    parameter -= 0.1 * gradient
    for key, value in method.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[key], msg=key)


class Scaled(MixedPrecision):
    """The scaled loss of half precision in single precision, where powers of two round nothing."""

    def forward_context(self) -> Any:
        return nullcontext()


def test_the_gradients_of_both_optimisers_are_unscaled(scenes: Path) -> None:
    ends = []
    for plugins in ([], [Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]):
        data = make_data(scenes, image_size=32, batch_size=4)
        method = make_method(data, image_size=32, **ADVERSARY)
        trainer = make_trainer(max_steps=2, plugins=plugins)
        trainer.fit(method, data)
        assert trainer.global_step == 2
        moments = [value["exp_avg"] for optimizer in trainer.optimizers for value in optimizer.state.values()]
        ends.append((method.state_dict(), moments))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)
