"""Images go in as each library's own transforms prepare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from attnbridge.data.preparation import Preparation, preparation_of, processor_preparation, share
from attnbridge.errors import AttnBridgeError
from attnbridge.models.backbones import build_backbone
from attnbridge.models.classifiers import load_classifier
from attnbridge.models.libraries import make_torchvision
from attnbridge.models.names import parse_name


@pytest.fixture(params=[(90, 60), (60, 200), (300, 300)], ids=str)
def image(request: pytest.FixtureRequest) -> Image.Image:
    """Smooth, so that resizing of two kinds differs little, in colours, so that their order shows, and of sizes whose
    crops lie on whole pixels, since libraries round a half differently."""
    width, height = request.param
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17) * 90 + 128, np.cos(y / 13) * 70 + 100, (x + y) % 256 * 0.3 + 60]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("resnet18", {}),
        ("convnext_tiny", {}),
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("vit_base_patch16_siglip_224", {"depth": 1}),
        ("tf_efficientnet_lite0", {}),
    ],
)
def test_timms_networks(name: str, options: dict[str, Any], image: Image.Image) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, **options)
    theirs = create_transform(**resolve_data_config(model=network), is_training=False)
    found = preparation_of(network)
    assert found is not None
    assert torch.equal(found.prepare(image), theirs(image)[None])
    assert preparation_of(nn.DataParallel(network)) == found


def test_a_transformer_for_another_size_is_given_that() -> None:
    found = preparation_of(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64))
    assert found is not None
    assert found.size == 64


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_b_16", "inception_v3", "mobilenet_v3_small"])
def test_torchvisions_networks(name: str, image: Image.Image) -> None:
    with torch.device("meta"):
        found = preparation_of(make_torchvision(parse_name(f"torchvision/{name}"), 3))
    assert found is not None
    theirs = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    torch.testing.assert_close(found.prepare(image), theirs(image)[None], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [224, 384, 518])
@pytest.mark.parametrize("resized", [256, 384, 600, 232])
def test_a_share_gives_the_side_that_it_was_made_of(size: int, resized: int) -> None:
    assert int(size / share(size, resized)) == resized


PROCESSORS: dict[str, Any] = {
    "vit": lambda: transformers.ViTImageProcessor(size={"height": 48, "width": 64}),
    "vit, bicubic": lambda: transformers.ViTImageProcessor(size={"height": 48, "width": 48}, resample=3),
    "clip": lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48}),
    "deit": lambda: transformers.DeiTImageProcessor(
        size={"height": 64, "width": 64}, crop_size={"height": 48, "width": 48}
    ),
    "convnext": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 56}, crop_pct=0.875),
    "convnext, large": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "mobilevit": lambda: transformers.MobileViTImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48}
    ),
    "not normalised": lambda: transformers.ViTImageProcessor(size={"height": 48, "width": 48}, do_normalize=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_folders_processor(name: str, image: Image.Image, tmp_path: Path) -> None:
    processor = PROCESSORS[name]()
    processor.save_pretrained(tmp_path)
    found = processor_preparation(tmp_path)
    assert found is not None
    theirs: Tensor = processor(image, return_tensors="pt")["pixel_values"]
    ours = found.prepare(image)
    assert ours.shape == theirs.shape
    off = (ours - theirs).abs() * torch.tensor(found.std).view(3, 1, 1)
    assert off.mean() < 1 / 255  # they resize tensors, we images: half a level of 255
    assert off.max() < 6 / 255
    bgr = torch.tensor([2, 1, 0])
    assert (ours - theirs[:, bgr]).abs().mean() > 10 * off.mean()


@pytest.mark.parametrize(
    "processor",
    [
        transformers.EfficientNetImageProcessor(rescale_offset=True),
        transformers.ViTImageProcessor(do_rescale=False),
        transformers.ViTImageProcessor(do_resize=False),
        transformers.CLIPImageProcessor(do_center_crop=False),
    ],
)
def test_what_cannot_be_followed_is_not_guessed(processor: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    assert processor_preparation(tmp_path) is None
    assert processor_preparation(tmp_path / "none") is None


def test_a_network_of_transformers_own_says_it_too(tmp_path: Path, image: Image.Image) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert preparation_of(loaded) is None
    transformers.ViTImageProcessor(size={"height": 40, "width": 40}, image_mean=[0.1] * 3).save_pretrained(tmp_path)
    found = preparation_of(loaded)
    assert found == Preparation(40, (0.1,) * 3, (0.5,) * 3, 1.0, "squash", "bilinear")
    assert preparation_of(transformers.ResNetForImageClassification(config)) is None


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_open_clips_networks(mode: str, image: Image.Image) -> None:
    how = {"image_interpolation": "bicubic", "image_resize_mode": mode}
    network, _, theirs = open_clip.create_model_and_transforms("RN50", pretrained=None, force_image_size=64, **how)
    found, visual = preparation_of(network), preparation_of(network.visual)
    assert found is not None
    assert found == visual
    ours, expected = found.prepare(image), theirs(image)[None]
    if mode == "longest":  # it pads with black, timm with the mean
        inner = (ours - expected).abs().amax(1)[0]
        assert (inner < 0.02).float().mean() > 0.2
    else:
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_nothing_says_it() -> None:
    assert preparation_of(nn.Conv2d(3, 1, 1)) is None
    network = nn.Conv2d(3, 1, 1)
    network.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # type: ignore[assignment]
    assert preparation_of(network) is None


def test_wrong_input_is_named() -> None:
    plain = Preparation(8, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(AttnBridgeError, match=r"image must be one of Pillow's, not "):
        plain.prepare(torch.zeros(3, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(AttnBridgeError, match="mode must be center, squash or border, not 'centre'"):
        Preparation(8, (0.0,) * 3, (1.0,) * 3, mode="centre")  # type: ignore[arg-type]


def test_grey_and_transparent_images_are_colours() -> None:
    plain = Preparation(8, (0.0,) * 3, (1.0,) * 3)
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert plain.prepare(Image.new(mode, (9, 8))).shape == (1, 3, 8, 8)


def test_blue_first(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert Preparation(8, (0.0,) * 3, (1.0,) * 3, bgr=True).prepare(red)[0, :, 0, 0].tolist() == [0, 0, 1]
    config = transformers.MobileViTConfig(
        image_size=64, hidden_sizes=[8, 8, 8], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 8], num_attention_heads=2,
    )  # fmt: skip
    transformers.MobileViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.MobileViTImageProcessor().save_pretrained(tmp_path)
    found = load_classifier(f"hf/{tmp_path}", device="cpu")
    assert found.normalise(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)).flatten().tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(AttnBridgeError, match=r"wants images with blue first, which training does not give"):
        build_backbone(f"hf/{tmp_path}", 3, stride=None, image_size=64)
