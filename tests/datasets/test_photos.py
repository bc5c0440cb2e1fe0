"""Fetching photographs: apt's client on a private state, all or nothing, errors that say what to do."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from PIL import Image

from attnbridge.data.files import run_program
from attnbridge.datasets.synthetic import photos
from attnbridge.errors import AttnBridgeError

FAKE_APT = """#!/bin/sh
case "$*" in
  *download*) for last; do :; done; [ "$last" = lost ] && {{ echo "E: no such package" >&2; exit 100; }}; \
printf x > "$last"_1_all.deb ;;
esac
"""
FAKE_DPKG = """#!/bin/sh
mkdir -p "$3"; cp -r {root}/. "$3"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose apt serves one package of two stamps and one place."""
    root = tmp_path / "root"
    for name in ("stamps/a.png", "stamps/b.png"):
        path = root / "usr/share/tuxpaint" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(path)
    place = root / "usr/share/wallpapers/Path/contents/images/big.jpg"
    place.parent.mkdir(parents=True)
    Image.new("RGB", (3200, 2000)).save(place)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-get", FAKE_APT.format()), ("dpkg-deb", FAKE_DPKG.format(root=root))):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    catalogue = {
        "packages": ["stamps"],
        "cutouts": {"thing": ["a.png", "b.png"]},
        "places": {"files": ["wallpapers/Path/contents/images/big.jpg"]},
    }
    (tmp_path / "photos.json").write_text(json.dumps(catalogue))
    monkeypatch.setattr(photos, "CATALOGUE", tmp_path / "photos.json")
    return tmp_path


def test_photographs_are_fetched_sorted_and_kept(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cutouts, places = photos.prepare_photos(machine / "cache")
    assert sorted(p.name for p in (cutouts / "thing").iterdir()) == ["a.png", "b.png"]
    assert Image.open(places / "Path.jpg").size == (1600, 1000)
    assert not (machine / "cache/apt").exists()
    monkeypatch.setattr(photos, "fetch_packages", lambda *_: pytest.fail("fetched twice"))
    assert photos.prepare_photos(machine / "cache") == (cutouts, places)


def test_a_package_that_cannot_be_had_is_named(machine: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"fetching the package lost failed: .*no such package"):
        photos.fetch_packages(["lost"], machine / "cache/apt")


def test_a_file_that_the_release_lacks_is_named(machine: Path) -> None:
    catalogue = json.loads(photos.CATALOGUE.read_text())
    catalogue["cutouts"]["thing"].append("c.png")
    photos.CATALOGUE.write_text(json.dumps(catalogue))
    with pytest.raises(AttnBridgeError, match=r"c\.png: in none of the packages stamps; .*--images shapes"):
        photos.prepare_photos(machine / "cache")
    assert not (machine / "cache/catalogue.json").exists()


def test_without_apt_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not photos.apt_available()
    with pytest.raises(AttnBridgeError, match=r"needs the program 'apt-get', which is not installed"):
        run_program(["apt-get", "update"], "fetching the package lists")


def test_the_catalogue_names_each_file_once() -> None:
    catalogue = json.loads((Path(photos.__file__).parent / "photos.json").read_text())
    files = [file for group in catalogue["cutouts"].values() for file in group]
    assert len(files) == len(set(files)) > 180
    assert all(len(group) >= 9 for group in catalogue["cutouts"].values())
