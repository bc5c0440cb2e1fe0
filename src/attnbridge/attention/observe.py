"""Run any network and see the features on the way: logits and named layers, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnbridge.arguments import check_network, check_tensors
from attnbridge.attention.answers import Output, Target, describe, read_scores, run_on_images
from attnbridge.attention.compiled import compiled_regions, linear_heads
from attnbridge.attention.fitting import naming_misfits
from attnbridge.attention.layers import check_layer, find_head, leading_tensor, unwrap
from attnbridge.bounds import check_names
from attnbridge.errors import AttnBridgeError, unknown_name


@dataclass(frozen=True)
class Observation:
    """What one forward pass showed.

    Attributes:
        logits: the network's, ``(B, N)``, or the scores of a target.
        features: output of each observed layer, by name, as the layer gave it; of a tuple its first tensor.

    >>> Observation(torch.zeros(2, 5), {"layer4": torch.zeros(2, 8, 7, 7)}).features["layer4"].shape
    torch.Size([2, 8, 7, 7])
    """

    logits: Tensor
    features: dict[str, Tensor]


def observe(
    network: nn.Module,
    images: Tensor,
    layers: str | Sequence[str],
    *,
    trunk_graph: bool | None = None,
    grad: bool = True,
    output: Output | None = None,
    target: Target | None = None,
) -> Observation:
    """Run ``network`` on ``images`` and capture the output of ``layers``.

    The network is not edited: forward hooks are set for this call and removed even if it raises; train
    and eval mode and ``requires_grad`` flags stay as they are. It may be inside ``DistributedDataParallel`` or
    ``torch.compile``: what was compiled as a whole is compiled anew in parts, up to the first of the layers, and
    runs eagerly after it (:func:`~attnbridge.attention.compiled.compiled_regions`).

    Args:
        network: any module; its logits are found in what it answers, see
            :func:`~attnbridge.attention.answers.read_scores`.
        images: ``(B, 3, H, W)``, normalised as the network expects.
        layers: names from ``network.named_modules()``.
        trunk_graph: ``True`` records the graph through the whole network, as training needs; ``False``
            records it only from the first observed layer on, which is all that a map needs and saves
            the memory of the trunk. Default: ``torch.is_grad_enabled()``.
        grad: ``False`` records no graph at all, for a network that is only listened to, as a teacher is; then there may
            be no layers, too.
        output: what of the answer is meant, where that does not say it: a name, an index, or a function.
        target: from the answer to scores ``(B, K)`` that take the place of logits; see :mod:`attnbridge.targets`.

    Raises:
        AttnBridgeError: for an unknown layer, a layer that did not run, ran twice, or gave no tensor, for an answer
            without logits, and for images that the network cannot take.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> with torch.no_grad():
    ...     seen = observe(network, torch.rand(2, 3, 8, 8), "1")
    >>> seen.logits.shape, seen.features["1"].shape, seen.features["1"].requires_grad
    (torch.Size([2, 4]), torch.Size([2, 4, 6, 6]), True)
    """
    check_network(network)
    check_tensors(empty=True, images=(images, "B ..."))
    names = [layers] if isinstance(layers, str) else list(dict.fromkeys(check_names("layers", layers)))
    if not grad:
        return _listen(network, images, names, output, target)
    if not names:
        raise AttnBridgeError("no layer is named; expected at least one")
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            return observe(network, images.clone(), names, trunk_graph=False, output=output, target=target)
    trunk_graph = torch.is_grad_enabled() if trunk_graph is None else trunk_graph
    features: dict[str, Tensor] = {}
    with torch.set_grad_enabled(trunk_graph), _hooks(network, names, features, trunk_graph):
        logits = run_for_scores(network, images, output, target)
    _check_all_ran(names, features)
    return Observation(logits, features)


def _check_all_ran(names: Sequence[str], features: dict[str, Tensor]) -> None:
    missing = [name for name in names if name not in features]
    if missing:
        raise AttnBridgeError(
            f"layer {missing[0]!r} did not run in the forward pass, so it has no features; fused kernels and "
            "unused branches hide layers: name another one"
        )


def _listen(
    network: nn.Module, images: Tensor, layers: Sequence[str], output: Output | None, target: Target | None
) -> Observation:
    """:func:`observe` without any graph."""
    features: dict[str, Tensor] = {}
    with torch.no_grad(), ExitStack() as stack:
        for name in layers:
            check_layer(network, name)
            keep = _keep(name, features)
            stack.callback(network.get_submodule(name).register_forward_hook(keep).remove)
        logits = run_for_scores(network, images, output, target)
    _check_all_ran(layers, features)
    return Observation(logits, features)


def _keep(name: str, features: dict[str, Tensor]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        features[name] = _tensor_of(name, output, features).clone()  # what follows may work in place

    return hook


class _Reached(Exception):  # noqa: N818 (no error)
    """Ends a forward pass where its features are known."""


def forward_until(network: nn.Module, images: Tensor, layer: str) -> Tensor:
    """Run ``network`` up to ``layer`` and no further; autograd as the caller has it.

    Returns:
        What the layer gives.

    Raises:
        AttnBridgeError: for an unknown layer, one that did not run, or that gives no tensor.

    >>> forward_until(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(99, 1)), torch.rand(2, 3, 8, 8), "1").shape
    torch.Size([2, 4, 6, 6])
    """
    check_layer(network, layer)
    found: list[Any] = []

    def reached(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(output)
        raise _Reached

    handle = network.get_submodule(layer).register_forward_hook(reached)
    try:
        network(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not found or not isinstance(found[0], Tensor):
        what = f"gives {describe(found[0])}, not a tensor" if found else "did not run in the forward pass"
        raise AttnBridgeError(f"layer {layer!r} {what}; name another one")
    return found[0]


@contextmanager
def capture_head_input(network: nn.Module, head: str | None = None) -> Iterator[list[Tensor]]:
    """Inside, what the classifier of a network reads in each forward pass, ``(B, D)``, is added to the list.

    ``head`` is the classifier's name; default: :func:`~attnbridge.attention.layers.find_head`.

    >>> import timm
    >>> network = timm.create_model("resnet10t", num_classes=3)
    >>> with capture_head_input(network) as read, torch.no_grad():
    ...     _ = network(torch.rand(2, 3, 32, 32))
    >>> read[0].shape
    torch.Size([2, 512])
    """
    read: list[Tensor] = []
    classifier = find_head(network) if head is None else network.get_submodule(head)
    hook = classifier.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0].flatten(1)))
    try:
        yield read
    finally:
        hook.remove()


def run_for_scores(
    network: nn.Module, images: Tensor, output: Output | None = None, target: Target | None = None
) -> Tensor:
    """The forward pass and the scores in its answer; a compiled network itself is not called, its regions are compiled
    where it is observed."""
    inner = network.get_submodule("_orig_mod") if "_orig_mod" in network._modules else network
    with naming_misfits(network, images):
        answer = run_on_images(inner, images)
    return read_scores(answer, unwrap(network), output, target)


@contextmanager
def _hooks(network: nn.Module, names: Sequence[str], features: dict[str, Tensor], trunk_graph: bool) -> Iterator[None]:
    inner = unwrap(network)
    modules = dict(inner.named_modules())
    with ExitStack() as stack, ExitStack() as trunk:

        def on_first() -> None:
            trunk.close()
            stack.enter_context(linear_heads(inner))
            if trunk_graph:  # fused attention cannot be differentiated twice
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))

        for name in names:
            if name not in modules or name == "":
                raise unknown_name("layer", name, [n for n in modules if n])
            handle = modules[name].register_forward_hook(_capture(name, features, trunk_graph, on_first))
            stack.callback(handle.remove)
        if "_orig_mod" in network._modules:
            trunk.enter_context(compiled_regions(inner, names, network.dynamo_ctx))  # type: ignore[arg-type]
        elif any("_orig_mod" in module._modules for module in _wrappers(network)):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _wrappers(network: nn.Module) -> Iterator[nn.Module]:
    while network is not unwrap(network):
        yield network
        network = next(network.children())


def _capture(name: str, features: dict[str, Tensor], trunk_graph: bool, on_first: Callable[[], None]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        given = _tensor_of(name, output, features)
        if trunk_graph and not torch.is_grad_enabled():
            raise AttnBridgeError(
                f"layer {name!r} runs where the network itself turns autograd off, as in a reentrant checkpoint; "
                "checkpoint with use_reentrant=False, or name a layer outside"
            )
        if not features:
            on_first()
        if given.requires_grad and (features or trunk_graph):
            features[name] = given  # it lies in the graph already
        else:
            torch.set_grad_enabled(True)  # from here on; `observe` restores the caller's mode
            features[name] = given.detach().requires_grad_()
        return _with_leading(output, features[name].clone())  # what follows may work in place

    return hook


def _tensor_of(name: str, output: Any, features: dict[str, Tensor]) -> Tensor:
    """What a layer that is observed gave, itself or first in a tuple."""
    given = leading_tensor(output)
    if given is None:
        raise AttnBridgeError(f"layer {name!r} gives {describe(output)}, not a tensor; name a layer inside it")
    if name in features:
        raise AttnBridgeError(f"layer {name!r} ran more than once in one forward pass; name another one")
    return given


def _with_leading(output: Any, given: Tensor) -> Any:
    """An output with another tensor in the place of its leading one."""
    if isinstance(output, Tensor):
        return given
    values = [given, *output[1:]]
    return output._replace(**{output._fields[0]: given}) if hasattr(output, "_fields") else type(output)(values)
