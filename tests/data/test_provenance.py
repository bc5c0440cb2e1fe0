"""What this program wrote into a folder is told from what is the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.data.provenance import LEDGER, OwnFiles, Stages
from attnbridge.errors import AttnBridgeError


def test_files_of_another_process_are_no_strangers(tmp_path: Path) -> None:
    """Two runs that fill one folder at the same time, as the cache of saliency maps."""
    first, second = OwnFiles(tmp_path), OwnFiles(tmp_path)
    for own in (first, second):
        own.check([tmp_path / "a.png"])
        with own.writing(tmp_path / "a.png") as partial:
            partial.write_text("made")
    (tmp_path / "b.png").write_text("mine")
    with (
        pytest.raises(AttnBridgeError, match=r"b\.png: was not written by attnbridge"),
        first.writing(tmp_path / "b.png") as partial,
    ):
        partial.write_text("made")
    assert (tmp_path / "b.png").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, "a.png", "b.png"]


def test_a_stage_that_was_edited_is_not_thrown_away(tmp_path: Path) -> None:
    """A pipeline makes a stage again when what it was made of has changed."""

    def make(folder: Path) -> None:
        with OwnFiles(folder).writing(folder / "a.png") as partial:
            partial.write_text("made")

    stages = Stages(tmp_path, replaces=True)
    stages.run("masks", {"seed": 0}, make)
    stages.run("masks", {"seed": 1}, make)
    (tmp_path / "masks/a.png").write_text("mine")
    with pytest.raises(AttnBridgeError, match=r"a\.png: was changed after attnbridge wrote it"):
        stages.run("masks", {"seed": 2}, make)
    assert (tmp_path / "masks/a.png").read_text() == "mine"
