"""AttnBN without the target's labels, and its peers: DANN, CORAL, MMD; for adaptation and generalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.bounds import NotNegative
from attnbridge.data.sample import Batch
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.adversarial import discriminator_loss
from attnbridge.losses.domains import coral_loss, mmd_loss
from attnbridge.methods.attnbn import AttnBN, ForwardPass
from attnbridge.models.discriminator import PooledDiscriminator

MIN_PER_DOMAIN = 3
"""Images of either side in a batch without which it aligns nothing: of fewer there is no covariance and no median."""


class DomainAdaptation(AttnBN):
    r"""One class an image, labels in the source domains alone.

    .. math:: L = \lambda_s L_{s-cl} + \lambda_{ac} L_{ac} + \lambda_{adv} L_{adv}

    (The rows of Tables 6 and 7, Li et al., ICCV 2019.) The peers align features that are averaged over their positions:
    by gradient reversal (DANN, Ganin et al., JMLR 2016), by their covariances (deep CORAL, Sun and Saenko, ECCV
    Workshops 2016) or by the maximum mean discrepancy under several kernels (DAN, Long et al., ICML 2015).

    In generalization there are no images of the target; what aligns domains then aligns the other sources with the
    first one.

    Args:
        attention_weight: :math:`\lambda_{ac}`.
        adversarial_weight: :math:`\lambda_{adv}`.
        reversal_weight: the largest :math:`\lambda` of DANN; it grows as :math:`2 / (1 + e^{-10 t}) - 1` over the run.
        coral_weight: of :func:`~attnbridge.losses.domains.coral_loss`.
        mmd_weight: of :func:`~attnbridge.losses.domains.mmd_loss`.
        classification: ``binary`` cross-entropy of each class, Equation 4, or the ``softmax`` cross-entropy that the
            peers' losses are weighed against in their papers, about N times as large for N classes.
        domains: names of the source domains, which images' ids begin with; in generalization the first is told from the
            others.
        generalise: whether the data have no images of the target.
        options: everything of :class:`~attnbridge.methods.attnbn.AttnBN`, but ``target_weight``.
    """

    activation = "softmax"
    training_only_options = ("coral_weight", "mmd_weight")
    training_only_prefixes = ("discriminator.", "domain_classifier.")

    def __init__(
        self,
        classes: Sequence[str],
        attention_weight: NotNegative = 0.0,
        adversarial_weight: NotNegative = 0.0,
        reversal_weight: NotNegative = 0.0,
        coral_weight: NotNegative = 0.0,
        mmd_weight: NotNegative = 0.0,
        classification: Literal["binary", "softmax"] = "binary",
        domains: Sequence[str] = (),
        generalise: bool = False,
        **options: Any,
    ) -> None:
        if options.pop("target_weight", 0):
            raise AttnBridgeError("model.target_weight must be 0: the target has no labels")
        if options.get("label_shift"):
            raise AttnBridgeError("model.label_shift needs the target's class frequencies, which are withheld")
        super().__init__(
            classes,
            attention_weight=attention_weight,
            adversarial_weight=adversarial_weight,
            target_weight=0.0,
            **options,
        )
        self.reversal_weight, self.coral_weight, self.mmd_weight = reversal_weight, coral_weight, mmd_weight
        self.classification = classification
        self.domains = tuple(domains)
        self.aligns = bool(adversarial_weight or reversal_weight or coral_weight or mmd_weight)
        if self.aligns:
            self.streams = ("source", "target")
            self.absent_streams = ("target",) if generalise else ()
        if self.aligns and generalise and len(self.domains) < 2:
            raise AttnBridgeError(
                "data.generalise withholds the target, and there is one source alone, so no two domains to align; name "
                "several data.sources, or set the weights of what aligns to 0"
            )
        self.domain_classifier = PooledDiscriminator(self.channels) if reversal_weight else None

    @property
    def loss_weights(self) -> dict[str, float]:
        return super().loss_weights | {"coral": self.coral_weight, "mmd": self.mmd_weight}

    def forward_batch(self, batch: dict[str, Batch]) -> ForwardPass:
        """The images through the network; in generalization the first source is to be told from the others."""
        if "target" in batch or "target" not in self.streams:
            return super().forward_batch(batch)
        if "id" not in batch["source"]:
            raise AttnBridgeError(
                "in generalization the sources are told apart by the ids of their images, which a plain batch has not; "
                "give batches with 'id', DOMAIN/..., or loaders of two domains as source and target"
            )
        logits, features = self.forward_streams([batch["source"]])
        own = torch.tensor(
            [name.split("/")[0] == self.domains[0] for name in batch["source"]["id"]], device=logits.device
        )
        there = min(int(own.sum()), int((~own).sum())) >= MIN_PER_DOMAIN
        sides = (own.nonzero()[:, 0], (~own).nonzero()[:, 0]) if there else None
        return ForwardPass(logits, features, {"source": slice(0, len(logits))}, sides)

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        seen = self.forward_batch(batch)
        losses = self.source_and_target(batch, seen)
        if seen.domain_slices is None or not (self.reversal_weight or self.coral_weight or self.mmd_weight):
            return losses
        pooled = self.spatial(seen.features).float().mean((2, 3))
        source, target = pooled[seen.domain_slices[0]], pooled[seen.domain_slices[1]]
        if self.domain_classifier is not None:
            told = self.domain_classifier(
                gradient_reversal(torch.cat([source, target]), self.reversal_weight * self._dann_lambda())
            )
            losses["domain"] = discriminator_loss(told[: len(source)], told[len(source) :])
        if self.coral_weight:
            losses["coral"] = coral_loss(source, target)
        if self.mmd_weight:
            losses["mmd"] = mmd_loss(source, target)
        return losses

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.classification == "binary":
            return super().classification_loss(logits, labels)
        return F.cross_entropy(logits.float(), labels)

    def _dann_lambda(self) -> float:
        share = self.trainer.global_step / max(1, int(self.trainer.estimated_stepping_batches))
        return 2 / (1 + math.exp(-10 * share)) - 1

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The reversed discriminator is trained with the head."""
        head, rest = super().parameter_groups()
        own = list(self.domain_classifier.parameters()) if self.domain_classifier is not None else []
        return [{**head, "params": [*head["params"], *own]}, rest]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


def gradient_reversal(values: Tensor, weight: float) -> Tensor:
    """The same values, whose gradient is multiplied by ``-weight``.

    >>> x = torch.ones(2, requires_grad=True)
    >>> gradient_reversal(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    reversed_: Tensor = _Reverse.apply(values, weight)
    return reversed_
