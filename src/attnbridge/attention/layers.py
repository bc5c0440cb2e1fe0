"""Find the layer to look at, and bring its output to ``(B, C, H, W)``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnbridge.attention.fitting import naming_misfits
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError, unknown_name

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def find_head(network: nn.Module) -> nn.Module:
    """The layer that gives the logits: what timm's networks name as their classifier, else the last linear layer.

    Raises:
        AttnBridgeError: if there is none.

    >>> find_head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9)))
    Linear(in_features=4, out_features=9, bias=True)
    """
    named = getattr(network, "get_classifier", None)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    head = named() if named is not None else linear[-1] if linear else None
    if not isinstance(head, nn.Module) or not any(True for _ in head.parameters()):
        raise AttnBridgeError("the network has no linear layer that gives the logits; end it with nn.Linear")
    return head


def find_layer(network: nn.Module, image_size: Size = 224, channels: int = 3) -> str:
    """Name of the layer with the last spatial features: the last module, in order of execution, whose output still
    has several positions that the answer depends on.

    Poolings are passed over, parts of an attention are, and layers that run more than once. That is conv5_3's
    activation for a VGG, ``layer4`` for a ResNet, the last activation before pooling for an EfficientNet, the input of
    the last attention for a transformer whose class token is read.

    It is no guess: where blocks hide their features (they give tuples, or tokens that make no grid), the last spatial
    features are those of the patch embedding or of the stem, and a map there would tell little of the network. That
    layer is refused where it depends on one layer with weights, or on at most an eighth of the number that follow, and
    more follows than the one attention that reads it. A network of one convolution and a head keeps its convolution.

    Args:
        network: the classifier; run once in eval mode on a random image, restored afterwards. For a network inside
            ``DistributedDataParallel`` or ``torch.compile`` the name is that in the network itself.
        image_size: side of that input, or its height and width, pixels.
        channels: of that input.

    Raises:
        AttnBridgeError: if no layer has spatial features, or only the patch embedding or the stem of a network that
            goes on after it; the message names layers to give instead.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> find_layer(net, 16)
    '1'
    """
    with _traced(network, image_size, channels) as (trace, answer):
        return trace.last(answer)


def no_maps(
    layer: str, error: AttnBridgeError, network: nn.Module, image_size: Size, channels: int = 3
) -> AttnBridgeError:
    """The error of :func:`to_maps` for a layer of a network, with others to name, see :func:`spatial_layers`."""
    try:
        names = spatial_layers(network, image_size, channels)
        hint = f"name one with spatial features, as {', '.join(map(repr, names))}"
    except AttnBridgeError as advice:
        hint = str(advice)
    return AttnBridgeError(f"layer {layer!r}: {error}; {hint}")


def spatial_layers(network: nn.Module, image_size: Size = 224, channels: int = 3) -> list[str]:
    """Names of layers that may be looked at: that of :func:`find_layer`, and modules before it, at most five in all.

    Args:
        network: the classifier.
        image_size: side of its input, or its height and width, pixels.
        channels: of that input.

    Raises:
        AttnBridgeError: see :func:`find_layer`.

    >>> spatial_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), 16)
    ['1', '0']
    """
    with _traced(network, image_size, channels) as (trace, answer):
        last, names = trace.last(answer), list[str]()
        order = [ran.name for ran in trace.candidates]
    for name in reversed(order[: order.index(last) + 1]):
        if not any(name.startswith(f"{other}.") for other in names):  # of what lies inside another, the whole
            names.append(name)
    return names[:5]


@contextmanager
def _traced(network: nn.Module, image_size: Size, channels: int) -> Iterator[tuple[_Trace, Any]]:
    """What a network did with a random image, and its answer."""
    height, width = sides(image_size)
    network = unwrap(network)
    prefix = prefix_tokens(network)
    trace = _Trace(prefix, height / width)
    parameter = next(network.parameters(), torch.zeros(()))
    images = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    images = images.to(parameter.device, parameter.dtype).requires_grad_()
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name and type(module) is not nn.Identity and "_orig_mod" not in name:  # compiled
                hook = trace.hook(name, _attentions(network, name))
                stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(eval_mode(network))
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            with naming_misfits(network, images):
                answer = network(images)
            yield trace, answer


def _attentions(network: nn.Module, name: str) -> tuple[str, ...]:
    """Names of the attentions that a module lies inside, outermost first; queries, keys, values are no features."""
    parents = [name[:i] for i, letter in enumerate(name) if letter == "."]
    kinds = {parent: type(network.get_submodule(parent)).__name__.lower() for parent in parents}
    return tuple(parent for parent, kind in kinds.items() if kind.startswith("attn") or "attention" in kind)


@dataclass(frozen=True, eq=False)
class _Ran:
    """A module that ran.

    Attributes:
        name: of the module.
        output: the tensor that it gave, or the first of several.
        alone: whether it gave that tensor and nothing else.
        weighs: whether it is a layer with a matrix of weights, as convolutions and linear layers are.
        within: names of the attentions that it is a part of, outermost first.
    """

    name: str
    output: Tensor
    alone: bool
    weighs: bool
    within: tuple[str, ...]


class _Trace:
    """The outputs of a forward pass, in order of execution."""

    def __init__(self, prefix: int, aspect: float) -> None:
        self.prefix, self.aspect = prefix, aspect
        self.ran: list[_Ran] = []
        self.spatial: list[_Ran] = []  # those among them that a map can be made of
        self.pooled: list[Tensor] = []
        self.head: tuple[Tensor, Tensor] | None = None  # input and output of the last linear layer

    def hook(self, name: str, within: tuple[str, ...]) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, nn.Linear) and isinstance(output, Tensor) and output.ndim == 2 and not within:
                self.head = (inputs[0], output)
            tensor = _first_tensor(output)
            if isinstance(module, _POOLING):
                if not within:
                    self.pooled.append(output)
            elif any(tensor is p for p in self.pooled):
                pass  # a container that ends with a pooling
            elif tensor is not None:
                ran = _Ran(name, tensor, tensor is output, weighs(module), within)
                self.ran.append(ran)
                if ran.alone and not within and _is_spatial(tensor, self.prefix, self.aspect):
                    self.spatial.append(ran)

        return record

    @property
    def candidates(self) -> list[_Ran]:
        """The spatial ones that ran once."""
        times = Counter(ran.name for ran in self.spatial)
        return [ran for ran in self.spatial if times[ran.name] == 1]

    def last(self, answer: Any) -> str:
        """The last output that the answer depends on; before the head, which may be new and all zero."""
        candidates = self.candidates
        if not candidates:
            raise AttnBridgeError("no layer of the network has spatial features; name one with `layer`")
        answer = _first_tensor(answer)
        target = self.head[0] if self.head is not None and self.head[1] is answer else answer
        if not isinstance(target, Tensor) or not target.requires_grad:
            target = None
        found = candidates[-1] if target is None else self._last_that_matters(candidates, target)
        self._check_no_stem(found, target)
        return found.name

    def _last_that_matters(self, candidates: list[_Ran], target: Tensor) -> _Ran:
        for ran in reversed(candidates):
            if not ran.output.requires_grad:
                continue
            (gradient,) = _gradients(target, [ran])
            if gradient is not None and gradient[:, self.prefix if gradient.ndim == 3 else 0 :].any():
                return ran
        return candidates[-1]

    def _check_no_stem(self, found: _Ran, target: Tensor | None) -> None:
        """Raise if the network only begins where its last spatial features are."""
        place = self.ran.index(found)
        after = self._that_matter(self.ran[place + 1 :], target)
        layers = [ran for ran in after if ran.weighs]
        readers = {ran.within[-1:] for ran in layers}
        if not layers or (len(readers) == 1 and () not in readers):  # nothing follows but the attention that reads it
            return
        before = [ran for ran in self.ran[: place + 1] if ran.weighs]
        if found.output.requires_grad:
            before = [ran for ran in before if ran.output.requires_grad]
            gradients = _gradients(found.output, before)
            before = [ran for ran, gradient in zip(before, gradients, strict=True) if gradient is not None]
        if len(before) > max(1, len(layers) // 8):
            return
        late = after[after.index(layers[len(layers) // 2]) :]
        raise AttnBridgeError(
            f"the last spatial features are those of {found.name!r}, a patch embedding or stem that {len(layers)} "
            f"layers with weights follow, so a map there would tell little of the network; {self._advice(late)}"
        )

    def _that_matter(self, ran: list[_Ran], target: Tensor | None) -> list[_Ran]:
        """Those with several positions that the answer depends on."""
        if target is None:
            return [one for one in ran if _has_positions(one.output, self.prefix)]
        ran = [one for one in ran if one.output.requires_grad]
        gradients = _gradients(target, ran)
        return [r for r, g in zip(ran, gradients, strict=True) if g is not None and _has_positions(g, self.prefix)]

    def _advice(self, late: list[_Ran]) -> str:
        """What to give as `layer`: modules that a map can be made of, else what keeps others from it."""
        times = Counter(ran.name for ran in self.ran)
        late = [r for r in late if times[r.name] == 1 and r.output.ndim in (3, 4) and len(r.output) == 1]
        # four dimensions inside an attention are heads, unless a layer with weights gives them
        plain = [r for r in late if r.alone and (not r.within or r.weighs or r.output.ndim == 3)]
        spatial = [r for r in plain if _is_spatial(r.output, self.prefix, self.aspect)]
        names = ", ".join(repr(ran.name) for ran in _latest(spatial or plain or late))
        if spatial:
            return f"name a later layer with `layer`, as {names}"
        if plain:
            tokens = _latest(plain)[0].output.shape[1]
            counts = range(self.prefix + 1, tokens - 1)
            fitting = [n for n in counts if grid_of(tokens - n, self.aspect) != (0, 0)]
            return (
                f"later layers, as {names}, give tokens, {tokens} in number, that make no grid with {self.prefix} of "
                "them before the patches; set `network.num_prefix_tokens` to the number of class and register tokens"
                f"{f' ({fitting[0]} would fit)' if fitting else ''}, then the layer is found, or name one of these "
                "with `layer`"
            )
        if late:
            return (
                f"later modules, as {names}, give tuples, mappings or objects; name a layer inside one with `layer`, "
                "or let one give its features alone, as a tensor, and name it"
            )
        return "no later module that runs once gives features; let one give them as a tensor and name it with `layer`"


def _latest(ran: list[_Ran]) -> list[_Ran]:
    """The last modules, the last first, at most five; parts of an attention after others, and of modules that one
    lies inside another, or that give the same, one."""
    distinct: dict[int, _Ran] = {}
    for one in ran:
        distinct.setdefault(id(one.output), one)
    order = list(distinct.values())
    order.reverse()
    order.sort(key=lambda one: len(one.within))
    latest: list[_Ran] = []
    for one in order:
        if not any(one.name.startswith(f"{other.name}.") for other in latest):
            latest.append(one)
    return latest[:5]


def _gradients(target: Tensor, ran: Sequence[_Ran]) -> Sequence[Tensor | None]:
    """Of a sum of the target with unequal weights, to each output; ``None`` where it does not depend on it."""
    if not ran:
        return ()
    weights = torch.linspace(1, 2, target.numel(), device=target.device, dtype=target.dtype).view_as(target)
    return torch.autograd.grad(target, [r.output for r in ran], weights, retain_graph=True, allow_unused=True)


def _first_tensor(output: Any) -> Tensor | None:
    """What a module gave, or the first tensor in the tuple, mapping or object that it gave."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = output.values()
    elif not isinstance(output, tuple | list):
        output = getattr(output, "__dict__", {}).values()
    return next((value for value in output if isinstance(value, Tensor)), None)


