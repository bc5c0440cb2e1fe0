"""Scores at each image's own size, of several views and refined, against plain computations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from attnbridge.data.images import ImageRecord
from attnbridge.data.modules.cues import CueDataModule
from attnbridge.data.modules.loaders import LoaderDataModule
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.data.palette import palette_png
from attnbridge.data.text import write_rows
from attnbridge.data.transforms import eval_transform
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.folders import segment
from attnbridge.evaluation.folders.segment import MapSegmenter, NetworkSegmenter, write_masks
from attnbridge.evaluation.metrics.segmentation import MapSegmentation
from attnbridge.evaluation.settings import THRESHOLDS, EvaluationSettings
from attnbridge.evaluation.tasks import maps as map_task
from attnbridge.evaluation.tasks.maps import MapTask
from attnbridge.evaluation.tasks.masks import MaskTask, inference_of
from attnbridge.evaluation.views import Views
from attnbridge.methods.attnbn import AttnBN
from attnbridge.methods.segmentation import Segmentation
from attnbridge.models.classifiers import Classifier
from attnbridge.segmentation.combine import combine_maps, enlarge_maps
from attnbridge.segmentation.crf import CRF, mean_field
from tests.runs import make_trainer

CLASSES = ("cat", "dog", "owl")
SIZES = ((30, 50), (44, 28), (36, 36))
GIVEN = (32, 48)
KINDS = pytest.mark.parametrize("shape", ["stretch", "pad"])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Images of three sizes, noise with a square of each of their classes; a border of the masks is ignored."""
    numbers = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        root = tmp_path / "target" / split
        for part in ("images", "masks"):
            (root / part).mkdir(parents=True)
        rows = [["id", *CLASSES]]
        for number, (height, width) in enumerate(SIZES):
            image = numbers.integers(0, 256, (height, width, 3), np.uint8)
            mask = np.zeros((height, width), np.uint8)
            shown = sorted({number, (number + len(split)) % 3})
            for c in shown:
                top, left = int(numbers.integers(0, height - 20)), int(numbers.integers(0, width - 20))
                mask[top : top + 14 + c, left : left + 18] = c + 1
                image[top : top + 14 + c, left : left + 18] = (80 * c, 255 - 80 * c, 128)
            mask[:2] = 255
            Image.fromarray(image).save(root / "images" / f"{number}.png")
            palette_png(mask).save(root / "masks" / f"{number}.png")
            rows.append([str(number), *(str(int(c in shown)) for c in range(3))])
        write_rows(root / "labels.csv", rows)
    return tmp_path / "target"


def data_of(target: Path, shape: Any, **options: Any) -> SourceTargetDataModule:
    return SourceTargetDataModule(
        None, str(target), image_size=GIVEN, shape=shape, batch_size=2, workers=0, **options
    )  # fmt: skip


def method_of(**options: Any) -> AttnBN:
    L.seed_everything(5, verbose=False)
    small: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "stride": 8, "image_size": GIVEN}
    none = dict.fromkeys(("source_weight", "attention_weight", "adversarial_weight"), 0.0)
    return AttnBN(CLASSES, **small, **none, target_weight=1.0, **options).eval()


