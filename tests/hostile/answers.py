"""What a hostile case has to be answered with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from attnbridge.cli import main


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below a folder, with the hash of what is in it; a link or a device by what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def refused(
    words: Sequence[str], names: Sequence[str], capsys: pytest.CaptureFixture[str], keep: Path, status: int = 2
) -> str:
    """Run a command that must be refused: with a message that names what is wrong, and nothing written.

    Args:
        words: of the command.
        names: what the message has to say: the file or argument, what came, what to do.
        capsys: of the test.
        keep: the folder that must be as it was.
        status: the command's.

    Returns:
        The message.
    """
    before = tree(keep)
    try:
        code = main([*words])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    out, said = capsys.readouterr()
    assert code == status, f"status {code}: {out}{said}"
    assert "Traceback" not in out + said
    assert "bug" not in said, f"answered by the last handler: {said}"
    missing = [name for name in names if name not in said]
    assert not missing, f"{missing} not in: {said}"
    assert tree(keep) == before, "a refused command left something behind"
    return said
