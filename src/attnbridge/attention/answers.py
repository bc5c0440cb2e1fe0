"""From what a network answers to scores ``(B, K)``: logits of any packing, or what a target makes of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from attnbridge.arguments import came
from attnbridge.attention.layers import unwrap
from attnbridge.errors import AttnBridgeError, shown, unknown_name

Output = str | int | Callable[[Any], Any]
Target = Callable[[Any], Tensor]
LOGITS = ("logits", "out")
"""Names that answers have for their logits: of transformers, of torchvision's segmentation."""


def run_on_images(network: nn.Module, images: Tensor) -> Any:
    """The answer of a network to images alone; of one of images and texts, the embedding ``(B, D)`` of the images.

    >>> run_on_images(nn.Flatten(), images=Tensor(2, 3, 1, 1)).shape
    torch.Size([2, 3])
    """
    inner: Any = unwrap(network)
    if is_image_text(inner):
        if hasattr(inner, "get_image_features"):
            return embedding_of(inner.get_image_features(pixel_values=images))
        return inner.encode_image(images)
    return network(images)


def is_image_text(network: nn.Module) -> bool:
    """Whether a network compares images with texts, as CLIP does, in transformers' way or in open_clip's."""
    theirs = hasattr(network, "get_image_features") and hasattr(network, "get_text_features")
    return theirs or (hasattr(network, "encode_image") and hasattr(network, "encode_text"))


def embedding_of(answer: Any) -> Tensor:
    """An embedding ``(B, D)``: a tensor as it is, else transformers' ``pooler_output``.

    Raises:
        AttnBridgeError: for anything else.
    """
    value = answer if isinstance(answer, Tensor) else _field(answer, "pooler_output")
    if not isinstance(value, Tensor) or value.ndim != 2:
        raise AttnBridgeError(
            f"the network's answer must be an embedding (B, D), but is {describe(answer)}; take one from it with "
            "`output`"
        )
    return value


def read_scores(answer: Any, network: nn.Module, output: Output | None = None, target: Target | None = None) -> Tensor:
    """Scores ``(B, K)`` in a network's answer.

    Without ``output`` and ``target`` they are its logits: the answer itself, its ``logits`` or ``out``, as attribute
    or key, or the first of a tuple. ``(B,)``, a score an image, becomes ``(B, 1)``.

    Args:
        answer: what the network gave.
        network: it.
        output: what of the answer is meant: the name of an attribute or key, an index, or a function.
        target: from that, or from the whole answer, to scores; see :mod:`attnbridge.targets`.

    Raises:
        AttnBridgeError: if there are none, naming what the answer holds.

    >>> import torch
    >>> read_scores({"logits": torch.zeros(2, 5), "loss": torch.zeros(())}, nn.Identity()).shape
    torch.Size([2, 5])
    >>> read_scores((torch.zeros(2), torch.zeros(2, 7)), nn.Identity(), output=1).shape
    torch.Size([2, 7])
    """
    picked = answer if output is None else pick_output(answer, output)
    if target is not None:
        return _checked(target(picked), f"target {_called(target)} gave")
    if output is None:
        _check_classifies(network, answer)
        picked = find_logits(answer)
    return _checked(picked, "the network's output is" if output is None else f"output {shown(output)} is")


def pick_output(answer: Any, output: Output) -> Any:
    """What of an answer a name, an index or a function means.

    Raises:
        AttnBridgeError: if there is no such thing in it.

    >>> pick_output(("a", {"b": 3}), 1), pick_output({"b": 3}, "b"), pick_output({"b": 3}, lambda answer: answer["b"])
    ({'b': 3}, 3, 3)
    """
    if callable(output):
        return output(answer)
    if isinstance(output, str):
        value = _field(answer, output)
        if value is None:
            raise unknown_name("output", output, _fields(answer), f"the answer is {describe(answer)}")
        return value
    if isinstance(output, bool) or not isinstance(output, int):
        raise AttnBridgeError(f"output must be a name, an index or a function, not {came(output)}")
    values = list(answer.values()) if isinstance(answer, Mapping) else answer
    if not isinstance(values, list | tuple) or not -len(values) <= output < len(values):
        raise AttnBridgeError(f"output {output}: the network's answer is {describe(answer)}")
    return values[output]


def describe(value: Any) -> str:
    """An answer in a few words.

    >>> describe({"boxes": Tensor(2, 4), "ids": [1, 2]})
    'a dict of boxes (a tensor of shape (2, 4)), ids (a list of int)'
    """
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    names = _fields(value)
    kind = type(value).__name__
    if names:
        return f"a {kind} of {', '.join(f'{name} ({_brief(_field(value, name))})' for name in names)}"
    if isinstance(value, tuple | list) and value:
        return f"a {kind} of {', '.join(dict.fromkeys(map(_brief, value)))}"
    return f"a {kind}" if value is not None else "None"


def _brief(value: Any) -> str:
    return describe(value) if isinstance(value, Tensor | tuple | list) else type(value).__name__


def _field(answer: Any, name: str) -> Any:
    """What an answer has under a name, as key or as attribute; ``None`` if nothing."""
    if isinstance(answer, Mapping):
        return answer.get(name)
    return None if isinstance(answer, Tensor) else getattr(answer, name, None)


def _fields(answer: Any) -> list[str]:
    """Names of what an answer holds."""
    if isinstance(answer, Mapping):
        return [name for name, value in answer.items() if isinstance(name, str) and value is not None]
    if isinstance(answer, tuple):
        return list(getattr(answer, "_fields", ()))
    own: dict[str, Any] = getattr(answer, "__dict__", {}) if not isinstance(answer, Tensor) else {}
    return [name for name, value in own.items() if not name.startswith("_") and value is not None]


def find_logits(answer: Any) -> Tensor:
    """The logits in an answer that nothing is said of: itself, its ``logits`` or ``out``, or the first of a tuple.

    Raises:
        AttnBridgeError: if there are none.
    """
    if isinstance(answer, Tensor):
        return answer
    for name in LOGITS:
        if isinstance(value := _field(answer, name), Tensor):
            return value
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], Tensor) and not _fields(answer):
        return answer[0]
    raise AttnBridgeError(
        f"the network's output must be logits of shape (batch, classes), but is {describe(answer)}; say with "
        "`output` which of it is meant (a name, an index or a function), or with `target` what a score is"
    )


def _check_classifies(network: nn.Module, answer: Any) -> None:
    """Raise for a network whose answer has the shape of logits and is none."""
    if is_image_text(network):
        raise AttnBridgeError(
            "the network compares images with texts, so its answer to images is an embedding and no logits; give the "
            "texts with `target`, as attnbridge.targets.text_target(network, tokens)"
        )
    if getattr(network, "num_classes", None) == 0 and isinstance(answer, Tensor):
        raise AttnBridgeError(
            "the network has no classifier (num_classes is 0), so its answer is an embedding and no logits; give it "
            "one, or say what a score is with `target`, as attnbridge.targets.SimilarityTarget"
        )


def _checked(scores: Any, what: str) -> Tensor:
    if isinstance(scores, Tensor) and scores.ndim == 1:
        scores = scores[:, None]
    if isinstance(scores, Tensor) and scores.ndim == 2 and scores.shape[1]:
        return scores
    dense = isinstance(scores, Tensor) and scores.ndim == 4
    raise AttnBridgeError(
        f"{what} {describe(scores)}; expected logits of shape (batch, classes)"
        f"{', or, for a score of each pixel, a target such as attnbridge.targets.RegionTarget' if dense else ''}"
    )


def _called(target: Target) -> str:
    return getattr(target, "__name__", type(target).__name__)
