"""Where files are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.data.files import cache_dir


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path))
    assert cache_dir("a", "b") == tmp_path / "a/b"
    monkeypatch.delenv("ATTNBRIDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg/attnbridge"
