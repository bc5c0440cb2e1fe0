"""The images of an audit and their labels, from whatever a user has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from attnbridge.data.files import given_path
from attnbridge.data.folders import find_images
from attnbridge.datasets.coco import coco
from attnbridge.datasets.csv_table import read_label_table, table
from attnbridge.datasets.layouts import MultiLabelImage
from attnbridge.errors import AttnBridgeError, shown, warn_once
from attnbridge.models.classifiers import find_classes

Images = str | Path | Sequence[str | Path]
Labels = str | Path | Mapping[str, str | Sequence[str]]
INSTANCES = "instances_"
"""How COCO calls its files of objects."""


@dataclass(frozen=True)
class Listed:
    """Images and what they show.

    Attributes:
        images: by their id, the path below their common folder.
        truth: indices of the classes of each image; without those whose labels are not known.
    """

    images: dict[str, Path]
    truth: dict[str, tuple[int, ...]]

    def digest(self) -> str:
        """A checksum of the ids, the labels and the files' sizes and times."""
        found = hashlib.sha256()
        for name, path in sorted(self.images.items()):
            state = path.stat() if path.is_file() else None
            file = [state.st_size, state.st_mtime_ns] if state else "missing"
            found.update(json.dumps([name, self.truth.get(name), file]).encode())
        return found.hexdigest()[:16]

    @property
    def root(self) -> Path:
        """The images' common folder."""
        name, path = next(iter(self.images.items()))
        return path.absolute().parents[len(PurePosixPath(name).parts) - 1]


def list_audited(images: Images, labels: Labels | None, classes: tuple[str, ...], out: Path | None = None) -> Listed:
    """The images, with their labels as far as these are known.

    Args:
        images: a folder, flat or of class folders; files, folders or globs in a list; a CSV of paths and labels, see
            :func:`~attnbridge.datasets.csv_table.table`; or COCO's ``annotations/instances_SPLIT.json``, whose objects
            give the labels alone.
        labels: a CSV, or labels by id; default: the class folders, where a folder's name is a class of the network.
        classes: of the network, by name.
        out: a folder whose images are passed over.

    Raises:
        AttnBridgeError: if there are no images, or a label is no class of the network.
    """
    if isinstance(images, str | Path) and Path(images).suffix.lower() in (".csv", ".json"):
        listed = _of_file(given_path(images, "images"), classes)
    else:
        if not isinstance(images, str | Path | Sequence):
            raise AttnBridgeError(f"images must be a folder, a file, or a list of these, not {shown(images)}")
        wanted = [images] if isinstance(images, str | Path) else list(images)
        if not wanted or not all(isinstance(each, str | Path) for each in wanted):
            raise AttnBridgeError(f"images must name at least one image or folder, not {shown(images)}")
        found = find_images([str(each) for each in wanted], out)
        listed = Listed(found, {} if labels is not None else _of_folders(found, classes))
    return listed if labels is None else Listed(listed.images, _given(labels, listed.images, classes))


def _of_file(path: Path, classes: tuple[str, ...]) -> Listed:
    if not path.is_file():
        raise AttnBridgeError(f"{path}: no such file; expected a table of images and labels, or COCO's objects")
    root: Path = path.parent
    if path.suffix.lower() == ".csv":
        known, rows = table(root, path.stem, None)
    elif path.name.startswith(INSTANCES) and path.parent.name == "annotations":
        root = path.parent.parent
        known, rows = coco(root, path.stem.removeprefix(INSTANCES), None)
    else:
        raise AttnBridgeError(f"{path}: expected COCO's objects, ROOT/annotations/{INSTANCES}SPLIT.json")
    labelled = {_id(row, root): row for row in rows}
    if not labelled:
        raise AttnBridgeError(f"{path}: names no image")
    index = {name: _index(name, classes, str(path)) for name in known}
    truth = {name: tuple(sorted(index[label] for label in row.labels)) for name, row in labelled.items()}
    return Listed({name: row.image for name, row in labelled.items()}, {k: v for k, v in truth.items() if v})


def _id(row: MultiLabelImage, root: Path) -> str:
    return row.image.relative_to(root).as_posix()


def _index(name: str, classes: tuple[str, ...], where: str) -> int:
    try:
        return find_classes([name], classes)[0]
    except AttnBridgeError as error:
        raise AttnBridgeError(
            f"{where}: {error}; labels must be classes of the network: rename them, or name its classes with classes="
        ) from None


def _of_folders(images: Mapping[str, Path], classes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Labels by the images' folders; none where no folder is called as a class."""
    names = {PurePosixPath(name).parent.name for name in images} - {""}
    words = {word.strip().lower() for each in classes for word in (each, *each.split(","))}
    if not any(name.lower() in words for name in names):
        return {}
    index = {name: _index(name, classes, f"the class folder {name!r}") for name in sorted(names)}
    parents = {name: PurePosixPath(name).parent.name for name in images}
    return {name: (index[parent],) for name, parent in parents.items() if parent}


def _given(labels: Labels, images: Mapping[str, Path], classes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    if isinstance(labels, Mapping):
        rows = [(name, [each] if isinstance(each, str) else list(each)) for name, each in labels.items()]
        where = "labels"
    else:
        path = given_path(labels, "labels")
        _, read = read_label_table(path, path.parent / "classes.txt")
        rows, where = [(name, sorted(found)) for _, name, found in read], str(path)
    ids = ids_by_name(images)
    truth, strange = dict[str, tuple[int, ...]](), list[str]()
    for name, found in rows:
        matching = ids.get(PurePosixPath(name).as_posix(), [])
        if len(matching) > 1:
            raise AttnBridgeError(f"{where}: {name!r} may be {matching[0]} or {matching[1]}; write the path")
        if not matching:
            strange.append(name)
        elif found:
            truth[matching[0]] = tuple(sorted({_index(label, classes, f"{where}, {name}") for label in found}))
    if not truth:
        raise AttnBridgeError(f"{where}: labels none of the {len(images)} images, as {next(iter(images))}")
    if strange:
        warn_once(f"{where}: labels {strange[0]!r}, which is none of the images ({len(strange)} such rows)")
    return truth


def ids_by_name(images: Mapping[str, Path]) -> dict[str, list[str]]:
    """Ids of images by all names that a table may give them: with folders and suffix, or without.

    >>> ids_by_name({"a/1.jpg": Path("a/1.jpg")})["1"]
    ['a/1.jpg']
    """
    found: dict[str, list[str]] = {}
    for name in images:
        path = PurePosixPath(name)
        for each in dict.fromkeys([name, path.with_suffix("").as_posix(), path.name, path.stem]):
            found.setdefault(each, []).append(name)
    return {name: [name] if name in images else ids for name, ids in found.items()}
