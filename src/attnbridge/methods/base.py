"""What every method shares: named losses, weighed, summed and logged, and what builds its network and optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from attnbridge.attention.observe import observe
from attnbridge.bounds import Inside, NotNegative, Positive, ShareOrNone, Side, check_values
from attnbridge.data.plain import as_batch
from attnbridge.data.request import CacheRequest, DataRequest
from attnbridge.data.sample import IGNORE_INDEX, Batch
from attnbridge.errors import AttnBridgeError, DivergedError
from attnbridge.methods.optimisation import Optimisation, OptimizerName, Schedule
from attnbridge.methods.prediction import Predicting
from attnbridge.models.backbones import build_backbone, freeze
from attnbridge.models.frozen_stem import StemCache
from attnbridge.models.heads import head_name
from attnbridge.models.weights import load_tensors

MOST_WEIGHT = 1e6
"""Of a loss; beyond it the weight is told of where a sum is not finite."""
MARGIN = 0.1
"""By which images may leave [0, 1], as resized ones do."""
EPOCH_LOG: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
"""How a loss is logged: its mean over the epoch and the processes."""


class Method(Predicting, LightningModule):
    """A classifier that is trained by a weighted sum of named losses.

    A method defines :meth:`losses` and :attr:`loss_weights`; everything else is here.

    Args:
        classes: class names in index order.
        backbone: a network's name, see :func:`~attnbridge.models.backbones.build_backbone`.
        weights: ``imagenet``, ``none``, or a state dict's path.
        stride: image pixels per feature position.
        layer: layer to look at; default: the last spatial features.
        frozen: names of modules that are not trained.
        batch_norm: ``frozen`` keeps ImageNet's statistics; ``train`` updates them with each batch.
        image_size: side of the images in pixels, or height and width; set from the data.
        optimizer: ``adamw`` or ``sgd``.
        lr: learning rate of the head.
        backbone_lr: learning rate of the backbone, as a multiple of ``lr``.
        momentum: of ``sgd``.
        weight_decay: of all trained parameters.
        schedule: ``one_cycle`` over the whole run; ``step``: multiplied by ``step_by`` after each share ``step_at`` of
            the run, a tenth after two thirds as in AttnBN; ``poly``: :math:`(1 - t)^{0.9}` of the run's share t, as
            in DeepLab; ``constant``.
        step_at: shares of the run.
        step_by: factor.
        head: name of the layer that gives the logits, a linear one or a convolution: it learns at ``lr``, and what
            begins anew or reads features does so there; default: timm's classifier, else the last linear layer.
        network: a network of one's own in the place of ``backbone``, from normalised images ``(B, 3, H, W)`` to logits
            ``(B, N)``: any module; it has the weights and the stride that it has, and is trained in place.
    """

    streams: tuple[str, ...] = ("source", "target")
    """Which training images the method wants."""
    absent_streams: tuple[str, ...] = ()
    """Those among them that the data may leave out."""
    masked_streams: tuple[str, ...] = ()
    """Those whose masks it learns from."""
    reads_target_labels: bool = True
    """Whether the target's labels are to be given; else they are NaN in training."""
    dilated: bool = False
    """Whether the backbone keeps its field of view where it drops strides."""
    uses_head: bool = True
    """Whether the answer is that of the network's own head."""
    taught_options: tuple[str, ...] = ()
    """Options that need a teacher where they are not 0."""
    training_only_options: tuple[str, ...] = ()
    """Options that a trained method does without."""
    training_only_prefixes: tuple[str, ...] = ()
    """What the names of parameters begin with that a trained method does without."""

    def __init__(
        self,
        classes: Sequence[str],
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "imagenet",
        stride: int | None = 16,
        layer: str | None = None,
        frozen: Sequence[str] = (),
        batch_norm: Literal["frozen", "train"] = "frozen",
        image_size: Side | tuple[Side, Side] = 224,
        optimizer: OptimizerName = "adamw",
        lr: Positive = 3e-3,
        backbone_lr: NotNegative = 0.5,
        momentum: ShareOrNone = 0.9,
        weight_decay: NotNegative = 1e-4,
        schedule: Schedule = "one_cycle",
        step_at: Sequence[Inside] = (2 / 3,),
        step_by: Positive = 0.1,
        head: str | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network", "teacher_network", "frequencies", "plain_loader"])
        self._check_options()
        self.classes, self.image_size = tuple(classes), image_size
        self.own_network = network is not None
        self._checked_streams: set[str] = set()
        how: dict[str, Any] = {"weights": weights, "stride": stride, "layer": layer, **self.backbone_options}
        built = build_backbone(network or backbone, len(self.classes), image_size=image_size, **how)
        self.network = built.network.to(memory_format=torch.channels_last)
        self.spatial, self.channels, self.layer = built.maps, built.channels, built.layer
        self.head_name = self._head_name(head)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(built.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(built.std).view(3, 1, 1), persistent=False)
        self.frozen = tuple(frozen)
        self.stem = StemCache(self.network, frozen, lambda: self.layers, self.normalised, image_size)
        self._eval_modules = freeze(self.network, frozen)
        if batch_norm == "frozen":
            self._eval_modules += [m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for module in self._eval_modules:
            module.eval()
        self.optimisation = Optimisation(
            optimizer, lr, backbone_lr, momentum, weight_decay, schedule, tuple(step_at), step_by
        )

    def _check_options(self) -> None:
        """Raise unless all options are as the signatures of this class and of those that it stands on write them."""
        for owner in type(self).__mro__:
            if owner.__module__.startswith("attnbridge.methods.") and "__init__" in vars(owner):
                check_values(vars(owner)["__init__"], self.hparams)

    def _head_name(self, head: str | None) -> str | None:
        """The checked name of the network's head; none, for a method that has another."""
        if self.uses_head:
            return head_name(self.network, head, self.image_size, check=self.own_network)
        if head is not None:
            raise AttnBridgeError(f"head is {head!r}, but this method puts a head of its own on features; leave it out")
        return None

    @property
    def classifier(self) -> nn.Module:
        """The layer of the network that gives the logits."""
        assert self.head_name is not None
        return self.network.get_submodule(self.head_name)

    @property
    def backbone_options(self) -> dict[str, Any]:
        """What :func:`~attnbridge.models.backbones.build_backbone` is told beside the options of all methods."""
        return {"dilated": self.dilated}

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each loss by name; a loss that is not named has weight 1."""
        return {}

    @property
    def layers(self) -> list[str]:
        """The layers that training looks at."""
        return [self.layer]

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        """The named losses of a batch, unweighted scalars. ``batch`` maps a stream's name to its batch."""
        raise NotImplementedError

    def data_request(self) -> DataRequest:
        """What the method asks of its data: ``data.request = method.data_request()``."""
        withheld = () if self.reads_target_labels else ("target",)
        cache = CacheRequest(self.features_to_cache, self.cache_key)
        return DataRequest(self.streams, withheld, cache, self.masked_streams)

    def stream_batches(self, given: Any) -> dict[str, Batch]:
        """The batches of the streams, from what a trainer's loaders give: a mapping of batches by stream, or, where the
        method has one stream, its batch; each as :func:`~attnbridge.data.plain.as_batch` takes it.

        Raises:
            AttnBridgeError: for a stream that is missing, a batch that is none, or images that are not in [0, 1].
        """
        by_stream = isinstance(given, Mapping) and not {"image", "features", "labels"} & given.keys()
        parts = given if by_stream else {self.streams[0]: given} if len(self.streams) == 1 else {}
        missing = [name for name in self.streams if name not in (*parts, *self.absent_streams)]
        if missing:
            loaders = ", ".join(f'"{name}": loader' for name in self.streams)
            what = f"only {', '.join(parts)}" if parts else "the batches of one loader"
            raise AttnBridgeError(
                f"{type(self).__name__} learns from the stream {missing[0]!r}, but was given {what}; give the trainer "
                f"a mapping of loaders, {{{loaders}}}"
            )
        request = self.data_request()
        batches = {}
        for name in (name for name in self.streams if name in parts):
            batch = as_batch(parts[name], len(self.classes), request.third(name), f"a batch of {name}")
            self._check_first(name, batch)
            if name in request.withheld:
                batch["labels"] = torch.full_like(batch["labels"], torch.nan)
            batches[name] = batch
        return batches

    def _check_first(self, stream: str, batch: Batch) -> None:
        """Raise for images, saliency and labels outside [0, 1], masks of unknown classes, and what a loader did not
        give; of each stream's first batch alone, since a GPU is waited for."""
        if stream in self._checked_streams:
            return
        self._checked_streams.add(stream)
        if "labels" not in batch:
            raise AttnBridgeError(f"a batch of {stream} has no labels; give (images, labels)")
        self._check_values(stream, batch)
        if "image" not in batch:
            if "features" not in batch:
                raise AttnBridgeError(
                    f"a batch of {stream} has no 'image', but {', '.join(batch)}; give (images, labels), or a mapping "
                    "with 'image' and 'labels'"
                )
            return
        low, high = (float(value) for value in batch["image"].aminmax())
        if not -MARGIN <= low <= high <= 1 + MARGIN:
            raise AttnBridgeError(
                f"a batch of {stream}: images must be in [0, 1], but go from {low:.3g} to {high:.3g}; leave Normalize "
                "out of the transforms (the method normalises them itself), and divide 8 bits by 255"
            )

    def _check_values(self, stream: str, batch: Batch) -> None:
        """Raise for values that a loss would take, and that are none of labels, saliency or masks."""
        count, rules = len(self.classes), {"labels": "1 for each class that an image shows, else 0"}
        rules["saliency"] = "floats in [0, 1]; divide 8 bits by 255"
        for name, rule in rules.items():
            values = batch.get(name)
            if isinstance(values, Tensor) and bool(((values < -MARGIN) | (values > 1 + MARGIN)).any()):  # NaN: withheld
                low, high = (float(value) for value in values.aminmax())
                raise AttnBridgeError(
                    f"a batch of {stream}: {name} must be {rule}, but go from {low:.3g} to {high:.3g}"
                )
        mask = batch.get("mask")
        if not isinstance(mask, Tensor):
            return
        wrong = mask[((mask < 0) | (mask > count)) & (mask != IGNORE_INDEX)]
        if len(wrong):
            raise AttnBridgeError(
                f"a batch of {stream}: masks must be 0, the background, 1 to {count}, the classes, or {IGNORE_INDEX}, "
                f"unknown, but hold {int(wrong[0])}"
            )

    def on_weights_loaded(self) -> None:
        """Called when the weights that training begins with, an earlier stage's, have been read."""

    def normalised(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the network wants them.

        Raises:
            AttnBridgeError: for images in 8 bits.
        """
        if not images.is_floating_point():
            raise AttnBridgeError(
                f"images must be floats in [0, 1], not {images.dtype}; divide by 255, or call "
                "attnbridge.data.sample.as_floats on the batch"
            )
        images = images.to(self.mean.dtype)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, N)`` and the layer's features, as it gives them, of images in [0, 1]."""
        seen = observe(self.network, self.normalised(images), self.layer)
        return seen.logits, seen.features[self.layer]

    def forward_streams(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """:meth:`forward_features` of several batches at once, or on from what is kept of them."""
        with self.stem.inputs(batches) as given:
            seen = observe(self.network, given, self.layer)
        return seen.logits, seen.features[self.layer]

    def features_to_cache(self, batch: Batch) -> dict[str, Tensor]:
        """What of a batch of fixed views, in 8 bits, is kept: what the network's frozen stem makes of it."""
        return self.stem.features(batch)

    def cache_key(self) -> tuple[str, dict[str, Tensor]]:
        """All that :meth:`features_to_cache` depends on: its structure in words, and its weights by name."""
        words, state = self.stem.key()
        return words, {"mean": self.mean, "std": self.std, **state}

    def weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        """Weigh and sum, and log each loss, with its weight and without.

        Raises:
            DivergedError: if the sum is not finite.
        """
        weights = self.loss_weights
        weighted = {name: weights.get(name, 1.0) * loss for name, loss in losses.items()}
        total = torch.stack(list(weighted.values())).sum()
        values = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        values |= {f"weighted/{name}": loss.detach() for name, loss in weighted.items()}
        self.log_dict(values, **EPOCH_LOG)
        self.log("loss", total.detach(), prog_bar=True, **EPOCH_LOG)
        if not torch.isfinite(total.detach()):
            raise self._diverged(losses, weighted)
        return total

    def _diverged(self, losses: dict[str, Tensor], weighted: dict[str, Tensor]) -> DivergedError:
        """The error for a sum that is not finite: of which loss, by which weight, and what to lower."""
        plain, products = ({n: float(v.detach()) for n, v in parts.items()} for parts in (losses, weighted))
        bad = [name for parts in (plain, products) for name, value in parts.items() if not math.isfinite(value)]
        named = dict.fromkeys(bad or [max(products, key=lambda name: abs(products[name]))])
        weights = {name: self.loss_weights.get(name, 1.0) for name in named}
        terms = ", ".join(f"{name} ({plain[name]:.3g} with weight {weight:.3g})" for name, weight in weights.items())
        options = {name: value for name, value in self.hparams.items() if name.endswith("_weight") and value}
        large = [f"model.{name} is {value:.3g}" for name, value in options.items() if value > MOST_WEIGHT]
        what = f"{' and '.join(large)}, beyond {MOST_WEIGHT:.0e}: lower that" if large else "lower the learning rate"
        return DivergedError(f"the {'loss' if bad else 'sum of the losses, above all'} {terms} is not finite; {what}")

    def training_step(self, batch: Any, _index: int) -> Tensor:
        """The weighted sum of the losses; a batch is what :meth:`stream_batches` takes."""
        return self.weighted_sum(self.losses(self.stream_batches(batch)))

    def train(self, mode: bool = True) -> Method:
        super().train(mode)
        for module in getattr(self, "_eval_modules", ()):
            module.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head at ``lr``, the rest of the network at ``lr * backbone_lr``."""
        head = {id(p) for p in self.classifier.parameters()}
        trained = [p for p in self.network.parameters() if p.requires_grad]
        own = [p for p in trained if id(p) in head]
        return self.optimisation.groups(own, [p for p in trained if id(p) not in head])

    def configure_optimizers(self) -> Any:
        return self.build_optimizer(max(1, int(self.trainer.estimated_stepping_batches)))

    def build_optimizer(self, steps: int) -> dict[str, Any]:
        """Optimiser and schedule of a run of so many steps, as Lightning wants them."""
        return self.optimisation.build(self.parameter_groups(), steps)

    def source_attention(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Of images in [0, 1]: of each layer that is held to a source, the weights, of positions ``(B, h, w)`` or of
        channels ``(B, C)``, and the source's features ``(B, C, h, w)``. None, but for methods that have them."""
        return {}

    @staticmethod
    def is_stage_specific(option: str) -> bool:
        """Whether two stages of a run do not have this option in common: the weights of the losses."""
        return option.endswith("_weight")

    @classmethod
    def load_from_checkpoint(cls, *arguments: Any, **options: Any) -> Any:
        """Lightning's, see :meth:`on_save_checkpoint`; the weights that are drawn and then replaced by those of the
        checkpoint take no random numbers from others. Nothing in the file is run, whatever ``weights_only`` says.

        Raises:
            AttnBridgeError: for a file that is no method's checkpoint, or asks for more than tensors and plain values.
        """
        path = arguments[0] if arguments else options.get("checkpoint_path")
        if isinstance(path, str | Path) and "://" not in str(path):
            read_checkpoint(Path(path))
        with torch.random.fork_rng(devices=[]):
            return super().load_from_checkpoint(*arguments, **{**options, "weights_only": True})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what rebuilds the method for use: ``Method.load_from_checkpoint(path)`` needs no other weights."""
        known = {name: value for name, value in self.hparams.items() if name not in self.training_only_options}
        checkpoint["hyper_parameters"] = {**known, "weights": "none"}
        checkpoint["own_network"] = self.own_network

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Pass over what only training needs, where this method does without.

        Raises:
            AttnBridgeError: for a network of one's own that is not given.
        """
        if checkpoint["own_network"] and not self.own_network:
            raise no_network()
        own, state = self.state_dict(), checkpoint["state_dict"]
        unused = [k for k in state if k not in own and k.startswith(self.training_only_prefixes)]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k not in unused}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A method's checkpoint; nothing in it is run, see :func:`~attnbridge.models.weights.load_tensors`.

    Raises:
        AttnBridgeError: if it cannot be read, or is of something else.
    """
    found = load_tensors(path)
    kinds = {"state_dict": dict, "hyper_parameters": dict, "own_network": bool}
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in kinds.items()):
        raise AttnBridgeError(f"{path}: is no checkpoint of a run; it lacks one of {', '.join(kinds)}")
    return found


def no_network() -> AttnBridgeError:
    """The error for a checkpoint of a network of one's own that is not given."""
    return AttnBridgeError("the checkpoint is of a network of your own; give one of the same structure, network=...")
