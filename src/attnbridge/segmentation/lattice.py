"""Gaussian filtering in several dimensions on the permutohedral lattice, for batches, on CPU and GPU."""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.errors import AttnBridgeError


class Permutohedral:
    r"""Sums over all other points, weighed by a Gaussian of the distance of their features, in linear time.

    .. math:: (Kv)_i \approx \sum_j \exp\bigl(-\tfrac12 \| f_i - f_j \|^2\bigr)\, v_j

    up to a factor that all points share (Adams, Baek, Davis, Eurographics 2010; scaled as in Krähenbühl and Koltun's
    dense CRF, NIPS 2011). Points of different images do not mix.

    Args:
        features: ``(B, P, d)``: the d features of each of P points of B images, in units of the Gaussian's standard
            deviation.

    Raises:
        AttnBridgeError: for features that are no batch of points, not finite, or so far apart that the lattice's places
            cannot be counted.

    >>> points = torch.tensor([[[0.0], [0.1], [9.0]]])
    >>> filtered = Permutohedral(points)(torch.tensor([[[1.0], [1.0], [1.0]]]))
    >>> bool(filtered[0, 0] > 1.5 * filtered[0, 2])  # two points together, one alone
    True
    """

    def __init__(self, features: Tensor) -> None:
        if features.ndim != 3 or not features.isfinite().all():
            raise AttnBridgeError(f"features must be finite and (B, P, d), not {tuple(features.shape)}")
        images, points, dims = features.shape
        nearest, rank, weights = _simplices(features.reshape(-1, dims).float().t())
        image = torch.arange(images, device=features.device).repeat_interleave(points)
        places, steps = _packed(nearest, rank, image)
        ordered, order = places.flatten().sort()
        lattice, counts = torch.unique_consecutive(ordered, return_counts=True)
        self._blurs = [_blur(lattice, step) for step in steps]
        index = torch.empty_like(order)
        index[order] = torch.arange(len(lattice), device=features.device).repeat_interleave(counts)
        begins = torch.arange(0, index.numel() + 1, dims + 1, device=features.device)
        self._slice = _sums(index, begins, weights.flatten() / (1 + 2.0**-dims))
        self._splat = _sums(order // (dims + 1), F.pad(counts.cumsum(0), (1, 0)), weights.flatten()[order])

    def __call__(self, values: Tensor, to: Tensor | None = None) -> Tensor:
        """Filter ``(B, P, C)``, and add the result to ``to``, of the same shape, if there is one."""
        kept = values.reshape(-1, values.shape[-1]).float()
        for sums in (self._splat, *self._blurs, self._slice):
            kept = sums(kept)
        found = kept.view(values.shape)
        return found if to is None else found.add_(to)

    def scaled(self, before: Tensor, after: Tensor) -> Permutohedral:
        """The filter whose values are multiplied by ``before``, and whose result by ``after``, each ``(B, P, 1)``."""
        other = copy(self)
        splat, taken = self._splat, self._slice
        each = after.flatten().repeat_interleave(taken.begins.diff())
        other._splat = splat._replace(weights=splat.weights * before.flatten()[splat.rows])
        other._slice = taken._replace(weights=taken.weights * each)
        return other


class _Sums(NamedTuple):
    """Weighted sums of rows: which, where each sum's begin, and their weights."""

    rows: Tensor
    begins: Tensor
    weights: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        # several times as fast as PyTorch's product with a sparse matrix
        bags: Tensor = F.embedding_bag(
            self.rows, values, self.begins, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )
        return bags


def _sums(index: Tensor, begins: Tensor, weights: Tensor) -> _Sums:
    short = torch.int32 if len(index) < 2**31 else torch.int64
    return _Sums(index.to(short), begins.to(short), weights)


def _blur(lattice: Tensor, step: int) -> _Sums:
    """Each place of the sorted lattice and half of its two neighbours on an axis, where they are there."""
    own = torch.arange(len(lattice), device=lattice.device)
    index, weights = [own], [torch.ones_like(own, dtype=torch.float)]
    for wanted in (lattice + step, lattice - step):
        found = torch.searchsorted(lattice, wanted).clamp_max(len(lattice) - 1)
        there = lattice[found] == wanted
        index.append(torch.where(there, found, own))
        weights.append(there / 2)
    begins = torch.arange(0, 3 * len(own) + 1, 3, device=lattice.device)
    return _sums(torch.stack(index, 1).flatten(), begins, torch.stack(weights, 1).flatten())


def _simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex around each point of ``(d, n)``: its place of remainder 0 and the rank of each coordinate,
    ``(d + 1, n)``, and the weights of its corners, ``(n, d + 1)``."""
    dims = len(features)
    i = torch.arange(dims, device=features.device)[:, None]
    scaled = features * (math.sqrt(2 / 3) * (dims + 1) / ((i + 1) * (i + 2)).float().sqrt())
    # onto the plane whose coordinates sum to 0
    elevated = F.pad(scaled.flip(0).cumsum(0).flip(0), (0, 0, 0, 1)) - F.pad(scaled * (i + 1), (0, 0, 1, 0))
    rounded = (elevated / (dims + 1)).round()
    nearest = (rounded * (dims + 1)).long()
    apart = elevated - nearest
    rank = rounded.sum(0).long().repeat(dims + 1, 1)
    for first in range(dims):
        for second in range(first + 1, dims + 1):
            less = apart[first] < apart[second]
            rank[first] += less
            rank[second] += ~less
    moved = (dims + 1) * ((rank < 0).long() - (rank > dims).long())
    nearest, rank = nearest + moved, rank + moved
    by_rank = torch.empty_like(elevated).scatter_(0, rank, (elevated - nearest) / (dims + 1)).flip(0)
    weights = by_rank - F.pad(by_rank, (0, 0, 1, 0))[:-1]
    weights[0] += 1 - by_rank[-1]
    return nearest, rank, weights.t().contiguous()


def _packed(nearest: Tensor, rank: Tensor, image: Tensor) -> tuple[Tensor, list[int]]:
    """The places of each simplex's corners as one number each, ``(n, d + 1)``, and what has to be added to a number for
    the next place on each axis."""
    dims = len(nearest) - 1
    margin = 2 * (dims + 1)  # corners lie within d + 1, their neighbours as far again
    low = nearest[:dims].amin(1) - margin
    sides = (nearest[:dims].amax(1) + margin - low + 1).tolist()
    if math.prod(sides) * (int(image.max()) + 1) >= 2**62:
        raise AttnBridgeError("the features are too far apart to be counted in 62 bits; take larger deviations")
    strides = [math.prod(sides[k + 1 :]) for k in range(dims)]
    steps = [-sum(strides) + (dims + 1) * own for own in [*strides, 0]]
    own = torch.tensor([*strides, 0], device=nearest.device)[:, None].expand_as(rank)
    by_rank = torch.empty_like(rank).scatter_(0, rank, own)
    first = ((nearest[:dims] - low[:, None]) * own[:dims]).sum(0) + image * math.prod(sides)
    # from a corner to the next all coordinates grow by 1, and that of the highest rank left falls by d + 1
    grown = sum(strides) - (dims + 1) * by_rank.flip(0)[:dims]
    return torch.cat([first[None], grown]).cumsum(0).t().contiguous(), steps
