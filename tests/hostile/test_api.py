"""The Python API, called wrongly: every public name is given what it cannot take, and says so in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import attnbridge
from attnbridge import (
    AttnBridgeError,
    data,
    explain,
    guide,
    losses,
    methods,
    metrics,
    models,
    observe,
    segmentation,
    targets,
)
from attnbridge.errors import DivergedError

SURFACE = Path(__file__).parents[1] / "api_surface.json"
READY = data.Preparation(8, (0.0,) * 3, (1.0,) * 3)
NAN, INF = float("nan"), float("inf")
META = torch.device("meta")

EXEMPT = {
    "attnbridge.Audit": "a result: `audit` makes it",
    "data.preparation_of": "a question: it takes whatever a network says or does not say",
    "attnbridge.AttnBridgeError": "the exception itself",
    "attnbridge.Observation": "a result: `observe` makes it",
    "attnbridge.Run": "a result: test_values.py and the tests of the folders have it",
    "attnbridge.fit": "test_values.py has its values",
    "attnbridge.load_run": "the tests of the folders have it",
    "data.Batch": "keys of a dictionary; `collate` and `as_floats` check it",
    "data.Sample": "keys of a dictionary; `collate` and `as_floats` check it",
    "data.ImageRecord": "a plain record; `ImageDataset` checks it",
    "methods.METHODS": "a dictionary",
    "metrics.BoxAccuracy": "a result: `MaxBoxAccuracy` gives it",
    "metrics.ThresholdIoU": "a result: `BestThresholdIoU` gives it",
    "models.Backbone": "a result: `build_backbone` gives it",
    "models.FrozenStem": "a result: `find_frozen_stem` gives it",
}
"""Public names without a case, and why."""


class Answers(nn.Module):
    """A network whose logits another function answers with."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.trunk, self.answer = nn.Conv2d(3, 5, 3, padding=1), answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(self.trunk(images).relu().mean((2, 3)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()


def poisoned(layer: str) -> nn.Module:
    """A network with a NaN among the parameters of a layer."""
    broken = network()
    with torch.no_grad():
        next(broken.get_submodule(layer).parameters()).view(-1)[0] = NAN
    return broken


NET = network()
NORMED = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BYTES = (IMAGES * 255).byte()
FEATURES = torch.rand(2, 4, 6, 6, requires_grad=True)
LOGITS = FEATURES.mean((2, 3)) @ torch.rand(4, 5)
TOKENS = torch.rand(2, 4, 6, requires_grad=True)
CLASSES = torch.tensor([1, 2])
MAPS, SALIENCY = torch.rand(2, 4, 4), torch.rand(2, 8, 8)
SCORES, LABELS = torch.rand(2, 5), torch.ones(2, 5)
PROBABILITIES = torch.full((2, 3, 4, 4), 1 / 3)
SEEDS = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
UNIFORM = torch.full((2, 6, 6), 1 / 36)
PHOTO, HEAT = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2), np.float32)
CUE_MAPS, PRESENT = torch.rand(2, 4, 4), torch.tensor([True, False])
MASKS = torch.ones(2, 4, 4, dtype=torch.bool)
LABELLED = torch.zeros(4, 4, dtype=torch.long)
LOADER: Any = DataLoader([0])  # type: ignore[arg-type]
PAIR = ("red", "blue")
RECORD = data.ImageRecord("a.png", Path("nowhere/a.png"), (0,))
Sampled: Any = {"image": torch.zeros(3, 4, 4), "labels": torch.ones(2), "domain": "source", "id": "a"}
Call = Callable[[], Any]
Case = tuple[Callable[..., Any], str]


def on(function: Callable[..., Any], *given: Any, **named: Any) -> Call:
    return partial(function, *given, **named)


def insert(**changed: Any) -> Call:
    given = {"network": NET, "images": IMAGES, "maps": torch.rand(2, 8, 8), "classes": CLASSES, "steps": 2} | changed
    return partial(metrics.insertion_curve, **given)


def updated(metric: Callable[[], Any], *given: Any) -> Call:
    return lambda: metric().update(*given)


def built(**named: Any) -> Call:
    return partial(models.build_backbone, **{"name": "resnet10t", "num_classes": 2, "weights": "none"} | named)


def loaded(**named: Any) -> Call:
    """A network of one layer that says nothing of its images, by the name of a function."""
    prepared = {"size": 8, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return partial(models.load_classifier, f"{__name__}:network", **(prepared | named))


def classified(**named: Any) -> models.Classifier:
    return models.Classifier("own", NET, PAIR, 8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), **named)


def segmented(**named: Any) -> Any:
    return metrics.MapSegmentation(5, **named)


def scored(score: Callable[..., Any], **changed: Any) -> Call:
    return partial(score, **{"found": LABELLED, "truth": LABELLED, "num_classes": 2} | changed)


def counted(**changed: Any) -> Call:
    given: dict[str, Any] = {
        "scores": SCORES, "maps": torch.rand(2, 5, 4, 4), "mask": torch.zeros(2, 4, 4).long(), "labels": LABELS,
    }  # fmt: skip
    return lambda: segmented().update(**given | changed)


