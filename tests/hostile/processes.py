"""Real processes of the command line, and signals that hit them in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

INTERRUPTIBLE = """
import runpy, signal

signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("attnbridge", run_name="__main__", alter_sys=True)
"""
"""A command, interruptible even where the tests run in the background, whose processes ignore SIGINT."""


def start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Begin a command in a process of its own; what it says goes to ``log``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as handle:
        return subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *words], stdout=handle, stderr=handle, env=environment
        )


def run(words: Sequence[str], log: Path) -> None:
    """Run a command to its end, which must be a good one."""
    status = start(words, log).wait(timeout=600)
    assert status == 0, f"status {status}: {log.read_text()}"


def killed(words: Sequence[str], how: signal.Signals, when: Callable[[], bool], log: Path) -> int:
    """Send a command a signal as soon as ``when`` holds; returns its exit status."""
    process = start(words, log)
    try:
        until = time.monotonic() + 300
        while not when():
            assert process.poll() is None, f"it ended before: {log.read_text()}"
            assert time.monotonic() < until, f"it did not come so far: {log.read_text()}"
            time.sleep(0.001)
        process.send_signal(how)
        return process.wait(timeout=300)
    finally:
        process.kill()
        process.wait()


def files(folder: Path) -> list[Path]:
    """The files that a person sees below a folder, into which something may be writing."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return found
