"""Experiments: files, overrides, and every name or value in them that cannot be."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.experiments.config import Experiment, config_names, load_experiment
from attnbridge.experiments.options import evaluation_options
from attnbridge.methods import METHODS, load_object


def test_yaml_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: [")
    with pytest.raises(AttnBridgeError, match=r"a\.yaml: is no YAML that is read here: line 1, column 9"):
        load_experiment(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("- 1")
    with pytest.raises(AttnBridgeError, match=r"expected sections such as `model:`, found list"):
        load_experiment(str(tmp_path / "b.yaml"))
    (tmp_path / "c.yaml").write_text("method: attnbn\nmodel: 3")
    with pytest.raises(AttnBridgeError, match=r"c\.yaml: model must hold options"):
        load_experiment(str(tmp_path / "c.yaml"))


def test_overrides_are_yaml_values() -> None:
    experiment = load_experiment("attnbn", ["--model.lr", "1e-4", "--model.frozen=[layer1]", "--seed", "7"])
    assert experiment.model["lr"] == experiment.option("model.lr") == 1e-4
    assert experiment.model["frozen"] == ["layer1"]
    assert experiment.seed == 7


def test_an_experiment_is_named_after_its_file_or_as_the_package_does(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: clothing/attnbn\n")
    (tmp_path / "own.yaml").write_text("base: clothing/attnbn\nname: ours\n")
    assert load_experiment(str(tmp_path / "mine.yaml")).name == "mine"
    assert load_experiment(str(tmp_path / "own.yaml")).name == "ours"
    assert load_experiment("clothing/attnbn").name == "clothing/attnbn"
    assert Experiment.from_mapping({"method": "gain"}).name == "gain"
    with pytest.raises(AttnBridgeError, match="unknown method in configuration 'clothing/attnbn'"):
        load_experiment("clothing/attnbn", ["--method", "x"])
    with pytest.raises(AttnBridgeError, match=r"unknown method in .*mine\.yaml"):
        load_experiment(str(tmp_path / "mine.yaml"), ["--method", "x"])


@pytest.mark.parametrize("name", config_names())
def test_what_is_written_is_what_was_read(name: str) -> None:
    """A run's `config.yaml` is the experiment."""
    experiment = load_experiment(name, ["--evaluation.scales", "[1.0, 2.0]"], shared=True)
    written = yaml.safe_load(yaml.safe_dump(experiment.to_mapping()))
    assert Experiment.from_mapping(written) == experiment
    used = "scales" in evaluation_options(experiment.method)
    assert written.get("evaluation", {}).get("scales") == ([1.0, 2.0] if used else None)


@pytest.mark.parametrize("method", METHODS)
def test_a_task_says_what_its_scores_depend_on(method: str) -> None:
    """Read from its source, without torch, it is what the class has; all it leaves to the task is resolved there."""
    task = load_object(METHODS[method].task)
    assert evaluation_options(method) == task.uses
    known = asdict(EvaluationSettings().resolved(**task.defaults))
    assert all(known[name] is not None for name in task.uses)


