"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017), distillation, and their baselines in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge.attention.layers import check_layer, eval_mode
from attnbridge.attention.observe import Observation, observe, run_for_scores
from attnbridge.bounds import Inside, NotNegative, Positive, Side, UpToOne
from attnbridge.data.sample import Batch, as_floats
from attnbridge.data.transforms import sides
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.transfer import (
    Statistic,
    Variant,
    attention_transfer_loss,
    gradient_transfer_loss,
    hint_loss,
    kd_loss,
    mean_activation_map,
    per_sample_input_gradient,
    symmetry_loss,
)
from attnbridge.methods.base import Method
from attnbridge.methods.optimisation import Schedule
from attnbridge.models.backbones import build_backbone
from attnbridge.models.stages import pair_stages
from attnbridge.models.teacher import Teacher, as_maps

TEACHER_PREFIX = "teacher."
"""What the names of a teacher's answers begin with in a batch of kept views."""


class AttentionTransfer(Method):
    r"""A student learns its classes, and from a teacher where to look, what to answer, or what to compute.

    .. math:: L = (1 - \alpha) L_{CE} + \alpha T^2 KL + \beta \sum_j L_{AT}(F_S^j, F_T^j) + \dots

    Each part is switched by its weight. Images have one class each, as
    :class:`~attnbridge.data.modules.classification.ClassificationDataModule` gives them. The teacher is in eval mode,
    gets images as *it* wants them normalised, gets no gradient, and is not in the checkpoint.

    Args:
        teacher: timm name of the teacher; null for a student alone.
        teacher_weights: ``imagenet``, ``none``, a state dict, or the checkpoint of a run. Losses on its answers need
            one that knows the classes.
        teacher_stride: image pixels per feature position of the teacher; null leaves it as it is.
        teacher_network: a network of one's own in the place of ``teacher``, from normalised images to logits: any
            module, whose weights are taken as they are; it is put into eval mode and gets no gradient. Losses on its
            answers need one that knows the classes.
        pairs: names of layers, student's and teacher's; default: those of the same resolution, see
            :func:`~attnbridge.models.stages.pair_stages`.
        transfer_weight: :math:`\beta` of activation-based transfer, summed over the pairs; the authors' 1000 belongs to
            ``code``.
        variant: of the distance: the published ``code``'s, or the ``paper``'s.
        statistic: of a layer's channels: ``sum``, ``sum_power``, ``max_power``.
        power: of the last two.
        transfer_decay: ``linear`` takes :math:`\beta` to 0 over the run, as the paper does beside distillation.
        distillation_weight: :math:`\alpha`; the authors' 0.9.
        temperature: :math:`T` of the softened answers.
        hint_weight: of the features themselves, through 1x1 convolutions: on one pair a FitNet's hint_loss, on all
            full-activation transfer.
        gradient_weight: of gradient-based transfer.
        symmetry_weight: of the symmetry of the student's own gradient.
        batch_norm: ``train`` by default, since networks begin without weights; ``frozen`` keeps ImageNet's statistics.
        options: everything of :class:`~attnbridge.methods.base.Method`.
    """

    streams = ("target",)
    activation = "softmax"
    scores_maps = False
    training_only_prefixes = ("regressors.",)
    taught_options = ("transfer_weight", "distillation_weight", "hint_weight", "gradient_weight")
    training_only_options = (*taught_options, "symmetry_weight", "teacher", "pairs")

    def __init__(
        self,
        classes: Sequence[str],
        backbone: str = "wrn_16_1",
        teacher: str | None = None,
        teacher_weights: str = "imagenet",
        teacher_stride: int | None = None,
        pairs: Sequence[Sequence[str]] | None = None,
        transfer_weight: NotNegative = 0.0,
        variant: Variant = "code",
        statistic: Statistic = "sum_power",
        power: Positive = 2.0,
        transfer_decay: Literal["none", "linear"] = "none",
        distillation_weight: UpToOne = 0.0,
        temperature: Positive = 4.0,
        hint_weight: NotNegative = 0.0,
        gradient_weight: NotNegative = 0.0,
        symmetry_weight: NotNegative = 0.0,
        weights: str = "none",
        stride: int | None = None,
        batch_norm: Literal["frozen", "train"] = "train",
        image_size: Side | tuple[Side, Side] = 32,
        optimizer: Literal["adamw", "sgd"] = "sgd",
        lr: Positive = 0.1,
        backbone_lr: NotNegative = 1.0,
        weight_decay: NotNegative = 5e-4,
        schedule: Schedule = "step",
        step_at: Sequence[Inside] = (0.3, 0.6, 0.8),
        step_by: Positive = 0.2,
        teacher_network: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            classes,
            backbone=backbone,
            weights=weights,
            stride=stride,
            batch_norm=batch_norm,
            image_size=image_size,
            optimizer=optimizer,
            lr=lr,
            backbone_lr=backbone_lr,
            weight_decay=weight_decay,
            schedule=schedule,
            step_at=step_at,
            step_by=step_by,
            **options,
        )
        self.transfer_weight, self.transfer_decay = transfer_weight, transfer_decay
        self.variant: Variant = variant
        self.statistic: Statistic = statistic
        self.power, self.temperature = power, temperature
        self.distillation_weight, self.hint_weight = distillation_weight, hint_weight
        self.gradient_weight, self.symmetry_weight = gradient_weight, symmetry_weight
        self.teacher: Teacher | None = None
        self.pairs: list[tuple[str, str]] = []
        wants_teacher = transfer_weight or distillation_weight or hint_weight or gradient_weight
        if wants_teacher and teacher is None and teacher_network is None:
            raise AttnBridgeError(
                "model.teacher is not set, but a loss that needs one is; name a timm model, or give teacher_network"
            )
        if (gradient_weight or symmetry_weight) and self._mixes_images():
            raise AttnBridgeError(
                "gradient_weight and symmetry_weight need a network in which no image's gradient depends on the "
                "others: one without batch norm (nin_thin, nin_wide), or batch_norm: frozen"
            )
        if wants_teacher and teacher_network is not None:
            self.teacher = self._own_teacher(teacher_network, pairs)
        elif wants_teacher and teacher is not None:
            how: dict[str, Any] = {"weights": teacher_weights, "stride": teacher_stride, "image_size": image_size}
            self.teacher = Teacher(build_backbone(teacher, len(self.classes), **how), image_size)
            if distillation_weight or gradient_weight:
                self.teacher.check_answers(teacher_weights)
        self.regressors = nn.ModuleDict()
        if self.teacher is not None and (transfer_weight or hint_weight):
            self._pair(self.teacher, pairs)

    def _own_teacher(self, network: nn.Module, pairs: Sequence[Sequence[str]] | None) -> Teacher:
        """A network of the user's as the teacher.

        Raises:
            AttnBridgeError: for one that shares weights with the student, or that does not know the classes where its
                answers are learned.
        """
        if {*map(id, network.parameters())} & {*map(id, self.network.parameters())}:
            raise AttnBridgeError(
                "teacher_network shares weights with the student; give a copy, copy.deepcopy(network)"
            )
        with eval_mode(network):
            images = torch.zeros(1, 3, *sides(self.image_size), device=next(network.parameters()).device)
            count = observe(network, images, [], grad=False).logits.shape[1]
        if (self.distillation_weight or self.gradient_weight) and count != len(self.classes):
            raise AttnBridgeError(
                f"teacher_network: gives {count} logits, but there are {len(self.classes)} classes, so its answers are "
                "of others; take another, or set distillation_weight and gradient_weight to 0"
            )
        size: Any = self.image_size
        layer = pairs[0][-1] if pairs else None  # it need not be found where it is named
        return Teacher(build_backbone(network, count, layer=layer, image_size=size), size)

    def _pair(self, teacher: Teacher, pairs: Sequence[Sequence[str]] | None) -> None:
        """Settle the pairs of layers, and make the convolutions that hints need."""
        theirs = teacher.network
        if pairs and any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
            raise AttnBridgeError(f"model.pairs must be pairs of layers, [[student's, teacher's], ...], not {pairs}")
        self.pairs = [(a, b) for a, b in pairs] if pairs else pair_stages(self.network, theirs, self.image_size)
        for ours, other in self.pairs:
            check_layer(self.network, ours)
            check_layer(theirs, other)
        if self.hint_weight:
            images = torch.zeros(1, 3, *sides(self.image_size))
            with eval_mode(self.network):
                seen = observe(self.network, images, self.layers, grad=False)
            found = as_maps(seen.features, self.network, self.image_size)
            wanted = teacher.forward(images, [other for _, other in self.pairs]).features
            for number, (ours, other) in enumerate(self.pairs):
                self.regressors[str(number)] = nn.Conv2d(found[ours].shape[1], wanted[other].shape[1], 1)

    def _mixes_images(self) -> bool:
        self.train()
        norms = [m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        return any(module.training for module in norms)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {
            "target/classification": 1 - self.distillation_weight,
            "target/distillation": self.distillation_weight,
            "target/transfer": self.transfer_weight * self._decayed(),
            "target/hint": self.hint_weight,
            "target/gradient": self.gradient_weight,
            "target/symmetry": self.symmetry_weight,
        }

    def _decayed(self) -> float:
        if self.transfer_decay == "none":
            return 1.0
        return max(0.0, 1 - self.trainer.global_step / max(1, int(self.trainer.estimated_stepping_batches)))

    @property
    def layers(self) -> list[str]:
        return [ours for ours, _ in self.pairs]

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        target = batch["target"]
        with self.stem.inputs([target]) as given:
            seen = self._observed(given)
        losses = {"target/classification": F.cross_entropy(seen.logits, target["labels"])}
        if self.teacher is not None and (self.transfer_weight or self.distillation_weight or self.hint_weight):
            losses |= self._from_teacher(self.teacher, seen, target)
        if self.gradient_weight or self.symmetry_weight:
            if "image" not in target:
                raise AttnBridgeError("gradients are taken at the images: leave data.views or model.frozen out")
            with torch.autocast(given.device.type, enabled=False):  # half precision loses small gradients
                losses |= self._by_gradient(target["image"], target["labels"])
        return losses

    def _observed(self, given: Tensor) -> Observation:
        """The student's answer, and the features of the layers that are looked at, if any are."""
        if self.layers:
            return observe(self.network, given, self.layers)
        return Observation(run_for_scores(self.network, given), {})

    def _from_teacher(self, teacher: Teacher, seen: Observation, batch: Batch) -> dict[str, Tensor]:
        """Where the teacher looks, what it answers, what it computes."""
        losses: dict[str, Tensor] = {}
        kept = {
            name.removeprefix(TEACHER_PREFIX): value for name, value in batch.items() if name.startswith(TEACHER_PREFIX)
        }
        told: dict[str, Any] = kept or self._teacher_answers(teacher, batch["image"])
        ours = as_maps(seen.features, self.network, self.image_size)
        pairs = [(ours[name], told[str(number)]) for number, name in enumerate(self.layers)]
        if self.distillation_weight:
            losses["target/distillation"] = kd_loss(seen.logits, told["logits"].float(), self.temperature)
        if self.transfer_weight:
            options: dict[str, Any] = {"variant": self.variant, "statistic": self.statistic, "power": self.power}
            parts = [attention_transfer_loss(a, b.to(a.dtype), **options) for a, b in pairs]
            losses["target/transfer"] = torch.stack(parts).sum()
        if self.hint_weight:
            hints = [hint_loss(bring(a), b) for bring, (a, b) in zip(self.regressors.values(), pairs, strict=True)]
            losses["target/hint"] = torch.stack(hints).sum()
        return losses

    def _teacher_answers(self, teacher: Teacher, images: Tensor) -> dict[str, Tensor]:
        """What the teacher says of images in [0, 1]: its logits, and its features of each pair by number."""
        told = teacher.forward(images, [other for _, other in self.pairs])
        return {"logits": told.logits, **{str(n): told.features[other] for n, (_, other) in enumerate(self.pairs)}}

    def features_to_cache(self, batch: Batch) -> dict[str, Tensor]:
        """The images, or what the frozen beginning makes of them, and the teacher's answers: of its features, where
        no hint asks for more, one channel that has the same attention map."""
        kept = super().features_to_cache(batch) if self.frozen else {"image": batch["image"]}
        if self.teacher is None:
            return kept
        told = self._teacher_answers(self.teacher.to(self.device), as_floats(batch)["image"].to(self.device))
        if not self.hint_weight:
            root = 1.0 if self.statistic == "sum" else 1 / self.power
            for number in map(str, range(len(self.pairs))):
                told[number] = mean_activation_map(told[number], self.statistic, self.power).pow(root)[:, None]
        return kept | {TEACHER_PREFIX + name: value for name, value in told.items()}

    def cache_key(self) -> tuple[str, dict[str, Tensor]]:
        words, state = super().cache_key() if self.frozen else ("", {})
        if self.teacher is None:
            return words, state
        structure, weights = self.teacher.fingerprint()
        how = "whole" if self.hint_weight else f"{self.statistic} {self.power}"
        return f"{words} {[other for _, other in self.pairs]} {how} {structure}", state | weights

    def _by_gradient(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the student is sensitive to, beside the teacher and beside itself in mirrored images.

        Without dropout: two passes with other units dropped would differ in any network.
        """

        def sensitivity(network: nn.Module, normalise: Any, given: Tensor, create_graph: bool) -> Tensor:
            given = given.detach().clone().requires_grad_()
            each = F.cross_entropy(run_for_scores(network, normalise(given)), labels, reduction="none")
            return per_sample_input_gradient(each, given, create_graph=create_graph)

        losses: dict[str, Tensor] = {}
        with eval_mode(self.network):
            ours = sensitivity(self.network, self.normalised, images, True)
            if self.symmetry_weight:
                mirrored = sensitivity(self.network, self.normalised, images.flip(-1), True)
                losses["target/symmetry"] = symmetry_loss(ours, mirrored)
        if self.gradient_weight and self.teacher is not None:
            theirs = sensitivity(self.teacher.network, self.teacher.normalised, images, False)
            losses["target/gradient"] = gradient_transfer_loss(ours, theirs)
        return losses

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the student, and the hints' convolutions with the head."""
        head, rest = super().parameter_groups()
        return [{**head, "params": [*head["params"], *self.regressors.parameters()]}, rest]

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)
