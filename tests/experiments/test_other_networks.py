"""Training networks of other libraries, by name: one step, and the run is loaded again without their folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from torch import Tensor, nn

from attnbridge import load_run
from attnbridge.attention.observe import observe
from attnbridge.cli import main
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.fit import fit
from attnbridge.experiments.runs import Run
from attnbridge.methods.attnbn import AttnBN

pytestmark = pytest.mark.usefixtures("module_cache")
FOLDERS = ("resnet of timm", "resnet", "vit")


def objects_are_read() -> bool:
    """Whether logits are found in an object, as transformers' networks give it."""

    class Answering(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return SimpleNamespace(logits=images.mean((2, 3)))

    try:
        observe(Answering(), torch.rand(1, 3, 2, 2), [], grad=False)
    except AttnBridgeError:
        return False
    return True


def one_step(backbone: str, scenes: Path, out: Path, **model: Any) -> Run:
    parts = {"source": "source/train", "target": "target", "saliency": "saliency/train"}
    data: dict[str, Any] = {name: str(scenes / part) for name, part in parts.items()}
    data |= {"image_size": 32, "batch_size": 4, "workers": 0}
    trainer = {"max_steps": 1, "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    options = {"backbone": backbone, "frozen": [], "lr": 1e-3, **model}
    return fit("attnbn", data=data, model=options, trainer=trainer, out=out)


def logits_of(run: Run) -> Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        answer = run.method().network(images)
    logits: Tensor = getattr(answer, "logits", answer)
    return logits


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A Hugging Face folder of a tiny network."""
    path, kind = tmp_path / "folder", request.param
    if kind == "resnet of timm":
        path.mkdir()
        cfg = {"mean": [0.4] * 3, "std": [0.3] * 3}
        config = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": cfg}
        (path / "config.json").write_text(json.dumps(config))
        torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), path / "pytorch_model.bin")
        return path
    if not objects_are_read():
        pytest.skip("logits are not found in objects yet")
    if kind == "vit":
        small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.ViTConfig(image_size=32, patch_size=8, **small)
        transformers.ViTForImageClassification(config).save_pretrained(path)
    else:
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        transformers.ResNetForImageClassification(config).save_pretrained(path)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(path)
    return path


@pytest.mark.slow
def test_a_network_of_torchvision_is_trained_and_loaded_again(scenes: Path, tmp_path: Path) -> None:
    plain = torchvision.models.resnet18(num_classes=2)
    torch.save({"model": plain.state_dict()}, tmp_path / "w.pth")
    run = one_step("torchvision/resnet18", scenes, tmp_path / "run", weights=str(tmp_path / "w.pth"))
    method = run.method()
    (tmp_path / "w.pth").unlink()
    again = load_run(run.folder).method()
    assert isinstance(again.network, torchvision.models.ResNet)
    own, theirs = again.network.state_dict(), plain.state_dict()
    moved = [name for name in own if name.endswith("conv1.weight") and not torch.equal(own[name], theirs[name])]
    near = [name for name in own if own[name].shape == theirs[name].shape and own[name].is_floating_point()]
    assert "layer4.0.conv1.weight" in moved
    assert all((own[name] - theirs[name]).abs().max() < 0.1 for name in near)  # a step from the file's
    assert all(torch.equal(value, own[name]) for name, value in method.network.state_dict().items())
    classifier = load_run(run.folder).classifier("cpu")
    assert classifier.mean == pytest.approx((0.485, 0.456, 0.406))
    assert AttnBN.load_from_checkpoint(run.checkpoint).classes == method.classes


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_a_folder_is_trained_and_its_run_is_loaded_without_it(folder: Path, scenes: Path, tmp_path: Path) -> None:
    stride = 16 if json.loads((folder / "config.json").read_text()).get("architecture") == "resnet10t" else None
    run = one_step(f"hf/{folder}", scenes, tmp_path / "run", stride=stride)
    before = logits_of(run)
    shutil.rmtree(folder)
    again = load_run(run.folder)
    assert torch.equal(logits_of(again), before)
    assert again.method().mean.flatten().tolist() == pytest.approx([0.4] * 3)
    moved = Path(shutil.copytree(run.folder, tmp_path / "moved"))
    shutil.rmtree(run.folder)
    assert torch.equal(logits_of(load_run(moved)), before)
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "image.png")
    words = ["explain", str(tmp_path / "image.png"), "--model", str(moved), "--out", str(tmp_path / "maps")]
    assert main([*words, "--device", "cpu"]) == 0
    with pytest.raises(
        AttnBridgeError, match=r"there is no .*folder/config\.json; expected a folder with config\.json"
    ):
        AttnBN.load_from_checkpoint(moved / "checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("torchvision/resnet19", "unknown classifier of torchvision 'resnet19'; did you mean 'resnet18'"),
        ("torchvision/vgg11", "backbone 'torchvision/vgg11' cannot have a stride of 16; it has its own alone: set"),
        ("hf/none", "hf/none: there is no none/config.json"),
        ("mine:make", "backbone 'mine:make' is a function of your own, which a run could not be loaded without"),
    ],
)
def test_names_that_are_none_are_told_before_anything_is_written(
    backbone: str, message: str, scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(AttnBridgeError) as error:
        one_step(backbone, scenes, tmp_path / "run", weights="none")
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_fine_tuning_knows_the_classes_of_a_file_under_a_prefix(classes: Path, tmp_path: Path) -> None:
    """The old classifier is what is not to be forgotten; the file's has another number of classes."""
    plain = torchvision.models.resnet18(num_classes=7)
    torch.save({"state_dict": {f"net.{k}": v for k, v in plain.state_dict().items()}}, tmp_path / "w.ckpt")
    model = {"backbone": "torchvision/resnet18", "weights": str(tmp_path / "w.ckpt"), "frozen": [], "stride": None}
    data = {"data": str(classes), "image_size": 32, "batch_size": 4, "workers": 0, "views": None}
    trainer = {"max_steps": 1, "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    model |= {"forgetting_weight": 1.0}
    run = fit("finetune/l2", data=data, model=model, trainer=trainer, out=tmp_path / "run")
    assert len(run.method().classes) == 2
