"""What methods say of images: logits and scores, whatever the method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnbridge.methods import load_method
from attnbridge.methods.gain import GAIN
from attnbridge.models.classifiers import Classifier
from tests.runs import make_trainer

OPTIONS: dict[str, dict[str, Any]] = {
    "attnbn": {},
    "gain": {},
    "attention_transfer": {"backbone": "wrn_16_1"},
    "fine_tuning": {},
    "domain_adaptation": {},
}


def make(name: str) -> Any:
    """A small method in eval mode, with a head that is sure of much."""
    small: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "image_size": 32, **OPTIONS[name]}
    method = load_method(name)(["a", "b", "c"], **small).eval()
    with torch.no_grad():
        method.network.get_classifier().bias.copy_(torch.tensor([9.0, 0.0, -9.0]))
    return method


def scored(method: Any, logits: Tensor) -> Tensor:
    return logits.softmax(1) if method.activation == "softmax" else logits.sigmoid()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_step_gives_the_logits_of_its_scores(name: str) -> None:
    method = make(name)
    batch = {"image": torch.rand(2, 3, 32, 32)}
    with torch.no_grad():
        wanted = method.network(method.normalised(batch["image"]))
        for step in (method.validation_step, method.test_step, method.predict_step):
            answer = step(batch, 0)
            assert answer["logits"].dtype == torch.float32
            assert not answer["logits"].requires_grad
            torch.testing.assert_close(answer["logits"], wanted)
            assert torch.equal(answer["scores"], scored(method, answer["logits"]))


def half(values: Tensor) -> bool:
    """Whether values are some that bfloat16 has, so that autocast was at work."""
    return torch.equal(values.bfloat16().to(values.dtype), values)


@pytest.mark.parametrize("name", OPTIONS)
def test_scores_are_float32_under_autocast(name: str) -> None:
    method = make(name)
    batch = {"image": torch.rand(2, 3, 32, 32)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        answers = [method.predict_batch(batch["image"]), method.validation_step(batch, 0)]
    for answer in answers:
        assert half(answer["logits"])
        assert answer["scores"].dtype == torch.float32
        assert torch.equal(answer["scores"], scored(method, answer["logits"]))


class Kept(Callback):
    """Keeps what the validation step returns."""

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.answer = outputs


@pytest.mark.parametrize("name", OPTIONS)
def test_scores_are_float32_in_a_run_in_half_precision(name: str) -> None:
    method, kept = make(name), Kept()
    loader = DataLoader([{"image": image} for image in torch.rand(2, 3, 32, 32)], batch_size=2)  # type: ignore[arg-type, var-annotated]
    trainer = make_trainer(precision="bf16-mixed", callbacks=[kept], limit_val_batches=1)
    trainer.validate(method, loader, verbose=False)
    assert half(kept.answer["logits"])
    assert kept.answer["scores"].dtype == torch.float32
    assert torch.equal(kept.answer["scores"], scored(method, kept.answer["logits"]))


CLOSE = torch.tensor([[9.0, 0.0, 0.0], [9.5, 0.0, 0.0]], dtype=torch.bfloat16)
"""Logits whose scores are equal in bfloat16."""


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_logits_that_differ_have_scores_that_differ(name: str, autocast: bool) -> None:
    method = make(name)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores = method.probabilities(CLOSE)
    assert scores[0, 0] < scores[1, 0] < 1
    assert torch.equal(scores, scored(method, CLOSE.float()))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_classifiers_scores_are_float32_too(activation: Any) -> None:
    mean = std = (0.5, 0.5, 0.5)
    classifier = Classifier("c", nn.Identity(), ("a", "b", "c"), 32, mean, std, activation=activation)
    with torch.autocast("cpu", torch.bfloat16):
        scores = classifier.scores(CLOSE)
    assert scores[0, 0] < scores[1, 0] < 1
    assert torch.equal(scores, scored(classifier, CLOSE.float()))


def test_a_segmentation_networks_probabilities_are_float32_under_autocast() -> None:
    options: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "image_size": 32, "head_width": 16}
    method = load_method("segmentation")(["a", "b", "c"], **options).eval()
    seen: list[Tensor] = []
    method.head.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits))
    with torch.autocast("cpu", torch.bfloat16):
        answer = method.predict_batch(torch.rand(2, 3, 32, 32))
    assert seen[0].dtype == torch.bfloat16
    assert {value.dtype for value in answer.values()} == {torch.float32}
    assert torch.equal(answer["probabilities"], seen[0].float().softmax(1))


def test_mining_scores_erased_images_in_float32() -> None:
    method: GAIN = make("gain")
    method.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch: Any = {"target": {"image": torch.rand(2, 3, 32, 32), "labels": torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])}}
    seen: list[Tensor] = []
    method.network.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits))
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.losses(batch)["target/mining"]
    assert seen[-1].dtype == torch.bfloat16
    torch.testing.assert_close(loss, seen[-1][:, 0].float().sigmoid().mean(), rtol=1e-6, atol=0)
    assert loss < 1
