"""Attention Bridging Network (Li, Zhang, Li, Li, Fu; ICCV 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from attnbridge.attention.class_maps import grad_cam
from attnbridge.attention.gradients import SecondOrder
from attnbridge.attention.normalise import Normalise, normalise_maps
from attnbridge.bounds import NotNegative, Positive, Width
from attnbridge.data.sample import Batch
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.adversarial import adversarial_loss, discriminator_loss
from attnbridge.losses.attention import Reduction, Resolution, attention_loss
from attnbridge.losses.classification import multi_label_soft_margin_loss
from attnbridge.methods.base import EPOCH_LOG, Method
from attnbridge.methods.optimisation import JointOptimizer
from attnbridge.models.discriminator import DomainDiscriminator, PooledDiscriminator


class ForwardPass(NamedTuple):
    """What the network makes of a batch.

    Attributes:
        logits: ``(B, N)`` of all streams.
        features: the observed layer's, as it gives them.
        stream_slices: which of the B images are a stream's.
        domain_slices: which of them the discriminator is to tell apart, as source and as target.
    """

    logits: Tensor
    features: Tensor
    stream_slices: dict[str, slice]
    domain_slices: tuple[slice | Tensor, slice | Tensor] | None


class AttnBN(Method):
    r"""Two streams, one network: source images with saliency guide the maps of target images.

    .. math:: L_{ab} = \lambda_s L_{s-cl} + \lambda_{ac} L_{ac} + \lambda_t L_{t-cl} + \lambda_{adv} L_{adv}

    (Equation 7.) Each loss is switched by its weight, so every row of Table 1 is a configuration; with
    ``target_weight`` 0 the target's labels are not used, as in Tables 6 and 7. The discriminator is
    trained jointly on detached features; its parameters get no gradient from :math:`L_{adv}`.

    Args:
        source_weight: :math:`\lambda_s`; the paper's 1.
        attention_weight: :math:`\lambda_{ac}`; the paper has 2, for maps of a scale that it does not give; 40 was
            best here, see docs/attnbn.md.
        target_weight: :math:`\lambda_t`; the paper's 1.
        adversarial_weight: :math:`\lambda_{adv}`; the paper has 0.001.
        normalise: of the map before it meets the saliency.
        resolution: where map and saliency meet.
        reduction: of the squared difference over positions.
        classification_reduction: of the classification losses over the classes; Equation 4 prints a ``sum``, which
            weighs them against the other losses by the number of classes, the ``mean`` is PyTorch's.
        second_order: whether :math:`L_{ac}` reaches the head through the map's channel weights.
        label_shift: whether the head's bias begins at the target's class frequencies and the source's logits are
            corrected by the source's (logit adjustment, Menon et al., ICLR 2021), for domains in which classes are not
            equally frequent: else the maps of a class that nearly every image shows are what all images share.
        discriminator_input: ``features`` of the observed layer, the ``evidence``: the class maps of all
            classes before the ReLU, or the features ``pooled``, of which a small head tells.
        discriminator_width: channels of the discriminator's first convolution.
        discriminator_projection: channels of the 1x1 convolution before its up-sampling; null is the
            paper's discriminator.
        discriminator_spectral: spectral normalisation of the discriminator.
        discriminator_lr: of its Adam, betas (0.9, 0.99).
        frequencies: of ``label_shift``: from ``source`` or ``train`` to the share of its images that show each class,
            as :meth:`~attnbridge.data.modules.source_target.SourceTargetDataModule.frequencies` gives it.
        options: everything of :class:`~attnbridge.methods.base.Method`.
    """

    training_only_options: tuple[str, ...] = ("label_shift",)
    training_only_prefixes: tuple[str, ...] = ("discriminator.",)

    def __init__(
        self,
        classes: Sequence[str],
        source_weight: NotNegative = 1.0,
        attention_weight: NotNegative = 40.0,
        target_weight: NotNegative = 1.0,
        adversarial_weight: NotNegative = 0.001,
        normalise: Normalise = "none",
        resolution: Resolution = "map",
        reduction: Reduction = "mean",
        classification_reduction: Reduction = "mean",
        second_order: SecondOrder = "auto",
        label_shift: bool = False,
        discriminator_input: Literal["features", "evidence", "pooled"] = "features",
        discriminator_width: Width = 32,
        discriminator_projection: Width | None = 32,
        discriminator_spectral: bool = False,
        discriminator_lr: Positive = 1e-4,
        frequencies: Callable[[str], Sequence[float]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(classes, **options)
        self.source_weight, self.target_weight = source_weight, target_weight
        self.attention_weight, self.adversarial_weight = attention_weight, adversarial_weight
        self.normalise: Normalise = normalise
        self.resolution: Resolution = resolution
        self.reduction: Reduction = reduction
        self.classification_reduction: Reduction = classification_reduction
        self.second_order: SecondOrder = second_order
        if label_shift and frequencies is None:
            raise AttnBridgeError(
                "label_shift needs the classes' frequencies in the data: frequencies=data.frequencies"
            )
        if label_shift and getattr(self.classifier, "bias", None) is None:
            raise AttnBridgeError(f"label_shift begins with the bias of the head, but {self.head_name!r} has none")
        self.label_shift, self.frequencies = label_shift, frequencies
        self.source_offset: Tensor | float = 0.0
        self.reads_target_labels = bool(target_weight)
        self.discriminator_input = discriminator_input
        self.discriminator_lr = discriminator_lr
        self.discriminator: DomainDiscriminator | PooledDiscriminator | None = None
        wants_source = source_weight or attention_weight or adversarial_weight
        self.streams = tuple(
            name
            for name, wanted in (("source", wants_source), ("target", target_weight or adversarial_weight))
            if wanted
        )
        if not self.streams:
            raise AttnBridgeError("all loss weights are 0; there is nothing to learn")
        if adversarial_weight and discriminator_input == "evidence":
            self._check_evidence()
        if adversarial_weight and discriminator_input == "pooled":
            self.discriminator = PooledDiscriminator(self.channels)
        elif adversarial_weight:
            channels = self.channels if discriminator_input == "features" else len(self.classes)
            self.discriminator = DomainDiscriminator(
                channels,
                width=discriminator_width,
                projection=discriminator_projection if discriminator_input == "features" else None,
                spectral=discriminator_spectral,
            )

    def _check_evidence(self) -> None:
        """Raise unless the head weighs the channels of the features that are looked at."""
        weight = getattr(self.classifier, "weight", None)
        if not isinstance(weight, Tensor) or weight.flatten(1).shape[1] != self.channels:
            raise AttnBridgeError(
                f"discriminator_input: evidence weighs the {self.channels} channels of {self.layer!r} as the head "
                f"does, but {self.head_name!r} reads something else; take features or pooled"
            )

    @property
    def loss_weights(self) -> dict[str, float]:
        return {
            "source/classification": self.source_weight,
            "source/attention": self.attention_weight,
            "target/classification": self.target_weight,
            "target/adversarial": self.adversarial_weight,
        }

    def on_train_start(self) -> None:
        if not self.label_shift or self.frequencies is None:
            return
        frequencies = self.frequencies

        def logits(split: str) -> Tensor:
            return torch.logit(torch.tensor(frequencies(split), device=self.device))

        begin = logits("train" if self.target_weight else "source")  # without target labels none is known of it
        if "source" in self.streams:
            self.source_offset = logits("source") - begin
        if self.trainer.global_step == 0:
            head: Any = self.classifier
            with torch.no_grad():
                head.bias.copy_(begin)

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        return self.source_and_target(batch, self.forward_batch(batch))

    def forward_batch(self, batch: dict[str, Batch]) -> ForwardPass:
        """The images of all streams through the network at once."""
        logits, features = self.forward_streams([batch[name] for name in self.streams])
        ends = list(accumulate(len(batch[name]["labels"]) for name in self.streams))
        parts = {name: slice(a, b) for name, a, b in zip(self.streams, [0, *ends], ends, strict=False)}
        sides = (parts["source"], parts["target"]) if {"source", "target"} <= parts.keys() else None
        return ForwardPass(logits, features, parts, sides)

    def source_and_target(self, batch: dict[str, Batch], seen: ForwardPass) -> dict[str, Tensor]:
        """The losses of Equation 7."""
        losses: dict[str, Tensor] = {}
        if self.source_weight:
            logits = seen.logits[seen.stream_slices["source"]] + self.source_offset
            losses["source/classification"] = self.classification_loss(logits, batch["source"]["labels"])
        if self.attention_weight:
            losses["source/attention"] = self._attention(seen, batch["source"])
        if self.target_weight:
            logits = seen.logits[seen.stream_slices["target"]]
            losses["target/classification"] = self.classification_loss(logits, batch["target"]["labels"])
        if self.discriminator is not None and seen.domain_slices is not None:
            losses |= self._adversary(self.discriminator, seen.features, *seen.domain_slices)
        return losses

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of logits ``(B, N)`` and labels ``(B, N)``, Equation 4."""
        return multi_label_soft_margin_loss(logits, labels, self.classification_reduction)

    def maps_of(self, seen: ForwardPass, stream: str, classes: Tensor, normalise: Normalise) -> Tensor:
        """Maps ``(b, K, h, w)`` of classes ``(b, K)`` of one stream's images, normalised; logs their range."""
        part = seen.stream_slices[stream]
        padded = classes.new_zeros(len(seen.logits), classes.shape[1])  # the other streams' maps are not asked for
        padded[part] = classes
        maps = grad_cam(seen.features, seen.logits, padded, second_order=self.second_order, spatial=self.spatial)[part]
        self.log(f"maps/{stream}_max", maps.detach().amax(), **EPOCH_LOG)
        return normalise_maps(maps, normalise)

    def _attention(self, seen: ForwardPass, source: Batch) -> Tensor:
        """L_ac on the source images, for the one class of each."""
        if "saliency" not in source:
            raise AttnBridgeError(
                "the attention constraint needs saliency maps of the source images; give `data.saliency`, "
                "or set `attention_weight: 0`"
            )
        maps = self.maps_of(seen, "source", source["labels"].argmax(1, keepdim=True), self.normalise)[:, 0]
        return attention_loss(maps, source["saliency"], resolution=self.resolution, reduction=self.reduction)

    def _adversary(
        self, discriminator: nn.Module, features: Tensor, source: slice | Tensor, target: slice | Tensor
    ) -> dict[str, Tensor]:
        """L_adv through a frozen discriminator, and L_d on detached features."""
        features = self.spatial(features)
        if self.discriminator_input == "pooled":
            features = features.mean((2, 3))
        if self.discriminator_input == "evidence":
            head: Any = self.classifier
            features = torch.einsum("nc,bchw->bnhw", head.weight.flatten(1), features)
        with frozen(discriminator):
            fooled = adversarial_loss(discriminator(features[target]))
        told = discriminator(features.detach())
        return {
            "target/adversarial": fooled,
            "discriminator": discriminator_loss(told[source], told[target]),
        }

    def build_optimizer(self, steps: int) -> dict[str, Any]:
        """With a discriminator its Adam is joined to the network's optimiser: one backward pass makes the gradients of
        both, as L_d and L_ab share no parameter."""
        adam = None
        if self.discriminator is not None:
            adam = torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=(0.9, 0.99))
        return self.optimisation.build(self.parameter_groups(), steps, adam)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """The schedule is of the network's rates alone."""
        super().lr_scheduler_step(scheduler, metric)
        if isinstance(scheduler.optimizer, JointOptimizer):
            scheduler.optimizer.hold_adversary()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """``trainer.gradient_clip_val`` is of each side by itself: the adversary's gradients shorten none of the
        network's."""
        sides = optimizer.sides if isinstance(optimizer, JointOptimizer) else (optimizer,)
        for side in sides:
            self.clip_gradients(side, gradient_clip_val, gradient_clip_algorithm)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Record no gradient to the module's parameters; gradients still flow through it to its input."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
