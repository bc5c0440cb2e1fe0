"""No command overwrites a file that it did not write, or that the user has changed since."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from attnbridge.cli import main
from attnbridge.data.provenance import LEDGER

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_cache")]
SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]", "--model.layer", "null"),
    *("--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "0", "--data.views", "null"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
VERBS = ["cues", "segment", "saliency", "explain of a run", "explain"]
OUTPUTS = {
    "cues": ["00003.png", "sheet.jpg", "scores.csv", "cues.json"],
    "segment": ["sub/1.png", "sheet.jpg", "masks.json"],
    "saliency": ["sub/1.png", "sheet.jpg", "saliency.json"],
    "explain of a run": ["sub/1.jpg.npz", "sub/1.jpg.{}.png", "sheet-1.jpg", "scores.csv", "manifest.jsonl"],
    "explain": ["sub/1.jpg.npz", "sub/1.jpg.3.png", "sheet-1.jpg", "scores.csv", "manifest.jsonl"],
}
"""Names that each command writes; {} stands for a class of the run's."""
CASES = [(verb, name) for verb in VERBS for name in OUTPUTS[verb]]


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "classifier"
    data = [*("--data.source", str(scenes / "source/train"), "--data.saliency", str(scenes / "saliency/train"))]
    assert main(["fit", "grad_cam", *data, "--data.target", str(scenes / "target"), "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(timm.create_model("resnet10t", num_classes=5).state_dict(), path)
    return path


@pytest.fixture
def inputs(scenes: Path, tmp_path: Path) -> Path:
    """The target's training images and labels, which are the user's to change; and three images in folders."""
    shutil.copytree(scenes / "target/train", tmp_path / "target/train")
    for number, path in enumerate(sorted((scenes / "target/test/images").iterdir())[:3]):
        place = tmp_path / "images" / ("sub" if number else "") / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return tmp_path


@pytest.fixture
def command(run: Path, weights: Path, inputs: Path) -> Any:
    """The words of a command line by verb."""
    images = str(inputs / "images")
    words = {
        "cues": ["--checkpoint", str(run), "--data", str(inputs / "target"), "--scales", "1", "--no-flip"],
        "segment": [str(run), images],
        "saliency": [images, "--model", "centre", "--preview"],
        "explain of a run": [images, "--model", str(run), "--threshold", "0.5", "--all"],
        "explain": [images, "--model", "resnet10t", "--weights", str(weights), "--top", "5"],
    }
    return lambda verb: [verb.split()[0], *words[verb], "--out", str(inputs / "out")]


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def a_class(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["classes"][0])


@pytest.mark.parametrize(("verb", "name"), CASES)
def test_a_file_of_the_users_stays_and_nothing_is_written(
    verb: str, name: str, command: Any, run: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = inputs / "out" / name.format(a_class(run))
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"hand-drawn")
    assert main(command(verb)) == 2
    assert everything(inputs / "out") == {theirs.relative_to(inputs / "out").as_posix(): b"hand-drawn"}
    error = capsys.readouterr().err
    assert str(theirs) in error
    assert "was not written by attnbridge" in error
    assert "name another folder with --out" in error


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_call_makes_again_what_is_its_own_and_outdated(verb: str, command: Any, inputs: Path) -> None:
    out = inputs / "out"
    assert main(command(verb)) == 0
    before = everything(out)
    times = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if "1." in path.name or "3." in path.name}
    assert main(command(verb)) == 0
    assert {name: content for name, content in everything(out).items() if name != LEDGER} == {
        name: content for name, content in before.items() if name != LEDGER
    }
    assert all(path.stat().st_mtime_ns == t for path, t in times.items() if "sheet" not in path.name)
    time.sleep(0.01)
    changed = inputs / ("target/train/images/00003.jpg" if verb == "cues" else "images/sub/1.jpg")
    Image.new("RGB", (48, 48), "red").save(changed)
    assert main(command(verb)) == 0
    made = [path for path, t in times.items() if not path.exists() or path.stat().st_mtime_ns > t]
    assert [path for path in made if path.stem.startswith(("1", "00003"))]


@pytest.mark.parametrize("verb", VERBS)
def test_an_output_that_was_edited_is_not_made_again(
    verb: str, command: Any, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = inputs / "out"
    assert main(command(verb)) == 0
    endings = {"cues": "00003.png", "explain": "1.jpg.npz", "explain of a run": "1.jpg.npz"}
    edited = next(out.rglob(endings.get(verb, "1.png")))
    Image.new("L", (9, 9)).save(edited, "PNG")
    time.sleep(0.01)
    changed = inputs / ("target/train/images/00003.jpg" if verb == "cues" else "images/sub/1.jpg")
    Image.new("RGB", (48, 48), "red").save(changed)
    before = everything(out)
    assert main(command(verb)) == 2
    assert everything(out) == before
    error = capsys.readouterr().err
    assert f"{edited}: was changed after attnbridge wrote it" in error
    edited.unlink()  # moved away
    assert main(command(verb)) == 0
    assert edited.is_file()


@pytest.mark.parametrize("verb", VERBS)
def test_a_sheet_that_was_edited_stays(
    verb: str, command: Any, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(verb)) == 0
    page = next((inputs / "out").glob("sheet*.jpg"))
    Image.new("RGB", (9, 9)).save(page)
    before = everything(inputs / "out")
    assert main(command(verb)) == 2
    assert everything(inputs / "out") == before
    assert f"{page}: was changed" in capsys.readouterr().err


def test_masks_that_are_scored_against_are_not_made_cues(
    command: Any, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Newer than their images, so they look as if they were current."""
    masks = inputs / "target/train/masks"
    before = everything(masks)
    count = len(list(masks.glob("*.png")))
    words = command("cues")
    assert main([*words[:-1], str(masks)]) == 2
    assert everything(masks) == before
    captured = capsys.readouterr()
    assert f"({count} such files in all)" in captured.err
    assert "precision" not in captured.out


@pytest.mark.parametrize("verb", ["saliency", "segment"])
def test_images_are_not_overwritten_by_what_is_made_of_them(
    verb: str, run: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = inputs / "mine"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(folder / name)
    before = everything(folder)
    words = [f"{folder}/*.png", "--model", "centre"] if verb == "saliency" else [str(run), f"{folder}/*.png"]
    assert main([verb, *words, "--out", str(folder)]) == 2
    assert everything(folder) == before
    assert "a.png: was not written by attnbridge and would be overwritten (2 such files in all)" in (
        capsys.readouterr().err
    )


def test_killed_between_ledger_and_file_it_goes_on(command: Any, inputs: Path) -> None:
    """The second file is named in the ledger and not there; made anew, and then once more while it is replaced."""
    out = inputs / "out"
    kill = (
        "import os, signal, sys\n"
        "from attnbridge.cli import main\n"
        "from attnbridge.data.provenance import OwnFiles\n"
        "claim, count = OwnFiles._claim, []\n"
        "def killed(self, name, checksum):\n"
        "    claim(self, name, checksum)\n"
        "    count.append(name)\n"
        "    if len([n for n in count if 'sub' in n]) == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "OwnFiles._claim = killed\n"
        "main(sys.argv[1:])\n"
    )
    for turn in range(2):
        done = subprocess.run([sys.executable, "-c", kill, *command("saliency")], check=False, env=os.environ)
        assert done.returncode == -signal.SIGKILL
        assert '"sub/1.png"' in (out / LEDGER).read_text().splitlines()[-1]
        assert (out / "sub/1.png").is_file() == bool(turn)
        with (out / LEDGER).open("a") as ledger:
            ledger.write('\n{"file": "su')  # a line that was cut off
        assert main(command("saliency")) == 0
        assert Image.open(out / "sub/1.png").size == Image.open(inputs / "images/sub/1.jpg").size
        time.sleep(0.01)
        Image.new("RGB", (30, 20), "red").save(inputs / "images/sub/1.jpg")


def test_a_copied_folder_is_still_its_own(command: Any, inputs: Path) -> None:
    """Whatever the copy did to the files' times."""
    out = inputs / "out"
    assert main(command("saliency")) == 0
    for path in out.rglob("*"):
        os.utime(path, (0, 0))
    assert main(command("saliency")) == 0
    assert all(path.stat().st_mtime > 0 for path in out.rglob("*.png"))
