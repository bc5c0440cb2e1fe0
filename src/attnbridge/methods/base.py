"""What every method shares: named losses, weighed, summed and logged; maps of all classes in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

import timm
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from attnbridge.attention.backbones import build_backbone, freeze
from attnbridge.attention.beginning import Beginning, find_beginning
from attnbridge.attention.class_maps import grad_cam
from attnbridge.attention.observe import observe
from attnbridge.data.sample import Batch, as_floats
from attnbridge.data.transforms import sides
from attnbridge.errors import AttnBridgeError, DivergedError
from attnbridge.methods.schedules import Schedule, make_schedule

OptimizerName = Literal["adamw", "sgd"]


class Prediction(TypedDict):
    """What a method says of a batch.

    Attributes:
        logits: of each class, ``(B, N)``, float32.
        scores: probability of each class, ``(B, N)``, float32.
        maps: class map of each class, ``(B, N, h, w)``, not negative, at the features' resolution.
    """

    logits: Tensor
    scores: Tensor
    maps: Tensor


class Method(LightningModule):
    """A classifier that is trained by a weighted sum of named losses.

    A method defines :meth:`losses` and :attr:`weights`; everything else is here.

    Args:
        classes: class names in index order.
        backbone: timm model name.
        weights: ``imagenet``, ``none``, or a state dict's path.
        stride: image pixels per feature position.
        layer: layer to look at; default: the last spatial features.
        frozen: names of modules that are not trained.
        batch_norm: ``frozen`` keeps ImageNet's statistics; ``train`` updates them with each batch.
        image_size: side of the pictures in pixels, or height and width; set from the data.
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
    """

    streams: tuple[str, ...] = ("source", "target")
    """Which training pictures the method wants; the data module leaves the others unread."""
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """From logits to scores: several classes a picture, or one."""
    reads_target_labels: bool = True
    """Whether the data module is to give them; else they are NaN in training."""
    dilated: bool = False
    """Whether the backbone keeps its field of view where it drops strides."""
    only_training: tuple[str, ...] = ()
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
        image_size: int | tuple[int, int] = 224,
        optimizer: OptimizerName = "adamw",
        lr: float = 3e-3,
        backbone_lr: float = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: Schedule = "one_cycle",
        step_at: Sequence[float] = (2 / 3,),
        step_by: float = 0.1,
    ) -> None:
        super().__init__()
        self.classes, self.image_size = tuple(classes), image_size
        built = build_backbone(
            backbone,
            len(self.classes),
            weights=weights,
            stride=stride,
            layer=layer,
            image_size=image_size,
            dilated=self.dilated,
        )
        self.network = built.network.to(memory_format=torch.channels_last)
        self.spatial = built.maps
        self.channels = built.channels
        self.layer = built.layer
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(built.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(built.std).view(3, 1, 1), persistent=False)
        self.frozen = tuple(frozen)
        self._beginning: Beginning | None = None
        self._still = freeze(self.network, frozen)
        if batch_norm == "frozen":
            self._still += [m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for module in self._still:
            module.eval()
        self.optimizer_name: OptimizerName = optimizer
        self.lr, self.backbone_lr = lr, backbone_lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.schedule: Schedule = schedule
        self.step_at, self.step_by = tuple(step_at), step_by

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each loss by name; a loss that is not named has weight 1."""
        return {}

    def begun(self) -> None:
        """Called when the weights that training begins with, an earlier stage's, have been read."""

    def losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        """The named losses of a batch, unweighted scalars. ``batch`` maps a stream's name to its batch."""
        raise NotImplementedError

    def normalised(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the network wants them.

        Raises:
            AttnBridgeError: for pictures in 8 bits, as the loaders give them.
        """
        if not images.is_floating_point():
            raise AttnBridgeError(
                f"pictures must be floats in [0, 1], not {images.dtype}; give the trainer `datamodule=`, or call "
                "attnbridge.data.sample.as_floats on each batch"
            )
        images = images.to(self.mean.dtype)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, N)`` and the layer's features, as it gives them, of images in [0, 1]."""
        seen = observe(self.network, self.normalised(images), self.layer)
        return seen.logits, seen.features[self.layer]

    def look_at(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """:meth:`look` at the pictures of several batches at once, or go on from what is kept of them."""
        with self.entered(batches) as given:
            seen = observe(self.network, given, self.layer)
        return seen.logits, seen.features[self.layer]

    @contextmanager
    def entered(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """What the network is to be given of several batches: their pictures, or, where it is kept, what its frozen
        beginning makes of them; inside, the network then does without its beginning."""
        if "features" not in batches[0]:
            yield self.normalised(torch.cat([batch["image"] for batch in batches]))
            return
        kept = torch.cat([batch["features"] for batch in batches]).to(self.mean.dtype)
        with self.beginning().skipped(self.network):
            yield kept.contiguous(memory_format=torch.channels_last) if kept.ndim == 4 else kept

    def beginning(self) -> Beginning:
        """The part of the network that is frozen and need not be run again on the same picture.

        Raises:
            AttnBridgeError: see :func:`~attnbridge.attention.beginning.find_beginning`.
        """
        if self._beginning is None:
            images = torch.rand(1, 3, *sides(self.image_size), generator=torch.Generator().manual_seed(0))
            pictures = self.normalised(images.to(self.mean.device))
            self._beginning = find_beginning(self.network, self.frozen, pictures, self.layers)
        return self._beginning

    @property
    def layers(self) -> list[str]:
        """The layers that training looks at."""
        return [self.layer]

    def kept_of(self, batch: Batch) -> dict[str, Tensor]:
        """What of a batch of fixed views is kept: what the network's frozen beginning makes of the pictures.

        Args:
            batch: in 8 bits; its saliency maps and masks are kept as they are.
        """
        images = self.normalised(as_floats(batch)["image"].to(self.mean.device))
        known: dict[str, Any] = {name: value for name, value in batch.items() if name in ("saliency", "mask")}
        return {"features": self.beginning().run(self.network, images), **known}

    def kept_made_of(self) -> tuple[str, dict[str, Tensor]]:
        """All that :meth:`kept_of` depends on: its structure in words, and its weights by name."""
        modules = self.beginning().modules
        inner = (f"{name}: {self.network.get_submodule(name)!r}" for name in modules)
        words = "\n".join([f"{type(self.network).__name__}, timm {timm.__version__}", *inner])
        inside = tuple(f"{name}." for name in modules)
        state = {k: v for k, v in self.network.state_dict().items() if k.startswith(inside)}
        return words, {"mean": self.mean, "std": self.std, **state}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Weigh, sum and log."""
        weights = self.loss_weights
        weighted = {name: weights.get(name, 1.0) * loss for name, loss in losses.items()}
        total = torch.stack(list(weighted.values())).sum()
        values = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        values |= {f"weighted/{name}": loss.detach() for name, loss in weighted.items()}
        once: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
        self.log_dict(values, **once)
        self.log("loss", total.detach(), prog_bar=True, **once)
        if not torch.isfinite(total.detach()):
            bad = [name for name, loss in losses.items() if not torch.isfinite(loss.detach())]
            raise DivergedError(f"the loss {', '.join(bad) or 'total'} is not finite; lower the learning rate")
        return total

    def training_step(self, batch: dict[str, Batch], _index: int) -> Tensor:
        return self.total(self.losses(batch))

    def predict_batch(self, images: Tensor) -> Prediction:
        """Logits, scores and the maps of all classes of images in [0, 1]; leaves no graph behind."""
        with torch.inference_mode(False), torch.no_grad():  # Lightning's inference mode knows no gradient
            logits, features = self.look(images.clone())
            classes = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
            maps = grad_cam(features, logits, classes, second_order="off", spatial=self.spatial)
        logits = logits.detach()
        return {"logits": logits.float(), "scores": self.probabilities(logits), "maps": maps.detach()}

    def attended_source(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Of images in [0, 1]: of each layer that is held to a source, the weights, of positions ``(B, h, w)`` or of
        channels ``(B, C)``, and the source's features ``(B, C, h, w)``. None, but for methods that have them."""
        return {}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Scores of the classes, ``(B, N)``, float32: half precision cannot tell probabilities near 1 apart."""
        return logits.float().softmax(1) if self.activation == "softmax" else logits.float().sigmoid()

    @staticmethod
    def staged(option: str) -> bool:
        """Whether two stages of a run do not have this option in common: the weights of the losses."""
        return option.endswith("_weight")

    @staticmethod
    def to_use(options: dict[str, Any]) -> dict[str, Any]:
        """The options of a method that is not trained any more: its weights come from a checkpoint."""
        return {**options, "weights": "none"}

    def validation_step(self, batch: Batch, _index: int, dataloader_idx: int = 0) -> Prediction:
        return self.predict_batch(batch["image"])

    test_step = validation_step
    predict_step = validation_step

    def train(self, mode: bool = True) -> Method:
        super().train(mode)
        for module in getattr(self, "_still", ()):
            module.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head at ``lr``, the rest of the network at ``lr * backbone_lr``."""
        classifier: nn.Module = self.network.get_classifier()  # type: ignore[operator]
        head = {id(p) for p in classifier.parameters()}
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if id(p) in head], "lr": self.lr},
            {"params": [p for p in trained if id(p) not in head], "lr": self.lr * self.backbone_lr},
        ]

    def make_optimizer(self) -> dict[str, Any]:
        """The network's optimiser and its schedule, as Lightning wants them."""
        groups = self.parameter_groups()
        optimizer: Optimizer
        if self.optimizer_name == "adamw":
            optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = make_schedule(optimizer, self.schedule, steps, self.step_at, self.step_by)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_optimizers(self) -> Any:
        return self.make_optimizer()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what rebuilds the network, and the random state, so that a resumed run goes on as it would."""
        checkpoint["classes"], checkpoint["image_size"] = list(self.classes), self.image_size
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["random_state"])
