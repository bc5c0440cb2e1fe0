"""Kept views: the same answers as from the images, made once, never half made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from attnbridge.data import feature_cache
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.feature_cache import CachedFeatureDataset, feature_cache_dir
from attnbridge.data.sample import as_floats
from attnbridge.data.transforms import eval_transform
from attnbridge.errors import AttnBridgeError
from attnbridge.methods.attnbn import AttnBN
from attnbridge.methods.gain import GAIN
from tests.runs import SMALL, make_data, make_method, make_trainer

FROZEN = ["conv1", "bn1", "layer1", "layer2"]

pytestmark = pytest.mark.usefixtures("own_cache")


def fitted(scenes: Path, **options: Any) -> tuple[Any, Any]:
    data = make_data(scenes, views=3, **options)
    method = make_method(data, frozen=FROZEN)
    trainer = make_trainer(max_steps=2)
    trainer.fit(method, data)
    return data, method


def test_features_give_what_the_images_give(scenes: Path) -> None:
    data, method = fitted(scenes)
    batch, _, _ = next(iter(data.train_dataloader()))
    assert "image" not in batch["source"]
    assert batch["source"]["features"].dtype == torch.float16
    assert batch["source"]["saliency"].shape == (8, 48, 48)
    kept: CachedFeatureDataset = data.train_dataloader().iterables["source"].dataset
    view = 1
    seen = as_floats(kept[5, view])
    shown = kept.images[5, view * feature_cache._STEP + 5]
    assert torch.equal(seen["labels"], shown["labels"])
    assert seen["id"] == shown["id"]
    assert torch.allclose(seen["saliency"], shown["saliency"], atol=1e-6)
    method.eval()
    with torch.no_grad():
        of_features, _ = method.forward_streams([{"features": seen["features"][None]}])
        of_image, _ = method.forward_streams([{"image": shown["image"][None]}])
    assert torch.allclose(of_features, of_image, atol=5e-3)
    assert of_image.abs().max() > 0.05


def test_an_image_has_so_many_views_and_no_more(scenes: Path) -> None:
    data, _ = fitted(scenes)
    kept = data.train_dataloader().iterables["target"].dataset
    assert len({kept[2, seed]["features"].numpy().tobytes() for seed in range(30)}) == 3


def test_views_are_made_once_and_anew_where_anything_differs(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = fitted(scenes)
    made = []
    keep = AttnBN.features_to_cache
    monkeypatch.setattr(AttnBN, "features_to_cache", lambda *args: made.append(1) or keep(*args))
    fitted(scenes, seed=7)
    assert not made
    fitted(scenes, min_crop=0.9)
    assert made
    made.clear()
    other = make_method(data, frozen=FROZEN[:-1])
    make_trainer(max_steps=1).fit(other, make_data(scenes, views=3))
    assert made


@pytest.mark.slow
def test_another_structure_of_the_same_weights_has_views_of_its_own(tmp_path: Path) -> None:
    kept = set()
    for frozen in (["features.0"], ["features.0", "features.1"], ["features.0", "features.2"]):
        method = AttnBN(["a", "b"], backbone="vgg11", weights="none", image_size=32, frozen=frozen)
        torch.manual_seed(0)
        nn.init.ones_(method.network.get_submodule("features.0").weight)  # type: ignore[arg-type]
        nn.init.ones_(method.network.get_submodule("features.0").bias)  # type: ignore[arg-type]
        structure, weights = method.cache_key()
        assert {name.split(".")[0] for name in weights} == {"mean", "std", "features"}
        kept.add(feature_cache_dir(ImageDataset([], 2, "target", eval_transform(32)), 2, structure, weights))
    assert len(kept) == 3


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(scenes: Path, tmp_path: Path) -> None:
    def run(epochs: int, checkpoint: Path | None, out: Path) -> dict[str, torch.Tensor]:
        data = make_data(scenes, views=3)
        method = make_method(data, frozen=FROZEN, schedule="constant")
        saver = ModelCheckpoint(out, save_last=True, save_top_k=0)
        trainer = make_trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[saver])
        trainer.fit(method, data, ckpt_path=str(checkpoint) if checkpoint else None)
        return method.state_dict()

    whole = run(2, None, tmp_path / "whole")
    run(1, None, tmp_path / "parts")
    resumed = run(2, tmp_path / "parts/last.ckpt", tmp_path / "parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_two_runs_at_once_leave_one_folder(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_was_faster(place: Path, *options: Any) -> None:
        fill(place, *options)
        folders.append(place)
        if len(folders) == 1:
            make(*calls[0])

    calls: list[Any] = []
    folders: list[Path] = []
    fill, make = feature_cache._fill, feature_cache.cache_features
    monkeypatch.setattr(feature_cache, "_fill", other_was_faster)
    monkeypatch.setattr("attnbridge.data.modules.base.cache_features", lambda *args: calls.append(args) or make(*args))
    fitted(scenes)
    assert len(folders) == 3  # of the first stream twice, of the other once
    assert len(list(folders[0].parent.iterdir())) == 2


def test_an_interrupted_making_leaves_nothing(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = AttnBN.features_to_cache

    def stop(self: AttnBN, batch: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return keep(self, batch)

    calls: list[int] = []
    monkeypatch.setattr(AttnBN, "features_to_cache", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted(scenes)
    assert list((tmp_path / "cache" / "views").iterdir()) == []
    monkeypatch.setattr(AttnBN, "features_to_cache", keep)
    fitted(scenes)
    assert len(list((tmp_path / "cache" / "views").iterdir())) == 2


def test_clear_errors(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(scenes, views=3)
    with pytest.raises(AttnBridgeError, match=r"data.views needs model.frozen"):
        make_trainer().fit(make_method(data), data)
    with pytest.raises(AttnBridgeError, match=r"'conv1' is trained, but runs before 'layer1'"):
        make_trainer().fit(make_method(data, frozen=["layer1"]), data)
    with pytest.raises(AttnBridgeError, match=r"mining erases parts of images"):
        make_trainer().fit(GAIN(data.classes, **SMALL, frozen=FROZEN), data)
    with pytest.raises(AttnBridgeError, match=r"data.views must be at least 1"):
        make_data(scenes, views=0)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(AttnBridgeError, match=r"GB are needed in .*ATTNBRIDGE_CACHE"):
        make_trainer().fit(make_method(data, frozen=FROZEN[:1]), data)
