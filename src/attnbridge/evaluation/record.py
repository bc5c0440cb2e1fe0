"""What a run was made of: versions, git state, seeds, hardware."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import torch

from attnbridge.data.provenance import own_file
from attnbridge.errors import AttnBridgeError

Row = dict[str, Any]
"""A run's line of a table's ``results.json``."""


class RunRecord(TypedDict):
    """What ``run.json`` holds.

    Attributes:
        name: of the configuration.
        method: name of the method.
        task: what the run is judged by, ``module:Class`` in :mod:`attnbridge.evaluation.tasks`.
        seed: of the run.
        seconds: of training, sessions before an interruption and first stages included.
        scores: what the task found.
        classes: names in index order.
        protocol: how the scores were made, in words.
        evaluation: the settings that they were made with, those that the task uses.
        folder: in which it was trained: relative paths of its configuration begin there; ``None`` for one that was
            removed meanwhile.
        date: when, UTC.
        versions: of Python and of the packages.
        git: commit of this package's own source tree, and whether files were changed since; ``None`` for one that was
            installed.
        hardware: processor, cores, threads, GPU.
    """

    name: str
    method: str
    task: str
    seed: int
    seconds: float
    scores: dict[str, Any]
    classes: list[str]
    protocol: dict[str, Any]
    evaluation: dict[str, Any]
    folder: str | None
    date: str
    versions: dict[str, Any]
    git: dict[str, Any] | None
    hardware: dict[str, Any]


SOURCE = Path(__file__).resolve().parents[3]
"""The source tree, if the package is used from one."""
PACKAGES = ("attnbridge", "torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy", "pillow")


def run_record() -> dict[str, Any]:
    """Versions, git state of this package, hardware and date, as JSON."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": _git_state(),
        "hardware": hardware(),
    }


def working_folder() -> str | None:
    """The folder that the program runs in, unless it was removed."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """Processor, usable cores, threads and GPU."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def check_scores(scores: Any, where: Path) -> None:
    """Check that every score is a number, or none at all.

    Args:
        scores: of a run, however nested.
        where: the run's folder, for the message.

    Raises:
        AttnBridgeError: naming the first that is NaN or infinite: a table would show it as a score, and JSON has no
            word for it.
    """
    for name, value in _leaves(scores, ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise AttnBridgeError(
                f"{where}: the score {name} is {value}, no number: nothing was there to score it by (are the masks all "
                "void?), or the network's answers are no numbers; mend the data and score again with `fit "
                "--resume`, or train again with a lower model.lr"
            )


def _leaves(values: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Values and their paths, as ``predicted.curve.3``."""
    nested: Any = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in nested:
        yield from _leaves(value, f"{name}.{key}" if name else str(key))
    if not isinstance(values, dict | list):
        yield name, values


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it; what is no number is null."""
    with own_file(path) as partial:
        partial.write_text(json.dumps(without_nan(content), indent=1, allow_nan=False))


def without_nan(content: Any) -> Any:
    """The same with ``None`` in the place of numbers that are not finite, which JSON does not have.

    >>> without_nan({"a": [1, math.nan], "b": (0.5,)})
    {'a': [1, None], 'b': [0.5]}
    """
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit and whether files were changed since, of the source tree that this package lies in.

    Nothing is asked of the folder that the program runs in: a repository's own configuration names programs, such as
    ``core.fsmonitor``, that git runs.
    """
    if not (SOURCE / ".git").exists() or not (SOURCE / "src" / "attnbridge").is_dir():
        return None
    try:
        commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.strip(), "modified": bool(status.strip())}


def _git(*words: str) -> str:
    """What git says of the source tree; it runs no hook and nothing that the repository names."""
    options = [part for setting in ("core.fsmonitor=false", "core.hooksPath=/dev/null") for part in ("-c", setting)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *options, *words], cwd=SOURCE, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
