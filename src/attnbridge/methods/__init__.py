"""Methods: one paper, one file. The table is plain, so that looking a name up imports nothing heavy.

A row says where a method is, what data it learns from, what it is judged by, and what its options ask of the data:
nothing else has to be kept in step with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lazy_loader import attach

from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.lazy import exports, lacks_training


@dataclass(frozen=True)
class DataEntry:
    """A kind of data.

    Attributes:
        module: of its data module, ``module:Class``.
        check: a function that finds, without torch, what training would stumble over, ``module:function``; it takes the
            data's options by name.
        own_path: the option that names the data that are scored.
    """

    module: str
    check: str
    own_path: str


@dataclass(frozen=True)
class Need:
    """What an option of a method asks of the data, or of the machine.

    Attributes:
        option: of the method; it asks where it is not 0.
        data: the option of the data that must be set.
        why: how the message goes on.
    """

    option: str
    data: str
    why: str


@dataclass(frozen=True)
class MethodEntry:
    """A method.

    Attributes:
        method: ``module:Class``.
        data: what it learns from.
        task: what its runs are judged by, ``module:Class``.
        needs: what its options ask of the data.
        conflicts: what of the data its options cannot do with.
        packages: options that need a package, its module and the extra that has it.
        aligns: options that bring two domains together.
    """

    method: str
    data: DataEntry
    task: str
    needs: tuple[Need, ...] = ()
    conflicts: tuple[Need, ...] = ()
    packages: tuple[tuple[str, str, str], ...] = ()
    aligns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the class."""
        return self.method.partition(":")[2]


MODULES = "attnbridge.data.modules"
SOURCE_TARGET = DataEntry(
    f"{MODULES}.source_target:SourceTargetDataModule", "attnbridge.data.checks:check_source_target", "target"
)
CUES = DataEntry(f"{MODULES}.cues:CueDataModule", "attnbridge.data.checks:check_cues", "target")
CLASSES = DataEntry(
    f"{MODULES}.classification:ClassificationDataModule", "attnbridge.data.checks:check_classification", "data"
)
DOMAINS = DataEntry(f"{MODULES}.domains:MultiDomainDataModule", "attnbridge.data.checks:check_domains", "data")
TASKS = "attnbridge.evaluation.tasks"
MAPS, MASKS = f"{TASKS}.maps:MapTask", f"{TASKS}.masks:MaskTask"
ACCURACY, TARGET_ACCURACY = f"{TASKS}.classification:ClassificationTask", f"{TASKS}.domains:DomainTask"

_SALIENCY = "needs a saliency map of each source image; name their folder, or a saliency model such as u2net"
_SOURCE = "needs the folder of the source domain"
_BRIDGE = (
    Need("source_weight", "source", _SOURCE),
    Need("attention_weight", "source", _SOURCE),
    Need("adversarial_weight", "source", _SOURCE),
    Need("attention_weight", "saliency", _SALIENCY),
)

METHODS: dict[str, MethodEntry] = {
    "attnbn": MethodEntry("attnbridge.methods.attnbn:AttnBN", SOURCE_TARGET, MAPS, _BRIDGE),
    "gain": MethodEntry(
        "attnbridge.methods.gain:GAIN",
        SOURCE_TARGET,
        MAPS,
        (
            *_BRIDGE,
            Need(
                "guidance_weight",
                "guided",
                "is; name the list or folder of the images whose masks (or boxes, or saliency maps: data.guided_by) "
                "may be used",
            ),
        ),
        conflicts=(Need("mining_weight", "views", "data.views keeps no images, but mining erases parts of them"),),
    ),
    "attention_transfer": MethodEntry("attnbridge.methods.attention_transfer:AttentionTransfer", CLASSES, ACCURACY),
    "fine_tuning": MethodEntry(
        "attnbridge.methods.fine_tuning:FineTuning",
        CLASSES,
        ACCURACY,
        packages=(("margin", "pytorch_metric_learning", "faces"),),
    ),
    "segmentation": MethodEntry(
        "attnbridge.methods.segmentation:Segmentation",
        CUES,
        MASKS,
        (Need("source_weight", "source", _SOURCE), Need("source_weight", "saliency", _SALIENCY)),
    ),
    "domain_adaptation": MethodEntry(
        "attnbridge.methods.domain_adaptation:DomainAdaptation",
        DOMAINS,
        TARGET_ACCURACY,
        (Need("attention_weight", "saliency", _SALIENCY),),
        aligns=("adversarial_weight", "reversal_weight", "coral_weight", "mmd_weight"),
    ),
}
"""Name of a method, as configurations write it, to what is known of it."""


def load_method(name: str) -> Any:
    """The class of a method.

    Raises:
        AttnBridgeError: for a name that is not in :data:`METHODS`.

    >>> load_method("attnbn").__name__
    'AttnBN'
    """
    return load_object(method_entry(name).method)


def load_data(name: str) -> Any:
    """The class of a method's data module.

    >>> load_data("attnbn").__name__
    'SourceTargetDataModule'
    """
    return load_object(method_entry(name).data.module)


def method_entry(name: str) -> MethodEntry:
    """What is known of a method.

    Raises:
        AttnBridgeError: for a name that is not in :data:`METHODS`.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def load_object(reference: str) -> Any:
    """What ``module:name`` refers to, inside this package.

    Raises:
        AttnBridgeError: for something that is not there, or that needs packages that are not there.
    """
    module, _, name = reference.partition(":")
    try:
        if module.split(".")[0] != "attnbridge":
            raise ImportError
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "attnbridge").startswith("attnbridge"):
            words = lacks_training(name, error)
            if words is None:
                raise
            raise AttnBridgeError(words) from None
        raise AttnBridgeError(f"{reference}: is not there in this version of attnbridge") from None


_modules = {entry.method.partition(":")[0].removeprefix(f"{__name__}."): [entry.name] for entry in METHODS.values()}
__getattr__, __dir__, __all__ = exports(__name__, attach(__name__, submod_attrs=_modules | {"base": ["Method"]}))
__all__ += ["METHODS", "load_method"]
