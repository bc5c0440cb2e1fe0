"""Tables of results. A table is one object: its rows, its data, its columns, the paper's figures, its line of help.

Free of torch: what runs them is :mod:`attnbridge.experiments.benchmark`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attnbridge.data.saliency import MODELS, is_model
from attnbridge.datasets.synthetic.scenes import SceneSpec
from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.experiments.options import check_value


@dataclass(frozen=True)
class TableRequest:
    """What is asked of a table.

    Attributes:
        out: folder of its runs; ``None``: ``runs/NAME``.
        seeds: of the runs.
        rows: configurations in the place of the table's.
        overrides: of every row, as on the command line.
        data: folder of the user's data.
        images: what scenes are made of: ``auto``, ``photos`` or ``shapes``.
        saliency: model of the source's saliency maps.
        domains: names of domains, with commas between; ``None``: all.
        leave_one_out: each domain from all others, instead of all pairs.
        trials: of the search for the options that a row names; 0: none.
        device: where chains look and mask.
    """

    out: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    images: str = "auto"
    saliency: str = "u2net"
    domains: str | None = None
    leave_one_out: bool = False
    trials: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for seed in self.seeds:
            check_value("seeds", seed, "Seed")
        twice = [seed for seed, count in Counter(self.seeds).items() if count > 1]
        if not self.seeds or twice:
            raise AttnBridgeError(f"seeds must be one or more, each once, not {list(self.seeds)}")
        rows = [row for row, count in Counter(self.rows or ()).items() if count > 1]
        if rows or self.rows == ():
            raise AttnBridgeError(f"rows must be one or more, each once, not {list(self.rows or ())}")
        if not is_model(self.saliency) and not Path(self.saliency).is_dir():
            raise unknown_name("folder or saliency model:", self.saliency, MODELS)
        if self.domains is not None and not all(name.strip() for name in self.domains.split(",")):
            raise AttnBridgeError(f"--domains must be names with commas between, not {self.domains!r}")
        if self.trials < 0:
            raise AttnBridgeError(f"trials must be at least 1, or 0 for no search, not {self.trials}")


@dataclass(frozen=True)
class Scenes:
    """Scenes that are composed for the table."""

    spec: SceneSpec = field(default_factory=SceneSpec)


@dataclass(frozen=True)
class Folders:
    """A source and a target of the user's.

    Attributes:
        source: folder of the source inside that of the data.
        target: of the target.
        words: what they are.
        page: that describes them.
        parts: what must lie in the folder, and where it is had.
    """

    source: str
    target: str
    words: str
    page: str
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows of one kind over several seeds.

    Attributes:
        rows: configurations.
        help: what the table shows.
    """

    rows: tuple[str, ...]
    help: str

    def run(self, name: str, request: TableRequest) -> str:
        """Train what is missing and write results and page; returns the table as text."""
        raise NotImplementedError


@dataclass(frozen=True)
class MapTable(Table):
    """Class maps scored as segmentations.

    Attributes:
        data: what all rows are trained on.
        paper: the paper's mIoU, by the last part of a row's name.
        without: a class; the mIoU of the others stands beside.
        columns: other scores to show.
    """

    data: Scenes | Folders = field(default_factory=Scenes)
    paper: Mapping[str, float] = field(default_factory=dict)
    without: str | None = None
    columns: tuple[str, ...] = ()

    def run(self, name: str, request: TableRequest) -> str:
        from attnbridge.experiments.benchmark import run_map_table

        return run_map_table(name, self, request)


@dataclass(frozen=True)
class LabelTable(Table):
    """Labels of a target scored by their mean average precision; no mask is read.

    Attributes:
        data: what all rows are trained on.
        paper: the paper's mean average precision, by the last part of a row's name.
    """

    data: Folders
    paper: Mapping[str, float] = field(default_factory=dict)

    def run(self, name: str, request: TableRequest) -> str:
        from attnbridge.experiments.benchmark import run_label_table

        return run_label_table(name, self, request)


@dataclass(frozen=True)
class ClassTable(Table):
    """Accuracy on images of one class each.

    Attributes:
        data: name of the data; ``None``: class folders of the user's.
        ranks: show accuracy and ranks, not errors.
    """

    data: str | None = None
    ranks: bool = False

    def run(self, name: str, request: TableRequest) -> str:
        from attnbridge.experiments.benchmark import run_class_table

        return run_class_table(name, self, request)


@dataclass(frozen=True)
class DomainTable(Table):
    """Accuracy on a domain without labels, for all pairs of the user's domains, or each from all others."""

    def run(self, name: str, request: TableRequest) -> str:
        from attnbridge.experiments.benchmark import run_domain_table

        return run_domain_table(name, self, request)


