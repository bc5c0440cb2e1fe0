"""`list` and `show`: every name there is, and configurations to start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from attnbridge.attention import METHODS as MAP_METHODS
from attnbridge.cli import main
from attnbridge.data.saliency import MODELS
from attnbridge.datasets import SETS
from attnbridge.experiments.config import config_names, config_path, load_experiment
from attnbridge.experiments.options import data_options, method_options, trainer_options
from attnbridge.experiments.tables import TABLES
from attnbridge.methods import METHODS
from tests.cli.test_front_door import run


def test_the_list_is_quick_and_whole() -> None:
    status, listed, heavy = run("list")
    assert (status, heavy) == (0, [])
    lines = [line.strip() for line in listed.splitlines()]
    names = [*METHODS, *MAP_METHODS, *MODELS, *SETS, *TABLES, *config_names()]
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in names)
    assert len([line for line in listed.splitlines() if line.startswith("  ")]) == len(names)


def test_show_tells_every_option_with_its_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "attnbn"]) == 0
    text = capsys.readouterr().out
    assert "--model.attention_weight: float at least 0 = 40.0" in text
    for method in METHODS:
        assert main(["show", method]) == 0
        text = capsys.readouterr().out
        for section, known in {"model": method_options(method), "data": data_options(method)}.items():
            for name, option in known.items():
                assert option.doc, f"{name} of {method} is not documented"
                assert f"--{section}.{name}: " in text
                assert option.doc in text
        assert isinstance(yaml.safe_load(text), dict | None)  # the options are comments
    assert "max_epochs" in trainer_options()


@pytest.mark.parametrize("name", config_names())
def test_show_prints_a_configuration_that_loads_equal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", name]) == 0
    path = tmp_path / f"{name.replace('/', '_')}.yaml"
    path.write_text(capsys.readouterr().out)
    assert len(config_path(name).read_text().splitlines()) <= 20
    own = load_experiment(str(path))
    assert own.name == path.stem
    assert replace(own, name=name) == load_experiment(name)
