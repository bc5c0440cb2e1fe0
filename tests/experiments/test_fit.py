"""What `fit` is asked for and cannot be, told before anything is written. That it trains: `tests/methods`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment, load_experiment
from attnbridge.experiments.fit import check_same, fit
from attnbridge.experiments.user_data import data_module_of, folder_options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"lr": -1}}, "option model.lr must be above 0, not -1"),
        ({"seed": -1}, "option seed must be at least 0 and at most 4294967295, not -1"),
        ({"trainer": {"max_epoch": 1}}, "did you mean 'max_epochs'"),
        ({"modl": {"lr": 1}}, "'modl'; did you mean 'model'"),
        ({"data": "nowhere"}, "nowhere: no such folder; name the one that holds the data"),
        ({"data": 3}, "data: expected a folder, options of the data module, an attnbridge data module, or loaders"),
        ({"data": {"source": "nowhere"}}, "nowhere: no such folder"),
        ({"data": {"train": {"target": DataLoader([])}}}, "data: loaders are given as {'train': {STREAM: loader}"),
        ({"model": {"backbone": "resnt18"}}, "unknown backbone 'resnt18'; did you mean 'resnet18'"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else "",
)
@pytest.mark.usefixtures("module_cache")
def test_what_cannot_be_is_told_and_nothing_is_written(
    changes: dict[str, Any], message: str, scenes: Path, tmp_path: Path
) -> None:
    parts = {"source": "source/train", "target": "target", "saliency": "saliency/train"}
    data = {"data": {name: str(scenes / part) for name, part in parts.items()}}
    with pytest.raises(AttnBridgeError) as error:
        fit("attnbn", **{**data, **changes}, out=tmp_path / "run")
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_what_it_holds(tmp_path: Path, classes: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    experiment = load_experiment("attnbn")
    found = {name: str(tmp_path / name) for name in ("source", "target")}
    assert folder_options(experiment, tmp_path) == found
    assert folder_options(experiment, tmp_path / "target") == {"target": str(tmp_path / "target")}
    own, module = data_module_of(load_experiment("finetune/l2"), classes)
    assert (own.data["data"], module) == (str(classes), None)


def test_a_run_goes_on_with_the_experiment_that_it_began_with(tmp_path: Path) -> None:
    before = Experiment.from_mapping({"method": "attnbn", "model": {"lr": 0.5}})
    check_same(before, before.with_options(), tmp_path)
    with pytest.raises(AttnBridgeError) as error:
        check_same(before, before.with_options(model={"lr": 0.25}), tmp_path)
    assert f"{tmp_path}: was begun with model.lr = 0.5, not 0.25" in str(error.value)
    assert f"go on with its own configuration ({tmp_path / 'config.yaml'}), name another folder" in str(error.value)
