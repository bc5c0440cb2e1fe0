"""What a map explains beside a class: a text, a class in a region, a detected box, a value, a likeness.

Each is a callable from a network's answer to scores ``(B, K)``, for ``explain(..., target=...)``. A function of one's
own does as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from attnbridge.arguments import check_network, check_tensors
from attnbridge.attention.answers import describe, embedding_of, find_logits, is_image_text
from attnbridge.attention.layers import eval_mode, unwrap
from attnbridge.bounds import MapSize, Natural, Positive, check_number, check_value
from attnbridge.errors import AttnBridgeError

OVERLAP = 0.5
"""Intersection over union from which on a detection is that of a box."""


class SimilarityTarget:
    r"""Cosine similarity of an image's embedding with others, of texts or of images.

    .. math:: y^k = s \frac{e \cdot e_k}{\|e\| \|e_k\|} + b

    Args:
        embeddings: ``(K, D)``, or ``(D,)`` of one; without graph.
        scale: s; of CLIP the exponential of its ``logit_scale``.
        bias: b; of SigLIP its ``logit_bias``.

    Raises:
        AttnBridgeError: for embeddings of another shape, and, when called, an answer that is no embedding ``(B, D)``.

    >>> SimilarityTarget(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))(torch.tensor([[3.0, 0.0]]))
    tensor([[1., 0.]])
    """

    def __init__(self, embeddings: Tensor, scale: float = 1.0, bias: float = 0.0) -> None:
        embeddings = embeddings[None] if isinstance(embeddings, Tensor) and embeddings.ndim == 1 else embeddings
        check_tensors(embeddings=(embeddings, "K D"))
        check_number("scale", scale, Positive)
        check_value("bias", bias, float)
        self.embeddings, self.scale, self.bias = F.normalize(embeddings.detach(), dim=1), scale, bias

    def __call__(self, answer: Any) -> Tensor:
        embedding = embedding_of(answer)
        others = self.embeddings.to(embedding)
        if embedding.shape[1] != others.shape[1]:
            raise AttnBridgeError(
                f"the network's embedding has {embedding.shape[1]} numbers, those to compare it with "
                f"{others.shape[1]}; take both from one network"
            )
        return self.scale * F.normalize(embedding, dim=1) @ others.T + self.bias


def text_target(network: nn.Module, tokens: Any) -> SimilarityTarget:
    """Similarity of images with texts, as CLIP and SigLIP score it; the K texts take the place of classes.

    Args:
        network: of images and texts: of transformers (``CLIPModel``, ``SiglipModel``), or of open_clip.
        tokens: of the K texts: what the network's tokenizer gives, a mapping for transformers (``tokenizer(texts,
            padding=True, return_tensors="pt")``), a tensor for open_clip.

    Raises:
        AttnBridgeError: for a network without texts.
    """
    check_network(network)
    theirs: Any = unwrap(network)
    if not is_image_text(theirs):
        raise AttnBridgeError(
            f"{type(network).__name__} compares no images with texts; expected a network with get_image_features and "
            "get_text_features (transformers), or encode_image and encode_text (open_clip)"
        )
    with torch.no_grad(), eval_mode(network):
        if hasattr(theirs, "get_text_features"):
            texts = embedding_of(theirs.get_text_features(**tokens))
        else:
            texts = embedding_of(theirs.encode_text(tokens))
    scale, bias = getattr(theirs, "logit_scale", None), getattr(theirs, "logit_bias", None)
    return SimilarityTarget(
        texts, 1.0 if scale is None else float(scale.detach().exp()), 0.0 if bias is None else float(bias.detach())
    )


class ValueTarget:
    """What a regression predicts: the map shows what raises the value, or what lowers it.

    Args:
        index: of the value among several.
        lower: whether the map is of what lowers it.

    Raises:
        AttnBridgeError: for a wrong index; when called, for an answer that has no such value.

    >>> ValueTarget(1, lower=True)(torch.tensor([[3.0, 4.0]]))
    tensor([[-4.]])
    """

    def __init__(self, index: int = 0, *, lower: bool = False) -> None:
        check_number("index", index, Natural)
        self.index, self.lower = index, lower

    def __call__(self, answer: Any) -> Tensor:
        values = find_logits(answer)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or self.index >= values.shape[1]:
            raise AttnBridgeError(f"the network's answer is {describe(values)}; it has no value {self.index} an image")
        value = values[:, self.index, None]
        return -value if self.lower else value


class RegionTarget:
    """A class of a segmentation network: the mean of its logits over a region, or over the whole image.

    Args:
        classes: of which class, or classes, by number; K of them.
        region: ``(H, W)`` or ``(B, H, W)``, bool, or floats that weigh the positions; brought to the size of the
            logits. Default: everywhere.

    Raises:
        AttnBridgeError: for an empty region; when called, for an answer that is no ``(B, N, H, W)``, or a class that it
            has not.

    >>> logits = torch.arange(8.0).view(1, 2, 2, 2)
    >>> RegionTarget(1)(logits), RegionTarget([0, 1], torch.eye(2) > 0)({"out": logits})
    (tensor([[5.5000]]), tensor([[1.5000, 5.5000]]))
    """

    def __init__(self, classes: int | Sequence[int], region: Tensor | None = None) -> None:
        self.classes = _numbers("classes", classes)
        if region is not None:
            region = region[None] if isinstance(region, Tensor) and region.ndim == 2 else region
            check_tensors(region=(region, "B H W", "unit"))
            region = region.float()
            if not bool((region.flatten(1).sum(1) > 0).all()):
                raise AttnBridgeError("region: has no position; it may lie outside the image")
        self.region = region

    def __call__(self, answer: Any) -> Tensor:
        logits = find_logits(answer)
        if logits.ndim != 4:
            raise AttnBridgeError(
                f"the network's answer is {describe(logits)}; expected a logit of each class at each pixel, "
                "(batch, classes, height, width)"
            )
        if max(self.classes) >= logits.shape[1]:
            raise AttnBridgeError(f"class {max(self.classes)} is out of range; the network has {logits.shape[1]}")
        wanted = logits[:, self.classes]
        if self.region is None:
            return wanted.mean((2, 3))
        if len(self.region) not in (1, len(logits)):
            raise AttnBridgeError(f"region is of {len(self.region)} images, the batch of {len(logits)}")
        size = (logits.shape[2], logits.shape[3])
        weights = F.interpolate(self.region[:, None].to(logits), size, mode="area")
        return (wanted * weights).sum((2, 3)) / weights.sum((2, 3))


class BoxTarget:
    """A detected box and its class: the score of the detection that overlaps it most.

    Understood are torchvision's detectors (in eval mode: for each image ``boxes``, ``labels``, ``scores``) and those of
    transformers that answer a fixed number of queries (DETR: ``logits`` and ``pred_boxes``).

    Args:
        boxes: ``(K, 4)``, or ``(4,)`` of one: left, top, right, bottom, pixels of the images as the network gets them.
        labels: the class of each, by number.
        size: height and width of the images, pixels.

    Raises:
        AttnBridgeError: for a box that is outside the image or has no area; when called, for an answer that holds no
            detections, or none of that class that has half of its union with the box in common.

    >>> found = [{"boxes": torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]]), "labels": torch.tensor([1, 2]),
    ...           "scores": torch.tensor([0.9, 0.8])}]
    >>> BoxTarget([4, 4, 8, 7], 2, 8)(found)
    tensor([[0.8000]])
    """

    def __init__(self, boxes: Tensor | Sequence[Any], labels: int | Sequence[int], size: MapSize) -> None:
        check_value("size", size, MapSize)
        self.height, self.width = (size, size) if isinstance(size, int) else size
        given = torch.as_tensor(boxes, dtype=torch.float32)
        given = given[None] if given.ndim == 1 else given
        check_tensors(boxes=(given, "K 4"))
        self.boxes, self.labels = given, _numbers("labels", labels)
        if len(self.labels) != len(self.boxes):
            raise AttnBridgeError(f"{len(self.boxes)} boxes, but {len(self.labels)} labels; give each box one")
        for box in self.boxes.tolist():
            left, top, right, bottom = box
            if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
                raise AttnBridgeError(
                    f"box {box}: expected left < right and top < bottom, inside the image, which is {self.width} "
                    f"pixels wide and {self.height} high"
                )

    def __call__(self, answer: Any) -> Tensor:
        rows = []
        for place, (boxes, scores, labels) in enumerate(self._detections(answer)):
            overlaps = box_iou(self.boxes.to(boxes), boxes.detach())
            row = []
            for overlap, label in zip(overlaps, self.labels, strict=True):
                overlap = overlap if labels is None else overlap * (labels == label)
                best = int(overlap.argmax()) if len(overlap) else 0
                if not len(overlap) or overlap[best] < OVERLAP:
                    raise AttnBridgeError(
                        f"image {place} of the batch: no detection of class {label} overlaps the box by half; the "
                        f"network found {len(overlap)} objects"
                    )
                row.append(scores[best] if labels is not None else scores[best, label])
            rows.append(torch.stack(row))
        return torch.stack(rows)

    def _detections(self, answer: Any) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Of each image: boxes ``(M, 4)`` in pixels, and scores ``(M,)`` with labels ``(M,)``, or ``(M, N)``."""
        if isinstance(answer, list) and all(isinstance(one, Mapping) and "scores" in one for one in answer):
            return [(one["boxes"], one["scores"], one["labels"]) for one in answer]
        boxes, logits = getattr(answer, "pred_boxes", None), getattr(answer, "logits", None)
        if not isinstance(boxes, Tensor) or not isinstance(logits, Tensor):
            raise AttnBridgeError(
                f"the network's answer is {describe(answer)}; expected detections: of torchvision, in eval mode, or "
                "with logits and pred_boxes, as transformers' DETR"
            )
        pixels = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([self.width, self.height] * 2)
        if int(max(self.labels)) >= logits.shape[2]:
            raise AttnBridgeError(
                f"label {max(self.labels)} is out of range; the network has {logits.shape[2]} classes"
            )
        return [(own, score, None) for own, score in zip(pixels, logits, strict=True)]


def _numbers(name: str, given: int | Sequence[int]) -> list[int]:
    """Numbers of classes, one or several, as a list."""
    numbers: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    for number in numbers:
        check_number(name, number, Natural)
    if not numbers:
        raise AttnBridgeError(f"{name} is empty; give a number of a class, or several")
    return numbers