def scored(
    data: Any, method: Any, kind: Callable[..., Any] = MapTask.of, **settings: Any
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The task, its scores, its protocol."""
    task = kind(data, EvaluationSettings(score_threshold=0.45, **settings))
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.callbacks.append(task.scores)  # type: ignore[attr-defined]
    return task, task.evaluate(method, trainer), task.protocol()


# ---- Plain computations


def at(values: Any, y: float, x: float) -> Any:
    """The value between four of an array's, the nearest beyond its border; ``y`` and ``x`` count from the first's
    centre."""
    height, width = values.shape
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    above = values[top, left] * (1 - u) + values[top, right] * u
    below = values[down, left] * (1 - u) + values[down, right] * u
    return above * (1 - v) + below * v


def enlarged(values: Any, height: int, width: int, share: tuple[float, float] = (1.0, 1.0)) -> Any:
    """The middle of an array, so much of its height and width, at another size."""
    found = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = 0.5 + ((i + 0.5) / height - 0.5) * share[0]
            x = 0.5 + ((j + 0.5) / width - 0.5) * share[1]
            found[i, j] = at(values, y * values.shape[0] - 0.5, x * values.shape[1] - 0.5)
    return found


def over_image(values: Any, height: int, width: int, shape: str) -> Any:
    """A map of an image that was given to the network, at the image's own size."""
    if shape == "pad":  # to the aspect ratio of what the network is given
        aspect = GIVEN[1] / GIVEN[0]
        share = (height / max(height, round(width / aspect)), width / max(width, round(height * aspect)))
        values = enlarged(values, *values.shape, share)
    return enlarged(values, height, width)


def split_of(target: Path, split: str) -> list[tuple[Path, Any, Any]]:
    """Image, mask and labels of each image."""
    rows = [line.split(",") for line in (target / split / "labels.csv").read_text().split()[1:]]
    folder = target / split
    return [
        (
            folder / f"images/{n}.png",
            np.array(Image.open(folder / f"masks/{n}.png")),
            np.array([int(v) for v in values]),
        )
        for n, *values in rows
    ]


def given(path: Path, shape: Any) -> Tensor:
    """An image as the network is given it."""
    from torchvision import tv_tensors

    pixels = tv_tensors.Image(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1))
    return eval_transform(GIVEN, shape)(pixels).as_subclass(Tensor)[None].float() / 255


def plain_curves(method: AttnBN, target: Path, split: str, shape: str, look: Any) -> dict[str, list[float]]:
    """mIoU at each threshold, classes by prediction and by labels: a pixel at a time."""
    confusion = {mode: np.zeros((19, 4, 4), np.int64) for mode in ("predicted", "labels")}
    for path, mask, labels in split_of(target, split):
        images = given(path, shape)
        scores = method.predict_batch(images)["scores"][0].numpy()
        heat = [over_image(m, *mask.shape, shape) for m in look(images)[0].double().numpy()]
        heat = [m / max(m.max(), 1e-8) for m in heat]
        for mode, present in (("predicted", scores > 0.45), ("labels", labels > 0)):
            order = sorted(np.flatnonzero(present), key=lambda c: -scores[c])
            for t, threshold in enumerate(THRESHOLDS):
                for i, j in zip(*np.nonzero(mask != 255), strict=True):
                    found = next((c + 1 for c in order if heat[c][i, j] > threshold), 0)
                    confusion[mode][t, mask[i, j], found] += 1
    return {mode: [miou_of(one) for one in counts] for mode, counts in confusion.items()}


def miou_of(confusion: Any) -> float:
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return float(np.mean([h / u for h, u in zip(hits, union, strict=True) if u]))


def one_look(method: AttnBN) -> Callable[[Tensor], Tensor]:
    return lambda images: method.predict_batch(images)["maps"]


def several_looks(method: AttnBN, scales: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """The mean over scales and mirror images, each map to its own maximum, of maps made one by one."""

    def look(images: Tensor) -> Tensor:
        size, found = one_look(method)(images).shape[2:], []
        for scale in scales:
            sides = [round(side * scale) for side in GIVEN]
            scaled = F.interpolate(images, sides, mode="bilinear", antialias=scale < 1) if scale != 1 else images
            for mirrored in (False, True):
                maps = one_look(method)(scaled.flip(3) if mirrored else scaled)
                maps = F.interpolate(maps.flip(3) if mirrored else maps, size, mode="bilinear")
                found.append(maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-8))
        return torch.stack(found).mean(0)

    return look


# ---- Class maps


@KINDS
def test_a_score_at_own_size_is_the_plain_one(target: Path, shape: str) -> None:
    method = method_of()
    _, scores, protocol = scored(data_of(target, shape), method, size="own")
    curves = {s: plain_curves(method, target, s, shape, one_look(method)) for s in ("val", "test")}
    for mode in ("predicted", "labels"):
        assert scores[mode]["curve"] == pytest.approx(curves["test"][mode], abs=2e-5)
        assert scores[mode]["threshold"] == THRESHOLDS[int(np.argmax(curves["val"][mode]))]
        assert len(set(scores[mode]["curve"])) > 3
    assert protocol["resolution"] == (
        "images at (32, 48) pixels, maps enlarged to each image's own size, and masks at that, one scale, not flipped "
        "or refined"
    )
    _, before, protocol = scored(data_of(target, shape), method)
    assert before["predicted"]["curve"] != scores["predicted"]["curve"]
    assert before["map"] == scores["map"]
    assert protocol["resolution"] == "images and masks at (32, 48) pixels, one scale, not flipped or refined"


