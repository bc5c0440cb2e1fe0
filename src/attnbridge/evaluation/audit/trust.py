"""Does saliency mean anything on the images of a class? It is measured, not assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attnbridge.evaluation.audit.bootstrap import bootstrap_mean
from attnbridge.evaluation.audit.tables import ImageRow
from attnbridge.evaluation.audit.thresholds import LEAST_AGREEMENT, LEAST_IMAGES, MOST_DOUBTED

BOXES = f"give {LEAST_IMAGES} boxes or masks of it"


def find_distrust(rows: Sequence[ImageRow], drawn: bool, seed: int = 0) -> str | None:
    """Why nothing can be said of a class by the objects of its images, in words; ``None`` if something can.

    Saliency is distrusted where most images have no object to speak of (all 0, all 1, along the frame, several), where
    two models do not agree, and where its outlines lie no better on the edges of their own image than those of another
    image do, as with textures, a fixed prior, or maps of other images.

    Args:
        rows: of the class.
        drawn: whether a person drew the objects, so that only their number counts.
        seed: of the bootstrap.
    """
    trusted = [row for row in rows if row.doubt is None]
    if len(rows) < LEAST_IMAGES:
        return f"there are {_images(len(rows))}; at least {LEAST_IMAGES} are needed"
    doubts = Counter(row.doubt for row in rows if row.doubt is not None)
    if not drawn and len(rows) - len(trusted) > MOST_DOUBTED * len(rows):
        doubt, count = doubts.most_common(1)[0]
        return f"saliency means nothing here: {doubt.value} in {count / len(rows):.0%} of {_images(len(rows))}; {BOXES}"
    if not drawn:
        words = _disagreement(rows, seed) or _misfit(trusted, seed)
        if words:
            return f"{words}; {BOXES}"
    if len(trusted) < LEAST_IMAGES:
        common = f" ({doubts.most_common(1)[0][0].value} in most of the others)" if doubts else ""
        return f"of {_images(len(rows))}, {len(trusted)} have an object to go by{common}; {BOXES}"
    return None


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _disagreement(rows: Sequence[ImageRow], seed: int) -> str | None:
    found = bootstrap_mean((row.agreement for row in rows), seed)
    if found is None or found.mean >= LEAST_AGREEMENT:
        return None
    return f"saliency means nothing here: two models agree on the object by an IoU of {found} alone"


def _misfit(rows: Sequence[ImageRow], seed: int) -> str | None:
    pairs = [(row.fit, row.fit_other) for row in rows]
    found = bootstrap_mean((own - other for own, other in pairs if own is not None and other is not None), seed)
    if found is None or found.low > 0:
        return None
    own, other = (bootstrap_mean(side, seed) for side in zip(*pairs, strict=True))
    assert own is not None
    assert other is not None
    return (
        "saliency means nothing here: edges along its outlines are "
        f"{own.mean:.2f} times as strong as elsewhere, and along those of other images {other.mean:.2f} times"
    )
