"""The published values of the full-size configurations, each with its source; what no source gives is ours."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from attnbridge.experiments.config import load_experiment
from attnbridge.methods import load_method
from attnbridge.methods.attnbn import AttnBN
from attnbridge.models.discriminator import DomainDiscriminator

ATTNBN, GAIN = "AttnBN, ICCV 2019", "GAIN, TPAMI 2019"
AFA_CODE, AT_CODE = "AFA's framework.py and its configs", "szagoruyko/attention-transfer, cifar.py"
ADAPTSEG = "wasidennis/AdaptSegNet, model/discriminator.py and train_gta2cityscapes_multi.py"
PUBLISHED: list[tuple[str, str, Any, str]] = [
    ("voc/paper/attnbn", "model.backbone", "vgg16", f"{ATTNBN}, Section 4.1"),
    ("voc/paper/attnbn", "model.optimizer", "sgd", f"{ATTNBN}, Section 4.1"),
    ("voc/paper/attnbn", "model.lr", 1e-4, f"{ATTNBN}, Section 4.1"),
    ("voc/paper/attnbn", "model.backbone_lr", 1, f"{ATTNBN}, Section 4.1"),
    ("voc/paper/attnbn", "trainer.max_epochs", 30, f"{ATTNBN}, Section 4.1"),
    ("voc/paper/attnbn", "model.attention_weight", 2, f"{ATTNBN}, Equation 7"),
    ("voc/paper/attnbn", "model.adversarial_weight", 0.001, f"{ATTNBN}, Equation 7"),
    ("voc/paper/attnbn", "model.classification_reduction", "sum", f"{ATTNBN}, Equation 4"),
    ("voc/paper/attnbn", "model.normalise", "none", f"{ATTNBN}, Equation 3"),
    ("voc/paper/attnbn", "model.discriminator_width", 64, ADAPTSEG),
    ("voc/paper/attnbn", "model.discriminator_projection", None, ADAPTSEG),
    ("voc/paper/attnbn", "model.discriminator_lr", 1e-4, ADAPTSEG),
    ("voc/paper/attnbn", "data.lists", {"train": "trainaug", "val": "train", "test": "val"}, f"{ATTNBN}, Section 4.1"),
    ("voc/attnbn", "evaluation.size", "own", "VOC's devkit, VOCevalseg.m"),
    ("voc/adapt_ac_adv", "model.target_weight", 0, f"{ATTNBN}, Section 5"),
    ("domains/full_ac_adv", "model.attention_weight", 2, f"{ATTNBN}, Equation 7"),
    ("domains/full_ac_adv", "model.adversarial_weight", 0.001, f"{ATTNBN}, Equation 7"),
    ("voc/gain", "data.batch_size", 1, f"{GAIN}, Section 4"),
    ("voc/gain", "model.lr", 1e-5, f"{GAIN}, Section 4"),
    ("voc/gain", "trainer.max_epochs", 35, f"{GAIN}, Section 4"),
    ("voc/gain", "model.mining_weight", 1, f"{GAIN}, Equation 6"),
    ("voc/gain_200", "model.guidance_weight", 10, f"{GAIN}, Equation 8"),
    ("voc/gain_200", "data.guided_count", 200, f"{GAIN}, Table 2"),
    ("voc/gain_1464", "data.guided_count", 1464, f"{GAIN}, Table 2"),
    ("finetune/full/afa", "data.batch_size", 64, AFA_CODE),
    ("finetune/full/afa", "trainer.max_steps", 4500, AFA_CODE),
    ("finetune/full/afa", "model.alignment_weight", 0.15, "AFA, Neural Networks 2021, Section 4"),
    ("finetune/full/afa", "init_overrides.model.alignment_weight", 0.1, "AFA, Neural Networks 2021, Section 4"),
    ("finetune/full/afa", "init_overrides.trainer.max_steps", 4500, AFA_CODE),
    ("finetune/full/afa_mobilenet", "model.alignment_weight", 0.04, "AFA, Neural Networks 2021, Section 4"),
    ("finetune/full/afa_mobilenet", "init_overrides.model.alignment_weight", 0.09, "the same"),
    ("finetune/full/l2", "trainer.max_steps", 9000, AFA_CODE),
    ("finetune/full/l2", "model.weight_decay", 1e-4, "AFA's configs: plain fine-tuning"),
    ("cifar10/at", "model.transfer_weight", 1000, AT_CODE),
    ("cifar10/at", "model.lr", 0.1, AT_CODE),
    ("cifar10/at", "model.weight_decay", 5e-4, AT_CODE),
]
OURS = {
    "voc/paper/attnbn": ("batch_size", "weight_decay", "momentum", "min_crop", "image_size"),
    "voc/attnbn": ("normalise", "label_shift", "source_zoom_out"),
    "voc/gain": ("mask_threshold", "mask_slope", "fill", "momentum", "weight_decay"),
    "finetune/full/afa": ("val_share", "augment"),
}
"""Options that no source gives."""


def small_method() -> AttnBN:
    """The paper's AttnBN with a small network."""
    given = {n: v for n, v in load_experiment("voc/paper/attnbn").model.items() if n not in ("backbone", "label_shift")}
    method = load_method("attnbn")(["a", "b"], backbone="vgg11", weights="none", image_size=64, **given)
    assert isinstance(method, AttnBN)
    return method


