"""A segmentation network from cues: SEC (ECCV 2016), DSRG (CVPR 2018), and training on masks that one has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.attention.layers import eval_mode
from attnbridge.attention.observe import forward_until
from attnbridge.bounds import Inside, NotNegative, Width
from attnbridge.data.sample import IGNORE_INDEX, Batch, as_floats
from attnbridge.data.transforms import sides
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.weak_supervision import LEAST, boundary_loss, expansion_loss, floored, raised, seed_loss
from attnbridge.methods.base import Method
from attnbridge.models.large_fov import LargeFOV
from attnbridge.models.weights import load_tensors
from attnbridge.segmentation.crf import CRF, mean_field
from attnbridge.segmentation.cues import CueSettings
from attnbridge.segmentation.grow import grow_seeds

Setting = Literal["paper", "light"]
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

    ``setting: paper`` is what the authors' code does (speedinghzl/DSRG, 91efdf7; kolesman/SEC, c784190). With ``grow``
    it is DSRG's, else SEC's:

    - The network is DeepLab's VGG16 with its poolings; networks that are no VGG stay as they are. ``head_rate`` takes
      DSRG's four branches.
    - Images and cues are brought to the labels' resolution so that the i-th position is at pixel 8 i, without
      smoothing.
    - The CRF's larger deviation is 80 / 12 whatever the resolution. DSRG's is given the probabilities themselves as
      negative energies, not their logarithms (pylayers.py:67-82); SEC's is given the logits.
    - Seeds grow from what the CRF gives, and sure positions overrule seeds (``overruled`` of
      :func:`~attnbridge.segmentation.grow.grow_seeds`).
    - The boundary loss is the ``published`` one of :func:`~attnbridge.losses.weak_supervision.boundary_loss`.
    - Without growth, expansion and boundary, on whole masks, the loss is the cross entropy, the mean over all known
      positions of a batch (DSRG's train-f.prototxt:732-744).
    - Learning rates are :meth:`~attnbridge.methods.optimisation.Optimisation.deeplab_groups`.
    - ``weights`` that are the checkpoint of a segmentation network give the head, too: a second training begins with
      the first network (DSRG's run.sh:9).

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
        head_rate: of its dilation; the published 12 at a stride of 8. Several rates are as many branches, whose
            logits are summed.
        stride: image pixels per position of the labels.
        setting: ``paper`` or ``light``, see above.
        options: everything of :class:`~attnbridge.methods.base.Method`.
    """

    dilated = True
    uses_head = False
    masked_streams = ("target",)

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
        head_rate: Width | Sequence[Width] = 12,
        stride: int | None = 8,
        setting: Setting = "light",
        **options: Any,
    ) -> None:
        super().__init__(classes, stride=stride, **options)
        self.seeding_weight, self.expansion_weight = seeding_weight, expansion_weight
        self.boundary_weight, self.balanced = boundary_weight, balanced
        self.source_weight = source_weight
        self.streams = ("source", "target") if source_weight else ("target",)
        self.grow, self.grow_background, self.grow_foreground = grow, grow_background, grow_foreground
        self.head = LargeFOV(self.channels, len(self.classes) + 1, head_width, head_rate)
        self.paper = setting == "paper"
        self.grid = self._without_what_follows()
        if self.paper and self.hparams["weights"] not in ("imagenet", "none"):
            self._load_head(Path(self.hparams["weights"]))

    @property
    def backbone_options(self) -> dict[str, Any]:
        poolings = "deeplab" if self.hparams["setting"] == "paper" else "own"
        return {**super().backbone_options, "poolings": poolings}

    def _load_head(self, path: Path) -> None:
        """Begin with the head of an earlier segmentation network, if the weights are one's."""
        found = load_tensors(path)
        state = found.get("state_dict") if isinstance(found, dict) else None
        own = {k.removeprefix("head."): v for k, v in (state or {}).items() if k.startswith("head.")}
        if not own or "own_network" not in found:
            return
        try:
            self.head.load_state_dict(own)
        except RuntimeError as error:
            raise AttnBridgeError(
                f"{path}: its head does not fit ({str(error).splitlines()[-1].strip()}); give model.head_rate and "
                "model.head_width as that run had them"
            ) from None

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
        if "mask" not in target:
            raise AttnBridgeError(
                "a batch of target has no cues; give (images, labels, masks), 255 where none is known"
            )
        with self.stem.inputs([batch[name] for name in self.streams]) as given:
            logits = self.head(self._features(given)).float()
        answers = logits.softmax(1)
        known, probabilities = answers.split([len(answers) - len(target["labels"]), len(target["labels"])])
        losses = {}
        if self.source_weight:
            losses["source/seeding"] = seed_loss(known, salient_seeds(batch["source"], known), self.balanced)
        if self.seeding_weight and self._on_whole_masks:
            losses["target/seeding"] = mask_loss(logits[len(known) :], target["mask"])
            return losses
        refined = self._refined(target, probabilities.detach()) if self._asks_the_crf else None
        if self.seeding_weight:
            losses["target/seeding"] = seed_loss(
                probabilities, self._seeds(target, probabilities, refined), self.balanced
            )
        if self.expansion_weight:
            losses["target/expansion"] = expansion_loss(probabilities, target["labels"])
        if refined is not None and self.boundary_weight:
            published = self._published if self.paper else None
            losses["target/boundary"] = boundary_loss(probabilities, refined, published)
        return losses

    @property
    def _published(self) -> Literal["sec", "dsrg"]:
        return "dsrg" if self.grow else "sec"

    @property
    def _on_whole_masks(self) -> bool:
        return self.paper and not (self.grow or self.expansion_weight or self.boundary_weight)

    @property
    def _asks_the_crf(self) -> bool:
        return bool(self.boundary_weight) or (self.paper and self.grow)

    def _seeds(self, target: Batch, probabilities: Tensor, refined: Tensor | None) -> Tensor:
        """The cues, and what grows from them."""
        seeds = seeds_of(target["mask"], probabilities, self.paper)
        if not self.grow:
            return seeds
        sure = raised(refined) if self.paper and refined is not None else probabilities
        levels = (self.grow_background, self.grow_foreground)
        return grow_seeds(sure, seeds, target["labels"], *levels, overruled=self.paper)

    def _refined(self, target: Batch, probabilities: Tensor) -> Tensor:
        """What a CRF at the labels' resolution makes of the network's answer."""
        given: dict[str, Any] = dict(target)
        small = given[SMALL] if SMALL in given else self.small(target["image"])
        deviation = 80 / 12 if self.paper else 80 / 12 * max(self.grid) / 41
        if self.paper and self.grow:
            probabilities = floored(probabilities).clamp_min(LEAST).softmax(1)
        return mean_field(small, probabilities, CRF(bilateral_xy=deviation, gaussian_xy=3 / 12))

    def small(self, images: Tensor) -> Tensor:
        """Images in [0, 1] at the resolution of the labels, uint8."""
        corners = self.paper
        smaller = F.interpolate(images, self.grid, mode="bilinear", antialias=not corners, align_corners=corners)
        return (smaller.clamp(0, 1) * 255).round().byte()

    def features_to_cache(self, batch: Batch) -> dict[str, Tensor]:
        """What the frozen beginning makes of the images, the cues, and the images for the CRF."""
        return {**super().features_to_cache(batch), SMALL: self.small(as_floats(batch)["image"])}

    def cache_key(self) -> tuple[str, dict[str, Tensor]]:
        words, state = super().cache_key()
        return f"{words} {self.grid}{' paper' * self.paper}", state

    def predict_batch(self, images: Tensor) -> LabelPrediction:  # type: ignore[override]
        """Probabilities of the labels of images in [0, 1], and what follows of them; leaves no graph behind."""
        with torch.no_grad():
            logits = self.head(self._features(self.normalised(images)))
            probabilities = logits.float().softmax(1)
        maps = probabilities[:, 1:]
        return {"probabilities": probabilities, "scores": maps.amax((2, 3)), "maps": maps}

    def evaluate_batch(self, batch: Batch) -> LabelPrediction:
        """Probabilities of the labels."""
        return self.predict_batch(batch["image"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head at ``lr``, the network at ``lr * backbone_lr``; as published, DeepLab's groups."""
        if self.paper:
            rest = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
            last = [named for layer in self.head.last for named in layer.named_parameters()]
            own = {id(p) for _, p in last}
            head = [(name, p) for name, p in self.head.named_parameters() if id(p) not in own]
            return self.optimisation.deeplab_groups(last, head, rest)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return self.optimisation.groups(list(self.head.parameters()), trained)


def seeds_of(cues: Tensor, probabilities: Tensor, corners: bool = False) -> Tensor:
    """Cues ``(B, H, W)``, 255 where nothing is known, as bool ``(B, L, h, w)`` beside probabilities of that shape.

    ``corners``: the outer positions are those of the outer pixels, as in :func:`at_corners`.

    >>> seeds_of(torch.tensor([[[1, 255]]]), torch.rand(1, 2, 1, 2))[0].int().tolist()
    [[[0, 0]], [[1, 0]]]
    """
    height, width = probabilities.shape[2:]
    if corners:
        small = at_corners(cues, height, width)
    else:
        small = F.interpolate(cues[:, None].float(), (height, width), mode="nearest-exact")[:, 0].long()
    known = small != IGNORE_INDEX
    one_hot = F.one_hot(small * known, probabilities.shape[1]).movedim(3, 1)
    return (one_hot * known[:, None]).bool()


def at_corners(masks: Tensor, height: int, width: int) -> Tensor:
    """Labels ``(B, H, W)`` at ``height`` x ``width`` of their places, the outer ones kept: at every eighth of 321 for
    41, as DSRG's code takes them (train-f.prototxt:721-731).

    >>> at_corners(torch.arange(9)[None, None], 1, 2)
    tensor([[[0, 8]]])
    """
    rows = torch.linspace(0, masks.shape[1] - 1, height, device=masks.device).round().long()
    columns = torch.linspace(0, masks.shape[2] - 1, width, device=masks.device).round().long()
    return masks[:, rows[:, None], columns].long()


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy of logits ``(B, L, h, w)`` with masks ``(B, H, W)``, 255 ignored: the mean over the known positions
    of the batch, 0 where there are none.

    >>> mask_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255, 255]]]))
    tensor(0.6931)
    """
    small = at_corners(masks, logits.shape[2], logits.shape[3])
    total = F.cross_entropy(logits, small, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (small != IGNORE_INDEX).sum().clamp_min(1)


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
