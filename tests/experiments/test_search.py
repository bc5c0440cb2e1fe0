"""What a search may choose, without a search."""

from __future__ import annotations

import pytest

from attnbridge.data.text import parse_yaml
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment, load_experiment
from attnbridge.experiments.search import search_space, with_values
from attnbridge.experiments.tables import TABLES


def test_every_row_of_the_table_is_searched() -> None:
    for row in TABLES["finetune"].rows:
        assert search_space(load_experiment(row))


def test_bounds_in_a_file_may_be_written_as_yaml_does_not_know_them() -> None:
    written = parse_yaml("method: fine_tuning\nsearch: {model: {start_weight: [1e-3, 10]}}", "mine.yaml")
    assert search_space(Experiment.from_mapping(written)) == {"model.start_weight": (0.001, 10)}
    with pytest.raises(AttnBridgeError, match="0 < LOW < HIGH, not \\['low', 10\\]"):
        Experiment.from_mapping({**written, "search": {"model": {"start_weight": ["low", 10]}}})


def test_what_was_found_is_not_searched_again() -> None:
    experiment = load_experiment("finetune/l2_sp")
    tuned = with_values(experiment, {"model.start_weight": 0.5, "model.lr": 0.25})
    assert not tuned.search
    assert (tuned.model["start_weight"], tuned.model["lr"]) == (0.5, 0.25)
    assert experiment.search
