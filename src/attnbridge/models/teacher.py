"""A network beside the one that is trained: it is asked, and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.attention.layers import find_head, spatial_of
from attnbridge.attention.observe import Observation, observe
from attnbridge.bounds import MapSize, check_value
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError, shown
from attnbridge.models.backbones import Backbone
from attnbridge.models.weights import PACKAGED, load_state


class Teacher:
    """A frozen network, in eval mode, which gets images as *it* wants them normalised.

    It is no module of the method that asks it, so it is in no checkpoint and gets no gradient.

    Args:
        built: from :func:`~attnbridge.models.backbones.build_backbone`.
        image_size: side of the images in pixels, or height and width.
        head: name of the layer that gives its logits; default: :func:`~attnbridge.attention.layers.find_head`.

    Raises:
        AttnBridgeError: for something else than a backbone, or a size that is none.
    """

    def __init__(self, built: Backbone, image_size: Size, head: str | None = None) -> None:
        if not isinstance(built, Backbone):
            raise AttnBridgeError(f"built must be a Backbone, as build_backbone gives it, not {shown(built)}")
        check_value("image_size", image_size, MapSize)
        self.network = built.network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (built.mean, built.std))
        self.image_size, self.head = image_size, head

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Teacher:
        """Move it, like a module."""
        self.network.to(device, dtype)
        self.mean, self.std = self.mean.to(device, dtype), self.std.to(device, dtype)
        return self

    def normalised(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)``, floats in [0, 1], as the network wants them."""
        check_tensors(empty=True, images=(images, "B 3 H W"), mean=(self.mean, "C 1 1"))
        images = images.to(self.mean.dtype)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor, layers: Sequence[str] = ()) -> Observation:
        """Logits, and the features of ``layers`` as ``(B, C, h, w)``, of images in [0, 1]; without a graph."""
        told = observe(self.network, self.normalised(images), layers, grad=False)
        return Observation(told.logits, as_maps(told.features, self.network, self.image_size))

    def fingerprint(self) -> tuple[str, dict[str, Tensor]]:
        """All that its answers depend on: its structure in words, and its weights and normalisation by name."""
        state = {"mean": self.mean, "std": self.std, **self.network.state_dict()}
        words = f"timm {timm.__version__} {self.image_size} {self.network!r}"
        return words, {f"teacher.{name}": value for name, value in state.items()}

    def check_answers(self, weights: str) -> None:
        """Raise AttnBridgeError if the classifier was not read from ``weights``, so that its answers would be noise."""
        if weights == "none":
            return  # as asked for
        classifier: Any = find_head(self.network) if self.head is None else self.network.get_submodule(self.head)
        count = classifier.weight.shape[0]
        if weights == "imagenet":
            cfg: Any = getattr(self.network, "pretrained_cfg", {})
            packaged = PACKAGED.get(cfg.get("architecture", ""))
            known = count == cfg.get("num_classes") and (packaged is None or packaged.classifier)
        else:
            name = next(name for name, module in self.network.named_modules() if module is classifier)
            found = load_state(Path(weights), self.network.state_dict()).get(f"{name}.weight")
            known = found is not None and found.shape == classifier.weight.shape
        if not known:
            raise AttnBridgeError(
                f"{weights} weights: have no classifier of {count} classes, so their answers say nothing; take others "
                "(a teacher is trained by `teacher:` in the configuration), or do without what asks for answers: "
                "distillation_weight, gradient_weight, forgetting_weight"
            )


def as_maps(features: Mapping[str, Tensor], network: nn.Module, image_size: Size) -> dict[str, Tensor]:
    """Each layer's features, as the network gives them, as ``(B, C, h, w)``."""
    return {name: spatial_of(value, network, *sides(image_size))(value) for name, value in features.items()}
