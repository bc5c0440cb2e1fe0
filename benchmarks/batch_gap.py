"""How much features differ between a network in training and in eval mode: ``python -m benchmarks.batch_gap FOLDER``.

Before any step of fine-tuning, at blocks' outputs and at the convolutions that AFA and DELTA align.
"""

from __future__ import annotations

import argparse
from copy import deepcopy

import torch
from torch import Tensor, nn

from attnbridge.attention.observe import observe
from attnbridge.data.modules.classification import ClassificationDataModule
from attnbridge.models.backbones import build_backbone
from attnbridge.models.stages import aligned_layers, trained_stages
from attnbridge.models.teacher import Teacher


def gaps(network: nn.Module, images: Tensor, layers: list[str]) -> dict[str, float]:
    """Of each layer the squared difference between both modes as a share of the features' energy in eval mode."""
    wanted = observe(network.eval(), images, layers, grad=False).features
    found = observe(deepcopy(network).train(), images, layers, grad=False).features
    return {name: float((found[name] - wanted[name]).square().sum() / wanted[name].square().sum()) for name in layers}


def main() -> None:
    """Print the shares in percent."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_gap")
    parser.add_argument("folder", help="train/CLASS/*.jpg and test/CLASS/*.jpg, or val in its place")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=32)
    asked = parser.parse_args()
    torch.manual_seed(0)
    data = ClassificationDataModule(asked.folder, val_share=0.17, image_size=asked.size)
    built = build_backbone(asked.backbone, len(data.classes), stride=None, image_size=asked.size)
    images = torch.stack([sample["image"] for sample in data.samples("val", asked.images)])
    given = Teacher(built, asked.size).normalised(images)
    for layers in (trained_stages, aligned_layers):
        network = built.network.requires_grad_(True)
        for name, share in gaps(network, given, layers(network, asked.size)).items():
            print(f"{name}: {100 * share:.0f}%")


if __name__ == "__main__":
    main()
