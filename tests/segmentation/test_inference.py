"""A network's answer over scales and mirrored images, written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
