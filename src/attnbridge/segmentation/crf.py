"""Dense conditional random fields: labels that follow the image's edges (Krähenbühl and Koltun, NIPS 2011)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Natural, NotNegative, Positive, check_values
from attnbridge.errors import AttnBridgeError, shown, unknown_name
from attnbridge.segmentation.lattice import Permutohedral

Backend = Literal["torch", "pydensecrf"]

CACHED = 2**17
"""Pixels that are filtered at a time on a CPU; more are slower."""


class CRF(NamedTuple):
    r"""The pairwise energies of a dense CRF.

    .. math:: k(i, j) = w_b \exp\Bigl(-\frac{\|p_i - p_j\|^2}{2 \theta_\alpha^2}
              - \frac{\|I_i - I_j\|^2}{2 \theta_\beta^2}\Bigr)
              + w_g \exp\Bigl(-\frac{\|p_i - p_j\|^2}{2 \theta_\gamma^2}\Bigr)

    Attributes:
        iterations: of mean-field inference.
        bilateral_weight: :math:`w_b`.
        bilateral_xy: :math:`\theta_\alpha`, pixels.
        bilateral_rgb: :math:`\theta_\beta`, of 255.
        gaussian_weight: :math:`w_g`.
        gaussian_xy: :math:`\theta_\gamma`, pixels.
    """

    iterations: Natural = 10
    bilateral_weight: NotNegative = 10.0
    bilateral_xy: Positive = 80.0
    bilateral_rgb: Positive = 13.0
    gaussian_weight: NotNegative = 3.0
    gaussian_xy: Positive = 3.0

    @staticmethod
    def of_size(height: int, width: int) -> CRF:
        """SEC's and DSRG's, published for VOC's images of 500 pixels, for others: the 80 pixels in proportion to the
        longer side, so that what lies near in an image is the same whatever its resolution.

        >>> CRF.of_size(375, 500).bilateral_xy, CRF.of_size(125, 100).bilateral_xy
        (80.0, 20.0)
        """
        return CRF(bilateral_xy=80.0 * max(height, width) / 500)


@torch.no_grad()
def mean_field(images: Tensor, probabilities: Tensor, crf: CRF | None = None, backend: Backend = "torch") -> Tensor:
    r"""Mean-field inference in a dense CRF whose unary energies are :math:`-\log` of probabilities.

    .. math:: Q_i(l) \propto P_i(l) \exp\Bigl(\sum_k w_k\, \hat K_k Q(l)_i\Bigr)

    with Potts compatibility and each kernel normalised symmetrically, as pydensecrf does by default. In single
    precision, whatever autocast says, and without a gradient.

    Args:
        images: uint8 ``(B, 3, H, W)``.
        probabilities: ``(B, L, H, W)`` of L labels, in [0, 1].
        crf: the energies; default: SEC's and DSRG's at the end.
        backend: ``torch``, on CPU and GPU, or ``pydensecrf``, Krähenbühl's own C++, an image at a time on the CPU
            (the extra ``crf``); they agree.

    Returns:
        ``(B, L, H, W)``, the labels of a pixel sum to 1.

    Raises:
        AttnBridgeError: for images and probabilities of different sizes, images that are not uint8, energies out of
            range, or a backend that is unknown or not installed.

    >>> image = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    >>> image[..., 3:] = 255
    >>> unary = torch.full((1, 2, 4, 6), 0.5)
    >>> unary[0, 0, :, 0], unary[0, 1, :, 0] = 0.9, 0.1  # what is known at the left spreads to the edge
    >>> unary[0, 1, :, 5], unary[0, 0, :, 5] = 0.9, 0.1
    >>> mean_field(image, unary).argmax(1)[0, 0]
    tensor([0, 0, 0, 1, 1, 1])
    """
    crf = crf or CRF()
    if not isinstance(crf, CRF):
        raise AttnBridgeError(f"crf must be a CRF, as CRF(iterations=5), not {shown(crf)}")
    check_values(CRF, crf._asdict(), "crf.")
    check_tensors(empty=True, images=(images, "B 3 H W", "uint8"), probabilities=(probabilities, "b L h w"))
    if images.shape[2:] != probabilities.shape[2:] or len(images) != len(probabilities):
        raise AttnBridgeError(
            f"images {tuple(images.shape)} and probabilities {tuple(probabilities.shape)} must be of one size; "
            "enlarge the probabilities"
        )
    if not isinstance(backend, str) or backend not in get_args(Backend):
        raise unknown_name("backend", backend, get_args(Backend))
    if not len(images):
        return probabilities.float()
    if backend == "pydensecrf":
        return _by_pydensecrf(images, probabilities, crf)
    count = len(images)
    if images.device.type == "cpu":  # what a processor's cache holds
        count = max(1, CACHED // images[0, 0].numel())
    with torch.autocast(images.device.type, enabled=False):
        parts = zip(torch.split(images, count), torch.split(probabilities, count), strict=True)
        return torch.cat([_inferred(some, own, crf) for some, own in parts])


def _inferred(images: Tensor, probabilities: Tensor, crf: CRF) -> Tensor:
    unary = _log(probabilities).flatten(2).transpose(1, 2).contiguous()  # (B, P, L)
    kernels = [_kernel(points, weight) for points, weight in _features(images, crf) if weight]
    q = unary.softmax(2)
    for _ in range(crf.iterations):
        energy = unary
        for kernel in kernels:
            energy = kernel(q, to=energy)
        q = energy.softmax(2)
    return q.transpose(1, 2).reshape(probabilities.shape)


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.float().clamp_min(1e-20).log()


def _by_pydensecrf(images: Tensor, probabilities: Tensor, crf: CRF) -> Tensor:
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError:
        raise AttnBridgeError(
            "pydensecrf is not installed; install attnbridge[crf], or take the backend torch"
        ) from None
    found = []
    for image, unary in zip(images.cpu(), -_log(probabilities).cpu(), strict=True):
        labels, height, width = unary.shape
        field: Any = DenseCRF2D(width, height, labels)
        field.setUnaryEnergy(np.ascontiguousarray(unary.flatten(1).numpy()))
        if crf.gaussian_weight:
            field.addPairwiseGaussian(sxy=crf.gaussian_xy, compat=crf.gaussian_weight)
        if crf.bilateral_weight:
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            field.addPairwiseBilateral(
                sxy=crf.bilateral_xy, srgb=crf.bilateral_rgb, rgbim=pixels, compat=crf.bilateral_weight
            )
        found.append(torch.from_numpy(np.array(field.inference(crf.iterations))).view(unary.shape))
    return torch.stack(found).to(probabilities.device)


def _kernel(points: Tensor, weight: float) -> Permutohedral:
    """A kernel with its weight and its symmetric normalisation."""
    plain = Permutohedral(points)
    norm = (plain(torch.ones_like(points[..., :1])) + 1e-20).rsqrt()
    return plain.scaled(norm, weight * norm)


def _features(images: Tensor, crf: CRF) -> list[tuple[Tensor, float]]:
    """The points of both kernels, ``(B, P, d)``, and the kernels' weights."""
    batch, _, height, width = images.shape
    rows, columns = torch.meshgrid(
        torch.arange(height, device=images.device), torch.arange(width, device=images.device), indexing="ij"
    )
    places = torch.stack([columns, rows], 2).float().view(1, -1, 2).expand(batch, -1, -1)
    colours = images.flatten(2).transpose(1, 2).float() / crf.bilateral_rgb
    bilateral = torch.cat([places / crf.bilateral_xy, colours], 2)
    return [(places / crf.gaussian_xy, crf.gaussian_weight), (bilateral, crf.bilateral_weight)]
