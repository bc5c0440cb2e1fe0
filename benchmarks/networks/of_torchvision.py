"""Networks of torchvision: classifiers, segmentation, detection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks.network import CLASSES, Also, Grid, Network, channels_first, channels_last, tokens


def classifier(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=CLASSES, **options)

    return build


def dense(name: str, **options: Any) -> Callable[[], nn.Module]:
    return classifier(name, weights_backbone=None, **options)


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(96, 16, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=CLASSES)


def small_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 24, [1, 1, 2, 2], [1, 2, 4, 8], [4, 4], num_classes=CLASSES)


def small_swin_v2() -> nn.Module:
    from torchvision.models import SwinTransformer
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    return SwinTransformer(
        [4, 4],
        24,
        [1, 1, 2, 2],
        [1, 2, 4, 8],
        [4, 4],
        num_classes=CLASSES,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )


def small_maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((128, 128), 16, 4, [16, 32, 48, 64], [1, 1, 2, 2], 16, 0.0, num_classes=CLASSES)


def small_vgg() -> nn.Module:
    """VGG-16's convolutions; a classifier of 256 units in the place of 4096, for the memory."""
    from torchvision import models

    network = models.vgg16(weights=None)
    network.classifier = nn.Sequential(nn.Linear(512 * 49, 256), nn.ReLU(True), nn.Dropout(), nn.Linear(256, CLASSES))
    return network


def out_over_pixels(answer: Any) -> Tensor:
    """A segmentation's score of a class: the mean over pixels of its logits."""
    return answer["out"].mean((2, 3))


def best_box(answer: Any) -> Tensor:
    """A detection's score of a class: the highest score among its boxes, 0 without one."""
    scores = [
        torch.stack(
            [
                found["scores"][found["labels"] == label].amax()
                if (found["labels"] == label).any()
                else found["scores"].new_zeros(())
                for label in range(CLASSES)
            ]
        )
        for found in answer
    ]
    return torch.stack(scores)


def all_boxes(answer: Any) -> Tensor:
    """The sum of the scores of a class's boxes, so that each level that has one counts."""
    scores = [torch.zeros(CLASSES).index_add(0, found["labels"], found["scores"]) for found in answer]
    return torch.stack(scores)


def network(
    name: str, family: str, build: Callable[[], nn.Module], layer: str, grid: Grid, reason: str, **rest: Any
) -> Network:
    return Network(f"torchvision/{name}", family, "torchvision", build, layer, reason, grid, **rest)


SMALL_BOXES: dict[str, Any] = {"min_size": 128, "max_size": 192, "score_thresh": 0.0, "detections_per_img": 10}

CLASSIFIERS = (
    network(
        "alexnet",
        "AlexNet",
        classifier("alexnet"),
        "features",
        channels_first(6, 6),
        "the last convolution, as the classifier reads it",
        size=(224, 224),
        also=(Also("features.11", "the last convolution before its max pooling", channels_first(13, 13)),),
    ),
    network(
        "vgg16",
        "VGG",
        small_vgg,
        "features",
        channels_first(7, 7),
        "the last convolution after its pooling, as peers' guides name it for VGG",
        size=(224, 224),
        also=(
            Also("features.29", "the last convolution before its max pooling, Grad-CAM's own", channels_first(14, 14)),
        ),
    ),
    network("resnet18", "ResNet", classifier("resnet18"), "layer4", channels_first(3, 4), "pooled next"),
    network("resnext50_32x4d", "ResNeXt", classifier("resnext50_32x4d"), "layer4", channels_first(3, 4), "pooled next"),
    network(
        "squeezenet1_1",
        "SqueezeNet",
        classifier("squeezenet1_1"),
        "features",
        channels_first(5, 7),
        "the last features before the convolution that already gives class maps",
    ),
    network(
        "densenet121",
        "DenseNet",
        classifier("densenet121"),
        "features",
        channels_first(3, 4),
        "pooled next, after an activation in place",
        also=(Also("features", "the same before that activation", copied=True),),
    ),
    network(
        "inception_v3",
        "Inception",
        classifier("inception_v3", init_weights=False),
        "Mixed_7c",
        channels_first(3, 4),
        "pooled next; the auxiliary head hangs on an earlier one",
        size=(160, 192),
    ),
    network(
        "googlenet",
        "GoogLeNet",
        classifier("googlenet", init_weights=False, aux_logits=True),
        "inception5b",
        channels_first(3, 4),
        "pooled next; the auxiliary heads hang on earlier ones",
    ),
    network(
        "shufflenet_v2_x0_5",
        "ShuffleNetV2",
        classifier("shufflenet_v2_x0_5"),
        "conv5",
        channels_first(3, 4),
        "pooled next, by a mean without a module",
    ),
    network(
        "mobilenet_v2",
        "MobileNetV2",
        classifier("mobilenet_v2"),
        "features",
        channels_first(3, 4),
        "pooled next, without a module",
    ),
    network(
        "mobilenet_v3_small",
        "MobileNetV3",
        classifier("mobilenet_v3_small"),
        "features",
        channels_first(3, 4),
        "pooled next",
    ),
    network(
        "mnasnet0_5",
        "MNASNet",
        classifier("mnasnet0_5"),
        "layers",
        channels_first(3, 4),
        "pooled next, by a mean without a module",
    ),
    network(
        "efficientnet_b0",
        "EfficientNet",
        classifier("efficientnet_b0"),
        "features",
        channels_first(3, 4),
        "pooled next",
    ),
    network(
        "regnet_y_400mf",
        "RegNet",
        classifier("regnet_y_400mf"),
        "trunk_output",
        channels_first(3, 4),
        "pooled next",
    ),
    network(
        "convnext_tiny",
        "ConvNeXt",
        classifier("convnext_tiny"),
        "features",
        channels_first(3, 4),
        "pooled next; the norm comes after pooling, without positions",
    ),
    network(
        "vit",
        "ViT",
        small_vit,
        "encoder.layers.encoder_layer_3.ln_1",
        tokens(6, 6, 1),
        "the last attention's input: after it the class token alone is read",
        size=(96, 96),
        also=(Also("encoder.layers.encoder_layer_2", "the same tokens before the norm"),),
    ),
    network(
        "swin",
        "Swin",
        small_swin,
        "norm",
        channels_last(3, 4),
        "pooled next, channels last",
        also=(Also("features", "the last stage before its norm"),),
    ),
    network(
        "swin_v2",
        "SwinV2",
        small_swin_v2,
        "norm",
        channels_last(3, 4),
        "pooled next, channels last",
        also=(Also("features", "the last stage before its norm"),),
    ),
    network(
        "maxvit",
        "MaxViT",
        small_maxvit,
        "blocks.3",
        channels_first(4, 4),
        "pooled next, by the first module of the classifier",
        size=(128, 128),
    ),
)

