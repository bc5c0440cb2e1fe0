"""What each class is recognised by, and why that is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from attnbridge.evaluation.audit.bootstrap import bootstrap_mean
from attnbridge.evaluation.audit.tables import ClassRow, Confusion, ImageRow, Interval, Verdict
from attnbridge.evaluation.audit.thresholds import DROP, FALL, LEAST_IMAGES
from attnbridge.evaluation.audit.trust import find_distrust


def judge(rows: Sequence[ImageRow], drawn: bool, seed: int = 0) -> tuple[ClassRow, ...]:
    """A row for each class that was looked at: the biased ones first, and among these the largest fall.

    Args:
        rows: of all images.
        drawn: whether a person drew the objects; else they are saliency's.
        seed: of the bootstrap.
    """
    names = sorted({row.name for row in rows})
    found = [judge_class(name, [row for row in rows if row.name == name], drawn, seed) for name in names]
    order = [Verdict.BACKGROUND, Verdict.BOTH, Verdict.OBJECT, Verdict.UNKNOWN]
    return tuple(sorted(found, key=lambda c: (order.index(c.verdict), -(c.fall.mean if c.fall else 0), c.name)))


def judge_class(name: str, rows: Sequence[ImageRow], drawn: bool, seed: int = 0) -> ClassRow:
    """The row of one class, see :func:`judge`."""
    trusted = [row for row in rows if row.doubt is None]
    foreign = [row for row in trusted if row.foreign]
    swaps = foreign if len(foreign) >= LEAST_IMAGES else [row for row in trusted if row.foreign is not None]
    fall = bootstrap_mean((row.says - row.says_swapped for row in swaps if row.says_swapped is not None), seed)
    drop = bootstrap_mean((row.beyond_control for row in trusted), seed)
    means = {
        "accuracy": bootstrap_mean((row.says for row in rows), seed),
        "area": bootstrap_mean((row.area for row in trusted), seed),
        "inside": bootstrap_mean((row.inside for row in trusted), seed),
        "lift": bootstrap_mean((row.lift for row in trusted), seed),
        "lift_other": bootstrap_mean((row.lift_other for row in trusted), seed),
        "drop": drop,
        "still": bootstrap_mean((row.says_removed for row in trusted if row.says), seed),
        "fall": fall,
    }
    distrust = find_distrust(rows, drawn, seed) or _nothing_said(rows)
    verdict, why = (Verdict.UNKNOWN, distrust) if distrust else weigh(drop, fall)
    words = why if distrust else f"{_attention(means['inside'])}{_counterfactuals(name, means, why)}"
    chosen = None if fall is None else swaps is foreign
    return ClassRow(name, len(rows), len(trusted), verdict, f"{name}: {words}", **means, foreign=chosen)


def weigh(drop: Interval | None, fall: Interval | None) -> tuple[Verdict, str]:
    """The verdict of what an object's removal and a background's swap did, with what decided it.

    An effect counts where its mean reaches the threshold and its interval is clear of 0; of too few images it is taken
    for not measured.

    >>> weigh(Interval(0.0, -0.1, 0.1, 30), Interval(0.4, 0.3, 0.5, 30))[0]
    <Verdict.BACKGROUND: 'reads the background'>
    >>> weigh(Interval(0.5, 0.4, 0.6, 30), Interval(0.0, 0.0, 0.0, 30))[0].value
    'reads the object'
    """
    drop, fall = (None if each is None or each.count < LEAST_IMAGES else each for each in (drop, fall))
    by_object, by_background = _counts(drop, DROP), _counts(fall, FALL)
    if by_background:
        return (Verdict.BOTH, "") if by_object else (Verdict.BACKGROUND, "")
    if by_object:
        return Verdict.OBJECT, ""
    if drop is None and fall is not None and fall.high < FALL:
        return Verdict.OBJECT, "too few images had a place for a control of its removal"
    if drop is None and fall is None:
        return Verdict.UNKNOWN, "too few images had a place for a control, or another background"
    return Verdict.UNKNOWN, "neither its object nor its background is shown to change the answer"


def _counts(effect: Interval | None, least: float) -> bool:
    """Whether an effect is shown."""
    return effect is not None and effect.mean >= least and effect.low > 0


def _nothing_said(rows: Sequence[ImageRow]) -> str | None:
    if any(row.says for row in rows):
        return None
    return f"the network says it in none of its {len(rows)} images, so there is nothing to explain"


def _attention(inside: Interval | None) -> str:
    return (
        "there is no attention to place" if inside is None else f"{1 - inside.mean:.0%} of its attention lies outside"
    )


def _counterfactuals(name: str, means: dict[str, Interval | None], why: str) -> str:
    still, fall, drop = means["still"], means["fall"], means["drop"]
    parts = []
    if still is not None:
        parts.append(f"without the {name} the network still says {name} in {still.mean:.0%} of images")
    if drop is not None:
        parts.append(f"its probability falls by {drop} more than without as much background")
    if fall is not None:
        parts.append(f"before other backgrounds its accuracy falls by {100 * fall.mean:.0f} points")
    return "".join(f"; {part}" for part in [*parts, why] if part)


def find_confusions(rows: Iterable[ImageRow]) -> tuple[Confusion, ...]:
    """Labels that are taken for other classes, the most frequent pair first."""
    labelled = [row for row in rows if row.truth]
    totals = Counter(row.name for row in labelled)
    pairs = Counter((row.name, row.prediction) for row in labelled if row.prediction not in row.truth)
    return tuple(
        Confusion(truth, prediction, count, count / totals[truth])
        for (truth, prediction), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    )
