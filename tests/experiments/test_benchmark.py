"""Tables as they are trained, without the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.datasets.synthetic.scenes import SceneSpec
from attnbridge.experiments.benchmark import run_table
from attnbridge.experiments.table_data import scene_data
from attnbridge.experiments.tables import TABLES, TableRequest


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_row_that_begins_with_another_takes_the_trained_one(tmp_path: Path) -> None:
    small = ["--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]"]
    tiny = ["--trainer.max_epochs", "1", "--data.image_size", "48", "--data.workers", "0"]
    data = scene_data(tmp_path, "shapes", SceneSpec(size=48, source=32, target=32, val=8, test=8))
    request = TableRequest(tmp_path, (0, 1), ("source_guided", "fine_tuned"), tuple(small + tiny))
    results = run_table("scenes", TABLES["scenes"], request, tmp_path, data)
    assert [(r["name"], r["seed"]) for r in results["rows"]] == [
        (name, seed) for seed in (0, 1) for name in ("source_guided", "fine_tuned")
    ]
    assert not (tmp_path / "fine_tuned-0/first").exists()  # the trained row was used
