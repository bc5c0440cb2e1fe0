"""One call from a network and images to maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnbridge.arguments import check_network, check_tensors
from attnbridge.attention import METHODS
from attnbridge.attention.answers import Output, Target
from attnbridge.attention.class_maps import (
    Spatial,
    activation_map,
    cam,
    grad_cam,
    grad_cam_pp,
    in_float,
    input_gradient,
    layer_cam,
)
from attnbridge.attention.finder import find_layer, no_maps
from attnbridge.attention.fitting import check_differentiable, check_maps, check_no_nan
from attnbridge.attention.gradients import SecondOrder, check_classes, unknown_class
from attnbridge.attention.layers import reads_class_token, spatial_of, token_prefix, unwrap
from attnbridge.attention.normalise import Normalise, fuse_maps, normalise_maps, resize_maps
from attnbridge.attention.observe import observe, run_for_scores
from attnbridge.attention.transformers import Pool, attention_rollout, gradient_rollout, observe_attention
from attnbridge.bounds import MapSize, Scale, check_names, check_value
from attnbridge.data.images import load_image
from attnbridge.data.preparation import Preparation, preparation_of
from attnbridge.errors import AttnBridgeError, check_choice, shown, unknown_name

OneImage = str | Path | Image.Image
"""A file, or an image of PIL's."""
Classes = int | Sequence[int] | Tensor | Callable[[Tensor], Any] | None
ExplainMethod = Literal[
    "cam", "grad_cam", "grad_cam_pp", "layer_cam", "activation", "input_gradient", "rollout", "gradient_rollout"
]
_BY_GRADIENT: dict[str, Callable[..., Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "layer_cam": layer_cam,
}
WHOLE_NETWORK_METHODS = ("input_gradient", "rollout", "gradient_rollout")
"""Methods that look through all layers."""
_found: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Any, dict[Any, str]]] = WeakKeyDictionary()


