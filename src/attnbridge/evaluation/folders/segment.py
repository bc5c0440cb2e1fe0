"""Masks of a folder of images: from a segmentation network, or straight from a classifier's maps."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype

from attnbridge.data.files import is_current, output_paths
from attnbridge.data.images import is_whole, load_image
from attnbridge.data.out_folders import owned
from attnbridge.data.palette import palette_png
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.transforms import Shape, eval_transform, over_image
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.finite import check_finite
from attnbridge.evaluation.folders.explain import ExplainSettings, FolderExplainer
from attnbridge.evaluation.views import ONE_VIEW, Views
from attnbridge.methods.segmentation import Segmentation
from attnbridge.models.classifiers import Classifier
from attnbridge.segmentation.combine import combine_maps, enlarge_maps
from attnbridge.segmentation.crf import CRF, mean_field
from attnbridge.segmentation.inference import Inference, enlarged, infer

LARGEST = 1_000_000
"""Pixels up to which a CRF sees an image at its own size; larger ones are made smaller for it."""

CERTAIN = 0.7
"""Probability that the label of a mask of maps is taken to have before a CRF, as in IRN (misc/imutils.py)."""


class Segmenter(Protocol):
    """What makes masks."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the masks' values from 1 on."""

    @property
    def crf(self) -> bool:
        """Whether the answers are to be refined."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def answer(self, path: Path, present: Tensor | None) -> Any:
        """Of an image the probabilities of the labels ``(L, h, w)``, float16, over the image alone, or its mask
        ``(H, W)``, uint8. ``present``: bool ``(N,)``, where the image's classes are known."""

    def made_of(self) -> dict[str, Any]:
        """What decides the masks, to be written beside them."""


@dataclass(frozen=True)
class NetworkSegmenter:
    """Masks of a segmentation network.

    Attributes:
        method: trained.
        shape: in which it is given its images.
        how: scales, mirroring and CRF.
        checksum: of its weights.
    """

    method: Segmentation
    shape: Shape
    how: Inference
    checksum: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.method.classes

    @property
    def crf(self) -> bool:
        return self.how.crf

    @property
    def device(self) -> torch.device:
        return self.method.device

    def answer(self, path: Path, present: Tensor | None) -> Any:
        """Probabilities, those of classes that are known to be absent 0."""
        loaded = load_image(path)
        pixels = tv_tensors.Image(torch.from_numpy(np.array(loaded)).permute(2, 0, 1))
        size = self.method.image_size
        image = eval_transform(size, self.shape)(pixels).as_subclass(Tensor)[None]
        image = to_dtype(image.to(self.method.device), torch.float32, scale=True)
        plain = replace(self.how, crf=False)
        found = infer(lambda x: self.method.predict_batch(x)["probabilities"], image, plain)[0]
        check_finite(found, f"the probabilities of the network in {path}")
        found = over_image(found, (loaded.height, loaded.width), size, self.shape)
        if present is not None:
            found = found * F.pad(present.to(found), (1, 0), value=1.0)[:, None, None]
            found = found / found.sum(0).clamp_min(1e-8)
        return found.half().cpu().numpy()

    def made_of(self) -> dict[str, Any]:
        usual = {"combine": "mean", "corners": False}  # not in what masks were made of before they were options
        how = {k: _plain(v) for k, v in asdict(self.how).items() if usual.get(k) != v}
        return {"checksum": self.checksum, **how}


