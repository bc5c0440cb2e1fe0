"""Clothing Co-Parsing in its true layout, on a small tree that the test writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.transforms import eval_transform
from attnbridge.data.voc import list_names, scan_voc
from attnbridge.datasets.clothing import LEFT_OUT, NO_GARMENT, ccp
from attnbridge.datasets.layouts import read_mapping, write_voc
from attnbridge.errors import AttnBridgeError

LABELS = [
    "null", "accessories", "bag", "belt", "blazer", "blouse", "bodysuit", "boots", "bra", "bracelet", "cape",
    "cardigan", "clogs", "coat", "dress", "earrings", "flats", "glasses", "gloves", "hair", "hat", "heels", "hoodie",
    "intimate", "jacket", "jeans", "jumper", "leggings", "loafers", "necklace", "panties", "pants", "pumps", "purse",
    "ring", "romper", "sandals", "scarf", "shirt", "shoes", "shorts", "skin", "skirt", "sneakers", "socks",
    "stockings", "suit", "sunglasses", "sweater", "sweatshirt", "swimwear", "t-shirt", "tie", "tights", "top", "vest",
    "wallet", "watch", "wedges",
]  # fmt: skip
CLASSES = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")
FIRST = (["0004", "0008", "0010", "0014"], ["0005", "0013", "0017", "0039"], ["0002", "0003", "0006", "0009"])
"""What the protocol's lists of the true set begin with."""


def save(path: Path, variable: str, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: value})


def tag(root: Path, name: str, *labels: str) -> None:
    numbers = np.array([[LABELS.index(label) for label in ("null", *labels)]], np.uint8)
    save(root / f"annotations/image-level/{name}.mat", "tags", numbers)
    Image.new("RGB", (4, 3)).save(root / f"photos/{name}.jpg")


def paint(root: Path, name: str, *labels: str) -> None:
    """One column of the mask for each label, the rest null."""
    mask = np.zeros((3, 4), np.uint8)
    for column, label in enumerate(labels):
        mask[:, column] = LABELS.index(label)
    save(root / f"annotations/pixel-level/{name}.mat", "groundtruth", mask)
    Image.new("RGB", (4, 3)).save(root / f"photos/{name}.jpg")


def label_list(root: Path, labels: list[str]) -> None:
    cells = np.empty((1, len(labels)), object)
    cells[0] = labels
    save(root / "label_list.mat", "label_list", cells)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "clothing-co-parsing"
    (root / "photos").mkdir(parents=True)
    label_list(root, LABELS)
    paint(root, "0001", "jeans", "top", "skin", "blazer")
    paint(root, "0002", "heels", "heels", "boots")
    paint(root, "0025", "dress")
    paint(root, "0536")
    tag(root, "1005", "blouse", "hair", "heels", "skirt", "heels")
    tag(root, "1707", "dress")
    tag(root, "1739", "romper", "ring")
    (root / "annotations/image-level/._1005.mat").touch()
    return root


def test_tags_become_labels_of_the_ten_classes(root: Path) -> None:
    names, items = ccp(root, "image_level", "clothing")
    assert names == CLASSES
    assert [(one.id, sorted(one.labels), one.mask) for one in items] == [
        ("1005", ["shirt", "shoes", "skirt"], None), ("1739", [], None),
    ]  # fmt: skip
    assert [one.id for one in ccp(root.parent, "train_labels_only", "clothing")[1]] == ["1005"]


def test_masks_become_the_ten_classes_with_void(root: Path) -> None:
    _, items = ccp(root, "pixel_level", "clothing")
    first, second, third = items
    assert (first.id, second.id, third.id) == ("0001", "0002", "0025")
    assert (first.labels, second.labels) == (frozenset({"pants", "outwear"}), frozenset({"shoes"}))
    assert first.mask is not None
    assert first.mask.dtype == np.uint8
    assert first.mask.tolist() == [[5, 255, 0, 4]] * 3
    assert second.mask is not None
    assert second.mask.tolist() == [[7, 7, 7, 0]] * 3


def test_the_sets_own_classes_are_all_but_null(root: Path) -> None:
    names, items = ccp(root, "pixel_level", None)
    assert names == tuple(LABELS[1:])
    first = next(items)
    assert first.labels == {"jeans", "top", "skin", "blazer"}
    assert first.mask is not None
    assert first.mask[0].tolist() == [LABELS.index(name) for name in ("jeans", "top", "skin", "blazer")]


