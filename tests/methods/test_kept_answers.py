"""A teacher's answers, kept for fixed views: the same losses as with the teacher at hand, which is not asked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attnbridge.data.modules.classification import ClassificationDataModule
from attnbridge.data.sample import as_floats
from attnbridge.errors import AttnBridgeError
from attnbridge.methods.attention_transfer import AttentionTransfer
from tests.methods.test_attention_transfer import PARTS, TAUGHT, THIN
from tests.runs import make_trainer

pytestmark = pytest.mark.usefixtures("own_cache")
KINDS: dict[str, dict[str, Any]] = {
    **{name: PARTS[name] for name in ("transfer", "distillation", "hint")},
    "sum": {**PARTS["transfer"], "statistic": "sum"},
    "max_power": {**PARTS["transfer"], "statistic": "max_power", "power": 4.0},
    "frozen": {**PARTS["transfer"], "frozen": ["conv0", "group0"], "pairs": [["group1", "group0"]]},
}


def fitted(folder: Path, **options: Any) -> tuple[AttentionTransfer, ClassificationDataModule]:
    torch.manual_seed(0)
    data = ClassificationDataModule(str(folder), batch_size=8, val_share=0.2, views=2)
    method = AttentionTransfer(data.classes, lr=0.01, **options)
    make_trainer(max_steps=2).fit(method, data)
    return method, data


@pytest.mark.parametrize("kind", KINDS)
def test_kept_answers_give_the_losses_of_the_teacher(kind: str, images: Path) -> None:
    method, data = fitted(images, **KINDS[kind])
    kept: Any = data.train_dataloader().iterables["target"].dataset
    rows, view = range(8), 1
    samples = [as_floats(kept[row, view]) for row in rows]
    answers = {name: torch.stack([s[name] for s in samples]) for name in samples[0] if name not in ("domain", "id")}
    assert ("image" in answers) == (kind != "frozen")
    seen = torch.stack([kept.images[row, view * 1_000_003 + row]["image"] for row in rows])
    method.eval()
    one = method.losses({"target": answers})  # type: ignore[typeddict-item]
    other = method.losses({"target": {"image": seen, "labels": answers["labels"]}})  # type: ignore[typeddict-item]
    assert one.keys() == other.keys()
    for name, loss in one.items():
        assert loss.item() == pytest.approx(other[name].item(), rel=2e-2)
        assert loss.item() > 0


def test_the_teacher_is_asked_once_for_each_view(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    told = AttentionTransfer._teacher_answers

    def count(self: AttentionTransfer, teacher: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        asked.append(len(images))
        return told(self, teacher, images)

    monkeypatch.setattr(AttentionTransfer, "_teacher_answers", count)
    data = fitted(images, **PARTS["transfer"])[1]
    assert sum(asked) == 2 * len(data.records("train"))
    fitted(images, **PARTS["transfer"])
    assert sum(asked) == 2 * len(data.records("train"))


def test_other_teachers_and_other_maps_have_answers_of_their_own(images: Path) -> None:
    cases: list[dict[str, Any]] = [
        PARTS["transfer"],
        {**PARTS["transfer"], "teacher": "wrn_16_1"},
        KINDS["sum"],
    ]
    folders = set()
    for options in cases:
        folders.add(str(fitted(images, **options)[1].train_dataloader().iterables["target"].dataset.folder))
    assert len(folders) == len(cases)


def test_gradients_want_the_images(images: Path) -> None:
    fitted(images, **THIN, gradient_weight=1.0)  # nothing is frozen: the images are kept
    frozen = {**THIN, "gradient_weight": 1.0, "frozen": ["block0.0"]}
    with pytest.raises(AttnBridgeError, match=r"leave data\.views or model\.frozen out"):
        fitted(images, **frozen)


def test_views_without_a_teacher_are_kept_images(images: Path) -> None:
    data = fitted(images, **{**TAUGHT, "teacher": None})[1]
    batch, _, _ = next(iter(data.train_dataloader()))
    assert batch["target"]["image"].dtype == torch.uint8
    assert set(batch["target"]) == {"image", "labels", "domain", "id"}
