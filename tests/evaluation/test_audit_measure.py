"""What an audit measures of an image, beside loops and networks of which the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from attnbridge import explain
from attnbridge.attention.finder import find_layer
from attnbridge.evaluation.audit.edits import place_control, surroundings, with_margin
from attnbridge.evaluation.audit.measure import Example, find_donors, measure
from attnbridge.evaluation.audit.objects import outline_fit
from attnbridge.evaluation.audit.tables import Doubt
from attnbridge.models.classifiers import Classifier, class_names
from tests.evaluation.audit_scenes import CLASSES, SIDE, classifier, example

PLACES = [(2, 3), (15, 4), (9, 18), (20, 20)]


def examples() -> list[Example]:
    """Two boats and two trains, in turns."""
    return [example(str(i), ("boat", "train")[i % 2], place) for i, place in enumerate(PLACES)]


def test_a_network_that_reads_the_object_alone() -> None:
    for row in measure(classifier(40, 0), "act", examples()):
        assert row.says
        assert (row.inside, row.area) == (1, 100 / SIDE**2)
        assert row.lift == pytest.approx(SIDE**2 / 100)
        assert (row.says_removed, row.says_control, row.says_swapped) == (False, True, True)
        assert row.control == pytest.approx(row.score)  # nothing of the object was touched
        assert row.swapped == pytest.approx(row.score)
        assert row.removed == pytest.approx(1 / (2 + np.exp(0.5)))
        assert row.beyond_control == pytest.approx(row.score - row.removed)


def test_a_network_that_reads_the_background_alone() -> None:
    for row in measure(classifier(0, 8), "act", examples()):
        assert row.says
        assert (row.inside, row.lift) == (0, 0)
        assert (row.says_removed, row.says_control, row.says_swapped) == (True, True, False)
        assert row.beyond_control is not None
        assert row.beyond_control <= 0  # without the object there is more background
        assert row.swapped is not None
        assert row.swapped < 0.1


def test_a_network_that_reads_both() -> None:
    for row in measure(classifier(40, 4), "act", examples()):
        assert row.inside == pytest.approx(4000 / (4000 + 4 * (SIDE**2 - 100)), rel=1e-5)
        assert row.beyond_control is not None
        assert row.beyond_control > 0
        assert row.swapped is not None
        assert 0 < row.score - row.swapped < row.score


def test_the_map_is_that_of_explain() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    model = Classifier("small", network.eval(), ("a", "b", "c"), SIDE, (0.4,) * 3, (0.2,) * 3)
    some = [replace(each, image=torch.rand(3, SIDE, SIDE)) for each in examples()]
    for row, each in zip(measure(model, "1", some, batch=3), some, strict=True):
        image = model.normalise(each.image[None])
        map_ = explain(network, image, each.truth[0], "1", size=SIDE)[0, 0].detach().double()
        mask = each.find_object(0)
        assert mask is not None
        expected = sum(float(map_[y, x]) for y in range(SIDE) for x in range(SIDE) if mask[y, x]) / float(map_.sum())
        assert row.inside == pytest.approx(expected, rel=1e-5)
        assert row.score == pytest.approx(network(image).softmax(1)[0, each.truth[0]].item(), rel=1e-5)


def test_without_a_label_the_prediction_is_looked_at() -> None:
    rows = measure(classifier(0, 8), "act", [replace(each, truth=()) for each in examples()])
    assert [row.name for row in rows] == ["boat", "train", "boat", "train"]
    assert all(row.truth == () and row.says for row in rows)


def test_of_several_labels_the_most_probable_is_looked_at() -> None:
    rows = measure(classifier(40, 0), "act", [replace(each, truth=(0, 1)) for each in examples()])
    assert [row.name for row in rows] == ["boat", "train", "boat", "train"]


def test_a_network_of_several_labels_says_what_is_above_a_half() -> None:
    model = replace(classifier(40, 0), activation="sigmoid")
    for row in measure(model, "act", examples()):
        assert row.score == pytest.approx(1 / (1 + np.exp(-40 * 100 / SIDE**2)))
        assert row.removed == pytest.approx(0.5)
        assert (row.says, row.says_removed) == (True, False)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_networks_of_every_kind(name: str) -> None:
    """The attention is that of `explain`, and no edit fails."""
    network = timm.create_model(name, num_classes=3, img_size=64) if "_" in name else timm.create_model(name)
    model = Classifier(name, network.eval(), CLASSES if "_" in name else class_names(1000), 64, (0.5,) * 3, (0.5,) * 3)
    layer = find_layer(network, 64)
    mask = torch.zeros(64, 64)
    mask[10:30, 12:40] = 1
    inside = torch.ones(64, 64, dtype=torch.bool)
    some = [Example(str(i), torch.rand(3, 64, 64), inside, (i,), lambda _: mask, True) for i in range(2)]
    for number, row in enumerate(measure(model, layer, some)):
        map_ = explain(network, model.normalise(some[number].image[None]), number, size=64).detach()[0, 0]
        assert row.inside == pytest.approx(float((map_ * mask).sum() / map_.sum()), rel=1e-4)
        assert row.context
        assert row.swapped is not None
        assert row.control is not None


class _Counting(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_four_passes_an_image_whatever_the_batch(batch: int) -> None:
    model = classifier(40, 4)
    counting = _Counting(model.network)
    rows = measure(replace(model, network=counting), "network.act", examples(), batch)
    assert counting.images == 4 * len(rows)
    for row, other in zip(rows, measure(model, "act", examples()), strict=True):
        assert row.swapped == pytest.approx(other.swapped, rel=1e-5)
        assert row.background == other.background


def test_backgrounds_are_of_other_classes_where_there_are_any() -> None:
    rows = measure(classifier(40, 0), "act", examples())
    assert all(row.foreign and row.background != row.id for row in rows)
    alone = measure(classifier(40, 0), "act", examples()[::2])
    assert [(row.background, row.foreign) for row in alone] == [("2", False), ("0", False)]
    (one,) = measure(classifier(40, 0), "act", examples()[:1])
    assert (one.swapped, one.says_swapped, one.background) == (None, None, None)


def test_donors_in_a_circle() -> None:
    assert find_donors([0, 1, 2, 4], [0, 0, 1, 9, 2]) == {0: 2, 1: 2, 2: 4, 4: 0}
    assert find_donors([2], [0, 0, 1]) == {}


def test_an_object_without_room_for_its_control() -> None:
    (row, _) = measure(classifier(40, 0), "act", [example("0", "boat", (1, 1), 24), example("1", "train", (2, 2))])
    assert (row.control, row.says_control, row.beyond_control) == (None, None, None)
    assert row.overlap is not None
    assert row.overlap > 0.1
    assert row.removed is not None


@pytest.mark.parametrize(
    ("mask", "doubt"),
    [
        (torch.zeros(SIDE, SIDE), Doubt.NOTHING),
        (torch.full((SIDE, SIDE), 0.4), Doubt.NOTHING),
        (torch.ones(SIDE, SIDE), Doubt.ALL),
        (None, Doubt.MISSING),
    ],
)
def test_no_object_to_speak_of(mask: Tensor | None, doubt: Doubt) -> None:
    some = [replace(example("0", "boat", (2, 2)), find_object=lambda _: mask), example("1", "train", (2, 2))]
    row, other = measure(classifier(40, 0), "act", some)
    assert row.doubt is doubt
    assert (row.removed, row.control, row.swapped) == (None, None, None)
    assert row.says
    assert other.background is None  # there is no background of another image


def test_doubts_of_saliency_are_none_of_drawn_masks() -> None:
    frame = torch.zeros(SIDE, SIDE)
    frame[:20] = 1
    two = torch.zeros(SIDE, SIDE)
    two[3:9, 3:9] = two[20:26, 20:26] = 1
    for mask, doubt in ((frame, Doubt.FRAME), (two, Doubt.SEVERAL)):
        for drawn in (True, False):
            one = replace(example("0", "boat", (2, 2)), find_object=lambda _, mask=mask: mask, drawn=drawn)
            assert measure(classifier(40, 0), "act", [one])[0].doubt is (None if drawn else doubt)


def test_surroundings_know_nothing_of_what_is_unknown() -> None:
    images, known = torch.rand(2, 3, 13, 21), torch.rand(2, 13, 21) > 0.4
    filled = surroundings(images, known)
    assert torch.equal(filled[known[:, None].expand_as(filled)], images[known[:, None].expand_as(images)])
    other = torch.where(known[:, None], images, torch.rand_like(images))
    assert torch.equal(filled, surroundings(other, known))
    assert images.amin() <= filled.amin()
    assert filled.amax() <= images.amax()
    plain = torch.full((1, 3, 13, 21), 0.3)
    assert torch.allclose(surroundings(plain, known[:1]), plain)
    assert torch.allclose(surroundings(images, torch.zeros_like(known)), torch.full_like(images, 0.5))


def naive_control(hole: Tensor, thing: Tensor, inside: Tensor) -> tuple[int, int]:
    """Least overlap and then length of all moves that keep the hole inside."""
    pixels, best = hole.nonzero().tolist(), (10**9, 10**9)
    height, width = hole.shape
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    for dy in range(-height, height):
        for dx in range(-width, width):
            moved = [(y + dy, x + dx) for y, x in pixels]
            if all(rows[0] <= y <= rows[-1] and columns[0] <= x <= columns[-1] for y, x in moved):
                best = min(best, (sum(bool(thing[y, x]) for y, x in moved), dy**2 + dx**2))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_control_overlaps_least(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    thing = torch.zeros(9, 12, dtype=torch.bool)
    top, left = (int(torch.randint(1, 5, (), generator=rng)) for _ in range(2))
    thing[top : top + 3, left : left + 4] = torch.rand(3, 4, generator=rng) > 0.3
    inside = torch.zeros_like(thing)
    inside[: 9 - seed % 2, seed % 2 :] = True
    hole = with_margin(thing[None])[0] & inside
    moved, share = place_control(hole, thing, inside)
    least, length = naive_control(hole, thing, inside)
    assert int(moved.sum()) == int(hole.sum())
    assert (int((moved & thing).sum()), share) == (least, pytest.approx(least / int(hole.sum())))
    shift = [int(moved.any(axis).nonzero()[0]) - int(hole.any(axis).nonzero()[0]) for axis in (1, 0)]
    assert shift[0] ** 2 + shift[1] ** 2 == length
    assert torch.equal(moved, hole.roll(shift, (0, 1)))


def test_the_outline_of_the_object_lies_on_edges() -> None:
    first, second = example("0", "boat", (3, 3)), example("1", "boat", (18, 17))
    masks = [each.find_object(0) for each in (first, second)]
    assert masks[0] is not None
    assert masks[1] is not None
    own = outline_fit(first.image, masks[0], first.inside)
    other = outline_fit(first.image, masks[1], first.inside)
    assert own is not None
    assert other == 0
    assert own > 5
    noise = torch.rand(3, 200, 200)
    mask = torch.zeros(200, 200)
    mask[50:150, 50:150] = 1
    assert outline_fit(noise, mask, torch.ones(200, 200, dtype=torch.bool)) == pytest.approx(1, abs=0.05)
    assert outline_fit(noise, torch.zeros_like(mask), mask > 0) is None
