"""VOC's difficult objects in average precision, and splits that are scored by labels alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import Tensor

from attnbridge import fit, load_run
from attnbridge.data.checks import check_cues, check_source_target
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.modules.cues import CueDataModule
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.data.palette import palette_png
from attnbridge.data.transforms import eval_transform
from attnbridge.data.voc import VOC_CLASSES, scan_voc
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.metrics.segmentation import LabelPrecision
from attnbridge.evaluation.settings import EvaluationSettings
from attnbridge.evaluation.tasks.labels import LabelTask
from attnbridge.evaluation.tasks.maps import MapTask
from attnbridge.evaluation.tasks.masks import MaskTask
from attnbridge.experiments.runs import Run
from tests.evaluation.test_own_size import method_of
from tests.runs import make_trainer

CAT, DOG, PERSON = (VOC_CLASSES.index(name) for name in ("cat", "dog", "person"))
OBJECTS: list[list[tuple[str, int]]] = [
    [("cat", 0), ("dog", 1)],  # the dog does not count
    [("cat", 1), ("cat", 0)],  # one of two is difficult: the cat is there
    [("dog", 0), ("person", 1)],
    [("person", 1)],  # nothing is sure
    [("person", 0), ("cat", 1), ("dog", 1)],
    [("dog", 0)],
]


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """VOC's layout: six annotated images in `Main`, of which three have masks, in `Segmentation`."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for i, objects in enumerate(OBJECTS):
        pixels = numbers.integers(0, 256, (40 + i, 60 - 3 * i, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"JPEGImages/{i}.jpg", quality=95)
        parts = [f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in objects]
        (root / f"Annotations/{i}.xml").write_text(f"<annotation>{''.join(parts)}</annotation>")
        if i < 3:
            mask = np.zeros(pixels.shape[:2], np.uint8)
            mask[5:25, 5:25] = VOC_CLASSES.index(objects[0][0]) + 1
            palette_png(mask).save(root / f"SegmentationClass/{i}.png")
    names = [str(i) for i in range(len(OBJECTS))]
    for part in ("train", "val"):
        (root / f"ImageSets/Segmentation/{part}.txt").write_text("\n".join(names[:3]))
        (root / f"ImageSets/Main/{part}.txt").write_text("\n".join(names))
    return root


LISTS = {"val": "Main/val", "test": "Main/val"}


def precision_of(logits: Tensor, labels: Tensor, difficult: Tensor) -> float:
    """The mean over the classes that occur, each over the images in which it is not difficult."""
    kept = [~difficult[:, c] for c in range(labels.shape[1])]
    return float(
        np.mean(
            [
                average_precision_score(labels[kept[c], c].numpy(), logits[kept[c], c].numpy())
                for c in range(labels.shape[1])
                if labels[kept[c], c].any()
            ]
        )
    )


@pytest.mark.parametrize("batch", [1, 7, 80])
def test_difficult_pairs_are_left_out_of_average_precision(batch: int) -> None:
    labels = (torch.rand(80, 6) > 0.7).float()
    difficult = torch.rand(80, 6) > 0.8
    labels[difficult] = 0
    labels[:, 4] = 0  # a class that does not occur
    difficult[:, 5], labels[:, 5] = labels[:, 5] == 1, 0  # one that is difficult wherever it is
    logits = torch.randn(80, 6) + labels + 2 * difficult
    metric, blind = LabelPrecision(6), LabelPrecision(6)
    for part in zip(logits.split(batch), labels.split(batch), difficult.split(batch), strict=True):
        metric.update(*part)
        blind.update(*part[:2])
    wanted = precision_of(logits, labels, difficult)
    assert float(metric.compute()) == pytest.approx(wanted, abs=1e-12)
    assert float(blind.compute()) == pytest.approx(precision_of(logits, labels, torch.zeros_like(difficult)), abs=1e-12)
    assert float(blind.compute()) < wanted - 0.05


def test_a_batch_without_difficult_pairs_may_stand_among_others() -> None:
    metric = LabelPrecision(2)
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]))
    metric.update(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[True, False]]))
    assert metric.compute() == 1


def test_a_class_that_is_only_difficult_is_neither_there_nor_absent(kit: Path) -> None:
    records = scan_voc(kit, VOC_CLASSES, "Main/val")
    assert [r.classes for r in records] == [(CAT,), (CAT,), (DOG,), (), (PERSON,), (DOG,)]
    assert [r.difficult for r in records] == [(DOG,), (), (PERSON,), (PERSON,), (CAT, DOG), ()]
    some = scan_voc(kit, ("dog", "sofa"), "Main/val")  # of another order
    assert [r.difficult for r in some] == [(0,), (), (), (), (0,), ()]


def test_only_what_is_scored_says_what_is_difficult(kit: Path) -> None:
    """What is trained on does not know of it, and a data set without difficult objects has no such field."""
    data = SourceTargetDataModule(
        None, str(kit), image_size=(32, 48), batch_size=2, workers=0, lists=LISTS, masks=False
    )
    batch = next(iter(data.val_dataloader()))  # type: ignore[arg-type]
    assert batch["difficult"].dtype == torch.bool
    assert batch["difficult"].nonzero().tolist() == [[0, DOG]]
    assert "mask" not in batch
    data.request = method_of().data_request()
    training = data._training_sets()["target"][0]
    assert set(training) == {"image", "labels", "domain", "id"}
    assert training["labels"].nonzero().flatten().tolist() == [CAT]
    plain = [record for record in scan_voc(kit, VOC_CLASSES, "Main/val") if not record.difficult]
    known = ImageDataset(plain, 20, "target", eval_transform(32), difficult=True)
    assert "difficult" not in known[0]


