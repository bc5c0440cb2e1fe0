"""What the verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from attnbridge import bounds
from attnbridge.data.out_folders import check_out
from attnbridge.errors import AttnBridgeError
from attnbridge.models.device import device_name

OVERRIDES = "Options of the configuration are written --section.option VALUE, as in --trainer.max_epochs 8."
CODE = "A configuration is code: it may name classes (class_path), which are imported and called; see SECURITY.md."
GROUPS = {
    "look": "look: where does a network look?",
    "train": "train: teach it where to look",
    "masks": "masks: from image labels to object masks",
    "data": "data: bring it in, check it",
    "tables": "tables: results over several seeds",
}
"""What a person wants, in the order of ``--help``."""


@dataclass(frozen=True)
class Verb:
    """A command: its place in the help, its arguments, and what it does.

    Attributes:
        name: as it is typed.
        group: one of :data:`GROUPS`.
        help: a line.
        add: adds its arguments to a parser.
        run: does it; returns the exit status. What is wrong is found before torch is imported, where that can be.
        rare: stands under its group's first commands.
        overrides: whether it takes ``--section.option VALUE``; they come as ``options.overrides``.
    """

    name: str
    group: str
    help: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    rare: bool = False
    overrides: bool = False


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument(
        "--device",
        type=device_name,
        default="auto",
        help="auto, cpu, mps, cuda or cuda:NUMBER; default: auto, a GPU if any",
    )


def path_of(option: str) -> Callable[[str], Path]:
    """The type of an argument that is a path: not an empty one, which would stand for the working folder."""

    def parse(text: str) -> Path:
        if not text.strip() or "\0" in text:
            raise AttnBridgeError(f"{option} must be a path, not {text!r}; `.` is the folder that you are in")
        return Path(text)

    return parse


def out_for(kind: str) -> Callable[[str], Path]:
    """The type of ``--out``: a folder that may be written, and holds nothing of another command.

    Args:
        kind: what it is to be, by the name of its file in :data:`attnbridge.data.out_folders.HOLDS`.
    """
    return partial(check_out, kind=kind)


def number_of(option: str, annotation: str) -> Callable[[str], Any]:
    """The type of an argument that is a number of a range, one of :mod:`attnbridge.bounds`.

    >>> number_of("--trials", "Count")("0")
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: --trials must be at least 1, not 0
    """
    alias: Any = getattr(bounds, annotation)
    kind, limits = alias.__origin__, alias.__metadata__[0]

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            raise AttnBridgeError(f"{option} must be {words}, {limits}, not {text[:40]!r}") from None
        if not limits.hold(value):
            raise AttnBridgeError(f"{option} must be {limits}, not {text[:40]}")
        return value

    return parse


def add_trust(parser: argparse.ArgumentParser) -> None:
    """``--trust``."""
    parser.add_argument(
        "--trust", action="store_true", help="let the run's configuration name classes (class_path), which runs code"
    )


def report_skipped(messages: list[str]) -> int:
    """Print what could not be read; the exit status."""
    for message in messages:
        print(f"attnbridge: skipped: {message}")
    return 1 if messages else 0
