"""Attention transfer and its company against naive loops, torchdistill's formulas, and numerical gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError
from attnbridge.losses.transfer import (
    attention_transfer_loss,
    gradient_transfer_loss,
    hint_loss,
    kd_loss,
    mean_activation_map,
    per_sample_input_gradient,
    symmetry_loss,
)


def naive_map(features: Tensor, statistic: str, power: float) -> Tensor:
    _, channels, height, width = features.shape
    rows = []
    for image in features:
        for y in range(height):
            for x in range(width):
                values = [image[k, y, x].abs() for k in range(channels)]
                if statistic == "sum":
                    rows.append(torch.stack(values).sum())
                elif statistic == "sum_power":
                    rows.append(torch.stack([v**power for v in values]).sum())
                else:
                    rows.append(max(values) ** power)
    return torch.stack(rows).view(len(features), height, width)


def naive_transfer(student: Tensor, teacher: Tensor, variant: str, statistic: str, power: float) -> Tensor:
    total: Any = 0.0
    for s, t in zip(
        naive_map(student, statistic, power).flatten(1), naive_map(teacher, statistic, power).flatten(1), strict=True
    ):
        difference = s / (s * s).sum().sqrt() - t / (t * t).sum().sqrt()
        squared = (difference * difference).sum()
        total = total + (squared.sqrt() / 2 if variant == "paper" else squared / len(difference))
    return total / len(student)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize(
    ("statistic", "power"), [("sum", 1.0), ("sum_power", 2.0), ("sum_power", 4.0), ("max_power", 2.0)]
)
def test_transfer_equals_a_loop_in_value_and_gradient(variant: Any, statistic: Any, power: float) -> None:
    student = torch.randn(3, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 7, 3, 2, dtype=torch.float64)
    ours = attention_transfer_loss(student, teacher, variant=variant, statistic=statistic, power=power)
    theirs = naive_transfer(student, teacher, variant, statistic, power)
    assert torch.allclose(ours, theirs)
    wanted, got = (torch.autograd.grad(value, student, retain_graph=True)[0] for value in (theirs, ours))
    assert torch.allclose(wanted, got)
    assert got.abs().max() > 0


def torchdistill_loss(student: Tensor, teacher: Tensor, mode: str) -> Tensor:
    """torchdistill's ``ATLoss``, or, where it is not installed, its two formulas."""
    try:
        from torchdistill.losses.mid_level import ATLoss
    except ImportError:
        if mode == "paper":
            maps = [F.normalize(x.pow(2).sum(1).flatten(1)) for x in (student, teacher)]
            return torch.norm(maps[0] - maps[1], dim=1).sum() / len(student)
        maps = [F.normalize(x.pow(2).mean(1).flatten(1)) for x in (student, teacher)]
        return (maps[0] - maps[1]).pow(2).mean()
    pair = {"teacher": {"io": "output", "path": "layer"}, "student": {"io": "output", "path": "layer"}, "weight": 1}
    loss: Tensor = ATLoss({"pair": pair}, mode)({"layer": {"output": student}}, {"layer": {"output": teacher}})
    return loss


@pytest.mark.parametrize(("mode", "half"), [("paper", 2), ("code", 1)])
def test_transfer_equals_torchdistill(mode: Any, half: int) -> None:
    student, teacher = torch.randn(4, 8, 6, 6, requires_grad=True), torch.randn(4, 16, 6, 6)
    ours = half * attention_transfer_loss(student, teacher, variant=mode)  # Equation 2 has half its distance
    theirs = torchdistill_loss(student, teacher, mode)
    assert torch.allclose(ours, theirs, atol=1e-7)
    gradients = [torch.autograd.grad(value, student)[0] for value in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-7)


def test_the_larger_map_is_averaged_down_and_the_teacher_gets_no_gradient() -> None:
    student = torch.rand(2, 3, 2, 2, requires_grad=True)
    teacher = torch.rand(2, 5, 4, 4, requires_grad=True)
    small = mean_activation_map(teacher).unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
    wanted = (F.normalize(mean_activation_map(student).flatten(1)) - F.normalize(small.flatten(1))).square().mean()
    loss = attention_transfer_loss(student, teacher)
    assert torch.allclose(loss, wanted)
    assert torch.allclose(attention_transfer_loss(teacher, student), wanted)
    loss.backward()
    assert teacher.grad is None
    hint_loss(student[:, :1].expand(-1, 5, -1, -1), teacher).backward()
    assert teacher.grad is None