def test_what_is_written_is_read_back_by_training(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for split in ("train_labels_only", "pixel_level"):
        names, items = ccp(root, split, "clothing")
        write_voc(items, out, split, names)
    records = scan_voc(out, names, "pixel_level", masks=True)
    assert [[names[c] for c in record.classes] for record in records] == [["outwear", "pants"], ["shoes"], ["dress"]]
    sample = ImageDataset(records, len(names), "target", eval_transform((3, 4)))[0]
    assert sample["mask"][0].tolist() == [5, 255, 0, 4]
    (record,) = scan_voc(out, names, "train_labels_only")
    assert [names[c] for c in record.classes] == ["shirt", "shoes", "skirt"]
    assert record.image.read_bytes() == (root / "photos/1005.jpg").read_bytes()


def test_the_protocols_splits_are_fixed_and_apart(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"photos.\d{4}\.jpg: no such file, but few_masks of ccp names it"):
        ccp(root, "few_masks", "clothing")
    paint(root, "0003", "coat")
    for path in (root / "annotations/pixel-level/0003.mat", root / "photos/0003.jpg"):
        for number in range(1, 1005):
            link = path.with_stem(f"{number:04d}")
            if not link.exists():
                link.symlink_to(path)
    lists = {}
    for split in ("few_masks", "val", "test"):
        names, items = ccp(root, split, "clothing")
        write_voc(items, tmp_path / "out", split, names)
        lists[split] = list_names(tmp_path / "out", split)
    assert {split: len(found) for split, found in lists.items()} == {"few_masks": 100, "val": 100, "test": 300}
    assert all(found == sorted(found) for found in lists.values())
    every = {name for found in lists.values() for name in found}
    assert len(every) == 500
    assert every.isdisjoint({*LEFT_OUT, NO_GARMENT})
    assert (lists["few_masks"][:4], lists["val"][:4], lists["test"][:4]) == FIRST


def test_the_mapping_is_of_the_sets_labels() -> None:
    mapping = read_mapping("ccp_clothing")
    assert set(mapping) < set(LABELS)
    assert set(mapping.values()) == {*CLASSES, "void"}
    assert sorted(label for label, name in mapping.items() if name == "void") == [
        "bodysuit", "intimate", "romper", "swimwear", "top",
    ]  # fmt: skip


def test_wrong_roots_splits_and_classes_are_named(root: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"photos: expected photos/0001\.jpg, annotations/pixel-level/0001\.mat"):
        ccp(root / "photos", "pixel_level", None)
    with pytest.raises(AttnBridgeError, match=r"unknown split of ccp: 'pixel_leve'; did you mean 'pixel_level'"):
        ccp(root, "pixel_leve", None)
    with pytest.raises(AttnBridgeError, match=r"unknown classes for ccp: 'voc'; there are: clothing"):
        ccp(root, "pixel_level", "voc")
    for path in (root / "annotations/image-level").iterdir():
        path.unlink()
    with pytest.raises(AttnBridgeError, match=r"image-level: holds no \.mat file"):
        ccp(root, "image_level", None)


def test_broken_annotations_are_named(root: Path) -> None:
    path = root / "annotations/pixel-level/0001.mat"
    whole = path.read_bytes()
    for broken in (b"", b"<html>", whole[: len(whole) // 2], whole[:128] + b"\x0f" + whole[129:-30]):
        path.write_bytes(broken)
        with pytest.raises(AttnBridgeError, match=r"0001\.mat: (cannot be read as a MATLAB file|has no variable)"):
            next(ccp(root, "pixel_level", "clothing")[1])
    save(path, "tags", np.zeros((3, 4), np.uint8))
    with pytest.raises(AttnBridgeError, match=r"0001\.mat: has no variable 'groundtruth'"):
        next(ccp(root, "pixel_level", "clothing")[1])
    save(path, "groundtruth", np.full((3, 4), 59, np.uint8))
    with pytest.raises(AttnBridgeError, match=r"0001\.mat: expected groundtruth to be numbers from 0 to 58"):
        next(ccp(root, "pixel_level", "clothing")[1])
    save(path, "groundtruth", np.zeros((4, 3), np.uint8))
    with pytest.raises(AttnBridgeError, match=r"0001\.mat: the mask is 3x4 pixels, but its image .*0001\.jpg is 4x3"):
        next(ccp(root, "pixel_level", "clothing")[1])
    (root / "photos/0001.jpg").unlink()
    with pytest.raises(AttnBridgeError, match=r"0001\.jpg: no such file, but pixel_level of ccp names it"):
        ccp(root, "pixel_level", "clothing")


def test_a_broken_list_of_labels_is_named(root: Path) -> None:
    label_list(root, LABELS[1:])
    with pytest.raises(AttnBridgeError, match=r"label_list\.mat: expected label_list to be names, the first .* null"):
        ccp(root, "pixel_level", None)
    label_list(root, [label for label in LABELS if label != "jeans"])
    with pytest.raises(AttnBridgeError, match=r"label_list\.mat does not have: 'jeans'"):
        ccp(root, "pixel_level", "clothing")
    (root / "label_list.mat").unlink()
    with pytest.raises(AttnBridgeError, match=r"label_list\.mat: no such file"):
        ccp(root, "pixel_level", None)
