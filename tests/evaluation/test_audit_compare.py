"""Two audits of the same images: paired tests, corrected for the number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from attnbridge import AttnBridgeError, Audit
from attnbridge.evaluation.audit.compare import compare, holm, signed_rank
from attnbridge.evaluation.audit.tables import Doubt, ImageRow
from attnbridge.evaluation.audit.verdict import judge

RNG = np.random.default_rng(0)


def audited(inside: Mapping[str, list[float]]) -> Audit:
    """One whose images have this attention inside, by class."""
    rows = [
        ImageRow(
            f"{name}/{i}", name, (name,), name, 0.9, True, area=0.2, inside=value, removed=0.1, control=0.5 + value / 9
        )
        for name, values in inside.items()
        for i, value in enumerate(values)
    ]
    return Audit(tuple(rows), judge(rows, drawn=True))


BASE = {name: RNG.uniform(0.2, 0.6, 40).tolist() for name in ("boat", "train", "car")}
GAINS = {"boat": 0.15, "train": 0.0, "car": -0.1}
BEFORE = audited(BASE)
AFTER = audited({name: [v + GAINS[name] + RNG.normal(0, 0.05) for v in values] for name, values in BASE.items()})


def test_changes_are_those_that_were_made() -> None:
    changes = compare(BEFORE, AFTER)
    assert [(each.name, each.shown) for each in changes] == [("boat", True), ("train", False), ("car", True)]
    for each in changes:
        first, second = (
            np.array([row.inside for row in one.images if row.name == each.name], float) for one in (BEFORE, AFTER)
        )
        assert each.images == 40
        assert (each.before, each.after) == pytest.approx((first.mean(), second.mean()))
        assert each.change.mean == pytest.approx((second - first).mean())
        assert each.change.low <= GAINS[each.name] + 0.03
        assert each.p == pytest.approx(stats.wilcoxon(second, first).pvalue)


def test_the_correction_is_for_all_classes() -> None:
    """Beside the definition: p times what is left, and never less than for a smaller p."""
    values = RNG.uniform(0, 0.2, 30).tolist()
    order = np.argsort(values)
    expected = np.empty(30)
    for rank, place in enumerate(order):
        expected[place] = max(min(1, (30 - j) * values[order[j]]) for j in range(rank + 1))
    assert holm(values) == pytest.approx(expected.tolist())
    assert holm([]) == []


def test_chance_alone_is_seldom_a_change() -> None:
    """Of 50 comparisons of 10 classes without any change, few show one."""
    rng, found = np.random.default_rng(2), 0
    for _ in range(50):
        found += min(holm([signed_rank(rng.normal(size=30)) for _ in range(10)])) < 0.05
    assert found <= 6


def test_the_same_audit_did_not_change() -> None:
    assert [(each.p, each.adjusted, each.change.mean) for each in compare(BEFORE, BEFORE)] == [(1, 1, 0)] * 3


def test_few_images_have_no_test() -> None:
    few = {"boat": BASE["boat"], "train": BASE["train"][:19]}
    boat, train = sorted(compare(audited(few), audited(few)), key=lambda each: each.name)
    assert (boat.adjusted, train.p, train.adjusted, train.shown) == (1, None, None, False)


def test_other_measures() -> None:
    changes = compare(BEFORE, AFTER, "beyond_control")
    assert changes[0].change.mean == pytest.approx(compare(BEFORE, AFTER)[0].change.mean / 9)
    with pytest.raises(AttnBridgeError, match="no image has 'swapped' in both"):
        compare(BEFORE, AFTER, "swapped")
    with pytest.raises(AttnBridgeError, match="measure must be inside, beyond_control or swapped"):
        compare(BEFORE, AFTER, "lift")  # type: ignore[arg-type]


def test_images_in_doubt_are_left_out() -> None:
    rows = [replace(row, doubt=Doubt.SEVERAL) if row.id == "boat/3" else row for row in BEFORE.images]
    found = {each.name: each.images for each in compare(replace(BEFORE, images=tuple(rows)), AFTER)}
    assert found == {"boat": 39, "train": 40, "car": 40}


def test_only_the_same_images_are_compared() -> None:
    with pytest.raises(AttnBridgeError, match="boat/0 is in the first alone"):
        compare(BEFORE, replace(AFTER, images=AFTER.images[1:]))
    other = replace(AFTER.images[0], truth=("car",))
    with pytest.raises(AttnBridgeError, match="boat/0 is boat in the first and car in the second"):
        compare(BEFORE, replace(AFTER, images=(other, *AFTER.images[1:])))