@KINDS
def test_maps_of_several_scales_and_mirror_images_are_their_mean(target: Path, shape: str) -> None:
    method, scales = method_of(), (0.5, 1.0, 1.5)
    task, scores, protocol = scored(data_of(target, shape), method, size="own", scales=scales, flip=True)
    plain = plain_curves(method, target, "test", shape, several_looks(method, scales))
    for mode in ("predicted", "labels"):
        assert scores[mode]["curve"] == pytest.approx(plain[mode], abs=2e-5)
    assert protocol["resolution"].endswith(
        "masks at that, the mean of the scales 0.5, 1.0, 1.5 and their mirror images, not refined"
    )
    assert task.evaluation() == {
        "threshold": 0.5, "score_threshold": 0.45, "size": "own", "scales": scales, "flip": True, "crf": False,
    }  # fmt: skip


def test_views_are_those_of_cues_and_of_explain(target: Path) -> None:
    """One view through the same door as several gives the maps of the method itself."""
    method = method_of()
    images = torch.cat([given(path, "stretch") for path, *_ in split_of(target, "val")])
    present = torch.tensor([[True, False, True]] * 3)
    found = map_task.view_maps(method, images, present, Views())
    torch.testing.assert_close(found, method.predict_batch(images)["maps"] * present[:, :, None, None])
    looked = map_task.view_maps(method, images, present, Views((0.5, 1.0), True))
    wanted = several_looks(method, (0.5, 1.0))(images) * present[:, :, None, None]
    torch.testing.assert_close(looked, wanted)


@pytest.mark.parametrize("present", ["predicted", "labels"])
def test_curves_of_images_of_any_size_are_those_of_combined_maps(present: Any) -> None:
    metric = MapSegmentation(5, present)
    counts = torch.zeros(19, 6, 6, dtype=torch.long)
    for height, width in ((7, 31), (50, 20), (33, 64), (1, 1)):
        scores, maps, labels = torch.rand(1, 5), torch.rand(1, 5, 4, 6), (torch.rand(1, 5) > 0.4).float()
        mask = torch.randint(0, 6, (1, height, width))
        mask[torch.rand(mask.shape) < 0.1] = 255
        metric.update(scores, maps, mask, labels)
        shown = scores > 0.5 if present == "predicted" else labels > 0
        found = combine_maps(enlarge_maps(maps, (height, width)), scores, shown, torch.tensor(THRESHOLDS)).long()
        for t in range(19):
            pairs = zip(mask[mask != 255].tolist(), found[t][mask != 255].tolist(), strict=True)
            for truth, label in pairs:
                counts[t, truth, label] += 1
    assert torch.equal(metric.confusion, counts)


@pytest.mark.parametrize("size", ["network", "own"])
def test_refined_masks_are_those_of_the_threshold_of_validation(target: Path, size: Any) -> None:
    method, data = method_of(), data_of(target, "pad")
    _, before, _ = scored(data, method, size=size)
    task, scores, protocol = scored(data, method, size=size, crf=True)
    assert {**before, "predicted": 0, "labels": 0} == {**scores, "predicted": 0, "labels": 0}
    batch = {name: data.samples("test", 3)[0][name] for name in ("image",)}  # type: ignore[literal-required]
    assert batch["image"].shape == (3, *GIVEN)
    for mode in ("predicted", "labels"):
        assert {**scores[mode], **before[mode]} == scores[mode]
        confusion = np.zeros((4, 4), np.int64)
        for sample, (path, own, labels) in zip(data.samples("test", 3), split_of(target, "test"), strict=True):
            mask = own if size == "own" else sample["mask"].numpy()
            pixels = np.array(Image.open(path)) if size == "own" else (sample["image"] * 255).round().byte().numpy()
            image = torch.from_numpy(pixels).permute(2, 0, 1) if size == "own" else torch.from_numpy(pixels)
            look = method.predict_batch(sample["image"][None])
            heat = look["maps"]
            if size == "own":
                large = np.stack([over_image(m.numpy(), *mask.shape, "pad") for m in heat[0]])
                heat = torch.from_numpy(large).float()[None]
            heat = enlarge_maps(heat, mask.shape)
            present = look["scores"] > 0.45 if mode == "predicted" else torch.tensor(labels)[None] > 0
            found = combine_maps(heat, look["scores"], present, torch.tensor([scores[mode]["threshold"]]))[0, 0].long()
            count = int(present.sum())
            if count:
                values = torch.tensor([0, *(int(c) + 1 for c in present[0].nonzero())])
                unary = torch.stack([torch.where(found == v, 0.7, 0.3 / count) for v in values])
                better = mean_field(image[None], unary[None], CRF.of_size(*mask.shape))
                found = values[better[0].argmax(0)]
            np.add.at(confusion, (mask[mask != 255], found.numpy()[mask != 255]), 1)
        assert scores[mode]["miou_crf"] == pytest.approx(miou_of(confusion), abs=1e-6)
    assert "refined by a dense CRF: miou_crf" in protocol["crf"]
    assert "not refined" not in protocol["resolution"]
    said = task.summary({"scores": scores, "classes": list(CLASSES)})  # type: ignore[typeddict-item]
    assert f"; {100 * scores['predicted']['miou_crf']:.1f} refined by the CRF" in said[0]


