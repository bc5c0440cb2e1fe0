"""Images of coloured squares before coloured backgrounds, and networks of which it is known what they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attnbridge.evaluation.audit.measure import Example
from attnbridge.models.classifiers import Classifier

SIDE = 32
OBJECTS = {"boat": (255, 0, 0), "train": (0, 255, 0)}
BACKGROUNDS = {"boat": (0, 0, 255), "train": (255, 255, 0)}
CLASSES = ("boat", "train", "nothing")


class ColourNet(nn.Module):
    """Mean of four detectors, red and green (the objects) and blue and yellow (their backgrounds), and a linear head.

    Without any of its colours it says "nothing".

    Args:
        thing: weight of an object's colour.
        place: weight of a background's colour.
    """

    def __init__(self, thing: float, place: float) -> None:
        super().__init__()
        self.detect, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
        with torch.no_grad():
            self.detect.weight.copy_(colours[:, :, None, None])
            self.detect.bias.copy_(torch.tensor([0.0, 0, 0, -1]))
            self.head.weight.copy_(torch.tensor([[thing, 0, place, 0], [0, thing, 0, place], [0, 0, 0, 0]]))
            self.head.bias.copy_(torch.tensor([0.0, 0.0, 0.5]))

    def forward(self, images: Tensor) -> Tensor:
        features = self.act(self.detect(images))
        logits: Tensor = self.head(self.flat(self.pool(features)))
        return logits


def classifier(thing: float, place: float) -> Classifier:
    """One that reads the objects, the backgrounds, or both."""
    return Classifier("colours", ColourNet(thing, place).eval(), CLASSES, SIDE, (0.0,) * 3, (1.0,) * 3, layer="act")


def draw(
    name: str, place: tuple[int, int], side: int = 10, background: str | None = None
) -> tuple[Image.Image, Tensor]:
    """An image with a square at a place (top, left), and the square's mask."""
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[:] = BACKGROUNDS[background or name]
    mask = torch.zeros(SIDE, SIDE)
    rows, columns = slice(place[0], place[0] + side), slice(place[1], place[1] + side)
    pixels[rows, columns], mask[rows, columns] = OBJECTS[name], 1
    return Image.fromarray(pixels), mask


def example(identity: str, name: str, place: tuple[int, int], side: int = 10, drawn: bool = True) -> Example:
    """The same as one to measure."""
    image, mask = draw(name, place, side)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    everywhere = torch.ones(SIDE, SIDE, dtype=torch.bool)
    return Example(identity, tensor, everywhere, (CLASSES.index(name),), lambda _: mask, drawn)


def write_scenes(root: Path, count: int, names: Sequence[str] = ("boat", "train")) -> tuple[Path, Path]:
    """Class folders of so many images of each class, and a folder of their masks, 0 and 255."""
    rng = np.random.default_rng(0)
    for name in names:
        for folder in (root / "images" / name, root / "masks" / name):
            folder.mkdir(parents=True)
        for number in range(count):
            top, left = (int(each) for each in rng.integers(2, SIDE - 14, 2))
            image, mask = draw(name, (top, left), int(rng.integers(6, 12)))
            image.save(root / "images" / name / f"{number:02}.png")
            Image.fromarray((mask.numpy() * 255).astype(np.uint8)).save(root / "masks" / name / f"{number:02}.png")
    return root / "images", root / "masks"
