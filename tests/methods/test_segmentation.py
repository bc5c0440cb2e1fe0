"""Segmentation from cues: the three losses written out, what is trained, kept views, masks, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.modules.cues import CueDataModule
from attnbridge.data.sample import collate
from attnbridge.data.transforms import eval_transform
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.callbacks import LastCheckpoint
from attnbridge.losses.weak_supervision import boundary_loss, expansion_loss, seed_loss
from attnbridge.methods.segmentation import Segmentation, seeds_of
from attnbridge.segmentation.crf import CRF, mean_field
from attnbridge.segmentation.grow import grow_seeds
from tests.runs import make_trainer, write_cues

SMALL: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "image_size": 48, "lr": 1e-3, "head_width": 16}


@pytest.fixture(scope="module")
def cues(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cues that know a share of the true masks: a checkerboard of blocks."""
    folder = tmp_path_factory.mktemp("cues")
    write_cues(scenes, folder)
    return folder


def make_data(scenes: Path, cues: Path, **options: Any) -> CueDataModule:
    settings: dict[str, Any] = {"image_size": 48, "batch_size": 8, "workers": 0, "seed": 1, "source": None, **options}
    return CueDataModule(str(cues), target=str(scenes / "target"), **settings)


def make_method(data: CueDataModule, **options: Any) -> Segmentation:
    L.seed_everything(0, verbose=False)
    return Segmentation(data.classes, **{**SMALL, **options})


def first_batch(data: CueDataModule, method: Segmentation) -> Any:
    trainer = make_trainer(max_steps=1)
    trainer.fit(method, data)
    batch = next(iter(data.train_dataloader()))[0]
    return data.on_after_batch_transfer(batch, 0)


def test_the_losses_are_those_written_out(scenes: Path, cues: Path) -> None:
    data = make_data(scenes, cues)
    method = make_method(data, expansion_weight=1.0).eval()
    batch = first_batch(data, method.train())
    method.eval()
    losses = method.losses(batch)
    target = batch["target"]
    logits = method.head(method.network.forward_features(method.normalised(target["image"])))
    assert logits.shape[2:] == (6, 6)  # a stride of 8
    p = logits.softmax(1)
    seeds = grow_seeds(p, seeds_of(target["mask"], p), target["labels"], 0.99, 0.85)
    crf = CRF(bilateral_xy=80 / 12 * 6 / 41, gaussian_xy=3 / 12)
    refined = mean_field(method.small(target["image"]), p.detach(), crf)
    torch.testing.assert_close(losses["target/seeding"], seed_loss(p, seeds))
    torch.testing.assert_close(losses["target/expansion"], expansion_loss(p, target["labels"]))
    torch.testing.assert_close(losses["target/boundary"], boundary_loss(p, refined))


def test_only_the_losses_that_have_a_weight(scenes: Path, cues: Path) -> None:
    data = make_data(scenes, cues)
    method = make_method(data, boundary_weight=0.0, grow=False, balanced=False)
    batch = first_batch(data, method)
    method.eval()
    losses = method.losses(batch)
    assert set(losses) == {"target/seeding"}
    with torch.no_grad():
        p = method.predict_batch(batch["target"]["image"])["probabilities"]
        known = seeds_of(batch["target"]["mask"], p)
        wanted = -sum(
            (((q + 1e-4) / (1 + 1e-4 * len(q)))[s].log().sum() / s.sum()) for q, s in zip(p, known, strict=True)
        )
    assert losses["target/seeding"].item() == pytest.approx(wanted.item() / len(p), rel=1e-4)


def test_a_source_image_is_held_to_its_saliency(scenes: Path, cues: Path) -> None:
    """Beside a loop over positions; the target's losses are what they are without a source."""
    data = make_data(scenes, cues, source=str(scenes / "source/train"), saliency=str(scenes / "saliency/train"))
    method = make_method(data, source_weight=2.0)
    batch = first_batch(data, method)
    method.eval()
    losses, source = method.losses(batch), batch["source"]
    with torch.no_grad():
        p = method.predict_batch(source["image"])["probabilities"]
    p = (p + 1e-4) / (p + 1e-4).sum(1, keepdim=True)
    saliency = F.interpolate(source["saliency"][:, None], (6, 6), mode="bilinear", antialias=True)[:, 0]
    total = 0.0
    for image, shown, label in zip(p, saliency, source["labels"].argmax(1) + 1, strict=True):
        for value, places in ((0, shown < 0.06), (int(label), shown > 0.5)):
            logs = [image[value, y, x].log().item() for y, x in places.nonzero().tolist()]
            total -= sum(logs) / max(1, len(logs))
    assert losses["source/seeding"].item() == pytest.approx(total / len(p), rel=1e-4)
    assert method.loss_weights["source/seeding"] == 2.0
    alone = make_method(data, source_weight=0.0)
    alone.load_state_dict(method.state_dict())
    for name, value in alone.eval().losses({"target": batch["target"]}).items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


