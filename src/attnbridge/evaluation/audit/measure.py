"""Where a classifier looks on a few images, and what it says when their object or their background is another.

Four forward passes an image: whole, without the object, without as much of the background, before another background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.attention.class_maps import grad_cam
from attnbridge.attention.layers import spatial_of, unwrap
from attnbridge.attention.normalise import resize_maps
from attnbridge.attention.observe import observe
from attnbridge.evaluation.audit.edits import on_background, place_control, surroundings, with_margin
from attnbridge.evaluation.audit.objects import (
    count_parts,
    find_doubt,
    frame_share,
    inside_share,
    outline_fit,
    soft_iou,
)
from attnbridge.evaluation.audit.tables import Doubt, ImageRow
from attnbridge.evaluation.audit.thresholds import MOST_OVERLAP, OBJECT
from attnbridge.evaluation.finite import check_finite
from attnbridge.models.classifiers import Classifier

CONTEXT = 64
"""Numbers that stand for the features of an image: a random projection, which keeps distances."""


@dataclass(frozen=True)
class Example:
    """One image to measure.

    Attributes:
        id: of the image.
        image: ``(3, H, W)`` in [0, 1], at the network's size.
        inside: bool ``(H, W)``, false where it was padded.
        truth: indices of its labels.
        find_object: from a class to the object's soft mask ``(H, W)`` in [0, 1]; ``None`` where there is none for it.
        drawn: whether a person drew that mask, so that its number of parts and its place are no reason for doubt.
        second: mask of the second saliency model.
    """

    id: str
    image: Tensor
    inside: Tensor
    truth: tuple[int, ...]
    find_object: Callable[[int], Tensor | None]
    drawn: bool = False
    second: Tensor | None = None


def measure(model: Classifier, layer: str, examples: Sequence[Example], batch: int = 8) -> list[ImageRow]:
    """A row for each image; each gets the background of another one of them, of another class where there is one.

    Args:
        model: what is audited; it is in eval mode.
        layer: whose features the maps are made of.
        examples: a few, all at once in memory.
        batch: images in one forward pass.
    """
    device = next((p.device for p in model.network.parameters()), torch.device("cpu"))
    images = torch.stack([example.image for example in examples]).to(device)
    whole = _look(model, layer, images, [example.truth for example in examples], batch)
    classes = whole.classes.tolist()
    masks = [e.find_object(c) for e, c in zip(examples, classes, strict=True)]
    inside = torch.stack([example.inside for example in examples]).to(device)
    empty = torch.zeros(images.shape[2:])
    objects = torch.stack([empty if m is None else m for m in masks]).to(device, torch.float32) * inside
    rows = [
        _first_row(model, example, whole, number, mask is None)
        for number, (example, mask) in enumerate(zip(examples, masks, strict=True))
    ]
    rows = [
        row if mask is None else _with_object(row, example, whole, objects, inside, number)
        for number, (row, example, mask) in enumerate(zip(rows, examples, masks, strict=True))
    ]
    return _with_edits(model, rows, classes, images, objects, inside, batch)


@dataclass(frozen=True)
class _Whole:
    """What the whole images gave: scores ``(B, N)``, classes ``(B,)``, maps ``(B, H, W)``, and at the layer's own size
    maps ``(B, h, w)`` and features ``(B, C, h, w)``."""

    scores: Tensor
    classes: Tensor
    maps: Tensor
    small: Tensor
    features: Tensor


def _look(model: Classifier, layer: str, images: Tensor, truths: Sequence[tuple[int, ...]], batch: int) -> _Whole:
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(images), batch):
        chunk, network = images[start : start + batch], unwrap(model.network)
        with torch.inference_mode(False), torch.no_grad():
            seen = observe(model.network, model.normalise(chunk), [layer])
        features = seen.features[layer]
        spatial = spatial_of(features, network, *images.shape[2:])
        scores = model.scores(seen.logits.detach())
        classes = _class_of_each(scores, truths[start : start + batch])
        maps = grad_cam(features, seen.logits, classes, spatial=spatial).detach().float()
        parts.append((scores, classes, maps[:, 0], spatial(features).detach().float()))
    scores, classes, maps, features = (torch.cat(each) for each in zip(*parts, strict=True))
    for what, values in (("scores", scores), ("maps", maps)):
        check_finite(values, f"the {what} of {model.name}")
    return _Whole(scores, classes, resize_maps(maps[:, None], (images.shape[2], images.shape[3]))[:, 0], maps, features)


def _class_of_each(scores: Tensor, truths: Sequence[tuple[int, ...]]) -> Tensor:
    """The most probable of each image's labels, else the most probable class."""
    allowed = torch.zeros_like(scores, dtype=torch.bool)
    for number, truth in enumerate(truths):
        allowed[number, list(truth) or slice(None)] = True
    return scores.masked_fill(~allowed, -1).argmax(1)


def says_class(model: Classifier, scores: Tensor, classes: Tensor) -> Tensor:
    """Whether a network says a class: bool ``(B,)`` of scores ``(B, N)``."""
    if model.activation == "sigmoid":
        return scores.gather(1, classes[:, None])[:, 0] > 0.5
    return scores.argmax(1) == classes


