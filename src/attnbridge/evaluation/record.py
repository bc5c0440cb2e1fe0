"""What a run was made of: versions, git state, seeds, hardware."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import torch

from attnbridge.data.files import atomic_write

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
        date: when, UTC.
        versions: of Python and of the packages.
        git: commit of the working folder, and whether files were changed since.
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
    date: str
    versions: dict[str, Any]
    git: dict[str, Any] | None
    hardware: dict[str, Any]


PACKAGES = ("attnbridge", "torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy", "pillow")


def run_record() -> dict[str, Any]:
    """Versions, git state of the working folder, hardware and date, as JSON."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": _git_state(),
        "hardware": hardware(),
    }


def hardware() -> dict[str, Any]:
    """Processor, usable cores, threads and GPU."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it; what is no number is null."""
    with atomic_write(path) as partial:
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
    """Commit and whether files were changed since, of the folder the program runs in."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "modified": bool(status.stdout.strip())}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
