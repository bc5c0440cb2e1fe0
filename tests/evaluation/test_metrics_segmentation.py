"""Scores against naive loops, torchmetrics, and cases made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex, MultilabelAveragePrecision

from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.metrics.segmentation import LabelPrecision, MapSegmentation, mean_iou
from attnbridge.evaluation.settings import THRESHOLDS
from attnbridge.evaluation.tasks.maps import MapScores, mode_scores
from attnbridge.segmentation.combine import combine_maps, enlarge_maps


@pytest.mark.parametrize("present", ["predicted", "labels"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_iou_equals_torchmetrics_over_the_whole_set(present: str, which: int) -> None:
    thresholds = (0.2, 0.4, 0.75)
    metric = MapSegmentation(3, present, thresholds=thresholds)  # type: ignore[arg-type]
    oracle = MulticlassJaccardIndex(4, average="none", ignore_index=255)
    for _ in range(3):
        scores, maps, labels = torch.rand(2, 3), torch.rand(2, 3, 4, 4), (torch.rand(2, 3) > 0.5).float()
        mask = torch.randint(0, 4, (2, 16, 16))
        mask[:, :2] = 255
        metric.update(scores, maps, mask, labels)
        shown = scores > 0.5 if present == "predicted" else labels > 0
        predicted = combine_maps(enlarge_maps(maps, (16, 16)), scores, shown, torch.tensor([thresholds[which]]))[0]
        oracle.update(predicted.long(), mask)
    torch.testing.assert_close(metric.compute()[which].float(), oracle.compute())


def test_a_perfect_map_scores_one_and_absent_classes_are_dropped() -> None:
    metric = MapSegmentation(3, "labels", thresholds=(0.5,))
    mask = torch.zeros(1, 8, 8, dtype=torch.long)
    mask[:, 2:6, 2:6] = 2
    maps = torch.zeros(1, 3, 8, 8)
    maps[:, 1] = (mask == 2).float()
    metric.update(torch.full((1, 3), 0.6), maps, mask, torch.tensor([[0.0, 1.0, 0.0]]))
    iou = metric.compute()
    assert iou[0, [0, 2]].tolist() == [1.0, 1.0]
    assert torch.isnan(iou[0, [1, 3]]).all()
    assert mean_iou(iou)[0] == 1.0


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    metric = MapSegmentation(3)
    sizes = set()
    for _ in range(5):
        metric.update(torch.rand(4, 3), torch.rand(4, 3, 4, 4), torch.randint(0, 4, (4, 8, 8)), torch.ones(4, 3))
        sizes.add(sum(v.numel() for v in metric.metric_state.values()))  # type: ignore[union-attr]
    assert len(sizes) == 1


def test_the_threshold_comes_from_validation() -> None:
    val, test = torch.zeros(len(THRESHOLDS), 2), torch.zeros(len(THRESHOLDS), 2)
    val[3] = 0.5
    test[3], test[7] = 0.3, 0.9
    scores = mode_scores(val, test, fixed=THRESHOLDS[5])
    assert scores["threshold"] == THRESHOLDS[3]
    assert scores["miou_best"] == pytest.approx(0.3)
    assert scores["miou_oracle"] == pytest.approx(0.9)
    assert scores["miou_fixed"] == 0
    with pytest.raises(AttnBridgeError, match=r"fixed threshold 0\.33"):
        mode_scores(val, test, fixed=0.33)


def test_average_precision_equals_the_exact_one_and_drops_absent_classes() -> None:
    metric, exact = LabelPrecision(4), MultilabelAveragePrecision(4, average="none", thresholds=None)
    for _ in range(4):
        labels = (torch.rand(50, 4) > 0.7).long()
        labels[:, 3] = 0
        scores = (2 * torch.randn(50, 4) + labels).sigmoid()
        metric.update(scores, labels)
        exact.update(scores, labels)
    assert float(metric.compute()) == pytest.approx(float(exact.compute()[:3].mean()), abs=2e-3)


def naive_precision(logits: Tensor, labels: Tensor) -> float:
    """The mean over the classes that occur; each logit once as threshold, from the largest."""
    each = []
    for c in range(labels.shape[1]):
        pairs = list(zip(logits[:, c].tolist(), labels[:, c].tolist(), strict=True))
        positive = sum(label for _, label in pairs)
        area, before = 0.0, 0.0
        for threshold in sorted({logit for logit, _ in pairs}, reverse=True):
            above = [label for logit, label in pairs if logit >= threshold]
            recall = sum(above) / positive if positive else 0.0
            area += (recall - before) * sum(above) / len(above)
            before = recall
        if positive:
            each.append(area)
    return sum(each) / len(each)


def tied() -> tuple[Tensor, Tensor]:
    """Logits of 60 images, half of them on a coarse grid, and labels in which the last of five classes is missing."""
    labels = (torch.rand(60, 5) > 0.7).long()
    labels[:, 4] = 0
    logits = 4 * torch.randn(60, 5) + 3 * labels
    logits[::2] = logits[::2].round()
    return logits, labels


def precision_of(logits: Tensor, labels: Tensor, batch: int = 60) -> float:
    metric = LabelPrecision(labels.shape[1])
    for part in zip(logits.split(batch), labels.split(batch), strict=True):
        metric.update(*part)
    return float(metric.compute())


def test_average_precision_is_exact_with_ties() -> None:
    logits, labels = tied()
    assert precision_of(logits, labels) == pytest.approx(naive_precision(logits, labels), abs=1e-12)
    same = torch.zeros(60, 5)
    assert precision_of(same, labels) == pytest.approx(labels[:, :4].double().mean().item(), abs=1e-12)
    assert np.isnan(precision_of(logits, torch.zeros(60, 5)))


def test_average_precision_is_of_ranks() -> None:
    """Tripled and times a thousand, logits at which sigmoids are all 0 or 1 in float32."""
    logits, labels = tied()
    ranks = torch.stack([column.unique(return_inverse=True)[1] for column in logits.T], 1).float()
    wanted = precision_of(logits, labels)
    assert 0.3 < wanted < 0.95
    for other in (3 * logits, 1000 * logits, ranks):
        assert precision_of(other, labels) == wanted


def test_average_precision_does_not_depend_on_the_batches() -> None:
    logits, labels = tied()
    wanted = precision_of(logits, labels)
    assert [precision_of(logits, labels, batch) for batch in (1, 7, 59)] == [wanted] * 3


def test_a_runs_map_is_that_of_its_logits() -> None:
    logits, labels = tied()

    def run(scale: float) -> float:
        scores = MapScores(5)
        module: Any = SimpleNamespace(device="cpu", log_dict=lambda *_, **__: None)
        scores.start(module)
        answer = {"logits": scale * logits, "scores": (scale * logits).sigmoid(), "maps": torch.rand(60, 5, 2, 2)}
        scores.update(answer, {"mask": torch.zeros(60, 4, 4, dtype=torch.long), "labels": labels.float()})
        scores.finish(module, "test")
        return scores.average_precision["test"]

    wanted = naive_precision(logits, labels)
    assert [run(scale) for scale in (1, 3, 1000)] == pytest.approx([wanted] * 3, abs=1e-12)


TWO_PROCESSES = """
import sys, torch
from attnbridge.evaluation.metrics.segmentation import LabelPrecision
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
logits, labels = torch.load(f"{folder}/answers.pt", weights_only=True)
metric = LabelPrecision(labels.shape[1])
found = []
for shares in ([(0, 20)], [(20, 35), (35, 60)]), ([(0, 60)], []):
    metric.reset()
    for start, end in shares[rank]:
        metric.update(logits[start:end], labels[start:end])
    found.append(float(metric.compute()))
torch.save(found, f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_give_the_average_precision_of_one(tmp_path: Path) -> None:
    """With shares that differ, and with a process that has no image."""
    logits, labels = tied()
    torch.save((logits, labels), tmp_path / "answers.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True, env=environment) for c in commands]
    for process in running:
        _, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint[-2000:]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert found == [[precision_of(logits, labels)] * 2] * 2
