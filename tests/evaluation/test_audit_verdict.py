"""Verdicts, trust in saliency, contexts and confusions, on rows of which the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from attnbridge.evaluation.audit.bootstrap import LEVEL, bootstrap_mean
from attnbridge.evaluation.audit.contexts import cluster, find_contexts
from attnbridge.evaluation.audit.measure import measure
from attnbridge.evaluation.audit.tables import Confusion, Doubt, ImageRow, Verdict
from attnbridge.evaluation.audit.verdict import find_confusions, judge, judge_class
from tests.evaluation.audit_scenes import classifier, example

RNG = np.random.default_rng(0)


def measured(thing: float, place: float, count: int = 24) -> list[ImageRow]:
    """Boats and trains by turns."""
    places = RNG.integers(2, 18, (2 * count, 2)).tolist()
    some = [example(str(i), ("boat", "train")[i % 2], (y, x)) for i, (y, x) in enumerate(places)]
    return measure(classifier(thing, place), "act", some)


@pytest.mark.parametrize(
    ("thing", "place", "verdict"),
    [(40, 0, Verdict.OBJECT), (0, 8, Verdict.BACKGROUND), (20, 2.2, Verdict.BOTH)],
)
def test_networks_that_are_known_get_their_verdict(thing: float, place: float, verdict: Verdict) -> None:
    for row in judge(measured(thing, place), drawn=True):
        assert row.verdict is verdict, row.reason
        assert row.verdict.biased == (verdict is not Verdict.OBJECT)


def test_the_reason_names_its_numbers() -> None:
    rows = judge(measured(0, 8), drawn=True)
    assert [row.name for row in rows] == ["boat", "train"]
    assert "boat: 100% of its attention lies outside" in rows[0].reason
    assert "without the boat the network still says boat in 100% of images" in rows[0].reason
    assert "its accuracy falls by 100 points" in rows[0].reason


def row(number: int, **values: object) -> ImageRow:
    """One of a class that is recognised by its object."""
    usual = ImageRow(
        str(number), "boat", ("boat",), "boat", 0.9, True, None, 0.2, 0.6, 3.0, 1.5, 0.1, False, 0.85, True, 0.0, 0.9,
        True, "x", True, 0.1, 1, 5.0 + number % 3, 1.0, None,
    )  # fmt: skip
    return replace(usual, **values)  # type: ignore[arg-type]


def rows(count: int = 30, **values: object) -> list[ImageRow]:
    return [row(number, **values) for number in range(count)]


def test_the_usual_rows_are_of_the_object() -> None:
    assert judge_class("boat", rows(), drawn=False).verdict is Verdict.OBJECT


@pytest.mark.parametrize(
    ("some", "drawn", "words"),
    [
        (rows(19), True, "there are 19 images; at least 20"),
        (rows(doubt=Doubt.NOTHING), False, "no object is found in 100% of 30 images; give 20 boxes"),
        (rows(doubt=Doubt.ALL), False, "the object fills the image in 100%"),
        (rows(doubt=Doubt.FRAME), False, "along most of the frame in 100%"),
        (rows(doubt=Doubt.SEVERAL), False, "several objects are found in 100%"),
        (rows(fit=1.02, fit_other=1.02), False, "edges along its outlines are 1.02 times"),
        (rows(agreement=0.3), False, "two models agree on the object by an IoU of 0.30"),
        ([*rows(19), *rows(11, doubt=Doubt.MISSING)], True, "of 30 images, 19 have an object to go by (no mask"),
        (
            rows(says=False, says_removed=False, says_swapped=False, prediction="train"),
            True,
            "in none of its 30 images",
        ),
        (rows(removed=0.85, control=0.85, says_removed=True), True, "neither its object nor its background"),
    ],
)
def test_cannot_say(some: Sequence[ImageRow], drawn: bool, words: str) -> None:
    found = judge_class("boat", some, drawn)
    assert found.verdict is Verdict.UNKNOWN
    assert words in found.reason


def test_drawn_objects_are_believed() -> None:
    assert judge_class("boat", rows(fit=1.0, fit_other=1.0), drawn=True).verdict is Verdict.OBJECT


def test_the_fall_is_before_other_classes_where_these_are_enough() -> None:
    own = rows(25, foreign=False, says_swapped=False)
    assert judge_class("boat", [*own, *rows(20)], drawn=True).fall == bootstrap_mean([0] * 20)
    mixed = judge_class("boat", [*own, *rows(19)], drawn=True)
    assert (mixed.fall is not None, mixed.foreign) == (True, False)
    assert mixed.fall is not None
    assert mixed.fall.mean == 25 / 44


def test_without_a_control_the_background_alone_is_weighed() -> None:
    assert judge_class("boat", rows(control=None, says_control=None), drawn=True).verdict is Verdict.OBJECT
    fallen = judge_class("boat", rows(control=None, says_swapped=False), drawn=True)
    assert fallen.verdict is Verdict.BACKGROUND


def test_too_few_controls_are_no_measurement() -> None:
    """They do not make it seem that the object changes nothing."""
    some = [*rows(19, removed=0.85, says_removed=True), *rows(11, control=None, says_control=None)]
    found = judge_class("boat", some, drawn=True)
    assert found.verdict is Verdict.OBJECT
    assert "too few images had a place for a control" in found.reason
    enough = judge_class("boat", [*some, *rows(1, removed=0.85)], drawn=True)
    assert enough.verdict is Verdict.UNKNOWN


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        found = bootstrap_mean(rng.normal(0.3, 1, 60).tolist(), seed)
        assert found is not None
        held += found.low <= 0.3 <= found.high
    assert held / 200 == pytest.approx(LEVEL, abs=0.04)
    assert bootstrap_mean([0.1, 0.5], 3) == bootstrap_mean([0.1, None, 0.5], 3)
    assert bootstrap_mean([None]) is None


def test_the_bootstrap_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(size=50).tolist()
    whole = bootstrap_mean(values)
    monkeypatch.setattr("attnbridge.evaluation.audit.bootstrap.MOST_AT_ONCE", 700)
    assert bootstrap_mean(values) == whole


def test_contexts_are_the_groups_that_are_there() -> None:
    corners = np.eye(3)
    some = []
    for number in range(26):
        place = 0 if number < 13 else 1 if number < 21 else 2
        context = corners[place] + RNG.normal(0, 0.01, 3)
        some.append(row(number, context=tuple(context), says=place != 1, inside=0.5 if place else 0.1))
    contexts = find_contexts(some)
    assert [(c.images, c.accuracy) for c in contexts] == [(13, 1.0), (8, 0.0), (5, 1.0)]
    assert [c.outside for c in contexts] == pytest.approx([0.9, 0.5, 0.5])
    by_id = {each.id: int(np.argmax(each.context)) for each in some}
    for found in contexts:
        assert len({by_id[name] for name in found.typical}) == 1
    assert sum(c.share for c in contexts) == pytest.approx(1)
    assert find_contexts([row(0)]) == ()


def test_typical_images_lie_nearest_to_the_middle() -> None:
    vectors = [(float(number), 0.0) for number in range(7)]
    (found,) = find_contexts([row(i, context=vector) for i, vector in enumerate(vectors)])
    assert found.typical == ("3", "2", "4", "1", "5")


def test_equal_vectors_are_one_cluster() -> None:
    centres, labels = cluster(np.ones((9, 2)), 3)
    assert len(centres) == 1
    assert set(labels.tolist()) == {0}


def test_confusions() -> None:
    some = [*rows(6), *rows(3, prediction="train"), *rows(1, prediction="car"), *rows(4, truth=(), prediction="car")]
    assert find_confusions(some) == (Confusion("boat", "train", 3, 0.3), Confusion("boat", "car", 1, 0.1))
