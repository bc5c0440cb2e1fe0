"""What is found wrong with an experiment before anything is trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from attnbridge.errors import AttnBridgeError
from attnbridge.experiments import checks
from attnbridge.experiments.checks import check_experiment, check_network
from attnbridge.experiments.config import Experiment, load_experiment


def checked(method: str, data: dict[str, Any], training: bool = True, **model: Any) -> None:
    check_experiment(Experiment.from_mapping({"method": method, "data": data, "model": model}), training)


@pytest.fixture
def data(scenes: Path) -> dict[str, Any]:
    return {"source": str(scenes / "source/train"), "target": str(scenes / "target")}


def test_what_the_methods_options_ask_of_the_data_is_named(data: dict[str, Any]) -> None:
    with pytest.raises(AttnBridgeError, match=r"data.source is not set"):
        checked("attnbn", {"target": data["target"]})
    with pytest.raises(AttnBridgeError, match=r"data.saliency is not set"):
        checked("attnbn", data)
    with pytest.raises(AttnBridgeError, match=r"data.target is not set"):
        checked("attnbn", {"source": data["source"]}, attention_weight=0)
    with pytest.raises(AttnBridgeError, match=r"data.views keeps no images, but mining erases parts of them"):
        checked("gain", {**data, "views": 2}, attention_weight=0)
    checked("attnbn", data, attention_weight=0)
    checked("attnbn", data, training=False)  # scoring asks for less


def test_all_that_a_missing_source_serves_is_named(data: dict[str, Any]) -> None:
    with pytest.raises(AttnBridgeError) as error:
        checked("attnbn", {"target": data["target"]}, adversarial_weight=0.1)
    assert "or set model.source_weight to 0" in str(error.value)
    assert "(as model.attention_weight and model.adversarial_weight do)" in str(error.value)
    none = {"source_weight": 0, "attention_weight": 0, "adversarial_weight": 0}
    checked("attnbn", {"target": data["target"]}, **none)


def test_guidance_without_masks_is_named_before_training(data: dict[str, Any]) -> None:
    model = {"attention_weight": 0, "guidance_weight": 10.0}
    with pytest.raises(AttnBridgeError, match=r"data\.guided is not set, but model\.guidance_weight is"):
        checked("gain", data, **model)
    with pytest.raises(AttnBridgeError, match="no such file"):
        checked("gain", {**data, "guided": "nowhere"}, **model)


def test_a_single_source_cannot_be_aligned_with_a_target_that_is_withheld(classes: Path, tmp_path: Path) -> None:
    for domain in ("a", "b", "c"):
        (tmp_path / domain).symlink_to(classes / "train")
    data = {"data": str(tmp_path), "sources": ["a"], "target": "b", "generalise": True}
    with pytest.raises(AttnBridgeError, match=r"so model\.adversarial_weight has no two domains to align"):
        checked("domain_adaptation", data, adversarial_weight=0.1, attention_weight=0)
    checked("domain_adaptation", data, adversarial_weight=0, attention_weight=0)
    checked("domain_adaptation", {**data, "sources": ["a", "c"]}, adversarial_weight=0.1, attention_weight=0)
    checked("domain_adaptation", {**data, "generalise": False}, adversarial_weight=0.1, attention_weight=0)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "pytorch_metric_learning" else find(name))
    with pytest.raises(
        AttnBridgeError, match=r"margin needs pytorch_metric_learning: pip install 'attnbridge\[faces\]'"
    ):
        checked("fine_tuning", {"data": "x"}, margin=28.6)


def test_an_earlier_stage_is_checked_too(data: dict[str, Any]) -> None:
    experiment = load_experiment("fine_tuned").with_options(data={**data, "saliency": None})
    with pytest.raises(AttnBridgeError, match=r"data\.saliency is not set, but model\.attention_weight"):
        check_experiment(experiment)
    check_experiment(experiment, training=False)


def test_weights_that_are_not_there_are_named(data: dict[str, Any]) -> None:
    with pytest.raises(AttnBridgeError, match=r"lost\.pth: no such weight file"):
        checked("attnbn", data, attention_weight=0, weights="lost.pth")
    checked("attnbn", data, training=False, weights="lost.pth")


@pytest.mark.usefixtures("own_cache")
def test_kept_views_need_modules_that_are_not_trained(data: dict[str, Any]) -> None:
    experiment = Experiment.from_mapping(
        {"method": "attnbn", "data": {**data, "views": 2}, "model": {"backbone": "resnet10t", "frozen": []}}
    )
    with pytest.raises(AttnBridgeError, match=r"data\.views needs model\.frozen"):
        check_network(experiment)
    check_network(experiment.with_options(model={"frozen": ["conv1", "bn1"]}))
