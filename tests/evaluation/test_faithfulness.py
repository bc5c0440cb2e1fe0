"""Insertion and deletion on networks whose answer is known in closed form; the sanity check's bookkeeping."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchvision.transforms.v2.functional import gaussian_blur

from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.metrics.faithfulness import (
    Deletion,
    Insertion,
    area_under,
    deletion_curve,
    insertion_curve,
    sanity_check,
)


class RegionSum(nn.Module):
    """Two logits: 0, and the sum of the first channel over a region, so p(1) is the sigmoid of that sum."""

    def __init__(self, region: Tensor) -> None:
        super().__init__()
        self.region = nn.Parameter(region.float())
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        score = (images[:, 0] * self.region).sum((1, 2))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def sigmoid(values: list[float]) -> list[float]:
    return [1 / (1 + math.exp(-v)) for v in values]


@pytest.fixture
def region() -> Tensor:
    """Four of 4 x 6 pixels: rows 1 and 2, columns 3 and 4."""
    inside = torch.zeros(4, 6)
    inside[1:3, 3:5] = 1
    return inside


ONES = torch.ones(1, 3, 4, 6)
CLASS = torch.tensor([1])


# --- insertion and deletion


def test_curves_of_the_right_map_in_closed_form(region: Tensor) -> None:
    network, zero = RegionSum(region), torch.zeros(3, 1, 1)
    inserted = insertion_curve(network, ONES, region[None], CLASS, baseline="zero", steps=12)  # 2 pixels a step
    deleted = deletion_curve(network, ONES, region[None], CLASS, baseline=zero, steps=12)
    assert inserted[0].tolist() == pytest.approx(sigmoid([0, 2, 4] + [4] * 10))
    assert deleted[0].tolist() == pytest.approx(sigmoid([4, 2, 0] + [0] * 10))
    other = insertion_curve(network, ONES, region[None], CLASS - 1, baseline="zero", steps=12)
    assert other[0].tolist() == pytest.approx(sigmoid([0, -2, -4] + [-4] * 10))


def test_curves_of_the_opposite_map(region: Tensor) -> None:
    network = RegionSum(region)
    inserted = insertion_curve(network, ONES, -region[None], CLASS, baseline="zero", steps=12)
    deleted = deletion_curve(network, ONES, -region[None], CLASS, steps=12)
    assert inserted[0].tolist() == pytest.approx(sigmoid([0] * 11 + [2, 4]))
    assert deleted[0].tolist() == pytest.approx(sigmoid([4] * 11 + [2, 0]))


def test_equal_values_go_by_rows_and_steps_round_down(region: Tensor) -> None:
    network = RegionSum(region)  # in the order of rows, the region's pixels are the numbers 9, 10, 15 and 16
    curve = insertion_curve(network, ONES, torch.full((1, 4, 6), 0.5), CLASS, baseline="zero", steps=24)
    assert curve[0].tolist() == pytest.approx(sigmoid([0] * 10 + [1] + [2] * 5 + [3] + [4] * 8))
    coarse = insertion_curve(network, ONES, torch.zeros(1, 4, 6), CLASS, baseline="zero", steps=7)
    assert coarse[0].tolist() == pytest.approx([curve[0, k * 24 // 7].item() for k in range(8)])


def test_curves_equal_the_naive_loop() -> None:
    images, maps = torch.randn(3, 3, 6, 7), torch.randint(0, 5, (3, 6, 7)).float()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)).eval()
    classes, baseline = torch.tensor([2, 0, 1]), torch.randn(3, 6, 7)
    for curve, start, end in ((insertion_curve, baseline, None), (deletion_curve, None, baseline)):
        ours = curve(network, images, maps, classes, baseline=baseline, steps=5)
        for i in range(3):
            pixels = sorted(((y, x) for y in range(6) for x in range(7)), key=lambda p: -float(maps[i][p]))
            for k in range(6):
                mixed = (images[i] if start is None else start).clone()
                for y, x in pixels[: k * 42 // 5]:
                    mixed[:, y, x] = (images[i] if end is None else end)[:, y, x]
                expected = network(mixed[None]).softmax(1)[0, classes[i]].item()
                assert float(ours[i, k]) == pytest.approx(expected, abs=1e-6)


def test_the_ends_are_the_baseline_and_the_image() -> None:
    images, network = torch.randn(2, 3, 8, 9), RegionSum(torch.rand(8, 9))
    classes, maps = torch.tensor([1, 1]), torch.rand(2, 8, 9)
    blurred = gaussian_blur(images, [11, 11], [5.0, 5.0])
    whole, none = network(images).softmax(1)[:, 1], network(blurred).softmax(1)[:, 1]
    for options in ({}, {"baseline": "blur"}, {"baseline": blurred}):
        inserted = insertion_curve(network, images, maps, classes, steps=4, **options)
        torch.testing.assert_close(inserted[:, 0], none)
        torch.testing.assert_close(inserted[:, -1], whole)
    deleted = deletion_curve(network, images, maps, classes, steps=4)
    torch.testing.assert_close(deleted[:, 0], whole)
    assert deleted[:, -1].tolist() == [0.5, 0.5]  # of the zero image
    tiny = insertion_curve(RegionSum(torch.ones(2, 2)), images[..., :2, :2], maps[:, :2, :2], classes)
    assert tiny.shape == (2, 21)  # the blur shrinks with the image


def test_sigmoid_and_a_single_logit(region: Tensor) -> None:
    class Single(RegionSum):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, 1:]

    curve = insertion_curve(
        Single(region), ONES, region[None], CLASS * 0, baseline="zero", steps=12, activation="sigmoid"
    )
    assert curve[0].tolist() == pytest.approx(sigmoid([0, 2, 4] + [4] * 10))


def test_batches_change_nothing_and_bound_the_forward_pass() -> None:
    images, maps, classes = torch.randn(3, 3, 4, 6), torch.rand(3, 4, 6), torch.tensor([0, 1, 1])
    network = RegionSum(torch.randn(4, 6))
    whole = insertion_curve(network, images, maps, classes, baseline="zero", steps=6, batch=1000)
    assert network.seen == [21]
    for batch in (1, 4, 20):
        network.seen.clear()
        part = insertion_curve(network, images, maps, classes, baseline="zero", steps=6, batch=batch)
        assert max(network.seen) == batch
        assert sum(network.seen) == 21
        torch.testing.assert_close(part, whole)
    one = [
        insertion_curve(network, images[i : i + 1], maps[i : i + 1], classes[i : i + 1], baseline="zero", steps=6)
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(one), whole)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train(training)
    images = torch.rand(2, 3, 4, 6, requires_grad=True)
    curve = deletion_curve(network, images, images.mean(1), torch.tensor([0, 1]))
    assert all(module.training == training for module in network.modules())
    assert not curve.requires_grad
    assert images.grad is None
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.is_grad_enabled()


def test_area_is_the_trapezoid_over_the_unit_interval() -> None:
    curves = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 0.75, 0.5, 0.25, 0.0]])
    assert area_under(curves).tolist() == pytest.approx([(0 + 1) / 8 + 2 / 8 + 1 / 8 + 0.5 / 8, 1, 0.5])
    assert area_under(torch.tensor([[0.2, 0.4]])).tolist() == pytest.approx([0.3])
    with pytest.raises(AttnBridgeError, match=r"\(B, steps \+ 1\)"):
        area_under(torch.zeros(3, 1))


# --- as metrics


def test_metrics_are_the_mean_area_however_they_are_batched(region: Tensor) -> None:
    images, maps, classes = torch.randn(5, 3, 4, 6), torch.rand(5, 4, 6), torch.tensor([0, 1, 1, 0, 1])
    network = RegionSum(region)
    for kind, curve in ((Insertion, insertion_curve), (Deletion, deletion_curve)):
        whole, left, right = (kind(network, baseline="zero", steps=6) for _ in range(3))
        whole.update(images, maps, classes)
        left.update(images[:1], maps[:1], classes[:1])
        right.update(images[1:3], maps[1:3], classes[1:3])
        right.update(images[3:], maps[3:], classes[3:])
        expected = float(area_under(curve(network, images, maps, classes, baseline="zero", steps=6)).mean())
        assert float(whole.compute()) == pytest.approx(expected)
        left.merge_state(right)
        assert float(left.compute()) == pytest.approx(expected)
        whole.reset()
        whole.update(images[:1], maps[:1], classes[:1])
        assert float(whole.compute()) != pytest.approx(expected)


def test_a_true_map_inserts_high_and_deletes_low(region: Tensor) -> None:
    network = RegionSum(region)
    scores = MetricCollection([Insertion(network, baseline="zero", steps=12), Deletion(network, steps=12)])
    scores.update(ONES * 0, region[None], CLASS)  # both are 1/2, but they must not be taken for one
    scores.reset()
    scores.update(ONES, region[None], CLASS)
    result = scores.compute()
    s0, s2, s4 = sigmoid([0, 2, 4])
    assert float(result["Insertion"]) == pytest.approx((s0 / 2 + s2 + 10.5 * s4) / 12)
    assert float(result["Deletion"]) == pytest.approx((s4 / 2 + s2 + 10.5 * s0) / 12)
    assert Insertion.higher_is_better
    assert not Deletion.higher_is_better


def test_the_network_is_no_part_of_the_metric(region: Tensor) -> None:
    metric = Insertion(RegionSum(region), baseline="zero")
    assert list(metric.parameters()) == []
    assert list(metric.children()) == []
    assert metric.state_dict() == {}
    metric.train().eval().requires_grad_(False)
    assert metric.network[0].training
    assert metric.network[0].region.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.rand(1, 4, 5)}, r"\(1, 3, 4, 6\) and \(1, 4, 5\)"),
        ({"maps": torch.full((1, 4, 6), torch.nan)}, "24 values not finite"),
        ({"images": torch.rand(3, 4, 6)}, r"\(B, C, H, W\)"),
        ({"classes": torch.tensor([1.0])}, "long indices"),
        ({"classes": torch.tensor([0, 1])}, "one per image"),
        ({"classes": torch.tensor([-1])}, "long indices"),
        ({"classes": torch.tensor([2])}, r"logits \(M, N\).*\[2\].*\[21, 2\]"),
        ({"baseline": "blurr"}, "did you mean 'blur'"),
        ({"baseline": torch.rand(2, 1, 1)}, r"broadcast.*\(2, 1, 1\)"),
        ({"activation": "softmx"}, "did you mean 'softmax'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"network": nn.Identity()}, r"logits \(M, N\)"),
    ],
)
@pytest.mark.parametrize("curve", [insertion_curve, deletion_curve])
def test_wrong_arguments(curve: object, changes: dict[str, object], message: str, region: Tensor) -> None:
    arguments = {"network": RegionSum(region), "images": ONES, "maps": region[None], "classes": CLASS}
    with pytest.raises(AttnBridgeError, match=message):
        curve(**{**arguments, **changes})  # type: ignore[operator]


# --- the sanity check


class Scale(nn.Module):
    """Weights without ``reset_parameters``, and a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.0, 2.0, 4.0])[:, None, None])
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images * self.gain


