"""Domains: what of the target training sees, what each loss is, which epoch is reported."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from attnbridge.cli import main
from attnbridge.data import dataset
from attnbridge.data.images import ImageRecord
from attnbridge.data.modules.domains import MultiDomainDataModule
from attnbridge.errors import AttnBridgeError
from attnbridge.losses.adversarial import discriminator_loss
from attnbridge.losses.domains import mmd_loss
from attnbridge.methods.domain_adaptation import DomainAdaptation, gradient_reversal
from tests.conftest import two_colours
from tests.runs import make_trainer

SMALL: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "image_size": 32, "lr": 1e-3}


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains of two classes, and saliency maps beside them: the left half."""
    root = two_colours(tmp_path_factory.mktemp("domains") / "set", {"a": 10, "b": 10, "c": 12}, 32)
    for path in root.rglob("*.png"):
        target = root.parent / "saliency" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        left = np.zeros((32, 32), np.uint8)
        left[:, :16] = 255
        Image.fromarray(left).save(target)
    return root


def make_data(
    root: Path, sources: tuple[str, ...] = ("a",), target: str = "c", **options: Any
) -> MultiDomainDataModule:
    settings: dict[str, Any] = {"image_size": 32, "batch_size": 8, "workers": 0, "seed": 1, **options}
    return MultiDomainDataModule(str(root), sources, target, saliency=str(root.parent / "saliency"), **settings)


def make_method(data: MultiDomainDataModule, **options: Any) -> DomainAdaptation:
    L.seed_everything(0, verbose=False)
    known: dict[str, Any] = {"domains": data.sources, "generalise": data.generalise}
    method = DomainAdaptation(data.classes, **{**SMALL, **known, **options})
    data.request = method.data_request()
    return method


def trained(data: MultiDomainDataModule, **options: Any) -> dict[str, torch.Tensor]:
    method = make_method(data, **options)
    make_trainer(max_epochs=2).fit(method, data)
    return method.state_dict()


ALL: dict[str, Any] = {
    "attention_weight": 1.0,
    "adversarial_weight": 0.1,
    "reversal_weight": 1.0,
    "coral_weight": 1.0,
    "mmd_weight": 1.0,
}


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.usefixtures("own_cache")
def test_the_targets_labels_are_not_in_a_training_batch(domains: Path, views: int | None) -> None:
    data = make_data(domains, views=views)
    make_trainer(max_steps=1).fit(make_method(data, **ALL, frozen=["conv1", "bn1", "layer1"]), data)
    batch = next(iter(data.train_dataloader()))[0]
    assert ("features" in batch["target"]) == (views is not None)
    assert torch.isnan(batch["target"]["labels"]).all()
    assert "saliency" not in batch["target"]
    assert torch.isfinite(batch["source"]["labels"]).all()
    assert {name.split("/")[0] for name in batch["source"]["id"]} == {"a"}
    assert {name.split("/")[0] for name in batch["target"]["id"]} == {"c"}