@dataclass(frozen=True)
class PipelineTable(Table):
    """The whole chain to masks: class maps, cues, a segmentation network.

    Attributes:
        data: what all rows are trained on.
        segmentation: the configuration that learns from the cues.
        retrain: that of its second training, on its own masks; ``None``: there is none.
        threshold: of the cues, relative to a map's maximum; ``None``: that of the verb ``cues``.
        begin: what the network begins with, see :class:`~attnbridge.experiments.pipeline.PipelineRequest`.
        paper: the paper's mIoU, by the last part of a row's name.
        labels: the paper's IoU of each label in percent, background first, by its name for the row.
    """

    data: Scenes | Folders = field(default_factory=Scenes)
    segmentation: str = "segmentation/dsrg"
    retrain: str | None = None
    threshold: float | None = None
    begin: Literal["classifier", "imagenet"] | None = None
    paper: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def run(self, name: str, request: TableRequest) -> str:
        from attnbridge.experiments.benchmark import run_pipeline_table

        return run_pipeline_table(name, self, request)


def _each(folder: str, *rows: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{row}" for row in rows)


_ROWS = ("grad_cam", "joint", "source_guided", "fine_tuned", "bridged", "attnbn")
_PAPER = {"grad_cam": 30.2, "joint": 31.7, "source_guided": 37.5, "fine_tuned": 39.4, "bridged": 46.2, "attnbn": 50.9,
          "attnbn_10": 45.1, "attnbn_50": 49.2, "attnbn_100": 50.9}  # fmt: skip
_GARMENTS = Folders(
    "source/train",
    "target",
    "Garments: source laid flat, target worn on the street, image labels only",
    "docs/clothing.md",
)
_KIT = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_SBD = "`attnbridge data import sbd`, from the Semantic Boundaries Dataset"
_VOC = Folders(
    "source",
    "VOC2012",
    "Source: single objects of VOC's classes; target: VOC 2012 trainaug, image labels only, scored on val",
    "docs/voc.md",
    {
        "source": "single objects under VOC's class names, source/CLASS/*.jpg, out of Caltech-256 and ImageNet",
        "VOC2012/JPEGImages": f"VOCtrainval_11-May-2012.tar of {_KIT}",
        "VOC2012/ImageSets/Segmentation/val.txt": f"VOCtrainval_11-May-2012.tar of {_KIT}",
        "VOC2012/SegmentationClass": f"VOCtrainval_11-May-2012.tar of {_KIT}",
        "VOC2012/SegmentationClassAug": _SBD,
        "VOC2012/ImageSets/Segmentation/trainaug.txt": _SBD,
    },
)
_VOC_LABELS = Folders(
    "source",
    "VOC2012",
    "Source: single objects of VOC's classes; target: VOC 2012 without labels, scored on those of val",
    "docs/voc.md",
    {
        "source": _VOC.parts["source"],
        "VOC2012/JPEGImages": _VOC.parts["VOC2012/JPEGImages"],
        "VOC2012/Annotations": _VOC.parts["VOC2012/JPEGImages"],
        "VOC2012/ImageSets/Main/val.txt": _VOC.parts["VOC2012/JPEGImages"],
    },
)
_TABLE4 = {
    "DSRG": (87.5, 73.1, 28.4, 75.4, 39.5, 54.5, 78.2, 71.3, 80.6, 25.0, 63.3, 25.4, 77.8, 65.4, 65.2, 72.8, 41.2, 74.3,
             34.1, 52.1, 53.0),
    "AttnBN": (89.5, 82.0, 30.1, 76.2, 57.9, 65.3, 80.7, 75.6, 79.5, 16.8, 68.9, 19.7, 76.4, 70.4, 67.7, 71.8, 40.1,
               72.1, 37.2, 73.1, 53.7),
}  # fmt: skip
_FOUR = ("source", "ac", "adv", "ac_adv")

TABLES: dict[str, Table] = {
    "scenes": MapTable(_ROWS, "the rows of Table 1"),
    "adversary": MapTable(
        ("bridged", "attnbn", "adversary/strong", "adversary/spectral", "adversary/evidence"), "ways of using it"
    ),
    "adaptation": MapTable(("adapt_source", "source_guided", "adapt_adv", "adapt_ac_adv"), "the rows of Table 6"),
    "clothing": MapTable(
        _each("clothing", "grad_cam", "grad_cam_shift", *_ROWS[1:]),
        "the rows of Table 1 on garments",
        _GARMENTS,
        without="shoes",
    ),
    "clothing_source": MapTable(
        _each("clothing", "attnbn_10", "attnbn_50", "attnbn"), "with shares of the source", _GARMENTS, without="shoes"
    ),
    "clothing_unlabelled": MapTable(
        _each("clothing", *(f"adapt_{row}" for row in _FOUR)), "Table 6 on garments", _GARMENTS, without="shoes"
    ),
    "clothing_masks": MapTable(
        _each("clothing", "no_mask", "gain", "gain_10", "gain_30", "gain_100"),
        "GAIN on garments with a few masks",
        _GARMENTS,
        without="shoes",
        columns=("accuracy", "energy"),
    ),
    "biased": MapTable(
        ("grad_cam", "gain", "biased/gain_1", "biased/gain_5", "biased/gain_20", "attnbn"),
        "GAIN where the background tells the class",
        Scenes(SceneSpec(context_bias=1.0, swapped=True)),
        columns=("accuracy", "energy"),
    ),
    "table1": MapTable(_each("voc", *_ROWS), "the paper's own, on VOC 2012", _VOC, _PAPER),
    "table1_paper": MapTable(_each("voc/paper", *_ROWS), "the same, maps and losses as the paper reads", _VOC, _PAPER),
    "table2": MapTable(_each("voc", "attnbn_10", "attnbn_50", "attnbn_100"), "with shares of the source", _VOC, _PAPER),
    "table3": PipelineTable(
        _each("voc", "grad_cam", "attnbn"),
        "and 4, 5: masks by DSRG on VOC 2012",
        _VOC,
        "voc/dsrg",
        "voc/retrain",
        paper={"grad_cam": 59.0, "attnbn": 62.1},
        labels=_TABLE4,
    ),
    "table3_classifier": PipelineTable(
        _each("voc", "grad_cam", "attnbn"),
        "the same, DSRG beginning with the classifier",
        _VOC,
        "voc/dsrg",
        "voc/retrain",
        begin="classifier",
        labels=_TABLE4,
    ),
    "table6": LabelTable(
        _each("voc", *(f"adapt_{row}" for row in _FOUR)),
        "a target without labels, on VOC 2012",
        _VOC_LABELS,
        {"adapt_source": 61.3, "adapt_ac": 66.7, "adapt_adv": 64.5, "adapt_ac_adv": 71.0},
    ),
    "gain": PipelineTable(
        _each("voc", "gain", "gain_200", "gain_1464"),
        "GAIN's masks by SEC on VOC 2012, with 0, 200 and 1464 masks",
        _VOC,
        "voc/sec",
        threshold=0.2,
        paper={"gain": 55.3, "gain_200": 58.3, "gain_1464": 60.5},
    ),
    "segmentation": PipelineTable(("grad_cam", "attnbn"), "masks from cues of Grad-CAM and AttnBN"),
    "clothing_segmentation": PipelineTable(
        _each("clothing", "grad_cam", "attnbn"), "the same on garments", _GARMENTS, "clothing/dsrg"
    ),
    "at-cifar10": ClassTable(
        _each("cifar10", "teacher", "student", "at", "kd", "at_kd", "f_act"),
        "attention transfer on CIFAR-10",
        "cifar10",
    ),
    "at-statistics": ClassTable(
        _each("cifar10", "teacher", "student", "at_sum", "at", "at_sum_4", "at_max"),
        "attention transfer of other statistics",
        "cifar10",
    ),
    "at-nin": ClassTable(
        _each("cifar10", *(f"nin_{row}" for row in ("teacher", "student", "symmetry", "gradient", "at"))),
        "attention transfer by gradients",
        "cifar10",
    ),
    "finetune": ClassTable(
        _each(
            "finetune",
            *("l2", "feature_extraction", "l2_sp", "lwf", "soft", "delta", "bss", "attention", "afa_spatial", "afa"),
        ),
        "AFA and its baselines on class folders",
        ranks=True,
    ),
    "finetune_full": ClassTable(
        _each("finetune/full", "l2", "feature_extraction", "l2_sp", "lwf", "soft", "bss", "delta", "afa"),
        "the same at full size",
        ranks=True,
    ),
    "domains": DomainTable(_each("domains", *_FOUR), "Table 7 on folders of domains"),
    "table7": DomainTable(_each("domains", *(f"full_{row}" for row in _FOUR)), "the same at full size"),
}
"""Name of a table, as ``attnbridge benchmark NAME`` takes it."""

DEMO = MapTable(("grad_cam", "source_guided", "attnbn"), "Grad-CAM against AttnBN on composed scenes")
