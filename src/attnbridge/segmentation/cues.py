"""From class maps to cues: the few pixels of which a label is known, and by which rule two claims are settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from attnbridge.arguments import check_tensors
from attnbridge.bounds import ShareOrNone, check_number
from attnbridge.data.sample import IGNORE_INDEX
from attnbridge.errors import AttnBridgeError, shown, unknown_name

Rule = Callable[[Tensor, Tensor], Tensor]
"""From claims, bool ``(L, H, W)`` with label 0 the background, and maps ``(N, H, W)`` to labels ``(H, W)``."""


@dataclass(frozen=True)
class CueSettings:
    """What makes a cue of class maps.

    Attributes:
        threshold: of a class's map relative to its maximum, from which on a pixel is claimed for the class.
        background: of the saliency, below which a pixel is claimed for the background; METHODS' 0.06. Without saliency,
            of all maps of the image's classes.
        rule: who gets a pixel that several claim: a name of :data:`RULES`, or ``package.module:function``.
    """

    threshold: float = 0.3
    background: float = 0.06
    rule: str = "highest_score"

    def __post_init__(self) -> None:
        for name in ("threshold", "background"):
            check_number(f"--{name}", getattr(self, name), ShareOrNone)
        if not isinstance(self.rule, str) or (":" not in self.rule and self.rule not in RULES):
            raise no_rule(self.rule)


def ignore_conflicts(claims: Tensor, _maps: Tensor) -> Tensor:
    """A pixel that several labels claim is given to none."""
    labels = claims.byte().argmax(0)
    return torch.where(claims.sum(0) == 1, labels, IGNORE_INDEX)


def smallest_region(claims: Tensor, maps: Tensor) -> Tensor:
    """The class that claims the fewest pixels, since small objects lie before large ones; none, if the background
    claims it too (Kolesnikov and Lampert's cues for SEC, ECCV 2016)."""
    area = claims[1:].sum((1, 2)).to(maps.dtype)
    return _by_rank(claims, -area[:, None, None].expand_as(maps))


def highest_score(claims: Tensor, maps: Tensor) -> Tensor:
    """The class whose map is larger there; none, if the background claims it too."""
    return _by_rank(claims, maps)


def _by_rank(claims: Tensor, rank: Tensor) -> Tensor:
    """Of the classes that claim a pixel the one of the highest rank."""
    best = torch.where(claims[1:], rank, -torch.inf).argmax(0) + 1
    best = torch.where(claims[1:].any(0), best, 0)
    known = claims.any(0) & ~(claims[0] & claims[1:].any(0))
    return torch.where(known, best, IGNORE_INDEX)


RULES: dict[str, Rule] = {
    "smallest_region": smallest_region,
    "highest_score": highest_score,
    "ignore_conflicts": ignore_conflicts,
}
"""Name to rule."""


def find_rule(name: str) -> Rule:
    """A rule by its name, or a function of the user's, ``package.module:function``.

    Raises:
        AttnBridgeError: for neither.

    >>> find_rule("ignore_conflicts") is ignore_conflicts
    True
    """
    if name in RULES:
        return RULES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise no_rule(name)
    try:
        found: Rule = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise AttnBridgeError(f"--rule {name}: cannot be imported ({error})") from None
    if not callable(found):
        raise AttnBridgeError(f"--rule {name}: is no function, but a {type(found).__name__}")
    return found


def no_rule(name: Any) -> AttnBridgeError:
    """The error for a rule that is neither known nor a function's name."""
    return unknown_name("rule", name, RULES, "or a function of your own, `package.module:function`")


def _ruled(name: str, claims: Tensor, maps: Tensor) -> Tensor:
    """What a rule says; one of the user's may raise anything."""
    rule = find_rule(name)
    try:
        return rule(claims, maps)
    except Exception as error:
        if name in RULES:
            raise
        raise AttnBridgeError(f"--rule {name}: raised {type(error).__name__}: {error}") from error


def make_cue(
    maps: Tensor, present: Tensor, saliency: Tensor | None = None, settings: CueSettings | None = None
) -> Tensor:
    """The cue of one image.

    A class that is present claims the pixels where its map, scaled to its own maximum, exceeds the threshold; the
    background those where the saliency is below its threshold, or, without saliency, where all present classes' maps
    are. The rule settles pixels that several claim. A pixel that nobody claims is 255: nothing is known of it.

    Args:
        maps: ``(N, H, W)``, each scaled to its own maximum, in [0, 1]; those of absent classes count as 0.
        present: bool ``(N,)``, the image's classes.
        saliency: ``(H, W)`` in [0, 1].
        settings: thresholds and rule.

    Returns:
        uint8 ``(H, W)``: 0 background, class index + 1, 255 unknown.

    Raises:
        AttnBridgeError: for shapes that do not fit each other, or a rule that is not known, or that gives something
            else than labels.

    >>> maps = torch.tensor([[[0.9, 0.5, 0.2, 0.0]], [[0.0, 0.8, 0.1, 0.0]]])
    >>> make_cue(maps, torch.tensor([True, True]), torch.tensor([[1.0, 1.0, 0.2, 0.0]]))
    tensor([[  1,   2, 255,   0]], dtype=torch.uint8)
    """
    settings = settings or CueSettings()
    if not isinstance(settings, CueSettings):
        raise AttnBridgeError(f"settings must be CueSettings, as CueSettings(threshold=0.3), not {shown(settings)}")
    check_tensors(maps=(maps, "N H W"), present=(present, "N", "bool"))
    if saliency is not None:
        check_tensors(maps=(maps, "N H W"), saliency=(saliency, "H W"))
    maps = maps * present[:, None, None]
    quiet = saliency if saliency is not None else maps.amax(0)
    claims = torch.cat([(quiet < settings.background)[None], maps > settings.threshold])
    labels = _ruled(settings.rule, claims, maps)
    if not isinstance(labels, Tensor):
        raise AttnBridgeError(f"--rule {settings.rule}: gave a {type(labels).__name__}; expected a tensor of labels")
    known = (labels == IGNORE_INDEX) | ((labels >= 0) & (labels < len(claims)))
    if labels.shape != claims.shape[1:] or not bool(known.all()):
        raise AttnBridgeError(
            f"--rule {settings.rule}: gave {tuple(labels.shape)} with values up to {int(labels.max())}; expected "
            f"labels {tuple(claims.shape[1:])} from 0 to {len(claims) - 1}, or 255 where nothing is known"
        )
    return labels.to(torch.uint8)