def explain(
    model: nn.Module,
    images: Tensor | OneImage | Sequence[OneImage],
    classes: Classes = None,
    layer: str | Sequence[str] | None = None,
    method: ExplainMethod = "grad_cam",
    size: int | tuple[int, int] | None = None,
    *,
    normalise: Normalise = "none",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    second_order: SecondOrder = "auto",
    differentiable: bool = True,
    output: Output | None = None,
    target: Target | None = None,
    preparation: Preparation | None = None,
) -> Tensor:
    """Where ``model`` looks for each class: maps of a batch in one call.

    The model's mode, flags, hooks and gradients stay as they are; in train mode it runs as in training, so batch
    norm learns and dropout drops: call ``model.eval()`` first to look at a finished network. With autograd on, the maps
    are differentiable, for which the trunk's graph is kept. With ``differentiable=False``, and under
    ``torch.no_grad()``, it is not (but for the methods that look through all layers by gradients), which takes
    less time and memory.

    Args:
        model: any network from images to logits ``(B, N)``: timm, torchvision, transformers, one's own; convolutional
            or transformer; inside ``DistributedDataParallel`` or ``torch.compile`` or not.
        images: ``(B, 3, H, W)``, normalised as the model expects; or an image's path or a PIL image, or several, which
            are prepared as ``preparation`` says.
        classes: ``None``: the predicted class of each image; an int or a list of ints: these, for all images;
            a long tensor ``(B,)`` or ``(B, K)``: each image's own; a bool tensor ``(B, N)``: where it is true,
            the maps of the others are 0 and K = N; or a function from the logits to any of these.
        layer: the layer to look at; default: the last spatial features (:func:`find_layer`, looked up once a
            model and size). Several layers are fused, each to its own maximum (:func:`fuse_maps`).
        method: a name from :data:`attnbridge.attention.METHODS`.
        size: height and width, or side, of the maps; default: the layer's own resolution at scale 1.
        normalise: of each map, at the end; see :func:`normalise_maps`.
        scales: multiples of the images' size that the maps are averaged over.
        flip: average with the maps of the mirrored images too.
        second_order: what a loss on the maps reaches; see :mod:`attnbridge.attention.class_maps`.
        differentiable: ``False`` gives maps to look at, whose values are the same, but which no loss can train.
        output: where the logits are in what the model answers: a name, an index, or a function. Found without it are
            a tensor, ``logits`` and ``out`` of a mapping or object, and the first of a tuple.
        target: what to explain in the place of a class: a function from the answer to scores ``(B, K)``, as those of
            :mod:`attnbridge.targets`. Without ``classes`` there is a map of each score.
        preparation: of images that are no tensor; default: as the model says
            (:func:`~attnbridge.data.preparation.preparation_of`).

    Returns:
        ``(B, K, H, W)``, not negative.

    Raises:
        AttnBridgeError: for an unknown method or layer, a layer without spatial features, classes out of range, a
            method that the model's kind does not admit, images that the model cannot take, an answer without logits,
            maps that are not finite, ``second_order="on"`` of maps that are not differentiable, and without ``layer``
            for a model whose blocks hide their features (:func:`find_layer`).

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    >>> explain(net, torch.rand(2, 3, 8, 8)).shape, explain(net, torch.rand(2, 3, 8, 8), [0, 5], size=32).shape
    (torch.Size([2, 1, 6, 6]), torch.Size([2, 2, 32, 32]))
    """
    if not isinstance(method, str) or method not in METHODS:
        raise unknown_name("method", method, METHODS)
    check_choice("normalise", normalise, get_args(Normalise))
    check_choice("second_order", second_order, get_args(SecondOrder))
    check_value("scales", scales, Sequence[Scale])
    check_value("size", size, MapSize | None)
    check_network(model, "model")
    check_differentiable(unwrap(model))
    images = _batch(unwrap(model), images, preparation)
    if second_order == "on" and not differentiable:
        raise AttnBridgeError(
            'second_order="on" is for maps that a loss trains, which those with differentiable=False are not; leave '
            "one of them out"
        )
    recording = differentiable and torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(recording):  # the former alone turns autograd on
        images = images.clone() if images.is_inference() else images
        view = _View(model, method, _layers(model, images, layer, method, output, target), second_order, output, target)
        maps, indices, wanted = view(images, classes)
        if flip or tuple(scales) != (1.0,):
            size = size or (maps.shape[2], maps.shape[3])
            maps = _averaged(view, images, maps, indices, scales, flip, size)
        maps = normalise_maps(maps if size is None else resize_maps(maps, size), normalise)
        check_maps(maps, unwrap(model), images)
        return maps if wanted is None else _scattered(maps, indices, wanted)


def _batch(network: nn.Module, images: Any, preparation: Preparation | None) -> Tensor:
    """Images ``(B, C, H, W)``; files and PIL's images are prepared, on the network's device."""
    several = list(images) if isinstance(images, list | tuple) else [images]
    if not several or not all(isinstance(one, str | Path | Image.Image) for one in several):
        if preparation is not None:
            raise AttnBridgeError("preparation is for files and PIL images; tensors are taken as they are")
        check_tensors(images=(images, "B C H W"))
        return images  # type: ignore[no-any-return]
    how = preparation or preparation_of(network)
    if how is None:
        raise AttnBridgeError(
            "images: nothing says how the model wants them; give size, mean and std, as preparation=attnbridge.data."
            "Preparation(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), or a tensor (B, 3, H, W)"
        )
    opened = [load_image(Path(one)) if isinstance(one, str | Path) else one for one in several]
    parameter = next(network.parameters(), torch.zeros(()))
    return torch.cat([how.prepare(one) for one in opened]).to(parameter.device, parameter.dtype)


def _layers(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None,
    method: str,
    output: Output | None,
    target: Target | None,
) -> tuple[str, ...]:
    """Names of the layers to look at; none for the methods that look through all."""
    if method in WHOLE_NETWORK_METHODS:
        if layer is not None:
            raise AttnBridgeError(f"{method} looks through all layers; leave `layer` out")
        return ()
    if layer is not None:
        return (layer,) if isinstance(layer, str) else tuple(dict.fromkeys(check_names("layer", layer)))
    network, (channels, height, width) = unwrap(model), images.shape[1:]
    known, key = _known(network, output, target), (height, width, repr(output))
    name = known.get(key)
    if name is None or name not in dict(network.named_modules()):
        shown = images[:1] if target is not None else None
        name = find_layer(network, (height, width), channels, images=shown, output=output, target=target)
        known[key] = name
    return (name,)


