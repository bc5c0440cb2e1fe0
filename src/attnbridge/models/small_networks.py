"""Networks for images of 32 pixels, under timm's names: WideResNets and Network in Network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
WIDE_RESNETS = ((16, 1), (16, 2), (16, 4), (28, 10), (40, 1), (40, 2), (40, 4))
"""Depth and width that have a name: ``wrn_16_1``, ..."""
TIMM_OWN = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""What ``timm.create_model`` hands on, and only concerns weights."""


class _Small(nn.Module):
    """What timm's users expect of a network."""

    pretrained_cfg: dict[str, Any]

    def __init__(self, num_classes: int, num_features: int, classifier: str) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, num_features
        self.pretrained_cfg = {
            "mean": CIFAR_MEAN,
            "std": CIFAR_STD,
            "input_size": (3, 32, 32),
            "num_classes": num_classes,
            "classifier": classifier,
        }

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.pretrained_cfg["classifier"])


class _Block(nn.Module):
    """Two convolutions after batch norm and ReLU each; the shortcut is a convolution where the width changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn0, self.bn1 = nn.BatchNorm2d(before), nn.BatchNorm2d(width)
        self.conv0 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False) if before != width else None

    def forward(self, x: Tensor) -> Tensor:
        ready = F.relu(self.bn0(x))
        out: Tensor = self.conv1(F.relu(self.bn1(self.conv0(ready))))
        return out + (x if self.shortcut is None else self.shortcut(ready))


class WideResNet(_Small):
    """WideResNet-d-k (Zagoruyko and Komodakis, BMVC 2016), pre-activated, as attention transfer uses it.

    Args:
        depth: 6 n + 4.
        width: multiplies the 16, 32 and 64 channels of the groups ``group0``, ``group1``, ``group2``.
        num_classes: number of logits.

    >>> network = WideResNet(16, 2)
    >>> sum(p.numel() for p in network.parameters()) // 1000
    691
    """

    def __init__(self, depth: int, width: int, num_classes: int = 10) -> None:
        super().__init__(num_classes, 64 * width, "fc")
        if (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4, not {depth}")
        self.conv0 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        before = 16
        for number, channels in enumerate((16 * width, 32 * width, 64 * width)):
            blocks = []
            for i in range((depth - 4) // 6):
                blocks.append(_Block(before, channels, 2 if number and not i else 1))
                before = channels
            self.add_module(f"group{number}", nn.Sequential(*blocks))
        self.bn, self.relu = nn.BatchNorm2d(before), nn.ReLU()
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        for number in range(3):
            x = self.get_submodule(f"group{number}")(x)
        logits: Tensor = self.fc(self.relu(self.bn(x)).mean((2, 3)))
        return logits


class NetworkInNetwork(_Small):
    """Network in Network (Lin, Chen, Yan, ICLR 2014) for CIFAR, without batch norm: what gradient-based attention
    transfer is tried on, since the gradient of one image must not depend on the others.

    Args:
        width: multiplies the 192, 160 and 96 channels; 1 is the wide one of a million weights, a half the thin one, a
            quarter the tiny one; that and ``nin_small``, a half, are without dropout, for short schedules on two cores.
        num_classes: number of logits.
        dropout: after the first two of its three blocks.

    >>> sum(p.numel() for p in NetworkInNetwork(1.0).parameters()) // 1000
    966
    """

    def __init__(self, width: float = 1.0, num_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__(num_classes, num_classes, "classifier")
        a, b, c = (max(1, round(n * width)) for n in (192, 160, 96))
        self.block0 = _stack(3, 5, (a, b, c))
        self.pool0 = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Dropout(dropout))
        self.block1 = _stack(c, 5, (a, a, a))
        self.pool1 = nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.Dropout(dropout))
        self.block2 = _stack(a, 3, (a, a))
        self.classifier = nn.Conv2d(a, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.block1(self.pool0(self.block0(x))))
        logits: Tensor = self.classifier(self.block2(x)).mean((2, 3))
        return logits


def _stack(before: int, kernel: int, widths: tuple[int, ...]) -> nn.Sequential:
    """A convolution and 1x1 convolutions after it, each with its ReLU."""
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        size = 1 if number else kernel
        layers += [nn.Conv2d(before, width, size, padding=size // 2), nn.ReLU()]
        before = width
    return nn.Sequential(*layers)


def _named(name: str, make: Callable[..., nn.Module]) -> None:
    """Let timm make it by name; there are no weights to fetch."""

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise RuntimeError(f"there are no published weights of {name}")
        return make(**{key: value for key, value in options.items() if key not in TIMM_OWN})

    create.__name__, create.__module__ = name, __name__
    register_model(create)


for _depth, _width in WIDE_RESNETS:
    _named(f"wrn_{_depth}_{_width}", lambda d=_depth, k=_width, **options: WideResNet(d, k, **options))
_named("nin_wide", NetworkInNetwork)
_named("nin_thin", lambda **options: NetworkInNetwork(0.5, **options))
_named("nin_small", lambda **options: NetworkInNetwork(0.5, dropout=0, **options))
_named("nin_tiny", lambda **options: NetworkInNetwork(0.25, dropout=0, **options))
