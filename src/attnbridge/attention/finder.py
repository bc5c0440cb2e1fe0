"""Find the layer to look at: the last spatial features of any network, or an error that names others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnbridge.attention.answers import Output, Target, find_logits, read_scores, run_on_images
from attnbridge.attention.fitting import naming_misfits
from attnbridge.attention.layers import (
    eval_mode,
    grid_of,
    is_channels_last,
    leading_tensor,
    prefix_tokens,
    token_prefix,
    unwrap,
    weighs,
)
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError

ENCODERS = ("backbone", "body", "pixel_level_module", "encoder", "conv_encoder")
"""What torchvision, transformers and segmentation-models call the part of a network that others read."""
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def find_layer(
    network: nn.Module,
    image_size: Size = 224,
    channels: int = 3,
    *,
    images: Tensor | None = None,
    output: Output | None = None,
    target: Target | None = None,
) -> str:
    """Name of the layer with the last spatial features: the last module, in order of execution, whose output still
    has several positions that the answer depends on.

    Poolings are passed over, parts of an attention are, and layers that run more than once. That is conv5_3's
    activation for a VGG, ``layer4`` for a ResNet, the last activation before pooling for an EfficientNet, the input of
    the last attention for a transformer whose class token is read.

    Of a network that answers for each pixel or each box, the layer lies in its encoder, which is called ``backbone`` or
    ``encoder``: what follows gives the answers themselves.

    It is no guess: where blocks hide their features (they give tuples, or tokens that make no grid), the last spatial
    features are those of the patch embedding or of the stem, and a map there would tell little of the network. That
    layer is refused where it depends on one layer with weights, or on at most an eighth of the number that follow, and
    more follows than the one attention that reads it. A network of one convolution and a head keeps its convolution.

    Args:
        network: the classifier; run once in eval mode on a random image, restored afterwards. For a network inside
            ``DistributedDataParallel`` or ``torch.compile`` the name is that in the network itself.
        image_size: side of that input, or its height and width, pixels.
        channels: of that input.
        images: ``(1, C, H, W)``, in the place of the random ones, where the answer depends on what they show.
        output, target: where its scores are, as in :func:`~attnbridge.attention.observe.observe`.

    Raises:
        AttnBridgeError: if no layer has spatial features, or only the patch embedding or the stem of a network that
            goes on after it; the message names layers to give instead.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> find_layer(net, 16)
    '1'
    """
    with _traced(network, image_size, channels, images, output, target) as trace:
        return trace.last()


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
    with _traced(network, image_size, channels) as trace:
        last, names = trace.last(), list[str]()
        order = [ran.name for ran in trace.candidates]
    for name in reversed(order[: order.index(last) + 1]):
        if not any(name.startswith(f"{other}.") for other in names):  # of what lies inside another, the whole
            names.append(name)
    return names[:5]


@contextmanager
def _traced(
    network: nn.Module,
    image_size: Size,
    channels: int,
    images: Tensor | None = None,
    output: Output | None = None,
    target: Target | None = None,
) -> Iterator[_Trace]:
    """What a network did with two images, so that windows and regions of one are not taken for a batch."""
    height, width = sides(image_size)
    network = unwrap(network)
    parameter = next(network.parameters(), torch.zeros(()))
    if images is None:
        images = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    images = images.detach().to(parameter.device, parameter.dtype).repeat(2 // len(images), 1, 1, 1).requires_grad_()
    trace = _Trace(network, images)
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name and type(module) is not nn.Identity and "_orig_mod" not in name:  # compiled
                hook = trace.hook(name, _attentions(network, name))
                stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(eval_mode(network))
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            with naming_misfits(network, images):
                answer = run_on_images(network, images)
            trace.answered(answer, output, target)
            yield trace


def _attentions(network: nn.Module, name: str) -> tuple[str, ...]:
    """Names of the attentions that a module lies inside, outermost first; queries, keys, values are no features."""
    parents = [name[:i] for i, letter in enumerate(name) if letter == "."]
    return tuple(parent for parent in parents if _is_attention(parent, network.get_submodule(parent)))


def _is_attention(name: str, module: nn.Module) -> bool:
    own, kind = name.rpartition(".")[2].lower(), type(module).__name__.lower()
    if "attn" in own or "attention" in own:
        return True
    return ("attn" in kind or "attention" in kind) and not any(word in kind for word in ("block", "layer", "stage"))


@dataclass(frozen=True, eq=False)
class _Ran:
    """A module that ran.

    Attributes:
        name: of the module.
        output: the tensor that it gave, or the first of several.
        leads: whether it gave that tensor alone, or first in a tuple.
        weighs: whether it is a layer with a matrix of weights, as convolutions and linear layers are.
        within: names of the attentions that it is a part of, outermost first.
    """

    name: str
    output: Tensor
    leads: bool
    weighs: bool
    within: tuple[str, ...]


class _Trace:
    """The outputs of a forward pass, in order of execution, and the scores that it ended with."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network, self.images = network, images
        self.aspect = images.shape[2] / images.shape[3]
        self.ran: list[_Ran] = []
        self.spatial: list[_Ran] = []  # those among them that a map can be made of
        self.pooled: list[Tensor] = []
        self.head: tuple[Tensor, Tensor] | None = None  # input and output of the last linear layer
        self.target: Tensor | None = None  # what the features are to matter for
        self.per_position: int | None = None  # how many classes have a score at each position, if that is the answer
        self.cut: set[tuple[int, int]] = set()  # grids that convolutions gave
        self.merged: set[tuple[int, int]] = set()  # those of tokens

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
                ran = _Ran(name, tensor, _leads(output, tensor), weighs(module), within)
                self.ran.append(ran)
                if isinstance(module, nn.Conv2d) and len(tensor) == len(self.images):
                    self.cut.add((int(tensor.shape[2]), int(tensor.shape[3])))
                if ran.leads and not within and self.is_spatial(tensor):
                    self.spatial.append(ran)

        return record

    def answered(self, answer: Any, output: Output | None, target: Target | None) -> None:
        """The answer came: what the features are to matter for, before the head, which may be new and all zero."""
        scores = read_scores(answer, self.network, output, target)
        plain = self.head is not None and self.head[1] is scores
        self.target = self.head[0] if plain and self.head is not None else scores
        dense = None if target is None or output is not None else _dense(answer)
        if dense is not None or (target is None and not plain):
            self.per_position = (scores if dense is None else dense).shape[1]
        if not self.target.requires_grad:
            self.target = None
        if target is not None and output is None and not _is_flat(answer):
            encoder = _encoder(self.network)
            self.spatial = [ran for ran in self.spatial if ran.name.startswith(f"{encoder}.")] or self.spatial

    def is_spatial(self, output: Tensor) -> bool:
        """Whether a map can be made of an output: one for each image, with several positions."""
        if len(output) != len(self.images):
            return False
        if output.ndim == 4:  # NHWC networks have at least two positions in the middle as well
            return output.shape[2] > 1 and (output.shape[3] > 1 or output.shape[1] > 1)
        return output.ndim == 3 and self.prefix(output.shape[1]) is not None

    def prefix(self, tokens: int) -> int | None:
        """Of so many tokens those before the patches; ``None`` if the others make no grid."""
        count = token_prefix(self.network, tokens, *self.images.shape[2:])
        grid = grid_of(tokens - count, self.aspect) if tokens - count > 1 else (0, 0)
        return count if grid != (0, 0) and self._is_of_image(grid) else None

    def _is_of_image(self, grid: tuple[int, int]) -> bool:
        """Whether tokens of a grid may be positions of the image, and not queries, channels or columns, as many as make
        a square: where convolutions gave grids it is one of these, or halves one, as merging patches does."""
        sources = self.cut | self.merged if len(self.cut) == 1 else self.merged
        if self.cut and grid not in self.cut and not any(_halves(source, grid) for source in sources):
            return False
        self.merged.add(grid)
        return True

    @property
    def candidates(self) -> list[_Ran]:
        """The spatial ones that ran once."""
        times = Counter(ran.name for ran in self.ran)
        return [ran for ran in self.spatial if times[ran.name] == 1]

    def last(self) -> str:
        """The last output that the answer depends on."""
        candidates = self._features()
        if not candidates:
            raise AttnBridgeError("no layer of the network has spatial features; name one with `layer`")
        found = candidates[-1] if self.target is None else self._last_that_matters(candidates, self.target)
        if self.target is not None:
            found = self._before_tokens(found, candidates, self.target)
        self._check_no_stem(found)
        self._check_tokens_lead(found)
        return found.name

    def _features(self) -> list[_Ran]:
        """The candidates without weights of positions, which have one channel, and scores of the classes at each
        position, which are only pooled after it: if anything else is among them."""
        features = [ran for ran in self.candidates if self._channels(ran.output) not in (1, self.per_position)]
        return features or self.candidates

    def _channels(self, features: Tensor) -> int:
        last = features.ndim == 3 or is_channels_last(features, *self.images.shape[2:])
        return features.shape[-1 if last else 1]

    def _last_that_matters(self, candidates: list[_Ran], target: Tensor) -> _Ran:
        for ran in reversed(candidates):
            if not ran.output.requires_grad:
                continue
            (gradient,) = _gradients(target, [ran])
            if gradient is not None and self._reads_positions(gradient) and self._sees_images(ran):
                return ran
        return candidates[-1]

    def _reads_positions(self, gradient: Tensor) -> bool:
        """Whether what follows reads positions: of tokens more than one, which may sum up the others, as the last state
        of a recurrence does."""
        if gradient.ndim != 3:
            return bool(gradient.any())
        rows = gradient[:, self.prefix(gradient.shape[1]) or 0 :].any(-1)
        return bool((rows.sum(1) > 1).any())

    def _before_tokens(self, found: _Ran, candidates: list[_Ran], target: Tensor) -> _Ran:
        """The input of the last attention, where a head reads the class token beside the patches after all blocks: what
        the class token knows of the patches is not in the patches that it was read beside."""
        prefix = self.prefix(found.output.shape[1]) if found.output.ndim == 3 else 0
        (gradient,) = _gradients(target, [found])
        if not prefix or gradient is None or not gradient[:, :prefix].any():
            return found
        patches = gradient[:, prefix:]
        if (patches - patches[:, :1]).abs().max() > 1e-5 * patches.abs().max():  # attention follows, and not their mean
            return found
        tokens = (found.output * gradient.detach())[:, :prefix]
        return self._last_that_matters(candidates[: candidates.index(found)], tokens)

    def _sees_images(self, ran: _Ran) -> bool:
        """Whether an output depends on the images, as that of a text encoder does not."""
        (gradient,) = torch.autograd.grad(ran.output.sum(), self.images, retain_graph=True, allow_unused=True)
        return gradient is not None

    def _check_no_stem(self, found: _Ran) -> None:
        """Raise if the network only begins where its last spatial features are."""
        place = self.ran.index(found)
        after = self._that_matter(self.ran[place + 1 :])
        layers = [ran for ran in after if ran.weighs and self._channels(ran.output) != self.per_position]
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

    def _check_tokens_lead(self, found: _Ran) -> None:
        """Raise if tokens that are the same for both images, as a class token is before it meets the patches, stand
        elsewhere than before the patches."""
        shape = found.output.shape[:2]
        prefix = self.prefix(shape[1]) if found.output.ndim == 3 else 0
        if not prefix:
            return
        for ran in self.ran:
            if ran.output.ndim == 3 and ran.output.shape[:2] == shape and ran.output.is_floating_point():
                one, other = ran.output.detach()
                same = torch.isclose(one, other, rtol=1e-4, atol=1e-6).all(-1)
                if int(same.sum()) == prefix and not bool(same[:prefix].all()):
                    places = ", ".join(map(str, same.nonzero().flatten().tolist()[:5]))
                    raise AttnBridgeError(
                        f"of the {shape[1]} tokens of {found.name!r} those that are no patches, {prefix} in number, "
                        f"stand at {places}, and not before the patches, so the grid of a map would be shifted; put "
                        "them first"
                    )

    def _that_matter(self, ran: list[_Ran]) -> list[_Ran]:
        """Those with several positions that the answer depends on."""
        if self.target is None:
            return [one for one in ran if self._has_positions(one.output)]
        ran = [one for one in ran if one.output.requires_grad]
        gradients = _gradients(self.target, ran)
        return [r for r, g in zip(ran, gradients, strict=True) if g is not None and self._has_positions(g)]

    def _has_positions(self, values: Tensor) -> bool:
        """Whether values at several positions, more than there are tokens before the patches, are not zero."""
        if values.ndim == 4:
            return values.shape[2] > 1 and (values.shape[3] > 1 or values.shape[1] > 1) and bool(values.any())
        rows = (values != 0).any(-1)  # of one image, or of a window of it
        count = int(rows.sum(-1).max()) if rows.ndim > 1 else int(rows.sum()) // len(self.images)
        return values.ndim > 1 and count > max(1, prefix_tokens(self.network))

    def _advice(self, late: list[_Ran]) -> str:
        """What to give as `layer`: modules that a map can be made of, else what keeps others from it."""
        times = Counter(ran.name for ran in self.ran)
        late = [r for r in late if times[r.name] == 1 and r.output.ndim in (3, 4) and len(r.output) == len(self.images)]
        # four dimensions inside an attention are heads, unless a layer with weights gives them
        plain = [r for r in late if r.leads and (not r.within or r.weighs or r.output.ndim == 3)]
        spatial = [r for r in plain if self.is_spatial(r.output)]
        names = ", ".join(repr(ran.name) for ran in _latest(spatial or plain or late))
        if spatial:
            return f"name a later layer with `layer`, as {names}"
        if plain:
            tokens = _latest(plain)[0].output.shape[1]
            patches = sorted((height * width for height, width in self.cut), reverse=True)
            fitting = [tokens - count for count in patches if 1 < count < tokens]
            return (
                f"later layers, as {names}, give tokens, {tokens} in number, that make no grid with "
                f"{prefix_tokens(self.network)} of them before the patches; set `network.num_prefix_tokens` to the "
                f"number of class and register tokens{f' ({fitting[0]} would fit)' if fitting else ''}, then the layer "
                "is found, or name one of these with `layer`"
            )
        if late:
            return (
                f"later modules, as {names}, give mappings or objects; name a layer inside one with `layer`, or let "
                "one give its features alone, as a tensor, and name it"
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


def _halves(grid: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one grid is the other, halved several times, each time up or down."""
    while min(grid) > 1:
        for rounding in (0, 1):
            if tuple((side + rounding) // 2 for side in grid) == other:
                return True
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    return False


def _leads(output: Any, tensor: Tensor) -> bool:
    """Whether a module gave a tensor alone, or first in a tuple and no other like it, as branches give."""
    if leading_tensor(output) is not tensor:
        return False
    return output is tensor or not any(isinstance(other, Tensor) and other.ndim == tensor.ndim for other in output[1:])


def _first_tensor(output: Any) -> Tensor | None:
    """What a module gave, or the first tensor in the tuple, mapping or object that it gave."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = output.values()
    elif not isinstance(output, tuple | list):
        output = getattr(output, "__dict__", {}).values()
    return next((value for value in output if isinstance(value, Tensor)), None)


def _dense(answer: Any) -> Tensor | None:
    """Scores for each pixel ``(B, N, H, W)``, if an answer is that."""
    try:
        logits = find_logits(answer)
    except AttnBridgeError:
        return None
    return logits if logits.ndim == 4 else None


def _is_flat(answer: Any) -> bool:
    """Whether an answer is one row of numbers for each image, and not one for each pixel or box."""
    try:
        return find_logits(answer).ndim <= 2
    except AttnBridgeError:
        return False


def _encoder(network: nn.Module) -> str:
    """Name of the part of a network that others read, as a segmentation's or a detector's backbone; empty if none."""
    base = getattr(network, "base_model_prefix", None)  # transformers
    name = base if isinstance(base, str) and base in network._modules else ""
    while True:
        children = network.get_submodule(name)._modules
        inner = next((part for part in ENCODERS if part in children), None)
        if inner is None:
            return name
        name = f"{name}.{inner}" if name else inner
