"""A segmentation network from cues: SEC (ECCV 2016), DSRG (CVPR 2018), and training on masks that one has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.attention.layers import eval_mode
from attnbridge.attention.observe import forward_until
from attnbridge.bounds import Inside, NotNegative, Width
from attnbridge.data.sample import IGNORE_INDEX, Batch, as_floats
from attnbridge.data.transforms import sides
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.weak_supervision import boundary_loss, expansion_loss, seed_loss
from attnbridge.methods.base import Method
from attnbridge.models.large_fov import LargeFOV
from attnbridge.segmentation.crf import CRF, mean_field
from attnbridge.segmentation.cues import CueSettings
from attnbridge.segmentation.grow import grow_seeds

SMALL = "small"
"""The images at the resolution of the labels, in a batch of kept views."""

SALIENT = 0.5
"""Saliency of a source image above which a position is a seed of its class; below the cues' of the background."""


class LabelPrediction(TypedDict):
    """What a segmentation network says of a batch.

    Attributes:
        probabilities: of the labels, background first, ``(B, N + 1, h, w)``.
        scores: the largest probability of each class in an image, ``(B, N)``.
        maps: the classes' probabilities, ``(B, N, h, w)``.
    """

    probabilities: Tensor
    scores: Tensor
    maps: Tensor


