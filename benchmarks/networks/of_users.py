"""Modules as users write them, and open_clip's: sequences, wrappers, containers, probes; and some without positions."""

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
    first,
    key_logits,
    one_logit,
    tokens,
)
from benchmarks.networks.of_transformers import BLOCKS, STAGES, text_directions

CLASS_TOKEN = "the last attention's input: after it the class token alone is read"
SAME_TOKENS = "the same tokens before the norm"


def small_cnn() -> nn.Sequential:
    """A first network: three convolutions, flattened into a linear classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )


def pooled_cnn() -> nn.Sequential:
    """The same with batch norms and global pooling in the place of the flattening."""
    blocks: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        blocks += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


class FunctionalCNN(nn.Module):
    """Activations and pooling as functions: no module but convolutions and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(images).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc(self.conv3(x).relu().mean((2, 3)))


class TransferNetwork(nn.Module):
    """A backbone of torchvision without its head, and a head of one's own: the commonest transfer."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.backbone = nn.Sequential(*list(resnet18(weights=None).children())[:-2])
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.backbone(images)).flatten(1))


class DictNetwork(nn.Module):
    """Wraps another and gives a dict with a loss beside the logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.inner(images)
        loss = logits.logsumexp(1).mean() if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class TupleNetwork(nn.Module):
    """Gives its logits and its pooled features, as networks for metric learning do."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.trunk = timm.create_model("resnet18", num_classes=0, global_pool="")
        self.embed = nn.Linear(512, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embed(self.trunk(images).mean((2, 3)))
        return self.head(embedding), embedding


class Container(nn.Module):
    """As a LightningModule: the network, its averaged copy, a criterion; ``forward`` calls the first."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.averaged = make()
        self.model = make()
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class TwoTasks(nn.Module):
    """One trunk, two heads, a dict of both: the class of the user's task, and a quality."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.trunk = timm.create_model("mobilenetv3_small_050", features_only=True)
        width = self.trunk.feature_info.channels()[-1]
        self.heads = nn.ModuleDict({"species": nn.Linear(width, CLASSES), "quality": nn.Linear(width, 1)})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = self.trunk(images)[-1].mean((2, 3))
        return {name: head(pooled) for name, head in self.heads.items()}


class AttentionPooled(nn.Module):
    """Multiple-instance attention over a CNN's positions (Ilse et al. 2018), as pathologists use."""

    def __init__(self) -> None:
        super().__init__()
        self.features = pooled_cnn()[:9]
        self.attention = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        instances = self.features(images).flatten(2).transpose(1, 2)
        weights = self.attention(instances).softmax(1)
        return self.classifier((weights * instances).sum(1))


class OwnViT(nn.Module):
    """A ViT as tutorials write it: PyTorch's encoder layers with the norm first, a class token in front."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 64))
        self.positions = nn.Parameter(torch.randn(1, 48, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, CLASSES)
        self.mean = mean

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        if self.mean:
            return self.head(self.norm(self.encoder(x)).mean(1))
        x = torch.cat([self.token.expand(len(x), 1, 64), x], 1)
        return self.head(self.norm(self.encoder(x))[:, 0])


class UNet(nn.Module):
    """A small U-Net for segmentation: logits of each pixel, ``(B, CLASSES, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = self.block(3, 16)
        self.down2 = self.block(16, 32)
        self.bottom = self.block(32, 64)
        self.up2 = self.block(64 + 32, 32)
        self.up1 = self.block(32 + 16, 16)
        self.out = nn.Conv2d(16, CLASSES, 1)

    @staticmethod
    def block(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        one = self.down1(images)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        x = self.bottom(nn.functional.max_pool2d(two, 2))
        x = self.up2(torch.cat([nn.functional.interpolate(x, scale_factor=2), two], 1))
        x = self.up1(torch.cat([nn.functional.interpolate(x, scale_factor=2), one], 1))
        return self.out(x)


class Probe(nn.Module):
    """A linear classifier on what a backbone's ``read`` gives."""

    def __init__(self, backbone: nn.Module, width: int, read: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, CLASSES)
        self.read = read

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.read(self.backbone, images))


def dinov3() -> nn.Module:
    import transformers

    options = {**BLOCKS, "num_register_tokens": 4}
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**options))


def dinov3_convnext() -> nn.Module:
    import transformers

    return transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**STAGES))


def dinov2() -> nn.Module:
    import transformers

    options = {**BLOCKS, "patch_size": 14, "image_size": 98}
    return transformers.Dinov2Model(transformers.Dinov2Config(**options))


def hub_dinov2() -> nn.Module:
    import timm

    return timm.create_model("vit_small_patch14_reg4_dinov2", img_size=98, num_classes=0, depth=4)


def pooler(backbone: nn.Module, images: Tensor) -> Tensor:
    return backbone(images).pooler_output


def mean_of_patches(prefix: int) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda backbone, images: backbone(images).last_hidden_state[:, prefix:].mean(1)


def normalised_image(backbone: nn.Module, images: Tensor) -> Tensor:
    """A CLIP's embedding of the image, of length one, as linear probes take it."""
    return nn.functional.normalize(backbone.encode_image(images), dim=1)


