"""Loaders of one's own: what each stream is given, what is refused, and the scores of `trainer.validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from attnbridge import fit
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.metrics.masks import label_iou
from attnbridge.evaluation.metrics.segmentation import LabelPrecision
from attnbridge.evaluation.tasks.classification import ClassScores
from attnbridge.evaluation.tasks.labels import LabelScores
from attnbridge.evaluation.tasks.masks import MaskScores
from attnbridge.methods import load_method
from tests.runs import SMALL, make_data, make_method, make_trainer

CLASSES = ["a", "b", "c"]
COUNT = 8


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)))


IMAGES = drawn(COUNT, 3, 32, 32)
LABELS = torch.arange(COUNT) % 3
HOT = (drawn(COUNT, 3) > 0.4).float()
MASKS = (drawn(COUNT, 32, 32) * 4).long()
MASKS[:, :4] = 255


def loader(*parts: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*parts), batch_size=3)


PLAIN = loader(IMAGES, LABELS)


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return load_method(name)(CLASSES, **{**SMALL, "image_size": 32, **options})


def validating(*callbacks: L.Callback) -> L.Trainer:
    return make_trainer(limit_val_batches=1.0, callbacks=list(callbacks))


@pytest.mark.parametrize("images", [IMAGES, (IMAGES * 255).byte()])
@pytest.mark.parametrize("labels", [LABELS, F.one_hot(LABELS, 3)])
def test_a_plain_loader_trains_as_the_librarys_batches_do(images: Tensor, labels: Tensor) -> None:
    ends = []
    named = [{"image": image, "labels": hot} for image, hot in zip(images, F.one_hot(LABELS, 3).float(), strict=True)]
    for batches in (loader(images, labels), {"target": DataLoader(named, batch_size=3)}):  # type: ignore[arg-type, var-annotated]
        method = made("fine_tuning")
        make_trainer(max_epochs=2).fit(method, batches)
        ends.append(method.state_dict())
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def test_labels_that_are_to_be_withheld_are_and_masks_stay_out() -> None:
    salient, masked = (next(iter(loader(IMAGES, LABELS, third))) for third in (IMAGES[:, 0], MASKS))
    method = made("attnbn", target_weight=0, adversarial_weight=0.1)
    found = method.stream_batches({"source": salient, "target": masked})
    assert found["target"]["labels"].isnan().all()
    assert torch.equal(found["source"]["labels"], F.one_hot(LABELS[:3], 3).float())
    assert torch.equal(found["source"]["saliency"], IMAGES[:3, 0])
    assert "mask" not in found["target"]
    guided = made("gain", guidance_weight=1.0)
    found = guided.stream_batches({"target": masked, "guided": masked})
    assert "mask" not in found["target"]
    assert torch.equal(found["guided"]["mask"], MASKS[:3])
    assert guided.data_request().masks == ("guided",)


@pytest.mark.parametrize(
    ("name", "options", "loaders", "words"),
    [
        ("attnbn", {}, PLAIN, r"AttnBN learns from the stream 'source', but was given the batches of one loader; give"),
        ("attnbn", {}, {"source": PLAIN}, r"stream 'target', but was given only source; give the trainer a mapping of"),
        ("attnbn", {}, {"source": PLAIN, "target": PLAIN}, "attention constraint needs saliency maps"),
        ("gain", {"guidance_weight": 1.0}, {"target": PLAIN, "guided": PLAIN}, "guidance needs masks"),
        ("segmentation", {"head_width": 8}, PLAIN, r"has no cues; give \(images, labels, masks\), 255 where none"),
        ("fine_tuning", {}, loader(3 * IMAGES - 1, LABELS), r"must be in \[0, 1\], but go from -.*Normalize out"),
        ("fine_tuning", {}, loader(255 * IMAGES, LABELS), r"must be in \[0, 1\], but go from .*divide 8 bits by"),
        ("fine_tuning", {}, loader(IMAGES, 2 * F.one_hot(LABELS, 3)), "labels must be 1 for each .*go from 0 to 2"),
        ("attnbn", {}, {"source": loader(IMAGES, LABELS, 255 * IMAGES[:, 0]), "target": PLAIN},
         "a batch of source: saliency must be floats in .*divide 8 bits by 255, but go from"),
        ("gain", {"guidance_weight": 1.0}, {"target": PLAIN, "guided": loader(IMAGES, LABELS, MASKS * 0 + 7)},
         "a batch of guided: masks must be 0, the background, 1 to 3, the classes, or 255, unknown, but hold 7"),
        ("fine_tuning", {}, DataLoader([{"pixel_values": IMAGES[0], "labels": 1}]),  # type: ignore[arg-type, list-item]
         "a batch of target has no 'image', but pixel_values, labels; give"),
        ("fine_tuning", {}, loader(IMAGES, LABELS + 1), "a batch of target: label 3 is of none of the 3 classes"),
        ("fine_tuning", {}, loader(IMAGES), r"a batch of target must be \(images, labels\).*is a list of 1"),
        ("domain_adaptation", {"coral_weight": 1.0, "generalise": True, "domains": ["a", "b"]}, {"source": PLAIN},
         "in generalization the sources are told apart by the ids"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_loaders_that_cannot_be_are_refused(name: str, options: dict[str, Any], loaders: Any, words: str) -> None:
    with pytest.raises(AttnBridgeError, match=words):
        make_trainer().fit(made(name, **options), loaders)


@pytest.mark.parametrize("name", ["fine_tuning", "attention_transfer", "domain_adaptation"])
def test_validate_returns_the_accuracy(name: str) -> None:
    method = made(name).eval()
    (scores,) = validating().validate(method, PLAIN, verbose=False)
    with torch.no_grad():
        right = method.network(method.normalised(IMAGES)).argmax(1) == LABELS
    assert scores == {"val/top1": pytest.approx(float(right.float().mean()))}
    assert method._scores is None  # nothing is kept


@pytest.mark.parametrize("name", ["attnbn", "gain"])
def test_validate_returns_the_mean_average_precision(name: str) -> None:
    method = made(name).eval()
    (scores,) = validating().validate(method, loader(IMAGES, HOT), verbose=False)
    with torch.no_grad():
        logits = method.network(method.normalised(IMAGES))
    metric = LabelPrecision(3)
    metric.update(logits, HOT)
    assert scores == {"val/map": pytest.approx(float(metric.compute()))}
    (tested,) = validating().test(method, loader(IMAGES, HOT), verbose=False)
    assert tested == {"test/map": scores["val/map"]}


def test_validate_returns_the_iou_of_a_segmentation_network() -> None:
    method = made("segmentation", head_width=8).eval()
    (scores,) = validating().validate(method, loader(IMAGES, LABELS, MASKS), verbose=False)
    probabilities = method.predict_batch(IMAGES)["probabilities"]
    large = F.interpolate(probabilities, (32, 32), mode="bilinear", align_corners=False).argmax(1)
    confusion = torch.zeros(4, 4, dtype=torch.long)
    for truth, found in zip(MASKS.flatten().tolist(), large.flatten().tolist(), strict=True):
        if truth != 255:
            confusion[truth, found] += 1
    assert scores == {"val/miou": pytest.approx(float(label_iou(confusion).nanmean()))}


def test_several_loaders_are_scored_apart_and_images_alone_are_not() -> None:
    method = made("fine_tuning").eval()
    half = loader(IMAGES[:4], LABELS[:4])
    scores: Any = validating().validate(method, [PLAIN, half], verbose=False)
    found = {name: value for each in scores for name, value in each.items()}
    assert set(found) == {"val/top1/0", "val/top1/1"}
    assert validating().validate(method, DataLoader([{"image": i} for i in IMAGES]), verbose=False) == [{}]  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize(
    ("name", "counts", "batches"),
    [
        ("fine_tuning", lambda: ClassScores(3), PLAIN),
        ("attnbn", lambda: LabelScores(3), loader(IMAGES, HOT)),
        ("segmentation", lambda: MaskScores(3), loader(IMAGES, LABELS, MASKS)),
    ],
)
def test_where_a_task_counts_the_method_does_not_and_they_agree(name: str, counts: Any, batches: Any) -> None:
    method = made(name, **({"head_width": 8} if name == "segmentation" else {})).eval()
    own = validating().validate(method, batches, verbose=False)[0]

    class Named(L.Callback):
        """Batches as the library's loaders give them, since a task's callback reads those."""

        def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
            assert pl_module._scores is None

    named = [
        {"image": image, "labels": label, **({"mask": mask} if name == "segmentation" else {})}
        for image, label, mask in zip(
            IMAGES, HOT if name == "attnbn" else F.one_hot(LABELS, 3).float(), MASKS, strict=True
        )
    ]
    theirs = validating(counts(), Named()).validate(method, DataLoader(named, batch_size=3), verbose=False)[0]  # type: ignore[arg-type, var-annotated]
    assert own
    assert {name: theirs[name] for name in own} == pytest.approx(own)
    assert validating().validate(method, batches, verbose=False)[0] == own  # and again, without the task


def test_predict_takes_plain_batches_and_images() -> None:
    method = made("fine_tuning").eval()
    for batches in (PLAIN, DataLoader(IMAGES, batch_size=3)):  # type: ignore[arg-type, var-annotated]
        answers: Any = make_trainer().predict(method, batches)
        assert sum(len(answer["scores"]) for answer in answers) == COUNT


def test_the_librarys_data_are_scored_without_a_task_too(scenes: Path) -> None:
    data = make_data(scenes, image_size=32)
    (scores,) = validating().validate(make_method(data, image_size=32).eval(), data, verbose=False)
    assert set(scores) == {"val/map"}


@pytest.mark.slow
def test_fit_takes_plain_loaders(tmp_path: Path) -> None:
    data = {"train": {"target": PLAIN}, "val": PLAIN, "classes": CLASSES, "image_size": 32}
    model = {"backbone": "resnet10t", "weights": "none", "lr": 1e-3, "frozen": []}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    run = fit("finetune/l2", data=data, out=tmp_path / "run", model=model, trainer=trainer)
    (scores,) = validating().validate(run.method(), PLAIN, verbose=False)
    assert run.scores["top1"] == pytest.approx(scores["val/top1"])
