"""Backbones and their weights: strides, layers, files, packages, checksums."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from torch import nn
from torchvision.transforms.v2 import functional as TF

from attnbridge.attention.observe import observe
from attnbridge.data.download import packaged_file
from attnbridge.data.images import load_image
from attnbridge.errors import AttnBridgeError
from attnbridge.models import weights as module
from attnbridge.models.backbones import build_backbone, freeze
from attnbridge.models.weights import PACKAGED, load_file

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "stride", "layer", "positions"),
    [
        ("vgg16", 16, "features", 6),
        ("vgg16", None, "features.29", 6),
        ("tf_efficientnet_lite0", 16, "bn2", 6),
        ("tf_efficientnet_lite0", 32, "bn2", 3),
        ("resnet10t", 16, "layer4", 6),
    ],
)
def test_stride_and_layer(name: str, stride: int, layer: str, positions: int) -> None:
    backbone = build_backbone(name, 4, weights="none", stride=stride, image_size=96)
    seen = observe(backbone.network, torch.rand(1, 3, 96, 96), backbone.layer)
    assert backbone.layer == layer
    assert backbone.maps(seen.features[layer]).shape == (1, backbone.channels, positions, positions)
    assert seen.logits.shape == (1, 4)


def test_a_layer_can_be_named() -> None:
    backbone = build_backbone("resnet10t", 4, weights="none", layer="layer2", image_size=64)
    assert (backbone.layer, backbone.channels) == ("layer2", 128)


def test_a_typo_in_the_backbone_the_layer_or_a_frozen_module_is_named() -> None:
    with pytest.raises(AttnBridgeError, match=r"unknown backbone 'resnet10'; did you mean .*'resnet10t'"):
        build_backbone("resnet10", 4, weights="none")
    with pytest.raises(AttnBridgeError, match=r"unknown layer 'layer44'; did you mean 'layer4'"):
        build_backbone("resnet10t", 4, weights="none", layer="layer44", image_size=64)
    network = build_backbone("resnet10t", 4, weights="none", image_size=64).network
    with pytest.raises(AttnBridgeError, match=r"unknown layer 'layr1'"):
        freeze(network, ["layr1"])
    with pytest.raises(AttnBridgeError, match=r"cannot have a stride of 16"):
        build_backbone("mixer_s32_224", 4, weights="none", stride=16)


def test_a_local_file_fills_all_but_a_classifier_of_another_size(tmp_path: Path) -> None:
    trained = build_backbone("resnet10t", 9, weights="none", image_size=64).network
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone("resnet10t", 4, weights=str(tmp_path / "w.pth"), image_size=64)
    assert torch.equal(
        backbone.network.state_dict()["layer3.0.conv1.weight"], trained.state_dict()["layer3.0.conv1.weight"]
    )
    assert backbone.network.state_dict()["fc.weight"].shape == (4, 512)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network = build_backbone("resnet10t", 4, weights="none", image_size=64).network
    with pytest.raises(AttnBridgeError, match=r"lost\.pth: no such weight file"):
        load_file(network, tmp_path / "lost.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(AttnBridgeError, match=r"text\.pth: cannot be read as weights"):
        load_file(network, tmp_path / "text.pth")
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(AttnBridgeError, match=r"does not fit the network: .*other\.weight"):
        load_file(network, tmp_path / "other.pth")


def test_the_vgg_pickle_admits_arrays_alone(tmp_path: Path) -> None:
    layers = {
        f"Conv_{i}": {"kernel": np.full((3, 3, 2, 4), i, np.float32), "bias": np.full(4, i, np.float32)}
        for i in range(13)
    }
    (tmp_path / "good").write_bytes(pickle.dumps({"VGG16_0": layers}))
    own = {f"features.{i}.{part}": torch.zeros(1) for i in range(13) for part in ("weight", "bias")}
    state = module._read_vgg16(tmp_path / "good", own)
    assert state["features.12.weight"].shape == (4, 2, 3, 3)
    assert float(state["features.7.weight"].unique()) == 7
    (tmp_path / "bad").write_bytes(pickle.dumps({"VGG16_0": Path}))
    with pytest.raises(AttnBridgeError, match=r"asks for pathlib.*only numpy arrays are admitted"):
        module._read_vgg16(tmp_path / "bad", own)


@pytest.mark.parametrize("name", [n for n, entry in PACKAGED.items() if entry.classifier])
def test_the_real_weights_of_efficientnet_lite_recognise_aeroplanes(name: str) -> None:
    photographs = sorted((SHARED / "imagenet_det" / "aeroplane").glob("*.jpg"))
    if not photographs:
        pytest.skip("needs ../shared/data/imagenet_det, which is not here")
    entry = PACKAGED[name]
    try:
        head = torch.load(packaged_file(entry.file), weights_only=True)
    except AttnBridgeError as error:
        pytest.skip(f"the package registry cannot be reached: {error}")
    backbone = build_backbone(name, 1000, stride=32, image_size=224)
    network = backbone.network.eval()
    network.classifier.load_state_dict({"weight": head["_fc.weight"], "bias": head["_fc.bias"]})  # type: ignore
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    images = torch.stack(
        [TF.resize(TF.pil_to_tensor(load_image(p)).float() / 255, [224, 224], antialias=True) for p in photographs]
    )
    with torch.no_grad():
        best = network((images - mean) / std).argmax(1)
    flying = {403, 404, 405, 895, 908}  # aircraft carrier, airliner, airship, warplane, wing
    assert sum(int(b) in flying for b in best) >= 0.6 * len(photographs)


def test_a_hub_that_cannot_be_reached_is_answered_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked once whether it is there; what follows looks into the cache alone, where retries would take a minute."""
    asked: list[Any] = []
    offline: list[bool] = []
    create = timm.create_model

    def unreachable(address: Any, *_: Any, **__: Any) -> None:
        asked.append(address)
        raise OSError("no network")

    def noted(*words: Any, **options: Any) -> Any:
        offline.append(constants.HF_HUB_OFFLINE)
        return create(*words, **options)

    before = constants.HF_HUB_OFFLINE
    monkeypatch.setattr(timm, "create_model", noted)
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(module, "getproxies", dict)
    monkeypatch.setattr(module.socket, "create_connection", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AttnBridgeError, match=r"cannot be had from timm's hub .*weights: FILE\.pth"):
        build_backbone("resnet18", 4, image_size=64)
    assert asked == [("huggingface.co", 443)]
    assert offline == [True]
    assert before == constants.HF_HUB_OFFLINE


