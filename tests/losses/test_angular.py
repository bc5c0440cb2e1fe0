"""ArcFace on a classifier of the network's own against its formula, in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnbridge.errors import AttnBridgeError
from attnbridge.losses.angular import angular_margin


def test_the_margin_equals_its_formula_and_trains_the_classifier() -> None:
    torch.manual_seed(0)
    classifier = nn.Linear(8, 5)
    features = torch.randn(6, 8, requires_grad=True)
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    labels = F.one_hot(classes, 5).float()
    cosine = F.normalize(features) @ F.normalize(classifier.weight).t()
    right = torch.arange(6), classes
    moved = cosine.clone()
    moved[right] = torch.cos(torch.acos(cosine[right]) + math.radians(20))
    wanted = F.cross_entropy(16 * moved, classes)
    found = angular_margin(classifier, 20, 16)(features, labels)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, [features, classifier.weight]),
        torch.autograd.grad(wanted, [features, classifier.weight]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert theirs.abs().max() > 0


def test_a_classifier_that_is_not_linear_is_told() -> None:
    with pytest.raises(AttnBridgeError, match="ArcFace needs a linear classifier, but this network has a Conv2d"):
        angular_margin(nn.Conv2d(3, 4, 1), 20, 16)
