"""Every method on networks that are not timm's, trained by Lightning's trainer from plain loaders, and read again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from attnbridge.errors import AttnBridgeError
from attnbridge.methods import load_method
from attnbridge.methods.attention_transfer import AttentionTransfer
from attnbridge.methods.fine_tuning import FineTuning
from tests.runs import make_trainer

CLASSES = ["a", "b", "c"]
SIDE = 32


class Logits(nn.Module):
    """Transformers' answers are objects."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images).logits
        return logits


def resnet() -> nn.Module:
    network: nn.Module = torchvision.models.resnet18(num_classes=3)
    return network


def vit() -> nn.Module:
    small = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    network = torchvision.models.VisionTransformer(image_size=SIDE, patch_size=8, num_classes=3, **small)
    nn.init.normal_(network.heads.head.weight, std=0.1)  # torchvision's begins with zeros
    return network


def huggingface() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=SIDE, patch_size=8, num_labels=3, **small)
    return Logits(transformers.ViTForImageClassification(config))


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "resnet18": (resnet, "layer3", "fc"),  # layer4 has one position at 32 pixels
    "vit": (vit, "encoder.layers.encoder_layer_1.ln_1", "heads.head"),
    "huggingface": (huggingface, "inner.vit.layers.1.layernorm_before", "inner.classifier"),
    "sequential": (sequential, "1", "4"),
}
"""How each is made, the layer that is looked at and the head."""


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0]()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SALIENCY = torch.rand(6, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
MASKS = torch.randint(0, 4, (6, SIDE, SIDE), generator=torch.Generator().manual_seed(3))


def loader(*parts: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*parts), batch_size=3)


PLAIN, SALIENT, MASKED = (loader(images(), LABELS, *more) for more in ((), (SALIENCY,), (MASKS,)))
TRIED: dict[str, tuple[str, dict[str, Any], Any]] = {
    "attnbn": ("attnbn", {"adversarial_weight": 0.1}, {"source": SALIENT, "target": PLAIN}),
    "gain": ("gain", {"guidance_weight": 1.0}, {"target": PLAIN, "guided": MASKED}),
    "transfer": ("attention_transfer", {"transfer_weight": 10.0, "distillation_weight": 0.5}, PLAIN),
    "hint": ("attention_transfer", {"hint_weight": 0.1}, PLAIN),
    "afa": ("fine_tuning", {"alignment": "spatial", "alignment_weight": 1e-3}, PLAIN),
    "afa channel": ("fine_tuning", {"alignment": "channel", "alignment_weight": 1e-3}, PLAIN),
    "delta": ("fine_tuning", {"alignment": "delta", "alignment_weight": 1e-3, "plain_loader": lambda: PLAIN}, PLAIN),
    "l2-sp": ("fine_tuning", {"start_weight": 0.1, "forgetting_weight": 0.5, "shrinkage_weight": 0.001}, PLAIN),
    "adaptation": ("domain_adaptation", {"reversal_weight": 1.0}, {"source": PLAIN, "target": PLAIN}),
    "segmentation": ("segmentation", {"head_width": 8}, MASKED),
}  # fmt: skip
"""Of each way to train: the method, its options, and plain loaders."""


def method_on(network: nn.Module, tried: str, **options: Any) -> Any:
    name, own, _ = TRIED[tried]
    taught = {"teacher_network": made("sequential" if isinstance(network, nn.Sequential) else "resnet18")}
    if name == "attention_transfer" and not isinstance(network, nn.Sequential | torchvision.models.ResNet):
        taught = {"teacher_network": copy.deepcopy(network)}
    given = {"image_size": SIDE, "lr": 0.01, **(taught if name == "attention_transfer" else {}), **own, **options}
    return load_method(name)(CLASSES, network=network, **given)