def open_clip_model(resnet: bool = False) -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    if resnet:
        vision = CLIPVisionCfg(layers=(1, 1, 2, 2), width=16, head_width=16, image_size=96)
    else:
        vision = CLIPVisionCfg(layers=4, width=64, head_width=16, patch_size=16, image_size=96)
    text = CLIPTextCfg(context_length=8, vocab_size=100, width=32, heads=4, layers=2)
    return CLIP(32, vision, text)


def similarity(embedding: Any) -> Tensor:
    """Cosine of an embedding with ten fixed texts'."""
    return nn.functional.normalize(embedding, dim=1) @ text_directions(embedding.shape[1]).T


def with_texts(network: nn.Module, images: Tensor) -> Any:
    words = torch.randint(1, 99, (CLASSES, 8), generator=torch.Generator().manual_seed(1))
    return network(images, words)


def scaled_similarity(answer: Any) -> Tensor:
    """open_clip's answer is both towers' embeddings and the scale."""
    image, text, scale = answer
    return scale * image @ text.T


def over_pixels(answer: Any) -> Tensor:
    return answer.mean((2, 3))


def species(answer: Any) -> Tensor:
    return answer["species"]


class Binary(nn.Module):
    """Gives one logit an image, ``(B,)``."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.network = mobilenet_v2(weights=None, num_classes=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).squeeze(1)


class FlattenedPixels(nn.Module):
    """A perceptron on flattened pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 32 * 32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class ColourStatistics(nn.Module):
    """Pools all positions at once, then classifies means and deviations of the colours."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.cat([images.mean((2, 3)), images.std((2, 3))], 1))


class RowsLSTM(nn.Module):
    """Reads an image row by row: its steps are rows, without columns."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3 * 32, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.permute(0, 2, 1, 3).flatten(2)
        return self.head(self.lstm(rows)[0][:, -1])


