"""The stages of the chain from image labels to masks: which experiment each is."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.pipeline import MIN_STEPS, long_enough, stage_experiment


@pytest.mark.usefixtures("module_cache")
@pytest.mark.parametrize(("backbone", "begins"), [("tf_efficientnet_lite0", True), ("resnet18", False)])
def test_the_segmentation_network_begins_with_the_classifiers_weights(
    tmp_path: Path, backbone: str, begins: bool
) -> None:
    data = {"source": "s", "target": "t", "saliency": "u2net", "source_share": 0.1, "image_size": 224}
    earlier = Experiment.from_mapping({"method": "attnbn", "seed": 5, "model": {"backbone": backbone}, "data": data})
    cues = tmp_path / "cues"
    found = stage_experiment("segmentation/dsrg", earlier, cues, [])
    begin = str(tmp_path / "classifier" / "checkpoints" / "last.ckpt")
    assert found.model.get("weights") == (begin if begins else None)
    assert {name: found.data[name] for name in data} == data
    assert (found.data["cues"], found.seed) == (str(cues), 5)
    own = stage_experiment("segmentation/dsrg", earlier, cues, ["--model.weights", "imagenet"])
    assert own.model["weights"] == "imagenet"
    free = stage_experiment("segmentation/dsrg", earlier, cues, ["--model.frozen", "[]"])
    assert free.data["views"] is None
    assert stage_experiment("voc/dsrg", earlier, cues, []).data["image_size"] == 321


def test_a_stage_of_another_method_is_refused(tmp_path: Path) -> None:
    earlier = Experiment.from_mapping({"method": "attnbn", "data": {"target": "t"}})
    with pytest.raises(AttnBridgeError, match="grad_cam: trains attnbn, no segmentation network"):
        stage_experiment("grad_cam", earlier, tmp_path / "cues", [])


def test_few_images_are_seen_more_often(scenes: Path) -> None:
    paths = {"source": str(scenes / "source/train"), "target": str(scenes / "target")}
    images = max(len(list((scenes / place).rglob("*.*g"))) for place in ("source/train", "target/train/images"))
    for batch, epochs in ((8, -(-MIN_STEPS // (images // 8))), (1, 9)):
        data = {**paths, "batch_size": batch}
        trainer = {"max_epochs": 2 if batch == 8 else 9}
        experiment = Experiment.from_mapping({"method": "attnbn", "data": data, "trainer": trainer})
        assert long_enough(experiment).trainer["max_epochs"] == epochs
        assert experiment.trainer == trainer
