"""Is a map true to the network? Insertion and deletion of pixels, and the sanity check of randomised weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.transforms.v2.functional import gaussian_blur

from attnbridge.arguments import came, check_network, check_tensors
from attnbridge.bounds import Count, Seed, check_names, check_number
from attnbridge.errors import AttnBridgeError, unknown_name

Baseline = Tensor | Literal["blur", "zero"]
Activation = Literal["softmax", "sigmoid"]
Look = Callable[[nn.Module, Tensor], Tensor]


def insertion_curve(
    network: nn.Module,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    *,
    baseline: Baseline = "blur",
    steps: int = 20,
    activation: Activation = "softmax",
    batch: int = 32,
) -> Tensor:
    r"""Probability of a class as the pixels where the map is strongest are put into the baseline.

    .. math:: p_k = f_c\bigl(m_k \odot I + (1 - m_k) \odot I_0\bigr), \qquad k = 0 \dots K

    with :math:`m_k` the first :math:`\lfloor k H W / K \rfloor` pixels by the map, the largest first, equal ones by
    rows (RISE, Petsiuk et al., BMVC 2018). With a true map it rises early. The network runs without gradient, in
    the mode that it is in: put it into eval mode, or batch norm and dropout act on the edited images.

    Args:
        network: gives logits ``(M, N)`` of images ``(M, C, H, W)``.
        images: ``(B, C, H, W)``, normalised as the network expects.
        maps: ``(B, H, W)``, any finite values; only their order counts.
        classes: long ``(B,)``, the class to follow in each image.
        baseline: the image without information: ``blur``, RISE's for insertion, a Gaussian of 5 pixels cut to
            11 x 11; ``zero``, RISE's for deletion; or a tensor that broadcasts to ``images``.
        steps: number K of steps.
        activation: from logits to the probability.
        batch: edited images per forward pass; bounds the memory, and does not change the result.

    Returns:
        ``(B, K + 1)`` in [0, 1], from the baseline to the image.

    Raises:
        AttnBridgeError: for wrong shapes, classes out of range, maps or answers that are not finite, or unknown names.

    >>> network = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())  # a class's logit: its channel's maximum
    >>> images, maps = torch.tensor([[[[0.0, 0.0]], [[0.0, 9.0]]]]), torch.tensor([[[0.1, 0.9]]])
    >>> insertion_curve(network, images, maps, torch.tensor([1]), baseline="zero", steps=2).round(decimals=2)
    tensor([[0.5000, 1.0000, 1.0000]])
    """
    check_network(network)
    _check_settings(baseline, steps, activation, batch)
    _check(images, maps, classes)
    background = _background(baseline, images)
    rank = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)  # of each pixel, 0 the strongest
    pairs = torch.cartesian_prod(*(torch.arange(count, device=maps.device) for count in (len(maps), steps + 1)))
    found = []
    for image, step in (part.unbind(1) for part in torch.split(pairs, batch)):
        inserted = (rank[image] < (step * rank.shape[1] // steps)[:, None]).view(-1, 1, *maps.shape[1:])
        with torch.no_grad():
            logits = network(torch.where(inserted, images[image], background[image]))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] <= int(classes.max()):
            raise AttnBridgeError(f"expected logits (M, N) for {classes}, not {getattr(logits, 'shape', type(logits))}")
        probabilities = logits.float().softmax(1) if activation == "softmax" else logits.float().sigmoid()
        found.append(probabilities.gather(1, classes[image, None]))
    curves = torch.cat(found).view(len(maps), -1)
    if not bool(curves.isfinite().all()):
        raise AttnBridgeError("the network's logits are NaN or infinite; look for NaN in its weights or the images")
    return curves


def deletion_curve(
    network: nn.Module, images: Tensor, maps: Tensor, classes: Tensor, *, baseline: Baseline = "zero", **options: Any
) -> Tensor:
    r"""Probability of a class as the pixels where the map is strongest are replaced by the baseline's.

    .. math:: p_k = f_c\bigl((1 - m_k) \odot I + m_k \odot I_0\bigr), \qquad k = 0 \dots K

    (RISE, Petsiuk et al., BMVC 2018.) With a true map it falls early. It is the insertion of the baseline into the
    image: arguments, also ``steps``, ``activation`` and ``batch``, and errors are :func:`insertion_curve`'s.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> deletion_curve(network, torch.rand(3, 3, 2, 2), torch.rand(3, 2, 2), torch.tensor([0, 1, 1]), steps=4).shape
    torch.Size([3, 5])
    """
    check_tensors(images=(images, "B C H W"))
    return insertion_curve(network, _background(baseline, images), maps, classes, baseline=images, **options)


def area_under(curves: Tensor) -> Tensor:
    """Area under each curve ``(B, K + 1)`` over [0, 1] by the trapezoid rule, ``(B,)``; K = 0 is an AttnBridgeError.

    >>> area_under(torch.tensor([[0.0, 1.0, 1.0]]))
    tensor([0.7500])
    """
    if curves.ndim != 2 or curves.shape[1] < 2:
        raise AttnBridgeError(f"curves must have the shape (B, steps + 1), steps > 0, but have {tuple(curves.shape)}")
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1))


class _MeanArea(Metric):
    full_state_update = False
    curve: Callable[..., Tensor]
    state: str  # not the same in all, or a `MetricCollection` may take one for the other
    count: Tensor

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__()
        check_network(network)
        known = ("baseline", "steps", "activation", "batch")
        for name in settings:
            if name not in known:
                raise unknown_name("setting", name, known)
        _check_settings(**{"baseline": "zero", "steps": 1, "activation": "softmax", "batch": 1, **settings})
        self.network, self.settings = (network,), settings  # in a tuple it is no submodule
        self.add_state(self.state, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: Tensor, maps: Tensor, classes: Tensor) -> None:
        """Count a batch: images ``(B, C, H, W)``, maps ``(B, H, W)``, classes long ``(B,)``; errors as the curve's."""
        areas = area_under(self.curve(self.network[0], images, maps, classes, **self.settings))
        setattr(self, self.state, getattr(self, self.state) + areas.double().sum())
        self.count += len(areas)

    def compute(self) -> Tensor:
        """Mean area over the images, in [0, 1]."""
        total: Tensor = getattr(self, self.state)
        return total / self.count