@pytest.mark.slow
@pytest.mark.parametrize("tried", TRIED)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_and_read_again(name: str, tried: str, tmp_path: Path) -> None:
    network = made(name)
    method = method_on(network, tried)
    assert method.network is network
    assert method.layer == NETWORKS[name][1]
    before = copy.deepcopy(network.state_dict())
    trained = [each for each, p in network.named_parameters() if p.requires_grad]
    teacher = copy.deepcopy(method.teacher.network.state_dict()) if getattr(method, "teacher", None) else {}
    trainer = make_trainer(max_epochs=2)
    trainer.fit(method, TRIED[tried][2])
    assert trainer.global_step == 4
    still = [each for each in trained if torch.equal(before[each], network.state_dict()[each])]
    assert not [each for each in still if not each.endswith(("k_proj.bias", "key.bias", "query.bias"))], still
    assert all(torch.equal(value, method.teacher.network.state_dict()[each]) for each, value in teacher.items())
    path = tmp_path / "method.ckpt"
    trainer.save_checkpoint(path)
    kind = type(method)
    with pytest.raises(AttnBridgeError, match="is of a network of your own; give one"):
        kind.load_from_checkpoint(path)
    again = kind.load_from_checkpoint(path, network=made(name)).eval()
    answers = [each.predict_batch(images(2)) for each in (method.eval(), again)]
    assert answers[0].keys() == answers[1].keys()
    for key, value in answers[0].items():
        assert torch.equal(value, answers[1][key]), key


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_learns_at_its_own_rate_and_is_found_or_named(name: str) -> None:
    network, head = made(name), NETWORKS[name][2]
    for given in (None, head):
        method = method_on(network, "attnbn", adversarial_weight=0, head=given)
        assert method.head_name == head
        own, rest = method.parameter_groups()
        assert {*map(id, own["params"])} == {*map(id, network.get_submodule(head).parameters())}
        assert len(rest["params"]) == len(list(network.parameters())) - len(own["params"])


@pytest.mark.slow
def test_a_run_with_a_module_as_teacher_is_resumed(tmp_path: Path) -> None:
    """With hints, whose convolutions are in the checkpoint and the teacher is not."""
    ends = []
    for path in (None, tmp_path / "half.ckpt"):
        method = method_on(made("sequential"), "hint", schedule="constant")
        trainer = make_trainer(max_epochs=2)
        if path is None:
            method.on_train_epoch_end = lambda t=trainer: (  # type: ignore[misc]
                t.save_checkpoint(tmp_path / "half.ckpt") if t.current_epoch == 0 else None
            )
        trainer.fit(method, PLAIN, ckpt_path=path)
        ends.append(method.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert not any("teacher" in key for key in ends[0])
    assert "teacher_network" not in torch.load(tmp_path / "half.ckpt", weights_only=True)["hyper_parameters"]
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], msg=key)


def test_a_teacher_of_other_classes_teaches_where_to_look_and_no_answers() -> None:
    def other() -> nn.Module:
        return nn.Sequential(*list(made("sequential").children())[:-1], nn.Linear(12, 1000))

    given: Any = {"network": made("sequential"), "image_size": SIDE}
    method = AttentionTransfer(CLASSES, teacher_network=other(), transfer_weight=1.0, **given)
    assert method.pairs == [("0", "0"), ("1", "1")]
    with pytest.raises(AttnBridgeError, match="teacher_network: gives 1000 logits, but there are 3 classes"):
        AttentionTransfer(CLASSES, teacher_network=other(), distillation_weight=0.5, **given)
    with pytest.raises(AttnBridgeError, match=r"shares weights with the student; give a copy, copy\.deepcopy"):
        AttentionTransfer(CLASSES, teacher_network=given["network"], transfer_weight=1.0, **given)
    with pytest.raises(AttnBridgeError, match="name a timm model, or give teacher_network"):
        AttentionTransfer(CLASSES, transfer_weight=1.0, **given)


def test_networks_without_a_resolution_in_common_ask_for_pairs() -> None:
    given: Any = {"network": made("resnet18"), "transfer_weight": 1.0, "image_size": 40}
    small = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    teacher = torchvision.models.VisionTransformer(image_size=40, patch_size=10, **small)  # 4 x 4 patches
    with pytest.raises(AttnBridgeError, match=r"no resolution in common .* name pairs of layers"):
        AttentionTransfer(CLASSES, teacher_network=teacher, **given)
    given |= {
        "image_size": SIDE,
        "teacher_network": made("vit"),
        "pairs": [["layer2", "encoder.layers.encoder_layer_0"]],
    }
    assert AttentionTransfer(CLASSES, **given).layers == ["layer2"]


def test_what_fine_tuning_starts_from_is_the_network_as_given() -> None:
    network = made("sequential")
    method = FineTuning(CLASSES, network=network, image_size=SIDE, start_weight=0.1, weights="imagenet")
    assert method.source is not None
    for key, value in network.state_dict().items():
        assert torch.equal(value, method.source.network.state_dict()[key])
    assert method.source.network is not network
    assert not any(name.startswith("4.") for name in method._body(network))