class Spectrum(nn.Module):
    """Classifies the image's Fourier amplitudes: nothing after the transform has a place in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(3 * 32 * 17, 128), nn.GELU(), nn.Linear(128, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(torch.fft.rfft2(images, norm="ortho").abs().flatten(1))


def own(
    name: str, family: str, build: Callable[[], nn.Module], layer: str, grid: Grid, reason: str, **rest: Any
) -> Network:
    return Network(f"own/{name}", family, "own", build, layer, reason, grid, **rest)


def refused(name: str, family: str, build: Callable[[], nn.Module], reason: str) -> Network:
    return Network(f"own/{name}", family, "own", build, "", reason, None, size=(32, 32), refused=True)


def clip(
    name: str, family: str, build: Callable[[], nn.Module], layer: str, grid: Grid, reason: str, **rest: Any
) -> Network:
    return Network(f"open_clip/{name}", family, "open_clip", build, layer, reason, grid, size=(96, 96), **rest)


def before(layer: str, reason: str = SAME_TOKENS, grid: Grid | None = None) -> tuple[Also, ...]:
    return (Also(layer, reason, grid),)


OPEN_CLIP = (
    clip(
        "vit_image_tower",
        "OpenCLIP",
        lambda: open_clip_model().visual,
        "transformer.resblocks.3.ln_1",
        tokens(6, 6, 1),
        CLASS_TOKEN,
        score=similarity,
        also=before("transformer.resblocks.2"),
    ),
    clip(
        "vit",
        "OpenCLIP",
        open_clip_model,
        "visual.transformer.resblocks.3.ln_1",
        tokens(6, 6, 1),
        "the image tower's last attention's input; the text tower runs after it and has tokens too",
        forward=with_texts,
        score=scaled_similarity,
        also=before("visual.transformer.resblocks.2"),
    ),
    clip(
        "vit_linear_probe",
        "OpenCLIP",
        lambda: Probe(open_clip_model(), 32, normalised_image),
        "backbone.visual.transformer.resblocks.3.ln_1",
        tokens(6, 6, 1),
        "the image tower's last attention's input; the text tower never runs",
        also=before("backbone.visual.transformer.resblocks.2"),
    ),
    clip(
        "resnet_image_tower",
        "OpenCLIP ResNet",
        lambda: open_clip_model(resnet=True).visual,
        "layer4",
        channels_first(3, 3),
        "the last stage, which attention pooling reads",
        score=similarity,
    ),
    clip(
        "resnet",
        "OpenCLIP ResNet",
        lambda: open_clip_model(resnet=True),
        "visual.layer4",
        channels_first(3, 3),
        "the image tower's last stage, which attention pooling reads",
        forward=with_texts,
        score=scaled_similarity,
    ),
)

OWN = (
    own(
        "small_cnn",
        "CNN",
        small_cnn,
        "7",
        channels_first(8, 8),
        "the last convolution's activation, flattened next",
        size=(32, 32),
        also=before("6", "the same before its activation"),
    ),
    own(
        "pooled_cnn",
        "CNN",
        pooled_cnn,
        "8",
        channels_first(12, 16),
        "the last activation, pooled next",
    ),
    own(
        "functional_cnn",
        "CNN",
        FunctionalCNN,
        "conv3",
        channels_first(24, 32),
        "the last convolution: its activation and the pooling are functions, which no hook sees",
    ),
    own(
        "transfer",
        "transfer from a backbone",
        TransferNetwork,
        "backbone",
        channels_first(3, 4),
        "the backbone's last, whose maximum over positions the head reads",
    ),
    own(
        "dict_of_logits",
        "wrapper",
        lambda: DictNetwork(pooled_cnn()),
        "inner.8",
        channels_first(12, 16),
        "the last activation of the network within, pooled next",
        score=key_logits,
    ),
    own(
        "tuple_of_logits",
        "wrapper",
        TupleNetwork,
        "trunk",
        channels_first(3, 4),
        "the trunk's last stage, averaged next without a module",
        score=first,
    ),
    own(
        "lightning_like",
        "container",
        lambda: Container(pooled_cnn),
        "model.8",
        channels_first(12, 16),
        "the last activation of the network that runs, not of its averaged copy",
    ),
    own(
        "lightning_like_vit",
        "container",
        lambda: Container(lambda: OwnViT(mean=False)),
        "model.encoder.layers.3.norm1",
        tokens(6, 8, 1),
        CLASS_TOKEN,
        also=before("model.encoder.layers.2"),
    ),
    own(
        "own_vit",
        "own ViT",
        lambda: OwnViT(mean=False),
        "encoder.layers.3.norm1",
        tokens(6, 8, 1),
        CLASS_TOKEN,
        also=before("encoder.layers.2"),
    ),
    own(
        "own_vit_mean",
        "own ViT",
        lambda: OwnViT(mean=True),
        "norm",
        tokens(6, 8),
        "the norm after the last block, averaged next without a module",
        also=before("encoder.layers.3", "the last block before the norm"),
    ),
    own(
        "two_tasks",
        "multi-task",
        TwoTasks,
        "trunk.blocks.5",
        channels_first(3, 4),
        "the trunk's last, averaged next for both heads",
        score=species,
    ),
    own(
        "attention_pooled",
        "multiple instances",
        AttentionPooled,
        "features",
        channels_first(12, 16),
        "what attention over positions pools next",
    ),
    own("binary", "wrapper", Binary, "network.features", channels_first(3, 4), "pooled next", score=one_logit),
    own(
        "unet",
        "U-Net",
        UNet,
        "up1",
        channels_first(96, 128),
        "the decoder's last features, which the class's convolution reads",
        score=over_pixels,
        also=before("bottom", "the bottleneck, the deepest features", channels_first(24, 32)),
    ),
    own(
        "dinov3_class_token",
        "DINOv3",
        lambda: Probe(dinov3(), 32, pooler),
        "backbone.model.layer.3.norm1",
        tokens(6, 6, 5),
        "the last attention's input: after it the class token alone is read; four registers follow it",
        size=(96, 96),
        also=before("backbone.model.layer.2"),
    ),
    own(
        "dinov3_mean_of_patches",
        "DINOv3",
        lambda: Probe(dinov3(), 32, mean_of_patches(5)),
        "backbone.norm",
        tokens(6, 6, 5),
        "the norm after the last block, whose patches are averaged without class token and registers",
        size=(96, 96),
        also=before("backbone.model.layer.3", "the last block before the norm"),
    ),
    own(
        "dinov3_convnext",
        "DINOv3 ConvNeXt",
        lambda: Probe(dinov3_convnext(), 48, pooler),
        "backbone.model.stages.3",
        channels_first(3, 4),
        "the last stage, pooled next; the norm after it is on the pooled features and the positions at once",
    ),
    own(
        "dinov2_mean_of_patches",
        "DINOv2",
        lambda: Probe(dinov2(), 32, mean_of_patches(1)),
        "backbone.layernorm",
        tokens(7, 7, 1),
        "the norm after the last block, whose patches are averaged without the class token",
        size=(98, 98),
        also=before("backbone.encoder.layer.3", "the last block before the norm"),
    ),
    own(
        "dinov2_registers_class_token",
        "DINOv2 with registers",
        lambda: Probe(hub_dinov2(), 384, lambda backbone, images: backbone(images)),
        "backbone.blocks.3.norm1",
        tokens(7, 7, 5),
        "the last attention's input: after it the class token alone is read; four registers follow it",
        size=(98, 98),
        also=before("backbone.blocks.2"),
    ),
)

REFUSED = (
    refused(
        "flattened_pixels", "perceptron", FlattenedPixels, "a perceptron on flattened pixels: no layer has positions"
    ),
    refused(
        "colour_statistics",
        "colour statistics",
        ColourStatistics,
        "all positions are pooled at once: no layer has positions",
    ),
    refused(
        "rows_lstm",
        "recurrent network",
        RowsLSTM,
        "steps are rows without columns: no layer has positions in two directions",
    ),
    refused("spectrum", "Fourier spectrum", Spectrum, "frequencies are no positions"),
)

USERS = OPEN_CLIP + OWN + REFUSED
