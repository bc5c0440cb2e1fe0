"""`fit`, `test` and `demo` as a user runs them, on small data, in one process."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from attnbridge.cli import main
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.runs import load_run
from attnbridge.experiments.tables import DEMO
from attnbridge.methods.attnbn import AttnBN
from tests.cli.conftest import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_cache")]


def test_a_run_leaves_its_folder(run_folder: Path) -> None:
    for name in ("config.yaml", "run.json", "metrics.csv", "report.html", "checkpoints/last.ckpt", "examples.npz"):
        assert (run_folder / name).is_file(), name
    assert sorted(p.name for p in (run_folder / "attention").iterdir()) == ["epoch_01.png", "epoch_02.png"]
    record = json.loads((run_folder / "run.json").read_text())
    assert {"name", "seed", "scores", "protocol", "versions", "git", "hardware", "date"} <= set(record)
    header = next(csv.reader((run_folder / "metrics.csv").open()))
    assert {"loss/source/attention", "weighted/source/attention", "maps/source_max", "val/miou"} <= set(header)


def test_the_report_stands_alone_and_agrees_with_the_record(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/jpeg;base64,") == 3
    scores = json.loads((run_folder / "run.json").read_text())["scores"]
    assert f"{100 * scores['predicted']['miou_best']:.1f}" in page
    assert f"{100 * scores['map']:.1f}" in page


def test_a_folder_with_a_run_is_not_overwritten(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run_folder / "run.json").read_bytes()
    monkeypatch.chdir(run_folder.parent)
    assert main(["fit", "mine.yaml", "--out", str(run_folder), *SMALL]) == 2
    assert "holds a run already; name another folder, or add --resume" in capsys.readouterr().err
    assert (run_folder / "run.json").read_bytes() == before


def test_an_interrupted_run_goes_on_to_the_same_end(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_folder.parent)
    fit = ["fit", "mine.yaml", "--out", str(tmp_path / "run"), *SMALL]

    def stop(self: AttnBN) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AttnBN, "on_train_epoch_start", stop)
        assert main(fit) == 130
    assert "the same command goes on, `fit` with --resume" in capsys.readouterr().err
    assert main([*fit, "--model.lr", "0.5", "--resume"]) == 2
    assert "was begun with model.lr = 0.001, not 0.5" in capsys.readouterr().err
    assert main([*fit, "--resume"]) == 0
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert {row["epoch"] for row in rows if row["loss"]} == {"0", "1"}
    whole, parts = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (run_folder, tmp_path / "run")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_test_gives_the_scores_of_the_run(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder.parent)
    assert main(["test", str(run_folder)]) == 0
    text = capsys.readouterr().out
    scores = json.loads((run_folder / "run.json").read_text())["scores"]
    assert f"mIoU {100 * scores['predicted']['miou_best']:.1f} at threshold" in text
    assert f"mAP {100 * scores['map']:.1f}, label accuracy {100 * scores['accuracy']:.1f}" in text
    known = SourceTargetDataModule(**yaml.safe_load((run_folder / "config.yaml").read_text())["data"]).classes
    monkeypatch.setattr("attnbridge.data.modules.source_target.pair_classes", lambda *_: known[::-1])
    assert main(["test", str(run_folder)]) == 2
    assert f"the run knows the classes {known[0]}, " in capsys.readouterr().err


@pytest.mark.parametrize("shown", [False, True])
def test_scoring_shows_progress_where_the_run_did(
    shown: bool, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder.parent)
    shutil.copytree(run_folder, tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    if shown:
        config.write_text(config.read_text().replace("enable_progress_bar: false", "enable_progress_bar: true"))
    assert main(["test", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert any(word in captured.out + captured.err for word in ("Validation", "Testing")) == shown


def test_a_runs_relative_paths_are_told_as_its_own_in_another_folder(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that it was trained in another one, where they lead to its data."""
    base = run_folder.parent
    monkeypatch.chdir(tmp_path)
    again = ["fit", str(base / "mine.yaml"), "--resume", "--out", str(run_folder), *SMALL]
    own = f"data.source is the run's own, of {run_folder / 'config.yaml'}"
    there = f"relative to the folder in which it was trained, {base}: run this command there"
    test = ["test", str(run_folder)]
    cues = ["cues", "--checkpoint", str(run_folder), "--out", "cues"]
    for words in (
        test,
        [*test, "--evaluation.threshold", "0.3"],
        [*test, "--target", str(base / "target")],
        again,
        cues,
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("attnbridge: error: source: no such folder"), words
        assert f"{own}, {there}" in said, words
    with pytest.raises(AttnBridgeError, match=re.escape(f"{own}, {there}")):
        load_run(run_folder).rescore(threshold=0.3)
    Path("source").symlink_to(base / "source")
    assert main(["test", str(run_folder)]) == 2
    assert f"{there}, or name other data with --target FOLDER" in capsys.readouterr().err
    assert main(["test", str(run_folder), "--target", "nowhere"]) == 2  # the user's
    assert "is the run's own" not in capsys.readouterr().err
    assert main([*test, "--target", str(base / "target")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_run_is_scored_as_papers_do_without_training(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the images' own sizes, over several scales and mirror images, refined: what record and page say is what was
    done, and the former settings give the former scores."""
    monkeypatch.chdir(run_folder.parent)
    monkeypatch.setattr(AttnBN, "training_step", lambda *_: pytest.fail("it was trained again"))
    copy = shutil.copytree(run_folder, tmp_path / "run")
    before = json.loads((copy / "run.json").read_text())
    words = ["--evaluation.size", "own", "--evaluation.scales", "[0.5,1,1.5,2]", "--evaluation.flip", "true"]
    assert main(["test", str(copy), *words]) == 0
    said = capsys.readouterr().out
    assert "is scored by size own, scales [0.5, 1, 1.5, 2], flip True from now on" in said
    after = json.loads((copy / "run.json").read_text())
    assert after["scores"]["labels"]["curve"] != before["scores"]["labels"]["curve"]
    assert after["scores"]["map"] == before["scores"]["map"]
    protocol = (
        "images at 48 pixels, maps enlarged to each image's own size, and masks at that, the mean of the scales 0.5, "
        "1, 1.5, 2 and their mirror images, not refined"
    )
    assert after["protocol"]["resolution"] == protocol
    assert html.escape(protocol) in (copy / "report.html").read_text()
    known = {"size": "own", "scales": [0.5, 1, 1.5, 2], "flip": True, "crf": False}
    assert after["evaluation"] == {"threshold": 0.5, "score_threshold": 0.5, **known}
    assert main(["test", str(copy), "--evaluation.crf", "true"]) == 0
    assert "refined by the CRF" in capsys.readouterr().out
    refined = json.loads((copy / "run.json").read_text())
    assert refined["scores"]["labels"]["miou_best"] == after["scores"]["labels"]["miou_best"]
    page = (copy / "report.html").read_text()
    assert "refined by a dense CRF" in page
    assert f"<td>{100 * refined['scores']['labels']['miou_crf']:.1f}</td>" in page
    words = ["--evaluation.size", "network", "--evaluation.scales", "[1]", "--evaluation.flip", "false"]
    assert main(["test", str(copy), *words, "--evaluation.crf", "false"]) == 0
    again = json.loads((copy / "run.json").read_text())
    assert (again["scores"], again["protocol"]) == (before["scores"], before["protocol"])


def test_test_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(tmp_path / "norun")]) == 2
    assert "config.yaml: no such file; expected the folder of a run" in capsys.readouterr().err


def test_the_demo_on_drawn_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--images", "shapes", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == list(DEMO.rows)
    fields = {"name", "seed", "miou_fixed", "miou_best", "threshold", "map", "seconds"}
    assert all(fields <= set(row) for row in results["rows"])
    assert (out / "report.html").stat().st_size > 50_000
    assert (out / "before_after.png").is_file()
    assert "drawn shapes on textures (as asked for)" in capsys.readouterr().out
    before = (out / "attnbn-0/run.json").stat().st_mtime_ns
    assert main(["demo", "--quick", "--images", "shapes", "--out", str(out)]) == 0  # done rows are kept
    assert (out / "attnbn-0/run.json").stat().st_mtime_ns == before
