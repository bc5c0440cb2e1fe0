"""`setting: paper`: DSRG and SEC beside tables of what the authors' code says, and beside loops.

Sources: speedinghzl/DSRG at 91efdf7 (training/experiment/seed_mc/train-s.prototxt, train-f.prototxt, solver-*.prototxt,
run.sh; pylayers/pylayers/pylayers.py) and kolesman/SEC at c784190 (training/train.prototxt, solver.prototxt;
pylayers/pylayers/pylayers.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.data.modules.cues import CueDataModule
from attnbridge.data.voc import VOC_CLASSES
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import load_experiment
from attnbridge.losses.weak_supervision import boundary_loss, seed_loss
from attnbridge.methods import segmentation
from attnbridge.methods.segmentation import Segmentation, seeds_of
from attnbridge.segmentation.crf import CRF, mean_field
from tests.runs import make_trainer, write_cues
from tests.segmentation.test_grow import flooded_as_published

# name, line of its layer in train-s.prototxt and in SEC's train.prototxt, kind, channels, kernel, stride, pad, dilation
TRUNK = (
    ("conv1_1", 41, 37, "Conv2d", 64, 3, 1, 1, 1),
    ("conv1_2", 62, 58, "Conv2d", 64, 3, 1, 1, 1),
    ("pool1", 83, 79, "MaxPool2d", None, 3, 2, 1, 1),
    ("conv2_1", 96, 92, "Conv2d", 128, 3, 1, 1, 1),
    ("conv2_2", 117, 113, "Conv2d", 128, 3, 1, 1, 1),
    ("pool2", 138, 134, "MaxPool2d", None, 3, 2, 1, 1),
    ("conv3_1", 151, 147, "Conv2d", 256, 3, 1, 1, 1),
    ("conv3_2", 172, 168, "Conv2d", 256, 3, 1, 1, 1),
    ("conv3_3", 193, 189, "Conv2d", 256, 3, 1, 1, 1),
    ("pool3", 214, 210, "MaxPool2d", None, 3, 2, 1, 1),
    ("conv4_1", 227, 223, "Conv2d", 512, 3, 1, 1, 1),
    ("conv4_2", 248, 244, "Conv2d", 512, 3, 1, 1, 1),
    ("conv4_3", 269, 265, "Conv2d", 512, 3, 1, 1, 1),
    ("pool4", 290, 286, "MaxPool2d", None, 3, 1, 1, 1),
    ("conv5_1", 303, 299, "Conv2d", 512, 3, 1, 2, 2),
    ("conv5_2", 325, 321, "Conv2d", 512, 3, 1, 2, 2),
    ("conv5_3", 347, 343, "Conv2d", 512, 3, 1, 2, 2),
    ("pool5", 369, 365, "MaxPool2d", None, 3, 1, 1, 1),
    ("pool5a", 382, 378, "AvgPool2d", None, 3, 1, 1, 1),
)
# name, line of its layer in train-s.prototxt, channels, kernel, pad, dilation; fc6 and fc7 are followed by a ReLU and
# a dropout of 0.5
DSRG_HEAD = (
    ("fc6_1", 396, 1024, 3, 6, 6), ("fc7_1", 428, 1024, 1, 0, 1), ("fc8-SEC_1", 458, 21, 1, 0, 1),
    ("fc6_2", 480, 1024, 3, 12, 12), ("fc7_2", 512, 1024, 1, 0, 1), ("fc8-SEC_2", 542, 21, 1, 0, 1),
    ("fc6_3", 564, 1024, 3, 18, 18), ("fc7_3", 597, 1024, 1, 0, 1), ("fc8-SEC_3", 627, 21, 1, 0, 1),
    ("fc6_4", 649, 1024, 3, 24, 24), ("fc7_4", 681, 1024, 1, 0, 1), ("fc8-SEC_4", 711, 21, 1, 0, 1),
)  # fmt: skip
# the same in SEC's train.prototxt
SEC_HEAD = (("fc6", 391, 1024, 3, 12, 12), ("fc7", 423, 1024, 1, 0, 1), ("fc8-SEC", 453, 21, 1, 0, 1))
# lr_mult and decay_mult of weight and bias: DSRG train-s.prototxt:46-47, 401-402, 433-434; SEC train.prototxt:42-43,
# 396-397, 428-429
USUAL = ((1, 1), (2, 0))
# of fc8: DSRG train-s.prototxt:463-464, 547-548, 632-633, 716-717; SEC train.prototxt:458-459
LAST = ((10, 1), (20, 0))


def published(name: str, **changes: Any) -> Segmentation:
    """The network of a configuration at its full size, without memory for it."""
    model = {**load_experiment(name, []).model, "weights": "none", **changes}
    with torch.device("meta"):
        return Segmentation(VOC_CLASSES, image_size=321, **model)


def shape_of(module: Any) -> tuple[Any, ...]:
    def one(value: Any) -> int:
        first, second = (value, value) if isinstance(value, int) else value
        assert first == second
        return int(first)

    channels, dilation = getattr(module, "out_channels", None), getattr(module, "dilation", 1)
    sizes = [one(value) for value in (module.kernel_size, module.stride, module.padding, dilation)]
    return (type(module).__name__, channels, *sizes)


@pytest.mark.parametrize(("name", "head"), [("voc/dsrg", DSRG_HEAD), ("voc/retrain", DSRG_HEAD), ("voc/sec", SEC_HEAD)])
def test_the_network_is_the_prototxts_layer_by_layer(name: str, head: Any) -> None:
    method = published(name)
    features = [m for m in method.network.get_submodule("features") if not isinstance(m, nn.ReLU)]
    found = [m for m in method.head.modules() if isinstance(m, nn.Conv2d)]
    assert [shape_of(m) for m in features] == [row[3:] for row in TRUNK]
    assert [shape_of(m) for m in found] == [("Conv2d", c, k, 1, pad, rate) for _, _, c, k, pad, rate in head]
    kinds = [type(m).__name__ for m in method.head.modules() if not isinstance(m, nn.Sequential)]
    assert kinds == ["Conv2d", "ReLU", "Dropout"] * 2 + ["Conv2d"] if len(head) == 3 else len(kinds) == 28
    assert {m.p for m in method.head.modules() if isinstance(m, nn.Dropout)} == {0.5}
    averages = [m for m in features if isinstance(m, nn.AvgPool2d)]
    assert [m.count_include_pad for m in averages] == [True]  # as Caffe's
    assert method.layer == "features.31"  # pool5a: train-s.prototxt:397, SEC's train.prototxt:392
    assert method.grid == (41, 41)  # pylayers.py:366


@pytest.mark.parametrize(("name", "head"), [("voc/dsrg", DSRG_HEAD), ("voc/retrain", DSRG_HEAD), ("voc/sec", SEC_HEAD)])
def test_each_parameter_has_the_prototxts_rate_and_decay(name: str, head: Any) -> None:
    method = published(name)
    optimizer = method.optimisation.build(method.parameter_groups(), 8000)["optimizer"]
    # solver-s.prototxt:8, 13, 14; solver-f.prototxt:7, 12, 13; SEC's solver.prototxt:8, 12, 13
    base, momentum, decay = {"voc/dsrg": 5e-4, "voc/retrain": 1e-3, "voc/sec": 1e-3}[name], 0.9, 0.0005
    found = {
        id(p): (group["lr"] / base, group["weight_decay"] / decay, group["momentum"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    trunk = [m for m in method.network.get_submodule("features") if isinstance(m, nn.Conv2d)]
    wanted = [(layer, USUAL) for layer in trunk]
    layers = [m for m in method.head.modules() if isinstance(m, nn.Conv2d)]
    wanted += [(layer, LAST if row[0].startswith("fc8") else USUAL) for layer, row in zip(layers, head, strict=True)]
    for layer, (weight, bias) in wanted:
        assert found.pop(id(layer.weight)) == pytest.approx((*weight, momentum)), layer
        assert found.pop(id(layer.bias)) == pytest.approx((*bias, momentum)), layer
    assert not found


@pytest.mark.parametrize(
    ("name", "steps", "rates"),
    [
        # lr_policy, gamma, stepsize, base_lr, max_iter: solver-s.prototxt:5-8, 12
        ("voc/dsrg", 8000, {0: 5e-4, 999: 5e-4, 1000: 1.65e-4, 7999: 5e-4 * 0.33**7}),
        # lr_policy, power, base_lr, max_iter: solver-f.prototxt:5-7, 11
        ("voc/retrain", 20000, {i: 1e-3 * (1 - i / 20000) ** 0.9 for i in (0, 999, 1000, 7999, 19999)}),
        # SEC's solver.prototxt:5-8, 11
        ("voc/sec", 8000, {0: 1e-3, 999: 1e-3, 1000: 1e-3, 1999: 1e-3, 2000: 1e-4, 7999: 1e-6}),
    ],
)
def test_the_schedule_is_the_solvers(name: str, steps: int, rates: dict[int, float]) -> None:
    experiment = load_experiment(name, [])
    assert experiment.trainer["max_steps"] == steps
    images = 10582  # lines of list/input_list.txt and of SEC's input_list.txt
    assert images // experiment.data["batch_size"] * experiment.trainer["max_epochs"] >= steps
    method = published(name)
    built = method.optimisation.build(
        [{"params": [torch.zeros(1, requires_grad=True)], "lr": method.optimisation.lr}], steps
    )
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    found = {}
    for step in range(steps):
        if step in rates:
            found[step] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(rates, rel=1e-9)


def test_batches_images_and_scales_are_the_papers() -> None:
    asked = {name: load_experiment(f"voc/{name}", []) for name in ("dsrg", "retrain", "sec")}
    # batch_size, mirror and cut: train-s.prototxt:17 and :35, train-f.prototxt:11; SEC's train.prototxt:17 and :9
    given = {name: [each.data[k] for k in ("batch_size", "augment", "image_size")] for name, each in asked.items()}
    assert given == {"dsrg": [20, "flip", 321], "retrain": [10, "cut", 321], "sec": [15, "none", 321]}
    # test-ms.py:90, test-ms-f.py:121; SEC's demo.py:75
    sizes = {name: [round(s * 321) for s in each.evaluation.scales] for name, each in asked.items()}
    assert sizes == {"dsrg": [241, 321, 401], "retrain": [241, 321, 401], "sec": [321]}
    assert not any(each.evaluation.flip for each in asked.values())
    assert all(each.evaluation.crf and each.evaluation.corners for each in asked.values())
    assert [each.evaluation.combine for each in asked.values()] == ["logits", "logits", "mean"]
    # th1, th2: train-s.prototxt:784; loss_weight: train-s.prototxt:798 and :811; SEC's train.prototxt:511, 524, 537
    dsrg, sec = published("voc/dsrg"), published("voc/sec")
    assert (dsrg.grow_background, dsrg.grow_foreground, dsrg.balanced) == (0.99, 0.85, True)
    assert dsrg.loss_weights | {"source/seeding": 0} == dict(zip(dsrg.loss_weights, (1.0, 0.0, 1.0, 0), strict=True))
    assert list(sec.loss_weights.values()) == [1.0, 1.0, 1.0, 0]
    assert (sec.grow, sec.balanced) == (False, False)


SURE = 200.0
"""What an untrained head's last weights are multiplied by, so that it is sure of something."""
RECORDED = [[2.775665760040283, 1.3781861066818237], [2.7746124267578125, 1.3769322633743286]]
"""Seeding and boundary loss of two steps of DSRG at 813b3f8, on one machine."""
SMALL: dict[str, Any] = {"weights": "none", "image_size": 65, "backbone": "vgg11", "head_width": 8}


