"""Domains as folders of class folders. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attnbridge.data.folders import class_names, scan_class_folders
from attnbridge.data.images import ImageRecord
from attnbridge.errors import AttnBridgeError, unknown_name


def domain_names(root: Path) -> list[str]:
    """Names of the domains in a folder, sorted.

    Raises:
        AttnBridgeError: if it is no folder or holds none.
    """
    if not root.is_dir():
        raise AttnBridgeError(f"{root}: no such folder; expected one sub-folder for each domain")
    return class_names(root)


def domain_classes(root: Path, domains: Sequence[str]) -> list[str]:
    """The classes that all the domains have.

    Raises:
        AttnBridgeError: for a domain that is not there or named twice, or classes that differ.

    """
    known = domain_names(root)
    for name in domains:
        if name not in known:
            raise unknown_name(f"domain in {root}:", name, known)
        if list(domains).count(name) > 1:
            raise AttnBridgeError(f"the domain {name!r} is named twice; a target cannot be learnt from")
    if len(domains) < 2:
        raise AttnBridgeError("name at least one domain in data.sources and another one as data.target")
    found = {name: class_names(root / name) for name in domains}
    first = found[domains[0]]
    for name, classes in found.items():
        if classes != first:
            odd = sorted(set(classes) ^ set(first))[0]
            raise AttnBridgeError(
                f"{root / name}: differs from {root / domains[0]} in the class {odd!r}; give both the same"
            )
    return first


def scan_domain(root: Path, domain: str, classes: Sequence[str], saliency: Path | None = None) -> list[ImageRecord]:
    """List the images of a domain, their ids beginning with its name.

    Raises:
        AttnBridgeError: see :func:`~attnbridge.data.folders.scan_class_folders`.
    """
    records = scan_class_folders(root / domain, classes, saliency / domain if saliency else None)
    return [replace(record, id=f"{domain}/{record.id}") for record in records]


def of_target(saliency: Path | None, target: str) -> Path | None:
    """The folder of maps, if it has the target's: they serve the energy alone, and may be missing."""
    return saliency if saliency and (saliency / target).is_dir() else None
