"""Cues of a folder of images: palette PNGs, a sheet to look at, precision and recall where there are masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.PngImagePlugin import PngInfo
from rich.progress import track
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype

from attnbridge import __version__
from attnbridge.data.cues import MADE_OF, cue_path
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.doubts import check_saliency
from attnbridge.data.files import is_current
from attnbridge.data.folders import SourceTarget
from attnbridge.data.images import ImageRecord, load_image, open_image
from attnbridge.data.masks import load_mask
from attnbridge.data.out_folders import owned
from attnbridge.data.palette import palette_png
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.saliency import is_model, make_saliency, saliency_folder
from attnbridge.data.sample import IGNORE_INDEX, multi_hot
from attnbridge.data.text import write_rows
from attnbridge.data.transforms import eval_transform, over_image
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import mask_pairs
from attnbridge.evaluation.finite import check_finite
from attnbridge.evaluation.views import Views
from attnbridge.models.classifiers import Classifier
from attnbridge.segmentation.combine import enlarge_maps
from attnbridge.segmentation.cues import CueSettings, make_cue

LABELS = "labels"
"""What a cue's file calls the classes that it was made of."""


@dataclass(frozen=True)
class CueMaker:
    """What makes the cues of images whose classes are known.

    Attributes:
        model: whose class maps are taken.
        saliency: folder with the saliency map of each image, ``ID.png``; ``None``: see
            :func:`~attnbridge.segmentation.cues.make_cue`.
        settings: thresholds and rule.
        scales: multiples of the model's image size that the maps are averaged over.
        flip: average with the maps of the mirrored images too.
        batch: images at once.
    """

    model: Classifier
    saliency: Path | None = None
    settings: CueSettings = field(default_factory=CueSettings)
    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    flip: bool = True
    batch: int = 8

    def write(self, records: Sequence[ImageRecord], out: Path) -> None:
        """Write ``ID.png`` of each image, at its own size; those that are there and current are kept.

        Raises:
            AttnBridgeError: for an image or saliency map that cannot be read, or cues of other settings or files of
                the user's in ``out``.
        """
        made_of = {
            **asdict(self.settings), "scales": list(self.scales), "flip": self.flip, "saliency": str(self.saliency),
            "images": str(records[0].image.parent), "classes": list(self.model.classes),
            "model": self.model.name, "checksum": self.model.checksum, "attnbridge": __version__,
        }  # fmt: skip
        if any(os.path.realpath(record.image.parent) == os.path.realpath(out) for record in records):
            raise AttnBridgeError(f"{out}: holds the images that the cues are made of; name another folder with --out")
        with owned(out, MADE_OF) as own:
            own.check(cue_path(out, record) for record in records)
            waiting = [r for r in records if not self._is_current(cue_path(out, r), r)]
            own.check_unchanged(cue_path(out, record) for record in waiting)
            own.claim(MADE_OF, made_of, "cues")
            parts = [waiting[i : i + self.batch] for i in range(0, len(waiting), self.batch)]
            for part in track(parts, "cues", transient=True):
                self._write(part, own)

    def _write(self, records: Sequence[ImageRecord], own: OwnFiles) -> None:
        """The cues of a batch."""
        for record, maps in zip(records, self.maps(records), strict=True):
            present = multi_hot(record.classes, len(self.model.classes))
            cue = make_cue(maps, present, self._read_saliency(record, maps.shape[1:]), self.settings)
            with own.writing(cue_path(own.folder, record)) as partial:
                palette_png(cue.numpy()).save(partial, "PNG", pnginfo=_labels(record))

    def _is_current(self, path: Path, record: ImageRecord) -> bool:
        """Whether a cue is there, of the same labels, and not older than image and saliency."""
        if not is_current(path, record.image, *self._own_saliency(record)):
            return False
        try:
            with open_image(path) as image:
                image.load()
                return bool(image.info.get(LABELS) == _text(record))
        except AttnBridgeError:  # no image any more
            return False

    def maps(self, records: Sequence[ImageRecord]) -> Iterator[Tensor]:
        """The maps of each image, ``(N, H, W)`` at its own size, each to its own maximum; absent classes 0."""
        loaded = [torch.from_numpy(np.array(load_image(record.image))).permute(2, 0, 1) for record in records]
        transform = eval_transform(self.model.size, self.model.shape)
        images = torch.stack([transform(tv_tensors.Image(image)).as_subclass(Tensor) for image in loaded])
        device = next(self.model.network.parameters()).device
        images = self.model.normalise(to_dtype(images.to(device), torch.float32, scale=True))
        present = torch.stack([multi_hot(r.classes, len(self.model.classes)) for r in records]).to(device)
        views = Views(self.scales, self.flip)
        maps = views.maps(self.model.network, images, present, self.model.layer, "--scales").cpu()
        check_finite(maps, f"the maps of {self.model.name}")
        for each, image in zip(maps, loaded, strict=True):
            size = (image.shape[1], image.shape[2])
            yield enlarge_maps(over_image(each, size, self.model.size, self.model.shape)[None], size)[0]

    def _own_saliency(self, record: ImageRecord) -> list[Path]:
        return [self.saliency / f"{record.image.stem}.png"] if self.saliency else []

    def _read_saliency(self, record: ImageRecord, size: Sequence[int]) -> Tensor | None:
        for path in self._own_saliency(record):
            found = torch.from_numpy(np.array(load_image(path, "L")))
            if found.shape != tuple(size):
                raise AttnBridgeError(
                    f"{path}: is {found.shape[1]}x{found.shape[0]} pixels, but its image {record.image} is "
                    f"{size[1]}x{size[0]}; make them the same size"
                )
            return found / 255
        return None