class Insertion(_MeanArea):
    """Area under :func:`insertion_curve`, mean over images, in [0, 1]; higher is better.

    (RISE, Petsiuk et al., BMVC 2018.) ``settings`` are the curve's ``baseline``, ``steps``, ``activation`` and
    ``batch``. The network is no part of the metric: not moved, saved or counted with it.

    >>> metric = Insertion(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), baseline="zero", steps=4)
    >>> bool(0 < metric(torch.rand(3, 3, 2, 2), torch.rand(3, 2, 2), torch.tensor([0, 1, 1])) < 1)
    True
    """

    higher_is_better = True
    curve, state = staticmethod(insertion_curve), "inserted"


class Deletion(_MeanArea):
    """Area under :func:`deletion_curve`, mean over images, in [0, 1]; lower is better. Else as :class:`Insertion`."""

    higher_is_better = False
    curve, state = staticmethod(deletion_curve), "deleted"


def sanity_check(
    network: nn.Module, images: Tensor, look: Look, *, layers: Sequence[str] | None = None, seed: int = 0
) -> list[tuple[str, float]]:
    r"""Do the maps change when the network forgets? Randomise its layers, from the last to the first, and compare.

    .. math:: \rho_l = \frac{1}{B} \sum_b \mathrm{corr}\bigl(\mathrm{rank}\, M_b,\, \mathrm{rank}\, M_b^{(l)}\bigr)

    Spearman's rank correlation of the maps with those after layer :math:`l` and all before it were randomised, equal
    values sharing their mean rank (Adebayo et al., NeurIPS 2018). Near 1 to the end, the maps show nothing that was
    learned. A constant map has no order: 0. A layer is set anew by its ``reset_parameters``, or without one by normal
    values of mean 0 and the weight's own deviation. Parameters, buffers and torch's random state are brought back.

    Args:
        network, images: what ``look`` is given; the network is changed during the call, images are ``(B, ...)``.
        look: gives the maps ``(B, H, W)``; called once, and once more for each layer.
        layers: names from ``network.named_modules()`` in the order of randomisation, each with all that it
            contains. Default: every module that has weights of its own, the last defined first.
        seed: of the random weights.

    Returns:
        name and mean correlation in [-1, 1] after each layer; the network itself goes by its class name.

    Raises:
        AttnBridgeError: for an unknown layer or one without weights, or maps of a wrong shape or not finite.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
    >>> [layer for layer, _ in sanity_check(network, torch.rand(2, 3, 8, 8), lambda network, images: images.mean(1))]
    ['2', '0']
    """
    check_network(network)
    check_tensors(images=(images, "B ..."))
    check_number("seed", seed, Seed)
    if not callable(look):
        raise AttnBridgeError(f"look must be a function from network and images to maps, not {came(look)}")
    modules = {name: module for name, module in network.named_modules() if list(module.parameters())}
    if layers is None:
        layers = [name for name, module in modules.items() if list(module.parameters(recurse=False))][::-1]
    for name in check_names("layers", layers):
        if name not in modules:
            raise unknown_name("layer with weights", name, modules)
    if not layers:
        raise AttnBridgeError("there is no layer to randomise: layers is empty, or the network has no weights")
    kept = [
        (module, name, tensor, tensor.detach().clone())
        for module in network.modules()
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    ]
    found = []
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            original = _ranks(look(network, images), images, "of the untouched network")
            for name in layers:
                _randomise(modules[name])
                ranks = _ranks(look(network, images), images, f"with {name!r} randomised")
                found.append((name or type(network).__name__, float((original * ranks).sum(1).mean())))
    finally:
        with torch.no_grad():
            for module, name, tensor, values in kept:
                tensor.copy_(values)
                setattr(module, name, tensor)  # the object too, where a new one took its place
    return found


