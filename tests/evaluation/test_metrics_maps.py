"""Scores of maps against naive loops and numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.metrics.maps import (
    BestThresholdIoU,
    EnergyInside,
    MaxBoxAccuracy,
    PointingGame,
    box_masks,
)

LEVELS = (0.0, 0.25, 0.5, 0.75)


def point(y: int, x: int, size: tuple[int, int] = (5, 7)) -> Tensor:
    one = torch.zeros(1, *size)
    one[0, y, x] = 1
    return one


# --- the pointing game


@pytest.mark.parametrize(
    ("tolerance", "target", "hit"),
    [
        (0, (1, 5), True),
        (0, (1, 4), False),
        (2, (1, 2), False),  # three columns off
        (3, (1, 2), True),
        (2, (4, 5), False),  # three rows off
        (3, (4, 5), True),
        (2, (3, 3), False),  # two rows and two columns off: the root of 8, not 2, not 4
        (2.9, (3, 3), True),
        (3, (0, 5), True),
    ],
)
def test_pointing_game_measures_euclidean_pixels(tolerance: float, target: tuple[int, int], hit: bool) -> None:
    metric = PointingGame(tolerance)
    metric.update(point(1, 5) - 3, point(*target).bool())  # all values negative: the maximum is still one
    assert float(metric.compute()) == hit


def test_pointing_game_takes_the_nearest_pixel_of_the_mask() -> None:
    metric = PointingGame(1)
    metric.update(point(1, 5), point(4, 0).bool() | point(2, 5).bool())
    assert float(metric.compute()) == 1


def test_pointing_game_of_ties_and_constant_maps() -> None:
    metric = PointingGame()
    first, later = point(1, 5), point(3, 0)
    metric.update(first + later, later.bool())  # of equal maxima, the first by rows
    assert float(metric.compute()) == 0
    metric.update(first + later, first.bool())
    assert float(metric.compute()) == 0.5
    metric.update(torch.full((2, 5, 7), 0.3), torch.ones(2, 5, 7))  # constant: misses, though all is object
    assert float(metric.compute()) == 0.25


# --- energy


def test_energy_inside_by_hand() -> None:
    maps = torch.tensor([[[1.0, -5.0], [3.0, 0.0]], [[-1.0, -2.0], [0.0, -3.0]], [[2.0, 2.0], [2.0, 2.0]]])
    masks = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 1], [1, 1]]])
    metric = EnergyInside()
    for i, expected in enumerate((0.25, 0.0, 0.75)):
        single = EnergyInside()
        single.update(maps[i : i + 1], masks[i : i + 1])
        assert float(single.compute()) == pytest.approx(expected)
    metric.update(maps, masks)
    assert float(metric.compute()) == pytest.approx(1 / 3)  # the mean over images, not the share of the sum: 7 / 12


# --- thresholded maps


def naive_iou(scores: Tensor, mask: Tensor, threshold: float) -> float:
    both = either = 0
    top = float(scores.max())
    for y in range(scores.shape[0]):
        for x in range(scores.shape[1]):
            covered = top > 0 and float(scores[y, x]) > threshold * top
            both += covered and bool(mask[y, x])
            either += covered or bool(mask[y, x])
    return both / either


def test_threshold_iou_equals_the_naive_loop() -> None:
    # eighths of 8: values that lie exactly on the thresholds, which they must exceed
    maps = torch.randint(-3, 9, (6, 5, 7)).float()
    maps[0], maps[1] = -maps[0].abs() - 1, 0
    masks = torch.rand(6, 5, 7) > 0.6
    masks[:, 2, 3] = True
    metric = BestThresholdIoU(LEVELS)
    metric.update(maps, masks)
    score = metric.compute()
    curve = [sum(naive_iou(maps[i], masks[i], t) for i in range(6)) / 6 for t in LEVELS]
    assert score.curve.tolist() == pytest.approx(curve)
    assert float(score.best) == pytest.approx(max(curve))
    assert float(score.threshold) == LEVELS[curve.index(max(curve))]


def test_threshold_must_be_exceeded_and_is_one_for_the_whole_set() -> None:
    maps = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[4.0, 3.0, 2.0, 1.0]]])
    masks = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 1, 1]]]).bool()
    metric = BestThresholdIoU(LEVELS)
    metric.update(maps, masks)
    score = metric.compute()  # at 0: 1/4 and 1; 0.25: 1/3, 3/4; 0.5: 1/2, 1/2; 0.75: 1, 1/4
    assert score.curve.tolist() == pytest.approx([5 / 8, 13 / 24, 1 / 2, 5 / 8])
    assert (float(score.best), float(score.threshold)) == (0.625, 0.0)  # each image at its own best would give 1


def test_threshold_iou_does_not_depend_on_the_scale() -> None:
    maps, masks = torch.rand(3, 6, 6), torch.rand(3, 6, 6) > 0.5
    large, small = BestThresholdIoU(), BestThresholdIoU()
    large.update(maps * 2.0**20, masks)
    small.update(maps * 2.0**-60, masks)
    assert large.compute().curve.tolist() == small.compute().curve.tolist()


# --- boxes


def naive_boxes(covered: Tensor) -> list[tuple[int, int, int, int]]:
    """Flood fill over the eight neighbours."""
    left = {(int(y), int(x)) for y, x in covered.nonzero()}
    boxes = []
    while left:
        stack, part = [left.pop()], set()
        while stack:
            y, x = stack.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
        ys, xs = [y for y, _ in part], [x for _, x in part]
        boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return boxes


def naive_box_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_box_accuracy_equals_the_naive_loop() -> None:
    maps = torch.randint(0, 9, (8, 6, 9)).float()
    maps[:, 0, 0], maps[:, 5, 8] = 0, 8  # so that eighths of the range lie exactly on the thresholds
    starts = torch.stack([torch.randint(0, 5, (8, 2)), torch.randint(0, 3, (8, 2))], dim=2)
    boxes = [torch.cat([s, s + torch.randint(1, 4, s.shape)], dim=1) for s in starts]
    ious, levels = (0.2, 0.3, 0.5), (0.0, 0.25, 0.5, 0.625, 0.75, 0.875)
    metric = MaxBoxAccuracy(ious, levels)
    metric.update(maps, boxes)
    score = metric.compute()
    right = torch.zeros(len(ious), len(levels))
    for i in range(8):
        for k, level in enumerate(levels):
            found = naive_boxes(maps[i] / 8 >= level)
            best = max(naive_box_iou(a, tuple(g.tolist())) for a in found for g in boxes[i])
            for d, iou in enumerate(ious):
                right[d, k] += best >= iou
    expected = (right / 8).max(1)
    assert 0 < float(expected.values.min()) < float(expected.values.max())
    assert score.each.tolist() == pytest.approx(expected.values.tolist())
    assert score.thresholds.tolist() == [levels[k] for k in expected.indices]
    assert float(score.mean) == pytest.approx(float(expected.values.mean()))


def test_parts_touch_at_corners_and_every_part_counts() -> None:
    diagonal = torch.zeros(1, 6, 9)
    diagonal[0, [0, 1, 2], [0, 1, 2]] = 1  # one part of 3 x 3
    diagonal[0, 4:6, 5:9] = 1  # the larger part
    for box in ([0, 0, 3, 3], [5, 4, 9, 6]):
        metric = MaxBoxAccuracy((1.0,), (0.5,))
        metric.update(diagonal, [torch.tensor([[8, 0, 9, 1], box])])  # the first object is missed, the second boxed
        assert float(metric.compute().mean) == 1


def test_box_threshold_is_the_best_of_the_set_for_each_iou() -> None:
    # image 1 is boxed rightly at 0.5 alone, images 2 and 3 at 0.9 alone
    wide = torch.tensor([[[1.0, 0.6, 0.6, 0.6, 0.0, 0.0, 0.0, 0.0]]])
    narrow = wide.flip(2)
    metric = MaxBoxAccuracy((0.2, 0.9), (0.5, 0.9))
    metric.update(wide, [torch.tensor([[0, 0, 4, 1]])])
    metric.update(torch.cat([wide, narrow]), [torch.tensor([[0, 0, 1, 1]]), torch.tensor([[7.0, 0.0, 8.0, 1.0]])])
    score = metric.compute()
    assert score.each.tolist() == pytest.approx([1, 2 / 3])  # 1/4 of the area is an IoU of 0.25
    assert score.thresholds.tolist() == pytest.approx([0.5, 0.9])
    assert float(score.mean) == pytest.approx(5 / 6)


def test_a_box_that_just_reaches_the_iou_is_right() -> None:
    metric = MaxBoxAccuracy((0.3,), (0.5,))
    metric.update(torch.cat([torch.ones(1, 1, 3), torch.zeros(1, 1, 8)], dim=2), [torch.tensor([[0, 0, 10, 1]])])
    assert float(metric.compute().mean) == 1


def test_a_constant_map_boxes_the_whole_image_at_zero_only() -> None:
    for levels, right in (((0.0, 0.5), 1), ((0.1, 0.5), 0)):
        metric = MaxBoxAccuracy((0.5,), levels)
        metric.update(torch.full((1, 4, 6), 7.0), [torch.tensor([[0, 0, 6, 4]])])
        assert float(metric.compute().mean) == right


def test_filled_boxes() -> None:
    masks = box_masks(torch.tensor([[2, 1, 5, 3], [0, 0, 1, 4]]), (4, 6))
    assert masks.shape == (2, 4, 6)
    assert masks.dtype == torch.bool
    assert masks.sum((1, 2)).tolist() == [6, 4]
    assert masks[0, 1:3, 2:5].all()
    assert masks[1, :, 0].all()


# --- what all share


METRICS: list[Callable[[], Metric]] = [
    lambda: PointingGame(1),
    EnergyInside,
    lambda: BestThresholdIoU(LEVELS),
    lambda: MaxBoxAccuracy((0.3, 0.5), LEVELS),
]
NAMES = ["pointing", "energy", "iou", "boxes"]


def boxes_of(count: int) -> Tensor:
    starts = torch.randint(0, 4, (count, 2))
    return torch.cat([starts, starts + torch.randint(2, 5, (count, 2))], dim=1)


def truth_of(metric: Metric, boxes: Tensor) -> Tensor | list[Tensor]:
    return [box[None] for box in boxes] if isinstance(metric, MaxBoxAccuracy) else box_masks(boxes, (8, 10))


def numbers(score: Tensor | tuple[Tensor, ...]) -> list[float]:
    parts = score if isinstance(score, tuple) else (score,)
    return torch.cat([part.flatten().double() for part in parts]).tolist()


@pytest.mark.parametrize("make", METRICS, ids=NAMES)
def test_the_map_that_is_the_mask_scores_one(make: Callable[[], Metric]) -> None:
    metric, boxes = make(), boxes_of(5)
    metric.update(box_masks(boxes, (8, 10)).float(), truth_of(metric, boxes))
    assert numbers(metric.compute())[0] == 1


@pytest.mark.parametrize("make", METRICS, ids=NAMES)
def test_batches_and_merged_states_change_nothing(make: Callable[[], Metric]) -> None:
    boxes = boxes_of(7)
    maps = torch.randn(7, 8, 10) + 2 * box_masks(boxes, (8, 10))
    whole, single, left, right = make(), make(), make(), make()
    whole.update(maps, truth_of(whole, boxes))
    for i in range(7):
        single.update(maps[i : i + 1], truth_of(single, boxes[i : i + 1]))
    left.update(maps[:2], truth_of(left, boxes[:2]))
    right.update(maps[2:], truth_of(right, boxes[2:]))
    assert sum(v.numel() for v in whole.metric_state.values()) == sum(v.numel() for v in single.metric_state.values())
    left.merge_state(right)
    expected = numbers(whole.compute())
    assert 0 < expected[0] < 1
    assert numbers(single.compute()) == pytest.approx(expected)
    assert numbers(left.compute()) == pytest.approx(expected)
    whole.reset()
    assert not any(v.any() for v in whole.metric_state.values())


@pytest.mark.parametrize("make", METRICS, ids=NAMES)
def test_half_precision_and_maps_with_gradient(make: Callable[[], Metric]) -> None:
    maps, boxes = torch.randint(-4, 5, (3, 8, 10)).float(), boxes_of(3)
    metric, other = make(), make()
    metric.update(maps, truth_of(metric, boxes))
    value = other(maps.bfloat16().requires_grad_(), truth_of(other, boxes))
    assert numbers(other.compute()) == numbers(value) == numbers(metric.compute())
    assert not any(v.requires_grad for v in (value if isinstance(value, tuple) else (value,)))


def test_scores_of_different_kinds_stay_apart_in_a_collection() -> None:
    scores = MetricCollection([PointingGame(), EnergyInside(), BestThresholdIoU((0.5,))])
    scores.update(point(1, 5), point(1, 5))  # all count one of one
    scores.update(point(1, 5) + 0.3 * point(0, 0), point(0, 0))
    result = scores.compute()
    assert float(result["PointingGame"]) == 0.5
    assert float(result["EnergyInside"]) == pytest.approx((1 + 0.3 / 1.3) / 2)
    assert float(result["BestThresholdIoU"].best) == 0.5


def test_integer_masks_equal_bool_masks() -> None:
    maps, masks = torch.rand(2, 4, 5), torch.rand(2, 4, 5) > 0.4
    for dtype in (torch.uint8, torch.long, torch.float32):
        ours, theirs = BestThresholdIoU(), BestThresholdIoU()
        ours.update(maps, masks.to(dtype))
        theirs.update(maps, masks)
        assert ours.compute().curve.tolist() == theirs.compute().curve.tolist()


@pytest.mark.parametrize("make", METRICS[:3], ids=NAMES[:3])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.rand(2, 4, 4), torch.ones(2, 4, 5), r"\(2, 4, 4\) and \(2, 4, 5\).*enlarge"),
        (torch.rand(4, 4), torch.ones(4, 4), r"\(B, H, W\).*have \(4, 4\)"),
        (torch.full((1, 4, 4), torch.nan), torch.ones(1, 4, 4), "finite"),
        (torch.rand(1, 4, 4), torch.full((1, 4, 4), 255), "mask == index"),
        (torch.rand(3, 4, 4), torch.tensor([1, 0, 1])[:, None, None].expand(3, 4, 4), r"images \[1\].*empty"),
        (torch.rand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8), r"images \[0, 1\].*empty"),
    ],
)
def test_wrong_maps_and_masks(make: Callable[[], Metric], maps: Tensor, masks: Tensor, message: str) -> None:
    with pytest.raises(AttnBridgeError, match=message):
        make().update(maps, masks)


@pytest.mark.parametrize(
    ("maps", "boxes", "message"),
    [
        (torch.rand(2, 4, 4), [torch.tensor([[0, 0, 1, 1]])], "each of the 2 maps, but got 1"),
        (torch.rand(1, 4, 4), [torch.empty(0, 4)], r"n > 0.*\(0, 4\)"),
        (torch.rand(1, 4, 4), [torch.tensor([0, 0, 1, 1])], r"\(n, 4\).*\(4,\)"),
        (torch.rand(1, 4, 4), [torch.tensor([[0, 0, 1, 1], [2, 3, 4, 3]])], r"exclusive.*\[2, 3, 4, 3\]"),
        (torch.full((1, 4, 4), torch.inf), [torch.tensor([[0, 0, 1, 1]])], "finite"),
    ],
)
def test_wrong_boxes(maps: Tensor, boxes: list[Tensor], message: str) -> None:
    with pytest.raises(AttnBridgeError, match=message):
        MaxBoxAccuracy().update(maps, boxes)


def test_wrong_settings() -> None:
    with pytest.raises(AttnBridgeError, match="tolerance"):
        PointingGame(-1)
    with pytest.raises(AttnBridgeError, match=r"above 0 and at most 1, not \(0.5, 1.5\)"):
        MaxBoxAccuracy(iou=(0.5, 1.5))
    for wrong in ((), (0.5, 0.2), (0.2, 0.2), (-0.1, 0.5), (0.5, 1.0)):
        with pytest.raises(AttnBridgeError, match="rise within"):
            BestThresholdIoU(wrong)
        with pytest.raises(AttnBridgeError, match="rise within"):
            MaxBoxAccuracy(thresholds=wrong)
