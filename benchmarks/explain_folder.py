"""CPU time of `attnbridge explain` of a folder beside a plain loop: ``python -m benchmarks.explain_folder``.

The plain loop decodes each image, runs the network once, and writes an overlay, and nothing else: no map of a class, no
arrays, manifest, scores or sheets, and no second call that goes on. It writes PNGs as Pillow does by default, and in a
row of its own with zlib's run-length strategy, as ``explain`` does. All take turns in one process; what is told is CPU
time, which other programs on the machine do not change much, and the ratios within each turn. The images are made:
JPEGs of 500 x 375 pixels with the spectrum of photographs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from attnbridge.data.folders import find_images
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import overlay
from attnbridge.evaluation.folders.explain import ExplainSettings, choose_classes, explain_images
from attnbridge.evaluation.record import hardware
from attnbridge.models.classifiers import Classifier, class_names, load_classifier

WIDTH, HEIGHT = 500, 375


def make_images(folder: Path, count: int) -> Path:
    """JPEGs whose amplitudes fall with the frequency, as those of photographs do."""
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)
    falling = 1 / np.maximum(np.hypot(rows, columns), 1 / WIDTH) ** 1.2
    for number in range(count):
        spectrum = falling[..., None] * np.fft.rfft2(rng.normal(size=(HEIGHT, WIDTH, 3)), axes=(0, 1))
        texture = np.fft.irfft2(spectrum, (HEIGHT, WIDTH), axes=(0, 1))
        pixels = 128 + 50 * (texture @ np.array([[1, 1, 1], [0.3, 0, -0.3], [0.1, -0.2, 0.1]])) / texture.std()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=90)
    return folder


def classifier(name: str, weights: str) -> Classifier:
    """The network; with ``none`` for its weights, and where ImageNet's cannot be had, with random ones."""
    if weights != "none":
        try:
            return load_classifier(name, weights, "cpu")
        except AttnBridgeError:
            if weights != "imagenet":
                raise
    torch.manual_seed(0)
    network: Any = timm.create_model(name).eval()
    size, mean, std = (network.pretrained_cfg[key] for key in ("input_size", "mean", "std"))
    return Classifier(name, network, class_names(network.num_classes), size[-1], tuple(mean), tuple(std))


def plain(model: Classifier, images: dict[str, Path], out: Path, batch: int, **png: Any) -> None:
    """What one would write with torchvision, timm and Pillow alone."""
    network: Any = model.network
    out.mkdir()
    items = list(images.items())
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        decoded = [Image.open(path).convert("RGB") for _, path in part]
        with torch.no_grad():
            features: Tensor = network.forward_features(model.normalise(_stacked(decoded, model)))
            network.forward_head(features).softmax(1)
            heat = features.relu().mean(1)
            heat /= heat.amax((1, 2), keepdim=True)
        for (name, _), image, one in zip(part, decoded, heat.numpy(), strict=True):
            Image.fromarray(overlay(np.asarray(image), one)).save(out / f"{name}.png", **png)


def _stacked(images: list[Image.Image], model: Classifier) -> Tensor:
    assert isinstance(model.size, int)
    side = [model.size, model.size]
    return torch.stack([resize(pil_to_tensor(image), side, antialias=True) for image in images]).float() / 255


def ours(model: Classifier, images: dict[str, Path], out: Path, batch: int) -> None:
    """What `attnbridge explain` does once the network is there."""
    choose, words = choose_classes(model, None)
    explain_images(model, images, out, choose, ExplainSettings(classes=words), batch)


def cpu_seconds(call: Callable[[], None]) -> float:
    """CPU time of this process, its threads and the system's work for it."""
    start = time.process_time()
    call()
    return time.process_time() - start


def ratio(values: list[float], others: list[float]) -> str:
    """The median of the ratios within each turn, and the least and the most."""
    ratios = sorted(a / b for a, b in zip(values, others, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet", help="imagenet, a state dict, or none")
    arguments = parser.parse_args(words)
    model = classifier(arguments.model, arguments.weights)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        images = find_images([str(make_images(folder / "images", arguments.images))], folder / "out")
        few = dict(list(images.items())[: arguments.batch])
        runs = {"plain loop": plain, "plain loop, PNGs as ours": partial(plain, compress_type=zlib.Z_RLE)}
        runs |= {"attnbridge explain": ours}
        spent: dict[str, list[float]] = {what: [] for what in runs}
        for turn in range(arguments.turns + 1):
            for what, run in runs.items():
                out = folder / f"{what} {turn}"
                seconds = cpu_seconds(lambda: run(model, images if turn else few, out, arguments.batch))  # noqa: B023
                if turn:  # the first warms up
                    spent[what].append(seconds)
    print(f"{arguments.images} images, {arguments.model}, {arguments.turns} turns, {hardware()}\n")
    print("| | CPU ms an image | beside the plain loop | beside it with PNGs as ours |\n|---|---|---|---|")
    for what, values in spent.items():
        beside = [ratio(values, spent[other]) for other in list(spent)[:2]]
        each = 1000 * statistics.median(values) / arguments.images
        print(f"| {what} | {each:.1f} | {' | '.join(beside)} |")


if __name__ == "__main__":
    main()
