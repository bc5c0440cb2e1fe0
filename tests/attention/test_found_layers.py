"""The finder on networks of the list that are quick to build; ``python -m benchmarks.layers`` has them all."""

from __future__ import annotations

import pytest
import torch

from benchmarks.layers import MISSES, compare
from benchmarks.networks import NETWORKS

SOME = {
    *("resnet18", "mobilenetv3_small_050", "squeezenet1_1", "deeplabv3_mobilenet_v3_large"),
    *("vit_small_patch14_reg4_dinov2", "swin_tiny_patch4_window7_224", "fasterrcnn_mobilenet_v3_large_320_fpn"),
    *("coat_lite_tiny", "crossvit_tiny_240", "cait_xxs24_224"),
}
"""Of timm and torchvision: convolutions, scores of positions, a segmentation, a detector, registers, windows, branches,
a class token that comes late."""
SMALL = {"own", "open_clip", "transformers"}
QUICK = [entry for entry in NETWORKS if entry.origin in SMALL or entry.name.partition("/")[2] in SOME]


@pytest.mark.parametrize("entry", QUICK, ids=lambda entry: entry.name)
@pytest.mark.filterwarnings("ignore")
def test_the_map_is_that_of_the_layer_that_a_person_chose(entry: object) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fault = compare(entry)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    assert bool(fault) == (entry.name in MISSES), fault  # type: ignore[attr-defined]
