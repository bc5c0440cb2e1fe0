"""The table of domains as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attnbridge.cli import main
from attnbridge.evaluation.summary import domain_table, heat_maps
from attnbridge.experiments import benchmark
from attnbridge.experiments.config import Experiment
from tests.conftest import two_colours

pytestmark = pytest.mark.usefixtures("module_cache")
SMALL = [
    *("--data.image_size", "32", "--data.batch_size", "8", "--data.workers", "0", "--data.views", "null"),
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]"),
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains of two classes."""
    return two_colours(tmp_path_factory.mktemp("three") / "set", {"a": 10, "b": 10, "c": 10}, 32)


@pytest.mark.slow
def test_all_pairs_of_the_named_domains(
    three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["benchmark", "domains", "--data", str(three), "--domains", "a,c", "--saliency", "centre"]
    command += ["--rows", "domains/source", "domains/ac", "--seeds", "0", "--out", str(tmp_path), *SMALL]
    assert main(command) == 0
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(r["domains"], r["name"]) for r in results["rows"]] == [
        ("a to c", "domains/source"), ("a to c", "domains/ac"), ("c to a", "domains/source"), ("c to a", "domains/ac"),
    ]  # fmt: skip
    assert domain_table(results["rows"]) in said
    page = (tmp_path / "report.html").read_text()
    assert page.count('alt="images and maps"') == 2
    for score in ("source_validation", "target_oracle", "energy", "target after epoch"):
        assert f"<th>{score}</th>" in page
    monkeypatch.setattr(benchmark, "train", None)  # nothing is trained again
    assert main(command) == 0


@pytest.mark.slow
def test_each_from_all_others(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["benchmark", "domains", "--data", str(three), "--leave-one-out", "--saliency", "centre"]
    command += ["--rows", "domains/ac_adv", "--seeds", "0", *SMALL]
    assert main(command) == 0
    out = tmp_path / "runs" / "domains-unseen"
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [r["domains"] for r in rows] == ["b, c to a", "a, c to b", "a, b to c"]
    labels = heat_maps(rows).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["all others"]
    record = json.loads((out / "a+b-to-unseen-c" / "domains_ac_adv-0" / "run.json").read_text())
    assert record["protocol"]["target"] == "its images are withheld too"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--domains", "a,d"], "unknown domain"),
        (["--domains", "a"], "name at least one domain"),
        (["--data.generalise", "true"], "has --data, --domains, --leave-one-out"),
        (["--domains", "a,b", "--leave-one-out"], "has no two domains to align"),
        (["--rows", "grad_cam"], "trains attnbn, which has no domains"),
        (["--trials", "2"], "does not search"),
        (["--data.views", "2"], "data.views needs model.frozen"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--rows", "domains/dan"], "did you mean 'domains/dann'"),
    ],
)
def test_what_cannot_be(
    three: Path, tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "domains", "--data", str(three), "--out", str(tmp_path / "out"), *SMALL, *more]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_full_size_table_is_one_of_domains(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows are the paper's: VGG16, and the paper's weights of the losses."""
    seen = []

    def noted(experiment: Experiment, *_args: Any, **_options: Any) -> None:
        seen.append(experiment.model)
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "train", noted)
    command = ["benchmark", "table7", "--data", str(three), "--saliency", "centre", "--data.batch_size", "8"]
    for row in ("source", "ac", "adv", "ac_adv"):
        main([*command, "--seeds", "0", "--rows", f"domains/full_{row}", "--out", str(tmp_path / row)])
    found = [(m["backbone"], m.get("attention_weight", 0), m.get("adversarial_weight", 0)) for m in seen]
    assert found == [("vgg16", 0, 0), ("vgg16", 2, 0), ("vgg16", 0, 0.001), ("vgg16", 2, 0.001)]


def test_a_folder_that_is_no_image_is_told(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = two_colours(tmp_path / "set", {"a": 2, "b": 2}, 8)
    (root / "b" / "red" / "bad.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(root / "b" / "red" / "good.png")
    assert main(["benchmark", "domains", "--data", str(root), "--out", str(tmp_path / "out"), *SMALL]) == 2
    assert "bad.png" in capsys.readouterr().err
