"""The discriminator of domains takes maps of any size."""

from __future__ import annotations

import pytest
import torch

from attnbridge.models.discriminator import DomainDiscriminator


@pytest.mark.parametrize("side", [3, 7, 8, 14])
def test_discriminator_takes_any_map(side: int) -> None:
    for options in ({"projection": None}, {"spectral": True}, {"projection": 4}):
        out = DomainDiscriminator(6, width=4, **options)(torch.rand(2, 6, side, side))  # type: ignore[arg-type]
        assert out.shape[:2] == (2, 1)
        assert torch.isfinite(out).all()
