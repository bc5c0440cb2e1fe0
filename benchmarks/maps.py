"""Time and memory of Grad-CAM beside captum, torch-cam and pytorch-grad-cam: ``python -m benchmarks.maps``.

All run on the same images and layer and give the maps of the same classes of every image, which is checked once; a
plain forward pass is the floor. They take turns, so that noise of the machine hits all alike; a ratio is the median of
the ratios within each turn, with the least and the most. On a CPU the time is that of this process, which other
programs change little. What took more than :data:`SLOW` forward passes is measured in one turn, and not with more
classes.

Where a layer gives tokens or has its channels last, pytorch-grad-cam has its ``reshape_transform``. captum and
torch-cam know features ``(B, C, H, W)`` alone: they look at a copy of the network in which the layer's output passes a
module in that shape. Peers that are not installed are left out (``pip install '.[bench]'``).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbridge import explain, grad_cam, observe
from attnbridge.attention.layers import prefix_tokens, to_maps
from attnbridge.evaluation.record import hardware
from benchmarks.memory import peak_memory

LAYERS = {
    "resnet50": "layer4",
    "vgg16": "features.29",
    "vit_base_patch16_224": "blocks.11.norm1",
    "swin_tiny_patch4_window7_224": "norm",
    "convnext_tiny": "stages",
    "resnet18": "layer4",
    "vit_tiny_patch16_224": "blocks.11.norm1",
}
FULL, QUICK = list(LAYERS)[:5], list(LAYERS)[5:]
SLOW = 3.0
Make = Callable[[nn.Module, Tensor, str, int], Tensor]


def forward(network: nn.Module, images: Tensor, _layer: str, _count: int) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(images)
        return logits


def ours(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    return explain(network, images, list(range(count)), layer, differentiable=False)


def differentiable(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    return explain(network, images, list(range(count)), layer)


def reshaped(features: Tensor, prefix: int) -> Tensor:
    """What a layer gives as ``(B, C, H, W)``."""
    return to_maps(features, prefix, channels_last=features.ndim == 4)


class Grid(nn.Module):
    """A layer whose output passes ``grid`` as ``(B, C, H, W)``."""

    def __init__(self, layer: nn.Module, prefix: int) -> None:
        super().__init__()
        self.layer, self.prefix, self.grid = layer, prefix, nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        features = self.layer(values)
        maps = self.grid(reshaped(features, self.prefix))
        if features.ndim == 4:
            return maps.permute(0, 2, 3, 1)
        return torch.cat([features[:, : self.prefix], maps.flatten(2).transpose(1, 2)], 1)


@lru_cache(maxsize=1)
def with_grid(network: nn.Module, layer: str) -> tuple[nn.Module, str]:
    """A network and the name of a layer in it that gives ``(B, C, H, W)``."""
    if not type(network).__name__.lower().startswith(("vision", "swin")):
        return network, layer
    copied = copy.deepcopy(network)
    copied.set_submodule(layer, Grid(copied.get_submodule(layer), prefix_tokens(network)))
    return copied, f"{layer}.grid"


def torchcam(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    from torchcam.methods import GradCAM

    network, layer = with_grid(network, layer)
    with GradCAM(network, layer) as extractor:
        scores = network(images)
        maps = [extractor(c, scores, normalized=False, retain_graph=True)[0] for c in range(count)]
    return torch.stack(maps, 1)


def captum(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    from captum.attr import LayerGradCam

    network, layer = with_grid(network, layer)
    method = LayerGradCam(network, network.get_submodule(layer))
    return torch.cat([method.attribute(images, c, relu_attributions=True) for c in range(count)], 1).detach()


def pytorch_grad_cam(network: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    tokens = with_grid(network, layer)[0] is not network
    how = {"reshape_transform": partial(reshaped, prefix=prefix_tokens(network))} if tokens else {}
    with GradCAM(network, [network.get_submodule(layer)], **how) as extractor:
        maps = [extractor(images, [ClassifierOutputTarget(c)] * len(images)) for c in range(count)]
    return torch.stack([torch.from_numpy(m) for m in maps], 1)


MAKERS: dict[str, Make] = {
    "forward pass": forward,
    "attnbridge": ours,
    "attnbridge, differentiable": differentiable,
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
    sized = {"img_size": size} if model.startswith(("vit", "swin")) else {}
    return timm.create_model(model, **sized).eval().to(device), torch.rand(images, 3, size, size, device=device)


def seconds(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call: of the process, or, on a GPU, until that has done what it has to."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def take_turns(calls: dict[str, Callable[[], Any]], turns: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in each turn; of a slow one in the first."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            if not is_slow(spent, name):
                spent[name].append(seconds(call, device))
    return spent


def is_slow(spent: dict[str, list[float]], name: str) -> bool:
    """Whether a call took so many forward passes that it need not be measured again."""
    return bool(spent[name]) and spent[name][0] > SLOW * spent["forward pass"][0] and not name.startswith("attnbridge")


def peak(name: str, arguments: argparse.Namespace, model: str, images: int, count: int) -> float:
    """MB at a method's worst moment above that of a plain forward pass, in a process of its own."""
    options = {"model": model, "count": count, "name": name, "device": arguments.device}
    options |= {"images": images, "size": arguments.size}
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
    """All give the same maps, before any is timed; pytorch-grad-cam scales them and brings them to the images' size."""
    images, layer = images[:2], LAYERS[model]
    reference = ours(network, images, layer, 2)
    assert reference.amax() > 0
    for name, make in available(peers).items():
        if name == "forward pass":
            continue
        maps, expected = make(network, images, layer, 2).detach(), reference
        if name == "pytorch-grad-cam":
            from pytorch_grad_cam.utils.image import scale_cam_image as scaled

            shape, there = images.shape[:1:-1], reference.amax((2, 3)) > 0
            expected = torch.stack([torch.from_numpy(scaled(scaled(m.cpu().numpy(), shape))) for m in reference])
            maps, expected = maps[there], expected[there]
        scale = expected.max()
        torch.testing.assert_close(maps.to(expected) / scale, expected / scale, rtol=0, atol=1e-4)