def network_of() -> nn.Sequential:
    return nn.Sequential(
        Scale(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten(2))
    )


def look(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).mean(1).unflatten(1, (4, 4))


def everything(network: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in (*network.named_parameters(), *network.named_buffers())}


def test_cascade_goes_from_the_last_layer_and_keeps_what_it_randomised() -> None:
    network, before, seen = network_of().eval(), None, []

    def watch(network: nn.Module, images: Tensor) -> Tensor:
        seen.append(everything(network))
        return look(network, images)

    before = everything(network)
    changes = sanity_check(network, torch.randn(3, 3, 8, 8), watch)
    assert [name for name, _ in changes] == ["4.0", "2", "1", "0"]
    assert all(torch.equal(seen[0][name], before[name]) for name in before if name != "0.calls")
    touched = [{n for n in a if not torch.equal(a[n], b[n])} - {"0.calls"} for a, b in pairwise(seen)]
    # batch norm is as new already: setting it anew changes nothing
    assert touched == [{"4.0.weight", "4.0.bias"}, set(), {"1.weight", "1.bias"}, {"0.gain"}]
    assert changes[0][1] < 0.99
    assert changes[1][1] == changes[0][1]


def test_correlation_equals_scipy_per_image_with_ties() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    first, second = torch.randint(0, 4, (3, 4, 5)).float(), torch.randint(0, 4, (3, 4, 5)).double()
    answers = [first, second, -first, first**3, torch.zeros(3, 4, 5)]
    layers = ["0"] * 4
    found = sanity_check(network, torch.zeros(3, 1, 4, 5), lambda *_: answers.pop(0), layers=layers)
    expected = sum(spearmanr(first[i].flatten(), second[i].flatten()).statistic for i in range(3)) / 3
    assert [value for _, value in found] == pytest.approx([expected, -1, 1, 0])  # a constant map has no order