def _text(record: ImageRecord) -> str:
    return ",".join(map(str, record.classes))


def _labels(record: ImageRecord) -> PngInfo:
    """The labels that a cue was made of, to be kept in its file."""
    info = PngInfo()
    info.add_text(LABELS, _text(record))
    return info


def read_cue(path: Path) -> Any:
    """Labels ``(H, W)``, uint8."""
    return np.array(load_mask(path))


@dataclass(frozen=True)
class CueScores:
    """Seeds beside masks, by class, background first; ``None`` where there is no such pixel.

    Attributes:
        precision: share of a class's seeds that are the class's pixels.
        recall: share of a class's pixels that are its seeds.
    """

    precision: list[float | None]
    recall: list[float | None]


def score_cues(records: Sequence[ImageRecord], out: Path, classes: int) -> CueScores:
    """Precision and recall of the seeds over all pixels of the images; 255 of a mask is not counted.

    Args:
        records: with masks.
        out: folder of the cues.
        classes: number of classes without background.
    """
    masks = ImageDataset(records, classes, "target", _as_it_is)
    side = classes + 1
    counts = torch.zeros(side, side + 1, dtype=torch.long)  # truth by cue, the last: nothing known
    for number, record in enumerate(records):
        mask = masks.in_bytes(number)["mask"].long()
        path = cue_path(out, record)
        cue = torch.from_numpy(read_cue(path)).long()
        if cue.shape != mask.shape or bool(((cue > classes) & (cue != IGNORE_INDEX)).any()):
            raise AttnBridgeError(
                f"{path}: is no cue of {record.image}: expected {tuple(mask.shape)} values from 0 to {classes} or 255, "
                f"but it has {tuple(cue.shape)} from {int(cue.min())} to {int(cue.max())}; make it again"
            )
        cue[cue == IGNORE_INDEX] = side
        counted = mask != IGNORE_INDEX
        cell = mask[counted] * (side + 1) + cue[counted]
        counts += torch.bincount(cell, minlength=counts.numel()).view_as(counts)
    hits = counts[:, :side].diagonal()
    return CueScores(_shares(hits, counts[:, :side].sum(0)), _shares(hits, counts.sum(1)))


def _as_it_is(parts: Any) -> Any:
    return parts


def _shares(hits: Tensor, of: Tensor) -> list[float | None]:
    return [float(h / n) if n else None for h, n in zip(hits, of, strict=True)]


def write_scores(scores: CueScores, classes: Sequence[str], path: Path, say: Callable[[str], None] = print) -> None:
    """``scores.csv``, and the same as lines to read, percent."""
    rows = [["class", "precision", "recall"]]
    for name, *values in zip(("background", *classes), scores.precision, scores.recall, strict=True):
        rows.append([name, *("" if v is None else f"{v:.4f}" for v in values)])
        shown = ["    -" if v is None else f"{100 * v:5.1f}" for v in values]
        say(f"{name:<20} precision {shown[0]}  recall {shown[1]}")
    with OwnFiles(path.parent).writing(path) as partial:
        write_rows(partial, rows)


def write_sheet(masks: Mapping[Path, Path], out: Path, classes: int, shown: int = 24) -> None:
    """``sheet.jpg``: the first images, each beside its cue or mask; those without one are passed over."""
    pairs = [(load_image(p), np.array(load_image(m, "P"))) for p, m in list(masks.items())[:shown] if m.is_file()]
    if pairs:
        with OwnFiles(out).writing(out / "sheet.jpg") as partial:
            mask_pairs(pairs, classes).save(partial, "JPEG", quality=88)
        print(out / "sheet.jpg")


def target_records(pair: SourceTarget, split: str, classes: tuple[str, ...]) -> list[ImageRecord]:
    """The images of a split that show a class, without masks.

    Raises:
        AttnBridgeError: for a target that knows other classes, or no image with a class.
    """
    known = pair.classes
    if known != classes:
        raise AttnBridgeError(
            f"{pair.target}: the run knows the classes {', '.join(classes)}, in this order, but the data has "
            f"{', '.join(known)}"
        )
    found = [r for r in pair.scan(split, masks=False) if r.classes]
    if not found:
        raise AttnBridgeError(f"{pair.target}: no image of {split!r} shows one of {', '.join(classes)}")
    return found


def masked_records(pair: SourceTarget, split: str) -> list[ImageRecord]:
    """The same with their masks, for scores alone; none, and a word why, where there are none."""
    try:
        return [r for r in pair.scan(split, masks=True) if r.classes]
    except AttnBridgeError as error:
        print(f"cues are not scored: {error}")
        return []


def target_saliency(records: list[ImageRecord], saliency: str) -> Path:
    """The folder with the images' maps, ``ID.png``; a model's are made where they are missing.

    Raises:
        AttnBridgeError: for a folder that lacks one.
    """
    folder = saliency_folder(records[0].image.parent, saliency)
    if is_model(saliency):
        bad = make_saliency({record.image.name: record.image for record in records}, folder, saliency)
        if bad:
            raise AttnBridgeError(f"{bad[0]} ({len(bad)} such images in all)")
    for record in records:
        if not (folder / f"{record.image.stem}.png").is_file():
            raise AttnBridgeError(
                f"{folder / record.image.stem}.png: no such file; expected the saliency of {record.image}"
            )
    check_saliency([folder / f"{record.image.stem}.png" for record in records])
    return folder
