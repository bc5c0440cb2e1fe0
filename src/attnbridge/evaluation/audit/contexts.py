"""What lies under the attention outside the object: images of a class grouped by its features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.cluster.vq import kmeans2

from attnbridge.evaluation.audit.tables import Context, ImageRow

Vectors = np.ndarray[Any, np.dtype[np.float64]]
MOST, EACH = 4, 8
"""Contexts of a class at most, and images that one has in the mean at least."""
TYPICAL = 5
"""Images that are named of a context."""
ROUNDS = 50


def find_contexts(rows: Sequence[ImageRow], seed: int = 0) -> tuple[Context, ...]:
    """The contexts of each class, the most frequent first, by k-means.

    Args:
        rows: of all images; those without attention outside an object, or whose object is in
            doubt, are in no context.
        seed: of the first centres.
    """
    found: list[Context] = []
    for name in sorted({row.name for row in rows}):
        own = [row for row in rows if row.name == name and row.context and row.doubt is None]
        if own:
            found += _of_class(name, own, seed)
    return tuple(found)


def _of_class(name: str, rows: Sequence[ImageRow], seed: int) -> list[Context]:
    vectors = np.array([row.context for row in rows], float)
    centres, labels = cluster(vectors, min(MOST, max(1, len(rows) // EACH)), seed)
    found = []
    order = sorted(set(labels.tolist()), key=lambda label: (-int((labels == label).sum()), label))
    for number, label in enumerate(order):
        members = np.flatnonzero(labels == label).tolist()
        distances = ((vectors[members] - centres[label]) ** 2).sum(1)
        typical = [rows[members[i]].id for i in np.argsort(distances, kind="stable")[:TYPICAL]]
        accuracy = float(np.mean([rows[i].says for i in members]))
        outside = float(np.mean([1 - (rows[i].inside or 0.0) for i in members]))
        share = len(members) / len(rows)
        found.append(Context(name, number, len(members), share, accuracy, outside, tuple(typical)))
    return found


def cluster(vectors: Vectors, count: int, seed: int = 0) -> tuple[Vectors, np.ndarray[Any, np.dtype[np.int64]]]:
    """k-means from centres that are drawn far apart (Arthur and Vassilvitskii, k-means++, SODA 2007).

    Args:
        vectors: ``(n, d)``.
        count: of the clusters; equal vectors share one.
        seed: of the first centres.

    Returns:
        Centres ``(count, d)``, and the number of each vector's, ``(n,)``.
    """
    rng = np.random.default_rng(seed)
    centres = vectors[rng.integers(len(vectors))][None]
    while len(centres) < count:
        distances = ((vectors[:, None] - centres[None]) ** 2).sum(2).min(1)
        if distances.sum() <= 0:
            break
        centres = np.vstack([centres, vectors[rng.choice(len(vectors), p=distances / distances.sum())]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cluster that lost all its vectors
        found, labels = kmeans2(vectors, centres, iter=ROUNDS, minit="matrix")
    return found, labels.astype(np.int64)
