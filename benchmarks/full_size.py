"""The papers' experiments at full size, on made images: ``python -m benchmarks.full_size tables`` and ``... batches``.

``tables`` runs each table's command through all its stages, two steps each, on 20 images in VOC's true layout, with the
true networks or small ones. ``batches`` takes single steps with the true networks, images and batches, and tells time
and memory and, from them, the time of the whole schedule on this machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from PIL import Image

from attnbridge.cli import main as attnbridge
from attnbridge.data.palette import palette_png
from attnbridge.data.voc import VOC_CLASSES
from attnbridge.evaluation.record import hardware
from attnbridge.experiments.building import build
from attnbridge.experiments.config import Experiment, load_experiment
from benchmarks.memory import peak_memory

IMAGES = 20
SMALL = ("--model.backbone", "vgg11", "--model.weights", "none", "--data.image_size", "64")
ROWS: dict[str, tuple[str, ...]] = {
    "table1": ("voc/fine_tuned", "voc/attnbn"),
    "table1_paper": ("voc/paper/attnbn",),
    "table2": ("voc/attnbn_10",),
    "table3": ("voc/attnbn",),
    "table3_classifier": ("voc/attnbn",),
    "table6": ("voc/adapt_ac_adv",),
    "gain": (),
    "table7": ("domains/full_ac_adv",),
    "finetune_full": ("finetune/full/afa",),
}
"""Of each table the rows that differ from the others by more than numbers."""
BATCHES = ("voc/attnbn", "voc/gain", "voc/dsrg", "voc/sec", "voc/retrain", "domains/full_ac_adv")


def make_voc(root: Path, count: int = IMAGES, size: tuple[int, int] = (90, 70)) -> Path:
    """``root/VOC2012`` in the development kit's layout and ``root/source/CLASS``, each image a coloured disc for each
    class, and ``root/domains/DOMAIN/CLASS``; returns ``root``."""
    rng, kit = np.random.default_rng(0), root / "VOC2012"
    names = [f"2012_{number:06d}" for number in range(count)]
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "Annotations"):
        (kit / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        classes = sorted({number % 20, (7 * number + 3) % 20})
        image, mask = _scene(rng, classes, size)
        image.save(kit / "JPEGImages" / f"{name}.jpg", quality=95)
        for folder in ("SegmentationClass", "SegmentationClassAug"):
            palette_png(mask).save(kit / folder / f"{name}.png")
        objects = "".join(f"<object><name>{VOC_CLASSES[c]}</name><difficult>0</difficult></object>" for c in classes)
        (kit / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    lists = {"train": names[:8], "val": names[-8:], "trainaug": names, "test": names[-4:]}
    for part in ("Segmentation", "Main"):
        (kit / "ImageSets" / part).mkdir(parents=True)
        for known, listed in lists.items():
            (kit / "ImageSets" / part / f"{known}.txt").write_text("".join(f"{name}\n" for name in listed))
    for number, name in enumerate(VOC_CLASSES):
        _folder(rng, root / "source" / name, number, size, 2)
    for part in ("caltech", "voc2007"):
        for name in ("bird", "car", "chair", "dog", "person"):
            _folder(rng, root / "domains" / part / name, VOC_CLASSES.index(name), size, 8)
    for part in ("train", "test"):
        for name in ("bird", "car"):
            _folder(rng, root / "classes" / part / name, VOC_CLASSES.index(name), size, 8)
    return root


def _scene(rng: Any, classes: Sequence[int], size: tuple[int, int]) -> tuple[Image.Image, Any]:
    """An image of one disc for each class on noise, and its mask."""
    y, x = np.mgrid[: size[1], : size[0]]
    pixels, mask = rng.integers(0, 60, (size[1], size[0], 3)), np.zeros((size[1], size[0]), np.uint8)
    for place, label in enumerate(classes):
        disc = (x - size[0] * (place + 1) / (len(classes) + 1)) ** 2 + (y - size[1] / 2) ** 2 < (min(size) / 4) ** 2
        pixels[disc] = (200, 255 * (label % 5) // 4, 255 * (label // 5) // 3)
        mask[disc] = label + 1
    return Image.fromarray(pixels.astype(np.uint8)), mask


def _folder(rng: Any, folder: Path, label: int, size: tuple[int, int], count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        _scene(rng, [label], size)[0].save(folder / f"{number}.jpg", quality=95)


def command(table: str, root: Path, out: Path, small: bool) -> list[str]:
    """The table's command on made images: two steps a stage, one seed."""
    words = ["benchmark", table, "--seeds", "0", "--out", str(out), "--trainer.max_steps", "2", "--data.workers", "0"]
    words += ["--data.batch_size", "2", *(SMALL if small else ())]
    rows = ROWS[table]
    if table == "finetune_full":
        words += ["--data", str(root / "classes"), "--model.weights", "none", "--init_overrides.trainer.max_steps", "2"]
        words += ["--data.val_share", "0.25"]
    elif table == "table7":
        words += ["--data", str(root / "domains"), "--saliency", "centre"]
    else:
        words += ["--data", str(root), "--saliency", "centre"]
    if table == "gain":  # there are no 200 masks
        few = root / "gain_few.yaml"
        few.write_text("base: voc/gain_200\ndata: {guided_count: 4, guided_batch: 2}\n")
        rows = (str(few),)
    return [*words, "--rows", *rows]


