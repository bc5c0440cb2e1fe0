"""Fine-tuning that keeps what matters: attentive feature alignment (Xie et al., 2021), and its baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnbridge.attention.layers import check_layer
from attnbridge.attention.observe import Observation, capture_head_input, observe, run_for_scores
from attnbridge.bounds import NotNegative, Positive, ShareOrNone
from attnbridge.data.sample import Batch
from attnbridge.data.transforms import sides
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.alignment import (
    ChannelAttention,
    SpatialAttention,
    channel_alignment_loss,
    delta_alignment_loss,
    entropy,
    l2_sp_loss,
    spatial_alignment_loss,
    spectral_shrinkage_loss,
)
from attnbridge.losses.angular import angular_margin, to_unit_length
from attnbridge.losses.transfer import Variant, attention_transfer_loss, kd_loss
from attnbridge.methods.base import EPOCH_LOG, Method
from attnbridge.methods.filter_ablation import filter_importance
from attnbridge.methods.optimisation import Schedule
from attnbridge.models.backbones import build_backbone, pretrained_classes
from attnbridge.models.stages import aligned_layers, trained_stages
from attnbridge.models.teacher import Teacher, as_maps
from attnbridge.models.weights import load_state

Alignment = Literal["none", "spatial", "channel", "delta", "attention"]
ALIGN = {"spatial": spatial_alignment_loss, "channel": channel_alignment_loss, "delta": delta_alignment_loss}


class FineTuning(Method):
    r"""A network learns new classes and stays near the one that it starts from, where that matters.

    .. math:: L = L_{CE} + \alpha L_{align} + \tfrac\beta2 \|w_{head}\|^2 + \dots

    Attentive feature alignment is two runs of it: ``alignment: spatial``, then ``alignment: channel``, ``init_from``
    the first, whose result is then the source. Other parts make the baselines: L2 (``weight_decay``), feature
    extraction (``frozen``), L2-SP, learning without forgetting, soft labels, DELTA, BSS, attention transfer. Images
    have one class each, as :class:`~attnbridge.data.modules.classification.ClassificationDataModule` gives them. The
    source is in eval mode, gets no gradient, and is in no checkpoint.

    Args:
        alignment: of features with the source's: by attention over positions (``spatial``) or channels (``channel``)
            that is learned along, by weights of channels from filter ablation (``delta``), or of activation-based
            attention maps (``attention``).
        alignment_weight: :math:`\alpha`.
        variant: of the first three: the published ``code``'s or the ``paper``'s, see
            :mod:`attnbridge.losses.alignment`.
        layers: whose features are aligned; default: of each resolution that is trained, the deepest four, the last
            convolution before batch norm (:func:`~attnbridge.models.stages.aligned_layers`), for ``attention`` what
            the block gives.
        head_weight: :math:`\beta`, of the new head's L2 penalty; the authors' 0.01.
        start_weight: of L2-SP, on all but the head; its authors' 0.01 to 0.1.
        forgetting_weight: of learning without forgetting: the source's answers, kept by a copy of its head.
        temperature: of the source's answers.
        shrinkage_weight: of batch spectral shrinkage, on what the head reads; its authors' 0.001.
        label_smoothing: share of a label that goes to all classes.
        margin: angle in degrees by which ArcFace (Deng et al., CVPR 2019) makes the right class harder, 28.6 there; 0
            is plain softmax.
        scale: of ArcFace's cosines.
        batch_norm: ``train`` by default, as the authors have it.
        plain_loader: of DELTA: gives the loader of the training images without augmentation.
        options: everything of :class:`~attnbridge.methods.base.Method`.
    """

    streams = ("target",)
    activation = "softmax"
    scores_maps = False
    training_only_options = (
        *("alignment", "alignment_weight", "head_weight", "start_weight", "forgetting_weight", "shrinkage_weight"),
        "margin",
    )
    training_only_prefixes = ("attention.", "importance.", "old_head.")

    def __init__(
        self,
        classes: Sequence[str],
        alignment: Alignment = "none",
        alignment_weight: NotNegative = 0.0,
        variant: Variant = "code",
        layers: Sequence[str] | None = None,
        head_weight: NotNegative = 0.01,
        start_weight: NotNegative = 0.0,
        forgetting_weight: NotNegative = 0.0,
        temperature: Positive = 2.0,
        shrinkage_weight: NotNegative = 0.0,
        label_smoothing: ShareOrNone = 0.0,
        margin: NotNegative = 0.0,
        scale: Positive = 64.0,
        stride: int | None = None,
        batch_norm: Literal["frozen", "train"] = "train",
        optimizer: Literal["adamw", "sgd"] = "sgd",
        lr: Positive = 0.01,
        backbone_lr: NotNegative = 1.0,
        weight_decay: NotNegative = 0.0,
        schedule: Schedule = "step",
        plain_loader: Callable[[], DataLoader[Batch]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            classes,
            stride=stride,
            batch_norm=batch_norm,
            optimizer=optimizer,
            lr=lr,
            backbone_lr=backbone_lr,
            weight_decay=weight_decay,
            schedule=schedule,
            **options,
        )
        if (alignment == "none") != (alignment_weight == 0):
            words = f"alignment is {alignment} and alignment_weight {alignment_weight}"
            raise AttnBridgeError(f"{words}; an alignment needs a weight, and a weight an alignment")
        if margin and label_smoothing:
            raise AttnBridgeError("label_smoothing belongs to plain softmax; leave it out beside ArcFace's margin")
        self.plain_loader = plain_loader
        self.alignment: Alignment = alignment
        self.alignment_weight = alignment_weight
        self.variant: Variant = variant
        self.head_weight, self.start_weight = head_weight, start_weight
        self.forgetting_weight, self.temperature = forgetting_weight, temperature
        self.shrinkage_weight = shrinkage_weight
        self.margin = margin
        self.classified: Any = partial(F.cross_entropy, label_smoothing=label_smoothing)
        if margin:
            self.classified = angular_margin(self.classifier, margin, scale)
        self.source: Teacher | None = None
        if self.alignment != "none" or start_weight or forgetting_weight:
            self.source = self._pretrained()
        for name in layers or ():
            check_layer(self.network, name)
        find = trained_stages if alignment == "attention" else aligned_layers
        self.aligned = [] if alignment == "none" else list(layers or find(self.network, self.image_size))
        self.attention = nn.ModuleDict()
        self.importance = nn.ParameterDict()
        if self.source is not None and self.aligned:
            self._attend(self.source)
        self.old_head: nn.Module | None = None
        if self.source is not None and forgetting_weight:
            if not self.own_network:
                self.source.check_answers(self.hparams["weights"])
            self._keep_head(self.source)

    @property
    def layers(self) -> list[str]:
        return self.aligned

    def _pretrained(self) -> Teacher:
        """The network that this one starts from, with its own classifier if that is known."""
        size: Any = self.image_size
        if self.own_network:
            built = build_backbone(deepcopy(self.network), len(self.classes), layer=self.layer, image_size=size)
            return Teacher(built, size, self.head_name)
        name, weights, stride = (self.hparams[option] for option in ("backbone", "weights", "stride"))
        count = len(self.classes)
        if weights == "imagenet":
            count = pretrained_classes(name) or count
        elif weights != "none":
            state = load_state(Path(weights), self.network.state_dict())
            count = len(state.get(f"{self.head_name}.weight", range(count)))
        source = Teacher(
            build_backbone(name, count, weights=weights, stride=stride, image_size=size), size, self.head_name
        )
        if weights == "none":
            source.network = deepcopy(self.network).requires_grad_(False).eval()
        return source

    def on_weights_loaded(self) -> None:
        """What the weights are now is what the network starts from: a second stage's source is the first's result."""
        if self.source is not None:
            self.source.network = deepcopy(self.network).requires_grad_(False).eval()
            if self.old_head is not None:
                self._keep_head(self.source)

    def _keep_head(self, source: Teacher) -> None:
        """A copy of the source's head, which learns to answer as it does."""
        head = source.network.get_submodule(str(self.head_name))
        if not isinstance(head, nn.Linear):
            raise AttnBridgeError(
                f"forgetting_weight keeps a copy of the head and gives it features, so it must be a Linear, but "
                f"{self.head_name!r} is a {type(head).__name__}"
            )
        self.old_head = deepcopy(head).requires_grad_(True)

    def _attend(self, source: Teacher) -> None:
        """Attention, or a place for the weights of channels, for each of the aligned layers."""
        features = source.forward(torch.zeros(1, 3, *sides(self.image_size)), self.aligned).features
        for number, name in enumerate(self.aligned):
            _, channels, height, width = features[name].shape
            if self.alignment == "spatial":
                self.attention[str(number)] = SpatialAttention(height, width)
            elif self.alignment == "channel":
                self.attention[str(number)] = ChannelAttention(channels, height, width)
            elif self.alignment == "delta":
                self.importance[str(number)] = nn.Parameter(torch.zeros(channels), requires_grad=False)

    @property
    def loss_weights(self) -> dict[str, float]:
        parts = ("alignment", "head", "start", "forgetting", "shrinkage")
        return {f"target/{part}": getattr(self, f"{part}_weight") for part in parts}

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        target = batch["target"]
        with self.stem.inputs([target]) as given, capture_head_input(self.network, self.head_name) as read:
            if self.aligned:
                seen = observe(self.network, given, self.aligned)
            else:
                seen = Observation(run_for_scores(self.network, given), {})
        classified = self.classified(read[0] if self.margin else seen.logits, target["labels"])
        losses = {"target/classification": classified}
        if self.head_weight:
            own = self.classifier.parameters()
            losses["target/head"] = torch.stack([p.square().sum() for p in own]).sum() / 2
        if self.shrinkage_weight:
            losses["target/shrinkage"] = spectral_shrinkage_loss(read[0])
        if self.source is None:
            return losses
        if self.start_weight:
            losses["target/start"] = l2_sp_loss(self._body(self.network), self._body(self.source.network))
        if self.aligned or self.old_head is not None:
            told = self._asked(self.source, given, "features" in target)
            if self.old_head is not None:
                losses["target/forgetting"] = kd_loss(self.old_head(read[0]), told.logits, self.temperature)
            if self.aligned:
                ours = as_maps(seen.features, self.network, self.image_size)
                losses["target/alignment"] = self._alignment(ours, told.features)
        return losses

    def _asked(self, source: Teacher, given: Tensor, kept: bool) -> Observation:
        """What the source makes of the network's own input: images, or what their common beginning made of them."""
        with self.stem.stem.skipped(source.network) if kept else nullcontext():
            told = observe(source.network, given, self.aligned, grad=False)
        return Observation(told.logits, as_maps(told.features, source.network, self.image_size))

    def _alignment(self, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
        """The sum over the aligned layers; logs how evenly attention is spread."""
        parts = []
        for number, name in enumerate(self.aligned):
            target, source = ours[name], theirs[name]
            if self.alignment == "attention":
                parts.append(attention_transfer_loss(target, source))
                continue
            weights = self.attended(number, source)
            parts.append(ALIGN[self.alignment](target, source, weights, self.variant))
            if self.alignment != "delta":
                self.log(f"entropy/{name}", entropy(weights.detach()), **EPOCH_LOG)
        return torch.stack(parts).sum()

    def attended(self, number: int, features: Tensor) -> Tensor:
        """Weights of positions ``(B, h, w)`` or channels, ``(B, C)`` or ``(C,)``, of a layer's source features."""
        key = str(number)
        weights: Tensor = self.importance[key] if self.alignment == "delta" else self.attention[key](features)
        return weights

    @torch.no_grad()
    def source_attention(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        if self.source is None or self.alignment in ("none", "attention"):
            return {}
        features = self.source.to(self.device, self.mean.dtype).forward(images, self.aligned).features
        found = {}
        for number, name in enumerate(self.aligned):
            weights = self.attended(number, features[name])
            weights = weights.expand(len(images), -1) if weights.ndim == 1 else weights
            found[name] = (weights.float(), features[name].float())
        return found

    def _body(self, network: nn.Module) -> dict[str, Tensor]:
        """All trained weights but the head's, by name."""
        head = f"{self.head_name}."
        trained = {name for name, p in self.network.named_parameters() if p.requires_grad}
        return {n: p for n, p in network.named_parameters() if n in trained and not n.startswith(head)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network's, and what is learned along with the head."""
        head, rest = super().parameter_groups()
        along = [*self.attention.parameters(), *(self.old_head.parameters() if self.old_head is not None else ())]
        return [{**head, "params": [*head["params"], *along]}, rest]

    def on_fit_start(self) -> None:
        if self.source is None:
            return
        self.source.to(self.device, self.mean.dtype)
        if self.alignment == "delta" and not any(bool(values.any()) for values in self.importance.values()):
            if self.plain_loader is None:
                raise AttnBridgeError(
                    "alignment: delta weighs channels on the training images without augmentation; give their loader, "
                    "plain_loader=data.facts()['plain_loader']"
                )
            found = filter_importance(self.source, self.aligned, self.plain_loader(), len(self.classes), self.variant)
            for number, values in enumerate(self.trainer.strategy.broadcast(found).values()):
                self.importance[str(number)].data.copy_(values)

    def on_train_epoch_end(self) -> None:
        """ArcFace looks at directions alone: at unit length, and without bias, the classifier answers as it does."""
        if self.margin:
            to_unit_length(self.classifier)

    on_validation_start = on_train_epoch_end

    @staticmethod
    def is_stage_specific(option: str) -> bool:
        """Which alignment, and the rate that the first stage has decayed to."""
        return option in ("alignment", "lr")
