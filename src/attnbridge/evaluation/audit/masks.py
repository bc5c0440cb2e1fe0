"""The objects of an audit's images: masks or boxes that a person drew, or saliency."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.data.files import given_path
from attnbridge.data.guidance import read_boxes
from attnbridge.data.images import image_size_of, load_image
from attnbridge.data.saliency import check_model, is_model, make_saliency, saliency_folder
from attnbridge.data.transforms import Shape, Size, padding, sides
from attnbridge.errors import AttnBridgeError, shown
from attnbridge.evaluation.audit.sources import Listed, ids_by_name

Find = Callable[[int], Tensor | None]
Box = tuple[int, int, int, int]
Masks = str | Path | Mapping[str, str | Path]
Boxes = str | Path | Mapping[str, Sequence[Sequence[int]]]
GREY_MASK = 128
"""Of an 8-bit grey mask, what its largest value reaches at least; a label mask of few classes does not."""


@dataclass(frozen=True)
class Objects:
    """Where the objects of images are.

    Attributes:
        words: what they are made of, to tell one audit from another.
        drawn: whether a person drew them.
        files: a mask or saliency map of each image, by its id.
        second: the map of a second saliency model.
        boxes: of each image by its id, with their classes; class -1 stands for any.
    """

    words: str
    drawn: bool
    files: Mapping[str, Path] = field(default_factory=dict)
    second: Mapping[str, Path] = field(default_factory=dict)
    boxes: Mapping[str, Sequence[tuple[int, Box]]] = field(default_factory=dict)

    def find(self, name: str, image: Path, size: Size, shape: Shape) -> Find:
        """From a class to the object's mask ``(H, W)`` in [0, 1], at the network's size.

        Raises:
            AttnBridgeError: if its file cannot be read, or is of another size than the image.
        """
        if name in self.boxes:
            width, height = image_size_of(image)
            return lambda c: _box_mask(self.boxes[name], c, (height, width), size, shape)
        if name not in self.files:
            return lambda _: None
        if self.drawn:
            _check_grey(self.files[name])
        values, labels = _read(self.files[name], image)
        if labels:
            return lambda c: at_size(values == c + 1, size, shape) if bool((values == c + 1).any()) else None
        grey = at_size(values.float() / 255, size, shape)
        return lambda _: grey

    def find_second(self, name: str, image: Path, size: Size, shape: Shape) -> Tensor | None:
        """The mask by the second saliency model."""
        if name not in self.second:
            return None
        return at_size(_read(self.second[name], image)[0].float() / 255, size, shape)


def at_size(mask: Tensor, size: Size, shape: Shape) -> Tensor:
    """A mask ``(h, w)``, bool or in [0, 1], brought to the network's size as its image is; beside the image 0.

    >>> at_size(torch.ones(2, 4), 4, "pad")
    tensor([[0., 0., 0., 0.],
            [1., 1., 1., 1.],
            [1., 1., 1., 1.],
            [0., 0., 0., 0.]])
    """
    height, width = sides(size)
    values = mask.float()
    if shape == "pad":
        wide, high = padding(mask.shape[0], mask.shape[1], width / height)
        values = F.pad(values, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    if values.shape == (height, width):
        return values
    return F.interpolate(values[None, None], (height, width), mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def _read(path: Path, image: Path) -> tuple[Tensor, bool]:
    """Values of a mask, and whether they are labels: those of a palette are."""
    mask, size = load_image(path, "P"), image_size_of(image)
    if mask.size != size:
        raise AttnBridgeError(
            f"{path}: is {mask.width}x{mask.height} pixels, but its image {image} is {size[0]}x{size[1]}; make them "
            "the same size"
        )
    if mask.mode not in ("P", "L", "1"):
        raise AttnBridgeError(f"{path}: is of mode {mask.mode}; expected labels with a palette (P), or 8-bit grey (L)")
    values = torch.from_numpy(np.array(mask if mask.mode != "1" else mask.convert("L")))
    return values, mask.mode == "P"


def _box_mask(
    boxes: Sequence[tuple[int, Box]], label: int, image: tuple[int, int], size: Size, shape: Shape
) -> Tensor | None:
    own = [box for each, box in boxes if each in (label, -1)]
    if not own:
        return None
    mask = torch.zeros(image)
    for left, top, right, bottom in own:
        mask[top:bottom, left:right] = 1
    return at_size(mask, size, shape)


def find_objects(
    listed: Listed,
    classes: tuple[str, ...],
    masks: Masks | None,
    boxes: Boxes | None,
    saliency: str | Path | Sequence[str | Path],
) -> Objects:
    """The objects, by masks if there are any, else by boxes, else by saliency, which is made or found in the cache.

    Args:
        listed: the images.
        classes: of the network.
        masks: a folder of PNGs named as the images, or PNGs by id; some images may have none. With a palette the values
            are labels: 1 is the first class, 255 background; grey is 255 inside the object.
        boxes: ``boxes.csv`` with the columns id, class, left, top, right, bottom; or boxes (left, top, right, bottom)
            by id; right and bottom are the first pixels outside.
        saliency: a model of :data:`attnbridge.data.saliency.MODELS`, a folder of maps, or two of these, whose
            agreement is measured.

    Raises:
        AttnBridgeError: if there is no object at all, a model is unknown, or masks and boxes are both given.
    """
    if masks is not None and boxes is not None:
        raise AttnBridgeError("masks and boxes both say where the objects are; give one of them")
    if masks is not None:
        found = _mask_files(listed, masks)
        _check_grey(next(iter(found.values())))
        return Objects(f"masks {_digest(found)}", True, found)
    if boxes is not None:
        return _boxed(listed, classes, boxes)
    models = [saliency] if isinstance(saliency, str | Path) else list(saliency)
    if not 1 <= len(models) <= 2:
        raise AttnBridgeError(f"saliency must be a model or a folder, or two of these, not {shown(saliency)}")
    maps = [_saliency_maps(listed, str(model)) for model in models]
    words = " and ".join(
        m if is_model(m) else f"maps {_digest(f)}" for m, f in zip(map(str, models), maps, strict=True)
    )
    return Objects(f"saliency by {words}", False, maps[0], maps[1] if len(maps) > 1 else {})


def _digest(files: Mapping[str, Path]) -> str:
    return Listed(dict(files), {}).digest()


def _mask_files(listed: Listed, masks: Masks) -> dict[str, Path]:
    if isinstance(masks, Mapping):
        ids = ids_by_name(listed.images)
        found = {ids[name][0]: Path(path) for name, path in masks.items() if len(ids.get(name, [])) == 1}
    else:
        found = _maps_in(given_path(masks, "masks"), listed, "masks")
    if not found:
        raise AttnBridgeError(
            f"masks: {shown(masks)} has none of the {len(listed.images)} images; expected PNGs of the images' names, "
            f"as {PurePosixPath(next(iter(listed.images))).with_suffix('.png')}"
        )
    return found


def _maps_in(folder: Path, listed: Listed, what: str) -> dict[str, Path]:
    """The PNGs of a folder that belong to images: at the same place below it, or of the same name in it."""
    if not folder.is_dir():
        raise AttnBridgeError(f"{what}: {folder}: no such folder")
    stems: dict[str, int] = {}
    for name in listed.images:
        stems[PurePosixPath(name).stem] = stems.get(PurePosixPath(name).stem, 0) + 1
    found = {}
    for name in listed.images:
        place, flat = (folder / name).with_suffix(".png"), folder / f"{PurePosixPath(name).stem}.png"
        if place.is_file():
            found[name] = place
        elif flat.is_file() and stems[PurePosixPath(name).stem] == 1:
            found[name] = flat
    return found


def _check_grey(path: Path) -> None:
    """Raise for a grey mask whose values must be labels."""
    mask = load_image(path, "P")
    largest = int(np.asarray(mask).max()) if mask.mode == "L" else 0
    if 0 < largest < GREY_MASK:
        raise AttnBridgeError(
            f"{path}: a grey mask is 0 outside the object and 255 inside, but this one reaches {largest}; if its "
            "values are labels, save it with a palette (mode P)"
        )


def _boxed(listed: Listed, classes: tuple[str, ...], boxes: Boxes) -> Objects:
    ids = ids_by_name(listed.images)
    given: dict[str, list[tuple[int, Box]]] = {}
    if isinstance(boxes, Mapping):
        for name, each in boxes.items():
            given[name] = [(-1, _checked(name, box)) for box in each]
    else:
        for name, rows in read_boxes(given_path(boxes, "boxes"), classes).items():
            given[name] = [(row[0], _checked(name, row[1:])) for row in rows]
    found = {ids[name][0]: each for name, each in given.items() if len(ids.get(name, [])) == 1}
    if not found:
        raise AttnBridgeError(f"boxes: {shown(boxes)} has none of the {len(listed.images)} images")
    checksum = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
    return Objects(f"boxes {checksum}", True, boxes=found)


def _checked(name: str, box: Sequence[int]) -> Box:
    if len(box) != 4 or not 0 <= box[0] < box[2] or not 0 <= box[1] < box[3]:
        raise AttnBridgeError(f"boxes: {name}: expected left, top, right, bottom in pixels, not {shown(tuple(box))}")
    left, top, right, bottom = (int(each) for each in box)
    return left, top, right, bottom


def _saliency_maps(listed: Listed, saliency: str) -> dict[str, Path]:
    if not is_model(saliency):
        if not Path(saliency).is_dir():
            check_model(saliency)
        found = _maps_in(Path(saliency), listed, "saliency")
        if not found:
            raise AttnBridgeError(f"{saliency}: holds no saliency map of the {len(listed.images)} images")
        return found
    folder = saliency_folder(listed.root, saliency)
    make_saliency(listed.images, folder, saliency)
    places = {name: (folder / name).with_suffix(".png") for name in listed.images}
    return {name: path for name, path in places.items() if path.is_file()}
