"""DeepLab's head with one branch and with several."""

from __future__ import annotations

import pytest
import torch

from attnbridge.errors import AttnBridgeError
from attnbridge.models.large_fov import LargeFOV


def test_several_branches_are_summed() -> None:
    head = LargeFOV(6, 3, 4, rate=(1, 2)).eval()
    features = torch.rand(2, 6, 7, 5)
    alone = [LargeFOV(6, 3, 4, rate=rate).eval() for rate in (1, 2)]
    for i, branch in enumerate(alone):
        branch.load_state_dict({k[2:]: v for k, v in head.state_dict().items() if k.startswith(f"{i}.")})
    torch.testing.assert_close(head(features), alone[0](features) + alone[1](features))
    assert head.rates == (1, 2)
    assert [layer is branch[-1] for layer, branch in zip(head.last, head, strict=True)] == [True, True]  # type: ignore[index]


def test_one_rate_in_a_list_is_one_branch() -> None:
    head = LargeFOV(6, 3, 4, rate=[2])
    assert list(head.state_dict()) == list(LargeFOV(6, 3, 4, rate=2).state_dict())
    assert head.last == [head[-1]]


@pytest.mark.parametrize("rate", [[], [6, 0], [6.5], "6"], ids=["none", "zero", "half", "text"])
def test_rates_that_are_none_are_refused(rate: object) -> None:
    with pytest.raises(AttnBridgeError, match="rate must be"):
        LargeFOV(6, 3, 4, rate=rate)  # type: ignore[arg-type]