def value_of(name: str, option: str) -> Any:
    experiment = load_experiment(name)
    if option.startswith("init_overrides."):
        _, section, own = option.split(".")
        return experiment.init_overrides[section][own]
    if option.startswith("evaluation."):
        return getattr(experiment.evaluation, option.partition(".")[2])
    return experiment.option(option)


@pytest.mark.parametrize(("name", "option", "value", "source"), PUBLISHED, ids=lambda v: str(v)[:40])
def test_a_configuration_has_the_published_value(name: str, option: str, value: Any, source: str) -> None:
    assert value_of(name, option) == value, source


def test_what_is_ours_is_an_option() -> None:
    published = {(name, option.split(".")[-1]) for name, option, *_ in PUBLISHED}
    for name, options in OURS.items():
        experiment = load_experiment(name)
        for option in options:
            found = [s for s in ("model", "data") if _has(experiment, f"{s}.{option}")]
            assert found, f"{name}: {option}"
            assert (name, option) not in published


def _has(experiment: Any, option: str) -> bool:
    try:
        experiment.option(option)
    except KeyError:
        return False
    return True


def test_attnbns_rate_falls_after_20_of_30_epochs() -> None:
    """Section 4.1: 1e-4 for 20 epochs, then 1e-5 for 10."""
    optimisation = small_method().optimisation
    parameter = torch.nn.Parameter(torch.zeros(1))
    made = optimisation.build(optimisation.groups([parameter], []), 300)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(300):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [rates[0], rates[199], rates[200], rates[299]] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])


def test_attnbns_discriminator_is_adaptsegnets() -> None:
    """Five 4x4 convolutions of stride 2 and padding 1, 64-128-256-512-1, leaky by 0.2, no norm."""
    method = small_method()
    assert isinstance(method.discriminator, DomainDiscriminator)
    layers = [m for m in method.discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in layers] == [64, 128, 256, 512, 1]
    assert {(m.kernel_size, m.stride, m.padding) for m in layers} == {((4, 4), (2, 2), (1, 1))}
    leaky = [m for m in method.discriminator.modules() if isinstance(m, torch.nn.LeakyReLU)]
    assert {m.negative_slope for m in leaky} == {0.2}
    assert len(leaky) == 4
    kinds = {type(m).__name__ for m in method.discriminator.modules()}
    assert not any("Norm" in kind for kind in kinds)


def test_mobilenets_published_layers_are_the_projections_of_features_5_9_13_and_17() -> None:
    """AFA's configs name torchvision's features.{5,9,13,17}.conv.2; timm counts the same blocks by stage."""
    network = timm.create_model("mobilenetv2_100")
    blocks = [f"blocks.{s}.{b}" for s, stage in enumerate(network.blocks) for b in range(len(stage))]
    names = load_experiment("finetune/full/afa_mobilenet").option("model.layers")
    assert [name.rpartition(".")[0] for name in names] == [blocks[number - 1] for number in (5, 9, 13, 17)]
    assert {name.rpartition(".")[2] for name in names} == {"conv_pwl"}