TABLE: dict[str, list[tuple[Call, str]]] = {
    "attnbridge.guide": [
        (on(guide, None, IMAGES, IMAGES[:, 0], 0), "model must be a network.*not None"),
        (on(guide, NET, IMAGES, IMAGES[:, 0].numpy(), 0), "masks must be a tensor of real numbers.*ndarray"),
        (on(guide, NET, IMAGES, IMAGES[:, 0] * NAN, 0), r"masks must be in \[0, 1\], but hold nan"),
        (on(guide, NET, IMAGES, BYTES[:, 0], 0), "masks of whole numbers must be 0, 1, or 255"),
        (on(guide, NET, IMAGES, IMAGES[0, 0], 0), r"masks must be \(B, H, W\) or \(B, K, H, W\)"),
        (on(guide, NET, IMAGES, IMAGES[:, 0], [0, 1]), "classes names 2; give masks"),
        (on(guide, NET, IMAGES, IMAGES[:, 0], None), "classes is None"),
    ],
    "attnbridge.audit": [
        (on(attnbridge.audit, NET, "none", preparation=READY), "none: no such image, folder or glob"),
        (on(attnbridge.audit, NET, [], preparation=READY), "images must name at least one image or folder"),
        (on(attnbridge.audit, NET, "none"), "nothing says how images are prepared for Sequential; give preparation="),
        (on(attnbridge.audit, None, "none"), "model must be a Classifier, a Run, a name or a network, not None"),
    ],
    "attnbridge.explain": [
        (on(explain, lambda images: images, IMAGES), r"model must be a network, an nn\.Module, not a function"),
        (on(explain, None, IMAGES), "model must be a network.*not None"),
        (on(explain, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES), "no layer of the network"),
        (on(explain, NET, IMAGES[0]), r"images must be a float tensor \(B, C, H, W\).*\(3, 8, 8\)"),
        (on(explain, NET, IMAGES.numpy()), "images must be a float tensor.*ndarray; make a tensor of it"),
        (on(explain, NET, Image.new("RGB", (8, 8))), "nothing says how the model wants them; give size, mean and std"),
        (on(explain, NET, "cat.jpg"), "nothing says how the model wants them; give size, mean and std"),
        (on(explain, NET, ["cat.jpg"], preparation=READY), "cat.jpg"),
        (on(explain, NET, ["cat.jpg", IMAGES], preparation=READY), "preparation is for files and PIL images"),
        (on(explain, NET, IMAGES, preparation=READY), "preparation is for files and PIL images"),
        (on(explain, NET, IMAGES, output="logits"), "unknown output 'logits'"),
        (on(explain, NET, IMAGES, output=None, target=lambda y: None), "target <lambda> gave None"),
        (on(explain, NET, BYTES), r"images must be.*torch\.uint8 .*call \.float\(\) on it, and divide 8 bits by 255"),
        (on(explain, NET, IMAGES.to(torch.complex64)), r"images must be a float tensor.*complex64"),
        (on(explain, NET, IMAGES[:0]), r"images is empty, of shape \(0, 3, 8, 8\)"),
        (on(explain, NET, IMAGES[..., :0]), r"images is empty, of shape \(2, 3, 8, 0\)"),
        (on(explain, NET, IMAGES[:, :1]), "images: .* have 1 channels, it takes 3"),
        (on(explain, NET, IMAGES.to(META)), "images: .* on the device meta, it is on cpu"),
        (on(explain, NET, IMAGES.double()), r"images: .* are torch\.float64, its weights torch\.float32"),
        (on(explain, nn.Sequential(nn.Conv2d(3, 4, 5), *NET[1:]), IMAGES[:, :, :3, :3], layer="1"), "3 pixels high"),
        (on(explain, NORMED.train(), IMAGES[:1], 0, "0"), r"in training mode its batch norm.*call network\.eval"),
        (on(explain, Answers(lambda y: ([y], y)), IMAGES), "output must be logits .*but is a tuple of a list"),
        (on(explain, Answers(lambda y: {"features": y}), IMAGES), "output must be logits .*but is a dict of features"),
        (on(explain, Answers(lambda _: None), IMAGES), "output must be logits .*but is None"),
        (on(explain, Answers(torch.flatten), IMAGES), "scores of 10 images, but it was given 2"),
        (on(explain, Answers(lambda y: y[:, :0]), IMAGES, layer="trunk"), r"expected logits of shape"),
        (on(explain, Answers(lambda y: y[:1]), IMAGES), "scores of 1 images, but it was given 2"),
        (on(explain, poisoned("0"), IMAGES), r"logits are NaN: the network's '0\.weight' holds NaN"),
        (on(explain, poisoned("4"), IMAGES, method="input_gradient"), r"logits are NaN: .*'4\.weight' holds NaN"),
        (on(explain, NET, IMAGES * NAN), "logits are NaN: the images hold NaN"),
        (
            on(explain, Answers(lambda y: y * 1e30 * 1e30), IMAGES, [0, 1, 2, 3, 4]),
            "maps of images .* are not finite: .*overflows",
        ),
        (on(explain, NET, IMAGES, "cat"), "classes must be a number, a list of numbers.*'cat'"),
        (on(explain, NET, IMAGES, [True, False, True, True, False]), r"classes must be .*\(bool: \(B, N\)\)"),
        (on(explain, NET, IMAGES, 10**20), "class 100000000000000000000: the network knows the classes 0 to 4"),
        (on(explain, NET, IMAGES, CLASSES.int()), r"classes must be long indices.*torch\.int32"),
        (on(explain, NET, IMAGES, lambda _: "cat"), "classes must be a number.*'cat'"),
        (on(explain, NET, IMAGES, layer=3), "layer must be a list of names, not 3"),
        (on(explain, NET, IMAGES, layer=["1", 3]), r"layer must be a list of names, not \['1', 3\]"),
        (on(explain, NET, IMAGES, method=["cam"]), r"unknown method \['cam'\]"),
        (on(explain, NET, IMAGES, size=0), "size must be a whole number.*not 0"),
        (on(explain, NET, IMAGES, size=(4.0, 4.0)), r"size must be a whole number.*not \(4\.0, 4\.0\)"),
        (on(explain, NET, IMAGES, size=10**7), "size must be .*at most 32768.*not 10000000"),
        (on(explain, NET, IMAGES, scales=(NAN,)), r"scales must be a list.*\(nan,\)"),
        (on(explain, NET, IMAGES, scales="1"), "scales must be a list.*'1'"),
        (on(explain, NET, IMAGES, scales=(1e4,)), "scales must be a list.*at most 8"),
        (on(explain, poisoned("0"), IMAGES, normalise="maxx"), "normalise must be .*did you mean 'max' or 'minmax'"),
        (on(explain, NET, IMAGES, method="activation", second_order="of"), "second_order must be.*mean 'off'"),
    ],
    "attnbridge.observe": [
        (on(observe, len, IMAGES, "0"), "network must be a network.*builtin_function"),
        (on(observe, NET, IMAGES, None), "layers must be a list of names, not None"),
        (on(observe, NET, IMAGES, ["0", None]), "layers must be a list of names"),
        (on(observe, NET, BYTES, "0"), r"images must be a float tensor.*torch\.uint8"),
        (on(observe, NET, IMAGES.to(META), "0", grad=False), "images: .* on the device meta, it is on cpu"),
        (on(observe, NET, IMAGES[0], "0"), r"images: .* \(3, 8, 8\); expected \(B, C, H, W\)"),
    ],
    "attnbridge.grad_cam": [
        (on(attnbridge.grad_cam, TOKENS, TOKENS.mean(2), CLASSES), r"of shape \(2, 4, 6\) are no maps; .*`spatial`"),
        (on(attnbridge.grad_cam, FEATURES.detach(), LOGITS, CLASSES), "carry no gradient"),
        (on(attnbridge.grad_cam, FEATURES, LOGITS[:1], CLASSES), "logits must be .* B = 2 as in features"),
        (on(attnbridge.grad_cam, FEATURES, LOGITS[0], CLASSES), r"logits must be a float tensor \(B, N\)"),
        (on(attnbridge.grad_cam, FEATURES, LOGITS, [1, 2]), "classes must be long indices .*a list"),
        (on(attnbridge.grad_cam, FEATURES, LOGITS, CLASSES.to(META)), "classes is on the device meta, but logits on"),
        (on(attnbridge.grad_cam, FEATURES, LOGITS, CLASSES - 2), "class -1: the network knows the classes 0 to 4"),
        (on(attnbridge.grad_cam, FEATURES, LOGITS, CLASSES, spatial="maps"), "spatial must be a function.*'maps'"),
    ],
    "attnbridge.grad_cam_pp": [
        (on(attnbridge.grad_cam_pp, FEATURES, LOGITS, CLASSES, variant="papers"), "variant must be .*mean 'paper'"),
        (on(attnbridge.grad_cam_pp, FEATURES.tolist(), LOGITS, CLASSES), "features must be a float tensor.*a list"),
    ],
    "attnbridge.layer_cam": [
        (on(attnbridge.layer_cam, FEATURES.flatten(2), LOGITS, CLASSES), "are no maps; expected.*`spatial`"),
        (on(attnbridge.layer_cam, None, LOGITS, CLASSES), "features must be a float tensor.*None"),
    ],
    "attnbridge.cam": [
        (on(attnbridge.cam, FEATURES, torch.rand(5, 3), CLASSES), "weight must be .* C = 4 as in features"),
        (on(attnbridge.cam, FEATURES, torch.rand(5, 4), CLASSES + 9), "class 10: the network knows the classes 0 to 4"),
        (on(attnbridge.cam, FEATURES, torch.rand(5, 4), -CLASSES), "class -1: "),
        (on(attnbridge.cam, FEATURES, torch.rand(5, 4).to(META), CLASSES), "weight is on the device meta"),
    ],
    "attnbridge.overlay": [
        (on(attnbridge.overlay, torch.zeros(4, 4, 3).byte(), HEAT), "image must be a numpy array.*not a Tensor"),
        (on(attnbridge.overlay, PHOTO / 255, HEAT), r"image must be uint8 \(H, W, 3\), but is float64"),
        (on(attnbridge.overlay, PHOTO.astype(np.uint16), HEAT), r"image must be uint8 \(H, W, 3\), but is uint16"),
        (on(attnbridge.overlay, PHOTO[..., 0], HEAT), r"image must be .*but is uint8 \(4, 4\)"),
        (on(attnbridge.overlay, PHOTO, HEAT[None]), r"heat must be float \(h, w\), but is float32 \(1, 2, 2\)"),
        (on(attnbridge.overlay, PHOTO, HEAT + 7), "heat must be in .*goes from 7.0 to 7.0; divide it by its maximum"),
        (on(attnbridge.overlay, PHOTO, HEAT * NAN), "heat must be in .*nan"),
        (on(attnbridge.overlay, PHOTO, HEAT, 55), "strength must be at least 0 and at most 1, not 55"),
    ],
    "attnbridge.show": [
        (on(attnbridge.show, IMAGES.numpy(), MAPS[:, None]), "images must be a float tensor.*ndarray"),
        (on(attnbridge.show, IMAGES, MAPS[:1, None]), r"maps must be a float tensor \(2, K, h, w\).*\(1, 1, 4, 4\)"),
        (on(attnbridge.show, IMAGES, MAPS[:0, None]), r"maps must be .*\(0, 1, 4, 4\)"),
        (on(attnbridge.show, IMAGES, MAPS[:, None] * NAN), "maps must be finite"),
        (on(attnbridge.show, IMAGES * NAN, MAPS[:, None]), r"images in \[0, 1\]"),
        (on(attnbridge.show, IMAGES, MAPS[:, None], names="a"), "names must be a list of names, not 'a'"),
        (on(attnbridge.show, IMAGES, MAPS[:, None], names=["a", "b"]), r"names must be 1.*\['a', 'b'\]"),
        (on(attnbridge.show, IMAGES, MAPS[:, None], "sheet.doc"), r"sheet\.doc: its .* format that can be written"),
        (on(attnbridge.show, IMAGES, MAPS[:, None], cell=0), "cell must be at least 1, not 0"),
    ],
    "losses.adversarial_loss": [
        (on(losses.adversarial_loss, torch.zeros(0, 1)), r"target is empty, of shape \(0, 1\)"),
        (on(losses.adversarial_loss, [0.5]), "target must be a float tensor.*a list"),
    ],
    "losses.AdversarialLoss": [(on(losses.AdversarialLoss(), CLASSES), r"target must be a float tensor.*torch\.int64")],
    "losses.discriminator_loss": [
        (on(losses.discriminator_loss, LOGITS, LOGITS[:0]), "target is empty"),
        (on(losses.discriminator_loss, LOGITS, LOGITS.to(META)), "target is on the device meta, but source on cpu"),
    ],
    "losses.DiscriminatorLoss": [(on(losses.DiscriminatorLoss(), None, LOGITS), "source must be a float tensor")],
    "losses.attention_loss": [
        (on(losses.attention_loss, MAPS, SALIENCY, resolution="maps"), "resolution must be .*mean 'map'"),
        (on(losses.attention_loss, MAPS, SALIENCY, reduction="none"), "reduction must be mean or sum, not 'none'"),
        (on(losses.attention_loss, MAPS, SALIENCY[:1]), "saliency must be .* B = 2 as in maps"),
        (on(losses.attention_loss, MAPS, (SALIENCY * 255).byte()), r"saliency must be.*uint8.*divide 8 bits by 255"),
        (on(losses.attention_loss, MAPS, SALIENCY.to(META)), "saliency is on the device meta, but maps on cpu"),
        (on(losses.attention_loss, MAPS[:0], SALIENCY[:0]), "maps is empty"),
        (on(losses.attention_loss, MAPS, SALIENCY, counted=MASKS), "counted must be .* H' = 8 as in saliency"),
    ],
    "losses.AttentionLoss": [
        (on(losses.AttentionLoss, "saliancy"), "resolution must be .*mean 'saliency'"),
        (on(losses.AttentionLoss, reduction=None), "reduction must be mean or sum, not None"),
    ],
    "losses.attention_distance": [
        (on(losses.attention_distance, MAPS, SALIENCY[0]), r"saliency must be .*\(8, 8\)"),
        (on(losses.attention_distance, MAPS.long(), SALIENCY), r"maps must be a float tensor.*torch\.int64"),
    ],
    "losses.attention_mining_loss": [
        (on(losses.attention_mining_loss, torch.rand(2), torch.tensor([0])), "images must be .* P = 2 as in values"),
        (on(losses.attention_mining_loss, torch.rand(2), torch.tensor([0, -1])), "images must be .*not -1"),
    ],
    "losses.AttentionMiningLoss": [
        (on(losses.AttentionMiningLoss(), torch.rand(2), torch.rand(2)), r"images must be a long tensor.*call \.long")
    ],
    "losses.mean_by_image": [
        (on(losses.mean_by_image, torch.rand(2, 2), CLASSES), r"values must be a float tensor \(P\).*\(2, 2\)"),
        (on(losses.mean_by_image, torch.rand(2), CLASSES.to(META)), "images is on the device meta"),
    ],
    "losses.erase": [
        (on(losses.erase, IMAGES, MAPS, "means"), "fill must be zero, mean or blur.*mean 'mean'"),
        (on(losses.erase, IMAGES, MAPS, "mean"), "fill is 'mean', but mean is None"),
        (on(losses.erase, IMAGES, MAPS, "mean", torch.rand(3)), r"mean must be .*\(C, 1, 1\).*\(3,\)"),
        (on(losses.erase, IMAGES, MAPS[:1], "zero"), "mask must be .* P = 2 as in images"),
        (on(losses.erase, IMAGES, MASKS, "zero"), r"mask must be a float tensor.*torch\.bool"),
    ],
    "losses.soft_mask": [
        (on(losses.soft_mask, MAPS, -1), "threshold must be at least 0 and at most 1, not -1"),
        (on(losses.soft_mask, MAPS, slope=0), "slope must be above 0, not 0"),
        (on(losses.soft_mask, MASKS), r"maps must be a float tensor.*torch\.bool"),
    ],
    "losses.attention_transfer_loss": [
        (on(losses.attention_transfer_loss, FEATURES, FEATURES, variant="papers"), "variant must be.*mean 'paper'"),
        (on(losses.attention_transfer_loss, FEATURES, FEATURES, statistic="sums"), "statistic must be.*mean 'sum'"),
        (on(losses.attention_transfer_loss, FEATURES, FEATURES.to(META)), "teacher is on the device meta"),
        (on(losses.attention_transfer_loss, FEATURES[:0], FEATURES[:0]), "student is empty"),
    ],
    "losses.AttentionTransferLoss": [
        (on(losses.AttentionTransferLoss, "cod"), "variant must be.*mean 'code'"),
        (on(losses.AttentionTransferLoss, statistic="sum_powers"), "statistic must be.*mean 'sum_power'"),
        (on(losses.AttentionTransferLoss, power=0), "power must be above 0, not 0"),
    ],
    "losses.mean_activation_map": [
        (on(losses.mean_activation_map, FEATURES, power=NAN), "power must be above 0, not nan"),
        (on(losses.mean_activation_map, FEATURES[0]), r"features must be .*\(4, 6, 6\)"),
    ],
    "losses.hint_loss": [
        (on(losses.hint_loss, FEATURES, FEATURES.long()), r"teacher must be a float tensor.*torch\.int64"),
        (on(losses.hint_loss, FEATURES, FEATURES[:1]), "saw 2 images, the teacher 1"),
    ],
    "losses.HintLoss": [(on(losses.HintLoss(), FEATURES, LOGITS), r"teacher must be .*\(2, 5\)")],
    "losses.kd_loss": [
        (on(losses.kd_loss, LOGITS, LOGITS, NAN), "temperature must be above 0, not nan"),
        (on(losses.kd_loss, LOGITS, LOGITS, "4"), "temperature must be a number above 0, not '4'"),
        (on(losses.kd_loss, LOGITS, CLASSES), r"teacher must be a float tensor \(B, M\).*torch\.int64"),
        (on(losses.kd_loss, LOGITS[:0], LOGITS[:0]), "student is empty"),
        (on(losses.kd_loss, LOGITS, LOGITS.to(META)), "teacher is on the device meta, but student on cpu"),
    ],
    "losses.KDLoss": [
        (on(losses.KDLoss, -1), "temperature must be above 0, not -1"),
        (on(losses.KDLoss, None), "temperature must be a number above 0, not None"),
    ],
    "losses.gradient_transfer_loss": [
        (on(losses.gradient_transfer_loss, IMAGES, IMAGES[:1]), "teacher must be .* B = 2 as in student"),
        (on(losses.gradient_transfer_loss, IMAGES[:0], IMAGES[:0]), "student is empty"),
    ],
    "losses.GradientTransferLoss": [
        (on(losses.GradientTransferLoss(), IMAGES, IMAGES[:, :1]), "teacher must be .* C = 3 as in student")
    ],
    "losses.symmetry_loss": [
        (on(losses.symmetry_loss, IMAGES, IMAGES[..., :1]), "mirrored must be .* W = 8 as in gradient"),
    ],
    "losses.SymmetryLoss": [(on(losses.SymmetryLoss(), IMAGES, None), "mirrored must be a float tensor.*None")],
    "losses.per_sample_input_gradient": [
        (on(losses.per_sample_input_gradient, FEATURES.sum((1, 2, 3)), IMAGES), "images: carries no gradient"),
        (on(losses.per_sample_input_gradient, FEATURES.sum(), FEATURES), r"loss must be a float tensor \(B\)"),
        (
            lambda: losses.per_sample_input_gradient(FEATURES.sum((1, 2, 3)), torch.rand(2, 3, requires_grad=True)),
            "loss does not depend on images",
        ),
    ],
    "losses.boundary_loss": [
        (on(losses.boundary_loss, PROBABILITIES, PROBABILITIES[..., :2]), "refined must be .* w = 4 as in prob"),
        (on(losses.boundary_loss, PROBABILITIES, SEEDS), r"refined must be a float tensor.*torch\.bool"),
        (on(losses.boundary_loss, PROBABILITIES, PROBABILITIES, "dsgr"), "published must be .*mean 'dsrg'"),
        (on(losses.boundary_loss, PROBABILITIES, PROBABILITIES, True), "published must be sec or dsrg, not True"),
    ],
    "losses.BoundaryLoss": [(on(losses.BoundaryLoss(), PROBABILITIES[:0], SEEDS), "probabilities is empty")],
    "losses.seed_loss": [
        (on(losses.seed_loss, PROBABILITIES, SEEDS.float()), "seeds must be a bool tensor.*compare it"),
        (on(losses.seed_loss, PROBABILITIES, SEEDS.to(META)), "seeds is on the device meta"),
        (on(losses.seed_loss, PROBABILITIES[:0], SEEDS[:0]), "probabilities is empty"),
    ],
    "losses.SeedLoss": [
        (on(losses.SeedLoss, "no"), "balanced must be True or False, not 'no'"),
        (on(losses.SeedLoss(), PROBABILITIES, SEEDS[0]), r"seeds must be a bool tensor.*\(3, 4, 4\)"),
    ],
    "losses.expansion_loss": [
        (on(losses.expansion_loss, PROBABILITIES, torch.ones(2, 1)), r"labels must be .*\(B, 2\).*\(2, 1\)"),
        (on(losses.expansion_loss, PROBABILITIES, torch.ones(2, 2), 1.1), "foreground must be .*not 1.1"),
        (on(losses.expansion_loss, PROBABILITIES, torch.ones(2, 2).to(META)), "labels is on the device meta"),
    ],
    "losses.ExpansionLoss": [
        (on(losses.ExpansionLoss, background=1.5), "background must be at least 0 and at most 1, not 1.5"),
        (on(losses.ExpansionLoss, absent=-0.1), "absent must be at least 0 and at most 1, not -0.1"),
    ],
    "losses.multi_label_soft_margin_loss": [
        (on(losses.multi_label_soft_margin_loss, LOGITS, CLASSES), r"labels must be .*\(B, N\).*\(2,\)"),
        (on(losses.multi_label_soft_margin_loss, LOGITS[:0], LABELS[:0]), "logits is empty"),
        (on(losses.multi_label_soft_margin_loss, LOGITS, LABELS.to(META)), "labels is on the device meta"),
        (on(losses.multi_label_soft_margin_loss, LOGITS, LABELS.to(torch.complex64)), "labels must be .*complex64"),
    ],
    "losses.MultiLabelSoftMarginLoss": [
        (on(losses.MultiLabelSoftMarginLoss(), LOGITS, [1, 0]), "labels must be a tensor of real numbers.*a list"),
        (on(losses.MultiLabelSoftMarginLoss, "total"), "reduction must be mean or sum, not 'total'"),
    ],
    "losses.coral_loss": [
        (on(losses.coral_loss, LOGITS, LOGITS[:, :2]), r"target must be .*\(B', D\) with D = 5 as in source"),
        (on(losses.coral_loss, LOGITS[:1], LOGITS), "source holds the features of one image"),
        (on(losses.coral_loss, LOGITS, LOGITS.to(META)), "target is on the device meta"),
    ],
    "losses.CoralLoss": [(on(losses.CoralLoss(), LOGITS[0], LOGITS), r"source must be .*\(B, D\).*\(5,\)")],
    "losses.mmd_loss": [
        (on(losses.mmd_loss, LOGITS, LOGITS[:0]), "target is empty"),
        (on(losses.mmd_loss, LOGITS, LOGITS[:1]), "target holds the features of one image"),
        (on(losses.mmd_loss, LOGITS.long(), LOGITS), r"source must be a float tensor.*int64"),
    ],
    "losses.MMDLoss": [(on(losses.MMDLoss(), LOGITS, None), "target must be a float tensor.*None")],
    "losses.spatial_alignment_loss": [
        (on(losses.spatial_alignment_loss, FEATURES, FEATURES, UNIFORM, "papers"), "variant must be .*mean 'paper'"),
        (on(losses.spatial_alignment_loss, FEATURES, FEATURES, UNIFORM[:1]), "weights must be .* B = 2 as in target"),
        (on(losses.spatial_alignment_loss, FEATURES, FEATURES.to(META), UNIFORM), "source is on the device meta"),
    ],
    "losses.SpatialAlignmentLoss": [(on(losses.SpatialAlignmentLoss, "codes"), "variant must be .*mean 'code'")],
    "losses.channel_alignment_loss": [
        (on(losses.channel_alignment_loss, FEATURES, FEATURES, torch.rand(2, 3)), "weights must be .* C = 4"),
        (on(losses.channel_alignment_loss, FEATURES, FEATURES, torch.rand(4)), r"weights must be .*\(4,\)"),
    ],
    "losses.ChannelAlignmentLoss": [(on(losses.ChannelAlignmentLoss, None), "variant must be paper or code, not None")],
    "losses.delta_alignment_loss": [
        (on(losses.delta_alignment_loss, FEATURES, FEATURES, torch.rand(3)), "weights must be .* C = 4"),
        (on(losses.delta_alignment_loss, FEATURES[:0], FEATURES[:0], torch.rand(4)), "target is empty"),
    ],
    "losses.DeltaAlignmentLoss": [(on(losses.DeltaAlignmentLoss, "x"), "variant must be paper or code, not 'x'")],
    "losses.SpatialAttention": [
        (on(losses.SpatialAttention, 0, 6), "height must be at least 1, not 0"),
        (on(losses.SpatialAttention(6, 6), FEATURES[..., :5]), r"features must be .*\(B, C, 6, 6\)"),
    ],
    "losses.ChannelAttention": [
        (on(losses.ChannelAttention, 4.0, 6, 6), "channels must be a whole number at least 1, not 4.0"),
        (on(losses.ChannelAttention(1, 6, 6), FEATURES), r"features must be .*\(B, 1, 6, 6\)"),
    ],
    "losses.entropy": [(on(losses.entropy, UNIFORM[:0]), "weights is empty")],
    "losses.l2_sp_loss": [
        (on(losses.l2_sp_loss, {"a": torch.ones(3)}, {"a": torch.ones(1)}), r"'a' is \(3,\), but \(1,\) at the start"),
        (on(losses.l2_sp_loss, NET.parameters(), {}), "parameters must be tensors by name"),
    ],
    "losses.L2SPLoss": [(on(losses.L2SPLoss(), {}, [torch.ones(1)]), "start must be tensors by name.*a list")],
    "losses.spectral_shrinkage_loss": [
        (on(losses.spectral_shrinkage_loss, SCORES, 1.5), "count must be a whole number at least 1, not 1.5"),
        (on(losses.spectral_shrinkage_loss, SCORES[:0]), "features is empty"),
    ],
    "losses.SpectralShrinkageLoss": [(on(losses.SpectralShrinkageLoss, 0), "count must be at least 1, not 0")],
    "losses.angular_margin": [
        (on(losses.angular_margin, NET[4], NAN, 64), "margin must be at least 0 and at most 180, not nan"),
        (on(losses.angular_margin, NET[4], 28, 0), "scale must be above 0, not 0"),
        (on(losses.angular_margin, None, 28, 64), "needs a linear classifier, but this network has a NoneType"),
    ],
    "metrics.PointingGame": [
        (on(metrics.PointingGame, INF), "tolerance must be at least 0, not inf"),
        (updated(metrics.PointingGame, MAPS.numpy(), MASKS), "maps must be a tensor.*ndarray"),
        (updated(metrics.PointingGame, MAPS, MASKS.to(META)), "masks is on the device meta, but maps on cpu"),
    ],
    "metrics.EnergyInside": [(updated(metrics.EnergyInside, MAPS, None), "masks must be a tensor.*None")],
    "metrics.BestThresholdIoU": [
        (on(metrics.BestThresholdIoU, "0.5"), "thresholds must be a list.*'0.5'"),
        (on(metrics.BestThresholdIoU, (0.1, NAN)), r"thresholds must .*\(0.1, nan\)"),
        (on(metrics.BestThresholdIoU, 0.5), "thresholds must be a list.*0.5"),
    ],
    "metrics.MaxBoxAccuracy": [
        (on(metrics.MaxBoxAccuracy, iou=0.5), "iou must be a list.*0.5"),
        (updated(metrics.MaxBoxAccuracy, MAPS, torch.ones(2, 4)), r"boxes must be a list of a tensor \(n, 4\)"),
        (updated(metrics.MaxBoxAccuracy, MAPS[:1], [torch.tensor([[NAN, 0, 1, 1]])]), "exclusive ends.*nan"),
    ],
    "metrics.box_masks": [
        (on(metrics.box_masks, torch.tensor([[0, 0, NAN, 1]]), (4, 4)), "exclusive ends.*nan"),
        (on(metrics.box_masks, torch.tensor([[0, 0, 1, 1]]), (4, 0)), r"size must be 2 values.*\(4, 0\)"),
        (on(metrics.box_masks, [[0, 0, 1, 1]], (4, 4)), "boxes must be a tensor.*a list"),
    ],
    "metrics.SaliencyScores": [
        (updated(metrics.SaliencyScores, MAPS[0] + 1, MASKS[0]), r"saliency must be in \[0, 1\], but goes from 1"),
        (updated(metrics.SaliencyScores, MAPS[0] * NAN, MASKS[0]), r"saliency must be in \[0, 1\].*nan"),
        (updated(metrics.SaliencyScores, (MAPS[0] * 255).byte(), MASKS[0]), r"saliency must be a float.*uint8"),
        (updated(metrics.SaliencyScores, MAPS[0], MASKS[0].byte() * 255), "mask must be a bool tensor.*compare it"),
    ],
    "metrics.MapSegmentation": [
        (on(metrics.MapSegmentation, 0), "num_classes must be at least 1, not 0"),
        (on(segmented, present="label"), "present must be predicted or labels.*mean 'labels'"),
        (on(segmented, thresholds=(0.5, 0.2)), "thresholds must rise"),
        (on(segmented, score_threshold=-1), "score_threshold must be above 0 and below 1, not -1"),
        (counted(mask=torch.full((2, 4, 4), 7)), "mask holds the value 7; expected 0.*1 to 5"),
        (counted(mask=torch.zeros(2, 4, 4)), r"mask must be a long tensor.*call \.long"),
        (counted(scores=SCORES[:, :4]), r"scores must be .*\(B, 5\).*\(2, 4\)"),
        (counted(maps=torch.rand(1, 5, 4, 4)), "maps must be .* B = 2 as in scores"),
    ],
    "metrics.mask_confusion": [
        (scored(metrics.mask_confusion, found=LABELLED.int()), r"found must be a long tensor.*call \.long"),
        (scored(metrics.mask_confusion, found=LABELLED[:3]), r"truth must be a long tensor.* H = 3 as in found"),
        (scored(metrics.mask_confusion, found=LABELLED + 3), "found holds the value 3; expected 0.*1 to 2.*or 255"),
        (scored(metrics.mask_confusion, truth=LABELLED - 1), "truth holds the value -1; expected 0"),
        (scored(metrics.mask_confusion, num_classes=255), "num_classes must be at least 1 and at most 254, not 255"),
    ],
    "metrics.label_iou": [
        (on(metrics.label_iou, torch.rand(3, 3)), r"confusion must be a long tensor \(L, K\).*call \.long"),
        (on(metrics.label_iou, LABELLED[:2]), r"confusion must be \(L, L\) or \(L, L \+ 1\).*\(2, 4\)"),
    ],
    "metrics.boundary_f_score": [
        (scored(metrics.boundary_f_score, truth=PHOTO[..., 0]), "truth must be a long tensor.*make a tensor of it"),
        (scored(metrics.boundary_f_score, truth=LABELLED + 254), "truth holds the value 254; expected 0"),
        (scored(metrics.boundary_f_score, tolerance=3), "tolerance must be at least 0 and at most 1, not 3"),
        (scored(metrics.boundary_f_score, tolerance=NAN), "tolerance must be at least 0 and at most 1, not nan"),
    ],
    "metrics.mean_iou": [(on(metrics.mean_iou, torch.rand(3)), r"iou must be a float tensor \(T, C\).*\(3,\)")],
    "metrics.LabelPrecision": [
        (on(metrics.LabelPrecision, "5"), "num_classes must be a whole number at least 1, not '5'"),
        (updated(partial(metrics.LabelPrecision, 4), SCORES, LABELS), r"logits must be .*\(B, 4\).*\(2, 5\)"),
        (updated(partial(metrics.LabelPrecision, 5), SCORES, CLASSES), r"labels must be .*\(B, 5\).*\(2,\)"),
        (updated(partial(metrics.LabelPrecision, 5), SCORES, LABELS, LABELS), "difficult must be a bool tensor"),
        (updated(partial(metrics.LabelPrecision, 5), SCORES, LABELS, LABELS[:1] > 0), "difficult must be .*labels"),
    ],
    "metrics.average_precision": [
        (on(metrics.average_precision, torch.rand(2), CLASSES), "labels must be a bool tensor.*compare it"),
        (on(metrics.average_precision, torch.rand(2), CLASSES > 9), "labels: none is true"),
        (on(metrics.average_precision, torch.rand(2) * NAN, CLASSES > 1), "logits hold NaN, which has no rank"),
    ],
    "metrics.insertion_curve": [
        (insert(network=len), "network must be a network"),
        (insert(images=IMAGES[:0], maps=MAPS[:0], classes=CLASSES[:0]), "images is empty"),
        (insert(maps=None), "maps must be a tensor.*None"),
        (insert(steps=2.5), "steps must be a whole number at least 1, not 2.5"),
        (insert(baseline=["blur"]), r"unknown baseline \['blur'\]"),
        (insert(network=poisoned("0")), "the network's logits are NaN or infinite"),
    ],
    "metrics.deletion_curve": [
        (on(metrics.deletion_curve, NET, BYTES, MAPS, CLASSES), r"images must be a float tensor.*uint8"),
        (on(metrics.deletion_curve, NET, IMAGES, SALIENCY, CLASSES, batch=0), "batch must be at least 1, not 0"),
    ],
    "metrics.Insertion": [
        (on(metrics.Insertion, NET, stepz=4), "unknown setting 'stepz'; did you mean 'steps'"),
        (on(metrics.Insertion, NET, activation="softmx"), "unknown activation 'softmx'; did you mean 'softmax'"),
    ],
    "metrics.Deletion": [
        (on(metrics.Deletion, None), "network must be a network.*None"),
        (on(metrics.Deletion, NET, baseline="zeros"), "unknown baseline 'zeros'; did you mean 'zero'"),
    ],
    "metrics.sanity_check": [
        (on(metrics.sanity_check, NET, IMAGES, "maps"), "look must be a function.*'maps'"),
        (on(metrics.sanity_check, NET, IMAGES, lambda n, x: x[:, 0], layers="0"), "layers must be a list.*put it into"),
        (on(metrics.sanity_check, nn.ReLU(), IMAGES, lambda n, x: x[:, 0]), "no layer to randomise"),
        (on(metrics.sanity_check, NET, IMAGES, lambda n, x: None), "`look` must give maps .*None, of the untouched"),
    ],
    "models.build_backbone": [
        (built(name=3), "unknown backbone 3"),
        (built(num_classes=0), "num_classes must be at least 1, not 0"),
        (built(image_size=-32), "image_size must be a whole number.*-32"),
        (built(image_size=(32, 32, 3)), r"image_size must be .*\(32, 32, 3\)"),
        (built(stride=3), "stride must be 8, 16 or 32.*not 3"),
        (built(poolings="caffe"), "poolings must be own or deeplab, not 'caffe'"),
        (built(weights=None), "weights must be a text, not None"),
        (built(layer=["layer4"]), r"layer must be a text or None, not \['layer4'\]"),
        (built(name=Answers(lambda y: ([y],)), layer="trunk", image_size=16), "output must be logits .*tuple"),
    ],
    "targets.BoxTarget": [
        (on(targets.BoxTarget, [0, 0, 9, 9], 1, 8), r"box \[0\.0, 0\.0, 9\.0, 9\.0\]: expected left < right"),
        (on(targets.BoxTarget, [0, 0, NAN, 4], 1, 8), "box .*nan.*expected left < right"),
        (on(targets.BoxTarget, [[0, 0, 4, 4]], [1, 2], 8), "1 boxes, but 2 labels"),
        (on(targets.BoxTarget, [0, 0, 4], 1, 8), "boxes must be"),
        (on(targets.BoxTarget, [0, 0, 4, 4], -1, 8), "labels must be at least 0, not -1"),
        (on(targets.BoxTarget, [0, 0, 4, 4], 1, 0), "size must be"),
    ],
    "targets.RegionTarget": [
        (on(targets.RegionTarget, -1), "classes must be at least 0, not -1"),
        (on(targets.RegionTarget, "boat"), "classes must be"),
        (on(targets.RegionTarget, []), "classes"),
        (on(targets.RegionTarget, 0, torch.zeros(4, 4)), "region: has no position"),
        (on(targets.RegionTarget, 0, torch.ones(4)), r"region must be a float or bool tensor \(B, H, W\)"),
        (on(targets.RegionTarget, 0, torch.full((4, 4), NAN)), "region"),
    ],
    "targets.SimilarityTarget": [
        (on(targets.SimilarityTarget, torch.ones(1, 2, 3)), r"embeddings must be a float tensor \(K, D\)"),
        (on(targets.SimilarityTarget, torch.ones(3).long()), "embeddings must be a float tensor"),
        (on(targets.SimilarityTarget, torch.ones(3), scale=0), "scale must be above 0, not 0"),
        (on(targets.SimilarityTarget, torch.ones(3), bias="low"), "bias must be"),
    ],
    "targets.ValueTarget": [
        (on(targets.ValueTarget, -1), "index must be at least 0, not -1"),
        (on(targets.ValueTarget, 1.5), "index must be a whole number"),
    ],
    "targets.text_target": [
        (on(targets.text_target, NET, None), "compares no images with texts"),
        (on(targets.text_target, None, None), "network must be a network"),
    ],
    "data.Preparation": [
        (on(data.Preparation, 8, (0.0,) * 3, (1.0,) * 3, mode="stretch"), "mode must be center, squash or border"),
        (on(READY.prepare, IMAGES), "image must be one of Pillow's"),
        (on(READY.prepare, "cat.jpg"), "image must be one of Pillow's"),
        (on(data.Preparation, 0, (0.0,) * 3, (1.0,) * 3), "size must be"),
        (on(data.Preparation, 8, (0.0,) * 3, (0.0,) * 3), "std must be"),
    ],
    "models.load_classifier": [
        (on(models.load_classifier, None), "unknown model None"),
        (on(models.load_classifier, "resnet10t", "nowhere.pth"), r"nowhere\.pth: no such weight file"),
        (
            on(models.load_classifier, "resnet10t", device="gpu"),
            "must be auto, cpu, mps, cuda or cuda:NUMBER, not 'gpu'",
        ),
        (loaded(size=0), "size must be a whole number at least 1.*not 0"),
        (loaded(mean=(0.5, 0.5)), r"mean must be 3 values.*not \(0.5, 0.5\)"),
        (loaded(std=(0.5, 0.0, 0.5)), r"std must be 3 values.*above 0.*not \(0.5, 0.0, 0.5\)"),
        (loaded(classes="cat"), "classes must be a list of names, not 'cat'; put it into a list"),
        (loaded(classes=["cat"]), "the class names: names 1 classes, but .*:network has [0-9]+;"),
    ],
    "models.Classifier": [
        (on(classified, activation="softmx"), "activation must be softmax, sigmoid or none.*mean 'softmax'"),
        (on(classified, shape="stretched"), "shape must be stretch or pad.*mean 'stretch'"),
        (lambda: classified().normalise(BYTES), r"images must be a float tensor.*uint8"),
        (lambda: classified().normalise(IMAGES[:, :1]), r"images must be .*\(B, 3, H, W\).*\(2, 1, 8, 8\)"),
    ],
    "models.pick_device": [
        (on(models.pick_device, "banana"), "must be auto, cpu, .*not 'banana'"),
        (on(models.pick_device, 0), "must be auto, cpu, .*not 0"),
        (on(models.pick_device, ""), "must be auto, cpu, .*not ''"),
    ],
    "models.find_frozen_stem": [
        (on(models.find_frozen_stem, NET, "0", IMAGES), "frozen must be a list of names, not '0'; put it into a list"),
        (on(models.find_frozen_stem, len, ["0"], IMAGES), "network must be a network"),
        (on(models.find_frozen_stem, NET, ["0"], BYTES), r"images must be a float tensor.*uint8"),
    ],
    "models.DomainDiscriminator": [
        (on(models.DomainDiscriminator, 0), "channels must be at least 1, not 0"),
        (
            on(models.DomainDiscriminator, 4, projection=0),
            "projection must be at least 1, not 0",
        ),
        (on(models.DomainDiscriminator, 4, upsample=-5), "upsample must be at least 1, not -5"),
        (on(models.DomainDiscriminator(4, width=1), IMAGES), r"features must be .*\(B, 4, H, W\)"),
    ],
    "models.PooledDiscriminator": [
        (on(models.PooledDiscriminator, 4, "256"), "width must be a whole number at least 1, not '256'"),
        (on(models.PooledDiscriminator(4), FEATURES), r"features must be a float tensor \(B, 4\)"),
    ],
    "models.LargeFOV": [
        (on(models.LargeFOV, 4, 3, dropout=1.5), "dropout must be at least 0 and below 1, not 1.5"),
        (on(models.LargeFOV, 4, 3, rate=0), "rate must be a whole number at least 1 or a list.*not 0"),
        (on(models.LargeFOV, 4, 3, rate=[]), r"rate must be a list.*not \[\]"),
        (on(models.LargeFOV, 4, 3, rate=[6, NAN]), r"rate must be .*not \[6, nan\]"),
        (on(models.LargeFOV(3, 2, 2), FEATURES), r"features must be .*\(B, 3, h, w\)"),
    ],
    "models.Teacher": [
        (on(models.Teacher, NET, 8), "built must be a Backbone, as build_backbone gives it"),
        (lambda: teacher(0), "image_size must be .*not 0"),
        (lambda: teacher(8).forward(BYTES), r"images must be a float tensor.*uint8"),
        (lambda: teacher(8).forward(IMAGES.to(META)), "mean is on the device cpu, but images on meta"),
    ],
    "segmentation.CRF": [
        (lambda: mean_field(crf=segmentation.CRF(iterations=-1)), r"crf\.iterations must be at least 0, not -1"),
        (lambda: mean_field(crf=segmentation.CRF(bilateral_rgb=0)), r"crf\.bilateral_rgb must be above 0, not 0"),
        (lambda: mean_field(crf=segmentation.CRF(gaussian_weight=NAN)), r"crf\.gaussian_weight must be .*not nan"),
    ],
    "segmentation.mean_field": [
        (lambda: mean_field(crf={"iterations": 1}), "crf must be a CRF"),
        (lambda: mean_field(backend=None), "unknown backend None"),
        (lambda: mean_field(images=IMAGES[..., :4, :4]), r"images must be a uint8 tensor.*torch\.float32"),
        (lambda: mean_field(images=BYTES[:, :1, :4, :4]), r"images must be .*\(B, 3, H, W\)"),
        (lambda: mean_field(probabilities=PROBABILITIES.to(META)), "probabilities is on the device meta"),
    ],
    "segmentation.CueSettings": [
        (on(segmentation.CueSettings, threshold=NAN), "--threshold must be at least 0 and below 1, not nan"),
        (on(segmentation.CueSettings, rule="highest_scores"), "unknown rule .*did you mean 'highest_score'"),
    ],
    "segmentation.make_cue": [
        (on(segmentation.make_cue, CUE_MAPS, PRESENT.float()), "present must be a bool tensor.*compare it"),
        (on(segmentation.make_cue, CUE_MAPS, PRESENT[:1]), "present must be .* N = 2 as in maps"),
        (on(segmentation.make_cue, CUE_MAPS, PRESENT, torch.rand(4, 1)), "saliency must be .* W = 4 as in maps"),
        (on(segmentation.make_cue, CUE_MAPS, PRESENT, None, 0.3), "settings must be CueSettings"),
        (on(segmentation.make_cue, CUE_MAPS[:0], PRESENT[:0]), "maps is empty"),
    ],
    "segmentation.grow_seeds": [
        (on(segmentation.grow_seeds, PROBABILITIES, SEEDS.float(), torch.ones(2, 2)), "seeds must be a bool tensor"),
        (on(segmentation.grow_seeds, PROBABILITIES, SEEDS, torch.ones(2, 2), 99), "background must be .*not 99"),
        (on(segmentation.grow_seeds, PROBABILITIES, SEEDS, torch.ones(2, 3)), r"labels \(2, 3\) the shape"),
        (on(segmentation.grow_seeds, PROBABILITIES, SEEDS, torch.ones(2, 2), overruled=1), "overruled must be .*not 1"),
    ],
    "segmentation.combine_maps": [
        (
            on(segmentation.combine_maps, MAPS[None], SCORES[:1, :2], SCORES[:1, :2], SCORES[0]),
            "present must be a bool",
        ),
        (on(segmentation.combine_maps, MAPS[None], SCORES[:1, :2], PRESENT[None], 0.5), "thresholds must be a float"),
        (
            lambda: segmentation.combine_maps(
                torch.rand(1, 255, 1, 1), torch.rand(1, 255), torch.ones(1, 255).bool(), torch.tensor([0.5])
            ),
            "maps are of 255 classes, but a mask in 8 bits has room for 254",
        ),
    ],
    "segmentation.enlarge_maps": [
        (on(segmentation.enlarge_maps, MAPS, (8, 8)), r"maps must be .*\(2, 4, 4\)"),
        (on(segmentation.enlarge_maps, MAPS[None], (0, 8)), r"size must be .*\(0, 8\)"),
    ],
    "segmentation.Inference": [
        (on(segmentation.Inference, scales=(1.0, NAN)), r"scales must be a list.*\(1\.0, nan\)"),
        (on(segmentation.Inference, scales=1.0), r"scales must be a list.*1\.0"),
        (on(segmentation.Inference, combine="logit"), "combine must be .*mean 'logits'"),
    ],
    "segmentation.infer": [
        (on(segmentation.infer, None, IMAGES), "network must be a function.*None"),
        (on(segmentation.infer, lambda x: x, BYTES), r"images must be a float tensor.*uint8"),
        (on(segmentation.infer, lambda x: x, IMAGES, True), "how must be an Inference"),
        (on(segmentation.infer, lambda x: x.mean(), IMAGES), r"probabilities must be .*\(B, L, h, w\)"),
        (on(segmentation.infer, lambda x: x * NAN, IMAGES), "probabilities are not finite"),
    ],
    "data.load_image": [
        (on(data.load_image, Path("nowhere.png")), r"nowhere\.png: no such image"),
        (on(data.load_image, Path("nowhere.png"), "rgb"), "mode must be RGB, .*not 'rgb'"),
        (on(data.load_image, None), "path must be a file's, not None"),
        (on(data.load_image, Path("nowhere.png"), "RGB", 0), "least must be at least 1, not 0"),
    ],
    "data.ImageDataset": [
        (on(data.ImageDataset, [RECORD], 0, "source", len), "num_classes must be at least 1, not 0"),
        (on(data.ImageDataset, [RECORD], 2, "sauce", len), "domain must be source or target.*mean 'source'"),
        (on(data.ImageDataset, [RECORD], 2, "source", None), "transform must be a function.*None"),
        (on(data.ImageDataset, ["a.png"], 2, "source", len), "records must be a list of ImageRecord.*'a.png'"),
        (on(data.ImageDataset, [], 2, "source", len, 5), "records is empty, so there are no 5 samples"),
        (lambda: data.ImageDataset([RECORD], 2, "source", len).labels(labelled(2)), r"a\.png: class 2 is not among"),
        (lambda: data.ImageDataset([RECORD], 2, "source", len).labels(labelled(-1)), r"a\.png: class -1 is not among"),
    ],
    "data.collate": [
        (on(data.collate, []), "samples is empty"),
        (
            on(data.collate, [Sampled, {**Sampled, "id": "b", "image": torch.zeros(3, 5, 5)}]),
            "b: its image is .*of a is",
        ),
        (on(data.collate, [torch.zeros(3, 4, 4)]), "samples must be mappings with an 'id'"),
    ],
    "data.as_floats": [
        (on(data.as_floats, IMAGES), "batch must be a mapping"),
        (on(data.as_floats, {"image": BYTES.long()}), r"image must be uint8, or floats .*torch\.int64"),
        (on(data.as_floats, {"mask": [[0, 1]]}), "mask must be a tensor of real numbers.*a list"),
        (on(data.as_floats, {"saliency": MASKS}), r"saliency must be uint8, or floats .*torch\.bool"),
    ],
    "data.make_saliency": [
        (on(data.make_saliency, {}, Path("nowhere"), "centre", device="banana"), "device must be auto.*'banana'"),
        (on(data.make_saliency, {}, Path("nowhere"), "u2nett"), "unknown saliency model 'u2nett'; did you mean"),
        (on(data.make_saliency, ["a.jpg"], Path("nowhere"), "centre"), "images must be files by id"),
    ],
    "data.DataRequest": [
        (on(data.DataRequest, "source"), "streams must be a list of names, not 'source'; put it into a list"),
        (on(data.DataRequest, withheld="target"), "withheld must be a list of names"),
    ],
    "data.CacheRequest": [(on(data.CacheRequest, None, None), "features must be a function, not None")],
    "data.ClassificationDataModule": [
        (on(data.ClassificationDataModule, "nowhere", augment="crops"), r"data\.augment must be .*mean 'crop'"),
        (on(data.ClassificationDataModule, "nowhere", batch_size=0), r"data\.batch_size must be at least 1 .*, not 0"),
        (on(data.ClassificationDataModule, "nowhere", image_size="32"), r"data\.image_size must be .*'32'"),
        (on(data.ClassificationDataModule, "nowhere", seed=-1), r"data\.seed must be .*not -1"),
        (on(data.ClassificationDataModule, None), r"data\.data must be a text, not None"),
    ],
    "data.SourceTargetDataModule": [
        (on(data.SourceTargetDataModule, "a", "b", shape="pads"), r"data\.shape must be .*mean 'pad'"),
        (on(data.SourceTargetDataModule, "a", "b", augment="flop"), r"data\.augment must be .*mean 'flip'"),
        (on(data.SourceTargetDataModule, "a", "b", guided_by="mask"), r"data\.guided_by must be .*mean 'masks'"),
        (on(data.SourceTargetDataModule, "a", "b", source_share=0), r"data\.source_share must be above 0"),
        (on(data.SourceTargetDataModule, "a", "b", masks="no"), r"data\.masks must be .*'no'"),
    ],
    "data.MultiDomainDataModule": [
        (on(data.MultiDomainDataModule, "a", "art", "photo"), r"data\.sources must be a list of names, not 'art'"),
        (on(data.MultiDomainDataModule, "a", ["art"], "photo", min_crop=NAN), r"data\.min_crop must be .*nan"),
    ],
    "data.CueDataModule": [
        (on(data.CueDataModule, source=None, target="b", workers=-1), r"data\.workers must be .*not -1"),
    ],
    "data.LoaderDataModule": [
        (on(data.LoaderDataModule, LOADER, PAIR, 8), "train must be loaders by stream"),
        (on(data.LoaderDataModule, {"target": LOADER}, "cat", 8), "classes must be a list of names, not 'cat'"),
        (on(data.LoaderDataModule, {"target": LOADER}, PAIR, 8, val="val"), "val must be a DataLoader or None"),
        (on(data.LoaderDataModule, {"target": LOADER}, PAIR, (8, 0)), r"image_size must be .*\(8, 0\)"),
    ],
    "methods.Method": [
        (on(methods.Method, "cat", network=NET), "classes must be a list of names, not 'cat'"),
        (on(methods.Method, PAIR, network=NET, batch_norm="freeze"), "batch_norm must be .*mean 'frozen'"),
        (on(methods.Method, PAIR, network=NET, optimizer="adam"), "optimizer must be .*mean 'adamw'"),
        (on(methods.Method, PAIR, network=NET, lr=0), "lr must be above 0, not 0"),
        (on(methods.Method, PAIR, network=NET, frozen="layer1"), "frozen must be a list of names, not 'layer1'"),
    ],
    "methods.AttnBN": [
        (on(methods.AttnBN, PAIR, network=NET, resolution="maps"), "resolution must be .*mean 'map'"),
        (on(methods.AttnBN, PAIR, network=NET, discriminator_input="pool"), "discriminator_input must be.*'pooled'"),
        (on(methods.AttnBN, PAIR, network=NET, attention_weight=-1), "attention_weight must be at least 0, not -1"),
    ],
    "methods.GAIN": [
        (on(methods.GAIN, PAIR, network=NET, fill="means"), "fill must be .*mean 'mean'"),
        (on(methods.GAIN, PAIR, network=NET, mined_classes="some"), "mined_classes must be all or one, not 'some'"),
    ],
    "methods.AttentionTransfer": [
        (on(methods.AttentionTransfer, PAIR, network=NET, transfer_decay="lin"), "transfer_decay must be .*'linear'"),
        (on(methods.AttentionTransfer, PAIR, network=NET, temperature=NAN), "temperature must be above 0, not nan"),
    ],
    "methods.FineTuning": [
        (on(methods.FineTuning, PAIR, network=NET, alignment="spatail"), "alignment must be .*mean 'spatial'"),
        (on(methods.FineTuning, PAIR, network=NET, label_smoothing=1), "label_smoothing must be .*not 1"),
    ],
    "methods.DomainAdaptation": [
        (on(methods.DomainAdaptation, PAIR, network=NET, domains="art"), "domains must be a list of names, not 'art'"),
        (on(methods.DomainAdaptation, PAIR, network=NET, mmd_weight=INF), "mmd_weight must be at least 0, not inf"),
    ],
    "methods.Segmentation": [
        (on(methods.Segmentation, PAIR, network=NET, grow_background=1), "grow_background must be .*not 1"),
        (on(methods.Segmentation, PAIR, network=NET, balanced="yes"), "balanced must be True or False, not 'yes'"),
    ],
    "methods.load_method": [
        (on(methods.load_method, None), "unknown method None"),
        (on(methods.load_method, "AttnBN"), "unknown method 'AttnBN'; "),
    ],
}


