"""Samples: the contract, shared geometry, reproducible augmentation, shares of several processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnbridge.data.dataset import EpochSampler, ImageDataset, ShardSampler
from attnbridge.data.folders import scan_pair
from attnbridge.data.images import ImageRecord
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.data.sample import Sample, collate
from attnbridge.data.transforms import eval_transform, train_transform
from attnbridge.errors import AttnBridgeError
from tests.runs import make_data, make_method, make_trainer


@pytest.fixture
def source(scenes: Path) -> ImageDataset:
    records = scan_pair(scenes / "source/train", scenes / "target", scenes / "saliency/train", "source")
    return ImageDataset(records, 8, "source", train_transform(48))


def test_sample_contract(source: ImageDataset) -> None:
    sample = source[0]
    assert type(sample["image"]) is torch.Tensor
    assert (sample["image"].shape, sample["image"].dtype) == ((3, 48, 48), torch.float32)
    assert 0 <= sample["image"].min() <= sample["image"].max() <= 1
    assert sample["labels"].sum() == 1
    assert sample["saliency"].shape == (48, 48)
    assert 0 <= sample["saliency"].min() < 0.1 < 0.9 < sample["saliency"].max() <= 1


def test_saliency_moves_with_the_image_and_is_not_jittered(tmp_path: Path) -> None:
    """White where the saliency is, black elsewhere: after any crop and flip the two must agree."""
    array = np.zeros((64, 64), dtype=np.uint8)
    array[10:40, 5:30] = 255
    Image.fromarray(array).save(tmp_path / "map.png")
    Image.fromarray(array).convert("RGB").save(tmp_path / "image.png")
    record = ImageRecord("image.png", tmp_path / "image.png", (0,), saliency=tmp_path / "map.png")
    dataset = ImageDataset([record], 1, "source", train_transform(64, scale=(0.3, 0.9)))
    for seed in range(10):
        sample = dataset[0, seed]
        seen = (sample["image"].mean(0) > 0.4).float()
        assert (seen - (sample["saliency"] > 0.5).float()).abs().mean() < 0.05
        assert set(sample["saliency"].unique().tolist()) <= {0.0, 1.0}


def test_mask_keeps_its_values(scenes: Path) -> None:
    records = scan_pair(scenes / "source/train", scenes / "target", None, "val")
    sample = ImageDataset(records, 8, "target", eval_transform(96))[0]
    assert sample["mask"].shape == (96, 96)
    assert set(sample["mask"].unique().tolist()) - {0} == {c + 1 for c in records[0].classes}


def test_a_mask_value_that_is_no_class_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("L", (8, 8), 7).save(tmp_path / "m.png")
    record = ImageRecord("a", tmp_path / "a.png", (0,), mask=tmp_path / "m.png")
    with pytest.raises(AttnBridgeError, match=r"m.png: holds the value 7; expected 0 .*, 1 to 3"):
        ImageDataset([record], 3, "target", eval_transform(8))[0]


def test_augmentation_is_a_function_of_the_seed_alone(source: ImageDataset) -> None:
    first = source[2, 5]["image"]
    torch.rand(7)
    assert torch.equal(source[2, 5]["image"], first)
    assert not torch.equal(source[2, 6]["image"], first)


def test_order_is_a_function_of_seed_and_epoch(source: ImageDataset) -> None:
    def keys(epoch: int, seed: int = 0) -> list[tuple[int, int]]:
        sampler = EpochSampler(source, 1, 0, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert keys(3) == keys(3)
    assert sorted(i for i, _ in keys(3)) == list(range(len(source)))
    assert keys(3) != keys(4)
    assert keys(3) != keys(3, seed=1)


def test_processes_share_an_epoch(source: ImageDataset) -> None:
    whole = list(EpochSampler(source, 1, 0))
    parts = [list(EpochSampler(source, 2, rank)) for rank in (0, 1)]
    assert [key for pair in zip(*parts, strict=True) for key in pair] == whole
    shards = [list(ShardSampler(source, 5, rank)) for rank in range(5)]
    assert sorted(i for shard in shards for i in shard) == list(range(len(source)))
    assert [len(shard) for shard in shards] == [len(ShardSampler(source, 5, rank)) for rank in range(5)]


def test_collate_names_the_sample_that_lacks_a_field() -> None:
    one: Sample = {"image": torch.zeros(3, 2, 2), "labels": torch.ones(1), "domain": "source", "id": "a.jpg"}
    with_map: Sample = {**one, "saliency": torch.zeros(2, 2)}
    with pytest.raises(AttnBridgeError, match=r"a.jpg: has no saliency"):
        collate([with_map, one])


def test_an_error_in_a_worker_process_names_the_file(scenes: Path, tmp_path: Path) -> None:
    records = scan_pair(scenes / "source/train", scenes / "target", None, "train")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    data = ImageDataset([*records, ImageRecord("bad", bad, (0,))], 8, "target", eval_transform(48))
    loader = torch.utils.data.DataLoader(data, num_workers=1, collate_fn=collate)
    with pytest.raises(AttnBridgeError, match=r"bad.jpg: cannot be read as an image") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_streams_are_as_long_as_the_longer_domain_and_carry_no_mask(scenes: Path) -> None:
    data = make_data(scenes)
    data.trainer = make_trainer()
    batches = [batch for batch, _, _ in data.train_dataloader()]
    assert len(batches) == 4
    for batch in batches:
        assert set(batch) == {"source", "target"}
        assert "mask" not in batch["target"]
        assert "mask" not in batch["source"]
        assert batch["source"]["domain"] == ["source"] * 8
    assert "mask" in next(iter(data.val_dataloader()))


def test_the_loaders_give_bytes_and_the_trainer_the_floats_of_the_dataset(scenes: Path) -> None:
    data = make_data(scenes)
    stored = next(iter(data.val_dataloader()))
    assert {stored[name].dtype for name in ("image", "mask")} == {torch.uint8}  # type: ignore[literal-required]
    batch = data.on_after_batch_transfer(stored, 0)
    sample = data.samples("val", 1)[0]
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].dtype == torch.long
    where = batch["id"].index(sample["id"])
    assert torch.equal(batch["image"][where], sample["image"])
    assert torch.equal(batch["mask"][where], sample["mask"])
    both = data.on_after_batch_transfer({"source": stored, "target": stored}, 0)
    assert torch.equal(both["target"]["image"], batch["image"])


def test_a_batch_larger_than_the_data_is_an_error(scenes: Path) -> None:
    data = make_data(scenes, batch_size=64)
    data.trainer = make_trainer()
    with pytest.raises(AttnBridgeError, match=r"batch_size is 64 .* only 32 images"):
        data.train_dataloader()


def test_without_a_source_the_target_names_the_classes(scenes: Path) -> None:
    data = SourceTargetDataModule(None, str(scenes / "target"), image_size=48, batch_size=8, workers=0)
    assert data.classes == make_data(scenes).classes
    only_target = make_method(data, source_weight=0, attention_weight=0, adversarial_weight=0, label_shift=True)
    trainer = make_trainer(max_steps=2)
    trainer.fit(only_target, data)
    assert float(trainer.callback_metrics["loss/target/classification"]) > 0
    with pytest.raises(AttnBridgeError, match=r"data.source is not set, but the method learns from a source"):
        make_trainer().fit(make_method(data), data)
    with pytest.raises(AttnBridgeError, match=r"labels.csv: no such file"):
        SourceTargetDataModule(None, str(scenes / "source"))


def test_images_in_bytes_are_refused_by_a_method(scenes: Path) -> None:
    data = make_data(scenes)
    stored = next(iter(data.val_dataloader()))
    with pytest.raises(AttnBridgeError, match=r"floats in \[0, 1\], not torch.uint8; divide by 255, or call"):
        make_method(data).forward_features(stored["image"])
