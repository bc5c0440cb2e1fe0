"""Tables: every row is a configuration, and what is printed of the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnbridge.evaluation.summary import domain_table, heat_maps, markdown_table
from attnbridge.experiments.config import load_experiment
from attnbridge.experiments.table_data import all_cases
from attnbridge.experiments.tables import DEMO, TABLES, MapTable, PipelineTable, TableRequest
from attnbridge.methods import CLASSES, CUES, DOMAINS, SOURCE_TARGET
from tests.conftest import two_colours

ROW = {"miou_best": 0.5, "miou_fixed": 0.4, "miou_best_labels": 0.6, "map": 0.7, "threshold": 0.3, "seconds": 9.0}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_configuration_of_the_tables_kind(name: str) -> None:
    table = TABLES[name]
    kinds = {"ClassTable": CLASSES, "DomainTable": DOMAINS}
    assert table.rows
    assert table.help
    for row in table.rows:
        assert load_experiment(row).entry.data == kinds.get(type(table).__name__, SOURCE_TARGET)
    if isinstance(table, PipelineTable):
        assert load_experiment(table.segmentation).entry.data == CUES


def test_the_demo_is_the_smallest_table() -> None:
    scenes = TABLES["scenes"]
    assert isinstance(scenes, MapTable)
    assert set(DEMO.rows) < set(scenes.rows)
    assert DEMO.data == scenes.data


def test_the_rows_of_the_garments_are_those_of_the_small_network() -> None:
    for row in (*TABLES["clothing"].rows, *TABLES["clothing_source"].rows):
        experiment = load_experiment(row)
        assert experiment.data["lists"]["train"] == "train_labels_only"
        assert experiment.model["backbone"] == "tf_efficientnet_lite0"
    assert load_experiment("clothing/attnbn_10").data["source_share"] == 0.1
    assert load_experiment("clothing/fine_tuned").init_from == "clothing/source_guided"


def test_the_papers_rows_are_configurations_and_its_figures_stand_beside() -> None:
    table = TABLES["table1"]
    for row in (*table.rows, *TABLES["table2"].rows):
        experiment = load_experiment(row)
        assert (experiment.model["backbone"], experiment.data["lists"]["test"]) == ("vgg16", "val")
    assert load_experiment("voc/grad_cam").model["attention_weight"] == 0
    assert load_experiment("voc/attnbn").model["attention_weight"] == 2
    assert isinstance(table, MapTable)
    text = markdown_table({"rows": [{"name": "voc/bridged", **ROW}]}, table.paper)
    assert text.splitlines()[-1].endswith("| 46.2 |")


def test_the_rows_of_attention_transfer_have_the_papers_networks() -> None:
    for row in TABLES["at-cifar10"].rows:
        experiment = load_experiment(row)
        assert experiment.method == "attention_transfer"
        assert experiment.model["backbone"] == ("wrn_16_2" if row == "cifar10/teacher" else "wrn_16_1")
    assert load_experiment("cifar10/at_kd").model["transfer_weight"] == 1000


def test_the_rows_of_fine_tuning_are_of_one_method() -> None:
    for row in TABLES["finetune"].rows:
        assert load_experiment(row).method == "fine_tuning"
    assert load_experiment("finetune/afa").model["alignment"] == "channel"


def test_the_full_size_table_of_domains_has_the_papers_network_and_weights() -> None:
    for row, weights in zip(TABLES["table7"].rows, ((0, 0), (2, 0), (0, 0.001), (2, 0.001)), strict=True):
        experiment = load_experiment(row)
        assert experiment.option("model.backbone") == "vgg16"
        assert tuple(experiment.option(f"model.{n}_weight") for n in ("attention", "adversarial")) == weights


def test_a_class_can_be_left_out_of_the_mean() -> None:
    iou = {"background": 0.8, "hat": None, "pants": 0.4, "shoes": 0.0}
    results = {"rows": [{"name": "a", **ROW, "iou": iou, "iou_labels": {**iou, "hat": 0.0}}]}
    head, _, line = markdown_table(results, without="shoes").splitlines()
    assert head.endswith("| without shoes | true labels, without shoes |")
    assert line.endswith("| 60.0 | 40.0 |")


def test_means_over_cases_need_all_of_them() -> None:
    rows = [
        {"name": "x", "seed": s, "domains": d, "source_validation": v}
        for s, d, v in [(0, "a to b", 0.5), (0, "b to a", 0.7), (1, "a to b", 0.1)]
    ]
    assert domain_table(rows).splitlines()[-1] == "| mean of 2 | 60.0 |"
    assert domain_table(rows).splitlines()[2] == "| a to b | 30.0 ± 28.3 |"
    axes = heat_maps(rows).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(np.nan_to_num(shown, nan=-1), [[-1, 30], [70, -1]])


def test_how_much_a_row_is_above_the_first() -> None:
    values = {("x", "a to b"): (0.5, 0.7), ("x", "b to a"): (0.2, 0.2), ("y", "a to b"): (0.7, 0.7)}
    values[("y", "b to a")] = (0.2, 0.1)
    rows = [
        {"name": name, "seed": seed, "domains": case, "source_validation": value}
        for (name, case), both in values.items()
        for seed, value in enumerate(both)
    ]
    assert domain_table(rows).splitlines()[-1] == "| above x |  | 2.5 ± 10.6, in 1 of 2 |"


def test_all_ordered_pairs(tmp_path: Path) -> None:
    three = two_colours(tmp_path / "set", {"a": 1, "b": 1, "c": 1}, 8)
    pairs = all_cases(TableRequest(data=three))
    assert len(pairs) == len(set(pairs)) == 6
    assert all(case.target not in case.sources and len(case.sources) == 1 for case in pairs)
    others = all_cases(TableRequest(data=three, leave_one_out=True))
    assert [(case.sources, case.target) for case in others] == [
        (("b", "c"), "a"), (("a", "c"), "b"), (("a", "b"), "c"),
    ]  # fmt: skip
