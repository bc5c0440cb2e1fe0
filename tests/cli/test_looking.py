"""`attnbridge explain` as a user runs it, on images and small networks that the tests make."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image

from attnbridge.attention.explain import explain
from attnbridge.attention.observe import observe
from attnbridge.cli import main
from attnbridge.data.images import load_image
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.folders import explain as explain_images
from attnbridge.models.classifiers import load_classifier


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=5)
    torch.nn.init.normal_(network.get_classifier().weight)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 40)), ("a.jpg", (50, 50)), ("sub/a.jpg", (30, 70)), ("sub/b.png", (20, 20))):
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(folder / name)
    return folder


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def run(weights: Path, *words: object) -> int:
    return main(["explain", "--model", "resnet10t", "--weights", str(weights), *map(str, words)])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("fc", r"layer 'fc': features of shape \(4, 5\) are no maps; .*; name one with .*, as 'layer4', '"),
        ("layer44", "unknown layer 'layer44'; did you mean 'layer4'"),
    ],
)
def test_a_layer_without_maps_is_named_and_leaves_no_folder(
    layer: str, words: str, weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps"
    assert run(weights, images, "--out", out, "--layer", layer) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").touch()
    assert run(weights, images, "--out", out, "--layer", layer) == 2
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert run(weights, images, "--out", out) == 0
    before = (out / "manifest.jsonl").read_bytes()
    assert run(weights, images, "--out", out, "--layer", layer) == 2
    assert (out / "manifest.jsonl").read_bytes() == before


def test_overlays_arrays_manifest_and_sheet(weights: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    assert run(weights, images, "--out", out, "--top", 2, "--batch", 3) == 0
    settings, *entries = lines(out)
    assert (settings["model"], settings["method"]) == ("resnet10t", "grad_cam")
    assert [entry["id"] for entry in entries] == ["a.jpg", "a.png", "sub/a.jpg", "sub/b.png"]
    for entry in entries:
        size = Image.open(images / entry["id"]).size
        assert len(entry["classes"]) == 2
        assert all(Image.open(out / c["overlay"]).size == size for c in entry["classes"])
        arrays = np.load(out / entry["arrays"])
        assert arrays["maps"].shape == (2, 6, 6)  # of 176 pixels
        assert arrays["indices"].tolist() == [c["index"] for c in entry["classes"]]
        assert arrays["scores"].sum() == pytest.approx(1, abs=1e-5)
    model = load_classifier("resnet10t", str(weights), "cpu")
    image = Image.open(images / "sub/b.png").resize((model.size, model.size), Image.Resampling.BILINEAR)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    expected = explain(model.network, model.normalise(tensor), arrays["indices"].tolist())
    torch.testing.assert_close(torch.from_numpy(arrays["maps"]), expected[0].detach(), rtol=0.05, atol=0.02)
    assert Image.open(out / "sheet-1.jpg").size[0] == 8 * 148 + 4
    assert not list(out.rglob(".partial*"))


def test_a_second_call_goes_on_where_the_first_stopped(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps"
    save, count = np.savez, []

    def interrupted(*a: Any, **k: Any) -> None:
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        save(*a, **k)

    with monkeypatch.context() as patch:
        patch.setattr(explain_images.np, "savez", interrupted)
        assert run(weights, images, "--out", out, "--batch", 1) == 130
    assert [line["id"] for line in lines(out)[1:]] == ["a.jpg", "a.png"]
    assert not list((out / "sub").iterdir())  # nothing of the third image
    with (out / "manifest.jsonl").open("a") as handle:
        handle.write('{"id": "sub/')  # a line that was cut off
    before = (out / "a.jpg.npz").stat().st_mtime_ns
    assert run(weights, images, "--out", out) == 0
    assert len(lines(out)) == 5
    assert (out / "a.jpg.npz").stat().st_mtime_ns == before
    Image.new("RGB", (9, 9)).save(images / "a.jpg")  # changed since
    assert run(weights, images, "--out", out) == 0
    assert (out / "a.jpg.npz").stat().st_mtime_ns > before
    assert run(weights, images, "--out", out, "--method", "layer_cam") == 2
    assert "holds maps made with method = 'grad_cam', not 'layer_cam'" in capsys.readouterr().err


def test_class_names_are_written_once_and_older_folders_go_on(weights: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    assert run(weights, images, "--out", out) == 0
    header, *entries = (out / "manifest.jsonl").read_text().splitlines()
    assert json.loads(header)["class_names"] == ["0", "1", "2", "3", "4"]
    arrays = np.load(out / "a.jpg.npz")
    assert sorted(arrays.files) == ["indices", "maps", "scores"]
    held = sum(arrays[name].nbytes for name in arrays.files)
    assert (out / "a.jpg.npz").stat().st_size < held + 1024
    older = {key: value for key, value in json.loads(header).items() if key != "class_names"}
    (out / "manifest.jsonl").write_text("\n".join([json.dumps(older), *entries[:-1]]) + "\n")
    before = (out / "a.jpg.npz").stat().st_mtime_ns
    assert run(weights, images, "--out", out) == 0
    assert [line["id"] for line in lines(out)[1:]] == [json.loads(entry)["id"] for entry in entries]
    assert lines(out)[0] == json.loads(header)
    assert (out / "a.jpg.npz").stat().st_mtime_ns == before


def test_sheets_of_images_that_were_done_before_are_the_same(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_images, "PER_PAGE", 3)  # of the four
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(weights, images, "--out", whole, "--batch", 3, "--top", 2) == 0
    assert run(weights, images / "a.png", "--out", parts, "--top", 2) == 0
    before = (parts / "a.png.npz").stat().st_mtime_ns
    assert run(weights, images, "--out", parts, "--batch", 3, "--top", 2) == 0
    assert (parts / "a.png.npz").stat().st_mtime_ns == before
    sheets = [path.name for path in sorted(whole.glob("sheet-*"))]
    assert sheets == ["sheet-1.jpg", "sheet-2.jpg"]
    assert run(weights, images, "--out", whole, "--top", 2) == 0  # nothing is left to do
    for name in sheets:
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_bad_image_is_reported_and_skipped(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "bad.jpg").write_bytes(b"no image")
    out = tmp_path / "maps"
    assert run(weights, f"{images}/*.*", "--out", out, "--classes", "3", "--layer", "layer3") == 1
    assert "bad.jpg: cannot be read as an image" in capsys.readouterr().out
    assert [(line["id"], "error" in line) for line in lines(out)[1:]] == [
        ("bad.jpg", True), ("a.jpg", False), ("a.png", False)
    ]  # fmt: skip
    assert np.load(out / "a.png.npz")["maps"].shape == (1, 11, 11)
    Image.new("RGB", (9, 9)).save(images / "bad.jpg")
    assert run(weights, f"{images}/*.*", "--out", out, "--classes", "3", "--layer", "layer3") == 0
    assert len(lines(out)) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "gradcam"], "unknown method 'gradcam'; did you mean 'grad_cam'"),
        (["--layer", "layr4"], "unknown layer 'layr4'; did you mean 'layer4'"),
        (["--classes", "9"], "unknown class '9'"),
        (["--top", "0"], "--top must be at least 1, not 0"),
        (["--weights", "lost.pth"], "lost.pth: no such weight file"),
        (["--model", "resnet10tt"], "unknown model 'resnet10tt'; did you mean 'resnet10t'"),
        (["--model", "runs/none"], "runs/none: is no run made by `attnbridge fit`"),
        (["--method", "rollout"], "no attention matrix was seen"),
        (["--top", "2", "--threshold", "0.5"], "--top and --threshold both choose the classes; give one of them"),
        (["--classes", "1", "--top", "2"], "--classes and --top both choose the classes; give one of them"),
        (["--threshold", "1"], "--threshold must be at least 0 and below 1, not 1"),
        (["--threshold", "nan"], "--threshold must be at least 0 and below 1, not nan"),
        (["--batch", "0"], "--batch must be at least 1 and at most 65536, not 0"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(
    weights: Path, images: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(weights, images, "--out", tmp_path / "maps", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("maps/*.npz"))
    assert run(weights, images, "--out", tmp_path / "maps") == 0


def test_other_weights_need_another_folder(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(weights)
    torch.save({"state_dict": {f"module.{k}": v * 0.5 for k, v in state.items()}}, tmp_path / "w2.pth")
    assert run(weights, images, "--out", tmp_path / "maps") == 0
    assert run(tmp_path / "w2.pth", images, "--out", tmp_path / "maps") == 2
    assert "holds maps made with checksum" in capsys.readouterr().err


def test_results_are_not_taken_for_images_and_stay_in_their_folder(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / ".hidden").mkdir()
    Image.new("RGB", (9, 9)).save(images / ".hidden/x.png")
    for _ in range(2):
        assert run(weights, images, "--out", images / "maps") == 0
    assert len(lines(images / "maps")) == 5
    monkeypatch.chdir(images)
    assert run(weights, "sub/../a.png", "./sub/b.png", "a.png", "--out", tmp_path / "out") == 0
    assert [line["id"] for line in lines(tmp_path / "out")[1:]] == ["a.png", "sub/b.png"]


def test_what_was_deleted_or_damaged_is_made_again(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps"
    assert run(weights, images, "--out", out) == 0
    (out / lines(out)[1]["classes"][0]["overlay"]).unlink()
    (images / "sub/b.png").write_bytes(b"damaged")
    assert run(weights, images, "--out", out, "--top", 1) == 1
    assert (out / lines(out)[1]["classes"][0]["overlay"]).is_file()
    assert not (out / "sub/b.png.npz").exists()
    (tmp_path / "file").write_text("x")
    assert run(weights, images, "--out", tmp_path / "file") == 2
    assert "cannot be made a folder" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.jsonl").write_text('{"mine": 1}\n')
    assert run(weights, images, "--out", tmp_path / "other") == 2
    assert "was not written by attnbridge" in capsys.readouterr().err


def test_photographs_as_cameras_write_them(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (60, 40), "red").save(folder / "turned.jpg", exif=exif)
    Image.new("CMYK", (20, 30)).save(folder / "print.jpg")
    Image.fromarray(np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)).save(folder / "deep.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(folder / "clear.png")
    assert run(weights, folder, "--out", tmp_path / "maps", "--top", 99) == 0
    entries = {line["id"]: line for line in lines(tmp_path / "maps")[1:]}
    assert len(entries["deep.png"]["classes"]) == 5
    assert Image.open(tmp_path / "maps" / entries["turned.jpg"]["classes"][0]["overlay"]).size == (40, 60)
    deep = np.asarray(load_image(folder / "deep.png"))[..., 0]
    assert (deep[0, 0], deep[-1, -1]) == (0, 255)
    assert 120 < deep[10, 0] < 135
    assert np.asarray(load_image(folder / "clear.png")).min() == 255
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tif")
    with pytest.raises(AttnBridgeError, match="floating point numbers"):
        load_image(folder / "float.tif")


def test_images_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "no*.jpg") == 2
    assert "no*.jpg: no such image, folder or glob" in capsys.readouterr().err
    assert run(tmp_path, tmp_path) == 2
    assert "holds no images" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_looked_into_as_any_network(
    run_folder: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        Image.open(scenes / f"target/test/images/0000{i}.jpg").resize((60, 40)).save(images / f"{i}.png")
    (images / "bad.jpg").write_bytes(b"no image")
    words = ["explain", str(images), "--model", str(run_folder), "--threshold", "0.5", "--all"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    assert "bad.jpg: cannot be read as an image" in capsys.readouterr().out
    rows = list(csv.reader((tmp_path / "out/scores.csv").open()))
    assert [row[0] for row in rows] == ["id", "0.png", "1.png", "2.png"]
    arrays = np.load(tmp_path / "out/0.png.npz")
    assert arrays["maps"].shape[0] == arrays["scores"].shape[0] == 8
    assert [float(value) for value in rows[1][1:]] == pytest.approx(arrays["scores"], abs=1e-4)
    best = rows[0][1 + int(np.argmax([float(v) for v in rows[1][1:]]))]
    assert Image.open(tmp_path / f"out/0.png.{best}.png").size == (60, 40)
    assert main(["explain", str(images / "0.png"), "--model", str(run_folder), "--out", str(tmp_path / "maps")]) == 0
    maps = np.load(tmp_path / "maps/0.png.npz")
    assert maps["maps"][0] == pytest.approx(arrays["maps"][maps["indices"][0]], abs=1e-6)
    checkpoint = str(run_folder / "checkpoints/last.ckpt")
    assert main(["explain", str(images / "0.png"), "--model", checkpoint, "--out", str(tmp_path / "same")]) == 0
    assert (np.load(tmp_path / "same/0.png.npz")["maps"] == maps["maps"]).all()


def test_a_threshold_shows_all_above_it_and_the_most_probable(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for threshold, all_classes in (("0", True), ("0.999", False)):
        out = tmp_path / f"maps{threshold}"
        assert run(weights, images, "--out", out, "--threshold", threshold) == 0
        for entry in lines(out)[1:]:
            arrays = np.load(out / entry["arrays"])
            shown = [c["index"] for c in entry["classes"]]
            assert shown == ([0, 1, 2, 3, 4] if all_classes else [int(arrays["scores"].argmax())])
            assert arrays["indices"].tolist() == shown  # without --all
    assert run(weights, images, "--out", tmp_path / "maps0", "--threshold", "0", "--all") == 2
    assert "holds maps made with all_maps = False, not True" in capsys.readouterr().err


# ---- Networks of other libraries, checkpoints, names of classes

OWN_MODULE = """
import torch
from torch import nn


