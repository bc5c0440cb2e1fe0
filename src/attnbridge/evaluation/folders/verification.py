"""Whether two images show one person: cosine similarity, accuracy over folds, ROC; LFW's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_roc
from torchvision.transforms.v2 import functional as TF

from attnbridge.attention.observe import capture_head_input
from attnbridge.data.face_pairs import Pair
from attnbridge.data.images import load_image
from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.transforms import eval_transform
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import caption, sheet
from attnbridge.evaluation.finite import check_finite
from attnbridge.evaluation.record import run_record, write_json
from attnbridge.models.classifiers import Classifier

RECORD, FIGURE, SHEET, DRAWN = "verification.json", "roc.png", "mistakes.jpg", "pairs.txt"
RATES = (0.1, 0.01, 0.001)
SIDE = 160
"""Width of an image on a sheet, pixels."""


class Verification(TypedDict):
    """Scores of pairs, in [0, 1].

    Attributes:
        accuracy: mean over the folds, each at the threshold that is best on the others.
        deviation: standard deviation of the folds.
        folds: accuracy of each.
        thresholds: cosine from which on a pair of each fold counted as one person.
        auc: area under the ROC curve.
        tar: share of same pairs accepted where so many others are, by that share.
        pairs: how many there are.
    """

    accuracy: float
    deviation: float
    folds: list[float]
    thresholds: list[float]
    auc: float
    tar: dict[str, float]
    pairs: int


def embed(model: Classifier, files: Sequence[Path], batch: int = 32) -> Tensor:
    """What a network's classifier reads of images, to unit length, ``(n, D)``.

    Args:
        model: a network.
        files: images; one that cannot be read raises AttnBridgeError.
        batch: images at once.
    """
    transform = eval_transform(model.size, model.shape)
    device = next(model.network.parameters()).device
    found = []
    console = Console(stderr=True)
    for begin in track(range(0, len(files), batch), "embedding images", transient=True, console=console):
        loaded = [transform(TF.pil_to_tensor(load_image(path))) for path in files[begin : begin + batch]]
        images = TF.to_dtype(torch.stack(loaded).to(device), torch.float32, scale=True)
        with torch.no_grad(), capture_head_input(model.network) as read:
            model.network(model.normalise(images))
        check_finite(read[0], f"the features of {model.name}")
        found.append(torch.nn.functional.normalize(read[0]).cpu())
    return torch.cat(found)


def similarities(model: Classifier, pairs: Sequence[Pair]) -> Tensor:
    """Cosine similarity of each pair, ``(P,)``; each image goes through the network once."""
    places = {path: n for n, path in enumerate(dict.fromkeys(p for pair in pairs for p in (pair.first, pair.second)))}
    embedded = embed(model, list(places))
    first = embedded[[places[pair.first] for pair in pairs]]
    return (first * embedded[[places[pair.second] for pair in pairs]]).sum(1)


def verify(similarity: Tensor, same: Tensor, folds: Tensor) -> Verification:
    """Accuracy and ROC of pairs: of each fold at the threshold that is best on the other folds.

    (Huang et al., Labeled Faces in the Wild, 2007, image-restricted protocol.)

    Args:
        similarity: ``(P,)``.
        same: bool ``(P,)``.
        folds: long ``(P,)``.

    Raises:
        AttnBridgeError: for fewer than two folds, or pairs of one kind only.

    >>> same, folds = torch.tensor([True, False, True, False]), torch.tensor([0, 0, 1, 1])
    >>> scores = verify(torch.tensor([0.9, 0.1, 0.8, 0.3]), same, folds)
    >>> scores["accuracy"], scores["auc"]
    (1.0, 1.0)
    """
    names = sorted(set(folds.tolist()))
    if len(names) < 2 or same.all() or not same.any():
        raise AttnBridgeError("verification needs pairs of one person and of two, in two folds at least")
    accuracies, thresholds = [], []
    for name in names:
        own = folds == name
        threshold = best_threshold(similarity[~own], same[~own])
        accuracies.append(float(((similarity[own] >= threshold) == same[own]).double().mean()))
        thresholds.append(threshold)
    false, true, _ = binary_roc(similarity, same.long())
    each = torch.tensor(accuracies, dtype=torch.float64)
    return {
        "accuracy": float(each.mean()),
        "deviation": float(each.std()),
        "folds": accuracies,
        "thresholds": thresholds,
        "auc": float(binary_auroc(similarity, same.long())),
        "tar": {str(rate): float(true[false <= rate].max()) for rate in RATES},
        "pairs": len(same),
    }


def best_threshold(similarity: Tensor, same: Tensor) -> float:
    """The similarity from which on pairs count as the same person, with the fewest errors; between two pairs.

    >>> round(best_threshold(torch.tensor([0.9, 0.1, 0.7]), torch.tensor([True, False, True])), 3)
    0.4
    """
    ordered, order = similarity.double().sort()
    flags = same[order].long()
    # rejecting the first k: right are the different ones among them and the same ones after them
    rejected = torch.nn.functional.pad((1 - 2 * flags).cumsum(0), (1, 0))
    right = rejected + flags.sum()
    tied = torch.nn.functional.pad(ordered[1:] == ordered[:-1], (1, 1), value=False)  # no threshold parts equals
    k = int(right.masked_fill(tied, -1).argmax())
    low = ordered[k - 1] if k > 0 else ordered[0] - 2
    high = ordered[k] if k < len(ordered) else ordered[-1] + 2
    return float((low + high) / 2)


def roc_figure(similarity: Tensor, same: Tensor, scores: Verification) -> Figure:
    """The ROC curve, the share of others that are accepted in logarithms."""
    false, true, _ = binary_roc(similarity, same.long())
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(false.clamp_min(1e-4), true)
    axes.set(xscale="log", xlim=(1e-4, 1), ylim=(0, 1), xlabel="false accept rate", ylabel="true accept rate")
    axes.set_title(f"accuracy {100 * scores['accuracy']:.2f}%, AUC {100 * scores['auc']:.2f}%", fontsize=10)
    axes.grid(alpha=0.3)
    return figure


def mistakes_sheet(
    pairs: Sequence[Pair], similarity: Tensor, thresholds: Sequence[float], count: int = 8
) -> Image.Image:
    """The pairs that are furthest on the wrong side of their fold's threshold, a pair a row.

    Args:
        pairs: all of them.
        similarity: of each.
        thresholds: of each fold.
        count: rows.
    """
    margins = [
        (float(s) - thresholds[pair.fold]) * (1 if pair.same else -1) for s, pair in zip(similarity, pairs, strict=True)
    ]
    rows = []
    for place in sorted(range(len(pairs)), key=margins.__getitem__)[:count]:
        pair = pairs[place]
        words = f"{'one person' if pair.same else 'two persons'}, cosine {similarity[place]:.2f}"
        first, second = (np.asarray(load_image(path)) for path in (pair.first, pair.second))
        rows.append([caption(_fitted(first), words), _fitted(second)])
    return sheet(rows, ["first", "second"], SIDE)


def _fitted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    high = round(SIDE * image.shape[0] / image.shape[1])
    return np.asarray(Image.fromarray(image).resize((SIDE, high), Image.Resampling.BICUBIC))


def write_verification(model: Classifier, pairs: Sequence[Pair], out: Path, listed: Path) -> Verification:
    """Score pairs; writes ``verification.json``, ``roc.png`` and ``mistakes.jpg``.

    Args:
        model: a network.
        pairs: of images.
        out: folder to write.
        listed: the file that names the pairs.
    """
    with owned(out, RECORD) as own:
        check_verification(own)
        similarity = similarities(model, pairs)
        same = torch.tensor([pair.same for pair in pairs])
        scores = verify(similarity, same, torch.tensor([pair.fold for pair in pairs]))
        write_json(out / RECORD, {**scores, "model": model.name, "list": str(listed), **run_record()})
        with own.writing(out / FIGURE) as partial:
            roc_figure(similarity, same, scores).savefig(partial, dpi=120, format="png")
        with own.writing(out / SHEET) as partial:
            mistakes_sheet(pairs, similarity, scores["thresholds"]).save(partial, "JPEG")
    return scores


def check_verification(own: OwnFiles, draws: bool = False) -> None:
    """That what is written may be; ``draws``: the list of pairs too.

    Raises:
        AttnBridgeError: for files of the user's.
    """
    places = [own.folder / name for name in (RECORD, FIGURE, SHEET, *([DRAWN] if draws else []))]
    own.check(places)
    own.check_unchanged(places)