def labelled(label: int) -> data.ImageRecord:
    return data.ImageRecord("a.png", Path("nowhere/a.png"), (label,))


def teacher(size: int) -> models.Teacher:
    return models.Teacher(models.Backbone(network(), "1", 4, False, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)), size)


def mean_field(**changed: Any) -> Tensor:
    given = {"images": BYTES[..., :4, :4].contiguous(), "probabilities": PROBABILITIES} | changed
    return segmentation.mean_field(**given)


CASES = [
    pytest.param(call, says, id=f"{name}-{number}")
    for name, cases in TABLE.items()
    for number, (call, says) in enumerate(cases)
]


@pytest.mark.parametrize(("call", "says"), CASES)
def test_what_cannot_be_is_refused(call: Call, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error that names the argument, what came, and what was expected; nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttnBridgeError, match=says) as found:
        call()
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def public() -> list[str]:
    """All public names that can be called, as the pinned surface has them."""
    places = json.loads(SURFACE.read_text())
    return [
        f"{place}.{name}"
        for place, names in places.items()
        if "." not in place
        for name, what in names.items()
        if what.startswith(("class", "function", "keys"))
    ]


@pytest.mark.parametrize("name", public())
def test_every_public_name_has_hostile_cases(name: str) -> None:
    """A new one fails here until it has: a row of the table, or a reason among the exceptions."""
    assert (name in TABLE) != (name in EXEMPT), f"{name}: give it cases in TABLE, or a reason in EXEMPT"


