"""How a network wants its images: size, crop, interpolation, mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image
from torch import Tensor, nn

from attnbridge.bounds import MapSize, Positive, check_value
from attnbridge.data.transforms import Size, sides
from attnbridge.errors import AttnBridgeError, check_choice, shown

CropMode = Literal["center", "squash", "border"]
NEEDED = ("mean", "std", "input_size")
"""What a ``pretrained_cfg`` must say."""


@dataclass(frozen=True)
class Preparation:
    """What is done to an image before a network sees it.

    Attributes:
        size: side of what the network is given, or height and width, pixels.
        mean: subtracted from RGB in [0, 1].
        std: what it is then divided by.
        crop: share of the resized image's side that ``size`` is, cut out of its middle; 1: nothing is lost of a square.
        mode: ``center``: the shorter side is brought to the resized image's; ``squash``: both sides are, the aspect
            ratio is not kept; ``border``: the longer side is, with the mean around.
        interpolation: ``bilinear``, ``bicubic``, ``nearest``, ``lanczos``, ``box`` or ``hamming``.
        bgr: whether blue comes first.

    >>> grey = Image.new("RGB", (80, 60), (128, 128, 128))
    >>> Preparation(32, (0.5,) * 3, (0.5,) * 3).prepare(grey).shape
    torch.Size([1, 3, 32, 32])
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    mode: CropMode = "center"
    interpolation: str = "bilinear"
    bgr: bool = False

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, get_args(CropMode))
        check_value("size", self.size, MapSize)
        check_value("mean", self.mean, tuple[float, float, float])
        check_value("std", self.std, tuple[Positive, Positive, Positive])

    def prepare(self, image: Image.Image) -> Tensor:
        """An image, as a normalised tensor ``(1, 3, H, W)``, by timm's transforms for evaluation.

        Raises:
            AttnBridgeError: for something that is no image.
        """
        from timm.data.transforms_factory import transforms_imagenet_eval

        if not isinstance(image, Image.Image):
            raise AttnBridgeError(f"image must be one of Pillow's, not {shown(image)}; open it with PIL.Image.open")
        how: dict[str, Any] = {"crop_pct": self.crop, "crop_mode": self.mode, "interpolation": self.interpolation}
        transform = transforms_imagenet_eval(sides(self.size), mean=self.mean, std=self.std, **how)
        image = image.convert("RGB")
        if self.bgr:
            image = Image.merge("RGB", image.split()[::-1])
        prepared: Tensor = transform(image)
        return prepared[None]


def preparation_of(network: nn.Module) -> Preparation | None:
    """How a network's images are prepared, if it says so itself.

    timm's networks say it in ``pretrained_cfg``, as do those that this package loads from torchvision; open_clip's in
    ``preprocess_cfg``; transformers' by the processor in the folder that they were loaded from.

    Args:
        network: it may lie inside ``DistributedDataParallel`` or ``torch.compile``.

    Returns:
        ``None`` where nothing says it: ask for size, mean and standard deviation.

    >>> import timm
    >>> preparation_of(timm.create_model("resnet10t")).size, preparation_of(nn.Linear(1, 1))
    (176, None)
    """
    if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        network = network.module
    cfg = getattr(network, "pretrained_cfg", None)
    if isinstance(cfg, Mapping) and all(cfg.get(key) is not None for key in NEEDED):
        return _of_timm(network, cfg)
    for module in (network, getattr(network, "visual", None)):
        clip = getattr(module, "preprocess_cfg", None)
        if isinstance(clip, Mapping) and all(clip.get(key) is not None for key in ("mean", "std", "size")):
            return _of_open_clip(clip)
    folder = getattr(getattr(network, "config", None), "_name_or_path", None)
    return processor_preparation(folder) if isinstance(folder, str) and folder else None


def _of_timm(network: nn.Module, cfg: Mapping[str, Any]) -> Preparation:
    from timm.data import config

    resolve: Any = config.resolve_data_config
    found: dict[str, Any] = resolve(pretrained_cfg=dict(cfg))
    made_for = getattr(getattr(network, "patch_embed", None), "img_size", None)  # of a transformer for another size
    size = made_for if isinstance(made_for, tuple) else tuple(found["input_size"][1:])
    return Preparation(
        _plain(size), tuple(found["mean"]), tuple(found["std"]), found["crop_pct"], found["crop_mode"],
        found["interpolation"], bool(cfg.get("bgr")),
    )  # fmt: skip


def _of_open_clip(cfg: Mapping[str, Any]) -> Preparation:
    modes: dict[str, CropMode] = {"shortest": "center", "longest": "border", "squash": "squash"}
    size = cfg["size"] if isinstance(cfg["size"], int) else _plain(tuple(cfg["size"]))
    mode = modes[cfg.get("resize_mode", "shortest")]
    return Preparation(size, tuple(cfg["mean"]), tuple(cfg["std"]), 1.0, mode, cfg.get("interpolation", "bicubic"))


def processor_preparation(folder: str | Path) -> Preparation | None:
    """What the processor of a Hugging Face folder, or of one in the local cache of its hub, does to images; ``None``
    where it has none, or one that this cannot follow."""
    try:
        from transformers import AutoImageProcessor
    except ImportError:
        return None
    try:
        processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:  # a folder without a processor, or a broken one: transformers' errors have no common class
        return None
    return _of_processor(processor)


def _of_processor(processor: Any) -> Preparation | None:
    def has(name: str) -> bool:
        return bool(getattr(processor, name, None))

    resized, crop_pct = getattr(processor, "size", None), getattr(processor, "crop_pct", None)
    cut = getattr(processor, "crop_size", None) if has("do_center_crop") else None
    plain = not has("rescale_offset") and abs((getattr(processor, "rescale_factor", None) or 1 / 255) - 1 / 255) < 1e-6
    if not resized or not has("do_resize") or not has("do_rescale") or not plain:
        return None
    short, height, width = (resized.get(key) for key in ("shortest_edge", "height", "width"))
    if crop_pct and short:  # ConvNeXt's: cut below 384 pixels, squashed from there on
        size, crop, mode = (short, short), (float(crop_pct) if short < 384 else 1.0), ("center", "squash")[short >= 384]
    elif cut:
        size = (cut["height"], cut["width"])
        crop, mode = share(size[0], short or height), "center" if short else "squash"
    elif height and width:
        size, crop, mode = (height, width), 1.0, "squash"
    else:  # the longer side, or the shorter without a crop: images of no one size
        return None
    normalised = has("do_normalize")
    mean = tuple(map(float, processor.image_mean)) if normalised else (0.0,) * 3
    std = tuple(map(float, processor.image_std)) if normalised else (1.0,) * 3
    resample = getattr(processor, "resample", None)
    name = "bilinear" if resample is None else Image.Resampling(int(resample)).name.lower()
    chosen: Any = mode
    return Preparation(_plain(size), mean, std, crop, chosen, name, has("do_flip_channel_order"))


def share(size: int, resized: int) -> float:
    """The share ``crop`` that gives this size of an image resized to that side, as timm computes the side.

    >>> math.floor(224 / share(224, 232))
    232
    """
    crop = size / resized
    return crop if math.floor(size / crop) == resized else math.nextafter(crop, 0)


def _plain(size: tuple[int, ...]) -> Size:
    height, width = size
    return height if height == width else (height, width)
