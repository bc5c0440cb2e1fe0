"""Time and memory of Grad-CAM beside captum, torch-cam and pytorch-grad-cam: ``python -m benchmarks.maps``.

All run on the same batch and layer and give the maps of the same classes of every image; a plain forward pass is the
floor. They take turns, so that noise of the machine hits all alike; a ratio is the median of the ratios within each
turn. Peers that are not installed are left out (``pip install '.[bench]'``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge import explain, grad_cam, observe
from attnbridge.evaluation.record import hardware
from benchmarks.memory import peak_memory

LAYERS = {"resnet50": "layer4", "vgg16": "features.29"}
Make = Callable[[nn.Module, Tensor, str, int], Tensor]


def forward(network: nn.Module, images: Tensor, _layer: str, _count: int) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(images)
        return logits


def ours(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    with torch.no_grad():
        return explain(network, images, list(range(count)), layer)


def torchcam(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(network, layer) as extractor:
        scores = network(images)
        maps = [extractor(c, scores, normalized=False, retain_graph=True)[0] for c in range(count)]
    return torch.stack(maps, 1)


def captum(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    from captum.attr import LayerGradCam

    method = LayerGradCam(network, network.get_submodule(layer))
    return torch.cat([method.attribute(images, c, relu_attributions=True) for c in range(count)], 1).detach()


def pytorch_grad_cam(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(network, [network.get_submodule(layer)]) as extractor:
        maps = [extractor(images, [ClassifierOutputTarget(c)] * len(images)) for c in range(count)]
    return torch.stack([torch.from_numpy(m) for m in maps], 1)


MAKERS: dict[str, Make] = {
    "forward pass": forward,
    "attnbridge": ours,
    "torch-cam": torchcam,
    "captum": captum,
    "pytorch-grad-cam": pytorch_grad_cam,
}
MODULES = {"torch-cam": "torchcam", "captum": "captum", "pytorch-grad-cam": "pytorch_grad_cam"}


def available(peers: list[str]) -> dict[str, Make]:
    """Ours, and those of the peers whose library is installed."""
    wanted = [name for name in peers if find_spec(MODULES[name])]
    return {name: make for name, make in MAKERS.items() if name not in MODULES or name in wanted}


def build(model: str, device: str, images: int, size: int) -> tuple[nn.Module, Tensor]:
    """A network in eval mode and images, both seeded."""
    torch.manual_seed(0)
    return timm.create_model(model).eval().to(device), torch.rand(images, 3, size, size, device=device)


def seconds(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call, with what the GPU has still to do."""
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def take_turns(calls: dict[str, Callable[[], Any]], turns: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in each turn, after one turn to warm up."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            one = seconds(call, device)
            if turn:
                spent[name].append(one)
    return spent


def peak(name: str, arguments: argparse.Namespace, model: str, count: int) -> float:
    """MB at a method's worst moment above that of a plain forward pass, in a process of its own."""
    options = {"model": model, "count": count, "name": name, "device": arguments.device}
    options |= {"images": arguments.images, "size": arguments.size}
    command = [sys.executable, "-m", "benchmarks.maps", "--peak", json.dumps(options)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def measure_peak(options: dict[str, Any]) -> float:
    """What :func:`peak` asks its process for."""
    network, images = build(options["model"], options["device"], options["images"], options["size"])
    layer, cuda = LAYERS[options["model"]], options["device"] == "cuda"

    def worst(make: Make) -> float:
        if not cuda:
            return peak_memory(lambda: make(network, images, layer, options["count"]))
        torch.cuda.reset_peak_memory_stats()
        make(network, images, layer, options["count"])
        return torch.cuda.max_memory_allocated() / 2**20

    forward(network, images, layer, 1)
    plain = worst(forward)
    return worst(MAKERS[options["name"]]) - plain


def check(model: str, network: nn.Module, images: Tensor, peers: list[str]) -> None:
    """All give the same maps, to a scale of each map's own, before any is timed."""
    reference = ours(network, images, LAYERS[model], 3)
    for name, make in available(peers).items():
        if name in ("torch-cam", "captum"):
            maps = make(network, images, LAYERS[model], 3)
            torch.testing.assert_close(maps / reference.max(), reference / reference.max(), rtol=0, atol=1e-5)


def show_maps(arguments: argparse.Namespace) -> None:
    """Time and memory of the maps."""
    print("| network | classes | | median, ms | forward passes | MB above a forward pass |\n|---|---|---|---|---|---|")
    for model in arguments.models:
        network, images = build(model, arguments.device, arguments.images, arguments.size)
        check(model, network, images, arguments.peers)
        for count in arguments.classes:
            calls = {
                n: partial(make, network, images, LAYERS[model], count)
                for n, make in available(arguments.peers).items()
            }
            spent = take_turns(calls, arguments.turns, arguments.device)
            for name, values in spent.items():
                ratio = statistics.median(a / b for a, b in zip(values, spent["forward pass"], strict=True))
                memory = peak(name, arguments, model, count)
                median = 1000 * statistics.median(values)
                print(f"| {model} | {count} | {name} | {median:.0f} | {ratio:.2f} | {memory:.0f} |", flush=True)


def training_step(network: nn.Module, images: Tensor, layer: str, guided: bool) -> None:
    """A classification step, or the same with a loss on the map of the true class."""
    labels = torch.arange(len(images), device=images.device)
    if guided:
        seen = observe(network, images, layer)
        maps = grad_cam(seen.features[layer], seen.logits, labels)
        loss = F.cross_entropy(seen.logits, labels) + maps.square().mean()
    else:
        loss = F.cross_entropy(network(images), labels)
    network.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]


def show_training(arguments: argparse.Namespace) -> None:
    """Cost of the differentiable form inside a training step."""
    print("\n| network | step | median, ms | ratio |\n|---|---|---|---|")
    for model in arguments.models:
        network, images = build(model, arguments.device, arguments.images, arguments.size)
        network.train()
        calls = {
            "classification": partial(training_step, network, images, LAYERS[model], False),
            "+ a loss on Grad-CAM": partial(training_step, network, images, LAYERS[model], True),
        }
        spent = take_turns(calls, arguments.turns, arguments.device)
        for name, values in spent.items():
            ratio = statistics.median(a / b for a, b in zip(values, spent["classification"], strict=True))
            print(f"| {model} | {name} | {1000 * statistics.median(values):.0f} | {ratio:.2f} |", flush=True)


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--classes", nargs="+", type=int, default=[1, 3, 20])
    parser.add_argument("--peers", nargs="*", choices=list(MODULES), default=list(MODULES))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(measure_peak(json.loads(arguments.peak)))
        return
    print(f"{arguments.images} images of {arguments.size} pixels, {arguments.turns} turns, {hardware()}\n")
    show_maps(arguments)
    show_training(arguments)


if __name__ == "__main__":
    main()
