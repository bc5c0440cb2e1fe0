"""What methods say of pictures: logits and scores, whatever the method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnbridge.methods import load_method

OPTIONS: dict[str, dict[str, Any]] = {
    "attnbn": {},
    "gain": {},
    "transfer": {"backbone": "wrn_16_1"},
    "fine_tuning": {},
    "adaptation": {},
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