def _known(network: nn.Module, output: Output | None, target: Target | None) -> dict[Any, str]:
    """The layers that were found for a network and what is asked of it; functions are told by what they are, as long as
    they are there, and not by their names."""
    asked = find_layer if target is None else target  # anything that lives as long as the program
    try:
        return {} if callable(output) else _found.setdefault(network, WeakKeyDictionary()).setdefault(asked, {})
    except TypeError:  # a callable that cannot be a key
        return {}


@dataclass(frozen=True)
class _View:
    """A model and how to look into it; called on images at any scale."""

    model: nn.Module
    method: str
    layers: tuple[str, ...]
    second_order: SecondOrder
    output: Output | None = None
    target: Target | None = None

    def __call__(self, images: Tensor, classes: Classes) -> tuple[Tensor, Tensor, Tensor | None]:
        """Maps ``(B, K, h, w)``, class indices ``(B, K)``, and the matrix of wanted classes if one was given."""
        if classes is None and self.target is not None:
            classes = _all
        if self.method == "input_gradient":
            return self._input(images, classes)
        if self.method in ("rollout", "gradient_rollout"):
            return self._tokens(images, classes)
        return self._features(images, classes)

    def _input(self, images: Tensor, classes: Classes) -> tuple[Tensor, Tensor, Tensor | None]:
        images = images if images.requires_grad else images.detach().requires_grad_()
        eager = torch.compiler.set_stance("force_eager")  # compiled or fused, it could not be differentiated twice
        with torch.enable_grad(), eager, sdpa_kernel(SDPBackend.MATH):
            logits = run_for_scores(self.model, images, self.output, self.target)
        self._check(logits, images)
        indices, wanted = class_indices(classes, logits)
        return input_gradient(images, logits, indices, second_order=self.second_order), indices, wanted

    def _tokens(self, images: Tensor, classes: Classes) -> tuple[Tensor, Tensor, Tensor | None]:
        graph = True if self.method == "gradient_rollout" else None
        logits, attention = observe_attention(self.model, images, graph=graph, output=self.output, target=self.target)
        self._check(logits, images)
        indices, wanted = class_indices(classes, logits)
        network, aspect = unwrap(self.model), images.shape[2] / images.shape[3]
        prefix = token_prefix(network, attention[0].shape[-1], *images.shape[2:])
        pool: Pool = "token" if reads_class_token(network) else "mean"
        if self.method == "rollout":
            maps = attention_rollout(attention, prefix, aspect, pool).expand(-1, indices.shape[1], -1, -1)
        else:
            maps = gradient_rollout(attention, logits, indices, prefix, aspect, pool, second_order=self.second_order)
        return maps, indices, wanted

    def _features(self, images: Tensor, classes: Classes) -> tuple[Tensor, Tensor, Tensor | None]:
        height, width = images.shape[2:]
        seen = observe(self.model, images, self.layers, output=self.output, target=self.target)
        self._check(seen.logits, images)
        indices, wanted = class_indices(classes, seen.logits)
        maps = []
        for name in self.layers:
            features = seen.features[name]
            spatial = spatial_of(features, unwrap(self.model), height, width)
            try:
                spatial(features)
            except AttnBridgeError as error:
                raise no_maps(name, error, self.model, (height, width), images.shape[1]) from None
            maps.append(self._map(features, seen.logits, indices, spatial))
        return (maps[0] if len(maps) == 1 else fuse_maps(maps)), indices, wanted

    def _check(self, logits: Tensor, images: Tensor) -> None:
        if len(logits) != len(images):
            raise AttnBridgeError(f"the network gave scores of {len(logits)} images, but it was given {len(images)}")
        check_no_nan(logits, unwrap(self.model), images)

    def _map(self, features: Tensor, logits: Tensor, indices: Tensor, spatial: Spatial) -> Tensor:
        if self.method == "activation":
            return activation_map(spatial(features))[:, None].expand(-1, indices.shape[1], -1, -1)
        if self.method == "cam":
            return cam(spatial(features), _linear_head(self.model, spatial(features), logits), indices)
        return _BY_GRADIENT[self.method](features, logits, indices, second_order=self.second_order, spatial=spatial)


