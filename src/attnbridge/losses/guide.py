"""One line in a training loop of one's own: the maps of a network are to match masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from attnbridge.arguments import came, check_tensors
from attnbridge.attention.answers import Output, Target
from attnbridge.attention.explain import Classes, explain
from attnbridge.attention.gradients import SecondOrder
from attnbridge.attention.normalise import Normalise
from attnbridge.data.sample import IGNORE_INDEX
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.attention import Reduction, Resolution, attention_distance, mean_by_image


class Guidance(NamedTuple):
    """What :func:`guide` gives with ``return_logits``.

    Attributes:
        loss: a scalar, not negative.
        logits: ``(B, N)`` of the same forward pass.
    """

    loss: Tensor
    logits: Tensor


@overload
def guide(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    classes: Classes,
    layer: str | Sequence[str] | None = None,
    *,
    return_logits: Literal[False] = False,
    normalise: Normalise = ...,
    resolution: Resolution = ...,
    reduction: Reduction = ...,
    second_order: SecondOrder = ...,
    output: Output | None = ...,
    target: Target | None = ...,
) -> Tensor: ...
@overload
def guide(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    classes: Classes,
    layer: str | Sequence[str] | None = None,
    *,
    return_logits: Literal[True],
    normalise: Normalise = ...,
    resolution: Resolution = ...,
    reduction: Reduction = ...,
    second_order: SecondOrder = ...,
    output: Output | None = ...,
    target: Target | None = ...,
) -> Guidance: ...


def guide(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    classes: Classes,
    layer: str | Sequence[str] | None = None,
    *,
    return_logits: bool = False,
    normalise: Normalise = "none",
    resolution: Resolution = "map",
    reduction: Reduction = "mean",
    second_order: SecondOrder = "on",
    output: Output | None = None,
    target: Target | None = None,
) -> Tensor | Guidance:
    r"""The attention loss of a network's class maps against masks, differentiable into the whole network.

    .. math:: L = \frac{1}{B} \sum_i \frac{1}{K_i} \sum_c (M_i^c - A_i^c)^2

    with :math:`M` the Grad-CAM of :func:`~attnbridge.explain` and :math:`A` the masks: for one class an image Equation
    3 of AttnBN (Li et al., ICCV 2019), for several the guidance by masks of Li et al., CVPR 2018. It is added to the
    loss of a loop of one's own::

        loss = F.cross_entropy(model(images), labels) + weight * attnbridge.guide(model, images, masks, labels)

    or, with one forward pass for both::

        guided = attnbridge.guide(model, images, masks, labels, return_logits=True)
        loss = F.cross_entropy(guided.logits, labels) + weight * guided.loss

    The model runs in its own mode, inside ``DistributedDataParallel`` or ``torch.compile`` or not; nothing is left in
    it.

    Args:
        model: any network from images to logits ``(B, N)``.
        images: ``(B, 3, H, W)``, normalised as the model expects.
        masks: ``(B, H, W)`` for one class an image, or ``(B, K, H, W)``, of any height and width: bool, or floats in
            [0, 1] as saliency maps are, or whole numbers 0 and 1, and 255 for pixels that do not count. (0 and 255
            alone are refused: an 8-bit mask is given as ``masks > 127``.) On a GPU values are not looked at, so that it
            is not waited for.
        classes: whose maps, as in :func:`~attnbridge.explain`: an int or a list of ints, for all images; a long tensor
            ``(B,)`` or ``(B, K)``, each image's own; a bool tensor ``(B, N)``, with masks ``(B, N, H, W)``: where it is
            false nothing counts.
        layer: the layer to look at; default: the last spatial features.
        return_logits: whether to give the logits, too, as a :class:`Guidance`.
        normalise: of each map before it meets its mask, see :func:`~attnbridge.attention.normalise.normalise_maps`.
        resolution: where the two meet: ``map`` averages masks down, ``saliency`` enlarges maps.
        reduction: over the positions; over classes and images it is the mean.
        second_order: ``on``: the loss reaches the head through the map's channel weights as well; ``off``: those are
            constants; ``auto``: as autograd is.
        output: where the logits are in the model's answer, as in :func:`~attnbridge.explain`.
        target: from that answer to scores ``(B, N)`` that ``classes`` are of, as in :func:`~attnbridge.explain`.

    Returns:
        A scalar, not negative; 0 where the maps equal the masks.

    Raises:
        AttnBridgeError: for masks of another shape, kind or range, or NaN in them; and as :func:`~attnbridge.explain`
            does.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    >>> loss = guide(net, torch.rand(2, 3, 8, 8), torch.ones(2, 8, 8), torch.tensor([3, 5]))
    >>> loss.backward()
    >>> loss.shape, bool(net[0].weight.grad.any()), bool(net[4].weight.grad.any())
    (torch.Size([]), True, True)
    """
    wanted, counted = _targets(masks)
    seen: list[Tensor] = []

    def chosen(logits: Tensor) -> Any:
        seen.append(logits)
        return classes(logits) if callable(classes) else classes

    if classes is None:
        raise AttnBridgeError("classes is None; name the classes that the masks are of, as `labels` (B,)")
    how: dict[str, Any] = {"normalise": normalise, "second_order": second_order, "output": output, "target": target}
    maps = explain(model, images, chosen, layer, **how)
    if wanted.ndim == 3:
        if maps.shape[1] != 1:
            raise AttnBridgeError(
                f"masks are {tuple(wanted.shape)} (B, H, W), of one class an image, but classes names {maps.shape[1]}; "
                f"give masks (B, {maps.shape[1]}, H, W), one of each class"
            )
        wanted, counted = wanted[:, None], counted if counted is None else counted[:, None]
    if wanted.shape[:2] != maps.shape[:2]:
        raise AttnBridgeError(
            f"masks must be (B, K, H, W) with B = {maps.shape[0]} images and K = {maps.shape[1]} classes, but are "
            f"{came(masks)}"
        )
    each = attention_distance(
        maps.flatten(0, 1),
        wanted.flatten(0, 1),
        resolution=resolution,
        reduction=reduction,
        counted=counted if counted is None else counted.flatten(0, 1),
    )
    loss = _mean(each.view(maps.shape[:2]), classes)
    return Guidance(loss, seen[0]) if return_logits else loss


def _mean(each: Tensor, classes: Classes) -> Tensor:
    """Over classes and images, of a matrix of classes over those that are wanted."""
    if isinstance(classes, Tensor) and classes.dtype == torch.bool:
        place = classes.to(each.device)
        return mean_by_image(each[place], place.nonzero()[:, 0])
    return each.mean()


def _targets(masks: Any) -> tuple[Tensor, Tensor | None]:
    """Masks as floats or bools, and where they count, if that is not everywhere."""
    check_tensors(masks=(masks, "B ...", "number"))
    if masks.ndim not in (3, 4):
        raise AttnBridgeError(f"masks must be (B, H, W) or (B, K, H, W), but are {came(masks)}")
    looked = masks.device.type == "cpu"  # a GPU is not waited for
    if masks.dtype == torch.bool:
        return masks, None
    if masks.is_floating_point():
        if looked and not bool(((masks >= 0) & (masks <= 1)).all()):
            raise AttnBridgeError(f"masks must be in [0, 1], but hold {_outside(masks)}; divide 8 bits by 255")
        return masks, None
    counted = masks != IGNORE_INDEX
    if looked:
        wrong = masks[counted & (masks != 0) & (masks != 1)]
        if len(wrong):
            raise AttnBridgeError(
                f"masks of whole numbers must be 0, 1, or {IGNORE_INDEX} where nothing counts, but hold "
                f"{int(wrong[0])}; compare them, as `masks == label`"
            )
        if not bool(counted.all()) and not bool((masks == 1).any()):
            raise AttnBridgeError(
                f"masks hold {IGNORE_INDEX}, which does not count, and no 1, so nothing is an object; give an 8-bit "
                "mask as `masks > 127`"
            )
    return masks == 1, counted


def _outside(masks: Tensor) -> str:
    wrong = masks[~((masks >= 0) & (masks <= 1))]
    return f"{float(wrong[0]):.3g}"
