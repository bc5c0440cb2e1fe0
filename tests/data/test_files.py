"""Where files are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.data.files import cache_dir, walk_files
from attnbridge.errors import AttnBridgeError


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path))
    assert cache_dir("a", "b") == tmp_path / "a/b"
    monkeypatch.delenv("ATTNBRIDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg/attnbridge"


def test_files_in_linked_folders_are_found_once_on_each_way_and_no_link_goes_round(tmp_path: Path) -> None:
    for name in ("set/cat/1.jpg", "pool/2.jpg", "pool/deep/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "set"
    (root / "dog").symlink_to(tmp_path / "pool")
    (root / "fox").symlink_to("../pool/deep")
    (root / "cat/up").symlink_to("..")
    (root / "cat/self").symlink_to("../cat")
    (root / "out").symlink_to(tmp_path)  # holds the folder itself
    (tmp_path / "pool/back").symlink_to(root)
    (root / "lost.jpg").symlink_to("nowhere")
    found = [path.relative_to(root).as_posix() for path in walk_files(root)]
    assert found == ["cat/1.jpg", "dog/2.jpg", "dog/deep/3.jpg", "fox/3.jpg", "lost.jpg"]
    (tmp_path / "way").symlink_to(root)
    assert [path.relative_to(tmp_path / "way").as_posix() for path in walk_files(tmp_path / "way")] == found


def test_links_that_stand_for_any_number_of_folders_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbridge.data.files.MOST_LINKED", 50)
    for i in range(5):
        (tmp_path / str(i)).mkdir()
        for other in range(5):
            (tmp_path / str(i) / f"to{other}").symlink_to(tmp_path / str(other))
    with pytest.raises(AttnBridgeError, match=r"its links stand for more than 50 folders"):
        walk_files(tmp_path)
