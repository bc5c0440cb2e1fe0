"""The folder of a run, and what is told where it is none, not finished, or older than this version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.runs import Run, load_run, run_folder
from tests.runs import map_scores, record_of

MAPS = "attnbridge.evaluation.tasks.maps:MapTask"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that was begun, and whose first epoch is not done."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("method: attnbn\nname: mine\ndata: {target: t}\n")
    return folder


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, begun: Path) -> None:
    run = Run(tmp_path / "nowhere")
    assert (run.begun, run.done, repr(run)) == (False, False, f"Run('{tmp_path / 'nowhere'}')")
    for ask in (lambda: run.config, lambda: run.record, lambda: run.scores, run.check):
        with pytest.raises(AttnBridgeError, match=r"no such file; expected the folder of a run made by"):
            ask()
    assert (Run(begun).begun, Run(begun).done) == (True, False)
    assert Run(begun).check().config.name == "mine"


def test_a_run_is_named_by_its_folder_or_its_checkpoint(begun: Path, tmp_path: Path) -> None:
    checkpoint = begun / "checkpoints/last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    assert load_run(begun).folder == load_run(str(checkpoint)).folder == begun
    assert run_folder("resnet18") is None
    with pytest.raises(AttnBridgeError, match=r"resnet18/config\.yaml: no such file; expected the folder of a run"):
        load_run("resnet18")
    (tmp_path / "last.ckpt").touch()
    for name in (str(tmp_path / "last.ckpt"), "runs/none", "small.pth"):
        with pytest.raises(AttnBridgeError, match=r"is no run made by .* write --model NAME --weights FILE"):
            run_folder(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [("model: [", "line 1, column 9"), ("3", "no sections"), ("- 1", "no sections"), ("\x00", "zero byte")],
)
def test_a_configuration_that_is_none_is_named(begun: Path, text: str, message: str) -> None:
    (begun / "config.yaml").write_text(text)
    with pytest.raises(AttnBridgeError, match=rf"run/config\.yaml: .*{message}"):
        _ = Run(begun).config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: attnbn\nafter: source_guided\n", "the section `after` is called `init_from` now"),
        ("method: attnbn\nfirst: {}\n", "the section `first` is called `init_overrides` now"),
        ("method: transfer\n", "the method 'transfer' is called 'attention_transfer' now"),
        ("method: adaptation\n", "the method 'adaptation' is called 'domain_adaptation' now"),
    ],
)
def test_a_run_of_an_older_version_is_answered_with_the_new_name(begun: Path, text: str, message: str) -> None:
    (begun / "config.yaml").write_text(text)
    with pytest.raises(AttnBridgeError) as error:
        Run(begun).check()
    assert f"{begun / 'config.yaml'}: {message}" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_a_checkpoint_that_is_none_is_named(begun: Path, content: bytes) -> None:
    with pytest.raises(AttnBridgeError, match=r"last\.ckpt: no such file; expected the folder of a run"):
        Run(begun).method()
    Run(begun).checkpoint.parent.mkdir()
    Run(begun).checkpoint.write_bytes(content)
    with pytest.raises(AttnBridgeError, match=r"last\.ckpt: cannot be read as weights"):
        Run(begun).method()


def test_a_threshold_that_was_not_chosen_has_to_be_given(begun: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"run\.json: no such file, so no threshold was chosen; give one with"):
        Run(begun).chosen_threshold()
    (begun / "run.json").write_text(json.dumps(record_of()))
    with pytest.raises(AttnBridgeError, match="was not scored, so no threshold was chosen; give one with --threshold"):
        Run(begun).chosen_threshold()
    (begun / "run.json").write_text(json.dumps(record_of(task=MAPS, scores=map_scores())))
    assert Run(begun).chosen_threshold() == 0.35
    for threshold in (-0.1, 1, float("nan")):
        with pytest.raises(AttnBridgeError, match="--threshold is relative to a map's maximum: from 0 to below 1"):
            Run(begun).segmenter(threshold)


@pytest.mark.parametrize("method", ["fine_tuning", "attention_transfer", "domain_adaptation"])
def test_images_of_one_class_each_are_not_segmented(begun: Path, method: str) -> None:
    (begun / "config.yaml").write_text(f"method: {method}\n")
    with pytest.raises(AttnBridgeError, match="its images have one class each and no masks; it cannot segment"):
        Run(begun).segmenter()
