"""A scene composer: from cut-outs and backgrounds to a source and a target domain with exact masks.

From any folder of cut-outs with alpha (``CLASS/*.png``) and any folder of backgrounds it writes

* ``source/{train,val}/CLASS/*.jpg``: one object an image, with its alpha in ``saliency/`` as the map;
* ``target/{train,val,test}/``: ``images/`` of several objects, ``labels.csv``, exact ``masks/``.

Nothing is shared between the splits: the cut-outs of the source, of target training, of validation and of
the test are disjoint, and so are the backgrounds of training, validation and test. In target training an
object stands before the typical background of its class, as boats lie on water; in validation and test it
does not. An image of several objects has a band of background for each.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from attnbridge.data.folders import class_names, list_images
from attnbridge.data.images import load_image
from attnbridge.data.palette import palette_png
from attnbridge.errors import AttnBridgeError

VERSION = 2  # of the images: raise it when the same arguments give other images
Progress = Callable[[Iterable[int], str], Iterable[int]]


@dataclass(frozen=True)
class SceneSpec:
    """What to compose.

    Attributes:
        size: side of the square images, pixels.
        source: images in the source's training split.
        target: images in the target's training split.
        val: target images with masks, to choose thresholds on.
        test: target images with masks, to report on.
        objects: fewest and most objects in a target image.
        context_bias: probability that an object in target training stands before the typical background of
            its class; otherwise, and in validation and test, before a random one.
        swapped: in validation and test an object stands before the typical background of another class, which tells
            what hangs on the background; else before one that training does not have.
        source_photos: share of the source images that lie on a photographed background; the others
            lie on a plain colour.
        background_crop: smallest and largest side of the square cut from a background, as a share of the
            background's shorter side.
        source_scale: shortest and longest object side in the source, as a share of the image's side.
        target_scale: the same in the target.
        seed: of everything drawn.
    """

    size: int = 128
    source: int = 800
    target: int = 1200
    val: int = 200
    test: int = 400
    objects: tuple[int, int] = (1, 3)
    context_bias: float = 0.9
    swapped: bool = False
    source_photos: float = 0.5
    background_crop: tuple[float, float] = (0.5, 1.0)
    source_scale: tuple[float, float] = (0.5, 0.9)
    target_scale: tuple[float, float] = (0.3, 0.65)
    seed: int = 0


def compose(
    cutouts: Path,
    backgrounds: Path,
    out: Path,
    spec: SceneSpec | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the two domains to ``out``, or leave it alone if it holds just these already.

    Args:
        cutouts: ``CLASS/*.png`` with an alpha channel; at least 4 of each class.
        backgrounds: images; at least 3.
        out: folder to write; appears only when it is complete.
        spec: sizes, counts and the seed.
        progress: wraps an iterable to show how far it is.

    Returns:
        ``out``.

    Raises:
        AttnBridgeError: for too few cut-outs or backgrounds, or an ``out`` with something else in it.
    """
    spec = spec or SceneSpec()
    composer = Composer(cutouts, backgrounds, spec)
    manifest = composer.manifest()
    record = out / "scenes.json"
    if record.is_file() and json.loads(record.read_text()) == manifest:
        return out
    if out.exists() and not record.is_file():
        raise AttnBridgeError(f"{out}: exists and was not made by the scene composer; name another folder")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    composer.write(partial, progress or (lambda items, _: items))
    (partial / "scenes.json").write_text(json.dumps(manifest, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


class Composer:
    """Splits cut-outs and backgrounds and draws scenes from them. See :func:`compose`."""

    def __init__(self, cutouts: Path, backgrounds: Path, spec: SceneSpec) -> None:
        self.spec = spec
        self.classes = class_names(cutouts)
        rng = np.random.default_rng([spec.seed, 0])
        self.cutouts = {name: _split_cutouts(cutouts / name, rng) for name in self.classes}
        self.places = _split_places(backgrounds, rng)
        self.cache: dict[Path, Image.Image] = {}

    def manifest(self) -> dict[str, Any]:
        """Everything that fixes the images, as JSON."""
        names = {c: {s: [p.name for p in ps] for s, ps in split.items()} for c, split in self.cutouts.items()}
        places = {s: [p.name for p in ps] for s, ps in self.places.items()}
        spec = json.loads(json.dumps(asdict(self.spec)))
        typical = {c: self.typical(i).name for i, c in enumerate(self.classes)}
        return {"version": VERSION, "spec": spec, "cutouts": names, "places": places, "typical": typical}

    def typical(self, class_index: int) -> Path:
        """The background that class ``class_index`` comes with in target training."""
        return self.places["train"][class_index % len(self.places["train"])]

    def write(self, out: Path, progress: Progress) -> None:
        """Write all splits below ``out``."""
        spec = self.spec
        for number, (split, count) in enumerate([("train", spec.source), ("val", max(1, spec.source // 10))]):
            rng = np.random.default_rng([spec.seed, 1, number])
            for i in progress(range(count), f"source/{split}"):
                self._write_source(out, split, i, rng)
        for number, split in enumerate(["train", "val", "test"]):
            rng = np.random.default_rng([spec.seed, 2, number])
            count = {"train": spec.target, "val": spec.val, "test": spec.test}[split]
            folder = out / "target" / split
            (folder / "images").mkdir(parents=True)
            (folder / "masks").mkdir()
            with (folder / "labels.csv").open("w", newline="") as handle:
                rows = csv.writer(handle)
                rows.writerow(["id", *self.classes])
                for i in progress(range(count), f"target/{split}"):
                    image, mask = self.target_scene(split, rng)
                    image.save(folder / "images" / f"{i:05d}.jpg", quality=92)
                    palette_png(mask).save(folder / "masks" / f"{i:05d}.png")
                    present = set(np.unique(mask)) - {0}
                    rows.writerow([f"{i:05d}", *(int(c + 1 in present) for c in range(len(self.classes)))])

    def _write_source(self, out: Path, split: str, i: int, rng: np.random.Generator) -> None:
        label = i % len(self.classes)
        image, saliency = self.source_scene(label, split, rng)
        for folder in (f"source/{split}", f"saliency/{split}"):
            (out / folder / self.classes[label]).mkdir(parents=True, exist_ok=True)
        image.save(out / f"source/{split}" / self.classes[label] / f"{i:05d}.jpg", quality=92)
        saliency.save(out / f"saliency/{split}" / self.classes[label] / f"{i:05d}.png")

    def source_scene(self, label: int, split: str, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
        """One object of class ``label`` and its alpha channel as the saliency map."""
        size = self.spec.size
        if rng.random() < self.spec.source_photos:
            canvas = self._background(_pick(self.places["val" if split == "val" else "train"], rng), rng)
        else:
            canvas = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(30, 256, 3)))
        cutout = self._cutout(label, "val" if split == "val" else "source", self.spec.source_scale, rng)
        saliency = Image.new("L", (size, size))
        position = _position(cutout, size, rng)
        canvas.paste(cutout, position, cutout)
        saliency.paste(cutout.getchannel("A"), position)
        return canvas, saliency

    def target_scene(self, split: str, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray[Any, Any]]:
        """Several objects and the exact mask (0 background, class index + 1)."""
        size, (fewest, most) = self.spec.size, self.spec.objects
        labels = [int(c) for c in rng.integers(len(self.classes), size=int(rng.integers(fewest, most + 1)))]
        canvas, bands = self._surroundings(labels, split, rng)
        mask = np.zeros((size, size), dtype=np.uint8)
        for label, band in zip(labels, bands, strict=True):
            cutout = self._cutout(label, {"train": "target"}.get(split, split), self.spec.target_scale, rng)
            position = self._free_position(cutout, band, mask, rng)
            layer = Image.new("L", (size, size))
            layer.paste(cutout.getchannel("A"), position)
            canvas.paste(cutout, position, cutout)
            mask[np.asarray(layer) >= 128] = label + 1
        return canvas, mask

    def _surroundings(
        self, labels: Sequence[int], split: str, rng: np.random.Generator
    ) -> tuple[Image.Image, list[tuple[int, int]]]:
        """A band of background for each object, side by side with soft seams, and where each band lies."""
        size = self.spec.size
        edges = [0, *np.rint(np.cumsum(rng.dirichlet([6.0] * len(labels))) * size).astype(int).tolist()]
        canvas = Image.new("RGB", (size, size))
        for label, left in zip(labels, edges, strict=False):
            place = self._place(label, split, rng)
            seam = Image.new("L", (size, size))
            seam.paste(255, (left, 0, size, size))
            seam = seam.filter(ImageFilter.GaussianBlur(size / 40)) if left else seam
            canvas.paste(self._background(place, rng), (0, 0), seam)
        return canvas, list(pairwise(edges))

    def _place(self, label: int, split: str, rng: np.random.Generator) -> Path:
        """The background of an object."""
        if split != "train" and self.spec.swapped:
            others = [place for c in range(len(self.classes)) if (place := self.typical(c)) != self.typical(label)]
            return _pick(others, rng)
        typical = split == "train" and rng.random() < self.spec.context_bias
        return self.typical(label) if typical else _pick(self.places[split], rng)

    def _free_position(
        self, cutout: Image.Image, band: tuple[int, int], mask: np.ndarray[Any, Any], rng: np.random.Generator
    ) -> tuple[int, int]:
        """Of eight random places centred in the object's band, the one that hides least of what is there."""
        w, h = cutout.size
        positions = []
        for _ in range(8):
            _, y = _position(cutout, self.spec.size, rng)
            x = int(rng.integers(band[0], max(band[0] + 1, band[1]))) - w // 2
            positions.append((min(max(x, min(0, self.spec.size - w)), max(0, self.spec.size - w)), y))
        hidden = [int((mask[max(0, y) : y + h, max(0, x) : x + w] > 0).sum()) for x, y in positions]
        return positions[int(np.argmin(hidden))]

    def _cutout(self, label: int, split: str, scale: tuple[float, float], rng: np.random.Generator) -> Image.Image:
        """A random cut-out of the class: turned a little, flipped, scaled, cropped to its alpha."""
        image = self._open(_pick(self.cutouts[self.classes[label]][split], rng), "RGBA")
        image = image.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC, expand=True)
        image = image.crop(image.getchannel("A").point(lambda a: 255 if a >= 128 else 0).getbbox())
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        factor = rng.uniform(*scale) * self.spec.size / max(image.size)
        return image.resize(
            (max(4, round(image.width * factor)), max(4, round(image.height * factor))), Image.Resampling.LANCZOS
        )

    def _background(self, path: Path, rng: np.random.Generator) -> Image.Image:
        """A random square of the background."""
        image = self._open(path, "RGB")
        side = int(min(image.size) * rng.uniform(*self.spec.background_crop))
        x, y = (int(rng.integers(0, s - side + 1)) for s in image.size)
        box = (x, y, x + side, y + side)
        return image.resize((self.spec.size, self.spec.size), Image.Resampling.BILINEAR, box=box)

    def _open(self, path: Path, mode: str) -> Image.Image:
        """Decode once, and keep it no larger than scenes need."""
        if path not in self.cache:
            image = load_image(path, mode)
            limit = self.spec.size * (2 if mode == "RGBA" else 4)
            image.thumbnail((limit, limit), Image.Resampling.LANCZOS)
            self.cache[path] = image
        return self.cache[path]


def _split_cutouts(folder: Path, rng: np.random.Generator) -> dict[str, list[Path]]:
    """A third for the test, a ninth for validation, of the rest two thirds for the source, as in the paper's data."""
    paths = list_images(folder)
    if len(paths) < 4:
        raise AttnBridgeError(f"{folder}: holds {len(paths)} cut-outs; at least 4 are needed, one per split")
    paths = [paths[i] for i in rng.permutation(len(paths))]
    test, val = max(1, len(paths) // 3), max(1, len(paths) // 9)
    rest = paths[test + val :]
    target = max(1, round(len(rest) / 3))
    return {
        "test": paths[:test],
        "val": paths[test : test + val],
        "source": rest[:-target],
        "target": rest[-target:],
    }


def _split_places(folder: Path, rng: np.random.Generator) -> dict[str, list[Path]]:
    """About a third of the backgrounds for the test, a seventh for validation, the rest for training."""
    paths = list_images(folder) if folder.is_dir() else []
    if len(paths) < 3:
        raise AttnBridgeError(f"{folder}: holds {len(paths)} backgrounds; at least 3 are needed, one per split")
    paths = [paths[i] for i in rng.permutation(len(paths))]
    test, val = max(1, len(paths) * 3 // 10), max(1, len(paths) // 7)
    return {"test": paths[:test], "val": paths[test : test + val], "train": paths[test + val :]}


def _pick(items: Sequence[Path], rng: np.random.Generator) -> Path:
    return items[int(rng.integers(len(items)))]


def _position(cutout: Image.Image, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random place for the cut-out, wholly inside the image where it fits."""
    x, y = (int(rng.integers(min(0, size - s), max(0, size - s) + 1)) for s in cutout.size)
    return x, y
