"""Class maps: where the evidence for a class lies, as pure functions of features and logits.

All of them are differentiable. What a loss on a map reaches is decided by ``second_order``: with ``off`` the
gradients in the map are constants, so the loss reaches the features and, through them, the trunk; with ``on`` it
reaches the parameters between features and logits as well; ``auto`` is ``on`` where autograd records and ``off``
under ``torch.no_grad()``. Half-precision features, as under autocast, give maps in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.arguments import came, check_tensors
from attnbridge.attention.gradients import SecondOrder, check_classes, class_gradients, keeps_graph
from attnbridge.bounds import Positive, check_number
from attnbridge.errors import AttnBridgeError, check_choice

Spatial = Callable[[Tensor], Tensor]
Activation = Literal["sum", "sum_p", "max_p"]
PlusVariant = Literal["paper", "torchcam"]


def grad_cam(
    features: Tensor,
    logits: Tensor,
    classes: Tensor,
    *,
    second_order: SecondOrder = "auto",
    relu: bool = True,
    spatial: Spatial | None = None,
) -> Tensor:
    r"""Grad-CAM of several classes of every image in one call, differentiable.

    .. math:: w_i^c = \frac{1}{HW} \sum_{x,y} \frac{\partial y^c}{\partial F_i(x, y)}, \qquad
              M^c = \mathrm{ReLU}\Bigl(\sum_i w_i^c F_i\Bigr)

    (Selvaraju et al., ICCV 2017; equations 1 and 2 of AttnBN, Li et al., ICCV 2019.) Gradients are taken
    from the logits to the features alone, so the trunk is never back-propagated for a map, and nothing is
    accumulated in any ``.grad``.

    Args:
        features: the features that ``logits`` were computed from, inside the graph: ``(B, C, H, W)``, or
            what ``spatial`` brings to that shape.
        logits: ``(B, N)``; the logits of one image must not depend on another image's features.
        classes: long ``(B,)`` or ``(B, K)``, the class indices of each image.
        second_order: what a loss on the maps reaches; see the module.
        relu: keep only positive evidence.
        spatial: brings features and gradients, both as the layer gives them, to ``(B, C, H, W)``;
            see :func:`attnbridge.attention.layers.to_maps`.

    Returns:
        ``(B, K, H, W)``, K = 1 for ``classes`` of shape ``(B,)``; not negative with ``relu``.

    Raises:
        AttnBridgeError: for classes of a wrong shape or range, or logits that do not depend on the features.

    >>> features = torch.rand(2, 3, 4, 4, requires_grad=True)
    >>> logits = features.mean((2, 3)) @ torch.eye(3)
    >>> maps = grad_cam(features, logits, torch.tensor([[0, 2], [1, 1]]))
    >>> maps.shape, torch.allclose(maps[0, 1], features[0, 2] / 16)
    (torch.Size([2, 2, 4, 4]), True)
    """
    weights = class_gradients(
        features, logits, classes, lambda g: _folded(spatial, g).mean((3, 4)), second_order=second_order
    )
    return _combine(weights, features, spatial, second_order, relu)


def grad_cam_pp(
    features: Tensor,
    logits: Tensor,
    classes: Tensor,
    *,
    second_order: SecondOrder = "auto",
    relu: bool = True,
    spatial: Spatial | None = None,
    variant: PlusVariant = "paper",
) -> Tensor:
    r"""Grad-CAM++: channels weighed by their positive gradients, each position by how little it shares its channel.

    .. math:: \alpha_i(x, y) = \frac{g^2}{2 g^2 + g^3 \sum_{a,b} F_i(a, b)}, \qquad
              w_i^c = \sum_{x,y} \alpha_i\,\mathrm{ReLU}(g), \qquad g = \partial y^c / \partial F_i(x, y)

    (Chattopadhay et al., WACV 2018, equations 10, 11 and 19, without the factor :math:`\exp(y^c)`, which all
    channels have in common.)

    Args:
        variant: ``paper`` as above; ``torchcam``: :math:`\alpha = g^2`, which is what torch-cam 0.5 computes, as
            its division acts on a copy.

    The other arguments, the result and the errors are those of :func:`grad_cam`.

    >>> features = torch.ones(1, 2, 2, 2, requires_grad=True)
    >>> grad_cam_pp(features, features.sum((2, 3)), torch.tensor([0])).flatten().tolist()
    [0.666..., 0.666..., 0.666..., 0.666...]
    """
    check_choice("variant", variant, get_args(PlusVariant))
    check_tensors(features=(features, "B ..."))
    maps = _spatial(spatial, features if keeps_graph(second_order) else features.detach())

    def weigh(gradients: Tensor) -> Tensor:
        g = _folded(spatial, gradients)
        alpha = g**2
        if variant == "paper":
            below = 2 * alpha + g**3 * maps.sum((2, 3), keepdim=True)
            empty = (g == 0) | (below == 0)
            alpha = torch.where(empty, 0.0, alpha / torch.where(empty, 1.0, below))
        return (alpha * F.relu(g)).sum((3, 4))

    weights = class_gradients(features, logits, classes, weigh, second_order=second_order)
    return _combine(weights, features, spatial, second_order, relu)


def layer_cam(
    features: Tensor,
    logits: Tensor,
    classes: Tensor,
    *,
    second_order: SecondOrder = "auto",
    relu: bool = True,
    spatial: Spatial | None = None,
) -> Tensor:
    r"""LayerCAM: each position weighed by its own positive gradient, so that early layers give fine maps.

    .. math:: M^c = \mathrm{ReLU}\Bigl(\sum_i \mathrm{ReLU}\Bigl(\frac{\partial y^c}{\partial F_i}\Bigr) F_i\Bigr)

    (Jiang et al., TIP 2021.) Arguments, result and errors are those of :func:`grad_cam`.

    >>> features = torch.ones(1, 2, 2, 2, requires_grad=True)
    >>> layer_cam(features, features.sum((2, 3)), torch.tensor([0])).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    check_tensors(features=(features, "B ..."))
    maps = _spatial(spatial, features)

    def weigh(gradients: Tensor) -> Tensor:
        return (F.relu(_folded(spatial, gradients)) * maps).sum(2)

    summed = class_gradients(features, logits, classes, weigh, second_order=second_order)
    return F.relu(summed) if relu else summed


