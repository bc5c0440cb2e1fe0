"""Masks of a folder of images, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbridge.evaluation.folders import segment


def test_an_image_of_many_pixels_is_refined_at_a_smaller_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "LARGEST", 200)
    sizes = []
    refine = segment.mean_field

    def seen(images: Any, probabilities: Any, crf: Any) -> Any:
        sizes.append((*images.shape[2:], crf.bilateral_xy))
        return refine(images, probabilities, crf)

    monkeypatch.setattr(segment, "mean_field", seen)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    answer = np.zeros((2, 5, 10), np.float16)
    answer[0], answer[1] = 0.1, 0.9
    mask = segment.refine_mask(tmp_path / "a.png", answer, True, torch.device("cpu"))
    assert (mask.shape, sizes) == ((20, 40), [(10, 20, 3.2)])
    assert (mask == 1).all()
