"""Saliency maps: each model on images with one object, folders that resume, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from attnbridge.cli import main
from attnbridge.data import saliency as module
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.data.saliency import load_model, make_saliency
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.checks import check_experiment
from attnbridge.experiments.config import Experiment

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ecssd"


def photograph(width: int = 90, height: int = 60, mode: str = "RGB") -> Image.Image:
    """A red disc left of the centre on a grey ground."""
    image = Image.new("RGBA", (width, height), (120, 120, 120, 0))
    ImageDraw.Draw(image).ellipse((20, 15, 50, 45), (220, 30, 20, 255))
    return image.convert(mode)


def disc() -> np.ndarray[Any, Any]:
    return np.asarray(photograph(mode="RGBA").getchannel("A")) > 0


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """An ONNX network with U2-Net's input whose answer is red less green."""
    onnx = pytest.importorskip("onnx", reason="onnx writes the network of this test")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", kind, [1, 3, 1, 1], [1.0, -1.0, 0.0])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "red",
        [helper.make_tensor_value_info("x", kind, [1, 3, 32, 48])],
        [helper.make_tensor_value_info("y", kind, [1, 1, 32, 48])],
        [weight],
    )
    path = tmp_path / "red.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", ["spectral", "centre", "alpha"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90)])
def test_priors_give_maps_of_the_images_size(name: str, size: tuple[int, int]) -> None:
    found = load_model(name)(photograph(*size, mode="RGBA"))
    assert (found.shape, found.dtype) == (size[::-1], np.float32)
    assert 0 <= found.min() < found.max() <= 1


def test_priors_look_where_they_should() -> None:
    centre = load_model("centre")(photograph())
    assert centre[29:31, 44:46].min() > 0.99 * centre.max()
    assert (load_model("alpha")(photograph(mode="RGBA")) == disc()).all()
    spectral = load_model("spectral")(photograph())
    assert spectral[disc()].mean() > 2 * spectral[~disc()].mean()
    with pytest.raises(AttnBridgeError, match="has no alpha channel"):
        load_model("alpha")(photograph())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_network_of_the_users(network: Path, mode: str) -> None:
    pytest.importorskip("onnxruntime")
    found = load_model(str(network))(photograph(mode=mode))
    assert found.shape == (60, 90)
    if mode == "RGB":
        assert found[disc()].mean() > 0.85
        assert found[~disc()].mean() < 0.1


def test_grabcut_fits_a_map_to_the_edges() -> None:
    pytest.importorskip("cv2")
    blurred = np.zeros((60, 90), np.float32)
    blurred[5:55, 10:60] = 0.4
    blurred[22:38, 27:43] = 0.95
    refined = module.grab_cut(photograph(), blurred)
    assert set(np.unique(refined)) == {0.0, 1.0}
    union = ((refined > 0.5) | disc()).sum()
    assert ((refined > 0.5) & disc()).sum() / union > 0.9
    empty = np.zeros((60, 90), np.float32)
    assert module.grab_cut(photograph(), empty) is empty


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "Sub").mkdir(parents=True)
    for name in ("a.png", "b c.JPG", "Sub/d.png"):
        photograph(mode="RGB").save(root / name)
    return root


def command(folder: Path, out: Path, *words: str) -> int:
    return main(["saliency", str(folder), "--out", str(out), "--model", "spectral", *words])


