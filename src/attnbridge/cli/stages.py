"""Stages of a pipeline: which are there and current, and what is made again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from attnbridge.data.cache import replacing
from attnbridge.data.own_files import OwnFiles
from attnbridge.errors import AttnBridgeError

console = Console()


@dataclass
class Stages:
    """Which stages are done, and from what: ``pipeline.json``.

    Attributes:
        out: folder of the pipeline.
        replaces: a stage that was made of something else is made again; else that is an error.
    """

    out: Path
    replaces: bool = True

    def run(self, name: str, made_of: dict[str, Any], make: Callable[[Path], None]) -> str:
        """Make ``out/name``, unless it is whole and made of the same; one that was made of something else goes first.

        Returns:
            What stands for the stage in the next one's ``made_of``.

        Raises:
            AttnBridgeError: for a folder that is not the pipeline's, or that may not be replaced, or that holds files
                of the user's beside masks or cues.
        """
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:16]
        folder, known = self.out / name, self._read()
        if known.get(name) == {"key": key, "done": True} and folder.is_dir():
            console.print(f"[bold]{name}[/]: there already, in {folder}")
            return key
        if name not in known and folder.exists():
            raise AttnBridgeError(f"{folder}: is there, but not made by this pipeline; name another folder with --out")
        if known.get(name, {}).get("key") not in (None, key):
            if not self.replaces:
                raise AttnBridgeError(
                    f"{folder}: was made with other options or pictures; name another folder with --out, or remove it"
                )
            OwnFiles(folder).check_all()
            console.print(f"[bold]{name}[/]: what it was made of has changed")
            _move_away(folder)
        self._write({**known, name: {"key": key, "done": False}})
        console.print(f"[bold]{name}[/]")
        make(folder)
        self._write({**self._read(), name: {"key": key, "done": True}})
        return key

    def _read(self) -> dict[str, Any]:
        path = self.out / "pipeline.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return known

    def _write(self, known: dict[str, Any]) -> None:
        with replacing(self.out / "pipeline.json") as partial:
            partial.write_text(json.dumps(known, indent=1))


def _move_away(folder: Path) -> None:
    """Remove a folder; at no time are its remains where it was."""
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
