"""What of its source a fine-tuned network was held to: which positions, which channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attnbridge.attention.normalise import normalise_maps
from attnbridge.data.provenance import own_file
from attnbridge.data.sample import Sample
from attnbridge.data.text import write_rows
from attnbridge.evaluation.figures import overlay, sheet, to_uint8
from attnbridge.methods.base import Method
from attnbridge.segmentation.combine import enlarge_maps

IMAGE = "source_attention.png"
CHANNELS = "source_channels.csv"


def save_source_attention(method: Method, samples: Sequence[Sample], folder: Path) -> None:
    """Write ``source_attention.png``, and ``source_channels.csv`` where channels are weighed; nothing for a method
    that attends to no source.

    The image shows each layer's weights of positions; of channels, where those are active that weigh:
    :math:`\\sum_j a_j |F_s^j|`. The table has the mean weight of each channel over the samples, the greatest first, in
    multiples of the uniform weight.
    """
    attended = method.source_attention(torch.stack([sample["image"] for sample in samples]).to(method.device))
    if not attended:
        return
    with own_file(folder / IMAGE) as partial:
        attention_sheet(samples, attended).save(partial, "PNG")
    weighed = {name: weights for name, (weights, _) in attended.items() if weights.ndim == 2}
    if weighed:
        rows: list[list[Any]] = [["layer", "channel", "weight"]]
        for name, weights in weighed.items():
            mean = weights.mean(0) * weights.shape[1]
            rows += [[name, channel, f"{mean[channel]:.4f}"] for channel in mean.argsort(descending=True).tolist()]
        with own_file(folder / CHANNELS) as partial:
            write_rows(partial, rows)


def attention_sheet(
    samples: Sequence[Sample], attended: Mapping[str, tuple[Tensor, Tensor]], cell: int = 144
) -> Image.Image:
    """Images in rows, layers in columns.

    Args:
        samples: what was looked at.
        attended: of each layer the weights, ``(B, h, w)`` or ``(B, C)``, and the source's features ``(B, C, h, w)``.
        cell: width of an image.
    """
    maps = {}
    for name, (weights, features) in attended.items():
        heat = weights if weights.ndim == 3 else (weights[:, :, None, None] * features.abs()).sum(1)
        maps[name] = normalise_maps(heat, "max")
    rows = []
    for i, sample in enumerate(samples):
        image = to_uint8(sample["image"])
        heats = [
            enlarge_maps(each[i][None, None], image.shape[:2])[0, 0].nan_to_num(0).cpu().numpy()
            for each in maps.values()
        ]
        rows.append([image, *(overlay(image, heat) for heat in heats)])
    return sheet(rows, ["image", *maps], cell)
