"""Gaussian filtering in several dimensions on the permutohedral lattice, for batches, on CPU and GPU."""

from __future__ import annotations

import math
import warnings
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.errors import AttnBridgeError


class Permutohedral:
    r"""Sums over all other points, weighed by a Gaussian of the distance of their features, in linear time.

    .. math:: (Kv)_i \approx \sum_j \exp\bigl(-\tfrac12 \| f_i - f_j \|^2\bigr)\, v_j

    up to a factor that all points share (Adams, Baek, Davis, Eurographics 2010; scaled as in Krähenbühl and Koltun's
    dense CRF, NIPS 2011). Points of different pictures do not mix.

    Args:
        features: ``(B, P, d)``: the d features of each of P points of B pictures, in units of the Gaussian's standard
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
        pictures, points, dims = features.shape
        nearest, rank, weights = _simplices(features.reshape(-1, dims).float().t())
        picture = torch.arange(pictures, device=features.device).repeat_interleave(points)
        places, steps = _packed(nearest, rank, picture)
        ordered, order = places.flatten().sort()
        lattice, counts = torch.unique_consecutive(ordered, return_counts=True)
        self.blurs = [(_find(lattice, lattice + step), _find(lattice, lattice - step)) for step in steps]
        index = torch.empty_like(order)
        index[order] = torch.arange(len(lattice), device=features.device).repeat_interleave(counts)
        begins = torch.arange(0, index.numel() + 1, dims + 1, device=features.device)
        rows = len(lattice) + 1  # the last one stands for places that are not there
        self._slice = _csr(begins, index, weights.flatten() / (1 + 2.0**-dims), (len(places), rows))
        ends = F.pad(counts.cumsum(0), (1, 0))
        ends = torch.cat([ends, ends[-1:]])
        self._splat = _csr(ends, order // (dims + 1), weights.flatten()[order], (rows, len(places)))

    def __call__(self, values: Tensor, to: Tensor | None = None) -> Tensor:
        """Filter ``(B, P, C)``, and add the result to ``to``, of the same shape, if there is one."""
        kept = self._splat @ values.reshape(-1, values.shape[-1]).float()
        for up, down in self.blurs:
            near = kept[up]
            near += kept[down]
            kept[:-1] += near.mul_(0.5)
        if to is None:
            return (self._slice @ kept).view(values.shape)
        return torch.addmm(to.reshape(-1, to.shape[-1]), self._slice, kept).view(values.shape)

    def scaled(self, before: Tensor, after: Tensor) -> Permutohedral:
        """The filter whose values are multiplied by ``before``, and whose result by ``after``, each ``(B, P, 1)``."""
        other = copy(self)
        splat, taken = self._splat, self._slice
        before, after = before.flatten(), after.flatten()
        each = after.repeat_interleave(taken.crow_indices().diff())
        other._splat = _csr(
            splat.crow_indices(), splat.col_indices(), splat.values() * before[splat.col_indices()], splat.shape
        )
        other._slice = _csr(taken.crow_indices(), taken.col_indices(), taken.values() * each, taken.shape)
        return other


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


def _packed(nearest: Tensor, rank: Tensor, picture: Tensor) -> tuple[Tensor, list[int]]:
    """The places of each simplex's corners as one number each, ``(n, d + 1)``, and what has to be added to a number for
    the next place on each axis."""
    dims = len(nearest) - 1
    margin = 2 * (dims + 1)  # corners lie within d + 1, their neighbours as far again
    low = nearest[:dims].amin(1) - margin
    sides = (nearest[:dims].amax(1) + margin - low + 1).tolist()
    if math.prod(sides) * (int(picture.max()) + 1) >= 2**62:
        raise AttnBridgeError("the features are too far apart to be counted in 62 bits; take larger deviations")
    strides = [math.prod(sides[k + 1 :]) for k in range(dims)]
    steps = [-sum(strides) + (dims + 1) * own for own in [*strides, 0]]
    own = torch.tensor([*strides, 0], device=nearest.device)[:, None].expand_as(rank)
    by_rank = torch.empty_like(rank).scatter_(0, rank, own)
    first = ((nearest[:dims] - low[:, None]) * own[:dims]).sum(0) + picture * math.prod(sides)
    # from a corner to the next all coordinates grow by 1, and that of the highest rank left falls by d + 1
    grown = sum(strides) - (dims + 1) * by_rank.flip(0)[:dims]
    return torch.cat([first[None], grown]).cumsum(0).t().contiguous(), steps


def _find(lattice: Tensor, wanted: Tensor) -> Tensor:
    """Where each of the wanted is in the sorted lattice; its length for those that are not in it."""
    found = torch.searchsorted(lattice, wanted).clamp_max(len(lattice) - 1)
    return torch.where(lattice[found] == wanted, found, len(lattice))


def _csr(begins: Tensor, columns: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(begins, columns, values, size, check_invariants=False)