@pytest.mark.parametrize(
    ("method", "given", "uses"),
    [
        ("segmentation", {"threshold": 0.3}, "size, scales, flip, crf, combine, corners"),
        ("segmentation", {"score_threshold": 0.3}, "size, scales, flip, crf, combine, corners"),
        ("fine_tuning", {"flip": False}, "none"),
        ("domain_adaptation", {"size": "own"}, "none"),
        ("attention_transfer", {"scales": [1.0]}, "none"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(method: str, given: dict[str, Any], uses: str) -> None:
    (name,) = given
    with pytest.raises(AttnBridgeError) as error:
        Experiment.from_mapping({"method": method, "evaluation": given}, "mine.yaml")
    said = f"mine.yaml: the scores of {method} do not depend on evaluation.{name}; they do on {uses}; leave it out"
    assert str(error.value) == said
    words = [f"--evaluation.{name}", str(*given.values())]
    configuration = {"segmentation": "segmentation/dsrg", "fine_tuning": "finetune/l2"}.get(method)
    if configuration:
        with pytest.raises(AttnBridgeError, match="do not depend on"):
            load_experiment(configuration, words)
        assert load_experiment(configuration, words, shared=True) == load_experiment(configuration)


def test_what_is_not_set_is_not_written() -> None:
    assert Experiment.from_mapping({"method": "attnbn", "evaluation": {"threshold": 0.5}}).to_mapping() == {
        "method": "attnbn", "name": "attnbn", "seed": 0,
    }  # fmt: skip


def test_an_experiment_stays_as_it_is() -> None:
    experiment = load_experiment("attnbn")
    before = experiment.to_mapping()
    changed = experiment.with_options(model={"lr": 0.5}, data={"image_size": 64})
    with pytest.raises(FrozenInstanceError):
        experiment.seed = 3  # type: ignore[misc]
    assert experiment.to_mapping() == before
    assert changed.difference(experiment) == ("data.image_size", 64, 128)
    assert changed.with_options(data={"image_size": 128}).difference(experiment) == ("model.lr", 0.5, None)
    assert experiment.difference(experiment) is None
    assert experiment.difference(load_experiment("attnbn", ["--seed", "3"])) == ("seed", 0, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"lr": -1}}, "option model.lr must be above 0, not -1"),
        ({"model": {"lr": float("nan")}}, "option model.lr must be above 0, not nan"),
        ({"model": {"lr": True}}, "option model.lr must be float above 0, but is True"),
        ({"model": {"attention_weight": float("inf")}}, "option model.attention_weight must be at least 0, not inf"),
        ({"model": {"backbone": 3}}, "option model.backbone must be str, but is 3"),
        ({"data": {"image_size": [64]}}, "option data.image_size must be int at least 8 and at most 8192 | two of "),
        ({"data": {"image_size": [64, 0]}}, "option data.image_size must be at least 8 and at most 8192, not 0"),
        ({"data": {"workers": -1}}, "option data.workers must be at least 0 and at most 256, not -1"),
        ({"data": {"min_crop": 0}}, "option data.min_crop must be above 0 and at most 1, not 0"),
        ({"seed": 2**32}, f"option seed must be at least 0 and at most {2**32 - 1}, not {2**32}"),
        ({"seed": 1.5}, "option seed must be int at least 0 and at most 4294967295, but is 1.5"),
        ({"trainer": {"max_epochs": float("nan")}}, "option trainer.max_epochs must be int | None, but is nan"),
        ({"trainer": {"max_epochs": 0}}, "option trainer.max_epochs must be at least 1, not 0"),
        ({"trainer": {"check_val_every_n_epoch": 0}}, "option trainer.check_val_every_n_epoch must be at least 1"),
        ({"trainer": {"max_steps": 0}}, "option trainer.max_steps must be at least 1, not 0"),
        ({"evaluation": {"threshold": 0.33}}, "option evaluation.threshold must be one of 0.05, 0.1, "),
        ({"evaluation": {"score_threshold": 1}}, "option evaluation.score_threshold must be above 0 and below 1"),
        ({"evaluation": {"scales": 1}}, "option evaluation.scales must be a list of numbers, but is 1"),
        ({"evaluation": {"flip": 1}}, "option evaluation.flip must be bool, but is 1"),
        ({"init_overrides": {"model": {"lr": 0}}}, "option init_overrides.model.lr must be above 0, not 0"),
        ({"init_overrides": {"model": {"lrr": 0}}}, "unknown option in init_overrides: 'model.lrr'; did you mean"),
        ({"init_overrides": 3}, "mine.yaml: init_overrides must hold options, `init_overrides: {...}`, not 3"),
        ({"after": "attnbn"}, "the section `after` is called `init_from` now"),
        ({"first": {}}, "the section `first` is called `init_overrides` now"),
        ({"method": "transfer"}, "the method 'transfer' is called 'attention_transfer' now"),
        ({"method": "adaptation"}, "the method 'adaptation' is called 'domain_adaptation' now"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_what_cannot_be_is_named_with_what_can(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnBridgeError) as error:
        Experiment.from_mapping({"method": "attnbn", **changes}, "mine.yaml")
    assert message in str(error.value)


def test_what_may_be_at_the_end_of_a_range_is_taken() -> None:
    experiment = Experiment.from_mapping(
        {
            "method": "attnbn",
            "seed": 2**32 - 1,
            "model": {"attention_weight": 0, "backbone_lr": 0},
            "data": {"image_size": [8, 8192], "batch_size": 1, "workers": 0, "min_crop": 1, "views": None},
            "trainer": {"max_epochs": -1},
            "evaluation": {"threshold": 0.95, "scales": [0.5]},
        }
    )
    assert experiment.evaluation == EvaluationSettings(threshold=0.95, scales=(0.5,))


def test_a_section_keeps_what_is_not_changed() -> None:
    scored = Experiment.from_mapping({"method": "attnbn", "evaluation": {"threshold": 0.25}})
    assert scored.with_options(evaluation={"crf": False}).evaluation == EvaluationSettings(threshold=0.25, crf=False)
    first = load_experiment("finetune/afa")
    assert first.with_options(init_overrides={"model": {"lr": 0.5}}).init_overrides == {
        "trainer": {"max_epochs": 6}, "model": {"lr": 0.5},
    }  # fmt: skip
    with pytest.raises(AttnBridgeError, match="unknown section in the configuration: 'modl'; did you mean 'model'"):
        first.with_options(modl={"lr": 1})


def test_a_stage_that_is_none_is_named(tmp_path: Path) -> None:
    for key in ("init_from", "teacher"):
        (tmp_path / "mine.yaml").write_text(f"base: cifar10/at\n{key}: cifar10/teecher\n")
        with pytest.raises(AttnBridgeError, match=rf"`{key}` of mine\.yaml: 'cifar10/teecher'; did you mean"):
            load_experiment(str(tmp_path / "mine.yaml"))