def test_a_split_for_validation_alone_is_refined_at_its_own_threshold(target: Path) -> None:
    for path in sorted((target / "test").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (target / "test").rmdir()
    _, scores, protocol = scored(data_of(target, "stretch"), method_of(), size="own", crf=True)
    assert protocol["split"] == "val"
    assert 0 < scores["labels"]["miou_crf"] <= 1
    assert scores["labels"]["miou_best"] == scores["labels"]["miou_oracle"]


def test_views_and_sizes_wait_for_the_trained_network(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass after an epoch takes one view at the network's size."""
    calls: list[str] = []
    look = map_task.view_maps
    monkeypatch.setattr(map_task, "view_maps", lambda *given: calls.append("view") or look(*given))
    data, method = data_of(target, "stretch"), method_of()
    task = MapTask.of(data, EvaluationSettings(size="own", scales=(0.5, 1.0), flip=True))
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.callbacks.append(task.scores)  # type: ignore[attr-defined]
    trainer.fit(method, data)
    assert calls == []
    while_training = task.scores.iou["val"]
    assert len(while_training) == 2
    task.evaluate(method, trainer)
    assert len(calls) == 4


def test_own_sizes_need_files(target: Path) -> None:
    loader = data_of(target, "stretch").val_dataloader()
    data = LoaderDataModule({"target": loader}, CLASSES, GIVEN, val=loader)  # type: ignore[dict-item, arg-type]
    for task in (MapTask, MaskTask):
        with pytest.raises(AttnBridgeError, match=r"evaluation\.size is own, but the data are loaders"):
            task.of(data, EvaluationSettings(size="own"))


def test_boxes_and_named_values_are_masks_at_their_own_size(target: Path) -> None:
    images = data_of(target, "stretch").own_images("val")
    path = target / "val/images/1.png"
    boxed = ImageRecord("a", path, (0,), boxes=((0, 1, 2, 5, 6),))
    mask = images.own_mask(boxed)
    assert mask is not None
    assert mask.shape == SIZES[1]
    assert mask[2:6, 1:5].eq(1).all()
    assert mask.sum() == 16
    named = ImageRecord("b", path, (0,), mask=target / "val/masks/1.png", values=(0, 3, 255, 1))
    plain, meant = images.own_mask(images.records[1]), images.own_mask(named)
    assert plain is not None
    assert meant is not None
    assert torch.equal(meant, torch.tensor([0, 3, 255, 1] + [255] * 252, dtype=torch.uint8)[plain.long()])


def test_the_masks_of_a_folder_are_those_that_were_scored(target: Path, tmp_path: Path) -> None:
    """`attnbridge segment` of a run scored by several views and a CRF."""
    method = method_of()
    settings: dict[str, Any] = {"scales": (0.5, 1.0), "flip": True, "crf": True}
    _, scores, _ = scored(data_of(target, "pad"), method, size="own", **settings)
    mean, std = (tuple(v.flatten().tolist()) for v in (method.mean, method.std))
    known = Classifier("x", method.network, CLASSES, GIVEN, mean, std, method.layer, "sigmoid", shape="pad")
    segmenter = MapSegmenter(known, scores["predicted"]["threshold"], 0.45, Views((0.5, 1.0), True), True)
    assert segmenter.made_of().items() >= {"scales": [0.5, 1.0], "flip": True, "crf": True}.items()
    images = {path.name: path for path, *_ in split_of(target, "test")}
    assert write_masks(segmenter, images, tmp_path / "out") == []
    confusion = np.zeros((4, 4), np.int64)
    for path, mask, _ in split_of(target, "test"):
        found = np.array(Image.open(tmp_path / "out" / path.name))
        np.add.at(confusion, (mask[mask != 255], found[mask != 255]), 1)
    assert scores["predicted"]["miou_crf"] == pytest.approx(miou_of(confusion), abs=1e-6)
    assert {"scales", "flip", "crf"}.isdisjoint(MapSegmenter(known, 0.5).made_of())


# ---- Segmentation networks


@KINDS
@pytest.mark.parametrize("crf", [False, True])
def test_a_segmentation_network_is_scored_by_the_masks_of_a_folder(
    target: Path, tmp_path: Path, shape: Any, crf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment.NetworkSegmenter, "answer", full_precision(segment.NetworkSegmenter.answer))
    L.seed_everything(1, verbose=False)
    method = Segmentation(CLASSES, backbone="resnet10t", weights="none", image_size=GIVEN, head_width=16).eval()
    method.predict_batch = by_colour  # type: ignore[method-assign, assignment]
    data = CueDataModule(
        source=None, target=str(target), image_size=GIVEN, shape=shape, batch_size=2, workers=0
    )  # fmt: skip
    settings: dict[str, Any] = {"size": "own", "scales": (1.0, 1.5), "flip": True, "crf": crf}
    task = MaskTask.of(data, EvaluationSettings(**settings))
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.callbacks.append(task.scores)  # type: ignore[attr-defined]
    scores = task.evaluate(method, trainer)
    segmenter = NetworkSegmenter(method, shape, inference_of(EvaluationSettings(**settings)))
    images = {path.name: path for path, *_ in split_of(target, "test")}
    assert write_masks(segmenter, images, tmp_path / "out") == []
    refined, plain = np.zeros((4, 4), np.int64), np.zeros((4, 4), np.int64)
    for path, mask, _ in split_of(target, "test"):
        found = np.array(Image.open(tmp_path / "out" / path.name))
        np.add.at(refined, (mask[mask != 255], found[mask != 255]), 1)
        answer = method.predict_batch(given(path, shape))["probabilities"][0].double().numpy()
        own = np.stack([over_image(each, *mask.shape, shape) for each in answer]).argmax(0)
        np.add.at(plain, (mask[mask != 255], own[mask != 255]), 1)
    assert all(np.count_nonzero(counts.sum(0)) > 1 for counts in (refined, plain))
    assert scores["miou"] == pytest.approx(miou_of(refined), abs=1e-6)
    assert scores["plain"]["miou"] == pytest.approx(miou_of(plain), abs=1e-6)
    where = ", where the CRF sees it" if crf else ""
    assert task.protocol()["resolution"] == (
        f"images at (32, 48) pixels, answers enlarged to each image's own size{where}, and masks at that"
    )
    assert task.evaluation() == {**settings, "combine": "mean", "corners": False}


def by_colour(images: Tensor) -> dict[str, Tensor]:
    """Probabilities of the labels by the colours of patches, of which no two answers are the same."""
    weights = torch.tensor([[1.0, -1.0, 0.2], [0.1, 1.0, -1.0], [-1.0, 0.3, 1.0], [0.4, 0.4, -0.9]])
    logits = torch.einsum("lc,bchw->blhw", 12 * weights, F.avg_pool2d(images, 8) - 0.5)
    return {"probabilities": logits.softmax(1)}


def full_precision(answer: Any) -> Any:
    """What goes to the processes of a folder in half precision, in full: ties are then those of the scores."""

    def whole(self: Any, path: Path, present: Any) -> Any:
        half = Tensor.half
        try:
            Tensor.half = lambda values: values  # type: ignore[method-assign, assignment]
            return answer(self, path, present)
        finally:
            Tensor.half = half  # type: ignore[method-assign]

    return whole
