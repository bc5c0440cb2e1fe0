"""The learning rate over a run; the other schedules are in test_steps.py."""

from __future__ import annotations

import pytest
import torch

from attnbridge.methods.optimisation import make_schedule


def test_poly_falls_as_deeplabs_does() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = make_schedule(optimizer, "poly", 10, (), 0.1)
    rates = []
    for _ in range(10):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates == pytest.approx([0.5 * (1 - t / 10) ** 0.9 for t in range(1, 11)], abs=1e-9)