@pytest.mark.parametrize("training", [True, False])
def test_everything_is_brought_back_bit_by_bit(training: bool) -> None:
    network = network_of().train(training)
    look(network, torch.randn(4, 3, 8, 8))  # running statistics of their own
    before, objects = everything(network), [*network.parameters(), *network.buffers()]
    random = torch.get_rng_state()
    sanity_check(network, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), look)
    after = everything(network)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(a is b for a, b in zip([*network.parameters(), *network.buffers()], objects, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training == training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_everything_is_brought_back_after_an_exception() -> None:
    network, calls = network_of(), []
    before, random = everything(network), torch.get_rng_state()
    gain = network[0].gain

    def break_down(network: nn.Module, images: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            network[0].gain = nn.Parameter(torch.zeros(3, 1, 1))  # type: ignore[index]
            torch.rand(7)
            raise ValueError("the fourth call")
        return look(network, images)

    with pytest.raises(ValueError, match="the fourth call"):
        sanity_check(network, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), break_down)
    after = everything(network)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert network[0].gain is gain
    assert torch.equal(torch.get_rng_state(), random)


def test_the_seed_and_the_layers_decide() -> None:
    network, images = network_of().eval(), torch.randn(2, 3, 8, 8)
    first, again, other = (sanity_check(network, images, look, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    chosen = sanity_check(network, images, look, layers=["1", "4"])
    assert [name for name, _ in chosen] == ["1", "4"]
    whole = sanity_check(network, images, look, layers=[""])
    assert whole[0][0] == "Sequential"
    assert whole[0][1] < 0.99


def test_weights_without_a_reset_keep_their_deviation() -> None:
    layer = nn.Module()
    layer.weight, layer.bias = nn.Parameter(torch.randn(40, 50) * 3 + 7), nn.Parameter(torch.full((1,), 2.0))
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(*_: object) -> Tensor:
        seen.append((layer.weight.detach().clone(), layer.bias.detach().clone()))
        return torch.rand(1, 2, 2)

    sanity_check(layer, torch.zeros(1), watch)
    weight, bias = seen[1]
    assert float(weight.mean()) == pytest.approx(0, abs=0.3)
    assert float(weight.std()) == pytest.approx(3, rel=0.1)
    assert bias.tolist() == [0]  # no deviation, so no noise: not NaN


def test_wrong_layers_and_looks() -> None:
    network, images = network_of(), torch.randn(2, 3, 8, 8)
    with pytest.raises(AttnBridgeError, match=r"unknown layer with weights '4\.1'; did you mean '4\.0'"):
        sanity_check(network, images, look, layers=["4.0", "4.1"])
    with pytest.raises(AttnBridgeError, match=r"finite maps \(2, H, W\), not \(1, 4, 4\), of the untouched network"):
        sanity_check(network, images, lambda network, images: look(network, images)[:1])
    calls: list[int] = []

    def overflow(network: nn.Module, images: Tensor) -> Tensor:
        calls.append(1)
        return look(network, images) * (1 if len(calls) == 1 else torch.nan)

    before = everything(network)
    with pytest.raises(AttnBridgeError, match=r"\(2, 4, 4\), with '4\.0' randomised"):
        sanity_check(network, images, overflow)
    assert all(torch.equal(value, before[name]) for name, value in everything(network).items())