def run_tables(names: Sequence[str], small: bool) -> Iterator[tuple[str, float]]:
    """Run each table's command; yields its name and its seconds.

    Raises:
        RuntimeError: for one that did not run to its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = make_voc(Path(folder) / "data")
        for name in names:
            begin = time.perf_counter()
            status = attnbridge(command(name, root, Path(folder) / name, small))
            if status:
                raise RuntimeError(f"{name}: ended with the status {status}")
            yield name, time.perf_counter() - begin


class _Steps(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.ends = self.ends or [time.perf_counter()]

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def true_batch(name: str, root: Path) -> tuple[float, float, int]:
    """Seconds of a step of a configuration with its true batch, MB at its worst, and the steps of its schedule."""
    data: dict[str, Any] = {"workers": 0}
    if name.startswith("domains/"):
        data |= {"data": str(root / "domains"), "sources": ["caltech"], "target": "voc2007", "saliency": None}
        model: dict[str, Any] = {"attention_weight": 0}
    else:
        data |= {"target": str(root / "VOC2012"), "source": str(root / "source"), "saliency": "centre"}
        model = {}
    if load_experiment(name).method == "segmentation":
        data |= {"cues": str(root / "VOC2012" / "SegmentationClass"), "saliency": None}
    whole = load_experiment(name)
    trainer = {"max_steps": 2, "max_epochs": -1, "check_val_every_n_epoch": 1000, "num_sanity_val_steps": 0}
    experiment = whole.with_options(data=data, model={**model, "weights": "none"}, trainer=trainer)
    method, module, loop = build(experiment)
    steps = _Steps()
    loop.callbacks.append(steps)  # type: ignore[attr-defined]
    memory = peak_memory(lambda: loop.fit(method, module))
    return steps.ends[-1] - steps.ends[-2], memory, schedule(whole)


def schedule(experiment: Experiment) -> int:
    """Steps of a configuration on the paper's numbers of images."""
    steps = experiment.trainer.get("max_steps") or -1
    if steps > 0:
        return int(steps)
    images = {"attnbn": 20_000, "gain": 10_582}.get(experiment.method, 10_000)
    return int(experiment.trainer["max_epochs"] * (images // experiment.option("data.batch_size")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("tables", "batches"))
    parser.add_argument("names", nargs="*", help="of tables or configurations; default: all")
    parser.add_argument("--small", action="store_true", help="small networks in the place of the true ones")
    asked = parser.parse_args(arguments)
    print(f"{hardware()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if asked.what == "tables":
        for name, seconds in run_tables(asked.names or list(ROWS), asked.small):
            print(f"{name}: {seconds:.0f} s", flush=True)
        return
    print("| configuration | batch | step, s | peak, MB | steps | whole, hours |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = make_voc(Path(folder) / "data", size=(500, 375))
        for name in asked.names or BATCHES:
            seconds, memory, steps = true_batch(name, root)
            batch = load_experiment(name).option("data.batch_size")
            hours = seconds * steps / 3600
            print(f"| {name} | {batch} | {seconds:.1f} | {memory:.0f} | {steps:,} | {hours:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