def _all(scores: Tensor) -> Tensor:
    """Each of the scores, for each image."""
    return torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)


def class_indices(classes: Classes, logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """What :func:`explain` takes as classes, as long indices ``(B, K)``; with a bool matrix, that matrix too.

    Raises:
        AttnBridgeError: for a wrong shape, type or range.

    >>> class_indices(torch.tensor([[True, False, True], [False, True, False]]), torch.zeros(2, 3))[0]
    tensor([[0, 2],
            [1, 0]])
    """
    classes = classes(logits) if callable(classes) else classes
    if classes is None:
        return logits.argmax(1, keepdim=True), None
    if isinstance(classes, Tensor) and classes.dtype == torch.bool:
        if classes.shape != logits.shape:
            raise AttnBridgeError(
                f"a bool matrix of classes must be {tuple(logits.shape)} (B, N), but is {tuple(classes.shape)}"
            )
        wanted = classes.to(logits.device)
        most = max(1, int(wanted.sum(1).max()))
        return wanted.byte().argsort(dim=1, descending=True, stable=True)[:, :most], wanted
    if not isinstance(classes, Tensor):
        classes = torch.tensor(_listed(classes, logits.shape[1]), dtype=torch.long).expand(len(logits), -1)
    return check_classes(classes, *logits.shape).to(logits.device), None


def _listed(classes: Any, count: int) -> list[int]:
    """A number of a class, or several, as a list."""
    given = list(classes) if isinstance(classes, Iterable) else [classes]
    try:
        if any(isinstance(each, bool) for each in given):
            raise TypeError
        listed = [index(each) for each in given]
    except TypeError:
        raise AttnBridgeError(
            "classes must be a number, a list of numbers, or a tensor of each image's own (bool: (B, N)), not "
            f"{shown(classes)}"
        ) from None
    for each in listed:
        if not 0 <= each < count:
            raise unknown_class(each, count)
    return listed


def _scattered(maps: Tensor, indices: Tensor, wanted: Tensor) -> Tensor:
    """Maps ``(B, K, H, W)`` to ``(B, N, H, W)``; those that are not wanted are 0."""
    full = maps.new_zeros(*wanted.shape, *maps.shape[2:])
    index = indices[:, :, None, None].expand_as(maps)
    return full.scatter(1, index, maps) * wanted[:, :, None, None]


def _averaged(
    view: _View,
    images: Tensor,
    maps: Tensor,
    indices: Tensor,
    scales: Sequence[float],
    flip: bool,
    size: int | tuple[int, int],
) -> Tensor:
    """Mean over scales and mirrored images, each map to its own maximum first, at ``size``; ``maps`` is scale 1's."""
    total: list[Tensor] = []
    for scale in scales:
        height, width = (max(1, round(side * scale)) for side in images.shape[2:])
        scaled = F.interpolate(images, (height, width), mode="bilinear", antialias=scale < 1) if scale != 1 else images
        total.append(maps if scale == 1 else view(scaled, indices)[0])
        if flip:
            total.append(view(scaled.flip(3), indices)[0].flip(3))
    return torch.stack([normalise_maps(resize_maps(one, size), "max") for one in total]).mean(0)


def _linear_head(model: nn.Module, features: Tensor, logits: Tensor) -> Tensor:
    """Weight ``(N, C)`` of the linear head; checked against the logits, as CAM is nothing else's closed form."""
    shape = (logits.shape[1], features.shape[1])
    for module in reversed(list(unwrap(model).modules())):
        if isinstance(module, nn.Linear | nn.Conv2d) and tuple(module.weight.flatten(1).shape) == shape:
            weight, bias = in_float(module.weight.flatten(1)), None if module.bias is None else in_float(module.bias)
            with torch.autocast(features.device.type, enabled=False):
                pooled = F.linear(in_float(features).mean((2, 3)), weight, bias)
            tolerance = 0.01 if logits.dtype in (torch.float32, torch.float64) else 0.2
            if (pooled - in_float(logits)).abs().max() <= tolerance * logits.abs().max():
                return module.weight.flatten(1)
    raise AttnBridgeError(
        "cam is the closed form for global average pooling and one linear layer after the features, and this network "
        "has something else there (or dropout, in train mode); use grad_cam, or look at the layer before the pooling"
    )
