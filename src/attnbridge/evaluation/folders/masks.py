"""A folder of label masks, made by any tool, beside the true ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from attnbridge.data.mask_pairs import BACKGROUND, MaskPair
from attnbridge.data.masks import IGNORED, held_values, load_mask
from attnbridge.data.out_folders import owned
from attnbridge.data.text import write_rows
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import caption, colour_mask, sheet
from attnbridge.evaluation.metrics.masks import TOLERANCE, boundary_f_score, label_iou, mask_confusion
from attnbridge.evaluation.record import run_record, write_json

RECORD, TABLE, MATRIX, WORST = "scores.json", "scores.csv", "confusion.png", "worst.png"
SHOWN, CELL = 12, 240
"""Images on the sheet, and their width in pixels."""
PROTOCOL = {
    "iou": "one confusion matrix of the whole set, background a class, 255 of the truth ignored, 255 of the prediction "
    "wrong; labels that occur in neither are left out of the mean",
    "boundary_f": f"Csurka et al. 2013, within {100 * TOLERANCE}% of the diagonal; mean over the images whose truth or "
    "prediction has the class; background left out",
    "resolution": "each image at its own size",
}


@dataclass(frozen=True)
class MaskSetScores:
    """Scores of a set of masks, in [0, 1], by label; ``None`` for what never occurs.

    Attributes:
        names: of the labels, background first.
        values: that stand for them in the masks.
        confusion: pixels, long ``(L, L + 1)``, see :func:`~attnbridge.evaluation.metrics.masks.mask_confusion`.
        iou: of each label.
        boundary_f: mean over the images that show the label; ``None`` for the background.
        images: IoU of each image, the mean over the labels in it, by name, lowest first; those that are ignored as a
            whole are left out.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    confusion: Tensor
    iou: tuple[float | None, ...]
    boundary_f: tuple[float | None, ...]
    images: tuple[tuple[str, float], ...]

    @property
    def miou(self) -> float:
        """Mean over the labels that occur."""
        return _mean(self.iou)

    @property
    def mean_boundary_f(self) -> float | None:
        """Mean over the classes that occur, if any does."""
        return _mean(self.boundary_f) if any(value is not None for value in self.boundary_f) else None

    @property
    def pixel_accuracy(self) -> float:
        """Share of the known pixels that are right."""
        return float(self.confusion.diagonal().sum() / self.confusion.sum())

    @property
    def unlabelled(self) -> float:
        """Share of the known pixels without a predicted label."""
        return float(self.confusion[:, -1].sum() / self.confusion.sum())

    @property
    def pixels(self) -> tuple[int, ...]:
        """Of each label in the truth."""
        return tuple(self.confusion.sum(1).tolist())


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def score_masks(pairs: Sequence[MaskPair], classes: Sequence[str] | None = None) -> MaskSetScores:
    """IoU, boundary F and the confusion matrix of a set, see :data:`PROTOCOL`.

    Args:
        pairs: of :func:`~attnbridge.data.mask_pairs.pair_masks`, each mask with its true one.
        classes: names of the values from 1 on; ``None``: the values that occur stand for themselves.

    Raises:
        AttnBridgeError: for a mask that cannot be read, of another size than its truth, or with a value above the
            classes; if no pixel of the truth is known.
    """
    count = IGNORED - 1 if classes is None else len(classes)
    total = torch.zeros(count + 1, count + 2, dtype=torch.long)
    summed, shown = torch.zeros(count, dtype=torch.float64), torch.zeros(count)
    images = []
    for pair in track(pairs, "scoring masks", transient=True, console=Console(stderr=True)):
        found, truth = _read(pair, count)
        confusion = mask_confusion(found, truth, count)
        if not confusion.any():
            continue
        total += confusion
        each = boundary_f_score(found, truth, count)
        summed, shown = summed + each.nan_to_num(), shown + ~each.isnan()
        images.append((pair.name, float(label_iou(confusion).nanmean())))
    if not images:
        raise AttnBridgeError(
            f"{pairs[0].truth}: every pixel of it and of the other true masks is 255 (ignored), so there is nothing to "
            "score; masks hold 0 for the background, 1 for the first class"
        )
    iou, boundary_f = label_iou(total), torch.cat([torch.full((1,), torch.nan), summed / shown])
    values = [v for v in range(count + 1) if classes is not None or not iou[v].isnan()]
    return MaskSetScores(
        tuple((BACKGROUND, *(classes or map(str, range(1, count + 1))))[v] for v in values),
        tuple(values),
        total[values][:, [*values, count + 1]],
        _known(iou[values]),
        _known(boundary_f[values]),
        tuple(sorted(images, key=lambda image: image[1])),
    )


