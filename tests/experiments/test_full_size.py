"""The full-size tables' commands, through all their stages on made images; true networks: `benchmarks.full_size`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attnbridge.cli import main
from attnbridge.experiments import benchmark
from benchmarks.full_size import ROWS, command, make_voc


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"))


@pytest.mark.slow
@pytest.mark.parametrize("table", ROWS)
def test_a_table_runs_through_all_its_stages(
    table: str, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / table
    assert main(command(table, voc, out, small=True)) == 0
    said = capsys.readouterr().out
    assert (out / "results.json").is_file()
    assert (out / "report.html").is_file()
    if table in ("table1", "table1_paper", "table2", "table3", "table6"):
        assert "paper" in said
    if table.startswith(("table3", "gain")):
        assert "to upload to VOC's server" in said
        assert list(out.glob("*/submission/results.tgz"))
        stages = {path.parent.name for path in out.glob("*/*/run.json")}
        assert stages == {"classifier", "segmentation", *(["retrained"] if table.startswith("table3") else [])}
    if table.startswith("table3"):
        assert "| AttnBN, paper |" in said
        assert "| tvmonitor |" in said


def test_what_is_missing_of_voc_is_told_with_where_it_is_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "table3", "--data", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    for words in ("source (single objects", "VOC2012/JPEGImages", "VOCtrainval_11-May-2012.tar", "data import sbd"):
        assert words in said
    voc = make_voc(tmp_path / "voc")
    (voc / "VOC2012/ImageSets/Segmentation/trainaug.txt").unlink()
    assert main(["benchmark", "table1", "--data", str(voc)]) == 2
    assert "lacks VOC2012/ImageSets/Segmentation/trainaug.txt (`attnbridge data import sbd`" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_kit_without_its_test_images_ends_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would after the hours of the first row."""
    asked: list[Any] = []
    monkeypatch.setattr(benchmark, "write_submission", lambda *words: asked.append(words))
    run: Any = SimpleNamespace(record={"classes": ["cat"]}, segmenter=lambda device: None)
    kit = make_voc(tmp_path / "voc") / "VOC2012"
    benchmark._export(run, kit, tmp_path / "out", None)
    assert len(asked) == 1
    with (kit / "ImageSets/Segmentation/test.txt").open("a") as handle:
        handle.write("2012_999999\n")
    benchmark._export(run, kit, tmp_path / "out", None)
    assert len(asked) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "no masks for VOC's server: " in said
    assert "2012_999999" in said
