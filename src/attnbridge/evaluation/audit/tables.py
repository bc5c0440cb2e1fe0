"""What an audit finds: a row for each image, class, context and confused pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """What a class is recognised by."""

    OBJECT = "reads the object"
    BACKGROUND = "reads the background"
    BOTH = "reads both"
    UNKNOWN = "cannot say"

    @property
    def biased(self) -> bool:
        """Whether the background decides, alone or with the object."""
        return self in (Verdict.BACKGROUND, Verdict.BOTH)


class Doubt(Enum):
    """Why nothing can be said by the object of an image."""

    MISSING = "no mask or box of its class is given"
    NOTHING = "no object is found"
    ALL = "the object fills the image"
    FRAME = "the object lies along most of the frame"
    SEVERAL = "several objects are found"


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: of the values.
        low: lower end.
        high: upper end.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """In words.

        >>> str(Interval(0.5, 0.25, 0.75, 20))
        '0.50 [0.25, 0.75]'
        """
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class ImageRow:
    """What was measured of one image; all for one class, its label or else the prediction.

    Attributes:
        id: of the image.
        name: the class that was looked at: of its labels the most probable, else the prediction.
        truth: its labels; empty where none is known.
        prediction: the most probable class.
        score: probability of the class, of the whole image.
        says: whether the network says the class: it is the most probable, or, where an image may have several, its
            probability is above a half.
        doubt: why its object says nothing, if so.
        area: share of the image that the object has; ``None`` without one, as for all that needs an object.
        inside: share of the attention that lies inside the object; ``None`` too where there is no attention at all.
        lift: ``inside`` over ``area``: 1 is chance.
        lift_other: the same with the object of another image, which says how much the middle alone gives.
        removed: probability of the class without the object.
        says_removed: whether the network still says the class without it.
        control: probability without the same shape of the background; ``None`` where that had no place.
        says_control: as ``says``.
        overlap: share of the control's shape that lies on the object, where it has no better place.
        swapped: probability before the background of another image.
        says_swapped: as ``says``.
        background: id of that image.
        foreign: whether that one is of another class.
        frame: share of the frame that the object covers.
        parts: objects: separate parts of the mask of at least a fifth of the largest.
        fit: how much stronger the image's edges are along the object's outline than by chance, which is 1.
        fit_other: the same with the outline of another image's object.
        agreement: IoU of the object with that of the second saliency model.
        context: the features under the attention outside the object, a few numbers.
    """

    id: str
    name: str
    truth: tuple[str, ...]
    prediction: str
    score: float
    says: bool
    doubt: Doubt | None = None
    area: float | None = None
    inside: float | None = None
    lift: float | None = None
    lift_other: float | None = None
    removed: float | None = None
    says_removed: bool | None = None
    control: float | None = None
    says_control: bool | None = None
    overlap: float | None = None
    swapped: float | None = None
    says_swapped: bool | None = None
    background: str | None = None
    foreign: bool | None = None
    frame: float | None = None
    parts: int | None = None
    fit: float | None = None
    fit_other: float | None = None
    agreement: float | None = None
    context: tuple[float, ...] = field(default=(), repr=False)

    @property
    def beyond_control(self) -> float | None:
        """By how much more the probability falls without the object than without as much background."""
        return None if self.removed is None or self.control is None else self.control - self.removed


@dataclass(frozen=True)
class ClassRow:
    """What was found of a class: means over the images whose object can be trusted, see :class:`Doubt`.

    Attributes:
        name: of the class.
        images: how many were looked at for it.
        trusted: how many of these have an object without doubt.
        verdict: what it is recognised by.
        reason: the same in words, with the numbers.
        accuracy: share of all its images in which the network says it.
        area: share of an image that the object has.
        inside: share of the attention inside the object.
        lift: of the attention, over chance.
        lift_other: the same with objects of other images.
        drop: by how much more the class's probability falls without the object than without as much background.
        still: share of the images in which the network says the class, of those in which it did, without the object.
        fall: by how much the accuracy falls before backgrounds of other images, of other classes if these are enough.
        foreign: whether these were of other classes.
    """

    name: str
    images: int
    trusted: int
    verdict: Verdict
    reason: str
    accuracy: Interval | None = None
    area: Interval | None = None
    inside: Interval | None = None
    lift: Interval | None = None
    lift_other: Interval | None = None
    drop: Interval | None = None
    still: Interval | None = None
    fall: Interval | None = None
    foreign: bool | None = None


@dataclass(frozen=True)
class Context:
    """Images of a class whose attention outside the object lies on the same.

    Attributes:
        name: of the class.
        number: of the context, from 0, the most frequent first.
        images: how many of the class's.
        share: of the class's images.
        accuracy: share of them in which the network says the class.
        outside: mean share of the attention outside the object.
        typical: ids of those nearest to its middle, the nearest first.
    """

    name: str
    number: int
    images: int
    share: float
    accuracy: float
    outside: float
    typical: tuple[str, ...]


@dataclass(frozen=True)
class Confusion:
    """A class that is taken for another.

    Attributes:
        truth: the label.
        prediction: what the network says.
        images: how often.
        share: of the images of that label.
    """

    truth: str
    prediction: str
    images: int
    share: float
