"""Networks of other libraries by name: torchvision's, Hugging Face folders, its hub, a user's function.

Each is compared with the module as its own library builds it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from huggingface_hub import constants
from PIL import Image
from torch import Tensor, nn

from attnbridge.attention.observe import observe
from attnbridge.errors import AttnBridgeError
from attnbridge.models import libraries
from attnbridge.models.backbones import build_backbone, layer_names
from attnbridge.models.classifiers import check_classifier, load_classifier
from attnbridge.models.libraries import call_function
from attnbridge.models.names import parse_name

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
ASKS = {"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def saved_vit(folder: Path, classes: int = 5, processor: bool = True) -> nn.Module:
    """A tiny ViT in a Hugging Face folder, with weights that tell its classes apart."""
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label={i: f"kind {i}" for i in range(classes)}, label2id={f"kind {i}": i for i in range(classes)},
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    if processor:
        size = {"height": 32, "width": 32}
        transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(folder)
    made: nn.Module = network
    return made


def saved_resnet(folder: Path, classes: int = 5) -> nn.Module:
    """A tiny ResNet in a Hugging Face folder."""
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=classes
    )
    network = transformers.ResNetForImageClassification(config).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
    network.save_pretrained(folder)
    made: nn.Module = network
    return made


def logits_of(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        answer = network.eval()(images)
    logits: Tensor = getattr(answer, "logits", answer)
    return logits


# ---- torchvision


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_network_of_torchvision_has_the_files_weights_and_classes(name: str, tmp_path: Path) -> None:
    plain = torchvision.models.get_model(name, weights=None, num_classes=6)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    found = load_classifier(f"torchvision/{name}", str(tmp_path / "w.pth"), "cpu")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(logits_of(found.network, images), logits_of(plain, images))
    assert (found.name, found.classes) == (f"torchvision/{name}", ("0", "1", "2", "3", "4", "5"))
    assert not found.network.training


def test_torchvisions_own_weights_are_its_default_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the cache of torch.hub, or its server, by their checksum."""
    plain = torchvision.models.resnet18()
    asked = []

    def state(weights: Any, **how: Any) -> Any:
        asked.append((weights, how))
        return plain.state_dict()

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", state)
    found = load_classifier("torchvision/resnet18", device="cpu")
    assert torch.equal(logits_of(found.network), logits_of(plain))
    assert asked == [(torchvision.models.ResNet18_Weights.DEFAULT, {"progress": False, "check_hash": True})]
    assert found.classes[281] == "tabby, tabby cat"
    built = build_backbone("torchvision/resnet18", 3, stride=None, image_size=64).network
    own = built.state_dict()
    assert own["fc.weight"].shape == (3, 512)
    assert all(torch.equal(own[k], v) for k, v in plain.state_dict().items() if not k.startswith("fc."))


def test_weights_that_cannot_be_had_say_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", refuse)
    with pytest.raises(AttnBridgeError, match=r"cannot be had from torchvision's server \(no route\); give a local"):
        load_classifier("torchvision/resnet18")


