"""`--device`: what is told before anything is computed, and what it moves."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from attnbridge.cli import VERBS, main, training
from attnbridge.data import saliency
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation import summary
from attnbridge.evaluation.folders import explain as explain_images
from attnbridge.evaluation.folders import verification
from attnbridge.experiments import benchmark, fit, process, score, search, table_data
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.tables import TableRequest
from attnbridge.models import classifiers
from attnbridge.models.device import pick_device

COMMANDS = {
    "explain": ["P", "--model", "resnet10t"],
    "verify": ["P", "--model", "resnet10t"],
    "segment": ["R", "P", "--out", "O"],
    "submit": ["R", "K", "--out", "O"],
    "cues": ["--checkpoint", "R", "--out", "O"],
    "saliency": ["P", "--out", "O"],
    "test": ["R"],
    "fit": ["attnbn"],
    "search": ["attnbn"],
    "benchmark": ["scenes"],
    "pipeline": ["--source", "S", "--target", "T"],
    "demo": [],
}
"""Those that compute, with what they need to be parsed."""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
            image.save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(timm.create_model("resnet10t", num_classes=5).state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def test_a_typo_is_answered_before_torch_is_imported() -> None:
    """By every verb that computes."""
    assert set(COMMANDS) == set(VERBS) - {"data", "list", "show", "score"}
    lines = [
        [verb, *words, "--device", name] for verb, words in COMMANDS.items() for name in ("nonsense", "cuda:", "gpu")
    ]
    code = (
        "import sys; from attnbridge.cli import main\n"
        f"assert all(main(line) == 2 for line in {lines!r})\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(lines)
    assert all("--device must be auto, cpu, mps, cuda or cuda:NUMBER, not " in line for line in said)


def test_auto_is_the_gpu_where_there_is_one(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device().type == pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == pick_device("mps").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device() == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(AttnBridgeError, match="'cuda:2' is not available here; there is: cpu, mps, cuda:0, cuda:1"):
        pick_device("cuda:2")


@pytest.mark.parametrize("verb", ["explain", "verify", "demo", "benchmark"])
def test_a_device_that_is_not_there_is_told_and_nothing_is_written(
    verb: str,
    no_gpu: None,
    images: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"demo": [], "benchmark": ["scenes", "--images", "shapes"]}
    model = [str(images), "--model", "resnet10t", "--weights", str(weights)]
    out = tmp_path / "out"
    assert main([verb, *words.get(verb, model), "--out", str(out), "--device", "cuda"]) == 2
    assert "device 'cuda' is not available here; there is: cpu" in capsys.readouterr().err
    assert not list(out.glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["explain", "test", "segment", "cues"])
def test_so_it_is_for_a_run(
    verb: str,
    no_gpu: None,
    run_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run_folder.parent)  # where its data are
    out = tmp_path / "out"
    words = {
        "explain": [str(images), "--model", str(run_folder), "--out", str(out)],
        "test": [str(run_folder)],
        "segment": [str(run_folder), str(images), "--out", str(out)],
        "cues": ["--checkpoint", str(run_folder), "--out", str(out)],
    }
    assert main([verb, *words[verb], "--device", "cuda"]) == 2
    assert "device 'cuda' is not available here; there is: cpu" in capsys.readouterr().err
    assert not list(out.glob("*"))


def test_explain_moves_the_network_and_its_images(
    images: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a device of torch's that every machine has, and which mixes with no other."""
    asked: list[str | None] = []
    seen: list[str] = []

    def picked(name: str | None) -> torch.device:
        asked.append(name)
        return torch.device("meta")

    def looked(network: Any, images: Tensor, classes: Any, layer: Any, method: str, **_: Any) -> Tensor:
        seen.extend([images.device.type, next(network.parameters()).device.type])
        classes(torch.rand(len(images), 5))
        return torch.rand(len(images), 5, 4, 4)

    monkeypatch.setattr(classifiers, "pick_device", picked)
    monkeypatch.setattr(explain_images, "explain", looked)
    words = ["explain", str(images), "--model", "resnet10t", "--weights", str(weights)]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert main([*words, "--out", str(tmp_path / "b"), "--device", "cuda:3"]) == 0
    assert asked == ["auto", "cuda:3"]
    assert set(seen) == {"meta"}