def scored(kit: Path, **options: Any) -> tuple[Any, dict[str, Any], Any]:
    from attnbridge.methods.attnbn import AttnBN

    known = method_of()
    method = AttnBN(**{**known.hparams, "classes": VOC_CLASSES}).eval()
    data = SourceTargetDataModule(None, str(kit), image_size=(32, 48), batch_size=4, workers=0, **options)
    task = MapTask.of(data, EvaluationSettings())
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.callbacks.append(task.scores)  # type: ignore[attr-defined]
    return task, task.evaluate(method, trainer), method


@pytest.mark.parametrize(("lists", "masks"), [(LISTS, False), ({"test": "val"}, True)], ids=["labels", "masks"])
def test_the_scores_of_a_kit_leave_them_out(kit: Path, lists: dict[str, str], masks: bool) -> None:
    """With masks and without: the mAP and the accuracy of a plain computation, which blind ones are not."""
    task, scores, method = scored(kit, lists=lists, masks=masks)
    assert isinstance(task, MapTask if masks else LabelTask)
    records = scan_voc(kit, VOC_CLASSES, "val" if masks else "Main/val")
    images = ImageDataset(records, 20, "target", eval_transform((32, 48)))
    logits = torch.cat([method.predict_batch(images[i]["image"][None])["logits"] for i in range(len(records))])
    labels = torch.stack([images[i]["labels"] for i in range(len(records))])
    difficult = torch.zeros(len(records), 20, dtype=torch.bool)
    for i, record in enumerate(records):
        difficult[i, list(record.difficult)] = True
    assert scores["map"] == pytest.approx(precision_of(logits, labels, difficult), abs=1e-9)
    right = ((logits.sigmoid() > 0.5) == (labels > 0))[~difficult]
    assert scores["accuracy"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    assert len(right) < labels.numel()


def test_labels_alone_make_a_run(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"source": None, "saliency": None, "target": str(kit), "lists": LISTS, "masks": False}
    small = {"image_size": 32, "batch_size": 2, "workers": 0, "views": None}
    weights = {"source_weight": 0, "attention_weight": 0, "adversarial_weight": 0}
    run = fit(
        "attnbn",
        data={**options, **small},
        out=tmp_path / "run",
        model={"backbone": "resnet10t", "weights": "none", "frozen": [], **weights},
        trainer={"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    )
    record = json.loads((run.folder / "run.json").read_text())
    assert record["task"].endswith("labels:LabelTask")
    assert set(record["scores"]) == {"map", "accuracy", "val_map"}
    assert 0 < record["scores"]["map"] <= 1
    assert record["evaluation"] == {"score_threshold": 0.5}
    assert "none are read (data.masks is false)" in record["protocol"]["masks"]
    page = run.report.read_text()
    assert f"{100 * record['scores']['map']:.1f}" in page
    assert "no map is scored" in page
    assert "difficult objects" in page
    again = load_run(run.folder).rescore(score_threshold=0.3)
    assert again.scores["map"] == record["scores"]["map"]
    with pytest.raises(AttnBridgeError, match=r"do not depend on evaluation\.size; they do on score_threshold"):
        Run(run.folder).rescore(size="own")


def test_masks_that_are_missing_are_named_unless_none_are_wanted(kit: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"3\.png: no such file; expected the mask of 3"):
        check_source_target(False, target=str(kit), lists=LISTS)
    check_source_target(False, target=str(kit), lists=LISTS, masks=False)
    with pytest.raises(AttnBridgeError, match=r"data\.masks is false, but a segmentation network is scored by masks"):
        check_cues(False, target=str(kit), lists=LISTS, masks=False)
    data = CueDataModule(source=None, target=str(kit), lists=LISTS, masks=False)
    with pytest.raises(AttnBridgeError, match=r"data\.masks is false, but a segmentation network is scored by masks"):
        MaskTask.of(data, EvaluationSettings())


def test_a_kit_is_scored_at_its_images_own_sizes(kit: Path) -> None:
    """The values of a mask stand for the classes, and those of other classes are ignored."""
    data = SourceTargetDataModule(None, str(kit), image_size=(32, 48), batch_size=4, workers=0)
    images = data.own_images("val")
    sizes = {record.id: images.own_mask(record) for record in images.records}
    assert {name: None if mask is None else tuple(mask.shape) for name, mask in sizes.items()} == {
        "0.jpg": (40, 60), "1.jpg": (41, 57), "2.jpg": (42, 54),
    }  # fmt: skip
    few = ImageDataset(scan_voc(kit, ("dog",), "val", masks=True), 1, "target", eval_transform(32))
    first, third = few.own_mask(few.records[0]), few.own_mask(few.records[2])
    assert first is not None
    assert third is not None
    assert (first.unique().tolist(), third.unique().tolist()) == ([0, 255], [0, 1])