@torch.no_grad()
def _randomise(layer: nn.Module) -> None:
    for module in layer.modules():
        weights, reset = list(module.parameters(recurse=False)), getattr(module, "reset_parameters", None)
        if weights and reset:
            reset()
        else:
            for weight in weights:
                weight.normal_(std=float(weight.std(correction=0)))


def _ranks(maps: Tensor, images: Tensor, state: str) -> Tensor:
    """Ranks of each map's pixels, centred and of length 1, ``(B, H W)``; zeros for a constant map."""
    if not isinstance(maps, Tensor):
        raise AttnBridgeError(f"`look` must give maps ({len(images)}, H, W), a tensor, not {came(maps)}, {state}")
    if maps.ndim != 3 or len(maps) != len(images) or not maps.isfinite().all():
        raise AttnBridgeError(f"`look` must give finite maps ({len(images)}, H, W), not {tuple(maps.shape)}, {state}")
    ranks = torch.from_numpy(rankdata(maps.detach().flatten(1).double().cpu().numpy(), axis=1))
    return nn.functional.normalize(ranks - ranks.mean(1, keepdim=True), dim=1)


def _background(baseline: Baseline, images: Tensor) -> Tensor:
    _check_baseline(baseline)
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(images).expand_as(images)
        except RuntimeError:
            came = f"{tuple(baseline.shape)} for images {tuple(images.shape)}"
            raise AttnBridgeError(f"baseline must broadcast to the images, e.g. as (C, 1, 1), but is {came}") from None
    side = min(11, 2 * min(images.shape[2:], default=1) - 1)  # what the reflected border allows
    return torch.zeros_like(images) if baseline == "zero" else gaussian_blur(images, [side, side], [5.0, 5.0])


def _check_settings(baseline: Any, steps: Any, activation: Any, batch: Any) -> None:
    _check_baseline(baseline)
    if activation not in get_args(Activation):
        raise unknown_name("activation", activation, get_args(Activation))
    check_number("steps", steps, Count)
    check_number("batch", batch, Count)


def _check_baseline(baseline: Any) -> None:
    if not isinstance(baseline, Tensor) and (not isinstance(baseline, str) or baseline not in ("blur", "zero")):
        raise unknown_name("baseline", baseline, ["blur", "zero"], hint="or give a tensor")


def _check(images: Tensor, maps: Tensor, classes: Tensor) -> None:
    check_tensors(images=(images, "b ..."), maps=(maps, "B ...", "number"), classes=(classes, "c ...", "number"))
    if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]) or not maps.isfinite().all():
        came = f"{tuple(images.shape)} and {tuple(maps.shape)}, {int((~maps.isfinite()).sum())} values not finite"
        raise AttnBridgeError(f"images and maps must be (B, C, H, W) and finite (B, H, W), not {came}; resize the maps")
    if classes.shape != maps.shape[:1] or classes.dtype != torch.long or int(classes.min()) < 0:
        raise AttnBridgeError(f"classes must be long indices ({len(maps)},), one per image, but are {classes}")