def test_verify_moves_its_images_too(images: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "pick_device", lambda _: torch.device("meta"))
    model = classifiers.load_classifier("resnet10t", str(weights))

    @contextmanager
    def read(_: Any) -> Iterator[list[Tensor]]:
        yield [torch.rand(4, 7)]

    monkeypatch.setattr(verification, "capture_head_input", read)
    assert verification.embed(model, sorted(images.rglob("*.png"))).shape == (4, 7)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the verbs that train are called with; every device is there."""
    calls: list[Any] = []

    def note(*words: Any, **more: Any) -> str:
        calls.extend(word for word in words if isinstance(word, Experiment | TableRequest))
        return ""

    monkeypatch.setattr(training, "pick_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(process, "is_main_process", lambda: False)  # which prints what was found
    for module, names in {
        fit: ("run_checked",), search: ("search",), benchmark: ("run_map_table", "run_table"),
        table_data: ("map_data",), summary: ("print_demo",),
    }.items():  # fmt: skip
        for name in names:
            monkeypatch.setattr(module, name, note)
    return calls


@pytest.mark.slow
def test_it_is_short_for_the_trainers_options(
    asked: list[Any], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_cache: None
) -> None:
    data = [*("--data.source", str(scenes / "source/train"), "--data.target", str(scenes / "target"))]
    plain = [*data, "--data.saliency", "null", "--model.frozen", "[]", "--data.views", "null"]
    for device, trainer in (
        ("cuda:1", {"accelerator": "gpu", "devices": [1]}),
        ("cuda", {"accelerator": "gpu"}),
        ("mps", {"accelerator": "mps"}),
        ("cpu", {"accelerator": "cpu"}),
    ):
        for verb in ("fit", "search"):
            assert main([verb, "grad_cam", *plain, "--device", device]) == 0
            found = asked.pop().trainer
            assert {name: found[name] for name in trainer} == trainer
            assert ("devices" in found) == ("devices" in trainer)
    assert main(["fit", "grad_cam", *plain]) == 0
    assert "accelerator" not in asked.pop().trainer
    assert main(["fit", "grad_cam", *plain, "--device", "cpu", "--trainer.accelerator", "gpu"]) == 2
    assert "--device cpu sets trainer.accelerator, and --trainer.accelerator does" in capsys.readouterr().err
    assert not asked
    assert main(["benchmark", "scenes", "--device", "cpu"]) == 0
    request = asked.pop()
    assert (request.overrides, request.device) == (("--trainer.accelerator=cpu",), "cpu")
    assert main(["demo", "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert {request.overrides for request in asked} == {("--trainer.accelerator=cpu",)}


def test_test_has_a_trainer_on_the_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trainer(experiment: Experiment, callbacks: list[Any]) -> None:
        assert experiment.trainer == {"accelerator": "gpu", "devices": [1]}
        assert callbacks == ["scores"]
        raise AttnBridgeError("as asked")

    method = argparse.Namespace(classes=("a",))
    own = {"target": "t"}
    experiment = Experiment.from_mapping({"method": "attnbn", "data": own, "trainer": {"max_epochs": 3}})
    task = argparse.Namespace(of=lambda *_: argparse.Namespace(scores="scores"))
    monkeypatch.setattr(training, "pick_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(
        training, "load_run", lambda *_, **__: argparse.Namespace(config=experiment, method=lambda: method)
    )
    monkeypatch.setattr(training, "check_experiment", lambda *_, **__: None)
    monkeypatch.setattr(score, "build_data", lambda _: method)
    monkeypatch.setattr(score, "load_object", lambda _: task)
    monkeypatch.setattr(score, "build_trainer", trainer)
    assert main(["test", str(tmp_path), "--device", "cuda:1"]) == 2
    assert "as asked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "spectral"], "the saliency model spectral runs on the CPU, not on cuda:1"),
        (["--model", "u2netp"], "device 'cuda:1' is not available to ONNX Runtime here; there is: cpu"),
    ],
)
def test_saliency_has_the_devices_of_onnx_runtime(
    words: list[str],
    message: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Runtime:
        @staticmethod
        def get_available_providers() -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(saliency, "_library", lambda *_: Runtime)
    monkeypatch.setattr(saliency, "_session_options", lambda *_: None)
    out = tmp_path / "out"
    assert main(["saliency", str(images), "--out", str(out), *words, "--device", "cuda:1"]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_saliency_network_runs_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Session:
        def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
            asked.append(providers)
            self.get_providers = lambda: [p if isinstance(p, str) else p[0] for p in providers]

        def get_inputs(self) -> list[Any]:
            return [argparse.Namespace(name="x", shape=[1, 3, 8, 8])]

    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]

    class Runtime:
        SessionOptions, InferenceSession = argparse.Namespace, Session
        get_available_providers = staticmethod(lambda: there)

    monkeypatch.setattr(saliency, "_library", lambda *_: Runtime)
    monkeypatch.setattr(saliency, "_session_options", lambda *_: None)
    network = tmp_path / "mine.onnx"
    network.touch()
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        saliency.load_model(str(network), False, device)
    cuda = "CUDAExecutionProvider"
    assert asked == [there, ["CPUExecutionProvider"], [cuda], [(cuda, {"device_id": "1"})]]