def test_the_scale_of_neither_side_matters_nor_the_number_of_images() -> None:
    student, teacher = torch.rand(3, 4, 5, 5), torch.rand(3, 4, 5, 5)
    for variant in ("paper", "code"):
        loss = attention_transfer_loss(student, teacher, variant=variant)
        assert torch.allclose(attention_transfer_loss(100 * student, teacher / 7, variant=variant), loss)
        parts = [attention_transfer_loss(student[i : i + 1], teacher[i : i + 1], variant=variant) for i in range(3)]
        assert torch.allclose(torch.stack(parts).mean(), loss)


def test_distillation_is_a_divergence_times_the_square_of_its_temperature() -> None:
    student = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    total: Any = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = torch.exp(t / 4) / torch.exp(t / 4).sum(), torch.exp(s / 4) / torch.exp(s / 4).sum()
        for k in range(5):
            total = total + p[k].detach() * (torch.log(p[k].detach()) - torch.log(q[k]))
    ours = kd_loss(student, teacher)
    assert torch.allclose(ours, 16 * total / 3)
    wanted, got = (torch.autograd.grad(v, student, retain_graph=True)[0] for v in (16 * total / 3, ours))
    assert torch.allclose(wanted, got)
    ours.backward()
    assert teacher.grad is None


class Smooth(nn.Module):
    """A small network without batch norm, smooth so that numerical gradients are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(torch.tanh(self.conv(x)).mean((2, 3)))
        return answer


def test_gradient_losses_pass_gradcheck_in_the_weights() -> None:
    network = Smooth().double()
    images, labels = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 2])
    teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def sensitivity(photographs: Tensor, weight: Tensor) -> Tensor:
        photographs = photographs.clone().requires_grad_()
        logits = torch.func.functional_call(network, {"conv.weight": weight}, (photographs,))
        return per_sample_input_gradient(
            F.cross_entropy(logits, labels, reduction="none"), photographs, create_graph=True
        )

    weight = network.conv.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: gradient_transfer_loss(sensitivity(images, w), teacher), (weight,))
    both = lambda w: symmetry_loss(sensitivity(images, w), sensitivity(images.flip(-1), w))  # noqa: E731
    assert torch.autograd.gradcheck(both, (weight,))
    assert both(weight) > 0
    loss = gradient_transfer_loss(sensitivity(images, weight), teacher)
    one = [gradient_transfer_loss(sensitivity(images, weight)[i : i + 1], teacher[i : i + 1]) for i in range(2)]
    assert torch.allclose(loss, torch.stack(one).mean())


def test_a_network_that_sees_images_as_their_mirror_images_is_symmetric() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    gradient = per_sample_input_gradient(images.square().sum((1, 2, 3)), images)
    mirrored = images.detach().flip(-1).requires_grad_()
    assert symmetry_loss(gradient, per_sample_input_gradient(mirrored.square().sum((1, 2, 3)), mirrored)) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: attention_transfer_loss(torch.ones(2, 3), torch.ones(2, 3, 4, 4)),
            r"student must be a float tensor \(B, C, h, w\)",
        ),
        (
            lambda: attention_transfer_loss(torch.ones(2, 3, 4, 4), torch.ones(1, 3, 4, 4)),
            r"saw 2 images, the teacher 1",
        ),
        (lambda: attention_transfer_loss(*[torch.ones(1, 1, 1, 1)] * 2, variant="x"), r"paper or code, not 'x'"),  # type: ignore[arg-type]
        (lambda: mean_activation_map(torch.ones(1, 1, 1, 1), "x"), r"sum, sum_power or max_power"),  # type: ignore[arg-type]
        (lambda: hint_loss(torch.ones(1, 2, 4, 4), torch.ones(1, 3, 4, 4)), r"2 channels, the teacher's 3"),
        (lambda: kd_loss(torch.ones(1, 2), torch.ones(1, 3)), r"must have the same classes"),
        (lambda: kd_loss(torch.ones(1, 2), torch.ones(1, 2), 0.0), r"temperature must be above 0"),
    ],
)
def test_clear_errors(call: Any, words: str) -> None:
    with pytest.raises(AttnBridgeError, match=words):
        call()
