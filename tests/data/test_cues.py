"""Cues are of the images that training reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnbridge.data.checks import check_cues
from attnbridge.data.palette import palette_png
from attnbridge.errors import AttnBridgeError
from tests.hostile import trees


def made(root: Path, images: str) -> Path:
    """Cues of a pair, and of which images they are said to be."""
    root.mkdir()
    for i in range(4):
        palette_png(trees.mask_of(1)).save(root / f"00{i}.png")
    (root / "cues.json").write_text(json.dumps({"classes": ["cat", "dog"], "images": images}))
    return root


def check(pair: Path, cues: Path) -> None:
    folders = {name: str(pair / name) for name in ("source", "target", "saliency")}
    check_cues(True, cues=str(cues), **folders)


@pytest.mark.parametrize("images", ["pair/target/train/images", "link/train/images", "/gone/elsewhere/train/images"])
def test_cues_of_the_images_are_taken(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a relative path, through a link, and from a place where they were once."""
    monkeypatch.chdir(tmp_path)
    trees.pair(tmp_path / "pair")
    Path("link").symlink_to("pair/target")
    check(tmp_path / "pair", made(tmp_path / "cues", images))
    check(Path("pair"), tmp_path / "cues")


@pytest.mark.parametrize("images", ["pair/target/val/images", "/gone/target/val/images", "other/target/train/images"])
def test_cues_of_other_images_of_the_same_names_are_refused(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another split, of one that was somewhere once, and of another set."""
    monkeypatch.chdir(tmp_path)
    trees.pair(tmp_path / "pair")
    trees.pair(tmp_path / "other")
    cues = made(tmp_path / "cues", images)
    with pytest.raises(AttnBridgeError) as error:
        check(Path("pair"), cues)
    for words in (images, "pair/target/train/images", "attnbridge cues --split train", f"into {cues / 'cues.json'}"):
        assert words in str(error.value)
    (cues / "cues.json").write_text(json.dumps({"classes": ["cat", "dog"], "images": "pair/target/train/images"}))
    check(Path("pair"), cues)
