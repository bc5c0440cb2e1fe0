"""Segmentations of pictures without masks, as VOC's test server wants them."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from attnbridge.attention.classifiers import Classifier
from attnbridge.data.cache import make_folder
from attnbridge.data.palette import palette_png
from attnbridge.data.pictures import load_picture
from attnbridge.data.voc import VOC_CLASSES, find_picture, list_names
from attnbridge.errors import AttnBridgeError, unknown
from attnbridge.evaluation.explain_pictures import Look, Settings
from attnbridge.segmentation.combine import combine_maps, enlarge_maps

COMPETITION = "comp6"
"""Segmentation with any training data but the test pictures; comp5 is VOC's own training data alone."""


def write_submission(
    model: Classifier, kit: Path, names: str, out: Path, threshold: float, score_threshold: float = 0.5
) -> Path:
    """Predicted classes' maps as palette PNGs of the pictures' own size, and ``results.tgz`` to upload.

    The files are ``results/VOC2012/Segmentation/comp6_test_cls/ID.png`` (``VOC2012`` is the kit's name), value k the
    k-th of VOC's classes; see :func:`~attnbridge.segmentation.combine.combine_maps`. Nothing is there until all is.

    Args:
        model: knows some or all of VOC's classes.
        kit: the development kit's ``VOC2012``, with the list and the pictures.
        names: of the list, ``test``.
        out: a folder that holds no ``results`` yet.
        threshold: background threshold, relative to each map's maximum.
        score_threshold: probability from which on a class is in a picture.

    Returns:
        The archive.

    Raises:
        AttnBridgeError: for a class that VOC does not have, a missing list or picture, results that are there.
    """
    for name in model.classes:
        if name not in VOC_CLASSES:
            raise unknown("class of the run for VOC's test server:", name, VOC_CLASSES)
    if (out / "results").exists() or (out / "results.tgz").exists():
        raise AttnBridgeError(f"{out}: holds results already; name another folder with --out")
    values = torch.tensor([0] + [VOC_CLASSES.index(name) + 1 for name in model.classes], dtype=torch.uint8)
    pictures = {name: find_picture(kit, name) for name in list_names(kit, names)}
    part = Path("results") / kit.absolute().name / "Segmentation" / f"{COMPETITION}_{names}_cls"
    with tempfile.TemporaryDirectory(dir=make_folder(out), prefix=".partial") as folder:
        masks = make_folder(Path(folder) / part)
        for name, path in track(pictures.items(), "segmenting", transient=True):
            labels = segment(model, path, threshold, score_threshold)
            palette_png(np.asarray(values[labels.long()])).save(masks / f"{name}.png")
        with tarfile.open(Path(folder) / "results.tgz", "w:gz") as archive:
            archive.add(Path(folder) / "results", "results")
        (Path(folder) / "results").replace(out / "results")
        (Path(folder) / "results.tgz").replace(out / "results.tgz")
    return out / "results.tgz"


def segment(model: Classifier, path: Path, threshold: float, score_threshold: float) -> Tensor:
    """Label mask of one picture at its own size, uint8 ``(H, W)``, 0 background, class index + 1."""
    picture = load_picture(path)
    look = Look(model, lambda scores: scores > score_threshold, Settings(all_maps=True))
    scores, present, maps = look.look([picture])
    large = enlarge_maps(maps, (picture.height, picture.width))
    return combine_maps(large, scores, present, torch.tensor([threshold]))[0, 0]