def test_other_labels_of_the_target_change_nothing(domains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, all of them said to be of the first class."""
    before = trained(make_data(domains), **ALL)
    listed = MultiDomainDataModule._listed

    def one_class(self: MultiDomainDataModule, domain: str) -> list[ImageRecord]:
        return [replace(r, classes=(0,)) if domain == self.target else r for r in listed(self, domain)]

    monkeypatch.setattr(MultiDomainDataModule, "_listed", one_class)
    assert {r.classes for r in make_data(domains).records("test")} == {(0,)}
    for name, value in trained(make_data(domains), **ALL).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_in_generalization_the_targets_images_are_not_opened(domains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    load = dataset.load_image

    def noted(path: Path, mode: str = "RGB") -> Any:
        opened.append(path)
        return load(path, mode)

    monkeypatch.setattr(dataset, "load_image", noted)
    data = make_data(domains, ("a", "b"), generalise=True)
    method = make_method(data, **ALL)
    make_trainer(max_epochs=2).fit(method, data)
    assert {path.relative_to(domains).parts[0] for path in opened if path.is_relative_to(domains)} == {"a", "b"}
    losses = {name for name in method.trainer.callback_metrics if name.startswith("loss/")}
    assert losses >= {"loss/target/adversarial", "loss/discriminator", "loss/domain", "loss/coral", "loss/mmd"}


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.usefixtures("own_cache")
def test_in_generalization_the_first_source_is_told_from_the_others(domains: Path, views: int | None) -> None:
    data = make_data(domains, ("b", "a"), generalise=True, views=views)
    method = make_method(data, adversarial_weight=0.1, frozen=["conv1", "bn1", "layer1"])
    make_trainer(max_steps=1).fit(method, data)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader()))[0], 0)
    sides = method.forward_batch(batch).domain_slices
    assert sides is not None
    names = np.array([name.split("/")[0] for name in batch["source"]["id"]])
    assert set(names[np.asarray(sides[0])]) == {"b"}
    assert set(names[np.asarray(sides[1])]) == {"a"}


def test_all_rows_take_as_many_steps(domains: Path) -> None:
    """The larger of the two domains gives the length, whether the method looks at it or not."""
    steps = []
    for options in ({}, {"adversarial_weight": 0.1}):
        data = make_data(domains, batch_size=8)
        method = make_method(data, **options)
        trainer = make_trainer()
        trainer.fit(method, data)
        steps.append(trainer.num_training_batches)
    assert steps == [3, 3]  # 24 images of the target, 16 of the source


def test_a_few_images_of_a_side_align_nothing(domains: Path) -> None:
    data = make_data(domains, ("a", "b"), generalise=True)
    method = make_method(data, **{**ALL, "attention_weight": 0.0})
    make_trainer(max_steps=1).fit(method, data)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader()))[0], 0)
    batch["source"]["id"] = ["a/x", "a/x", *["b/x"] * 6]
    losses = method.losses(batch)
    assert set(losses) == {"source/classification"}
    assert all(torch.isfinite(value) for value in losses.values())


def test_each_loss_is_what_it_is_said_to_be(domains: Path) -> None:
    data = make_data(domains)
    method = make_method(data, reversal_weight=1.0, coral_weight=1.0, mmd_weight=1.0)
    make_trainer(max_steps=1).fit(method, data)
    method.eval()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader()))[0], 0)
    losses = method.losses(batch)
    with torch.no_grad():
        both = torch.cat([batch["source"]["image"], batch["target"]["image"]])
        pooled = method.network.forward_features(method.normalised(both)).mean((2, 3))  # type: ignore[operator]
        source, target = pooled[:8], pooled[8:]
        gap = (source.T.cov() - target.T.cov()).square().sum() / (4 * source.shape[1] ** 2)
        assert method.domain_classifier is not None
        told = discriminator_loss(method.domain_classifier(source), method.domain_classifier(target))
    assert losses["coral"].item() == pytest.approx(gap.item(), rel=1e-4)
    assert losses["domain"].item() == pytest.approx(told.item(), rel=1e-5)
    assert losses["mmd"].item() == pytest.approx(mmd_loss(source, target).item(), rel=1e-4)


def test_softmax_cross_entropy_is_weighed_as_the_peers_papers_do(domains: Path) -> None:
    data = make_data(domains)
    binary, softmax = (make_method(data, classification=name, attention_weight=0.0) for name in ("binary", "softmax"))
    make_trainer(max_steps=1).fit(softmax, data)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader()))[0], 0)
    binary.network.load_state_dict(softmax.network.state_dict())
    labels = batch["source"]["labels"]
    logits = softmax.forward_batch(batch).logits[: len(labels)]
    wanted = -(logits.log_softmax(1) * labels).sum(1).mean().item()
    assert softmax.losses(batch)["source/classification"].item() == pytest.approx(wanted, rel=1e-5)
    each = -(labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits))
    assert binary.losses(batch)["source/classification"].item() == pytest.approx(each.mean().item(), rel=1e-4)


def test_what_aligns_reaches_the_network_and_in_which_direction(domains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DomainAdaptation, "_dann_lambda", lambda self: 0.4)
    data = make_data(domains)
    method = make_method(data, reversal_weight=0.5, coral_weight=1.0, mmd_weight=1.0)
    make_trainer(max_steps=1).fit(method, data)
    method.eval()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader()))[0], 0)
    weight: torch.Tensor = method.network.get_parameter("layer1.0.conv1.weight")
    losses = method.losses(batch)
    names = ("domain", "coral", "mmd")
    found = {name: torch.autograd.grad(losses[name], weight, retain_graph=True)[0] for name in names}
    seen = method.forward_batch(batch)
    assert method.domain_classifier is not None
    assert seen.domain_slices is not None
    told = [method.domain_classifier(method.spatial(seen.features).mean((2, 3))[side]) for side in seen.domain_slices]
    wanted = torch.autograd.grad(discriminator_loss(told[0], told[1]), weight)[0]
    torch.testing.assert_close(found["domain"], -0.5 * 0.4 * wanted, rtol=1e-3, atol=1e-7)
    for name in ("coral", "mmd"):
        assert found[name].abs().amax() > 0


@pytest.mark.parametrize("length", [{"max_epochs": 2}, {"max_epochs": 9, "max_steps": 6}], ids=["epochs", "steps"])
def test_the_reversal_grows_over_the_run(
    length: dict[str, int], domains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    grown = DomainAdaptation._dann_lambda

    def noted(self: DomainAdaptation) -> float:
        found.append(grown(self))
        return found[-1]

    monkeypatch.setattr(DomainAdaptation, "_dann_lambda", noted)
    data = make_data(domains)
    make_trainer(**length).fit(make_method(data, reversal_weight=1.0, adversarial_weight=0.1), data)
    assert found == pytest.approx([2 / (1 + math.exp(-10 * step / 6)) - 1 for step in range(6)])


def test_the_features_go_against_the_reversed_discriminator() -> None:
    weight = torch.ones(3, 1, requires_grad=True)
    features = torch.ones(2, 3, requires_grad=True)
    (gradient_reversal(features, 0.3) @ weight).sum().backward()
    assert features.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(features.grad, torch.full((2, 3), -0.3))
    torch.testing.assert_close(weight.grad, torch.full((3, 1), 2.0))


def test_validation_is_of_the_sources_and_shares_no_image_with_training(domains: Path) -> None:
    data = make_data(domains, ("a", "b"))
    val, train = ({r.id for r in data.records(split)} for split in ("val", "source"))
    assert len(val) == 8
    assert not val & train
    assert {name.split("/")[0] for name in val} == {"a", "b"}
    assert {r.id for r in make_data(domains, ("a", "b"), seed=5).records("val")} == val


@pytest.mark.parametrize(
    ("sources", "target", "words"),
    [
        (("a", "c"), "c", "named twice; a target cannot be learnt from"),
        (("a",), "d", "unknown domain"),
        ((), "c", "name at least one domain in data.sources"),
    ],
)
def test_domains_that_cannot_be(domains: Path, sources: tuple[str, ...], target: str, words: str) -> None:
    with pytest.raises(AttnBridgeError, match=words):
        make_data(domains, sources, target)


def test_other_classes_in_another_domain(tmp_path: Path) -> None:
    root = two_colours(tmp_path / "set", {"a": 2, "b": 2}, 8)
    (root / "b" / "green").mkdir()
    with pytest.raises(AttnBridgeError, match=r"b: differs from .*a in the class 'green'"):
        MultiDomainDataModule(str(root), ["a"], "b")


def test_one_source_alone_cannot_be_aligned(domains: Path) -> None:
    data = make_data(domains, generalise=True)
    with pytest.raises(AttnBridgeError, match="no two domains to align"):
        make_trainer().fit(make_method(data, coral_weight=1.0), data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interval", "epochs"),
    [(["--trainer.check_val_every_n_epoch", "2"], [2, 3]), (["--trainer.val_check_interval", "1"], [2])],
)
def test_the_last_epoch_is_scored_whatever_the_interval(
    domains: Path, tmp_path: Path, interval: list[str], epochs: list[int]
) -> None:
    command = [
        *("fit", "domains/source", "--data.data", str(domains), "--data.sources", "[a]", "--data.target", "c"),
        *("--data.saliency", "null", "--data.image_size", "32", "--data.batch_size", "8", "--data.workers", "0"),
        *("--data.views", "null", "--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]"),
        *("--trainer.max_epochs", str(max(epochs)), "--trainer.enable_progress_bar", "false"),
        *("--out", str(tmp_path / "run")),
    ]
    assert main([*command, *interval]) == 0
    scores = json.loads((tmp_path / "run" / "run.json").read_text())["scores"]
    assert [point["epoch"] for point in scores["curve"]] == epochs
    assert scores["last"] == scores["curve"][-1]["target"]
    assert scores["energy"] is None


def test_maps_are_made_of_the_classes_images_through_links_too(domains: Path, tmp_path: Path) -> None:
    for domain in ("a", "c"):
        (tmp_path / domain).mkdir()
        for name in ("blue", "red"):
            (tmp_path / domain / name).symlink_to(domains / domain / name)
    (tmp_path / "a" / "notes.png").write_bytes(b"no image of the set")
    data = MultiDomainDataModule(str(tmp_path), ["a"], "c", saliency="centre", image_size=32, batch_size=8, workers=0)
    data.prepare_data()
    assert all(record.saliency and record.saliency.is_file() for record in data.records("source"))


def test_a_target_without_maps_has_no_energy(domains: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a").symlink_to(domains.parent / "saliency" / "a")
    command = [
        *("fit", "domains/ac", "--data.data", str(domains), "--data.sources", "[a]", "--data.target", "c"),
        *("--data.saliency", str(tmp_path / "maps"), "--data.image_size", "32", "--data.batch_size", "8"),
        *("--data.workers", "0", "--data.views", "null", "--model.backbone", "resnet10t", "--model.weights", "none"),
        *("--model.frozen", "[]", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
    ]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["scores"]["energy"] is None
    (tmp_path / "maps" / "a").unlink()
    assert main(["test", str(tmp_path / "run")]) == 0  # no map is needed to score


@pytest.mark.slow
def test_the_command_reports_each_rule_and_resumes_to_the_same(
    domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        *("fit", "domains/ac_adv", "--data.data", str(domains), "--data.sources", "[a, b]", "--data.target", "c"),
        *("--data.saliency", str(domains.parent / "saliency"), "--data.image_size", "32", "--data.batch_size", "8"),
        *("--data.workers", "0", "--data.views", "null", "--model.backbone", "resnet10t", "--model.weights", "none"),
        *("--model.frozen", "[]", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
        *("--trainer.check_val_every_n_epoch", "1"),
    ]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    assert "target accuracy by rule of selection: source_validation" in capsys.readouterr().out

    def stop(self: DomainAdaptation) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DomainAdaptation, "on_train_epoch_start", stop)
        assert main([*command, "--out", str(tmp_path / "parts")]) == 130
    assert main([*command, "--out", str(tmp_path / "parts"), "--resume"]) == 0
    whole, parts = (json.loads((tmp_path / n / "run.json").read_text())["scores"] for n in ("whole", "parts"))
    assert whole == parts
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["last.ckpt"]
    assert [point["epoch"] for point in whole["curve"]] == [1, 2]
    assert 0 < whole["energy"] < 1
    page = (tmp_path / "whole" / "report.html").read_text()
    assert f"{100 * whole['source_validation']:.1f}" in page
    assert "a, b to c" in page
    capsys.readouterr()
    assert main(["test", str(tmp_path / "whole")]) == 0
    assert f"by rule of selection: last {100 * whole['last']:.1f}" in capsys.readouterr().out
