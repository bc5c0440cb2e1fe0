"""The dense CRF beside sums over all pairs of pixels, and beside pydensecrf where that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attnbridge.data.images import load_image
from attnbridge.errors import AttnBridgeError
from attnbridge.segmentation.crf import CRF, mean_field
from attnbridge.segmentation.lattice import Permutohedral


def noisy(height: int, width: int, labels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image of two colours with noise, and probabilities that know its halves vaguely."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 40, (1, 3, height, width), generator=generator, dtype=torch.uint8)
    image[..., width // 2 :] += 180
    probabilities = torch.rand(1, labels, height, width, generator=generator) + 0.5
    probabilities[:, 1, :, width // 2 :] += 0.3
    probabilities[:, 0, :, : width // 2] += 0.3
    return image, probabilities / probabilities.sum(1, keepdim=True)


def exact(features: Tensor) -> Tensor:
    """The kernel between all pairs of points, ``(P, P)``."""
    return torch.exp(-torch.cdist(features, features).square() / 2)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_the_lattice_sums_as_all_pairs_do(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(400, dims, generator=generator) * 4
    values = torch.rand(400, 2, generator=generator)
    values[:, 1] = (points[:, 0] > 2).float()
    lattice = Permutohedral(points[None])
    kernel = exact(points)
    ours = lattice(values[None])[0] / lattice(torch.ones(1, 400, 1))[0]
    theirs = kernel @ values / kernel.sum(1, keepdim=True)
    assert (ours - theirs).abs().max() < 0.12  # the lattice is an approximation
    assert (ours - theirs).abs().mean() < 0.03
    assert np.corrcoef(ours[:, 1], theirs[:, 1])[0, 1] > 0.99


def test_images_of_a_batch_do_not_mix() -> None:
    points = torch.rand(3, 50, 5) * 3
    values = torch.rand(3, 50, 4)
    together = Permutohedral(points)(values)
    for each, own, wanted in zip(points, values, together, strict=True):
        torch.testing.assert_close(Permutohedral(each[None])(own[None])[0], wanted)


def test_mean_field_is_near_that_over_all_pairs() -> None:
    image, probabilities = noisy(14, 20, 3)
    crf = CRF(iterations=5, bilateral_xy=20.0)
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(20.0), indexing="ij")
    places = torch.stack([columns, rows], 2).view(-1, 2)
    colours = image[0].flatten(1).t().float() / crf.bilateral_rgb
    kernels = []
    for weight, features in (
        (crf.gaussian_weight, places / crf.gaussian_xy),
        (crf.bilateral_weight, torch.cat([places / crf.bilateral_xy, colours], 1)),
    ):
        kernel = exact(features)
        norm = kernel.sum(1).rsqrt()
        kernels.append(weight * norm[:, None] * kernel * norm)
    unary = probabilities[0].flatten(1).t().log()
    q = unary.softmax(1)
    for _ in range(5):
        q = (unary + sum(kernel @ q for kernel in kernels)).softmax(1)
    found = mean_field(image, probabilities, crf)[0].flatten(1).t()
    assert (found.argmax(1) == q.argmax(1)).float().mean() > 0.98
    assert (found - q).abs().mean() < 0.03
    assert (q.argmax(1) != probabilities[0].flatten(1).argmax(0)).float().mean() > 0.2  # it had work to do


def test_autocast_and_gradients_are_left_out() -> None:
    image, probabilities = noisy(6, 8, 3)
    wanted = mean_field(image, probabilities)
    with torch.autocast("cpu", torch.bfloat16):
        found = mean_field(image, probabilities.requires_grad_())
    assert torch.equal(found, wanted)
    assert not found.requires_grad


def test_without_pairs_nothing_changes() -> None:
    image, probabilities = noisy(6, 8, 3)
    same = mean_field(image, probabilities, CRF(bilateral_weight=0.0, gaussian_weight=0.0))
    torch.testing.assert_close(same, probabilities)


def test_labels_are_pydensecrfs(tmp_path: Path) -> None:
    """On real photographs where there are some, else on drawn ones; within a pixel in a hundred."""
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed: extra `crf`")
    shared = Path(__file__).parents[3] / "shared/data/ecssd/images"
    paths = sorted(shared.glob("*.jpg"))[:20]
    cases = [noisy(60, 80, 4, seed) for seed in range(3)]
    for path in paths:
        photograph = torch.from_numpy(np.array(load_image(path).resize((150, 100)))).permute(2, 0, 1)[None]
        cases.append((photograph, noisy(100, 150, 4)[1]))
    for image, probabilities in cases:
        wanted = mean_field(image, probabilities, backend="pydensecrf")[0].numpy()
        found = mean_field(image, probabilities)[0].numpy()
        assert (found.argmax(0) == wanted.argmax(0)).mean() > 0.99
        assert np.abs(found - wanted).max() < 0.05


def test_a_large_batch_is_that_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [noisy(10, 12, 3, seed) for seed in range(5)]
    images, probabilities = (torch.cat(parts) for parts in zip(*cases, strict=True))
    wanted = mean_field(images, probabilities)
    monkeypatch.setattr("attnbridge.segmentation.crf.CACHED", 250)  # two images at a time, the last one alone
    torch.testing.assert_close(mean_field(images, probabilities), wanted)


def test_without_pydensecrf_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(AttnBridgeError, match=r"install attnbridge\[crf\]"):
        mean_field(*noisy(6, 8, 3), backend="pydensecrf")


def test_what_cannot_be_is_told() -> None:
    image, probabilities = noisy(6, 8, 3)
    with pytest.raises(AttnBridgeError, match="did you mean 'pydensecrf'"):
        mean_field(image, probabilities, backend="pydensecrv")  # type: ignore[arg-type]
    assert mean_field(image[:0], probabilities[:0]).shape == (0, 3, 6, 8)
    with pytest.raises(AttnBridgeError, match="must be of one size; enlarge the probabilities"):
        mean_field(image, probabilities[..., :4])
    with pytest.raises(AttnBridgeError, match=r"images must be a uint8 tensor \(B, 3, H, W\)"):
        mean_field(image.float(), probabilities)
    with pytest.raises(AttnBridgeError, match="too far apart"):
        Permutohedral(torch.tensor([[[0.0] * 5, [1e6] * 5]]))
    with pytest.raises(AttnBridgeError, match="features must be finite"):
        Permutohedral(torch.full((1, 2, 3), torch.nan))