def test_the_table_names_nothing_else() -> None:
    assert {*TABLE, *EXEMPT} <= {*public(), "methods.METHODS"}


def test_features_that_are_not_finite_have_no_singular_values() -> None:
    with pytest.raises(DivergedError, match=r"features: .* hold NaN or infinity"):
        losses.spectral_shrinkage_loss(SCORES * NAN)


def test_out_of_memory_and_the_networks_own_errors_stay_what_they_are() -> None:
    def fails(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        explain(Answers(fails), IMAGES[:, :1].expand(2, 3, 8, 8))
    with pytest.raises(ZeroDivisionError):
        explain(Answers(lambda y: y / (1 // 0)), IMAGES)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.transpose(2, 3).contiguous().transpose(2, 3),
        IMAGES.clone().requires_grad_(),
        IMAGES * 100 - 50,
        IMAGES.contiguous(memory_format=torch.channels_last),
    ],
    ids=["not contiguous", "with gradient", "outside 0 to 1", "channels last"],
)
def test_unusual_images_are_taken(images: Tensor) -> None:
    plain = images.detach().clone(memory_format=torch.contiguous_format)
    torch.testing.assert_close(explain(NET, images).detach(), explain(NET, plain).detach())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_maps_are_the_same_without_autograd(mode: Callable[[], Any]) -> None:
    wanted = explain(NET, IMAGES).detach()
    with mode():
        torch.testing.assert_close(explain(NET, IMAGES), wanted)


def test_a_network_in_training_mode_stays_in_it() -> None:
    trained = copy.deepcopy(NORMED).train()
    maps = explain(trained, IMAGES, 0, "0")
    assert trained.training
    assert bool(maps.isfinite().all())


def test_no_class_at_all_costs_nothing_that_is_not_a_number() -> None:
    """Labels that are all zero, seeds of nothing, a map of one place, no pair of image and class."""
    nothing = torch.zeros(2, 2)
    values = {
        "margin": losses.multi_label_soft_margin_loss(torch.zeros(2, 2), nothing),
        "expansion": losses.expansion_loss(PROBABILITIES, nothing),
        "seeds": losses.seed_loss(PROBABILITIES, SEEDS),
        "entropy": losses.entropy(torch.ones(2, 1, 1)),
        "mining": losses.attention_mining_loss(torch.zeros(0), torch.zeros(0).long()),
        "uncounted": losses.attention_loss(MAPS, SALIENCY, counted=torch.zeros(2, 8, 8).bool()),
        "dark": losses.attention_transfer_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)),
    }
    assert all(bool(value.isfinite()) for value in values.values()), values
    assert values["entropy"] == values["seeds"] == values["mining"] == values["uncounted"] == 0
    none = torch.zeros(2, 5, dtype=torch.bool)
    assert explain(NET, IMAGES, none).abs().max() == 0
    assert not segmentation.grow_seeds(PROBABILITIES, SEEDS, nothing).any()


