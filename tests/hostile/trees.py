"""Small trees of data that the hostile cases spoil."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnbridge.data.palette import palette_png

SIDE = 16


def noise(path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def mask_of(*classes: int) -> np.ndarray[Any, Any]:
    """A block of each class."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for number, value in enumerate(classes):
        mask[4 * number : 4 * number + 4, 4:12] = value
    return mask


def pair(root: Path) -> Path:
    """A source and a target of two classes, ``train``, ``val`` and ``test`` of four images each."""
    return Path(shutil.copytree(Path(_pair().name) / "x", root))


@cache
def _pair() -> tempfile.TemporaryDirectory[str]:
    """It is drawn once."""
    place = tempfile.TemporaryDirectory()
    _draw(Path(place.name) / "x")
    return place


def _draw(root: Path) -> None:
    seed = 0
    for name in ("cat", "dog"):
        for i in range(3):
            seed += 1
            noise(root / f"source/{name}/{i}.jpg", seed)
            bright = np.zeros((SIDE, SIDE), np.uint8)
            bright[4:12, 4:12] = 255
            (root / "saliency" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(bright).save(root / f"saliency/{name}/{i}.png")
    for split in ("train", "val", "test"):
        folder = root / "target" / split
        rows = ["id,cat,dog"]
        for i, labels in enumerate(((1, 0), (0, 1), (1, 1), (1, 0))):
            seed += 1
            noise(folder / f"images/00{i}.jpg", seed)
            rows.append(f"00{i},{labels[0]},{labels[1]}")
            (folder / "masks").mkdir(exist_ok=True)
            shown = [c + 1 for c, there in enumerate(labels) if there]
            palette_png(mask_of(*shown)).save(folder / f"masks/00{i}.png")
        (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def kit(root: Path) -> Path:
    """VOC's layout, with annotations."""
    for i, name in enumerate(("cat", "dog")):
        noise(root / f"JPEGImages/a{i}.jpg", 50 + i)
        (root / "Annotations").mkdir(exist_ok=True)
        corners = "".join(f"<{c}>{v}</{c}>" for c, v in (("xmin", 2), ("ymin", 2), ("xmax", 9), ("ymax", 9)))
        (root / f"Annotations/a{i}.xml").write_text(
            f"<annotation><object><name>{name}</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("a0\na1\n")
    return root


def coco(root: Path, **changes: Any) -> Path:
    """COCO's format with two images and an object in each; ``changes`` replace parts of the file."""
    for i in range(2):
        noise(root / f"mine/{i}.jpg", 70 + i)
    square = [2, 2, 10, 2, 10, 10, 2, 10]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE} for i in range(2)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [{"id": i, "image_id": i, "category_id": (7, 9)[i], "segmentation": [square]} for i in range(2)],
        **changes,
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_mine.json").write_text(json.dumps(content))
    return root
