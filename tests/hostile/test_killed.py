"""Real processes killed by SIGINT, SIGTERM and SIGKILL in the middle; the same command then ends as if nothing was."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.hostile.answers import tree
from tests.hostile.processes import files, killed, run

pytestmark = pytest.mark.usefixtures("module_cache")
SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]", "--model.layer", "null"),
    *("--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "0", "--data.views", "null"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
IMAGES = 60
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
"""The exit status after each."""


@dataclass(frozen=True)
class Case:
    """A command, and the moments at which it is killed.

    Attributes:
        words: of the command, without its folder.
        moments: of its folder, by name.
        resume: what the second call has to say in addition.
    """

    words: list[str]
    moments: dict[str, Callable[[Path], bool]]
    resume: tuple[str, ...] = ()


def there(name: str) -> Callable[[Path], bool]:
    return lambda out: (out / name).exists()


def count(number: int) -> Callable[[Path], bool]:
    return lambda out: len(files(out)) >= number


@pytest.fixture(scope="module")
def cases(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    base = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    (base / "images").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for number in range(IMAGES):
        image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).resize((250, 200))
        image.save(base / f"images/{number:03}.jpg")
        content["images"].append({"id": number, "file_name": f"{number:03}.jpg", "width": 250, "height": 200})
        content["annotations"].append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": [[10, 10, 100, 10, 100, 90 + number, 10, 90]],
            }
        )
    (base / "coco/annotations").mkdir(parents=True)
    (base / "coco/val2017").symlink_to(base / "images")
    (base / "coco/annotations/instances_val2017.json").write_text(json.dumps(content))
    torch.save(timm.create_model("resnet10t", num_classes=5).state_dict(), base / "small.pth")
    (base / "small.yaml").write_text("base: segmentation/dsrg\nmodel: {head_width: 16}\nevaluation: {crf: false}\n")
    data = [*("--data.source", str(scenes / "source/train"), "--data.saliency", str(scenes / "saliency/train"))]
    chain = [*("--source", str(scenes / "source/train"), "--target", str(scenes / "target"))]
    chain += [*("--saliency", str(scenes / "saliency/train"), "--target-saliency", "centre")]
    images = str(base / "images")
    some = {"first": count(1), "middle": count(IMAGES // 2)}
    return {
        "fit": Case(
            ["fit", "attnbn", *data, "--data.target", str(scenes / "target"), *SMALL, "--trainer.max_epochs", "3"],
            {
                "start": there("config.yaml"),
                "epoch": there("metrics.csv"),
                "report": lambda out: len(files(out / "attention")) > 2,
            },
            ("--resume",),
        ),
        "pipeline": Case(
            ["pipeline", *chain, "--segmentation", str(base / "small.yaml"), *SMALL, "--trainer.max_epochs", "1"],
            {name: there(name) for name in ("classifier", "cues", "segmentation", "masks")},
        ),
        "explain": Case(  # rounding depends on the images beside one in a batch
            ["explain", images, "--model", "resnet10t", "--weights", str(base / "small.pth"), "--batch", "1"], some
        ),
        "saliency": Case(["saliency", images, "--model", "centre", "--preview"], some),
        "data import": Case(
            ["data", "import", "coco", str(base / "coco"), "--split", "val2017"],
            {"first": there("imports.json"), "middle": lambda out: len(files(out)) > IMAGES // 2},
        ),
    }


NAMES = {
    "fit": ("start", "epoch", "report"),
    "pipeline": ("classifier", "cues", "segmentation", "masks"),
    "explain": ("first", "middle"),
    "saliency": ("first", "middle"),
    "data import": ("first", "middle"),
}
QUICK = {("explain", "middle"), ("saliency", "middle"), ("data import", "middle"), ("pipeline", "segmentation")}
"""What CI tries with SIGKILL; `fit` is killed in tests/cli/test_resume.py and tests/methods/test_every_method.py."""


def each() -> list[Any]:
    found = []
    for verb, moments in NAMES.items():
        for moment in moments:
            for how in SIGNALS:
                quick = how == signal.SIGKILL and (verb, moment) in QUICK
                found.append(pytest.param(verb, moment, how, marks=pytest.mark.slow if quick else pytest.mark.hostile))
    return found


@pytest.fixture(scope="module")
def whole(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a command that nobody killed."""
    made: dict[str, Path] = {}

    def make(verb: str) -> Path:
        if verb not in made:
            folder = tmp_path_factory.mktemp("whole")
            run([*cases[verb].words, "--out", str(folder / "out")], folder / "log")
            made[verb] = folder / "out"
        return made[verb]

    return make


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def plain(path: Path, out: Path) -> Any:
    """What a file says, without dates, times and the folder's own place."""
    if path.name == "last.ckpt":
        return {name: value.tolist() for name, value in weights(path).items()}
    if path.name == "run.json":
        record = json.loads(path.read_text())
        return {key: record[key] for key in ("scores", "classes", "seed", "name")}
    if path.name == "metrics.csv":
        rows = list(csv.DictReader(path.open()))
        return [
            {key: value for key, value in row.items() if "time" not in key and "seconds" not in key} for row in rows
        ]
    if path.suffix in (".json", ".jsonl", ".yaml", ".html", ".log"):
        return None
    return path.read_bytes()


@pytest.mark.parametrize(("verb", "moment", "how"), each())
def test_the_same_command_goes_on_to_the_same_end(
    verb: str, moment: str, how: signal.Signals, cases: dict[str, Case], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    case, out, log = cases[verb], tmp_path / "out", tmp_path / "log"
    inputs = Path(cases["saliency"].words[1]).parent
    before = tree(inputs)
    expected = whole(verb)
    words = [*case.words, "--out", str(out)]
    assert killed(words, how, lambda: case.moments[moment](out), log) == SIGNALS[how], log.read_text()
    said = log.read_text()
    assert "Traceback" not in said
    if how != signal.SIGKILL:
        assert "interrupted" in said
        assert not [name for name in tree(out) if ".partial" in name], "an interrupted command clears up"
    begun = (out / "config.yaml").is_file()
    run([*words, *(case.resume if begun else ())], log)
    assert not [name for name in tree(out) if ".partial" in name]
    names = {path.relative_to(expected).as_posix() for path in files(expected)}
    assert {path.relative_to(out).as_posix() for path in files(out)} == names
    for name in sorted(names):
        assert plain(out / name, out) == plain(expected / name, expected), name
    assert tree(inputs) == before