@dataclass(frozen=True)
class MapSegmenter:
    """Masks straight from a classifier's maps, see :func:`~attnbridge.segmentation.combine.combine_maps`.

    Attributes:
        model: whose maps are taken.
        threshold: of the background, relative to each map's maximum.
        score_threshold: probability from which on a class is in an image.
        views: that the maps are averaged over.
        refine: by a dense CRF, see :func:`refined_mask`.
    """

    model: Classifier
    threshold: float
    score_threshold: float = 0.5
    views: Views = ONE_VIEW
    refine: bool = False

    crf = False

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    @property
    def device(self) -> torch.device:
        return next(self.model.network.parameters()).device

    def answer(self, path: Path, present: Tensor | None) -> Any:
        """The mask itself."""
        image = load_image(path)
        settings = ExplainSettings(all_maps=True)
        look = FolderExplainer(self.model, lambda scores: scores > self.score_threshold, settings, self.views)
        scores, shown, maps = look.look([image])
        large = enlarge_maps(maps, (image.height, image.width))
        shown = shown if present is None else present[None]
        mask = combine_maps(large, scores, shown, torch.tensor([self.threshold]))[0, 0]
        if self.refine:
            place = "cpu" if self.device.type == "mps" else self.device
            mask = refined_mask(image, mask.to(place), shown[0].to(place)).cpu()
        return mask.numpy()

    def made_of(self) -> dict[str, Any]:
        return {
            "checksum": self.model.checksum,
            "threshold": self.threshold,
            "score_threshold": self.score_threshold,
            **({} if self.views.single else {name: _plain(value) for name, value in asdict(self.views).items()}),
            **({"crf": True} if self.refine else {}),
        }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def write_masks(
    segmenter: Segmenter,
    images: Mapping[str, Path],
    out: Path,
    present: Mapping[str, Tensor] | None = None,
    workers: int = 0,
) -> list[str]:
    """Write ``ID.png``, a palette PNG, of each image, the suffix of its id replaced; what is current is kept.

    Args:
        segmenter: what makes the masks.
        images: by id; see :func:`~attnbridge.data.folders.find_images`.
        out: folder to write; it holds the masks of one segmenter only.
        present: bool ``(N,)`` of each image by id, where its classes are known.
        workers: processes that run the CRF; 0: this one does.

    Returns:
        One message for each image that could not be read.

    Raises:
        AttnBridgeError: if ``out`` holds masks of another segmenter or files of the user's, or two images' masks
            would be one file.
    """
    known = {"labels": present is not None, "classes": list(segmenter.classes)}
    targets = output_paths(images, out)
    bad: list[str] = []
    with ExitStack() as stack:
        own = stack.enter_context(owned(out, "masks.json"))
        own.check(targets.values())
        waiting = {i: p for i, p in images.items() if not (is_current(targets[i], p) and is_whole(targets[i]))}
        own.check_unchanged(targets[i] for i in waiting)
        own.claim("masks.json", segmenter.made_of() | known, "masks")
        pool = stack.enter_context(_pool(workers)) if workers and segmenter.crf and waiting else None
        begun: list[Future[None]] = []
        for name, path in track(waiting.items(), "masks", total=len(waiting), transient=True):
            try:
                answer = segmenter.answer(path, present[name] if present else None)
            except AttnBridgeError as error:
                bad.append(str(error))
                continue
            how = (segmenter.crf, segmenter.device)
            if pool is None:
                _finish(path, answer, *how, targets[name], own)
                continue
            begun.append(pool.submit(_finish, path, answer, *how, targets[name], own.only(targets[name])))
            if len(begun) > 2 * workers:
                begun.pop(0).result()
        for future in begun:
            future.result()
    return bad


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that run nothing of the working folder, where Python else looks for its own modules first."""
    spawn = multiprocessing.get_context("spawn")  # forked processes deadlock in torch's threads
    with (
        patch.dict(os.environ, PYTHONSAFEPATH="1"),
        ProcessPoolExecutor(workers, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool


def _finish(path: Path, answer: Any, crf: bool, device: torch.device, target: Path, own: OwnFiles) -> None:
    mask = answer if answer.ndim == 2 else refine_mask(path, answer, crf, device)
    with own.writing(target) as partial:
        palette_png(mask).save(partial, "PNG")


def refine_mask(path: Path, answer: Any, crf: bool, device: torch.device) -> Any:
    """The mask ``(H, W)`` of an image at its own size, uint8: 0 background, class index + 1.

    Args:
        path: the image.
        answer: probabilities of the labels, ``(L, h, w)``.
        crf: refine them at the image's own size, or, beyond :data:`LARGEST` pixels, at that of so many.
        device: where; MPS, for which the CRF is not made, leaves it to the CPU.
    """
    loaded = load_image(path)
    probabilities = torch.from_numpy(answer).float()[None].to("cpu" if device.type == "mps" else device)
    if crf:
        probabilities = refined(loaded, probabilities)
    return enlarged(probabilities, (loaded.height, loaded.width))[0].argmax(0).byte().cpu().numpy()


def refined(image: Image.Image, probabilities: Tensor) -> Tensor:
    """What a dense CRF makes of the probabilities ``(1, L, h, w)`` in an image, at its size up to :data:`LARGEST`."""
    small = min(1.0, (LARGEST / (image.height * image.width)) ** 0.5)
    seen = (max(1, round(small * image.height)), max(1, round(small * image.width)))
    pixels = np.array(image if small == 1 else image.resize(seen[::-1], Image.Resampling.BILINEAR))
    shown = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(probabilities.device)
    return mean_field(shown, enlarged(probabilities, seen), CRF.of_size(*seen))


def refined_mask(image: Image.Image, labels: Tensor, present: Tensor) -> Tensor:
    """What a dense CRF makes of a mask of maps, see :data:`CERTAIN`.

    Args:
        image: of the mask's size.
        labels: uint8 ``(H, W)``, 0 background, class index + 1.
        present: bool ``(N,)``, the classes that may be in the mask.
    """
    values = torch.cat([present.new_zeros(1).long(), present.nonzero().flatten() + 1])
    if len(values) == 1:
        return labels
    right = labels[None].long() == values[:, None, None]
    probabilities = torch.where(right, CERTAIN, (1 - CERTAIN) / (len(values) - 1))
    place = "cpu" if labels.device.type == "mps" else labels.device
    answer = enlarged(refined(image, probabilities[None].to(place)), (labels.shape[0], labels.shape[1]))
    return values[answer[0].argmax(0).to(labels.device)].to(labels.dtype)


def default_workers(device: torch.device) -> int:
    """Processes for the CRF: one for each core, or none beside a GPU that runs it."""
    if device.type == "cuda":
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
