"""The layer that attnbridge finds beside the one that a person chose: ``python -m benchmarks.layers [NAME ...]``.

For each network of ``benchmarks.networks`` the maps of ``explain(network, images)``, given nothing else, are compared
with Grad-CAM by a plain hook and autograd at the layer written by hand, or at one written as equally defensible.
Networks whose answer is no row of logits are given the list's score as ``target``. Where no layer has positions, a
clear error is what is right. In double precision, where a network allows it: in single, rounding alone makes maps that
are nearly zero differ.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from attnbridge import AttnBridgeError, explain
from benchmarks.networks import NETWORKS, Network, build, images, independent_map
from benchmarks.networks.network import call

MISSES = {
    "timm/volo_d1_224": "scores of patches, read after the class attention, are added: the norm before both is found",
    "torchvision/ssdlite320_mobilenet_v3_large": "every level is read, and the last of them is found",
    "transformers/yolos": "refused: its detection tokens follow the patches",
}
"""Networks whose map is not the one that a person would choose, each with the reason."""


class Called(nn.Module):
    """A network that is called in another way than with images alone."""

    def __init__(self, network: nn.Module, entry: Network) -> None:
        super().__init__()
        self.network, self.entry = network, entry

    def forward(self, images: Tensor) -> Any:
        return self.entry.forward(self.network, images)


def double(network: nn.Module, entry: Network, batch: Tensor) -> tuple[nn.Module, Tensor]:
    """Network and images in double precision, or as they are where the network mixes it with single."""
    try:
        network, exact = network.double(), batch.double()
        entry.score(entry.forward(network, exact))
    except RuntimeError:
        return build(entry), batch
    return network, exact


def compare(entry: Network) -> str:
    """What is wrong with the map that is made of a network; empty if nothing is."""
    network, batch = double(build(entry), entry, images(entry))
    with torch.no_grad():
        classes = entry.score(entry.forward(network, batch)).argmax(1)
    model = network if entry.forward is call else Called(network, entry)
    try:
        made = explain(model, batch, classes, target=None if entry.usual else entry.score).detach()
    except AttnBridgeError as error:
        return "" if entry.refused else f"refused: {error}"
    if entry.refused:
        return f"a map of {tuple(made.shape)}, though no layer has positions"
    for accepted in (None, *entry.also):
        expected = independent_map(network, entry, batch, classes, accepted)
        if made.shape == expected.shape and torch.allclose(made, expected, 1e-3, 1e-4 * float(expected.max()) + 1e-12):
            return ""
    return f"the map is of another layer than {entry.layer}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.layers", description=__doc__)
    parser.add_argument("names", nargs="*", help="only networks whose name contains one of these")
    options = parser.parse_args()
    chosen = [entry for entry in NETWORKS if not options.names or any(name in entry.name for name in options.names)]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    wrong: Counter[str] = Counter()
    for entry in chosen:
        start = time.perf_counter()
        fault = compare(entry)
        wrong[entry.origin] += bool(fault)
        reason = f" (known: {MISSES[entry.name]})" if fault and entry.name in MISSES else ""
        print(f"{entry.name:60} {time.perf_counter() - start:5.1f} s  {fault or 'right'}{reason}", flush=True)
    right = len(chosen) - wrong.total()
    families = len({entry.family for entry in chosen})
    print(
        f"{right} of {len(chosen)} right ({100 * right / len(chosen):.1f}%), {families} families; wrong: {dict(wrong)}"
    )


if __name__ == "__main__":
    main()
