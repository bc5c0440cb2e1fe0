"""Guided Attention Inference Network (Li, Wu, Peng, Ernst, Fu; CVPR 2018, TPAMI 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnbridge.attention.normalise import Normalise
from attnbridge.attention.observe import run_for_scores
from attnbridge.bounds import Inside, NotNegative, Positive
from attnbridge.data.sample import IGNORE_INDEX, Batch
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.attention import attention_distance, mean_by_image
from attnbridge.losses.mining import Fill, attention_mining_loss, erase, soft_mask
from attnbridge.methods.attnbn import AttnBN, ForwardPass, frozen


class GAIN(AttnBN):
    r"""The map of a class is erased from the image, and what is left must not show the class any more.

    .. math:: L = L_{cl} + \alpha L_{am} + \omega L_e, \qquad
              L_{am} = \frac{1}{n} \sum_c S^c\bigl(I - T(A^c) \cdot I\bigr), \qquad
              L_e = \frac{1}{n} \sum_c (A^c - H^c)^2

    (Equations 5, 6 and 8.) The target's images are classified and mined; :math:`L_e` guides the maps of the few
    images whose masks may be used, ``data.guided``: extended GAIN. The source's losses are those of
    :class:`~attnbridge.methods.attnbn.AttnBN` and off unless they are given weights, so mining composes with them.

    Args:
        source_weight: of the source's classification.
        attention_weight: of AttnBN's constraint on the source's maps.
        target_weight: of the classification.
        adversarial_weight: of AttnBN's adversary.
        mining_weight: :math:`\alpha`; the paper's 1.
        guidance_weight: :math:`\omega`, 0 without masks; the paper has 10, for maps of a scale that it does not give.
        mask_threshold: :math:`\sigma` of the soft mask; not given in the paper.
        mask_slope: its :math:`\omega`; not given in the paper.
        fill: what is put where the image is erased: ``zero`` (the paper's), the network's ``mean`` colour, ``blur``.
        mining_stream: ``shared``: the mining loss also trains the network on erased images; ``frozen``: it reaches
            the network through the mask alone, so the network cannot learn to reject erased images.
        mined_classes: ``all`` true classes of an image are erased, each from a copy of it, or ``one`` drawn at random,
            which costs one forward pass of the batch and has the same mean.
        mining_score: of the erased class: ``sigmoid`` of its logit, or the ``logit`` itself.
        mining_normalise: of the maps before they become soft masks.
        options: everything of :class:`~attnbridge.methods.attnbn.AttnBN`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        source_weight: NotNegative = 0.0,
        attention_weight: NotNegative = 0.0,
        target_weight: NotNegative = 1.0,
        adversarial_weight: NotNegative = 0.0,
        mining_weight: NotNegative = 1.0,
        guidance_weight: NotNegative = 0.0,
        mask_threshold: Inside = 0.5,
        mask_slope: Positive = 10.0,
        fill: Fill = "mean",
        mining_stream: Literal["shared", "frozen"] = "shared",
        mined_classes: Literal["all", "one"] = "all",
        mining_score: Literal["sigmoid", "logit"] = "sigmoid",
        mining_normalise: Literal["max", "minmax"] = "max",
        **options: Any,
    ) -> None:
        super().__init__(
            classes,
            source_weight=source_weight,
            attention_weight=attention_weight,
            target_weight=target_weight,
            adversarial_weight=adversarial_weight,
            **options,
        )
        self.mining_weight, self.guidance_weight = mining_weight, guidance_weight
        self.mask_threshold, self.mask_slope, self.fill = mask_threshold, mask_slope, fill
        self.mining_stream, self.mining_score = mining_stream, mining_score
        self.mined_classes, self.mining_normalise = mined_classes, mining_normalise
        self.reads_target_labels = bool(target_weight or mining_weight)
        if mining_weight and "target" not in self.streams:
            self.streams = (*self.streams, "target")
        if guidance_weight:
            self.streams = (*self.streams, "guided")
            self.masked_streams = ("guided",)

    @property
    def loss_weights(self) -> dict[str, float]:
        return super().loss_weights | {
            "target/mining": self.mining_weight,
            "guided/classification": self.target_weight,
            "guided/attention": self.guidance_weight,
        }

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        seen = self.forward_batch(batch)
        losses = self.source_and_target(batch, seen)
        if self.guidance_weight:
            logits = seen.logits[seen.stream_slices["guided"]]
            losses["guided/classification"] = self.classification_loss(logits, batch["guided"]["labels"])
            losses["guided/attention"] = self._guidance(seen, batch["guided"])
        if self.mining_weight:
            losses["target/mining"] = self._mining(seen, batch["target"])
        return losses

    def _mining(self, seen: ForwardPass, target: Batch) -> Tensor:
        """L_am: every true class of every image erased, all in one forward pass."""
        labels = target["labels"]
        if self.mined_classes == "one":
            drawn = torch.rand_like(labels) * labels
            labels = (drawn == drawn.amax(1, keepdim=True)) * labels
        if "image" not in target:
            raise AttnBridgeError("mining erases parts of images, so it needs them: leave data.views out")
        images, classes, maps = self._true_maps(seen, "target", labels, self.mining_normalise)
        mask = soft_mask(maps, self.mask_threshold, self.mask_slope)
        erased = erase(target["image"][images], mask, self.fill, self.mean)
        kept = frozen(self.network) if self.mining_stream == "frozen" else nullcontext()
        with _without_statistics(self.network), kept:
            logits = run_for_scores(self.network, self.normalised(erased))
        logits = logits.float().gather(1, classes[:, None])[:, 0]
        return attention_mining_loss(logits.sigmoid() if self.mining_score == "sigmoid" else logits, images)

    def _guidance(self, seen: ForwardPass, guided: Batch) -> Tensor:
        """L_e: the maps of the true classes against their masks, the mean over classes, then over images."""
        if "mask" not in guided:
            raise AttnBridgeError("guidance needs masks; name images that have some with data.guided")
        images, classes, maps = self._true_maps(seen, "guided", guided["labels"], self.normalise)
        mask = guided["mask"][images]
        counted, wanted = mask != IGNORE_INDEX, mask == classes[:, None, None] + 1
        each = attention_distance(maps, wanted, resolution=self.resolution, reduction=self.reduction, counted=counted)
        return mean_by_image(each, images)

    def _true_maps(
        self, seen: ForwardPass, stream: str, labels: Tensor, normalise: Normalise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Image, class and map of each true class: ``(P,)``, ``(P,)``, ``(P, h, w)``."""
        images, classes = torch.nonzero(labels, as_tuple=True)
        order = labels.argsort(stable=True, dim=1, descending=True)[:, : max(1, int(labels.sum(1).max()))]
        maps = self.maps_of(seen, stream, order, normalise)
        place = torch.nonzero(labels.gather(1, order), as_tuple=True)
        return images, classes, maps[place]


@contextmanager
def _without_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics that they have, and erased images do not enter them."""
    training = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for module in training:
        module.eval()
    try:
        yield
    finally:
        for module in training:
            module.train()
