"""`attnbridge data import`: names that are wrong, downloads that fail, and what is printed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from attnbridge.cli import main
from attnbridge.datasets import SETS

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    root.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 6)).save(root / f"{name}.jpg")
    (root / "labels.csv").write_text("image,labels\na,cat\nb,cat dog\n")
    return root


def write_kit(root: Path, year: str, *lists: str) -> None:
    """What torchvision would unpack."""
    kit = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (kit / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(kit / "JPEGImages/x.jpg")
    Image.fromarray(np.full((6, 8), 12, np.uint8)).save(kit / "SegmentationClass/x.png")
    for name in lists:
        (kit / f"ImageSets/Segmentation/{name}.txt").write_text("x\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cocoo", "x"], "unknown data set 'cocoo'; did you mean 'coco'?"),
        (
            ["pacs", "x", "--out", "y", "--split", "cartoons"],
            "unknown split of pacs: 'cartoons'; did you mean 'cartoon'",
        ),
        (["coco", "x", "--out", "y", "--classes", "vok"], "unknown classes for coco: 'vok'; did you mean 'voc'"),
        (["csv", "x", "--out", "y", "--classes", "voc"], "csv comes in its own classes alone; leave --classes out"),
        (["coco", "x", "--out", "y", "--splitt", "val2017"], "argument of data: '--splitt'; did you mean '--split'"),
        (["coco", "x"], "--out is missing: coco is written in another layout"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_name_is_answered_before_torch_is_imported(words: list[str], message: str) -> None:
    program = "import sys; from attnbridge.cli import main; s = main(); print('torch' in sys.modules); sys.exit(s)"
    done = subprocess.run(
        [sys.executable, "-c", program, "data", "import", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert message in done.stderr


def test_help_and_the_list_name_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", "import", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for name, entry in SETS.items():
        assert f"  {name}: {entry.splits[0]}" in shown
        assert entry.source in shown
        assert f"  {name:<22}{entry.source}\n" in listed


def test_an_import_prints_its_table_and_what_comes_next(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["data", "import", "csv", str(own), "--out", str(out), "--split", "mine"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.startswith("| class | mine |\n|---|---|\n| cat | 2 |\n| dog | 1 |\n| images | 2 |\n")
    assert f"attnbridge data check {out}" in first
    assert f"target: {out}\n    lists: {{train: mine, val: ..., test: ...}}" in first
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert main(["data", "check", str(out), "--out", str(tmp_path / "report.md")]) == 0
    assert "| images | 2 |\n\n0 problems" in (tmp_path / "report.md").read_text()


def test_class_folders_are_linked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("train/hat", "train/shirt", "test/hat"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "set" / folder / "1.jpg")
    out = tmp_path / "out"
    assert main(["data", "import", "clothing_small", str(tmp_path / "set"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("| class | train |\n|---|---|\n| hat | 1 |\n| shirt | 1 |\n| images | 2 |\n")
    assert f"source: {out}" in text
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.jpg")) == ["hat/1.jpg", "shirt/1.jpg"]


def test_a_domain_is_told_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for domain in ("photo", "sketch"):
        (tmp_path / "PACS" / domain / "dog").mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "PACS" / domain / "dog" / "pic_001.jpg")
    out = tmp_path / "pacs" / "photo"
    assert main(["data", "import", "pacs", str(tmp_path / "PACS"), "--split", "photo", "--out", str(out)]) == 0
    assert f"data: {out.parent}\n    sources: [...]\n    target: photo" in capsys.readouterr().out


def test_what_cannot_be_fetched_says_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "import", "pacs", str(tmp_path), "--out", str(tmp_path.parent / "out")]
    told = "pacs: get it from https://dali-dl.github.io/project_iccv2017.html"
    for more in (["--download"], []):  # without it, the folder is not PACS
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err
    assert main(["data", "import", "coco", str(tmp_path / "lost"), "--out", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert "lost: no such folder\ncoco: get it from https://cocodataset.org/#download" in text
    assert "must hold annotations/instances_SPLIT.json, and SPLIT/*.jpg" in text


def test_voc_is_fetched_once_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fetched(root: str, year: str, image_set: str, download: bool) -> None:
        calls.append((year, image_set, download))
        write_kit(Path(root), year, *(["test"] if image_set == "test" else ["train", "val", "trainval"]))

    monkeypatch.setattr(datasets, "VOCSegmentation", fetched)
    words = ["data", "import", "voc2007", str(tmp_path / "voc"), "--download"]
    for _ in range(2):
        assert main(words) == 0
    assert main([*words, "--split", "test"]) == 0
    assert calls == [("2007", "train", True), ("2007", "test", True)]
    text = capsys.readouterr().out
    assert "| dog | 1 |" in text
    assert f"target: {tmp_path / 'voc/VOCdevkit/VOC2007'}\n" in text


def test_caltech_is_fetched_and_brought_to_vocs_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetched(root: str, download: bool) -> None:
        folder = Path(root) / "caltech256" / "256_ObjectCategories" / "056.dog"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(folder / "056_0001.jpg")

    monkeypatch.setattr(datasets, "Caltech256", fetched)
    words = ["data", "import", "caltech256", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--classes", "voc"]
    assert main([*words, "--download"]) == 0
    assert "| dog | 1 |" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out" / "dog").iterdir()] == ["dog_056_0001.jpg"]


def test_commands_that_are_told_can_be_pasted(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the folder is called."""
    out = tmp_path / "my images; ls"
    assert main(["data", "import", "csv", str(own), "--out", str(out), "--split", "mine"]) == 0
    told = capsys.readouterr().out.split("next: ")[1].splitlines()[0]
    assert shlex.split(told) == ["attnbridge", "data", "check", str(out)]
    assert main(shlex.split(told)[1:]) == 0
    capsys.readouterr()
    (own / "annotations").mkdir()
    (own / "annotations/instances_val2017.json").write_text("{}")
    own.rename(tmp_path / "my set")
    assert main(["data", "check", str(tmp_path / "my set")]) == 2
    told = capsys.readouterr().err.split("`")[1]
    assert shlex.split(told)[:5] == ["attnbridge", "data", "import", "coco", str(tmp_path / "my set")]


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("File not found or corrupted."), TimeoutError()])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("voc2012", "VOCSegmentation"), ("sbd", "SBDataset"), ("caltech101", "Caltech101"), ("caltech256", "Caltech256")],
)
def test_a_download_that_fails_says_what_to_fetch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
    error: Exception,
) -> None:
    def failed(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, kind, failed)
    out = ["--out", str(tmp_path / "out")] if SETS[name].kind == "class folders" else []
    assert main(["data", "import", name, str(tmp_path / "x"), "--download", *out]) == 2
    text = capsys.readouterr().err
    assert f"could not be fetched ({error})" in text
    assert f"{name}: get it from {SETS[name].source}" in text
    assert SETS[name].layout in text


def test_check_knows_cocos_own_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text("{}")
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "val2017/a.jpg")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert f"this is coco's own layout; bring it in with `attnbridge data import coco {tmp_path}" in (
        capsys.readouterr().err
    )
