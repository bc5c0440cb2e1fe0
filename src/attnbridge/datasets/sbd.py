"""SBD's masks, brought into VOC 2012's kit as its list ``trainaug``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from attnbridge.data.files import inner_path, make_folder
from attnbridge.data.images import image_size_of
from attnbridge.data.out_folders import owned
from attnbridge.data.palette import palette_png
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.text import read_lines
from attnbridge.data.voc import VOC_CLASSES, list_names
from attnbridge.datasets.layouts import Mask, console, link
from attnbridge.datasets.matlab import load_variable
from attnbridge.datasets.voc import fetch, find_kit
from attnbridge.errors import AttnBridgeError


def sbd(root: Path, split: str, out: Path | None) -> Path:
    """Write ``SegmentationClassAug/ID.png`` and ``ImageSets/Segmentation/trainaug.txt`` into VOC 2012's kit.

    ``trainaug`` is VOC's ``train`` and SBD's ``train`` and ``val``, less VOC's ``val``: 10,582 images, the usual
    list, when both sets are whole. VOC's own masks stay for VOC's own images. Masks that are newer than their
    ``.mat`` are not made again. The list comes last.

    Layout: ``img/*.jpg``, ``cls/*.mat`` (``GTcls.Segmentation``), ``train.txt`` and ``val.txt``, in ``ROOT``,
    ``ROOT/dataset`` or ``ROOT/benchmark_RELEASE/dataset``, as in torchvision's ``SBDataset``.

    Args:
        root: SBD's folder.
        split: ``trainaug``.
        out: VOC 2012's kit.

    Returns:
        The kit's folder.

    Raises:
        AttnBridgeError: for a missing list, mask or image, a file that is no mask, or another ``trainaug``.
    """
    if out is None:
        raise AttnBridgeError("SBD is brought into VOC 2012's kit: name its folder with --out")
    kit = find_kit(out, "2012")
    source = _find(root)
    first = list_names(kit, "train")
    added = sorted({name for part in ("train", "val") for name in _names(source / f"{part}.txt")}
                   - set(first) - set(list_names(kit, "val")))  # fmt: skip
    wanted = sorted({*first, *added})
    listed = kit / "ImageSets" / "Segmentation" / f"{split}.txt"
    if listed.is_file() and sorted(list_names(kit, split)) != wanted:
        raise AttnBridgeError(f"{listed}: is there already and names other images; move it away to have it made")
    for folder, suffix in (("cls", ".mat"), ("img", ".jpg")):
        lost = [name for name in added if not (source / folder / (name + suffix)).is_file()]
        if lost:
            raise AttnBridgeError(f"{source / folder / lost[0]}{suffix}: no such file, but a list names it; "
                                  f"{len(lost)} of {len(added)} are missing")  # fmt: skip
    with owned(kit) as own:
        masks = [_mask_path(kit, name) for name in added if not _is_current(_mask_path(kit, name), _mat(source, name))]
        own.check(masks)
        own.check_unchanged(masks)
        for name in track(added, "writing masks", transient=True, console=console):
            _bring(name, source, own)
        if not listed.is_file():
            with own.writing(listed) as partial:
                partial.write_text("".join(f"{name}\n" for name in wanted))
    return kit


def _mask_path(kit: Path, name: str) -> Path:
    return kit / "SegmentationClassAug" / f"{name}.png"


def _mat(source: Path, name: str) -> Path:
    return source / "cls" / f"{name}.mat"


def _is_current(mask: Path, mat: Path) -> bool:
    return mask.is_file() and mask.stat().st_mtime >= mat.stat().st_mtime


def _find(root: Path) -> Path:
    for folder in (root, root / "dataset", root / "benchmark_RELEASE" / "dataset"):
        if (folder / "cls").is_dir() and (folder / "img").is_dir():
            return folder
    raise AttnBridgeError(f"{root}: holds no SBD; expected cls and img there or in benchmark_RELEASE/dataset")


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise AttnBridgeError(f"{path}: no such file; expected one image's name a line")
    return [inner_path(name, f"{path}, line {n}") for n, line in read_lines(path) for name in line.split()]


def _bring(name: str, source: Path, own: OwnFiles) -> None:
    """One mask, and the image if the kit lacks it."""
    image, mat = own.folder / "JPEGImages" / f"{name}.jpg", _mat(source, name)
    if not image.is_file():
        link(source / "img" / f"{name}.jpg", image, own)
    to = _mask_path(own.folder, name)
    if _is_current(to, mat):
        return
    mask = read_mask(mat)
    size = image_size_of(image)
    if size != mask.shape[::-1]:
        raise AttnBridgeError(
            f"{mat}: is {mask.shape[1]}x{mask.shape[0]} pixels, but its image {image} {size[0]}x{size[1]}"
        )
    with own.writing(to) as partial:
        palette_png(mask).save(partial, "PNG")


def read_mask(path: Path) -> Mask:
    """The label mask of one of SBD's ``cls/*.mat``: 0 background, k the k-th of VOC's classes.

    Raises:
        AttnBridgeError: if the file is broken, or holds something else.
    """
    try:
        mask: np.ndarray[Any, Any] = load_variable(path, "GTcls")[0, 0]["Segmentation"]
    except (IndexError, ValueError, TypeError) as error:  # it is no such structure
        raise AttnBridgeError(f"{path}: holds no GTcls.Segmentation ({error}); unpack SBD again") from None
    values = np.unique(mask)
    if mask.ndim != 2 or not np.isin(values, [*range(len(VOC_CLASSES) + 1), 255]).all():
        raise AttnBridgeError(
            f"{path}: holds the values {values.tolist()[:30]}; expected 0 to {len(VOC_CLASSES)} or 255"
        )
    return mask.astype(np.uint8)


def download_sbd(root: Path, split: str) -> None:
    """Fetch SBD with torchvision, which checks its MD5, unless it is there.

    Raises:
        AttnBridgeError: if it cannot be fetched.
    """
    try:
        source = _find(root)
        if all((source / f"{part}.txt").is_file() for part in ("train", "val")):
            return
    except AttnBridgeError:
        pass
    from torchvision import datasets

    make_folder(root)
    fetch("SBD", lambda: datasets.SBDataset(str(root), "train", "segmentation", download=True))
