"""VOC's own development kits: found, checked and fetched; they are read where they lie."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import Any

from attnbridge.data.files import make_folder
from attnbridge.data.voc import VOC_CLASSES, is_voc, list_names, scan_voc
from attnbridge.errors import AttnBridgeError


def voc2007(root: Path, split: str, out: Path | None) -> Path:
    """The kit of 2007 below a folder; see :func:`voc2012`."""
    return _in_place(root, "2007", split, out)


def voc2012(root: Path, split: str, out: Path | None) -> Path:
    """The kit of 2012 below a folder: ``ROOT``, ``ROOT/VOC2012`` or ``ROOT/VOCdevkit/VOC2012``. Nothing is written.

    Raises:
        AttnBridgeError: if there is no kit, it lacks the list, or ``out`` is given.
    """
    return _in_place(root, "2012", split, out)


def _in_place(root: Path, year: str, split: str, out: Path | None) -> Path:
    if out is not None:
        raise AttnBridgeError(f"VOC {year} is read where it lies, in the layout that training reads: leave --out out")
    kit = find_kit(root, year)
    list_names(kit, split)
    return kit


def find_kit(root: Path, year: str) -> Path:
    """The folder of a kit, which holds ``JPEGImages`` and ``ImageSets``.

    Raises:
        AttnBridgeError: if there is none.
    """
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if is_voc(folder):
            return folder
    raise AttnBridgeError(
        f"{root}: holds no kit of VOC {year}; expected JPEGImages and ImageSets there, in VOC{year} or in "
        f"VOCdevkit/VOC{year}"
    )


def download_voc2007(root: Path, split: str) -> None:
    """Fetch VOC 2007's kit into ``ROOT/VOCdevkit/VOC2007``; see :func:`download_voc2012`."""
    _download(root, "2007", split)


def download_voc2012(root: Path, split: str) -> None:
    """Fetch VOC 2012's kit with torchvision, which checks its MD5, unless the split is there with all its files.

    Raises:
        AttnBridgeError: if it cannot be fetched.
    """
    _download(root, "2012", split)


def _download(root: Path, year: str, split: str) -> None:
    try:
        scan_voc(find_kit(root, year), VOC_CLASSES, split, masks=True)
    except AttnBridgeError:
        from torchvision import datasets

        make_folder(root)
        fetch(f"VOC {year}", lambda: datasets.VOCSegmentation(str(root), year, split, download=True))


def fetch(what: str, download: Callable[[], Any]) -> None:
    """Call one of torchvision's downloads.

    Raises:
        AttnBridgeError: if it fails.
    """
    try:
        download()
    except (OSError, RuntimeError, HTTPException, TarError, EOFError) as error:
        raise AttnBridgeError(f"{what} could not be fetched ({error}); fetch it by hand, or try again") from None
