"""Masks that cannot be scored: what is wrong is named, nothing is written, and no mistake raises a score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hostile import trees
from tests.hostile.answers import refused

Change = Callable[[Path], object]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Predicted and true masks of two classes, as the folders `found` and `truth`."""
    monkeypatch.chdir(tmp_path)
    for folder in ("found", "truth"):
        Path(folder).mkdir()
        for name in ("a", "b"):
            grey(f"{folder}/{name}.png")
    return tmp_path


def grey(path: str, *changes: tuple[int, int], size: int = trees.SIDE) -> None:
    mask = np.zeros((size, size), np.uint8)
    mask[2:6, 2:9] = 1
    for row, value in changes:
        mask[row] = value
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path, "PNG")


def nothing(_: Path) -> None:
    pass


def emptied(name: str) -> Change:
    return lambda place: [path.unlink() for path in (place / name).iterdir()]


CASES: dict[str, tuple[Change, list[str], list[str]]] = {
    "no folder of predictions": (
        nothing, ["nowhere", "--truth", "truth"], ["nowhere: no such folder", "predicted masks"],
    ),
    "a file of predictions": (
        nothing, ["found/a.png", "--truth", "truth"], ["found/a.png: no such folder", "a PNG for each image"],
    ),
    "no truth": (nothing, ["found", "--truth", "nowhere"], ["nowhere: no such folder", "true masks"]),
    "truth left out": (nothing, ["found"], ["required: --truth"]),
    "an empty word": (nothing, ["found", "--truth", ""], ["--truth: is ''"]),
    "empty predictions": (emptied("found"), ["found", "--truth", "truth"], ["found: holds no PNG"]),
    "empty truth": (emptied("truth"), ["found", "--truth", "truth"], ["truth: holds no PNG"]),
    "one folder for both": (nothing, ["truth", "--truth", "truth"], ["truth: is the folder of the true masks, too"]),
    "a prediction missing": (
        lambda _: Path("found/b.png").unlink(), ["found", "--truth", "truth"],
        ["found/b.png: no such file", "truth/b.png", "1 of 2 true masks"],
    ),
    "other names": (
        lambda _: Path("found/b.png").rename("found/B.png"), ["found", "--truth", "truth"], ["found/b.png: no such"],
    ),
    "two of a name": (
        lambda _: grey("found/a.PNG"), ["found", "--truth", "truth"], ["a.PNG both are the mask 'a'", "take one"],
    ),
    "two truths of a name": (
        lambda _: grey("truth/a.PNG"), ["found", "--truth", "truth"], ["a.PNG both are the mask 'a'", "take one"],
    ),
    "other sizes": (
        lambda _: grey("found/b.png", size=20), ["found", "--truth", "truth"],
        ["found/b.png: is 20x20 pixels", "truth/b.png is 16x16", "each image's own size"],
    ),
    "colours": (
        lambda _: trees.noise(Path("found/b.png"), 1), ["found", "--truth", "truth"],
        ["found/b.png: is of mode RGB", "expected 8-bit class indices"],
    ),
    "colours in the truth": (
        lambda _: trees.noise(Path("truth/b.png"), 1), ["found", "--truth", "truth"], ["truth/b.png: is of mode RGB"],
    ),
    "a JPEG by another name": (
        lambda _: Image.new("L", (16, 16)).save("found/b.png", "JPEG"), ["found", "--truth", "truth"],
        ["found/b.png: is a JPEG", "save it as PNG"],
    ),
    "JPEGs": (
        lambda place: [path.rename(path.with_suffix(".jpg")) for path in (place / "found").iterdir()],
        ["found", "--truth", "truth"], ["found: holds no PNG", ".jpg, but only a PNG keeps"],
    ),
    "a truncated one": (
        lambda _: Path("found/b.png").write_bytes(Path("found/b.png").read_bytes()[:60]),
        ["found", "--truth", "truth"], ["found/b.png: cannot be read as an image"],
    ),
    "a link to nothing": (
        lambda _: (Path("found/b.png").unlink(), Path("found/b.png").symlink_to("gone.png")),
        ["found", "--truth", "truth"], ["found/b.png: is a link to", "gone.png"],
    ),
    "a class that is not named": (
        lambda _: grey("found/b.png", (3, 7)), ["found", "--truth", "truth", "--classes", "cat,dog"],
        ["found/b.png: holds the value 7", "expected 0 to 2 or 255"],
    ),
    "a true class that is not named": (
        lambda _: grey("truth/b.png", (3, 254)), ["found", "--truth", "truth", "--classes", "cat,dog"],
        ["truth/b.png: holds the value 254", "expected 0 to 2 or 255"],
    ),
    "all ignored": (
        lambda _: [grey(f"truth/{name}.png", *((row, 255) for row in range(16))) for name in "ab"],
        ["found", "--truth", "truth"], ["truth/a.png: every pixel", "255 (ignored)"],
    ),
    "an empty class": (nothing, ["found", "--truth", "truth", "--classes", "cat,,dog"], ["has an empty name"]),
    "a class twice": (nothing, ["found", "--truth", "truth", "--classes", "cat, cat"], ["names 'cat' twice"]),
    "background as a class": (
        nothing, ["found", "--truth", "truth", "--classes", "background,cat"], ["'background', which is the value 0"],
    ),
    "too many classes": (
        nothing, ["found", "--truth", "truth", "--classes", ",".join(map(str, range(255)))], ["255 names", "254"],
    ),
    "a table that is none": (
        lambda place: (place / "labels.csv").write_text("a,b\n1,2\n"), ["found", "--truth", "truth"],
        ["labels.csv, line 1: expected a header 'id,CLASS,...'", "or name the classes with --classes"],
    ),
    "a list without a kit": (
        nothing, ["found", "--truth", "truth", "--list", "val"], ["truth: is no development kit", "it has no lists"],
    ),
    "a list outside": (
        nothing, ["found", "--truth", "truth", "--list", "../val"], ["'../val' leads outside the data"],
    ),
    "a kit without masks": (
        lambda place: trees.kit(place / "kit"), ["found", "--truth", "kit", "--list", "train"],
        ["SegmentationClass/a0.png: no such file", "the mask of a0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("written", [False, True], ids=["printed", "written"])
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_scored_is_named(
    case: str, written: bool, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words, names = CASES[case]
    change(place)
    refused(["score", *words, *(["--out", "scores"] if written else [])], names, capsys, place)


@pytest.mark.parametrize("out", ["found", "found/scores", "truth/deep/scores"])
def test_results_do_not_go_among_masks(out: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "link").symlink_to(place)
    for folder in (out, f"link/{out}"):
        words = ["score", "found", "--truth", "truth", "--out", folder]
        refused(words, [f"{folder}: lies in {out.split('/')[0]}", "--out"], capsys, place)


@pytest.mark.parametrize("name", ["scores.json", "scores.csv", "confusion.png", "worst.png"])
def test_files_of_the_users_stay(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine").mkdir()
    (place / "mine" / name).write_text("by hand")
    words = ["score", "found", "--truth", "truth", "--out", "mine"]
    refused(words, [f"mine/{name}: was not written by attnbridge", "--out"], capsys, place)