def test_auxiliary_classifiers_of_a_file_are_left_out(tmp_path: Path) -> None:
    plain = torchvision.models.googlenet(num_classes=4, aux_logits=True, transform_input=True, init_weights=False)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    found = load_classifier("torchvision/googlenet", str(tmp_path / "w.pth"), "cpu")
    images = torch.rand(2, 3, 96, 96)
    assert torch.equal(logits_of(found.network, images), logits_of(plain, images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_resnet_of_torchvision_drops_its_strides_as_timms_does(name: str, stride: int, tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model(name, num_classes=4).state_dict(), tmp_path / "w.pth")
    ours, timms = (
        build_backbone(n, 4, weights=str(tmp_path / "w.pth"), stride=stride, image_size=64)
        for n in (f"torchvision/{name}", name)
    )
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(logits_of(ours.network, images), logits_of(timms.network, images))
    features = observe(ours.network.eval(), images, ours.layer).features[ours.layer]
    assert features.shape[-1] == 64 // stride
    assert (ours.mean, ours.std, ours.layer) == (timms.mean, timms.std, timms.layer)


@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_it_is_as_torchvision_dilates_it(stride: int, tmp_path: Path) -> None:
    plain = torchvision.models.resnet50(num_classes=4, replace_stride_with_dilation=[False, stride == 8, True])
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    how: dict[str, Any] = {"weights": str(tmp_path / "w.pth"), "stride": stride, "image_size": 64, "dilated": True}
    ours = build_backbone("torchvision/resnet50", 4, **how)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(logits_of(ours.network, images), logits_of(plain, images))


@pytest.mark.parametrize("classes", [4, 9])
def test_a_backbone_of_torchvision_takes_a_file_but_for_a_classifier_of_another_size(
    classes: int, tmp_path: Path
) -> None:
    plain = torchvision.models.mobilenet_v3_small(num_classes=9)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    how: dict[str, Any] = {"weights": str(tmp_path / "w.pth"), "stride": None, "image_size": 64}
    built = build_backbone("torchvision/mobilenet_v3_small", classes, **how).network
    own, theirs = built.state_dict(), plain.state_dict()
    same = {name for name in own if own[name].shape == theirs[name].shape and torch.equal(own[name], theirs[name])}
    assert set(own) - same == ({"classifier.3.weight", "classifier.3.bias"} if classes == 4 else set())


# ---- Hugging Face


def test_a_folder_of_transformers_is_as_transformers_loads_it(tmp_path: Path) -> None:
    plain = saved_vit(tmp_path)
    found = load_classifier(f"hf/{tmp_path}", device="cpu")
    torch.testing.assert_close(logits_of(found.network), logits_of(plain), rtol=0, atol=1e-6)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    own = theirs.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in found.network.state_dict().items())
    assert found.classes == tuple(f"kind {i}" for i in range(5))
    assert (found.size, found.mean, found.std) == (32, (0.4,) * 3, (0.3,) * 3)
    assert found.name == f"hf/{tmp_path}"


def test_a_folder_and_weights_of_another_file(tmp_path: Path) -> None:
    saved_vit(tmp_path / "folder")
    other = saved_vit(tmp_path / "other", classes=3)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    found = load_classifier(f"hf/{tmp_path / 'folder'}", str(tmp_path / "w.pth"), "cpu")
    torch.testing.assert_close(logits_of(found.network), logits_of(other), rtol=0, atol=1e-6)
    assert found.classes == ("0", "1", "2")


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_folders_weights_are_weights_of_a_file_too(pieces: int, tmp_path: Path) -> None:
    plain = saved_vit(tmp_path / "folder")
    if pieces > 1:
        plain.save_pretrained(tmp_path / "parts", max_shard_size="8KB")  # type: ignore[operator]
        assert len(list((tmp_path / "parts").glob("*.safetensors"))) >= pieces
    parts = tmp_path / ("parts" if pieces > 1 else "folder")
    found = load_classifier(f"hf/{tmp_path / 'folder'}", str(parts), "cpu")
    torch.testing.assert_close(logits_of(found.network), logits_of(plain), rtol=0, atol=1e-6)


def test_a_folder_of_timm_is_as_timm_saved_it(tmp_path: Path) -> None:
    plain = timm.create_model("resnet10t", num_classes=3)
    cfg = {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 48, 48], "crop_pct": 0.9}
    config = {"architecture": "resnet10t", "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(plain.state_dict(), tmp_path / "pytorch_model.bin")
    found = load_classifier(f"hf/{tmp_path}", device="cpu")
    assert torch.equal(logits_of(found.network), logits_of(plain))
    assert (found.classes, found.size, found.mean, found.std) == (("a", "b", "c"), 48, (0.1,) * 3, (0.2,) * 3)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert torch.equal(logits_of(found.network), logits_of(theirs))
    built = build_backbone(f"hf/{tmp_path}", 7, stride=16, image_size=64)
    assert built.network.state_dict()["fc.weight"].shape == (7, 512)
    assert torch.equal(built.network.state_dict()["conv1.0.weight"], plain.state_dict()["conv1.0.weight"])
    assert built.mean == (0.1,) * 3


def test_the_hub_is_a_folder_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it lies there after a download; nothing is asked of the hub where it cannot be reached."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--vit/snapshots" / commit
    plain = saved_vit(snapshot)
    (tmp_path / "models--someone--vit/refs").mkdir()
    (tmp_path / "models--someone--vit/refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = load_classifier("hf-hub:someone/vit", device="cpu")
    torch.testing.assert_close(logits_of(found.network), logits_of(plain), rtol=0, atol=1e-6)
    assert found.name == "hf-hub:someone/vit"
    with pytest.raises(AttnBridgeError, match=r"hf-hub:someone/none: cannot be had from Hugging Face's hub \("):
        load_classifier("hf-hub:someone/none")
    with pytest.raises(AttnBridgeError, match=r"hf-hub:a/b/c: is no name of the hub"):
        load_classifier("hf-hub:a/b/c")


def test_a_checksum_tells_one_folders_weights_from_anothers(tmp_path: Path) -> None:
    saved_vit(tmp_path)
    first, again = (load_classifier(f"hf/{tmp_path}").checksum for _ in range(2))
    saved_vit(tmp_path)
    assert first == again
    assert load_classifier(f"hf/{tmp_path}").checksum != first


def test_names_of_layers_need_no_weights(tmp_path: Path) -> None:
    saved_vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    plain = transformers.AutoModelForImageClassification.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    assert layer_names(f"hf/{tmp_path}", None, 32) == [name for name, _ in plain.named_modules() if name]
    for name in ("resnet18", "regnet_y_400mf"):  # RegNets cannot be made on the meta device
        resnet = torchvision.models.get_model(name)
        assert layer_names(f"torchvision/{name}", None) == [name for name, _ in resnet.named_modules() if name]


# ---- A function of the user's


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_networks.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n    torch.manual_seed(3)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(4, 6))\n\n\ndef fail():\n    raise ValueError('no luck')\n\n\ndef number():\n    return 3\n\n\n"
        "def hungry(count):\n    return make()\n\n\nready = make()\nconstant = 4\n"
    )
    (tmp_path / "own_broken.py").write_text("import package_that_is_not_there\n")
    (tmp_path / "own_wrong.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("own_networks", "own_broken", "own_wrong"):
        sys.modules.pop(name, None)


def test_a_function_of_the_working_folder_gives_the_network(working_folder: Path) -> None:
    before = list(sys.path)
    found = load_classifier("own_networks:make", device="cpu", **ASKS)  # type: ignore[arg-type]
    import own_networks  # type: ignore[import-not-found]

    assert sys.path == before
    assert torch.equal(logits_of(found.network), logits_of(own_networks.make()))
    assert found.classes == tuple("012345")
    assert found.name == "own_networks:make, size 32, mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    assert torch.equal(logits_of(call_function("own_networks:ready")), logits_of(own_networks.make()))
    other = own_networks.make()
    nn.init.zeros_(other[4].weight)
    torch.save({"model": other.state_dict(), "class_names": list("abcdef")}, "w.pth")
    found = load_classifier("own_networks:make", "w.pth", "cpu", **ASKS)  # type: ignore[arg-type]
    assert torch.equal(logits_of(found.network), logits_of(other))
    assert found.classes == tuple("abcdef")


def test_its_name_alone_runs_nothing(working_folder: Path) -> None:
    check_classifier("own_wrong:make")
    assert "own_wrong" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_networks:mke", r"own_networks:mke: the module has no 'mke'; did you mean 'make'"),
        ("own_network:make", r"own_network:make: there is no module 'own_network', in .* nor installed"),
        ("own_broken:make", r"own_broken:make: its module needs 'package_that_is_not_there', which is not installed"),
        ("own_wrong:make", r"own_wrong:make: its module cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("own_networks:fail", r"own_networks:fail: raised ValueError: no luck; it is called without arguments"),
        ("own_networks:hungry", r"own_networks:hungry: raised TypeError: .*'count'; it is called without arguments"),
        ("own_networks:number", r"own_networks:number: must give an nn\.Module, but gave 3"),
        ("own_networks:constant", r"own_networks:constant: must be a function that gives an nn\.Module, not 4"),
        ("own_networks:make", r"nothing says how its images are prepared; give its size, mean, std, as --size 224"),
    ],
)
def test_functions_that_give_no_network_are_named(working_folder: Path, name: str, message: str) -> None:
    with pytest.raises(AttnBridgeError, match=message):
        load_classifier(name)


