"""Networks of transformers, from small configurations: four blocks or four stages, the structure as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks.network import (
    CLASSES,
    Also,
    Grid,
    Network,
    channels_first,
    dot_logits,
    tokens,
)

LABELS: dict[str, Any] = {"num_labels": CLASSES}
BLOCKS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 96,
    "patch_size": 16,
}
WIDE: dict[str, Any] = {**BLOCKS, "image_size": (96, 128)}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 16,
    "projection_dim": 32,
}
STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 2]}
PYRAMID: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 2], "num_attention_heads": [1, 2, 2, 4]}
WINDOWS: dict[str, Any] = {"patch_size": 4, "embed_dim": 16, "depths": [1, 1, 2, 2], "num_heads": [2, 2, 4, 4]}
ALL_STAGES = ["stage1", "stage2", "stage3", "stage4"]

CLASS_TOKEN = "the last attention's input: after it the class token alone is read"
SAME_TOKENS = "the same tokens before the norm"
BEFORE_NORM = "the last stage before its norm"
NORM_AVERAGED = "the norm after the last block, averaged next"


def make(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """``model(config(**options))`` of transformers, with random weights."""

    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return build


def network(
    name: str, family: str, build: Callable[[], nn.Module], layer: str, grid: Grid, reason: str, **rest: Any
) -> Network:
    options = {"score": dot_logits, **rest}
    return Network(f"transformers/{name}", family, "transformers", build, layer, reason, grid, **options)


def before(layer: str, reason: str = SAME_TOKENS, grid: Grid | None = None) -> tuple[Also, ...]:
    return (Also(layer, reason, grid),)


def with_texts(network: nn.Module, images: Tensor) -> Any:
    """A whole CLIP on the images beside ten texts of random words."""
    words = torch.randint(3, 99, (CLASSES, 8), generator=torch.Generator().manual_seed(1))
    return network(input_ids=words, pixel_values=images)


def per_text(answer: Any) -> Tensor:
    """A whole CLIP's score of a text: its scaled similarity with the image."""
    return answer.logits_per_image


def text_directions(width: int) -> Tensor:
    """Ten fixed unit vectors in the place of texts' embeddings, ``(CLASSES, width)``."""
    drawn = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(2))
    return nn.functional.normalize(drawn, dim=1)


def image_features(network: nn.Module, images: Tensor) -> Any:
    return network.get_image_features(pixel_values=images)


def similarity(answer: Any) -> Tensor:
    """Cosine of the image's embedding with each text's."""
    embedding = getattr(answer, "image_embeds", None)
    embedding = answer.pooler_output if embedding is None else embedding
    return nn.functional.normalize(embedding, dim=1) @ text_directions(embedding.shape[1]).T


def in_patches(network: nn.Module, images: Tensor) -> Any:
    """SigLIP 2 takes patches of 16 pixels in reading order, as its processor gives them."""
    patches = images.unfold(2, 16, 16).unfold(3, 16, 16)
    rows, columns = patches.shape[2:4]
    flat = patches.permute(0, 2, 3, 4, 5, 1).reshape(len(images), rows * columns, -1)
    shapes = torch.tensor([[rows, columns]]).expand(len(images), 2)
    mask = torch.ones(len(images), rows * columns, dtype=torch.long)
    return network(pixel_values=flat, pixel_attention_mask=mask, spatial_shapes=shapes)


def over_pixels(answer: Any) -> Tensor:
    """A segmentation's score of a class: the mean over pixels of its logits."""
    return answer.logits.mean((2, 3))


def best_query(answer: Any) -> Tensor:
    """A detection's score of a class: the highest logit among the queries, without the class "no object"."""
    return answer.logits[:, :, :CLASSES].amax(1)


def mask_of_queries(answer: Any) -> Tensor:
    """MaskFormer's score of a class: each query's probability of the class times its mask, the mean over pixels."""
    classes = answer.class_queries_logits.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bq->bc", classes, answer.masks_queries_logits.sigmoid().mean((2, 3)))


def swin_backbone() -> Any:
    import transformers

    return transformers.SwinConfig(image_size=128, window_size=4, out_features=ALL_STAGES, **WINDOWS)


def resnet_backbone() -> Any:
    import transformers

    return transformers.ResNetConfig(embedding_size=8, out_features=["stage4"], **STAGES)


