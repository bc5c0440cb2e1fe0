"""What training would stumble over in each kind of data, found without torch: folders, splits, headers of images.

A check takes the options of its data module by name; those that it has no use for are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnbridge.data.cifar import NAMES as CIFAR
from attnbridge.data.cues import with_cues
from attnbridge.data.domain_folders import domain_classes, of_target, scan_domain
from attnbridge.data.doubts import check_masks, check_saliency, check_scored, warn_of_absent, warn_of_twins
from attnbridge.data.folders import (
    check_lists,
    check_read,
    class_names,
    class_splits,
    has_split,
    pair_classes,
    scan_class_folders,
    scan_pair,
)
from attnbridge.data.guidance import Guide, scan_guided
from attnbridge.data.images import ImageRecord, check_record
from attnbridge.data.saliency import check_model, is_model
from attnbridge.errors import AttnBridgeError, unknown_name


def check_source_target(
    training: bool,
    *,
    source: str | None = None,
    target: str | None = None,
    saliency: str | None = None,
    lists: Mapping[str, str] | None = None,
    guided: str | None = None,
    guided_by: Guide = "masks",
    masks: bool = True,
    **_: Any,
) -> list[ImageRecord]:
    """Check :class:`~attnbridge.data.modules.source_target.SourceTargetDataModule`'s folders.

    Returns:
        The target's training images.

    Raises:
        AttnBridgeError: for the first thing that training would stumble over.
    """
    if not target:
        raise AttnBridgeError(
            "data.target is not set; name the folder of the target domain in the configuration, or with "
            "--data.target FOLDER"
        )
    for name in lists or ():
        if name not in ("train", "val", "test"):
            raise unknown_name("split in data.lists:", name, ("train", "val", "test"))
    source_folder, target_folder = Path(source) if source else None, Path(target)
    if training:  # else they may be those of the run, whatever it is scored on
        check_lists(target_folder, lists)
    maps = _named_maps(saliency) if training else None
    needed = ("train",) if training or not source else ()
    splits = [split for split in ("train", "val", "test") if split in needed or has_split(target_folder, split, lists)]
    if "test" in splits and "val" not in splits:
        raise AttnBridgeError(
            f"{target}: has a test split, but none for validation, by which a threshold is chosen; name part of it val"
        )
    classes = pair_classes(source_folder, target_folder)
    learnt = scan_pair(source_folder, target_folder, maps, "source", lists) if source_folder else []
    masked = {split: masks and split != "train" for split in splits}
    found = {split: scan_pair(source_folder, target_folder, maps, split, lists, masked[split]) for split in splits}
    if guided:
        known = scan_guided(source_folder, target_folder, guided, guided_by)
        if guided_by == "saliency":
            check_saliency([record.mask for record in known if record.mask])
        else:
            check_masks([record for record in known if record.mask], classes)
    for split in (split for split in splits if split != "train"):
        check_scored(found[split], classes, split)
    check_saliency([record.saliency for record in learnt if record.saliency])
    if training:
        warn_of_absent(target_folder, classes, {**({"source": learnt} if source_folder else {}), **found})
    warn_of_twins(found)
    return found.get("train", [])


def check_cues(training: bool, *, cues: str | None = None, **options: Any) -> None:
    """Check :class:`~attnbridge.data.modules.cues.CueDataModule`'s folders.

    Raises:
        AttnBridgeError: for the first thing that training would stumble over.
    """
    found = check_source_target(training, **options)
    if not options.get("masks", True):
        raise AttnBridgeError("data.masks is false, but a segmentation network is scored by masks; leave it out")
    if training:
        source = Path(options["source"]) if options.get("source") else None
        classes = pair_classes(source, Path(options["target"]))
        cued = with_cues(found, Path(cues) if cues else None, classes)
        for record in cued:
            check_record(record)
        check_masks(cued, classes)


def check_domains(
    training: bool,
    *,
    data: str | None = None,
    sources: Sequence[str] | None = None,
    target: str | None = None,
    saliency: str | None = None,
    **_: Any,
) -> None:
    """Check :class:`~attnbridge.data.modules.domains.MultiDomainDataModule`'s folders.

    Raises:
        AttnBridgeError: for the first thing that training would stumble over.
    """
    for name, value in (("data", data), ("sources", sources), ("target", target)):
        if not value:
            raise AttnBridgeError(f"data.{name} is not set; see `attnbridge show domain_adaptation`")
    if isinstance(sources, str):
        raise AttnBridgeError(f'data.sources must be a list of names: "[{sources}]"')
    root, maps = Path(str(data)), _named_maps(saliency) if training else None
    names = [str(name) for name in sources or ()]
    domains = [*names, str(target)]
    classes = domain_classes(root, domains)
    found = {}
    for domain in domains:
        own = maps if domain in names else of_target(maps, domain)
        found[domain] = scan_domain(root, domain, classes, own)
        for record in found[domain]:
            check_record(record)
        check_saliency([record.saliency for record in found[domain] if record.saliency])
        warn_of_absent(root / domain, classes, {"train": found[domain]})
    warn_of_twins(found)


def check_classification(training: bool, *, data: str | None = None, root: str | None = None, **_: Any) -> None:
    """Check the folders of a :class:`~attnbridge.data.modules.classification.ClassificationDataModule`, not CIFAR.

    Raises:
        AttnBridgeError: for the first thing that training would stumble over.
    """
    if not data:
        raise AttnBridgeError(
            "data.data is not set; name cifar10, cifar100, or a folder with train/CLASS/*.jpg and test/CLASS/*.jpg"
        )
    if data not in CIFAR:
        if training:
            check_read("data.root", root, "CIFAR's layout", Path(data), read=False)
        classes = class_names(Path(data) / "train")
        found = {}
        for split, place in class_splits(Path(data)).items():
            found[split] = scan_class_folders(place, classes)
            for record in found[split]:
                check_record(record)
        warn_of_absent(Path(data), classes, found)
        warn_of_twins(found)


def _named_maps(saliency: str | None) -> Path | None:
    """The folder of saliency maps, if one is named; a model's maps are yet to be made."""
    if saliency and saliency.endswith(".onnx"):
        check_model(saliency)
    return Path(saliency) if saliency and not is_model(saliency) else None