def test_empty_batches_count_nothing() -> None:
    """A process may have no image of the last batch."""
    first, second = segmented(), segmented()
    for metric in (first, second):
        metric.update(SCORES, torch.rand(2, 5, 4, 4, generator=torch.Generator().manual_seed(1)), MASKS.long(), LABELS)
    second.update(SCORES[:0], torch.rand(0, 5, 4, 4), MASKS[:0].long(), LABELS[:0])
    torch.testing.assert_close(first.compute(), second.compute(), equal_nan=True)
    for metric, given in (
        (metrics.PointingGame(), (MAPS, MASKS)),
        (metrics.EnergyInside(), (MAPS, MASKS)),
        (metrics.LabelPrecision(5), (SCORES, LABELS)),
    ):
        metric.update(*given)
        value = float(metric.compute())
        metric.update(*(each[:0] for each in given))
        assert float(metric.compute()) == value
    assert mean_field(images=BYTES[:0, :, :4, :4], probabilities=PROBABILITIES[:0]).shape == (0, 3, 4, 4)
    assert segmentation.grow_seeds(PROBABILITIES[:0], SEEDS[:0], torch.ones(0, 2)).shape == (0, 3, 4, 4)
    assert segmentation.enlarge_maps(torch.rand(0, 2, 4, 4), (8, 8)).shape == (0, 2, 8, 8)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.PointingGame(), metrics.EnergyInside(), metrics.BestThresholdIoU(), metrics.MaxBoxAccuracy(),
        metrics.LabelPrecision(2), metrics.Insertion(NET), metrics.Deletion(NET),
    ],
    ids=lambda metric: type(metric).__name__,
)  # fmt: skip
def test_a_score_of_nothing_is_nan_and_torchmetrics_warns(metric: Any) -> None:
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        value = metric.compute()
    assert bool(torch.as_tensor(value[0] if isinstance(value, tuple) else value).isnan())


