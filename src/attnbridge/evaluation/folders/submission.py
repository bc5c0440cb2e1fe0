"""Segmentations of images without masks, as VOC's test server wants them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from rich.progress import track

from attnbridge.data.files import make_folder, partial_folder
from attnbridge.data.out_folders import owned
from attnbridge.data.palette import palette_png
from attnbridge.data.voc import VOC_CLASSES, find_images_of
from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.evaluation.folders.segment import Segmenter, refine_mask

COMPETITION = "comp6"
"""Segmentation with any training data but the test images; comp5 is VOC's own training data alone."""
RESULTS = "results.tgz"


def write_submission(segmenter: Segmenter, kit: Path, names: str, out: Path) -> Path:
    """Masks as palette PNGs of the images' own size, and ``results.tgz`` to upload.

    The files are ``results/VOC2012/Segmentation/comp6_test_cls/ID.png`` (``VOC2012`` is the kit's name), value k the
    k-th of VOC's classes. Nothing is there until all is.

    Args:
        segmenter: knows some or all of VOC's classes.
        kit: the development kit's ``VOC2012``, with the list and the images.
        names: of the list, ``test``.
        out: a folder that holds no results yet.

    Returns:
        The archive.

    Raises:
        AttnBridgeError: for a class that VOC does not have, a missing list or image, results that are there.
    """
    for name in segmenter.classes:
        if name not in VOC_CLASSES:
            raise unknown_name("class of the run for VOC's test server:", name, VOC_CLASSES)
    values = np.array([0] + [VOC_CLASSES.index(name) + 1 for name in segmenter.classes], np.uint8)
    images = find_images_of(kit, names)
    part = Path("results") / kit.absolute().name / "Segmentation" / f"{COMPETITION}_{names}_cls"
    masks = {name: out / part / f"{name}.png" for name in images}
    packed = out / RESULTS
    with owned(out, RESULTS) as own:
        if packed.exists():
            raise AttnBridgeError(f"{packed}: there are results already; name another folder with --out")
        own.check(masks.values())
        own.check_unchanged(masks.values())
        with partial_folder(out) as folder:
            for name, path in track(images.items(), "segmenting", transient=True):
                answer = segmenter.answer(path, None)
                labels = answer if answer.ndim == 2 else refine_mask(path, answer, segmenter.crf, segmenter.device)
                palette_png(values[labels]).save(make_folder((folder / name).parent) / f"{Path(name).name}.png")
            for name, path in masks.items():
                make_folder(path.parent)
                own.put(folder / f"{name}.png", path)
        with own.writing(packed) as partial, tarfile.open(partial, "w:gz") as archive:
            for path in masks.values():
                archive.add(path, path.relative_to(out))
    return packed