@cache
def distinct_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes, with the number where several have one: ImageNet has two cranes.

    >>> distinct_names(("crane", "dog", "crane"))
    ('crane (0)', 'dog', 'crane (2)')
    """
    counts = Counter(classes)
    return tuple(f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(classes))


def _first_row(model: Classifier, example: Example, whole: _Whole, number: int, missing: bool) -> ImageRow:
    scores, label, names = whole.scores[number], int(whole.classes[number]), distinct_names(model.classes)
    return ImageRow(
        id=example.id,
        name=names[label],
        truth=tuple(names[each] for each in example.truth),
        prediction=names[int(scores.argmax())],
        score=float(scores[label]),
        says=bool(says_class(model, scores[None], whole.classes[number, None])[0]),
        doubt=Doubt.MISSING if missing else None,
    )


def _with_object(
    row: ImageRow, example: Example, whole: _Whole, objects: Tensor, inside: Tensor, number: int
) -> ImageRow:
    """A row with what the object and the map of its image say."""
    thing, valid, map_ = objects[number], inside[number], whole.maps[number] * inside[number]
    others = [i for i in range(len(objects)) if i != number and bool(objects[i].any())]
    other = objects[min(others, key=lambda i: (i - number) % len(objects))] * valid if others else None
    area, share = float(thing.sum() / valid.sum()), inside_share(map_, thing)
    binary = (thing >= OBJECT).cpu().numpy()
    parts, frame = count_parts(binary), frame_share(binary, valid.cpu().numpy())
    second = None if example.second is None else example.second.to(thing) * valid
    return replace(
        row,
        area=area,
        inside=share,
        lift=None if share is None or area == 0 else share / area,
        lift_other=None if other is None else _lift(map_, other, valid),
        parts=parts,
        frame=frame,
        fit=outline_fit(example.image.to(thing), thing, valid),
        fit_other=None if other is None else outline_fit(example.image.to(thing), other, valid),
        agreement=None if second is None else soft_iou(thing, second),
        doubt=find_doubt(area, parts, frame, bool(binary.any()), example.drawn),
        context=_context(whole.features[number], whole.small[number], thing, valid),
    )


def _lift(map_: Tensor, thing: Tensor, valid: Tensor) -> float | None:
    share, area = inside_share(map_, thing), float(thing.sum() / valid.sum())
    return None if share is None or area == 0 else share / area


def _context(features: Tensor, map_: Tensor, thing: Tensor, valid: Tensor) -> tuple[float, ...]:
    """The mean of the features ``(C, h, w)`` under the attention outside the object, of length 1, projected."""
    outside = F.adaptive_avg_pool2d(((1 - thing) * valid)[None], (map_.shape[0], map_.shape[1]))[0]
    weights = map_ * outside
    if weights.sum() <= 0:
        return ()
    mean = F.normalize((features * weights).sum((1, 2)), dim=0).double().cpu().numpy()
    if len(mean) > CONTEXT:
        mean = mean @ np.random.default_rng(0).standard_normal((len(mean), CONTEXT)) / CONTEXT**0.5
    return tuple(round(float(each), 5) for each in mean)


def _with_edits(
    model: Classifier,
    rows: Sequence[ImageRow],
    classes: Sequence[int],
    images: Tensor,
    objects: Tensor,
    inside: Tensor,
    batch: int,
) -> list[ImageRow]:
    """Rows with what the network says of the edited images."""
    things = objects >= OBJECT
    holes = with_margin(things) & inside
    usable = [i for i, row in enumerate(rows) if row.doubt in (None, Doubt.FRAME, Doubt.SEVERAL)]
    placed = {i: place_control(holes[i], things[i], inside[i]) for i in usable}
    controls = torch.stack([placed[i][0] if i in placed else holes[i] for i in range(len(rows))])
    filled = surroundings(images, ~holes & inside)
    removed, backgrounds = (torch.where(gone[:, None], filled, images) for gone in (holes, holes | ~inside))
    cut = torch.where(controls[:, None], surroundings(images, ~(holes | controls) & inside), images)
    donors = find_donors(usable, classes)
    takers = list(donors)
    swapped = on_background(images[takers], things[takers] | ~inside[takers], backgrounds[list(donors.values())])
    fair = [i for i in usable if placed[i][1] <= MOST_OVERLAP]
    edits = {"removed": (usable, removed[usable]), "control": (fair, cut[fair]), "swapped": (takers, swapped)}
    found: list[dict[str, Any]] = [{} for _ in rows]
    for name, (which, edited) in edits.items():
        labels = torch.tensor([classes[i] for i in which], dtype=torch.long, device=images.device)
        for i, score, says in zip(which, *_ask(model, edited, labels, batch), strict=True):
            found[i] |= {name: score, f"says_{name}": says}
    for i in usable:
        found[i]["overlap"] = placed[i][1]
    for i, donor in donors.items():
        found[i] |= {"background": rows[donor].id, "foreign": classes[i] != classes[donor]}
    return [replace(row, **more) for row, more in zip(rows, found, strict=True)]


def _ask(model: Classifier, images: Tensor, labels: Tensor, batch: int) -> tuple[list[float], list[bool]]:
    """Probability of a class of each image, and whether the network says it."""
    scores: list[float] = []
    says: list[bool] = []
    for start in range(0, len(images), batch):
        chunk, wanted = images[start : start + batch], labels[start : start + batch]
        found = model.scores(observe(model.network, model.normalise(chunk), [], grad=False).logits)
        check_finite(found, f"the scores of {model.name}")
        scores += found.gather(1, wanted[:, None])[:, 0].tolist()
        says += says_class(model, found, wanted).tolist()
    return scores, says


def find_donors(usable: Sequence[int], classes: Sequence[int]) -> dict[int, int]:
    """Whose background each image gets: the next image of another class, in a circle, else the next one.

    >>> find_donors([0, 1, 3], [5, 5, 7, 7])
    {0: 3, 1: 3, 3: 0}
    """
    donors = {}
    for place, taker in enumerate(usable):
        others = [*usable[place + 1 :], *usable[:place]]
        foreign = [other for other in others if classes[other] != classes[taker]]
        if others:
            donors[taker] = (foreign or others)[0]
    return donors