SEGMENTATION = (
    network(
        "fcn_resnet50",
        "FCN",
        dense("fcn_resnet50", aux_loss=True),
        "backbone.layer4",
        channels_first(12, 16),
        "the backbone's last, which all of the head reads; the auxiliary head hangs on an earlier one",
        score=out_over_pixels,
        also=(Also("classifier.2", "the head's last features, which the class's convolution reads"),),
    ),
    network(
        "deeplabv3_resnet50",
        "DeepLabV3",
        dense("deeplabv3_resnet50", aux_loss=True),
        "backbone.layer4",
        channels_first(12, 16),
        "the backbone's last, which all of the head reads",
        score=out_over_pixels,
        also=(Also("classifier.3", "the head's last features, which the class's convolution reads"),),
    ),
    network(
        "lraspp_mobilenet_v3_large",
        "LR-ASPP",
        dense("lraspp_mobilenet_v3_large"),
        "backbone.16",
        channels_first(6, 8),
        "the backbone's last; the low level's path adds edges only",
        score=out_over_pixels,
        also=(Also("classifier.cbr", "the head's features, which the class's convolution reads"),),
    ),
)

DETECTION = (
    network(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "Faster R-CNN",
        dense("fasterrcnn_mobilenet_v3_large_320_fpn", box_score_thresh=0.0, box_detections_per_img=10),
        "backbone.body.16",
        channels_first(10, 14),
        "the backbone's last: every level of the pyramid comes from it",
        score=best_box,
    ),
    network(
        "retinanet_resnet50_fpn",
        "RetinaNet",
        dense("retinanet_resnet50_fpn", **SMALL_BOXES),
        "backbone.body.layer4",
        channels_first(4, 6),
        "the backbone's last: every level of the pyramid comes from it",
        score=best_box,
    ),
    network(
        "fcos_resnet50_fpn",
        "FCOS",
        dense("fcos_resnet50_fpn", **SMALL_BOXES),
        "backbone.body.layer4",
        channels_first(4, 6),
        "the backbone's last: every level of the pyramid comes from it",
        score=best_box,
    ),
    network(
        "ssdlite320_mobilenet_v3_large",
        "SSDLite",
        dense("ssdlite320_mobilenet_v3_large", score_thresh=0.0, detections_per_img=100),
        "backbone.features.0",
        channels_first(20, 20),
        "the first level's features, of which all deeper levels come: no later layer holds every box",
        score=all_boxes,
        also=(Also("backbone.features.1", "the backbone's last, before the extra levels", channels_first(10, 10)),),
    ),
    network(
        "ssd300_vgg16",
        "SSD",
        dense("ssd300_vgg16", score_thresh=0.0, detections_per_img=100),
        "backbone.features",
        channels_first(38, 38),
        "the first level's features (conv4_3), of which all deeper levels come: no later layer holds every box",
        score=all_boxes,
        seed=28,
        also=(Also("backbone.extra.0", "VGG's last (fc7 as a convolution)", channels_first(19, 19)),),
    ),
)

TORCHVISION = CLASSIFIERS + SEGMENTATION + DETECTION