def _read(pair: MaskPair, largest: int) -> tuple[Tensor, Tensor]:
    """Predicted and true mask, long ``(H, W)``."""
    found, truth = load_mask(pair.found), load_mask(pair.truth)
    if found.size != truth.size:
        sizes = [f"{mask.width}x{mask.height}" for mask in (found, truth)]
        raise AttnBridgeError(
            f"{pair.found}: is {sizes[0]} pixels, but its true mask {pair.truth} is {sizes[1]}; masks are scored at "
            "each image's own size: enlarge the prediction before its labels are chosen, not the labels"
        )
    for path, mask in ((pair.found, found), (pair.truth, truth)):
        held_values(path, mask, largest)
    ours, theirs = (torch.from_numpy(np.array(mask)).long() for mask in (found, truth))
    return ours, theirs


def _known(values: Tensor) -> tuple[float | None, ...]:
    return tuple(None if value.isnan() else float(value) for value in values)


def print_scores(scores: MaskSetScores, say: Callable[[str], None] = print) -> None:
    """A line for each label, percent, and one for the set."""
    width = max(20, *map(len, scores.names))
    for name, iou, boundary, pixels in zip(scores.names, scores.iou, scores.boundary_f, scores.pixels, strict=True):
        say(f"{name:<{width}} IoU {_percent(iou)}  boundary F {_percent(boundary)}  {pixels:>13,} pixels")
    say(
        f"mIoU {100 * scores.miou:.1f}, boundary F {_percent(scores.mean_boundary_f).strip()}, pixel accuracy "
        f"{100 * scores.pixel_accuracy:.1f}, {len(scores.images)} images"
    )
    if scores.unlabelled:
        say(f"{100 * scores.unlabelled:.2g}% of the pixels have no predicted label (255), which counts as wrong")


def _percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"


def write_mask_scores(
    pairs: Sequence[MaskPair], out: Path, classes: Sequence[str] | None = None, **made_of: str
) -> MaskSetScores:
    """Score a set; writes ``scores.json``, ``scores.csv``, ``confusion.png`` and, of the images with the lowest IoU,
    ``worst.png``.

    Args:
        pairs: see :func:`score_masks`.
        out: folder to write.
        classes: names of the values from 1 on.
        made_of: what else the record is to name.

    Raises:
        AttnBridgeError: see :func:`score_masks`; for files of the user's in the folder. Nothing is written then.
    """
    from attnbridge.evaluation.confusion import confusion_figure  # needs the extra `train`

    places = [out / name for name in (RECORD, TABLE, MATRIX, WORST)]
    with owned(out, RECORD) as own:
        own.check(places)
        own.check_unchanged(places)
        scores = score_masks(pairs, classes)
        write_json(out / RECORD, {**_as_json(scores), **made_of, "protocol": PROTOCOL, **run_record()})
        with own.writing(out / TABLE) as partial:
            write_rows(partial, _rows(scores))
        with own.writing(out / MATRIX) as partial:
            confusion_figure(scores.confusion, scores.names).savefig(partial, dpi=110, format="png")
        with own.writing(out / WORST) as partial:
            _worst_sheet(pairs, scores).save(partial, "PNG")
    return scores


def _as_json(scores: MaskSetScores) -> dict[str, Any]:
    return {
        "miou": scores.miou,
        "boundary_f": scores.mean_boundary_f,
        "pixel_accuracy": scores.pixel_accuracy,
        "unlabelled": scores.unlabelled,
        "images": len(scores.images),
        "labels": [
            {"name": name, "value": value, "iou": iou, "boundary_f": boundary, "pixels": pixels}
            for name, value, iou, boundary, pixels in zip(
                scores.names, scores.values, scores.iou, scores.boundary_f, scores.pixels, strict=True
            )
        ],
        "confusion": scores.confusion.tolist(),
        "lowest": [{"name": name, "iou": iou} for name, iou in scores.images[:SHOWN]],
    }


def _rows(scores: MaskSetScores) -> list[list[Any]]:
    """Of ``scores.csv``; what is not known is empty."""
    lines = zip(scores.names, scores.values, scores.iou, scores.boundary_f, scores.pixels, strict=True)
    return [
        ["class", "value", "iou", "boundary_f", "pixels"],
        *([name, value, _cell(iou), _cell(boundary), pixels] for name, value, iou, boundary, pixels in lines),
    ]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _worst_sheet(pairs: Sequence[MaskPair], scores: MaskSetScores) -> Image.Image:
    """The images with the lowest IoU, true and predicted mask side by side, two in a row."""
    by_name, cells = {pair.name: pair for pair in pairs}, []
    for name, iou in scores.images[:SHOWN]:
        pair = by_name[name]
        words = f"{100 * iou:.1f}  {name.encode('ascii', 'replace').decode()[-30:]}"
        truth, found = (_small(load_mask(path), max(scores.values)) for path in (pair.truth, pair.found))
        cells += [caption(truth, words), found]
    rows = [cells[i : i + 4] for i in range(0, len(cells), 4)]
    return sheet(rows, ["truth, IoU", "prediction"] * (len(rows[0]) // 2), CELL)


def _small(mask: Image.Image, count: int) -> np.ndarray[Any, Any]:
    """In colour, as wide as a cell."""
    high = max(1, min(2 * CELL, round(CELL * mask.height / mask.width)))
    return colour_mask(np.asarray(mask.resize((CELL, high), Image.Resampling.NEAREST)), count)