def test_a_vggs_weights_load_whole_as_convolutions_alone_or_with_a_new_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.vgg11(num_classes=9).eval()
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    timms = timm.create_model("vgg11", num_classes=9).eval()
    torch.save(timms.state_dict(), tmp_path / "timm.pth")
    images = torch.rand(1, 3, 224, 224)
    options: dict[str, Any] = {"stride": None, "layer": "features.19"}
    for network, file in ((theirs, "torchvision.pth"), (timms, "timm.pth")):
        built = build_backbone("vgg11_fc", 9, weights=str(tmp_path / file), **options)
        assert built.channels == 512
        with torch.no_grad():
            torch.testing.assert_close(built.network.eval()(images), network(images))
        renewed = build_backbone("vgg11_fc", 4, weights=str(tmp_path / file), **options).network
        torch.testing.assert_close(renewed.get_parameter("pre_logits.fc2.weight").flatten(), _second(network))
        assert renewed(images).shape == (1, 4)
        pooled = build_backbone("vgg11", 4, weights=str(tmp_path / file)).network
        assert torch.equal(pooled.get_parameter("features.18.weight"), network.get_parameter("features.18.weight"))
        assert pooled(images).shape == (1, 4)


def _second(network: nn.Module) -> torch.Tensor:
    names = dict(network.named_parameters())
    return names.get("classifier.3.weight", names.get("pre_logits.fc2.weight")).flatten()  # type: ignore[union-attr]


def test_weights_of_a_wrong_shape_name_the_layer(tmp_path: Path) -> None:
    state = timm.create_model("resnet10t", num_classes=4).state_dict()
    state["layer2.0.conv1.weight"] = torch.zeros(7, 64, 3, 3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        AttnBridgeError, match=r"a\.pth: layer2\.0\.conv1\.weight is \(7, 64, 3, 3\), but \(128, 64, 3, 3\)"
    ):
        build_backbone("resnet10t", 4, weights=str(tmp_path / "a.pth"), image_size=64)
    with pytest.raises(AttnBridgeError, match="'vgg11_fc' has a stride of 32, or null for it, not 16"):
        build_backbone("vgg11_fc", 4, weights="none")
