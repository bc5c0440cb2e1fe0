"""The stages of the chain from image labels to masks: which experiment each is."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.pipeline import MIN_STEPS, PipelineRequest, _check_second, long_enough, stage_experiment


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


@pytest.mark.usefixtures("module_cache")
def test_as_published_the_second_training_begins_with_the_first_network(tmp_path: Path) -> None:
    """speedinghzl/DSRG, 91efdf7, run.sh:5 and :9: the first begins with ImageNet's weights."""
    data = {"source": "s", "target": "t", "saliency": "u2net"}
    earlier = Experiment.from_mapping({"method": "attnbn", "model": {"backbone": "vgg16"}, "data": data})
    first = stage_experiment("voc/dsrg", earlier, tmp_path / "cues", [])
    second = stage_experiment("voc/retrain", earlier, tmp_path / "own-masks", [], second=True)
    assert "weights" not in first.model
    assert second.model["weights"] == str(tmp_path / "segmentation" / "checkpoints" / "last.ckpt")
    light = stage_experiment("segmentation/retrain", earlier, tmp_path / "own-masks", [], second=True)
    assert "weights" not in light.model  # another backbone


@pytest.mark.usefixtures("module_cache")
def test_a_second_training_of_another_network_is_refused(tmp_path: Path) -> None:
    earlier = Experiment.from_mapping({"method": "attnbn", "data": {"source": "s", "target": "t", "saliency": "u2net"}})
    request = PipelineRequest(tmp_path, tmp_path, out=tmp_path, segmentation="voc/sec", retrain="voc/retrain")
    first = stage_experiment("voc/sec", earlier, tmp_path / "cues", [])
    second = stage_experiment("voc/retrain", earlier, tmp_path / "own-masks", [], second=True)
    with pytest.raises(
        AttnBridgeError, match=r"voc/retrain: model\.head_rate is \[6, 12, 18, 24\], but in voc/sec.* 12;"
    ):
        _check_second(request, first, second)
    _check_second(request, stage_experiment("voc/dsrg", earlier, tmp_path / "cues", []), second)
