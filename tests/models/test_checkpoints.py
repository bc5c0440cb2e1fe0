"""Checkpoints as people have them: each form gives the network that was saved, or an error that says what is wrong."""

from __future__ import annotations

import argparse
import copy
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from attnbridge.errors import AttnBridgeError, warn_once
from attnbridge.models.backbones import build_backbone
from attnbridge.models.checkpoints import find_state
from attnbridge.models.classifiers import load_classifier
from attnbridge.models.nearest import nearest_model
from attnbridge.models.weights import load_state, read_weights

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("resnet10t", num_classes=5).eval()
    nn.init.normal_(network.get_submodule("fc").weight)  # type: ignore[arg-type]
    return network


def under(prefix: str, state: State) -> State:
    return OrderedDict((f"{prefix}{name}", value) for name, value in state.items())


def other(state: State) -> State:
    """Weights that are not the ones wanted."""
    return {name: torch.zeros_like(value) for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "a state dict": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "arch": "resnet10t"},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "lr": 0.1, "best": None},
    "net": lambda s: {"net": s, "acc": 93.2, "epoch": 199},
    "network": lambda s: {"network": s},
    "a name of the model beside it": lambda s: {"model": "resnet10t", "state_dict": s},
    "a configuration of the model beside it": lambda s: {"model": {"depth": 10}, "state_dict": s},
    "its configuration first": lambda s: {"model": {"depth": 10, "name": "a"}, "net": s},
    "nested": lambda s: {"state": 1, "model": {"state_dict": s, "version": 2}},
    "DDP": lambda s: under("module.", s),
    "DDP twice": lambda s: {"state_dict": under("module.module.", s)},
    "torch.compile": lambda s: under("_orig_mod.", s),
    "torch.compile in DDP": lambda s: {"model": under("module._orig_mod.", s)},
    "DDP in torch.compile": lambda s: {"model": under("_orig_mod.module.", s)},
    "Lightning": lambda s: {
        "state_dict": {**under("model.", s), "criterion.weight": torch.ones(5), "accuracy.total": torch.tensor(1)},
        "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 1e-3}, "callbacks": {}, "loops": None,
    },
    "Lightning, a compiled network": lambda s: {"state_dict": under("net._orig_mod.", s)},
    "Lightning, two names": lambda s: {"state_dict": under("model.backbone.", s)},
    "Lightning, and an average": lambda s: {"state_dict": {**under("model.", s), **under("ema_model.", other(s))}},
    "an average beside it": lambda s: {"model_ema": other(s), "model": s},
    "timm's, an average beside it": lambda s: {"state_dict_ema": other(s), "state_dict": s},
    "an average alone": lambda s: {"ema": s, "epoch": 1},
    "timm's average alone": lambda s: {"state_dict_ema": under("module.", s)},
    "a nested average": lambda s: {"model_ema": {"module": s, "decay": 0.999}},
    "torch.optim.swa_utils": lambda s: {**under("module.", s), "n_averaged": torch.tensor(4)},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_the_network_that_was_saved(form: str, plain: nn.Module, tmp_path: Path) -> None:
    state = dict(plain.state_dict())
    torch.save(FORMS[form](state), tmp_path / "w.pth")
    found = load_classifier("resnet10t", str(tmp_path / "w.pth"), "cpu")
    with torch.no_grad():
        assert torch.equal(found.network(IMAGES), plain(IMAGES))
    built = build_backbone("resnet10t", 5, weights=str(tmp_path / "w.pth"), stride=32, image_size=64)
    assert all(torch.equal(value, state[name]) for name, value in built.network.state_dict().items())
    torch.save(FORMS[form](dict(TORCHVISION.state_dict())), tmp_path / "t.pth")
    found = load_classifier("torchvision/shufflenet_v2_x0_5", str(tmp_path / "t.pth"), "cpu")
    with torch.no_grad():
        assert torch.equal(found.network(IMAGES), TORCHVISION(IMAGES))


