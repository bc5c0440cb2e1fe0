"""Datasets from plain folders: class folders, and multi-label folders with a ``labels.csv``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

from attnbridge.data.files import given_path, walk_files
from attnbridge.data.images import IMAGE_SUFFIXES, ImageRecord, check_record
from attnbridge.data.labels import image_of, images_by_id, read_labels, warn_of_case
from attnbridge.data.voc import is_voc, kit_classes, list_names, scan_voc
from attnbridge.errors import AttnBridgeError, gathering, shown, unknown_name, warn_once


def list_images(folder: Path) -> list[Path]:
    """All images directly in ``folder``, sorted by name; hidden files are passed over."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def images_below(folder: Path) -> list[Path]:
    """All images below ``folder``, see :func:`~attnbridge.data.files.walk_files`; hidden files and folders are passed
    over."""
    found = [path for path in walk_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def find_images(wanted: Sequence[str], out: Path | None = None) -> dict[str, Path]:
    """Files, folders (with all below them) and globs as images by their id, the path below their common folder.

    Args:
        wanted: what the user names; hidden files and folders inside a folder are passed over. What cannot be read, as
            a link to nothing, is not, so that it is told.
        out: a folder whose images are passed over: that of the results.

    Raises:
        AttnBridgeError: for something that does not exist, or holds no image.
    """
    roots: list[Path] = []
    paths: list[Path] = []
    for text in wanted:
        path = Path(os.path.abspath(text))  # noqa: PTH100 (`absolute` keeps `..`)
        if text and _is(path.is_dir):
            found = images_below(path)
            kept = found if out is None else _outside(found, out)
            if found and not kept:
                raise AttnBridgeError(f"{out}: the images of {text} lie in it; name another folder with --out")
            found = kept
        else:
            matches = [path] if text and _is(path.is_file) else map(Path, sorted(glob(text, recursive=True)))  # noqa: PTH207
            found = [Path(os.path.abspath(p)) for p in matches if not p.is_dir()]  # noqa: PTH100
        if not found:
            what = "holds no images" if text and _is(path.is_dir) else "no such image, folder or glob"
            raise AttnBridgeError(f"{text or repr(text)}: {what}")
        roots += [path] if path.is_dir() else [p.parent for p in found]
        paths += found
    root = next(r for r in (roots[0], *roots[0].parents) if all(other.is_relative_to(r) for other in roots))
    return {path.relative_to(root).as_posix(): path for path in dict.fromkeys(paths)}


def _outside(paths: Sequence[Path], folder: Path) -> list[Path]:
    """The files that do not lie in a folder, by whatever links they are named."""
    real = os.path.realpath(folder)
    inside = {each for each in {p.parent for p in paths} if Path(os.path.realpath(each)).is_relative_to(real)}
    return [path for path in paths if path.parent not in inside]


def _is(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:  # a name that is too long
        return False


def class_names(root: Path) -> list[str]:
    """Names of the class folders in ``root``, sorted; the order fixes the class indices.

    Raises:
        AttnBridgeError: if ``root`` is no folder or holds no sub-folder.
    """
    if not root.is_dir():
        raise AttnBridgeError(f"{root}: no such folder; expected a folder with one sub-folder per class")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise AttnBridgeError(
            f"{root}: holds no class folders; expected {root}/CLASS/IMAGE.jpg, one sub-folder per class"
        )
    return names


def class_splits(root: Path) -> dict[str, Path]:
    """Folders of class folders by what they are for: ``train``, ``test``, and ``val`` where it lies beside a ``test``;
    without one it is the test.

    >>> {name: path.as_posix() for name, path in class_splits(Path("pets")).items()}
    {'train': 'pets/train', 'test': 'pets/test'}
    """
    found = {name: root / name for name in ("train", "test")}
    if (root / "val").is_dir():
        found["val" if found["test"].is_dir() else "test"] = root / "val"
    return found


def scan_class_folders(root: Path, classes: Sequence[str], saliency: Path | None = None) -> list[ImageRecord]:
    """List the images of a single-label dataset: ``root/CLASS/IMAGE``.

    Args:
        root: folder with one sub-folder per class.
        classes: class names in index order; a class may have no folder here.
        saliency: folder with the same tree, ``saliency/CLASS/IMAGE.png``, one map per image.

    Raises:
        AttnBridgeError: for a folder that is no known class, an empty dataset, a missing saliency map.
    """
    index = {name: i for i, name in enumerate(classes)}
    if saliency is not None and not saliency.is_dir():
        raise AttnBridgeError(f"{saliency}: no such folder; expected saliency maps named like the images")
    warn_of_case(classes, root)
    records = []
    for name in class_names(root):
        if name not in index:
            raise unknown_name(f"class folder in {root}:", name, classes, "the other domain does not know it")
        images = list_images(root / name)
        _check_stems(images, saliency is not None)
        for path in images:
            records.append(
                ImageRecord(
                    id=f"{name}/{path.name}",
                    image=path,
                    classes=(index[name],),
                    saliency=_companion(path, saliency / name, "saliency map") if saliency else None,
                )
            )
    if not records:
        raise AttnBridgeError(f"{root}: the class folders hold no images ({', '.join(IMAGE_SUFFIXES)})")
    return records


def _check_stems(images: Sequence[Path], maps: bool) -> None:
    """Two images that differ only in their suffix may be one; they cannot have a map each."""
    seen: dict[str, Path] = {}
    for path in images:
        other = seen.setdefault(path.stem, path)
        if other is path:
            continue
        words = f"{other} and {path.name} differ only in their suffix"
        if maps:
            raise AttnBridgeError(f"{words}, so they would share one saliency map; rename one of them")
        warn_once(f"{words}; are they meant to be two images?")


def scan_multi_label(
    root: Path, classes: Sequence[str], masks: bool = False, faults: list[str] | None = None
) -> list[ImageRecord]:
    """List the images of a multi-label dataset.

    The folder holds ``images/`` (or ``JPEGImages/``), ``labels.csv`` with the header ``id,CLASS,CLASS,...``
    and a row of 0 and 1 for each image (``id`` is the file's name without suffix), and, for splits that
    are scored, ``masks/`` (or ``SegmentationClass/``) with one PNG per image.

    Args:
        root: the folder of one split.
        classes: class names in index order; the CSV may hold them in another order, but must hold all.
        masks: list the masks too. Leave it off for a split that a method trains on.
        faults: what is wrong with single images is added here, and they are left out, or their masks; ``None``: the
            first fault is raised.

    Raises:
        AttnBridgeError: for a missing or malformed ``labels.csv``, an unknown or missing class, an image
            or mask that is not there, an empty split.
    """
    table = root / "labels.csv"
    labels = read_labels(table)
    folder = _one_of(root, "images", "JPEGImages")
    mask_folder = _one_of(root, "masks", "SegmentationClass") if masks else None
    images, columns = images_by_id(folder), _columns(labels.classes, classes, table)
    records = []
    for name, found in labels.present.items():
        present = tuple(sorted(columns[k] for k in found))
        with gathering(faults):
            image = image_of(folder, name, images, f"{table}, line {labels.lines[name]}")
            record = ImageRecord(f"{folder.name}/{image.name}", image, present)
            with gathering(faults):
                record = replace(record, mask=_companion(image, mask_folder, "mask") if mask_folder else None)
            records.append(record)
    if not labels.present:
        raise AttnBridgeError(f"{table}: the split is empty; expected at least one row after the header")
    without = [names[0] for name, names in images.items() if name not in labels.present]
    if without:
        warn_once(
            f"{folder / without[0]}: has no row in {table}, so it is left out ({len(without)} such images in all)"
        )
    return records


def _one_of(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise AttnBridgeError(f"{root / names[0]}: no such folder (nor {names[1]}/)")


def _companion(image: Path, folder: Path, what: str) -> Path:
    """The file in ``folder`` that belongs to ``image``: the same stem, PNG."""
    path = folder / f"{image.stem}.png"
    if not path.is_file():
        others = [p.name for p in list_images(folder) if p.stem == image.stem] if folder.is_dir() else []
        hint = f"; there is {others[0]}, but only a PNG keeps each value as it is" if others else ""
        raise AttnBridgeError(f"{path}: no such file; expected the {what} of {image}{hint}")
    return path


def _columns(names: Sequence[str], classes: Sequence[str], table: Path) -> list[int]:
    """Class index of each column after ``id``."""
    for name in names:
        if name not in classes:
            raise unknown_name(f"class in {table}:", name, classes, "the pair does not know it")
    absent = [name for name in classes if name not in names]
    if absent:
        raise AttnBridgeError(
            f"{table}: has no column for class {absent[0]!r}, which the pair has (its source names the classes, or, "
            "without one, train/labels.csv); add the column, or take the class out there"
        )
    return [list(classes).index(name) for name in names]


@dataclass(frozen=True)
class SourceTarget:
    """Folders of a source and a target domain.

    Attributes:
        source: class folders; they name the classes. ``None``: there is none, and the target names them.
        target: folder of the splits, or one in VOC's layout.
        lists: in VOC's layout, the name of each split's list, if it is another.
    """

    source: Path | None
    target: Path
    lists: Mapping[str, str] | None = None

    @classmethod
    def of(cls, source: str | None, target: str, lists: Mapping[str, str] | None = None) -> SourceTarget:
        """From paths as configurations write them."""
        own = given_path(source, "data.source") if source is not None else None
        return cls(own, given_path(target, "data.target"), lists)

    @property
    def classes(self) -> tuple[str, ...]:
        """In index order."""
        return tuple(pair_classes(self.source, self.target))

    def scan(self, split: str, masks: bool | None = None) -> list[ImageRecord]:
        """See :func:`scan_pair`; of the source without saliency."""
        return scan_pair(self.source, self.target, None, split, self.lists, masks)

    def has(self, split: str) -> bool:
        """Whether the target has a split."""
        return has_split(self.target, split, self.lists)


def pair_classes(source: Path | None, target: Path) -> list[str]:
    """The classes of a pair in index order: the source's folders, or, without a source, the target's own.

    Raises:
        AttnBridgeError: if they cannot be told.
    """
    if source is not None:
        return class_names(source)
    if is_voc(target):
        return list(kit_classes(target))
    return list(read_labels(target / "train" / "labels.csv").classes)


def scan_pair(
    source: Path | None,
    target: Path,
    saliency: Path | None,
    split: str,
    lists: Mapping[str, str] | None = None,
    masks: bool | None = None,
) -> list[ImageRecord]:
    """List and check the records of one split of a source/target pair.

    Args:
        source: class folders; they name the classes. ``None``: there is none, and the target names them.
        target: folder of the splits ``train``, ``val`` and ``test``, or one in VOC's layout.
        saliency: maps of the source images.
        split: ``source``, ``train``, ``val``, ``test`` or another folder or list of the target.
        lists: in VOC's layout, the name of each split's list, if it is another.
        masks: whether the target's records have them; ``None``: those of all splits but ``train``.

    Raises:
        AttnBridgeError: see :func:`scan_class_folders`, :func:`scan_multi_label`,
            :func:`attnbridge.data.images.check_record`.
    """
    classes = pair_classes(source, target)
    with_masks = split != "train" if masks is None else masks
    if split == "source":
        if source is None:
            raise AttnBridgeError("data.source is not set, but the method learns from a source; name its folder")
        records = scan_class_folders(source, classes, saliency)
    elif is_voc(target):
        records = scan_voc(target, classes, (lists or {}).get(split, split), with_masks)
    else:
        records = scan_multi_label(target / split, classes, with_masks)
    for record in records:
        check_record(record)
    return records


def check_read(name: str, value: Any, layout: str, where: Path, read: bool) -> None:
    """Check that what is set is something that the layout of the data reads.

    Args:
        name: of the setting.
        value: what it is set to; nothing may always be set.
        layout: the one that reads it, in words.
        where: the data; what is not there is told elsewhere.
        read: whether they are of this layout.

    Raises:
        AttnBridgeError: for one that would be ignored.

    >>> check_read("data.lists", {"val": "mine"}, "VOC's layout", Path("."), False)
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: data.lists is {'val': 'mine'}, but . is not of VOC's layout, which ...
    """
    if value and not read and where.is_dir():
        raise AttnBridgeError(
            f"{name} is {shown(value)}, but {where} is not of {layout}, which alone reads it; set {name} to "
            "null, or name other data"
        )


def check_lists(target: Path, lists: Mapping[str, str] | None) -> None:
    """Check that the names of lists are for a target that has some.

    Raises:
        AttnBridgeError: see :func:`check_read`.
    """
    check_read("data.lists", lists, "VOC's layout (JPEGImages/ and ImageSets/)", target, is_voc(target))


def has_split(target: Path, split: str, lists: Mapping[str, str] | None = None) -> bool:
    """Whether the target domain has a split."""
    if not is_voc(target):
        return (target / split).is_dir()
    try:
        return bool(list_names(target, (lists or {}).get(split, split)))
    except AttnBridgeError:
        return False


def hash_order(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """By a checksum of their ids: an order that says nothing of the images and does not change with their number."""
    return sorted(records, key=lambda record: hashlib.sha256(record.id.encode()).digest())


def subsample_per_class(records: Sequence[ImageRecord], share: float) -> list[ImageRecord]:
    """A share of each class, at least one image; a larger share holds the smaller one.

    >>> records = [ImageRecord(f"{c}/{i}", Path("x"), (c,)) for c in (0, 1) for i in range(10)]
    >>> [r.classes[0] for r in subsample_per_class(records, 0.2)]
    [0, 0, 1, 1]
    """
    if not 0 < share <= 1:
        raise AttnBridgeError(f"data.source_share must be above 0 and at most 1, not {share}")
    kept = []
    for label in dict.fromkeys(record.classes for record in records):
        own = [record for record in records if record.classes == label]
        chosen = set(map(id, hash_order(own)[: max(1, round(share * len(own)))]))
        kept += [record for record in own if id(record) in chosen]
    return kept
