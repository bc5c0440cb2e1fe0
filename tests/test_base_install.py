"""Looking needs no training packages: what ``pip install attnbridge`` brings is enough, and the rest says what is."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from packaging.requirements import Requirement
from PIL import Image

import attnbridge

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
LACKS = "pip install 'attnbridge[train]'"
WITHOUT = ["lightning", "pytorch_lightning", "torchmetrics", "jsonargparse", "matplotlib"]


def base_packages() -> set[str]:
    """Files and folders of the installed packages that the base dependencies bring, and those that these bring."""
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    extras: dict[str, set[str]] = {}
    found: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        try:
            package = distribution(wanted.name)
        except PackageNotFoundError:  # another platform's
            continue
        known = extras.setdefault(wanted.name.lower(), set())
        new = {"", *wanted.extras} - known
        known |= new
        for line in package.requires or [] if new else []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in new):
                waiting.append(needed)
        found |= {str(package.locate_file(file.parts[0])) for file in package.files or [] if file.parts[0] != ".."}
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, as the base install makes it."""
    folder = tmp_path_factory.mktemp("bare")
    for path in map(Path, base_packages() | {str(Path(attnbridge.__file__).parent)}):
        if path.name != "__pycache__":
            (folder / path.name).symlink_to(path)
    return folder


def run_bare(bare: Path, folder: Path, code: str) -> Any:
    """What code prints as JSON in its last line, where nothing but the base install can be imported."""
    lines = f"""
        import json, os, sys
        sys.path.append({str(bare)!r})
        os.environ["ATTNBRIDGE_CACHE"] = {str(folder / "cache")!r}
    """
    command = [sys.executable, "-I", "-S", "-c", dedent(lines) + dedent(code)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_training_packages_are_not_there(bare: Path, tmp_path: Path) -> None:
    code = """
        from importlib.util import find_spec
        print(json.dumps([name for name in %r if find_spec(name)]))
    """
    assert run_bare(bare, tmp_path, code % WITHOUT) == []


def test_names_and_help(bare: Path, tmp_path: Path) -> None:
    code = """
        from attnbridge.cli import main
        print(json.dumps([main(words.split()) for words in ["--help", "list", "show attnbn", "show clothing/gain"]]))
    """
    assert run_bare(bare, tmp_path, code) == [0, 0, 0, 0]


@pytest.mark.slow
def test_looking(bare: Path, tmp_path: Path) -> None:
    code = """
        import numpy, timm, torch
        from PIL import Image

        import attnbridge
        from attnbridge.cli import main

        net, images = timm.create_model("resnet10t", num_classes=5).eval(), torch.rand(2, 3, 64, 64)
        maps = attnbridge.explain(net, images)
        seen = attnbridge.observe(net, images, "layer4")
        chosen = seen.logits.argmax(1, keepdim=True)
        attnbridge.grad_cam(seen.features["layer4"], seen.logits, chosen)
        attnbridge.show(images, maps, "sheet.png")
        attnbridge.overlay(numpy.zeros((8, 8, 3), numpy.uint8), numpy.ones((2, 2)))
        attnbridge.losses.AttentionLoss()
        attnbridge.models.build_backbone("resnet10t", 5, weights="none")
        attnbridge.segmentation.combine_maps

        torch.save(net.state_dict(), "weights.pth")
        Image.fromarray(numpy.full((60, 80, 3), 90, numpy.uint8)).save("image.png")
        words = "explain image.png --model resnet10t --weights weights.pth --device cpu --out maps"
        print(json.dumps([list(maps.shape), main(words.split())]))
    """
    assert run_bare(bare, tmp_path, code) == [[2, 1, 2, 2], 0]
    assert (tmp_path / "sheet.png").is_file()
    assert len(list((tmp_path / "maps").glob("image.png.*.png"))) == 1
    assert (tmp_path / "maps/scores.csv").is_file()


@pytest.mark.slow
def test_all_public_names_are_there_or_say_what_they_need(bare: Path, tmp_path: Path) -> None:
    """Losses, networks and masks are there; what is trained by, on and scored with Lightning says what to install."""
    code = """
        import attnbridge

        said = {}
        for place in ("attnbridge", "data", "losses", "methods", "metrics", "models", "segmentation"):
            module = attnbridge if place == "attnbridge" else getattr(attnbridge, place)
            for name in module.__all__:
                try:
                    getattr(module, name)
                except ImportError as error:
                    said[f"{place}.{name}"] = str(error)
        print(json.dumps(said))
    """
    said = run_bare(bare, tmp_path, code)
    public = {f"{name}.{each}" for name in ("data", "methods", "metrics") for each in getattr(attnbridge, name).__all__}
    trained = {name for name in public if name.endswith("Module") or name.startswith(("methods.", "metrics."))}
    plain = {"methods.METHODS", "methods.load_method"}
    plain |= {"metrics.boundary_f_score", "metrics.label_iou", "metrics.mask_confusion"}
    assert set(said) == {"attnbridge.fit", *trained} - plain
    assert all(LACKS in words for words in said.values())
    assert said["metrics.MapSegmentation"].startswith("attnbridge.metrics.MapSegmentation needs torchmetrics: ")


@pytest.mark.slow
def test_scoring_masks(bare: Path, tmp_path: Path) -> None:
    """The figures alone need matplotlib, which is said before the work is done."""
    code = """
        import os
        from PIL import Image
        from attnbridge.cli import main

        for folder in ("found", "truth"):
            os.mkdir(folder)
            Image.new("L", (8, 8)).save(f"{folder}/a.png")
        words = "score found --truth truth".split()
        print(json.dumps([main(words), main([*words, "--out", "scores"]), os.path.exists("scores")]))
    """
    assert run_bare(bare, tmp_path, code) == [0, 2, False]


@pytest.mark.parametrize(
    "words",
    [
        "fit attnbn",
        "demo --quick",
        "search attnbn",
        "benchmark scenes",
        pytest.param("pipeline --source source --target target", marks=pytest.mark.slow),
        pytest.param("segment run image.png --out masks", marks=pytest.mark.slow),
        pytest.param("explain image.png --model run --out maps", marks=pytest.mark.slow),
        pytest.param("verify . --model resnet10t --weights weights.pth", marks=pytest.mark.slow),
    ],
)
def test_verbs_that_need_training_packages_say_so(bare: Path, tmp_path: Path, words: str) -> None:
    """In one line, without a traceback, and write nothing."""
    (tmp_path / "weights.pth").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("method: attnbn\n")
    (tmp_path / "run/checkpoints/last.ckpt").touch()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    code = f"""
        import contextlib, io
        from attnbridge.cli import main

        with contextlib.redirect_stderr(io.StringIO()) as said:
            status = main({words.split()!r})
        print(json.dumps([status, said.getvalue()]))
    """
    status, said = run_bare(bare, tmp_path, code)
    assert status == 2
    assert said.startswith("attnbridge: error: ")
    assert said.count("\n") == 1
    assert said.endswith(f"{LACKS}\n")
    assert {path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts} == before
