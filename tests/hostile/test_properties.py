"""Whatever a configuration or a table holds, it is read, or refused with words that name it."""

from __future__ import annotations

import csv
import io
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnbridge.data.labels import read_labels
from attnbridge.data.text import dump_yaml, read_rows, write_rows
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment, load_experiment
from attnbridge.experiments.options import data_options, method_options
from attnbridge.methods import METHODS

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["1e-3", "nan", "auto", "null", "~", "-1", "0", "layer4", "../x", "*a", "!!python/none"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
NAMES = {
    name: [f"model.{option}" for option in method_options(name)] + [f"data.{option}" for option in data_options(name)]
    for name in METHODS
}
TRAINER = ["max_epochs", "max_steps", "devices", "precision", "accelerator", "limit_train_batches", "logger"]
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(few, max_examples=3000)
COUNTS = [pytest.param(few, id="some"), pytest.param(many, id="many", marks=pytest.mark.hostile)]


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration in which a few values are whatever they may be."""
    method = draw(st.sampled_from(sorted(METHODS)))
    found: dict[str, Any] = {"method": method, "model": {}, "data": {}, "trainer": {}, "evaluation": {}}
    known = [*NAMES[method], *(f"trainer.{name}" for name in TRAINER), "evaluation.threshold", "seed", "name", "base"]
    for name in draw(st.lists(st.sampled_from([*known, "model", "data", "nonsense"]), max_size=3)):
        section, _, option = name.partition(".")
        if option and isinstance(found[section], dict):
            found[section][option] = draw(VALUES)
        elif not option:
            found[section] = draw(VALUES)
    return found


def floats_of(value: Any) -> list[float]:
    """All numbers in a value, however nested."""
    if isinstance(value, dict):
        return [x for each in value.values() for x in floats_of(each)]
    if isinstance(value, list | tuple):
        return [x for each in value for x in floats_of(each)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("amount", COUNTS)
def test_a_configuration_is_one_or_is_refused(amount: settings, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"

    @amount
    @given(mappings())
    def check(mapping: dict[str, Any]) -> None:
        path.write_text(yaml.safe_dump(mapping, allow_unicode=True), encoding="utf-8")
        known = None
        with suppress(AttnBridgeError):
            known = load_experiment(str(path))
        if known is None:
            return
        own = [known.model, known.data, known.evaluation.threshold]
        assert all(math.isfinite(number) for number in floats_of(own))
        assert Experiment.from_mapping(yaml.safe_load(dump_yaml(known.to_mapping())), "again") == known

    check()


@pytest.mark.parametrize("amount", COUNTS)
def test_a_table_comes_back_as_it_was_written(amount: settings, tmp_path: Path) -> None:
    """Any text: formulas, quotes, line ends, delimiters."""
    path = tmp_path / "a.csv"

    @amount
    @given(st.lists(st.lists(CELLS, min_size=2, max_size=4).filter(lambda row: any(map(str.strip, row))), max_size=5))
    def check(rows: list[list[str]]) -> None:
        write_rows(path, rows)
        assert read_rows(path, ",") == rows
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
            assert not any(cell.startswith(("=", "@", "\t", "\r")) for cell in row)

    check()


@pytest.mark.parametrize("amount", COUNTS)
def test_labels_are_read_or_refused(amount: settings, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    cells = st.one_of(st.sampled_from(["0", "1", "1", "", " 1", "a.jpg", "id", "cat", "2"]), CELLS)
    tables = st.lists(st.lists(cells, min_size=1, max_size=4), max_size=5)

    @amount
    @given(tables, st.sampled_from([",", ";", "\t"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    def check(rows: list[list[str]], delimiter: str, encoding: str) -> None:
        text = "\r\n".join(delimiter.join(row) for row in [["id", "cat", "dog"], *rows])
        path.write_bytes(text.encode(encoding, errors="replace"))
        refusal = ""
        try:
            found = read_labels(path)
            assert found.classes == ("cat", "dog")
            assert all(k in (0, 1) for present in found.present.values() for k in present)
        except AttnBridgeError as error:
            refusal = str(error)
        assert not refusal or str(path) in refusal

    check()