def weighs(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
        return True  # parametrised, its weights are in a child
    alone = not isinstance(module, nn.Embedding) and next(module.children(), None) is None
    return alone and any(p.ndim > 1 and len(p) > 1 and p[0].numel() > 1 for p in module.parameters())


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DistributedDataParallel`` or ``DataParallel``.

    >>> inner = nn.Linear(1, 1)
    >>> unwrap(nn.DataParallel(inner)) is inner
    True
    """
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            network = network.module
        elif "_orig_mod" in network._modules:
            network = network.get_submodule("_orig_mod")
        else:
            return network


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode; each module's own mode is restored afterwards.

    >>> network = nn.Sequential(nn.Dropout()).train()
    >>> with eval_mode(network):
    ...     network[0].training
    False
    >>> network[0].training
    True
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_layer(network: nn.Module, name: str) -> None:
    """Raise, with the nearest names, if ``network`` has no module called ``name``."""
    names = [n for n, _ in network.named_modules() if n]
    if name not in names:
        raise unknown_name("layer", name, names)


def prefix_tokens(network: nn.Module) -> int:
    """Number of class and register tokens that a transformer, of timm or torchvision, puts before its patch tokens;
    the network may lie inside another."""
    for module in network.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
        if _class_token(module) is not None:
            return 1
    return 0


def reads_class_token(network: nn.Module) -> bool:
    """Whether a transformer's answer comes from its class token, and not from the mean of its patches."""
    for module in network.modules():
        if _class_token(module) is not None:
            return getattr(module, "global_pool", "token") == "token"
    return False


def _class_token(module: nn.Module) -> Tensor | None:
    for name in ("cls_token", "class_token"):
        if isinstance(token := getattr(module, name, None), Tensor):
            return token
    return None


def is_channels_last(features: Tensor, height: int, width: int) -> bool:
    """Whether features of an image of that height and width are ``(B, H, W, C)`` and not ``(B, C, H, W)``.

    >>> is_channels_last(torch.zeros(1, 7, 7, 96), 224, 224), is_channels_last(torch.zeros(1, 96, 7, 7), 224, 224)
    (True, False)
    """
    if features.ndim != 4:
        return False
    _, a, b, c = features.shape
    aspect = height / width
    return not _fits(b, c, aspect) and _fits(a, b, aspect)


def _fits(height: int, width: int, aspect: float) -> bool:
    return abs(height - width * aspect) < max(1.0, aspect)


def to_maps(features: Tensor, prefix: int = 0, channels_last: bool = False, aspect: float = 1.0) -> Tensor:
    """Bring a layer's output to ``(B, C, H, W)``.

    Args:
        features: ``(B, C, H, W)``, ``(B, H, W, C)`` with ``channels_last``, or tokens ``(B, T, C)`` of a grid.
        prefix: tokens before the patch tokens, dropped.
        channels_last: whether four-dimensional features have their channels last (Swin).
        aspect: height of the images divided by their width, for the grid of the tokens.

    >>> to_maps(torch.zeros(2, 1 + 9, 5), prefix=1).shape, to_maps(torch.zeros(2, 8, 5), aspect=2).shape
    (torch.Size([2, 5, 3, 3]), torch.Size([2, 5, 4, 2]))
    """
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if channels_last else features
    if features.ndim == 3:
        height, width = grid_of(features.shape[1] - prefix, aspect)
        if height * width:
            grid = features[:, prefix:].transpose(1, 2)
            return grid.reshape(*grid.shape[:2], height, width)
    raise AttnBridgeError(
        f"features of shape {tuple(features.shape)} are no maps; expected (B, C, H, W), or tokens (B, T, C) "
        f"with T = {prefix} + the positions of a grid"
    )


def grid_of(tokens: int, aspect: float = 1.0) -> tuple[int, int]:
    """Height and width of a grid of that many tokens, or ``(0, 0)`` if they make none.

    >>> grid_of(196), grid_of(8, aspect=0.5), grid_of(7)
    ((14, 14), (2, 4), (0, 0))
    """
    pairs = [(h, tokens // h) for h in range(1, max(tokens, 0) + 1) if tokens % h == 0]
    height, width = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / aspect)), default=(0, 0))
    return (height, width) if height and _fits(height, width, aspect) else (0, 0)


def _is_spatial(output: Tensor, prefix: int, aspect: float) -> bool:
    if output.ndim == 4:  # NHWC networks have at least two positions in the middle as well
        return output.shape[2] > 1 and (output.shape[3] > 1 or output.shape[1] > 1)
    return output.ndim == 3 and output.shape[1] - prefix > 1 and grid_of(output.shape[1] - prefix, aspect) != (0, 0)


def _has_positions(values: Tensor, prefix: int) -> bool:
    """Whether values at several positions, more than there are tokens before the patches, are not zero."""
    if values.ndim == 4:
        return _is_spatial(values, prefix, 1.0) and bool(values.any())
    return values.ndim > 1 and int((values != 0).any(-1).sum()) > max(1, prefix)
