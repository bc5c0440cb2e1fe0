"""Every loss is a function and a thin module of the same name, which gives what the function gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnbridge import losses

GENERATOR = torch.Generator().manual_seed(0)


def maps(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=GENERATOR)


PROBABILITIES = maps(2, 3, 4, 4).softmax(1)
CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "AdversarialLoss": ((maps(2, 1, 3, 3),), {}),
    "AttentionLoss": ((maps(2, 3, 3), maps(2, 6, 6)), {"resolution": "saliency", "reduction": "sum"}),
    "AttentionMiningLoss": ((maps(3), torch.tensor([0, 0, 1])), {}),
    "AttentionTransferLoss": (
        (maps(2, 3, 4, 4), maps(2, 5, 4, 4)),
        {"variant": "paper", "statistic": "max_power", "power": 3.0},
    ),
    "BoundaryLoss": ((PROBABILITIES, maps(2, 3, 4, 4).softmax(1)), {}),
    "ChannelAlignmentLoss": ((maps(2, 3, 4, 4), maps(2, 3, 4, 4), maps(2, 3)), {"variant": "paper"}),
    "CoralLoss": ((maps(4, 3), maps(5, 3)), {}),
    "DeltaAlignmentLoss": ((maps(2, 3, 4, 4), maps(2, 3, 4, 4), maps(3)), {"variant": "paper"}),
    "DiscriminatorLoss": ((maps(2, 1, 3, 3), maps(3, 1, 3, 3)), {}),
    "ExpansionLoss": (
        (PROBABILITIES, torch.tensor([[1, 0], [1, 1]])),
        {"foreground": 0.9, "background": 0.8, "absent": 0.1},
    ),
    "GradientTransferLoss": ((maps(2, 3, 4, 4), maps(2, 3, 4, 4)), {}),
    "HintLoss": ((maps(2, 3, 4, 4), maps(2, 3, 8, 8)), {}),
    "KDLoss": ((maps(2, 3), maps(2, 3)), {"temperature": 2.0}),
    "L2SPLoss": (({"a": maps(3)}, {"a": maps(3)}), {}),
    "MultiLabelSoftMarginLoss": ((maps(2, 3), torch.tensor([[1, 0, 1], [0, 0, 1]])), {"reduction": "sum"}),
    "MMDLoss": ((maps(4, 3), maps(5, 3)), {}),
    "SeedLoss": ((PROBABILITIES, maps(2, 3, 4, 4) > 0.5), {"balanced": False}),
    "SpatialAlignmentLoss": ((maps(2, 3, 4, 4), maps(2, 3, 4, 4), maps(2, 4, 4)), {"variant": "paper"}),
    "SpectralShrinkageLoss": ((maps(4, 5),), {"count": 2}),
    "SymmetryLoss": ((maps(2, 3, 4, 4), maps(2, 3, 4, 4)), {}),
}


def function_of(name: str) -> Any:
    """The function whose name a module's has without its underscores and its capitals."""
    plain = name.lower()
    return next(getattr(losses, known) for known in losses.__all__ if "_" in known and known.replace("_", "") == plain)


def test_every_loss_has_a_module() -> None:
    functions = {name for name in losses.__all__ if name.endswith("_loss")}
    assert {function_of(name).__name__ for name in CASES} == functions
    assert {name for name in losses.__all__ if name.endswith("Loss")} == {*CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_module_gives_what_its_function_gives(name: str) -> None:
    tensors, settings = CASES[name]
    module, function = getattr(losses, name), function_of(name)
    assert torch.equal(module()(*tensors), function(*tensors))
    value = function(*tensors, **settings)
    assert torch.equal(module(**settings)(*tensors), value)
    assert not settings or not torch.equal(value, function(*tensors)), "the settings must make a difference"