def upernet() -> nn.Module:
    import transformers

    backbone = transformers.ConvNextConfig(out_features=ALL_STAGES, **STAGES)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=32, auxiliary_in_channels=32, auxiliary_channels=16, **LABELS
    )
    return transformers.UperNetForSemanticSegmentation(config)


QUERIES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 7,
}


def detr(model: str, config: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return make(model, config, backbone_config=resnet_backbone(), **QUERIES, **LABELS)()

    return build


def mask2former() -> nn.Module:
    return make(
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerConfig",
        backbone_config=swin_backbone(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        encoder_layers=2,
        decoder_layers=3,
        num_attention_heads=4,
        dim_feedforward=64,
        num_queries=7,
        **LABELS,
    )()


def maskformer() -> nn.Module:
    import transformers

    return make(
        "MaskFormerForInstanceSegmentation",
        "MaskFormerConfig",
        backbone_config=swin_backbone(),
        decoder_config=transformers.DetrConfig(**QUERIES),
        fpn_feature_size=32,
        mask_feature_size=32,
        **LABELS,
    )()


PLAIN = (
    network(
        "vit",
        "ViT",
        make("ViTForImageClassification", "ViTConfig", **WIDE, **LABELS),
        "vit.layers.3.layernorm_before",
        tokens(6, 8, 1),
        CLASS_TOKEN,
        also=before("vit.layers.2"),
    ),
    network(
        "deit",
        "DeiT",
        make("DeiTForImageClassification", "DeiTConfig", **BLOCKS, **LABELS),
        "deit.layers.3.layernorm_before",
        tokens(6, 6, 2),
        "the last attention's input: after it the class token alone is read; the distillation token is there too",
        size=(96, 96),
        also=before("deit.layers.2"),
    ),
    network(
        "deit_with_teacher",
        "DeiT",
        make("DeiTForImageClassificationWithTeacher", "DeiTConfig", **BLOCKS, **LABELS),
        "deit.layers.3.layernorm_before",
        tokens(6, 6, 2),
        "the last attention's input: after it the class and the distillation token alone are read",
        size=(96, 96),
        also=before("deit.layers.2"),
    ),
    network(
        "beit",
        "BEiT",
        make("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, **BLOCKS, **LABELS),
        "beit.layers.3",
        tokens(6, 6, 1),
        "the last block, whose patches the pooler averages; the norm comes after",
        size=(96, 96),
    ),
    network(
        "data2vec_vision",
        "Data2VecVision",
        make("Data2VecVisionForImageClassification", "Data2VecVisionConfig", **BLOCKS, **LABELS),
        "data2vec_vision.encoder.layer.3",
        tokens(6, 6, 1),
        "the last block, whose patches the pooler averages; blocks give a tuple",
        size=(96, 96),
    ),
    network(
        "data2vec_vision_class_token",
        "Data2VecVision",
        make(
            "Data2VecVisionForImageClassification",
            "Data2VecVisionConfig",
            use_mean_pooling=False,
            **BLOCKS,
            **LABELS,
        ),
        "data2vec_vision.encoder.layer.3.layernorm_before",
        tokens(6, 6, 1),
        CLASS_TOKEN,
        size=(96, 96),
        also=before("data2vec_vision.encoder.layer.2"),
    ),
    network(
        "dinov2",
        "DINOv2",
        make(
            "Dinov2ForImageClassification", "Dinov2Config", **{**BLOCKS, "patch_size": 14, "image_size": 98}, **LABELS
        ),
        "dinov2.encoder.layer.2",
        tokens(7, 7, 1),
        "the last block's input: the head reads the class token and the mean of patches, and both come from it",
        size=(98, 98),
        also=before(
            "dinov2.encoder.layer.3.norm1", "the last attention's input, as guides of peers name it for DINOv2"
        ),
    ),
    network(
        "dinov2_with_registers",
        "DINOv2 with registers",
        make(
            "Dinov2WithRegistersForImageClassification",
            "Dinov2WithRegistersConfig",
            num_register_tokens=4,
            **{**BLOCKS, "patch_size": 14, "image_size": 98},
            **LABELS,
        ),
        "dinov2_with_registers.encoder.layer.2",
        tokens(7, 7, 5),
        "the last block's input: the head reads the class token and the mean of patches, and both come from it",
        size=(98, 98),
        also=before(
            "dinov2_with_registers.encoder.layer.3.norm1",
            "the last attention's input, as guides of peers name it for DINOv2",
        ),
    ),
    network(
        "ijepa",
        "I-JEPA",
        make("IJepaForImageClassification", "IJepaConfig", **BLOCKS, **LABELS),
        "ijepa.layernorm",
        tokens(6, 6),
        NORM_AVERAGED,
        size=(96, 96),
        also=before("ijepa.layers.3", "the last block before the norm"),
    ),
    network(
        "vit_msn",
        "ViT-MSN",
        make("ViTMSNForImageClassification", "ViTMSNConfig", **BLOCKS, **LABELS),
        "vit.layers.3.layernorm_before",
        tokens(6, 6, 1),
        CLASS_TOKEN,
        size=(96, 96),
        also=before("vit.layers.2"),
    ),
)

TWO_TOWERS = (
    network(
        "clip_classifier",
        "CLIP",
        make("CLIPForImageClassification", "CLIPConfig", vision_config=BLOCKS, text_config=TEXT, **LABELS),
        "vision_model.encoder.layers.3",
        tokens(6, 6, 1),
        "the last block, whose patches are averaged without the class token and without a norm",
        size=(96, 96),
    ),
    network(
        "clip",
        "CLIP",
        make("CLIPModel", "CLIPConfig", vision_config=BLOCKS, text_config=TEXT, projection_dim=32),
        "vision_model.encoder.layers.3.layer_norm1",
        tokens(6, 6, 1),
        "the image tower's last attention's input; the text tower runs after it and has tokens too",
        size=(96, 96),
        forward=with_texts,
        score=per_text,
        also=before("vision_model.encoder.layers.2"),
    ),
    network(
        "clip_with_projection",
        "CLIP",
        make("CLIPVisionModelWithProjection", "CLIPVisionConfig", projection_dim=32, **BLOCKS),
        "vision_model.encoder.layers.3.layer_norm1",
        tokens(6, 6, 1),
        CLASS_TOKEN,
        size=(96, 96),
        score=similarity,
        also=before("vision_model.encoder.layers.2"),
    ),
    network(
        "siglip_classifier",
        "SigLIP",
        make("SiglipForImageClassification", "SiglipConfig", vision_config=BLOCKS, text_config=TEXT, **LABELS),
        "vision_model.post_layernorm",
        tokens(6, 6),
        "averaged next; the attention pooling beside it is not read",
        size=(96, 96),
        also=before("vision_model.encoder.layers.3", "the last block before the norm"),
    ),
    network(
        "siglip",
        "SigLIP",
        make("SiglipModel", "SiglipConfig", vision_config=BLOCKS, text_config=TEXT),
        "vision_model.post_layernorm",
        tokens(6, 6),
        "what the attention pooling reads",
        size=(96, 96),
        forward=image_features,
        score=similarity,
        also=before("vision_model.encoder.layers.3", "the last block before the norm"),
    ),
    network(
        "siglip2_classifier",
        "SigLIP 2",
        make(
            "Siglip2ForImageClassification",
            "Siglip2Config",
            vision_config={**BLOCKS, "num_patches": 64},
            text_config=TEXT,
            **LABELS,
        ),
        "vision_model.post_layernorm",
        tokens(6, 8),
        "averaged next; the network is given patches, their grid comes beside them",
        forward=in_patches,
        also=before("vision_model.encoder.layers.3", "the last block before the norm"),
    ),
    network(
        "metaclip2_classifier",
        "MetaCLIP 2",
        make("MetaClip2ForImageClassification", "MetaClip2Config", vision_config=BLOCKS, text_config=TEXT, **LABELS),
        "vision_model.encoder.layers.3",
        tokens(6, 6, 1),
        "the last block, whose patches are averaged without the class token and without a norm",
        size=(96, 96),
    ),
)

HIERARCHICAL = (
    network(
        "swin",
        "Swin",
        make("SwinForImageClassification", "SwinConfig", image_size=128, window_size=4, **WINDOWS, **LABELS),
        "swin.layernorm",
        tokens(4, 4),
        NORM_AVERAGED,
        size=(128, 128),
        also=before("swin.encoder.layers.3", BEFORE_NORM),
    ),
    network(
        "swinv2",
        "SwinV2",
        make("Swinv2ForImageClassification", "Swinv2Config", image_size=96, window_size=4, **WINDOWS, **LABELS),
        "swinv2.layernorm",
        tokens(3, 4),
        NORM_AVERAGED,
        also=before("swinv2.encoder.layers.3", BEFORE_NORM),
    ),
    network(
        "hiera",
        "Hiera",
        make(
            "HieraForImageClassification",
            "HieraConfig",
            embed_dim=16,
            image_size=[128, 128],
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 2, 4],
            **LABELS,
        ),
        "hiera.encoder.stages.3",
        tokens(4, 4),
        "the last stage, averaged by the pooler; stages give a tuple",
        size=(128, 128),
    ),
    network(
        "segformer_classifier",
        "SegFormer",
        make("SegformerForImageClassification", "SegformerConfig", **PYRAMID, **LABELS),
        "segformer.stages.3",
        channels_first(3, 4),
        "the last stage with its norm, averaged next",
    ),
    network(
        "pvt",
        "PVT",
        make("PvtForImageClassification", "PvtConfig", image_size=96, **PYRAMID, **LABELS),
        "pvt.encoder.block.3.1.layer_norm_1",
        tokens(3, 3, 1),
        "the last attention's input: after it the class token, which only the last stage has, is read alone",
        size=(96, 96),
        also=before("pvt.encoder.block.3.0"),
    ),
    network(
        "pvt_v2",
        "PVTv2",
        make("PvtV2ForImageClassification", "PvtV2Config", **PYRAMID, **LABELS),
        "pvt_v2.encoder.layers.3.layer_norm",
        tokens(3, 4),
        "the last stage's norm, averaged next",
        also=before("pvt_v2.encoder.layers.3.blocks.1", "the last block before the norm"),
    ),
    network(
        "cvt",
        "CvT",
        make(
            "CvtForImageClassification",
            "CvtConfig",
            embed_dim=[16, 32, 48],
            num_heads=[1, 2, 3],
            depth=[1, 2, 3],
            **LABELS,
        ),
        "cvt.encoder.stages.2.layers.2.layernorm_before",
        tokens(6, 8, 1),
        "the last attention's input: after it the class token, which only the last stage has, is read alone",
        seed=24,
        also=before("cvt.encoder.stages.2.layers.1"),
    ),
    network(
        "levit",
        "LeViT",
        make(
            "LevitForImageClassification",
            "LevitConfig",
            image_size=224,
            hidden_sizes=[16, 32, 48],
            num_attention_heads=[2, 2, 3],
            depths=[1, 1, 2],
            key_dim=[8, 8, 8],
            **LABELS,
        ),
        "levit.encoder.stages.2",
        tokens(4, 4),
        "the last stage, averaged next",
        size=(224, 224),
    ),
    network(
        "levit_with_teacher",
        "LeViT",
        make(
            "LevitForImageClassificationWithTeacher",
            "LevitConfig",
            image_size=224,
            hidden_sizes=[16, 32, 48],
            num_attention_heads=[2, 2, 3],
            depths=[1, 1, 2],
            key_dim=[8, 8, 8],
            **LABELS,
        ),
        "levit.encoder.stages.2",
        tokens(4, 4),
        "the last stage, averaged next for two heads",
        size=(224, 224),
    ),
    network(
        "mobilevit",
        "MobileViT",
        make(
            "MobileViTForImageClassification",
            "MobileViTConfig",
            hidden_sizes=[24, 32, 40],
            neck_hidden_sizes=[8, 8, 12, 16, 20, 24, 48],
            **LABELS,
        ),
        "mobilevit.conv_1x1_exp",
        channels_first(3, 4),
        "the last convolution, averaged next; transformer blocks within have tokens of pixels in patches",
    ),
    network(
        "mobilevitv2",
        "MobileViTV2",
        make("MobileViTV2ForImageClassification", "MobileViTV2Config", width_multiplier=0.25, **LABELS),
        "mobilevitv2.encoder.layer.4",
        channels_first(4, 6),
        "the last stage, averaged next",
        size=(128, 192),
    ),
    network(
        "swiftformer",
        "SwiftFormer",
        make(
            "SwiftFormerForImageClassification",
            "SwiftFormerConfig",
            embed_dims=[16, 24, 32, 48],
            depths=[1, 1, 2, 2],
            **LABELS,
        ),
        "norm",
        channels_first(3, 4),
        "the norm after the last stage, averaged next for two heads",
        also=before("swiftformer.encoder.network.6", BEFORE_NORM),
    ),
)

CONVOLUTIONAL = (
    network(
        "convnext",
        "ConvNeXt",
        make("ConvNextForImageClassification", "ConvNextConfig", **STAGES, **LABELS),
        "convnext.encoder.stages.3",
        channels_first(3, 4),
        "the last stage, averaged next; the norm comes after",
    ),
    network(
        "convnextv2",
        "ConvNeXtV2",
        make("ConvNextV2ForImageClassification", "ConvNextV2Config", **STAGES, **LABELS),
        "convnextv2.encoder.stages.3",
        channels_first(3, 4),
        "the last stage, averaged next; the norm comes after",
    ),
    network(
        "resnet",
        "ResNet",
        make("ResNetForImageClassification", "ResNetConfig", embedding_size=8, **STAGES, **LABELS),
        "resnet.encoder.stages.3",
        channels_first(3, 4),
        "the last stage, pooled next",
    ),
    network(
        "regnet",
        "RegNet",
        make(
            "RegNetForImageClassification",
            "RegNetConfig",
            embedding_size=8,
            hidden_sizes=[16, 24, 32, 48],
            depths=[1, 1, 2, 2],
            groups_width=8,
            **LABELS,
        ),
        "regnet.encoder.stages.3",
        channels_first(3, 4),
        "the last stage, pooled next",
    ),
    network(
        "mobilenet_v1",
        "MobileNetV1",
        make("MobileNetV1ForImageClassification", "MobileNetV1Config", depth_multiplier=0.25, **LABELS),
        "mobilenet_v1.layer.25",
        channels_first(3, 4),
        "the last convolution, pooled next",
    ),
    network(
        "mobilenet_v2",
        "MobileNetV2",
        make("MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.35, **LABELS),
        "mobilenet_v2.conv_1x1",
        channels_first(3, 4),
        "the last convolution, pooled next",
    ),
    network(
        "efficientnet",
        "EfficientNet",
        make(
            "EfficientNetForImageClassification",
            "EfficientNetConfig",
            width_coefficient=0.25,
            depth_coefficient=0.5,
            hidden_dim=320,
            **LABELS,
        ),
        "efficientnet.encoder.top_activation",
        channels_first(3, 4),
        "the last convolution's activation, pooled next",
    ),
    network(
        "bit",
        "BiT",
        make(
            "BitForImageClassification",
            "BitConfig",
            embedding_size=16,
            hidden_sizes=[32, 64, 64, 96],
            depths=[1, 1, 1, 2],
            num_groups=8,
            **LABELS,
        ),
        "bit.norm",
        channels_first(3, 4),
        "the norm and activation after the last stage of pre-activation blocks, pooled next",
        also=before("bit.encoder.stages.3", BEFORE_NORM),
    ),
    network(
        "poolformer",
        "PoolFormer",
        make(
            "PoolFormerForImageClassification",
            "PoolFormerConfig",
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 2],
            **LABELS,
        ),
        "norm",
        channels_first(3, 4),
        "the norm after the last stage, averaged next",
        also=before("poolformer.encoder.block.3.1", "the last block before the norm"),
    ),
    network(
        "focalnet",
        "FocalNet",
        make("FocalNetForImageClassification", "FocalNetConfig", embed_dim=16, depths=[1, 1, 1, 2], **LABELS),
        "focalnet.layernorm",
        tokens(3, 4),
        NORM_AVERAGED,
        also=before("focalnet.encoder.stages.3", BEFORE_NORM),
    ),
    network(
        "hgnet_v2",
        "HGNetV2",
        make("HGNetV2ForImageClassification", "HGNetV2Config", **LABELS),
        "encoder.stages.3",
        channels_first(3, 4),
        "the last stage, pooled next",
    ),
    network(
        "textnet",
        "TextNet",
        make("TextNetForImageClassification", "TextNetConfig", **LABELS),
        "textnet.encoder.stages.3",
        channels_first(3, 4),
        "the last stage; the pooler to 2x2 beside it is not read",
    ),
    network(
        "pp_lcnet",
        "LCNet",
        make("PPLCNetForImageClassification", "PPLCNetConfig", **LABELS),
        "encoder.blocks.4",
        channels_first(3, 4),
        "the last stage, pooled next; last_convolution comes after, without positions",
        score=lambda answer: answer.last_hidden_state,
    ),
    network(
        "timm_wrapper",
        "timm wrapper",
        make("TimmWrapperForImageClassification", "TimmWrapperConfig", architecture="resnet18", **LABELS),
        "timm_model.layer4",
        channels_first(3, 4),
        "the last stage of timm's ResNet within, pooled next",
    ),
)

DENSE = (
    network(
        "detr",
        "DETR",
        detr("DetrForObjectDetection", "DetrConfig"),
        "model.encoder.layers.2",
        tokens(3, 4),
        "the encoder's last, which the decoder's queries read; queries have no positions",
        seed=24,
        score=best_query,
        also=before(
            "model.backbone.model.encoder.stages.3",
            "the backbone's last, of which the encoder makes its tokens; peers' guides take it",
            channels_first(3, 4),
        ),
    ),
    network(
        "conditional_detr",
        "Conditional DETR",
        detr("ConditionalDetrForObjectDetection", "ConditionalDetrConfig"),
        "model.encoder.layers.2",
        tokens(3, 4),
        "the encoder's last, which the decoder's queries read; queries have no positions",
        seed=28,
        score=best_query,
        also=before(
            "model.backbone.model.encoder.stages.3",
            "the backbone's last, of which the encoder makes its tokens; peers' guides take it",
            channels_first(3, 4),
        ),
    ),
    network(
        "yolos",
        "YOLOS",
        make(
            "YolosForObjectDetection",
            "YolosConfig",
            num_detection_tokens=7,
            **{**BLOCKS, "image_size": [96, 128]},
            **LABELS,
        ),
        "vit.encoder.layer.3.layernorm_before",
        tokens(6, 8, 1, 7),
        "the last attention's input: after it the detection tokens alone are read, which come after the patches",
        score=best_query,
        also=before("vit.encoder.layer.2"),
    ),
    network(
        "segformer_segmentation",
        "SegFormer",
        make("SegformerForSemanticSegmentation", "SegformerConfig", decoder_hidden_size=32, **PYRAMID, **LABELS),
        "decode_head.activation",
        channels_first(24, 32),
        "all four stages fused, which the class's convolution reads",
        score=over_pixels,
        also=before("segformer.stages.3", "the encoder's last stage", channels_first(3, 4)),
    ),
    network(
        "upernet",
        "UPerNet",
        upernet,
        "decode_head.fpn_bottleneck",
        channels_first(24, 32),
        "all four stages fused, which the class's convolution reads; the auxiliary head hangs on an earlier one",
        score=over_pixels,
        also=before("backbone.encoder.stages.3", "the backbone's last stage", channels_first(3, 4)),
    ),
    network(
        "dpt",
        "DPT",
        make(
            "DPTForSemanticSegmentation",
            "DPTConfig",
            is_hybrid=False,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 16, 24, 32],
            fusion_hidden_size=16,
            **BLOCKS,
            **LABELS,
        ),
        "head.head.2",
        channels_first(48, 48),
        "all four levels fused, which the class's convolution reads",
        size=(96, 96),
        score=over_pixels,
        also=before("dpt.encoder.layer.3", "the encoder's last block", tokens(6, 6, 1)),
    ),
    network(
        "mobilevit_segmentation",
        "MobileViT",
        make(
            "MobileViTForSemanticSegmentation",
            "MobileViTConfig",
            hidden_sizes=[24, 32, 40],
            neck_hidden_sizes=[8, 8, 12, 16, 20, 24, 48],
            aspp_out_channels=16,
            **LABELS,
        ),
        "mobilevit.encoder.layer.4",
        channels_first(3, 4),
        "the backbone's last, which all of the head reads",
        score=over_pixels,
        seed=24,
        also=before("segmentation_head.aspp", "the head's last features, which the class's convolution reads"),
    ),
    network(
        "mask2former",
        "Mask2Former",
        mask2former,
        "model.pixel_level_module.encoder.hidden_states_norms.stage4",
        tokens(4, 4),
        "the backbone's last, of which the pixel decoder makes all its levels",
        size=(128, 128),
        score=mask_of_queries,
        seed=24,
        also=before(
            "model.pixel_level_module.decoder.mask_projection",
            "the pixel decoder's features, of which queries make their masks",
            channels_first(32, 32),
        ),
    ),
    network(
        "maskformer",
        "MaskFormer",
        maskformer,
        "model.pixel_level_module.encoder.hidden_states_norms.3",
        tokens(4, 4),
        "the backbone's last, which the queries read and the pixel decoder starts from",
        size=(128, 128),
        seed=25,
        score=mask_of_queries,
        also=before(
            "model.pixel_level_module.decoder.mask_projection",
            "the pixel decoder's features, of which queries make their masks",
            channels_first(32, 32),
        ),
    ),
)

TRANSFORMERS = PLAIN + TWO_TOWERS + HIERARCHICAL + CONVOLUTIONAL + DENSE