# ---- Names that are none


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet19", r"unknown classifier of torchvision 'resnet19'; did you mean 'resnet1[80]"),
        ("torchvision/", r"'torchvision/' lacks a name after 'torchvision/'; give a timm model, torchvision/NAME"),
        ("torchvision/fcn_resnet50", r"unknown classifier of torchvision 'fcn_resnet50'"),
        ("hf/none", r"hf/none: there is no none/config\.json; expected a folder with config\.json and weights"),
        ("hf/bert", r"hf/bert: is no image classifier that transformers can make \(ValueError: "),
        ("hf/code", r"hf/code: is no image classifier that transformers can make \(ValueError: .*custom code"),
        ("hf/other", r"other/config\.json: names no network: it has neither model_type \(transformers\) nor"),
        ("hf/timm", r"unknown architecture in timm/config\.json: 'resnet10'; did you mean .*'resnet10t'"),
        ("hf/empty", r"empty: no such weight file, but a folder without model\.safetensors and pytorch_model\.bin"),
        (
            "hf/headless",
            r"headless: holds no classifier\.weight, the classifier of 'hf/headless'; check the model's name",
        ),
        ("my module:make", r"'my module:make' names no function of a module; write package\.module:function"),
        ("resnet19", r"unknown model 'resnet19'; did you mean 'resnet1"),
    ],
)
def test_names_that_are_none_say_what_is_expected(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    remote = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    configs = {
        "bert": {"model_type": "bert"}, "code": remote, "other": {"a": 1}, "timm": {"architecture": "resnet10"},
        "empty": {"model_type": "vit"},
    }  # fmt: skip
    for folder, config in configs.items():
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text(json.dumps(config))
    (Path("code") / "mine.py").write_text("raise SystemExit('it ran')\n")
    if name == "hf/headless":
        saved_vit(tmp_path / "headless").base_model.save_pretrained(tmp_path / "headless")  # type: ignore[operator, union-attr]
    with pytest.raises(AttnBridgeError, match=message):
        load_classifier(name)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("torchvision/vgg11", {}, r"'torchvision/vgg11' cannot have a stride of 16; .* set `stride: null`"),
        ("torchvision/vit_b_16", {"stride": 32}, r"cannot have a stride of 32; .* set `stride: null`"),
        ("torchvision/resnet18", {"stride": 4}, r"stride must be 8, 16 or 32, or null"),
        ("hf/vit", {}, r"'hf/vit' cannot have a stride of 16; .* set `stride: null`"),
        ("hf/vit", {"stride": None, "weights": "imagenet", "image_size": 64},
         r"its vit\.embeddings\.position_embeddings is \(1, 17, 16\), but \(1, 65, 16\) in 'hf/vit'; .*image_size"),
        ("my.module:make", {}, r"'my.module:make' is a function of your own, .*; train it from Python, as network="),
    ],
)  # fmt: skip
def test_backbones_that_cannot_be_say_what_can(
    name: str, how: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved_vit(tmp_path / "vit")
    with pytest.raises(AttnBridgeError, match=message):
        build_backbone(name, 4, **{"weights": "none", "image_size": 32, **how})


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_vit(tmp_path)
    monkeypatch.setattr("attnbridge.models.names.find_spec", lambda _: None)
    with pytest.raises(AttnBridgeError, match=r"not installed: pip install 'attnbridge\[networks\]'"):
        check_classifier(f"hf/{tmp_path}")


def test_who_does_not_use_transformers_does_not_import_it() -> None:
    code = (
        "import sys\nimport attnbridge.models.classifiers, attnbridge.models.backbones\n"
        "from attnbridge.models import build_backbone\nbuild_backbone('torchvision/resnet18', 2, weights='none')\n"
        "print([name for name in ('transformers', 'open_clip') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_transformers_prints_is_as_it_was_before(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved_vit(tmp_path)
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    capfd.readouterr()
    libraries.load_transformers(parse_name(f"hf/{tmp_path}"), None, 3)
    assert capfd.readouterr() == ("", "")
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before


def test_a_new_classifier_keeps_the_rest_of_a_folders_weights(tmp_path: Path) -> None:
    plain = saved_vit(tmp_path)
    network = libraries.load_transformers(parse_name(f"hf/{tmp_path}"), None, 3)[0]
    own, theirs = network.state_dict(), plain.state_dict()
    assert {k for k in own if own[k].shape != theirs[k].shape} == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(own[k], theirs[k]) for k in own if not k.startswith("classifier."))


def test_no_folder_of_anothers_is_changed(tmp_path: Path) -> None:
    saved_vit(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    load_classifier(f"hf/{tmp_path / 'a'}")
    for path in (tmp_path / "b").iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()


def test_an_image_goes_in_as_the_user_prepared_it(tmp_path: Path) -> None:
    """Size, mean and standard deviation that are given win over what the folder says."""
    saved_vit(tmp_path)
    found = load_classifier(f"hf/{tmp_path}", device="cpu", std=(0.1, 0.2, 0.4))
    image = np.asarray(Image.new("RGB", (32, 32), (102, 102, 102)))
    given = found.normalise(torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255)
    assert given[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert (found.mean, found.std, found.size) == ((0.4,) * 3, (0.1, 0.2, 0.4), 32)
    assert found.name == f"hf/{tmp_path}, std 0.1 0.2 0.4"