def test_a_loop_over_a_dataset_ends(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    record = data.ImageRecord("a.png", tmp_path / "a.png", (0,))
    twice = data.ImageDataset([record], 2, "source", lambda parts: parts, length=2)
    assert [sample["id"] for sample in twice] == ["a.png", "a.png"]
    with pytest.raises(IndexError, match="sample 2 of 2"):
        twice[2]


def test_checks_look_at_no_values_of_tensors() -> None:
    """On a GPU that would be waited for; a tensor on `meta` has no values, so a look at them would fail."""
    meta = partial(torch.rand, device=META)
    losses.attention_loss(meta(2, 4, 4), meta(2, 8, 8), counted=meta(2, 8, 8))
    losses.kd_loss(meta(2, 5), meta(2, 5))
    losses.multi_label_soft_margin_loss(meta(2, 5), meta(2, 5))
    losses.attention_transfer_loss(meta(2, 4, 6, 6), meta(2, 3, 6, 6))
    losses.hint_loss(meta(2, 4, 6, 6), meta(2, 4, 3, 3))
    losses.seed_loss(meta(2, 3, 4, 4), meta(2, 3, 4, 4) > 0.5)
    losses.expansion_loss(meta(2, 3, 4, 4), meta(2, 2))
    losses.boundary_loss(meta(2, 3, 4, 4), meta(2, 3, 4, 4))
    losses.discriminator_loss(meta(2, 1), meta(3, 1))
    losses.spatial_alignment_loss(meta(2, 4, 6, 6), meta(2, 4, 6, 6), meta(2, 6, 6))
    losses.delta_alignment_loss(meta(2, 4, 6, 6), meta(2, 4, 6, 6), meta(4))
    losses.erase(meta(2, 3, 8, 8), losses.soft_mask(meta(2, 4, 4)), "mean", meta(3, 1, 1))
    losses.gradient_transfer_loss(meta(2, 3, 8, 8), meta(2, 3, 8, 8))
