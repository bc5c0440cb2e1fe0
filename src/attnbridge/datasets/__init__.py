"""Public data sets in their own layouts, brought into the two that training reads: class folders and VOC's.

The table is plain, so that looking a name up imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from attnbridge.errors import AttnBridgeError, unknown_name

Kind = Literal["class folders", "voc", "into VOC2012", "in place"]
NAMES = "attnbridge.datasets"


@dataclass(frozen=True)
class PublicSet:
    """What is known of a data set before anything of it is read.

    Attributes:
        module: where its function is.
        function: for class folders and VOC's layout ``(root, split, classes)``, which returns the classes in index
            order and an iterator of ``LabelledImage`` or ``MultiLabelImage``; for the two other kinds
            ``(root, split, out)``, which returns the folder of a kit.
        kind: ``class folders`` and ``voc`` are written by the writers of :mod:`attnbridge.datasets.layouts`;
            ``into VOC2012`` adds files to VOC 2012's kit; ``in place`` is read where it lies.
        source: where to get it, and under which licence.
        layout: what its folder must hold.
        splits: names of the splits, or domains; the first is the default.
        mappings: names of classes that it can be brought to, apart from its own.
        download: function of the module that fetches it, ``(root, split)``.
        other_splits: whether splits of the user's own may have other names.
        tables: files that name its images and labels, as globs; an import is not made again while they stay.
        marker: a file or folder that only this set's layout has, as a glob.
    """

    module: str
    function: str
    kind: Kind
    source: str
    layout: str
    splits: tuple[str, ...]
    mappings: tuple[str, ...] = ()
    download: str | None = None
    other_splits: bool = False
    tables: tuple[str, ...] = ()
    marker: str | None = None


SETS: dict[str, PublicSet] = {
    "voc2007": PublicSet(
        f"{NAMES}.voc",
        "voc2007",
        "in place",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar; "
        "images under Flickr's terms",
        "the kit (JPEGImages, ImageSets, ...), or VOC2007 or VOCdevkit/VOC2007 with it",
        ("train", "val", "trainval", "test"),
        download="download_voc2007",
    ),
    "voc2012": PublicSet(
        f"{NAMES}.voc",
        "voc2012",
        "in place",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, VOCtrainval_11-May-2012.tar; images under Flickr's terms",
        "the kit (JPEGImages, ImageSets, ...), or VOC2012 or VOCdevkit/VOC2012 with it",
        ("train", "val", "trainval"),
        download="download_voc2012",
    ),
    "sbd": PublicSet(
        f"{NAMES}.sbd",
        "sbd",
        "into VOC2012",
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz; "
        "no licence stated, images under Flickr's terms",
        "img/*.jpg, cls/*.mat, train.txt and val.txt, or benchmark_RELEASE/dataset with them; --out is VOC 2012's kit",
        ("trainaug",),
        download="download_sbd",
        marker="cls/*.mat",
    ),
    "coco": PublicSet(
        f"{NAMES}.coco",
        "coco",
        "voc",
        "https://cocodataset.org/#download, train2017.zip, val2017.zip, annotations_trainval2017.zip; annotations "
        "CC BY 4.0, images under Flickr's terms",
        "annotations/instances_SPLIT.json, and SPLIT/*.jpg or images/SPLIT/*.jpg",
        ("train2017", "val2017", "train2014", "val2014"),
        mappings=("voc",),
        other_splits=True,
        tables=("annotations/instances_{split}.json",),
        marker="annotations/instances_*.json",
    ),
    "csv": PublicSet(
        f"{NAMES}.csv_table",
        "table",
        "voc",
        "your own images and labels",
        "images, and labels.csv (id,CLASS,CLASS,... with 0 and 1, or image,labels) or SPLIT.csv",
        ("train", "val", "test"),
        other_splits=True,
        tables=("*.csv", "classes.txt"),
    ),
    "caltech101": PublicSet(
        f"{NAMES}.caltech",
        "caltech101",
        "class folders",
        "https://data.caltech.edu/records/mzrjq-6wc02, caltech-101.zip with 101_ObjectCategories.tar.gz; CC BY 4.0",
        "101_ObjectCategories/CLASS/image_0001.jpg, or its class folders",
        ("all",),
        mappings=("voc",),
        download="download_caltech101",
    ),
    "caltech256": PublicSet(
        f"{NAMES}.caltech",
        "caltech256",
        "class folders",
        "https://data.caltech.edu/records/nyy15-4j048, 256_ObjectCategories.tar; CC BY 4.0",
        "256_ObjectCategories/001.ak47/001_0001.jpg, or its class folders",
        ("all",),
        mappings=("voc",),
        download="download_caltech256",
    ),
    "imagenet": PublicSet(
        f"{NAMES}.imagenet",
        "imagenet",
        "class folders",
        "https://image-net.org/download, ILSVRC2012 (CLS-LOC), after signing up; for non-commercial research",
        "ILSVRC/Data/CLS-LOC/SPLIT and ILSVRC/Annotations, as from Kaggle, or SPLIT/n01440764/*.JPEG",
        ("train", "val"),
        mappings=("voc",),
    ),
    "pacs": PublicSet(
        f"{NAMES}.domains",
        "pacs",
        "class folders",
        "https://dali-dl.github.io/project_iccv2017.html; for research, no licence stated",
        "art_painting/CLASS/pic_001.jpg, cartoon/, photo/, sketch/",
        ("photo", "art_painting", "cartoon", "sketch"),
        mappings=("voc",),
        marker="art_painting/*",
    ),
    "vlcs": PublicSet(
        f"{NAMES}.domains",
        "vlcs",
        "class folders",
        "https://github.com/facebookresearch/DomainBed (domainbed/scripts/download.py); no licence stated",
        "VOC2007/CLASS/*.jpg, LabelMe/, Caltech101/, SUN09/, or PASCAL/train/0/*.jpg, LABELME/, CALTECH/, SUN/",
        ("VOC2007", "LabelMe", "Caltech101", "SUN09", "PASCAL", "LABELME", "CALTECH", "SUN"),
        mappings=("voc",),
    ),
    "office31": PublicSet(
        f"{NAMES}.domains",
        "office31",
        "class folders",
        "https://faculty.cc.gatech.edu/~judy/domainadapt/; no licence stated",
        "amazon/images/CLASS/*.jpg, dslr/images/, webcam/images/",
        ("amazon", "dslr", "webcam"),
        mappings=("voc",),
        marker="amazon/images",
    ),
    "ccp": PublicSet(
        f"{NAMES}.clothing",
        "ccp",
        "voc",
        "https://github.com/bearpaw/clothing-co-parsing; Apache-2.0",
        "photos/0001.jpg, annotations/pixel-level/0001.mat, annotations/image-level/1005.mat, label_list.mat",
        ("pixel_level", "image_level", "train_labels_only", "few_masks", "val", "test"),
        mappings=("clothing",),
        tables=("label_list.mat", "annotations/*", "*/label_list.mat", "*/annotations/*"),
        marker="annotations/pixel-level/*.mat",
    ),
    "clothing_small": PublicSet(
        f"{NAMES}.clothing",
        "clothing_small",
        "class folders",
        "https://github.com/alexeygrigorev/clothing-dataset-small; CC0",
        "train/CLASS/*.jpg, validation/, test/",
        ("train", "validation", "test"),
    ),
}
"""The data sets by the names that the command line knows."""


def find_set(name: str) -> PublicSet:
    """A row of the table.

    Raises:
        AttnBridgeError: for a name that is not in :data:`SETS`.

    >>> find_set("coco").kind
    'voc'
    """
    if name not in SETS:
        raise unknown_name("data set", name, SETS, "see `attnbridge list`")
    return SETS[name]


def resolve_split(name: str, split: str | None, classes: str | None) -> str:
    """The split, the default one for ``None``.

    Raises:
        AttnBridgeError: for a split or a mapping that the set does not have.
    """
    entry = find_set(name)
    if classes is not None and classes not in entry.mappings:
        if not entry.mappings:
            raise AttnBridgeError(f"{name} comes in its own classes alone; leave --classes out")
        raise unknown_name(f"classes for {name}:", classes, entry.mappings, "leave --classes out for its own")
    if split is not None and split not in entry.splits and not entry.other_splits:
        raise unknown_name(f"split of {name}:", split, entry.splits)
    return split or entry.splits[0]


def load(name: str, function: str) -> Any:
    """A function of a set's module."""
    return getattr(import_module(find_set(name).module), function)


def how_to_get(name: str) -> str:
    """Where to get a set, and where to put it."""
    entry = find_set(name)
    return f"{name}: get it from {entry.source}. Unpack it; its folder, ROOT, must hold {entry.layout}."


def detect_layout(root: Path) -> str | None:
    """The set whose own layout a folder has, where its layout is like no other's."""
    return next((name for name, entry in SETS.items() if entry.marker and any(root.glob(entry.marker))), None)