def make():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""
PREPARED = ["--size", "32", "--mean", "0.5", "0.4", "0.3", "--std", "0.1", "0.2", "0.4"]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "looking_networks.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("looking_networks", None)


def test_a_network_of_torchvision_with_names_of_its_classes(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = torchvision.models.resnet18(num_classes=4).eval()
    torch.save({"state_dict": {f"model.{k}": v for k, v in plain.state_dict().items()}}, tmp_path / "w.ckpt")
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\ncow\n")
    words = ["explain", images / "a.png", "--model", "torchvision/resnet18", "--weights", tmp_path / "w.ckpt"]
    words += ["--class-names", tmp_path / "names.txt", "--size", "64", "--out", tmp_path / "maps", "--all"]
    assert main([*map(str, words), "--classes", "bird"]) == 0
    header, entry = lines(tmp_path / "maps")
    assert header["model"] == "torchvision/resnet18, size 64"
    assert [c["name"] for c in entry["classes"]] == ["bird"]
    assert (tmp_path / "maps/scores.csv").read_text().startswith("id,cat,dog,bird,cow\n")
    image = Image.open(images / "a.png").resize((64, 64), Image.Resampling.BILINEAR)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = plain((tensor - mean.view(3, 1, 1)) / std.view(3, 1, 1)).softmax(1)[0]
    arrays = np.load(tmp_path / "maps/a.png.npz")
    assert arrays["scores"] == pytest.approx(expected.numpy(), abs=2e-3)  # Pillow's and torchvision's resizing
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\ncalf\n")
    assert main([*map(str, words)]) == 2
    assert "holds maps made with checksum" in capsys.readouterr().err
    assert main([*map(str, words), "--size", "96"]) == 2
    assert (
        "with model = 'torchvision/resnet18, size 64', not 'torchvision/resnet18, size 96'" in capsys.readouterr().err
    )


class Answering(torch.nn.Module):
    """Answers an object, as networks of transformers do."""

    def forward(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(logits=images.mean((2, 3)))


def objects_are_read() -> bool:
    try:
        observe(Answering(), torch.rand(1, 3, 2, 2), [], grad=False)
    except AttnBridgeError:
        return False
    return True


@pytest.mark.skipif(not objects_are_read(), reason="logits are not found in objects yet")
def test_a_folder_of_transformers(images: Path, tmp_path: Path) -> None:
    labels = {0: "cat", 1: "dog", 2: "cow"}
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=labels
    )
    plain = transformers.ResNetForImageClassification(config).eval()
    plain.save_pretrained(tmp_path / "folder")
    size = {"height": 40, "width": 40}
    processor = transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    processor.save_pretrained(tmp_path / "folder")
    words = ["explain", str(images / "a.png"), "--model", f"hf/{tmp_path / 'folder'}", "--out", str(tmp_path / "maps")]
    assert main([*words, "--all", "--device", "cpu"]) == 0
    arrays = np.load(tmp_path / "maps/a.png.npz")
    assert lines(tmp_path / "maps")[0]["class_names"] == ["cat", "dog", "cow"]
    with torch.no_grad():
        given = processor(Image.open(images / "a.png"), return_tensors="pt")["pixel_values"]
        expected = plain(given).logits.softmax(1)[0]
    assert arrays["scores"] == pytest.approx(expected.numpy(), abs=2e-3)


def test_a_function_of_the_users(images: Path, own_module: Path) -> None:
    words = ["explain", str(images), "--model", "looking_networks:make", *PREPARED, "--out", "maps", "--top", "3"]
    assert main(words) == 0
    header, *entries = lines(own_module / "maps")
    assert header["model"] == "looking_networks:make, size 32, mean 0.5 0.4 0.3, std 0.1 0.2 0.4"
    assert len(header["checksum"]) == 64
    assert len(entries) == 4
    assert main(words) == 0  # the same network, so it goes on
    assert main(["verify", str(images), "--model", "looking_networks:make", *PREPARED, "--out", "same"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "looking_networks:make"], "prepared; give its size, mean, std, as --size 224 --mean"),
        (["--model", "looking_networks:make", "--size", "32"], "prepared; give its mean, std, as --size 224 --mean"),
        (["--model", "looking_networks:mak", *PREPARED], "the module has no 'mak'; did you mean 'make'"),
        (["--model", "looking_network:make", *PREPARED], "there is no module 'looking_network', in "),
        (["--model", "looking networks:make"], "'looking networks:make' names no function of a module; write package"),
        (["--model", "torchvision/resnet19"], "unknown classifier of torchvision 'resnet19'; did you mean 'resnet18'"),
        (["--model", "torchvision/"], "'torchvision/' lacks a name after 'torchvision/'"),
        (["--model", "hf/none"], "hf/none: there is no none/config.json; expected a folder with config.json"),
        (["--model", "torchvision/resnet18", "--layer", "layr4"], "unknown layer 'layr4'; did you mean 'layer4'"),
        (["--model", "resnet10t", "--size", "1", "2", "3"], "--size must be at least 8 and at most 8192, not 1"),
        (["--model", "resnet10t", "--size", "8", "8", "8"], "--size must be a side, or height and width, not 3"),
        (["--model", "resnet10t", "--mean", "124", "116", "103"], "--mean must be at least 0 and at most 1, not 124"),
        (["--model", "resnet10t", "--std", "0", "1", "1"], "--std must be above 0 and at most 1, not 0"),
        (["--model", "resnet10t", "--class-names", "none.txt"], "none.txt: there is no such file"),
        (["--model", "resnet10t", "--class-names", "two.txt", "--weights", "WEIGHTS"],
         "the class names: names 2 classes, but resnet10t has 5; give a file of 5 names with --class-names"),
        (["--model", "resnet10t", "--weights", "g.onnx"], "g.onnx: is an ONNX graph; it has no module to look into"),
    ],
)  # fmt: skip
def test_wrong_networks_are_named_and_nothing_is_written(
    weights: Path, images: Path, own_module: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_module / "two.txt").write_text("a\nb\n")
    (own_module / "g.onnx").write_bytes(b"\x08\x07")
    words = [str(weights) if word == "WEIGHTS" else word for word in words]
    assert main(["explain", str(images), *words, "--out", "maps"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (own_module / "maps").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "hf/none"],
        ["--model", "torchvision/"],
        ["--model", "resnet10t", "--class-names", "none.txt"],
        ["--model", "resnet10t", "--weights", "none.pth"],
        ["--model", "a b:c"],
    ],
)
def test_what_is_wrong_by_its_name_is_told_before_torch_is_imported(words: list[str], images: Path) -> None:
    code = f"""
        import sys
        from attnbridge.cli import main
        status = main(["explain", {str(images)!r}, *{words!r}])
        print(status, [name for name in ("torch", "timm", "transformers") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"


@pytest.mark.slow
def test_a_run_has_its_own_size_and_classes(
    run_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (("--size", ["32"]), ("--mean", ["0.1"] * 3), ("--class-names", ["x.txt"])):
        assert main(["explain", str(images), "--model", str(run_folder), option, *value]) == 2
        assert f"{option} belongs to a network by name, as a timm model; a run has its own" in capsys.readouterr().err
