"""Two audits of the same images: what changed for each class, and whether more than chance did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy import stats

from attnbridge.errors import AttnBridgeError, check_choice
from attnbridge.evaluation.audit.bootstrap import bootstrap_mean
from attnbridge.evaluation.audit.result import Audit
from attnbridge.evaluation.audit.tables import ImageRow, Interval
from attnbridge.evaluation.audit.thresholds import LEAST_IMAGES

Measure = Literal["inside", "beyond_control", "swapped"]
SIGNIFICANT = 0.05
_VALUES: dict[str, Callable[[ImageRow], float | None]] = {
    "inside": lambda row: row.inside,
    "beyond_control": lambda row: row.beyond_control,
    "swapped": lambda row: row.swapped,
}


@dataclass(frozen=True)
class Change:
    """What changed for a class from one audit to the other.

    Attributes:
        name: of the class.
        images: how many have the value in both.
        before: its mean in the first.
        after: its mean in the second.
        change: mean of the differences, with its interval.
        p: of Wilcoxon's signed-rank test, two-sided; ``None`` for too few images.
        adjusted: the same, corrected for the number of classes by Holm's method.
    """

    name: str
    images: int
    before: float
    after: float
    change: Interval
    p: float | None
    adjusted: float | None

    @property
    def shown(self) -> bool:
        """Whether the change is more than chance."""
        return self.adjusted is not None and self.adjusted < SIGNIFICANT


def compare(before: Audit, after: Audit, measure: Measure = "inside", seed: int = 0) -> tuple[Change, ...]:
    """What changed for each class, the largest rise first.

    Args:
        before: an audit.
        after: one of the same images, with another network.
        measure: ``inside``: share of the attention inside the object; ``beyond_control``: by how much more the
            probability falls without the object than without as much background; ``swapped``: the probability before
            another background. More is better in all three.
        seed: of the bootstrap.

    Raises:
        AttnBridgeError: if the images or their labels are not the same, or nothing can be compared.
    """
    check_choice("measure", measure, get_args(Measure))
    others = {row.id: row for row in after.images}
    _check_images(before, others)
    value = _VALUES[measure]
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in before.images:
        other = others[row.id]
        first, second = value(row), value(other)
        trusted = row.name == other.name and row.doubt is None and other.doubt is None
        if trusted and first is not None and second is not None:
            pairs.setdefault(row.name, []).append((first, second))
    if not pairs:
        raise AttnBridgeError(f"no image has {measure!r} in both audits; give masks or boxes, or other saliency")
    found = {name: np.array(values) for name, values in pairs.items()}
    tested = {name: signed_rank(each[:, 1] - each[:, 0]) for name, each in found.items() if len(each) >= LEAST_IMAGES}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    changes = [_change(name, each, seed, tested.get(name), adjusted.get(name)) for name, each in found.items()]
    return tuple(sorted(changes, key=lambda change: (-change.change.mean, change.name)))


def _change(name: str, values: np.ndarray[Any, Any], seed: int, p: float | None, adjusted: float | None) -> Change:
    change = bootstrap_mean((values[:, 1] - values[:, 0]).tolist(), seed)
    assert change is not None
    return Change(name, len(values), float(values[:, 0].mean()), float(values[:, 1].mean()), change, p, adjusted)


def _check_images(before: Audit, others: dict[str, ImageRow]) -> None:
    own = {row.id for row in before.images}
    odd = sorted(own ^ others.keys())
    if odd:
        where = "first" if odd[0] in own else "second"
        raise AttnBridgeError(
            f"two audits of the same images can be compared, but {odd[0]} is in the {where} alone ({len(odd)} such "
            "images); audit the same images with both networks"
        )
    for row in before.images:
        if row.truth != others[row.id].truth:
            raise AttnBridgeError(
                f"two audits of the same labels can be compared, but {row.id} is {', '.join(row.truth) or 'unlabelled'}"
                f" in the first and {', '.join(others[row.id].truth) or 'unlabelled'} in the second"
            )


def signed_rank(differences: np.ndarray[Any, Any]) -> float:
    """p of Wilcoxon's signed-rank test, two-sided; differences of 0 are left out, and without any other it is 1.

    >>> signed_rank(np.zeros(30)), signed_rank(np.arange(1.0, 31.0)) < 1e-6
    (1.0, True)
    """
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    r"""p values corrected for their number (Holm, Scandinavian Journal of Statistics 1979).

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = least
    return adjusted