class Segmentation(Method):
    r"""DeepLab-LargeFOV learns from cues and image labels.

    .. math:: L = w_s L_{seed} + w_e L_{expand} + w_b L_{boundary} + w_{src} L_{seed}^{source}

    SEC is the first three, with ``balanced: false`` and ``grow: false``; DSRG, the default, the first and the third,
    with seeds that grow; retraining on masks that were made, the first alone, not grown. The last is ours: the seeds of
    a source image, with its one class, are what is salient in it and what is not. The images' labels decide what
    may grow and expand. The CRF's larger deviation is published for 41 x 41 labels, 80 / 12 of them, and is in
    proportion for others.

    Args:
        seeding_weight: :math:`w_s` of :func:`~attnbridge.losses.weak_supervision.seed_loss`.
        expansion_weight: :math:`w_e` of :func:`~attnbridge.losses.weak_supervision.expansion_loss`.
        boundary_weight: :math:`w_b` of :func:`~attnbridge.losses.weak_supervision.boundary_loss`.
        source_weight: :math:`w_{src}`; above 0 the data must have a source with saliency maps.
        balanced: seeds of the background and of the classes are normalised apart.
        grow: the seeds of a step are what grows from the cues by the network's answer.
        grow_background: probability from which on the background grows.
        grow_foreground: from which on a class does.
        head_width: channels of the head; the published 1024.
        head_rate: of its dilation; the published 12 at a stride of 8.
        stride: image pixels per position of the labels.
        options: everything of :class:`~attnbridge.methods.base.Method`.
    """

    dilated = True

    def __init__(
        self,
        classes: Sequence[str],
        seeding_weight: NotNegative = 1.0,
        expansion_weight: NotNegative = 0.0,
        boundary_weight: NotNegative = 1.0,
        source_weight: NotNegative = 0.0,
        balanced: bool = True,
        grow: bool = True,
        grow_background: Inside = 0.99,
        grow_foreground: Inside = 0.85,
        head_width: Width = 1024,
        head_rate: Width = 12,
        stride: int | None = 8,
        **options: Any,
    ) -> None:
        super().__init__(classes, stride=stride, **options)
        self.seeding_weight, self.expansion_weight = seeding_weight, expansion_weight
        self.boundary_weight, self.balanced = boundary_weight, balanced
        self.source_weight = source_weight
        self.streams = ("source", "target") if source_weight else ("target",)
        self.grow, self.grow_background, self.grow_foreground = grow, grow_background, grow_foreground
        self.head = LargeFOV(self.channels, len(self.classes) + 1, head_width, head_rate)
        self.grid = self._without_what_follows()

    def _without_what_follows(self) -> tuple[int, int]:
        """Do not train what comes after the layer; the height and width of the labels."""
        with eval_mode(self.network), torch.enable_grad():
            features = self._features(torch.zeros(1, 3, *sides(self.image_size)))
            trained = [p for p in self.network.parameters() if p.requires_grad]
            used = torch.autograd.grad(features.sum(), trained, allow_unused=True) if trained else ()
        for parameter, gradient in zip(trained, used, strict=True):
            parameter.requires_grad_(gradient is not None)
        return features.shape[2], features.shape[3]

    def _features(self, given: Tensor) -> Tensor:
        """The layer's features ``(B, C, h, w)`` of what the network is given."""
        return self.spatial(forward_until(self.network, given, self.layer))

    @property
    def loss_weights(self) -> dict[str, float]:
        return {
            "target/seeding": self.seeding_weight,
            "target/expansion": self.expansion_weight,
            "target/boundary": self.boundary_weight,
            "source/seeding": self.source_weight,
        }

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        target = batch["target"]
        with self.stem.inputs([batch[name] for name in self.streams]) as given:
            answers = self.head(self._features(given)).float().softmax(1)
        known, probabilities = answers.split([len(answers) - len(target["labels"]), len(target["labels"])])
        seeds = seeds_of(target["mask"], probabilities)
        if self.grow:
            seeds = grow_seeds(probabilities, seeds, target["labels"], self.grow_background, self.grow_foreground)
        losses = {}
        if self.source_weight:
            losses["source/seeding"] = seed_loss(known, salient_seeds(batch["source"], known), self.balanced)
        if self.seeding_weight:
            losses["target/seeding"] = seed_loss(probabilities, seeds, self.balanced)
        if self.expansion_weight:
            losses["target/expansion"] = expansion_loss(probabilities, target["labels"])
        if self.boundary_weight:
            losses["target/boundary"] = boundary_loss(probabilities, self._refined(target, probabilities.detach()))
        return losses

    def _refined(self, target: Batch, probabilities: Tensor) -> Tensor:
        """What a CRF at the labels' resolution makes of the network's answer."""
        given: dict[str, Any] = dict(target)
        small = given[SMALL] if SMALL in given else self.small(target["image"])
        crf = CRF(bilateral_xy=80 / 12 * max(self.grid) / 41, gaussian_xy=3 / 12)
        return mean_field(small, probabilities, crf)

    def small(self, images: Tensor) -> Tensor:
        """Images in [0, 1] at the resolution of the labels, uint8."""
        smaller = F.interpolate(images, self.grid, mode="bilinear", antialias=True, align_corners=False)
        return (smaller.clamp(0, 1) * 255).round().byte()

    def features_to_cache(self, batch: Batch) -> dict[str, Tensor]:
        """What the frozen beginning makes of the images, the cues, and the images for the CRF."""
        return {**super().features_to_cache(batch), SMALL: self.small(as_floats(batch)["image"])}

    def cache_key(self) -> tuple[str, dict[str, Tensor]]:
        words, state = super().cache_key()
        return f"{words} {self.grid}", state

    def predict_batch(self, images: Tensor) -> LabelPrediction:  # type: ignore[override]
        """Probabilities of the labels of images in [0, 1], and what follows of them; leaves no graph behind."""
        with torch.no_grad():
            logits = self.head(self._features(self.normalised(images)))
            probabilities = logits.float().softmax(1)
        maps = probabilities[:, 1:]
        return {"probabilities": probabilities, "scores": maps.amax((2, 3)), "maps": maps}

    def validation_step(self, batch: Batch, _index: int, dataloader_idx: int = 0) -> Any:
        """Probabilities of the labels."""
        return self.predict_batch(batch["image"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head at ``lr``, the network at ``lr * backbone_lr``."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return self.optimisation.groups(list(self.head.parameters()), trained)


def seeds_of(cues: Tensor, probabilities: Tensor) -> Tensor:
    """Cues ``(B, H, W)``, 255 where nothing is known, as bool ``(B, L, h, w)`` beside probabilities of that shape.

    >>> seeds_of(torch.tensor([[[1, 255]]]), torch.rand(1, 2, 1, 2))[0].int().tolist()
    [[[0, 0]], [[1, 0]]]
    """
    small = F.interpolate(cues[:, None].float(), probabilities.shape[2:], mode="nearest-exact")[:, 0].long()
    known = small != IGNORE_INDEX
    one_hot = F.one_hot(small * known, probabilities.shape[1]).movedim(3, 1)
    return (one_hot * known[:, None]).bool()


def salient_seeds(source: Batch, probabilities: Tensor) -> Tensor:
    """Seeds of images with one class each from their saliency maps, bool ``(B, L, h, w)`` beside probabilities.

    Raises:
        AttnBridgeError: for a batch without saliency.

    >>> source = {"saliency": torch.tensor([[[0.9, 0.3, 0.0]]]), "labels": torch.tensor([[0.0, 1.0]])}
    >>> salient_seeds(source, torch.rand(1, 3, 1, 3))[0].int().tolist()
    [[[0, 0, 1]], [[0, 0, 0]], [[1, 0, 0]]]
    """
    if "saliency" not in source:
        raise AttnBridgeError(
            "the source's seeds need saliency maps of its images; give `data.saliency`, or set `source_weight: 0`"
        )
    size = probabilities.shape[2:]
    small = F.interpolate(source["saliency"][:, None].float(), size, mode="bilinear", antialias=True)
    return torch.cat([small < CueSettings.background, (small > SALIENT) & (source["labels"][:, :, None, None] > 0)], 1)