def test_cues_become_seeds_and_the_unknown_none() -> None:
    cues = torch.full((1, 4, 4), 255)
    cues[0, :2, :2], cues[0, 2:, 2:] = 0, 2
    seeds = seeds_of(cues, torch.rand(1, 3, 2, 2))
    assert seeds[0].int().tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]]


def test_nothing_after_the_layer_is_trained(scenes: Path, cues: Path) -> None:
    method = make_method(make_data(scenes, cues), layer="layer3", frozen=["conv1", "bn1"])
    trained = {name.split(".")[1] for name, p in method.named_parameters() if p.requires_grad and "network" in name}
    assert trained == {"layer1", "layer2", "layer3"}
    assert {p for g in method.parameter_groups() for p in g["params"]} == {
        p for p in method.parameters() if p.requires_grad
    }


@pytest.mark.slow
def test_training_learns_the_cues(scenes: Path, cues: Path) -> None:
    data = make_data(scenes, cues)
    method = make_method(data, boundary_weight=0.0, grow=False, batch_norm="train", lr=3e-3, backbone_lr=1.0)
    before = float(seeding_of(method, data))
    make_trainer(max_epochs=12).fit(method, data)
    assert float(seeding_of(method, data)) < 0.8 * before


def seeding_of(method: Segmentation, data: CueDataModule) -> Tensor:
    """The seeding loss of the training images, as evaluation sees them."""
    records = data.records("train")
    images = ImageDataset(records, len(data.classes), "target", eval_transform(48))
    batch = collate([images[i] for i in range(len(images))])
    p = method.eval().predict_batch(batch["image"])["probabilities"]
    method.train()
    return seed_loss(p, seeds_of(batch["mask"], p))


def test_kept_views_hold_what_the_losses_need(scenes: Path, cues: Path, own_cache: None) -> None:
    paths = {"source": str(scenes / "source/train"), "saliency": str(scenes / "saliency/train")}
    data = make_data(scenes, cues, views=2, **paths)
    method = make_method(data, frozen=["conv1", "bn1", "layer1"], source_weight=1.0)
    batch = first_batch(data, method)
    assert set(batch["target"]) >= {"features", "mask", "small"}
    assert set(batch["source"]) >= {"features", "saliency", "labels"}
    assert "image" not in batch["target"]
    assert batch["source"]["saliency"].amax() == 1
    method.eval()
    kept = method.losses(batch)
    assert all(torch.isfinite(value) for value in kept.values())
    assert kept["source/seeding"] > 0
    assert batch["target"]["small"].shape[1:] == (3, 6, 6)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(scenes: Path, cues: Path, tmp_path: Path) -> None:
    def fit(folder: Path, stops: bool) -> Segmentation:
        data = make_data(scenes, cues)
        method = make_method(data)
        saver = LastCheckpoint(folder / "last.ckpt")  # with the random numbers: dropout goes on as it would have
        options: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [saver], "max_epochs": 2}
        if stops:

            class Stop(L.Callback):
                def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                    if trainer.current_epoch == 1:
                        raise KeyboardInterrupt

            with pytest.raises(SystemExit):
                make_trainer(**{**options, "callbacks": [saver, Stop()]}).fit(method, data)
            method, data = make_method(data), make_data(scenes, cues)
            make_trainer(**options).fit(method, data, ckpt_path=str(folder / "last.ckpt"))
        else:
            make_trainer(**options).fit(method, data)
        return method

    whole, parts = fit(tmp_path / "a", False).state_dict(), fit(tmp_path / "b", True).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=0)


def test_masks_of_the_training_split_are_not_read(scenes: Path, cues: Path) -> None:
    records = make_data(scenes, cues).records("train")
    assert all(record.mask is not None and record.mask.parent == cues for record in records)


@pytest.mark.parametrize(
    ("folder", "words"),
    [(None, r"data\.cues is not set"), ("nowhere", r"nowhere/.*\.png: no such file")],
)
def test_cues_that_are_not_there(scenes: Path, folder: str | None, words: str) -> None:
    with pytest.raises(AttnBridgeError, match=words):
        CueDataModule(folder, source=None, target=str(scenes / "target"), image_size=48).records("train")