@pytest.fixture(scope="module")
def cues(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cues that know a few places of the true masks."""
    folder = tmp_path_factory.mktemp("cues")
    write_cues(scenes, folder, block=8, every=3, known=0)
    return folder


def small(name: str, scenes: Path, cues: Path, **changes: Any) -> tuple[Segmentation, CueDataModule]:
    """A configuration's method, smaller, and its data."""
    experiment = load_experiment(name, [])
    given = {"augment": experiment.data["augment"], "image_size": 65, "batch_size": 4, "workers": 0, "source": None}
    data = CueDataModule(str(cues), target=str(scenes / "target"), **given)
    L.seed_everything(0, verbose=False)
    return Segmentation(data.classes, **{**experiment.model, **SMALL, **changes}), data


def batch_of(method: Segmentation, data: CueDataModule) -> Any:
    data.request = method.data_request()
    data.setup("fit")
    return data.on_after_batch_transfer(next(iter(data.train_dataloader()))[0], 0)


@pytest.mark.parametrize("name", ["voc/dsrg", "voc/sec", "voc/retrain"])
def test_two_steps_are_finite_and_change_all_that_is_trained(name: str, scenes: Path, cues: Path) -> None:
    method, data = small(name, scenes, cues)
    before = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    trainer = make_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(method, data)
    assert trainer.global_step == 2
    assert np.isfinite(trainer.callback_metrics["loss"].item())
    for key, p in method.named_parameters():
        if p.requires_grad:
            assert torch.isfinite(p).all(), key
            assert not torch.equal(p, before[key]), key


def expected_refined(method: Segmentation, images: Tensor, p: Tensor, energies: str) -> Tensor:
    """The CRF of pylayers.py:63-88 and :310-331: small images, deviations over 12, given what it is given."""
    height, width = p.shape[2:]
    little = F.interpolate(images, (height, width), mode="bilinear", align_corners=True)
    given = p if energies == "logits" else torch.where(p < 1e-4, 1e-4, p).exp()
    given = given / given.sum(1, keepdim=True)
    q = mean_field((little * 255).round().byte(), given, CRF(10, 10, 80 / 12, 13, 3, 3 / 12))
    q = torch.where(q < 1e-4, 1e-4, q)
    return q / q.sum(1, keepdim=True)


def softmax_as_published(logits: Tensor) -> Tensor:
    """pylayers.py:34-36: 1e-4 is added to each probability."""
    p = logits.softmax(1) + 1e-4
    return p / p.sum(1, keepdim=True)


def test_dsrgs_seeds_grow_on_refined_probabilities(scenes: Path, cues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, data = small("voc/dsrg", scenes, cues)
    with torch.no_grad():
        for layer in method.head.last:
            layer.weight.mul_(SURE)  # type: ignore[operator, union-attr]
    batch = batch_of(method, data)
    method.eval()
    calls = []
    monkeypatch.setattr(segmentation, "mean_field", lambda *given: calls.append(given) or mean_field(*given))
    losses = method.losses(batch)
    assert len(calls) == 1  # for both losses
    target = batch["target"]
    with torch.no_grad():
        logits = method.head(method._features(method.normalised(target["image"])))
    p = softmax_as_published(logits)
    refined = expected_refined(method, target["image"], p, "probabilities")
    assert refined.shape[2:] == (9, 9)
    known = seeds_of(target["mask"], p, corners=True)
    grown = flooded_as_published(refined, known, target["labels"])
    raw = flooded_as_published(p, known, target["labels"])
    assert known.sum() <= raw.sum() < grown.sum()
    torch.testing.assert_close(losses["target/seeding"], seed_loss(logits.softmax(1), grown))
    torch.testing.assert_close(
        losses["target/boundary"], boundary_loss(logits.softmax(1), refined, "dsrg"), rtol=1e-4, atol=1e-6
    )


def test_secs_crf_is_given_the_logits(scenes: Path, cues: Path) -> None:
    method, data = small("voc/sec", scenes, cues)
    batch = batch_of(method, data)
    method.eval()
    losses, target = method.losses(batch), batch["target"]
    with torch.no_grad():
        logits = method.head(method._features(method.normalised(target["image"])))
    refined = expected_refined(method, target["image"], logits.softmax(1), "logits")
    p = softmax_as_published(logits)
    wanted = (refined * (refined / p).log()).sum(1).mean()  # SEC's pylayers.py:120
    torch.testing.assert_close(losses["target/boundary"], wanted, rtol=1e-4, atol=1e-6)
    assert set(losses) == {"target/seeding", "target/expansion", "target/boundary"}


def test_the_crfs_deviations_are_the_published_at_any_resolution(
    scenes: Path, cues: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CRF] = []
    monkeypatch.setattr(segmentation, "mean_field", lambda _, p, crf: asked.append(crf) or p)
    for name in ("voc/dsrg", "voc/sec"):
        method, data = small(name, scenes, cues)
        method.losses(batch_of(method, data))
    # krahenbuhl2013/CRF.py:4 and :31-32 of both; scale_factor: pylayers.py:82 and :326, SEC's :71
    assert asked == [CRF(10, 10, 80 / 12, 13, 3, 3 / 12)] * 2


def test_images_and_cues_are_taken_at_every_eighth_pixel() -> None:
    method = Segmentation(["a"], **SMALL, setting="paper")
    images = torch.rand(2, 3, 65, 65)
    assert torch.equal(method.small(images), (images[:, :, ::8, ::8] * 255).round().byte())
    masks = torch.randint(0, 2, (2, 65, 65))
    assert torch.equal(seeds_of(masks, torch.rand(2, 2, 9, 9), corners=True)[:, 1], masks[:, ::8, ::8].bool())


def test_whole_masks_are_learned_by_the_cross_entropy_of_the_batch(scenes: Path, cues: Path) -> None:
    """train-f.prototxt:721-744, Caffe's normalisation by the positions that are not ignored."""
    method, data = small("voc/retrain", scenes, cues)
    batch = batch_of(method, data)
    method.eval()
    losses, target = method.losses(batch), batch["target"]
    with torch.no_grad():
        logits = method.head(method._features(method.normalised(target["image"])))
    terms = []
    for logit, mask in zip(logits.log_softmax(1), target["mask"], strict=True):
        for y in range(9):
            for x in range(9):
                label = int(mask[8 * y, 8 * x])
                if label != 255:
                    terms.append(-logit[label, y, x])
    assert losses.keys() == {"target/seeding"}
    torch.testing.assert_close(losses["target/seeding"], torch.stack(terms).mean())


def test_a_second_training_begins_with_the_first_network(scenes: Path, cues: Path, tmp_path: Path) -> None:
    """run.sh:9."""
    first, data = small("voc/dsrg", scenes, cues)
    trainer = make_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(first, data)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    second, _ = small("voc/retrain", scenes, cues, weights=str(path))
    for name, value in second.state_dict().items():
        if not name.startswith("network.head."):
            assert torch.equal(value, first.state_dict()[name]), name
    light, _ = small("voc/retrain", scenes, cues, weights=str(path), setting="light")
    assert not torch.equal(light.head[0][0].weight, first.head[0][0].weight)  # type: ignore[index]
    with pytest.raises(AttnBridgeError, match=r"last\.ckpt: its head does not fit .*give model\.head_rate"):
        small("voc/retrain", scenes, cues, weights=str(path), head_width=4)


def test_a_network_that_is_no_vgg_stays_as_it_is() -> None:
    options = {**SMALL, "backbone": "resnet10t"}
    names = [
        [name for name, _ in Segmentation(["a"], **options, setting=s).network.named_modules()]
        for s in ("paper", "light")
    ]
    assert names[0] == names[1]


def test_light_is_as_before() -> None:
    """Losses of two steps and the names of the head, recorded before there was another setting."""
    L.seed_everything(0, verbose=False)
    method = Segmentation(
        ["a", "b", "c"], **{**SMALL, "backbone": "resnet10t", "image_size": 48, "head_width": 16}, lr=1e-3
    )
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 4, (4, 48, 48), generator=generator)
    mask[torch.rand(4, 48, 48, generator=generator) < 0.5] = 255
    images = torch.rand(4, 3, 48, 48, generator=generator)
    batch: Any = {"target": {"image": images, "mask": mask, "labels": torch.ones(4, 3)}}
    torch.manual_seed(3)
    built = method.optimisation.build(method.parameter_groups(), 10)
    found = []
    for _ in range(2):
        losses = method.train().losses(batch)
        found.append([losses["target/seeding"].item(), losses["target/boundary"].item()])
        built["optimizer"].zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    assert found == [pytest.approx(row, rel=1e-6) for row in RECORDED]
    assert [name for name, _ in method.head.named_parameters()] == [
        f"{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")
    ]