def cam(features: Tensor, weight: Tensor, classes: Tensor, *, relu: bool = True) -> Tensor:
    r"""The closed form of :func:`grad_cam` for global average pooling and a linear head.

    .. math:: M^c = \mathrm{ReLU}\Bigl(\frac{1}{HW} \sum_i W_{ci} F_i\Bigr)

    (CAM, Zhou et al., CVPR 2016, with Grad-CAM's scale.)

    Args:
        features: ``(B, C, H, W)``.
        weight: ``(N, C)``, the head's weight.
        classes: long ``(B,)`` or ``(B, K)``.
        relu: keep only positive evidence.

    Returns:
        ``(B, K, H, W)``.

    Raises:
        AttnBridgeError: for classes of a wrong shape or range, or features and weight that do not fit each other.

    >>> cam(torch.ones(1, 2, 2, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([0]))
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    check_tensors(features=(features, "B C H W"), weight=(weight, "N C"))
    classes = check_classes(classes, len(features), len(weight))
    positions = features.shape[2] * features.shape[3]
    return _combine(in_float(weight)[classes] / positions, features, None, "auto", relu)


def input_gradient(images: Tensor, logits: Tensor, classes: Tensor, *, second_order: SecondOrder = "auto") -> Tensor:
    r"""How much each pixel moves a class's logit.

    .. math:: M^c(x, y) = \max_i \Bigl|\frac{\partial y^c}{\partial I_i(x, y)}\Bigr|

    (Simonyan et al., ICLR workshop 2014.) The whole network is back-propagated, once per class.

    Args:
        images: ``(B, 3, H, W)`` that require gradient and that ``logits`` were computed from.
        logits: ``(B, N)``.
        classes: long ``(B,)`` or ``(B, K)``.
        second_order: as in :func:`grad_cam`; here ``off`` gives maps that no loss can train.

    Returns:
        ``(B, K, H, W)``, not negative.

    >>> images = torch.ones(1, 3, 2, 2, requires_grad=True)
    >>> input_gradient(images, -2 * images.sum((2, 3)), torch.tensor([1])).flatten().tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    return class_gradients(images, logits, classes, lambda g: in_float(g).abs().amax(2), second_order=second_order)


def activation_map(features: Tensor, kind: Activation = "sum_p", p: float = 2.0) -> Tensor:
    r"""Activation-based attention: where a layer is active, whatever the class.

    .. math:: F_{sum} = \sum_i |F_i|, \qquad F_{sum}^p = \sum_i |F_i|^p, \qquad F_{max}^p = \max_i |F_i|^p

    (Zagoruyko and Komodakis, ICLR 2017, Section 3.1.)

    Args:
        features: ``(B, C, H, W)``.
        kind: ``sum``, ``sum_p`` or ``max_p``.
        p: the power.

    Returns:
        ``(B, H, W)``, not negative.

    >>> activation_map(torch.tensor([[[[3.0]], [[-4.0]]]])).item()
    25.0
    """
    check_choice("kind", kind, get_args(Activation))
    check_number("p", p, Positive)
    strength = in_float(features).abs()
    strength = strength if kind == "sum" else strength**p
    return strength.amax(1) if kind == "max_p" else strength.sum(1)


def in_float(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are.

    >>> in_float(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _spatial(spatial: Spatial | None, features: Tensor) -> Tensor:
    if spatial is not None and not callable(spatial):
        raise AttnBridgeError(f"spatial must be a function from features to (B, C, H, W), not {came(spatial)}")
    maps = spatial(features) if spatial else features
    if maps.ndim != 4:
        raise AttnBridgeError(
            f"features of shape {tuple(maps.shape)} are no maps; expected (B, C, H, W), or `spatial`, a function that "
            "brings them to it, as attnbridge.attention.layers.to_maps"
        )
    return in_float(maps)


def _folded(spatial: Spatial | None, gradients: Tensor) -> Tensor:
    """Gradients ``(k, B, ...)`` as ``(k, B, C, H, W)``."""
    maps = _spatial(spatial, gradients.flatten(0, 1))
    return maps.view(*gradients.shape[:2], *maps.shape[1:])


def _combine(
    weights: Tensor, features: Tensor, spatial: Spatial | None, second_order: SecondOrder, relu: bool
) -> Tensor:
    """Channels summed with their weights ``(B, K, C)``."""
    keep = torch.is_grad_enabled() or keeps_graph(second_order)
    with torch.set_grad_enabled(keep), torch.autocast(features.device.type, enabled=False):
        maps = torch.einsum("bkc,bchw->bkhw", weights, _spatial(spatial, features))
        return F.relu(maps) if relu else maps