def show_maps(arguments: argparse.Namespace) -> None:
    """Time of the maps, and memory if that is asked for."""
    memory = " MB above a forward pass |" if arguments.memory else ""
    print(f"| network | images | classes | | ms | forward passes | attnbridge beside it |{memory}")
    print(f"|---|---|---|---|---|---|---|{'---|' if memory else ''}")
    for model in arguments.models:
        for batch in arguments.images:
            network, images = build(model, arguments.device, batch, arguments.size)
            calls = available(arguments.peers)
            check(model, network, images, arguments.peers)
            for count in sorted(arguments.classes):
                bound = {n: partial(make, network, images, LAYERS[model], count) for n, make in calls.items()}
                spent = take_turns(bound, arguments.turns, arguments.device)
                for name, values in spent.items():
                    words = f"{1000 * statistics.median(values):.0f} | {ratios(values, spent['forward pass'])}"
                    words += (
                        f" | {'' if name.startswith(('forward', 'attn')) else ratios(spent['attnbridge'], values)} |"
                    )
                    words += f" {peak(name, arguments, model, batch, count):.0f} |" if memory else ""
                    print(f"| {model} | {batch} | {count} | {name} | {words}", flush=True)
                calls = {name: make for name, make in calls.items() if not is_slow(spent, name)}


def ratios(values: list[float], others: list[float]) -> str:
    """The median of the ratios within each turn, and the least and the most; one that ran in one turn has one."""
    found = sorted(a / b for a, b in zip(values, others, strict=False))
    spread = f" ({found[0]:.2f} to {found[-1]:.2f})" if len(found) > 1 else ""
    return f"{statistics.median(found):.2f}{spread}"


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
        network, images = build(model, arguments.device, max(arguments.images), arguments.size)
        network.train()
        calls = {
            "classification": partial(training_step, network, images, LAYERS[model], False),
            "+ a loss on Grad-CAM": partial(training_step, network, images, LAYERS[model], True),
        }
        spent = take_turns(calls, arguments.turns, arguments.device)
        for name, values in spent.items():
            ratio = statistics.median(a / b for a, b in zip(values, spent["classification"], strict=True))
            print(f"| {model} | {name} | {1000 * statistics.median(values):.0f} | {ratio:.2f} |", flush=True)


def main(words: list[str] | None = None) -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(LAYERS), default=FULL)
    parser.add_argument("--classes", nargs="+", type=int, default=[1, 3, 20])
    parser.add_argument("--peers", nargs="*", choices=list(MODULES), default=list(MODULES))
    parser.add_argument("--images", nargs="+", type=int, default=[8, 1], help="of a batch")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", action="store_true", help="peaks, each in a process of its own")
    parser.add_argument("--training", action="store_true", help="the differentiable form inside a training step")
    parser.add_argument("--quick", action="store_true", help="small networks and images, in seconds")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.peak:
        print(measure_peak(json.loads(arguments.peak)))
        return
    if arguments.quick:
        arguments.models, arguments.classes, arguments.images = QUICK, [1, 3], [2]
        arguments.size, arguments.turns = 64, 1
    print(f"{arguments.size} pixels, {arguments.turns} turns, {hardware()}\n")
    show_maps(arguments)
    if arguments.training:
        show_training(arguments)


if __name__ == "__main__":
    main()