class Scaled(nn.Module):
    """Logits of a temperature, and a layer beside the way to them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.hidden, self.out = nn.Linear(4, 3), nn.Linear(3, 3)
        self.auxiliary = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        read = self.body(images).mean((2, 3))
        logits: Tensor = self.out(self.hidden(read).relu()) * 3.0
        return logits


class Convolution(nn.Sequential):
    """As SqueezeNet ends: a convolution, ReLU, pooling."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


@pytest.mark.parametrize(
    ("network", "head", "words"),
    [
        (resnet, "fcc", "unknown head 'fcc'; did you mean 'fc'"),
        (resnet, "layer4", "head 'layer4' is a Sequential, but must be a Linear.*inside it there is 'layer4.1"),
        (resnet, "bn1", "head 'bn1' is a BatchNorm2d, but must be"),
        (resnet, "conv1", "head 'conv1' does not give the logits: it has 64 outputs, and there are 3 logits"),
        (Scaled, "hidden", "head 'hidden' does not give the logits: 'out' comes after it"),
        (Scaled, "auxiliary", "layer 'auxiliary' did not run"),
        (Scaled, None, "layer 'auxiliary' did not run"),
        (Convolution, None, r"no linear layer that gives the logits.*or name the layer that gives them, head=\.\.\."),
    ],
)  # fmt: skip
def test_a_head_that_is_none_is_refused(network: Callable[[], nn.Module], head: str | None, words: str) -> None:
    with pytest.raises(AttnBridgeError, match=words):
        FineTuning(CLASSES, network=network(), head=head, image_size=SIDE)


def test_heads_that_are_named() -> None:
    assert FineTuning(CLASSES, network=Scaled(), head="out", image_size=SIDE).head_name == "out"
    convolution: Any = {"network": Convolution(), "head": "2", "image_size": SIDE}
    assert FineTuning(CLASSES, **convolution).head_name == "2"
    with pytest.raises(AttnBridgeError, match=r"forgetting_weight .* must be a Linear, but '2' is a Conv2d"):
        FineTuning(CLASSES, forgetting_weight=1.0, **convolution)
    with pytest.raises(AttnBridgeError, match="ArcFace needs a linear classifier, but this network has a Conv2d"):
        FineTuning(CLASSES, margin=28.6, **convolution)
    timms: Any = {"backbone": "resnet10t", "weights": "none", "image_size": SIDE}
    assert FineTuning(CLASSES, **timms, head="fc").head_name == "fc"


def test_what_a_head_cannot_be_used_for_is_said_at_once() -> None:
    attnbn: Any = load_method("attnbn")
    bare = nn.Sequential(*list(made("sequential").children())[:-1], nn.Linear(12, 3, bias=False))
    with pytest.raises(AttnBridgeError, match="label_shift begins with the bias of the head, but '4' has none"):
        attnbn(CLASSES, network=bare, image_size=SIDE, label_shift=True, frequencies=lambda _: [0.5] * 3)
    with pytest.raises(AttnBridgeError, match="evidence weighs the 8 channels of '0' as the head does, but '4' reads"):
        attnbn(CLASSES, network=made("sequential"), layer="0", image_size=SIDE, discriminator_input="evidence")
    with pytest.raises(AttnBridgeError, match="gives 3 logits, but there are 2 classes"):
        attnbn(CLASSES[:2], network=made("sequential"), image_size=SIDE)


def test_segmentation_needs_spatial_features_alone() -> None:
    segmentation: Any = load_method("segmentation")
    assert segmentation(CLASSES, network=Scaled(), image_size=SIDE).head_name is None  # its head could not be found
    assert segmentation(CLASSES, network=made("vit"), image_size=SIDE).grid == (4, 4)
    with pytest.raises(AttnBridgeError, match="this method puts a head of its own on features; leave it out"):
        segmentation(CLASSES, network=made("resnet18"), head="fc", image_size=SIDE)
    with pytest.raises(AttnBridgeError, match=r"layer 'fc': .* are no maps"):
        segmentation(CLASSES, network=made("resnet18"), layer="fc", image_size=SIDE)
    features = nn.Sequential(*list(made("resnet18").children())[:-2])
    with pytest.raises(AttnBridgeError, match=r"output is a tensor of .* expected logits of shape \(batch, classes\)"):
        segmentation(CLASSES, network=features, image_size=SIDE)