TORCHVISION = torchvision.models.shufflenet_v2_x0_5(num_classes=5).eval()


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors(prefix: str, plain: nn.Module, tmp_path: Path) -> None:
    save_file(under(prefix, plain.state_dict()), tmp_path / "w.safetensors")
    found = load_classifier("resnet10t", str(tmp_path / "w.safetensors"), "cpu")
    with torch.no_grad():
        assert torch.equal(found.network(IMAGES), plain(IMAGES))


def test_a_file_of_before_zip(plain: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": plain.state_dict()}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    found = load_classifier("resnet10t", str(tmp_path / "w.pth"), "cpu")
    assert all(torch.equal(v, found.network.state_dict()[k]) for k, v in plain.state_dict().items())


def test_names_of_the_networks_own_are_no_prefix(tmp_path: Path) -> None:
    """A network whose own names begin with `model.`, or with `module.` where DDP was not, keeps them."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(2, 2))

    wrapper = Wrapper()
    torch.save({"state_dict": under("net.", wrapper.state_dict())}, tmp_path / "w.pth")
    assert set(load_state(tmp_path / "w.pth", wrapper.state_dict())) == set(wrapper.state_dict())
    torch.save(wrapper.state_dict(), tmp_path / "w.pth")
    assert set(load_state(tmp_path / "w.pth", wrapper.state_dict())) == set(wrapper.state_dict())
    assert set(load_state(tmp_path / "w.pth", wrapper.model.state_dict())) == set(wrapper.model.state_dict())
    assert set(load_state(tmp_path / "w.pth")) == set(wrapper.state_dict())


def test_a_few_names_that_agree_are_no_network(plain: nn.Module, tmp_path: Path) -> None:
    """Blocks of a ResNet have the names of a small network."""
    small = nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 3), "bn1": nn.BatchNorm2d(8), "rest": nn.ModuleList()})
    for _ in range(20):
        small["rest"].append(nn.Linear(1, 1))  # type: ignore[operator]
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    assert set(load_state(tmp_path / "w.pth", small.state_dict())) == set(plain.state_dict())


def test_an_average_that_is_taken_is_told(plain: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    torch.save({"model_ema": plain.state_dict()}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING, "attnbridge"):
        load_state(tmp_path / "w.pth")
    assert "holds no weights but their average over training, 'model_ema', which is taken" in caplog.text


# ---- Names of classes


@pytest.mark.parametrize(
    "held",
    [
        {"classes": list("abcde")},
        {"class_names": tuple("abcde")},
        {"class_to_idx": {"c": 2, "a": 0, "b": 1, "e": 4, "d": 3}},
        {"idx_to_class": {4: "e", 0: "a", 1: "b", 2: "c", 3: "d"}},
        {"config": {"id2label": {str(i): name for i, name in enumerate("abcde")}}},
        {"hyper_parameters": {"classes": list("abcde"), "lr": 0.1}},
        {"classes": 5, "meta": {"classes": list("abcde")}},
    ],
)
def test_names_of_classes_in_a_checkpoint(held: dict[str, Any], plain: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": plain.state_dict(), **held}, tmp_path / "w.pth")
    assert load_classifier("resnet10t", str(tmp_path / "w.pth"), "cpu").classes == tuple("abcde")


def test_names_that_are_given_win_and_are_told_apart(plain: nn.Module, tmp_path: Path) -> None:
    path = str(tmp_path / "w.pth")
    torch.save({"state_dict": plain.state_dict(), "classes": list("abcde")}, path)
    own, given, others = (
        load_classifier("resnet10t", path, "cpu", classes=names) for names in (None, list("vwxyz"), list("vwxyy"))
    )
    assert (own.classes, given.classes) == (tuple("abcde"), tuple("vwxyz"))
    assert len({own.checksum, given.checksum, others.checksum}) == 3
    with pytest.raises(AttnBridgeError, match=r"the class names: names 3 classes, but resnet10t has 5; give a file of"):
        load_classifier("resnet10t", path, classes=list("abc"))
    torch.save({"state_dict": plain.state_dict(), "classes": list("abcdef")}, path)
    with pytest.raises(AttnBridgeError, match=r"w\.pth: names 6 classes, but resnet10t has 5"):
        load_classifier("resnet10t", path)
    assert load_classifier("resnet10t", path, classes=list("vwxyz")).classes == tuple("vwxyz")


# ---- Files that are no weights, or another network's


def _torchscript(path: Path, network: nn.Module) -> None:
    torch.jit.trace(network, IMAGES).save(str(path))  # type: ignore[no-untyped-call]


def _exported(path: Path, network: nn.Module) -> None:
    torch.export.save(torch.export.export(network, (IMAGES,)), path)


def _onnx(path: Path, _network: nn.Module) -> None:
    import onnx

    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="pytorch"), path)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (_torchscript, "w.pt", "is a TorchScript archive; it has no module to look into; give the module"),
        (_exported, "w.pt2", "is an archive of torch.export; it has no module to look into; give the module"),
        (_onnx, "w.onnx", "is an ONNX graph; it has no module to look into; give the module"),
        (_onnx, "w.pth", "is an ONNX graph; it has no module to look into; give the module"),
    ],
)
def test_a_graph_is_refused_in_one_line(
    make: Callable[[Path, nn.Module], None], name: str, message: str, tmp_path: Path
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    make(tmp_path / name, network)
    with pytest.raises(AttnBridgeError, match=re.escape(message)) as caught:
        load_classifier("resnet10t", str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert "--model package.module:function" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1)}, r"asks for argparse\.Namespace, which could"),
        (lambda s: {"epoch": 3, "optimizer": {}}, r"holds no state dict, .* but dict, with epoch, optimizer"),
        (lambda s: {}, r"holds no state dict, names with their tensors, but dict$"),
        (lambda s: [s], r"holds no state dict, names with their tensors, but list"),
        (lambda s: {**under("student.", s), **under("teacher.", s)},
         r"holds the network 2 times, under student\. and teacher\.; save the state dict of one alone"),
        (lambda s: {k: v for k, v in s.items() if "layer3.0.conv1" not in k},
         r"does not fit 'resnet10t' \(Missing key\(s\) in state_dict: \"layer3\.0\.conv1\.weight\"\. *\)"),
        (lambda s: timm.create_model("resnet18", num_classes=5).state_dict(),
         r"does not fit 'resnet10t' \(Missing .*conv1\.0\.weight.*; of the models .* tried, 'resnet18' has most"),
        (lambda s: torchvision.models.vit_b_32(num_classes=5).state_dict(),
         r"holds no fc\.weight, the classifier of 'resnet10t'; .* tried, 'torchvision/vit_b_32' has most of its names"),
    ],
)  # fmt: skip
def test_files_of_something_else_say_of_what(
    content: Callable[[State], Any], message: str, plain: nn.Module, tmp_path: Path
) -> None:
    torch.save(content(dict(plain.state_dict())), tmp_path / "w.pth")
    with pytest.raises(AttnBridgeError, match=rf"w\.pth: {message}"):
        load_classifier("resnet10t", str(tmp_path / "w.pth"))


def test_a_backbone_names_the_nearest_model_too(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", num_classes=5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(AttnBridgeError, match=r"w\.pth: .*check the backbone's name; of the models .* 'resnet18' has"):
        build_backbone("resnet10t", 5, weights=str(tmp_path / "w.pth"), image_size=64)


@pytest.mark.parametrize("name", ["resnet50", "vit_small_patch16_224", "torchvision/mobilenet_v2", "vgg11"])
def test_the_nearest_model_is_the_one_itself(name: str) -> None:
    with torch.device("meta"):
        library, _, short = name.rpartition("/")
        network = torchvision.models.get_model(short, num_classes=7) if library else timm.create_model(name)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    assert f"'{name}' has most of its names and shapes" in nearest_model(state)
    assert nearest_model({"a.weight": torch.zeros(1)}) == ""


def test_what_is_read_is_what_was_saved(plain: nn.Module, tmp_path: Path) -> None:
    before = copy.deepcopy(plain.state_dict())
    torch.save({"model": plain.state_dict()}, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth", before)
    assert list(found.state) == list(before)
    assert found.classes is None
    assert all(torch.equal(found.state[name], value) for name, value in before.items())


def test_a_dictionary_that_lies_inside_itself_holds_no_state_dict() -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless["state_dict"] = endless
    assert find_state({"model": endless}) is None