def test_a_rerun_does_nothing_and_an_interrupted_run_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    calls: list[int] = []

    def stop(image: Image.Image) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.zeros(image.size[::-1], np.float32)

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_model", lambda *_: stop)
        assert command(folder, out) == 130
    assert len(list(out.rglob("*.png"))) == 1
    assert command(folder, out) == 0
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == ["Sub/d.png", "a.png", "b c.png"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_model", lambda *_: pytest.fail("made again"))
        assert command(folder, out) == 0
    time.sleep(0.01)
    photograph(40, 40).save(folder / "a.png")  # changed since
    assert command(folder, out) == 0
    assert Image.open(out / "a.png").size == (40, 40)
    assert not list(out.rglob(".partial*"))


def test_a_corrupt_image_is_reported_and_the_rest_is_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0.jpg").write_bytes(b"nothing")
    assert command(folder, tmp_path / "out", "--preview") == 1
    assert "0.jpg: cannot be read as an image" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert Image.open(tmp_path / "out/sheet.jpg").size[1] == 148 + 4


def test_scores_of_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = tmp_path / "masks"
    (masks / "Sub").mkdir(parents=True)
    for name in ("a.png", "b c.png"):
        Image.fromarray(disc().astype(np.uint8) * 255).save(masks / name)
    assert command(folder, tmp_path / "out", "--score", str(masks)) == 2
    assert "d.png: no such file; expected the mask of Sub/d.png" in capsys.readouterr().err
    Image.fromarray(disc().astype(np.uint8) * 255).save(masks / "Sub/d.png")
    assert command(folder, tmp_path / "out", "--score", str(masks)) == 0
    assert "3 maps: MAE 0." in capsys.readouterr().out


def test_wrong_input_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (["--model", "u2nett"], "did you mean 'u2net'"),
        (["--model", "lost.onnx"], "lost.onnx: no such file"),
    ]
    for words, message in cases:
        assert main(["saliency", str(folder), "--out", str(tmp_path / "out"), *words]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "text.onnx").write_text("no network")
    assert command(folder, tmp_path / "text.onnx") == 2
    assert "text.onnx: cannot be made a folder" in capsys.readouterr().err
    with pytest.raises(AttnBridgeError, match=r"text\.onnx: cannot be read as an ONNX network"):
        load_model(str(tmp_path / "text.onnx"))
    assert command(folder, tmp_path / "out") == 0
    with pytest.raises(AttnBridgeError, match=r"holds saliency maps made with .*'spectral'"):
        make_saliency({"a.png": folder / "a.png"}, tmp_path / "out", "centre")
    with pytest.raises(AttnBridgeError, match=r"a\.jpg and a\.png would both become"):
        make_saliency({"a.png": folder / "a.png", "a.jpg": folder / "a.png"}, tmp_path / "new", "centre")


@pytest.mark.parametrize(("name", "most"), [("u2netp", 0.065)])
def test_the_real_network_on_real_images(name: str, most: float) -> None:
    """Twelve images of ECSSD; `attnbridge saliency ... --score` measures all 150."""
    images = sorted((SHARED / "images").glob("*.jpg"))[:12]
    if not images:
        pytest.skip("needs ../shared/data/ecssd, which is not here")
    pytest.importorskip("onnxruntime")
    try:
        look = load_model(name)
    except AttnBridgeError as error:
        pytest.skip(f"the package registry cannot be reached: {error}")
    errors = []
    for path in images:
        truth = np.asarray(Image.open(SHARED / "masks" / f"{path.stem}.png").convert("L")) > 127
        errors.append(np.abs(look(Image.open(path)) - truth).mean())
    assert np.mean(errors) < most


def test_a_run_makes_the_maps_that_it_needs_once(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path / "cache"))
    source, target = str(scenes / "source/train"), str(scenes / "target")
    check_experiment(Experiment("attnbn", data={"source": source, "target": target, "saliency": "spectral"}))
    data = SourceTargetDataModule(source, target, "spectral", image_size=48, workers=0)
    data.prepare_data()
    record = data.records("source")[0]
    assert record.saliency is not None
    assert record.saliency.is_relative_to(tmp_path / "cache")
    monkeypatch.setattr(module, "load_model", lambda *_: pytest.fail("made again"))
    SourceTargetDataModule(source, target, "spectral").prepare_data()
    with pytest.raises(AttnBridgeError, match=r"lost\.onnx: no such file"):
        check_experiment(Experiment("attnbn", data={"source": source, "target": target, "saliency": "lost.onnx"}))
