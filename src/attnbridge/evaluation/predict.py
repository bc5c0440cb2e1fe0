"""A trained method on a folder of pictures: maps of all classes, and label scores as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from attnbridge.attention.classifiers import Classifier
from attnbridge.attention.device import pick_device
from attnbridge.data.cache import sha256
from attnbridge.data.folders import find_pictures
from attnbridge.data.own_files import OwnFiles
from attnbridge.data.transforms import Shape
from attnbridge.evaluation.explain_pictures import Settings, explain_pictures


def as_classifier(method: Any, run: Path, shape: Shape, device: str | None = None) -> Classifier:
    """The network of a trained :class:`~attnbridge.methods.base.Method`, to look into.

    Args:
        method: the trained method.
        run: the run's folder.
        shape: in which it was given its pictures.
        device: where it is to be, see :func:`~attnbridge.attention.device.pick_device`.
    """
    mean, std = (tuple(v.flatten().tolist()) for v in (method.mean, method.std))
    network = method.network.to(pick_device(device))
    checkpoint = run / "checkpoints" / "last.ckpt"
    return Classifier(
        str(run), network.eval(), method.classes, method.image_size, mean, std, method.layer, method.activation,
        sha256(checkpoint) if checkpoint.is_file() else None, shape,
    )  # fmt: skip


def predict_pictures(model: Classifier, pictures: str, out: Path, threshold: float) -> list[str]:
    """Write the files of :func:`~attnbridge.evaluation.explain_pictures.explain_pictures` and ``scores.csv``.

    Args:
        model: see :func:`as_classifier`.
        pictures: a picture, a folder or a glob.
        out: folder to write.
        threshold: probability from which on a class gets an overlay; the most probable class always does.

    Returns:
        One message for each picture that could not be read.
    """

    def choose(scores: Tensor) -> Tensor:
        return (scores > threshold) | (scores == scores.amax(1, keepdim=True))

    found = find_pictures([pictures], out)
    settings = Settings(classes=f"probability above {threshold}", all_maps=True)
    own, table = OwnFiles(out), out / "scores.csv"
    own.check([table])
    own.check_unchanged([table])
    bad = explain_pictures(model, found, out, choose, settings)
    with own.writing(table) as partial, partial.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["id", *model.classes])
        for name in found:
            if (out / f"{name}.npz").is_file():
                rows.writerow([name, *(f"{s:.4f}" for s in np.load(out / f"{name}.npz")["scores"])])
    return bad
