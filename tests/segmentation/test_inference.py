"""A network's answer over scales and mirrored images, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError
from attnbridge.segmentation.crf import CRF, mean_field
from attnbridge.segmentation.inference import Inference, infer


def test_inference_averages_scales_and_mirrors() -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1)
    images = torch.rand(2, 3, 20, 28, generator=generator)

    def network(x: Tensor) -> Tensor:
        return net(x).softmax(1)

    with torch.no_grad():
        found = infer(network, images, Inference((1.0, 0.5), flip=True, crf=False))
        half = F.interpolate(images, (10, 14), mode="bilinear", antialias=True)
        wanted = sum(
            F.interpolate(answer, (20, 28), mode="bilinear")
            for answer in (
                network(images),
                network(images.flip(3)).flip(3),
                network(half),
                network(half.flip(3)).flip(3),
            )
        )
    torch.testing.assert_close(found, wanted / 4, rtol=1e-4, atol=1e-5)
    refined = infer(network, images, Inference((1.0,), flip=False))
    crf = CRF(bilateral_xy=80 * 28 / 500)
    torch.testing.assert_close(refined, mean_field((images * 255).round().byte(), network(images).detach(), crf))


def test_summed_logits_are_those_of_dsrgs_code() -> None:
    """speedinghzl/DSRG, 91efdf7, test-ms.py:90-103: zoomed to the image, ends on ends, summed, softmax, 1e-5."""
    net = nn.Conv2d(3, 4, 3, stride=4, padding=1)
    images = torch.rand(2, 3, 17, 25, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        how = Inference((0.75, 1.0), flip=False, crf=False, combine="logits", corners=True)
        found = infer(lambda x: (9 * net(x)).softmax(1), images, how)
        total = np.zeros((2, 4, 17, 25))
        for size in ((13, 19), (17, 25)):
            scaled = images if size == (17, 25) else F.interpolate(images, size, mode="bilinear", antialias=True)
            scores = (9 * net(scaled)).numpy()
            factors = (1, 1, 17 / scores.shape[2], 25 / scores.shape[3])
            total += zoom(scores, factors, order=1)
    wanted = np.exp(total - total.max(1, keepdims=True))
    wanted = np.maximum(wanted / wanted.sum(1, keepdims=True), 1e-5)
    assert wanted.min() == 1e-5
    torch.testing.assert_close(
        found, torch.from_numpy(wanted / wanted.sum(1, keepdims=True)).float(), rtol=1e-3, atol=1e-6
    )


def test_another_way_to_combine_is_refused() -> None:
    with pytest.raises(AttnBridgeError, match="combine must be mean or logits, not 'sum'"):
        Inference(combine="sum")  # type: ignore[arg-type]
