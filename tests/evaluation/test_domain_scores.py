"""Scores of a domain without labels: which epoch is reported, and what of its maps counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from attnbridge.evaluation.tasks.domains import DomainScores, salient


def test_the_rules_of_selection() -> None:
    scores = DomainScores(2)
    scores.curve = [
        {"val": 0.9, "target": 0.5, "energy": 0.1},
        {"val": 0.9, "target": 0.4, "energy": 0.2},
        {"val": 0.7, "target": 0.8, "energy": 0.3},
        {"val": 0.6, "target": 0.3, "energy": 0.4},
    ]
    result = scores.result()
    assert (result["source_validation"], result["target_oracle"], result["last"]) == (0.4, 0.8, 0.3)
    assert (result["val_top1"], result["energy"]) == (0.9, 0.2)


def test_the_energy_is_that_of_the_true_class() -> None:
    maps = torch.zeros(2, 2, 2, 2)
    maps[0, 1, :, 0], maps[1, 0, 0, 0] = 1, 1
    saliency = torch.zeros(2, 2, 2)
    saliency[0, :, 0] = 0.9  # the second image has no object
    found, objects = salient(maps, saliency, torch.tensor([1, 0]))
    assert found.tolist() == [[[1, 0], [1, 0]]]
    assert objects.tolist() == [[[True, False], [True, False]]]


def test_a_point_within_an_epoch_gives_way_to_the_one_at_its_end() -> None:
    scores = DomainScores(2)
    for fn, epoch, right in (("fit", 0, 0), ("fit", 0, 1), ("validate", 1, 0)):
        trainer: Any = SimpleNamespace(sanity_checking=False, current_epoch=epoch, state=SimpleNamespace(fn=fn))
        module: Any = SimpleNamespace(log_dict=lambda *args, **options: None)
        for metric in scores.accuracy.values():
            metric.reset()
            metric.update(torch.tensor([1]), torch.tensor([right]))
        scores.on_validation_epoch_end(trainer, module)
    assert [(point["epoch"], point["target"]) for point in scores.curve] == [(1, 1.0)]
