"""An audit from images to tables: every kind of images, labels and objects, resuming, and what cannot be audited."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnbridge
from attnbridge import AttnBridgeError, Audit, audit
from attnbridge.data.palette import palette_png
from attnbridge.data.preparation import Preparation
from attnbridge.evaluation.audit.measure import Example, measure
from attnbridge.evaluation.audit.rows import ROWS
from attnbridge.evaluation.audit.run import GROUP, deal
from attnbridge.evaluation.audit.sources import list_audited
from attnbridge.evaluation.audit.tables import ClassRow, Doubt, ImageRow, Verdict
from tests.evaluation.audit_scenes import CLASSES, SIDE, ColourNet, classifier, draw, write_scenes

pytestmark = pytest.mark.usefixtures("module_cache")
COUNT = 22


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Class folders of two classes, and their masks."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), COUNT)


@pytest.mark.parametrize(("thing", "place", "verdict"), [(40, 0, Verdict.OBJECT), (0, 8, Verdict.BACKGROUND)])
def test_from_class_folders_and_masks(scenes: tuple[Path, Path], thing: float, place: float, verdict: Verdict) -> None:
    found = audit(classifier(thing, place), scenes[0], masks=scenes[1])
    assert [(row.name, row.images, row.trusted, row.verdict) for row in found.classes] == [
        ("boat", COUNT, COUNT, verdict),
        ("train", COUNT, COUNT, verdict),
    ]
    assert all(row.foreign for row in found.images)
    assert found.confusions == ()
    assert len(found.flagged) == (0 if verdict is Verdict.OBJECT else 2 * COUNT)
    assert {context.name for context in found.contexts} == (set() if place == 0 else {"boat", "train"})


def test_the_batch_changes_nothing(scenes: tuple[Path, Path]) -> None:
    one, many = (audit(classifier(40, 4), scenes[0], masks=scenes[1], batch=batch) for batch in (1, 16))
    for row, other in zip(one.images, many.images, strict=True):
        assert row.swapped == pytest.approx(other.swapped, rel=1e-5)
        assert (row.background, row.inside) == (other.background, pytest.approx(other.inside, rel=1e-5))


def test_a_network_with_its_preparation_is_the_classifier(scenes: tuple[Path, Path]) -> None:
    network = ColourNet(40, 4).train()
    how = Preparation(SIDE, (0.0,) * 3, (1.0,) * 3)
    found = audit(network, scenes[0], masks=scenes[1], classes=CLASSES, preparation=how, layer="act")
    assert found.images == audit(classifier(40, 4), scenes[0], masks=scenes[1]).images
    assert network.training
    with pytest.raises(AttnBridgeError, match="nothing says how images are prepared for ColourNet"):
        audit(network, scenes[0], masks=scenes[1])
    with pytest.raises(AttnBridgeError, match="classes is given, but a Classifier has its own"):
        audit(classifier(40, 0), scenes[0], classes=CLASSES)


def test_boxes_and_masks_of_every_kind_say_the_same(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = scenes
    expected = audit(classifier(40, 4), images, masks=masks)
    boxes, lines, labels = {}, ["id,class,left,top,right,bottom"], tmp_path / "labels"
    for row in expected.images:
        values = np.asarray(Image.open((masks / row.id).with_suffix(".png"))) > 0
        ys, xs = np.nonzero(values)
        boxes[row.id] = [(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)]
        name = row.id.split("/")[0]
        lines.append(",".join(map(str, [row.id.removesuffix(".png"), name, *boxes[row.id][0]])))
        (labels / name).mkdir(parents=True, exist_ok=True)
        palette = palette_png(values.astype(np.uint8) * (CLASSES.index(name) + 1))
        palette.save(labels / row.id)
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    for given in ({"boxes": boxes}, {"boxes": tmp_path / "boxes.csv"}, {"masks": labels}):
        found = audit(classifier(40, 4), images, **given)  # type: ignore[arg-type]
        assert found.images == expected.images


def test_masks_of_some_images(scenes: tuple[Path, Path]) -> None:
    images, masks = scenes
    some = {f"boat/{number:02}.png": masks / f"boat/{number:02}.png" for number in range(20)}
    found = audit(classifier(0, 8), images, masks=some)
    assert sum(row.doubt is Doubt.MISSING for row in found.images) == 2 * COUNT - 20
    boat, train = sorted(found.classes, key=lambda row: row.name)
    assert (boat.verdict, boat.trusted) == (Verdict.UNKNOWN, 20)  # in a group of boats with objects, none is foreign
    assert "of 22 images, 0 have an object to go by (no mask or box of its class is given" in train.reason


def test_labels_of_every_kind(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = scenes
    model = classifier(40, 4)
    expected = audit(model, images, masks=masks)
    names = {row.id: row.truth[0] for row in expected.images}
    for name in names:
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / name.replace("/", "-")).write_bytes((images / name).read_bytes())
    flat = {name.replace("/", "-"): label for name, label in names.items()}
    table = tmp_path / "flat" / "labels.csv"
    table.write_text("image,labels\n" + "".join(f"{name},{label}\n" for name, label in flat.items()))
    flat_masks = {name.replace("/", "-"): masks / name for name in names}
    for where, labels in ((tmp_path / "flat", table), (tmp_path / "flat", flat), (table, None)):
        found = audit(model, where, labels=labels, masks=flat_masks)
        assert {row.id: row.truth for row in found.images} == {name: (label,) for name, label in flat.items()}
        assert [row.inside for row in found.images] == pytest.approx([row.inside for row in expected.images])
    unlabelled = audit(model, tmp_path / "flat", masks=flat_masks)
    assert all(row.truth == () for row in unlabelled.images)
    assert unlabelled.confusions == ()
    listed = audit(model, [str(images / "boat"), images / "train"], masks=masks)
    assert listed.images == expected.images


def test_coco_gives_labels(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "annotations").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 4, "name": "boat"}]}
    for number in range(3):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / f"{number}.png").write_bytes((scenes[0] / f"boat/{number:02}.png").read_bytes())
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        corners = [[2, 2, 20, 2, 20, 20, 2, 20]]
        one = {"id": number, "image_id": number, "category_id": 4, "iscrowd": 0, "segmentation": corners, "area": 324}
        content["annotations"].append(one)
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(json.dumps(content))
    found = audit(classifier(40, 0), path, saliency="centre")
    assert [(row.id, row.truth) for row in found.images] == [(f"val/{number}.png", ("boat",)) for number in range(3)]


def test_saved_and_loaded(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    found = audit(classifier(0, 8), scenes[0], masks=scenes[1])
    assert Audit.load(found.save(tmp_path / "audit")) == found
    found.save(tmp_path / "audit")  # in its own place
    lines = (tmp_path / "audit" / "classes.csv").read_text().splitlines()
    assert lines[0].startswith("name,images,trusted,verdict,reason,accuracy_mean,accuracy_low")
    assert len((tmp_path / "audit" / "images.csv").read_text().splitlines()) == 2 * COUNT + 1
    with pytest.raises(AttnBridgeError, match="expected the folder of a finished audit"):
        Audit.load(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "classes.csv").write_text("mine")
    with pytest.raises(AttnBridgeError, match="was not written by attnbridge"):
        found.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "classes.csv").read_text() == "mine"


def test_a_notebook_sees_text_alone() -> None:
    row = ClassRow("<script>", 3, 3, Verdict.UNKNOWN, "<b>")
    shown = Audit((), (row,))._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "<b>" not in shown


def test_a_second_call_goes_on(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    model = classifier(40, 4)
    whole = audit(model, scenes[0], masks=scenes[1], out=tmp_path / "whole")
    assert Audit.load(tmp_path / "whole") == whole
    header, *lines = (tmp_path / "whole" / ROWS).read_text().splitlines(keepends=True)
    by_id = {json.loads(line)["id"]: line for line in lines}
    first, second, *_ = deal(list_audited(scenes[0], None, CLASSES))
    part = tmp_path / "part"
    audit(model, scenes[0], masks=scenes[1], out=part)
    some = [header, *(by_id[name] for name in [*first, *second[:4]]), by_id[second[4]][:40]]
    (part / ROWS).write_text("".join(some))
    calls = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    again = audit(model, scenes[0], masks=scenes[1], out=part)
    hook.remove()
    assert again.images == whole.images
    assert sum(calls) == 4 * (2 * COUNT - len(first))
    for name in ("images.csv", "classes.csv", "contexts.csv", "confusions.csv", ROWS):
        assert (part / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_holds_one_audit(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    audit(classifier(40, 4), scenes[0], masks=scenes[1], out=tmp_path)
    with pytest.raises(AttnBridgeError, match="holds an audit with objects = 'masks"):
        audit(classifier(40, 4), scenes[0], saliency="centre", out=tmp_path)
    with pytest.raises(AttnBridgeError, match="holds an audit with model = 'colours', not 'others'"):
        audit(replace(classifier(40, 4), name="others"), scenes[0], masks=scenes[1], out=tmp_path)


SLOW = """
import sys, time
from attnbridge import audit
from tests.evaluation.audit_scenes import classifier

model = classifier(40, 4)
model.network.register_forward_pre_hook(lambda *_: time.sleep(0.1))
audit(model, sys.argv[1], masks=sys.argv[2], out=sys.argv[3], batch=4)
"""


@pytest.mark.slow
def test_killed_and_called_again(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    """A real process, killed by SIGKILL once its first rows are written."""
    words = [sys.executable, "-c", SLOW, str(scenes[0]), str(scenes[1]), str(tmp_path / "out")]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    rows = tmp_path / "out" / ROWS
    until = time.monotonic() + 120
    while not (rows.is_file() and rows.read_bytes().count(b"\n") > 1):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = rows.read_text().splitlines()
    assert 1 < len(before) < 2 * COUNT + 1
    model = classifier(40, 4)
    assert audit(model, scenes[0], masks=scenes[1], out=tmp_path / "out", batch=4).images == (
        audit(model, scenes[0], masks=scenes[1], batch=4).images
    )
    assert {*before} <= {*rows.read_text().splitlines()}


def same(maps: Path, images: Path, value: int) -> None:
    """A map of one value for each image."""
    for path in images.glob("*/*.png"):
        (maps / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (SIDE, SIDE), value).save(maps / path.parent.name / path.name)


def of_another(maps: Path, images: Path, masks: Path) -> None:
    """The mask of the next image of the class for each image."""
    for folder in masks.iterdir():
        names = sorted(path.name for path in folder.iterdir())
        (maps / folder.name).mkdir(parents=True)
        for name, other in zip(names, [*names[1:], names[0]], strict=True):
            (maps / folder.name / name).write_bytes((folder / other).read_bytes())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda maps, images, _: same(maps, images, 0), "no object is found in 100%"),
        (lambda maps, images, _: same(maps, images, 255), "the object fills the image in 100%"),
        (of_another, "saliency means nothing here: edges along its outlines"),
    ],
)
def test_saliency_that_means_nothing(
    scenes: tuple[Path, Path], tmp_path: Path, make: Callable[[Path, Path, Path], None], words: str
) -> None:
    make(tmp_path / "maps", *scenes)
    found = audit(classifier(0, 8), scenes[0], saliency=tmp_path / "maps")
    assert [row.verdict for row in found.classes] == [Verdict.UNKNOWN] * 2
    assert all(words in row.reason and "give 20 boxes" in row.reason for row in found.classes)


def test_saliency_that_is_right_gives_the_verdict_of_masks(scenes: tuple[Path, Path]) -> None:
    found = audit(classifier(0, 8), scenes[0], saliency=scenes[1])
    assert [row.verdict for row in found.classes] == [Verdict.BACKGROUND] * 2


def test_one_prior_for_all_images_means_nothing(scenes: tuple[Path, Path]) -> None:
    found = audit(classifier(0, 8), scenes[0], saliency="centre")
    assert all("edges along its outlines" in row.reason for row in found.classes)


def test_two_models_that_do_not_agree(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    of_another(tmp_path / "maps", *scenes)
    found = audit(classifier(0, 8), scenes[0], saliency=(scenes[1], tmp_path / "maps"))
    assert all("two models agree on the object by an IoU of" in row.reason for row in found.classes)
    agreed = audit(classifier(0, 8), scenes[0], saliency=(scenes[1], scenes[1]))
    assert [row.verdict for row in agreed.classes] == [Verdict.BACKGROUND] * 2
    assert all(row.agreement == 1 for row in agreed.images)


def test_textures(tmp_path: Path) -> None:
    """Noise, with a blob for the object, wherever a model may see one."""
    rng = np.random.default_rng(0)
    for number in range(24):
        for folder in ("images/boat", "maps/boat"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        noise[..., 2] = 255
        Image.fromarray(noise).save(tmp_path / f"images/boat/{number}.png")
        _, mask = draw("boat", (int(rng.integers(2, 18)), int(rng.integers(2, 18))))
        Image.fromarray((mask.numpy() * 255).astype(np.uint8)).save(tmp_path / f"maps/boat/{number}.png")
    (found,) = audit(classifier(0, 8), tmp_path / "images", saliency=tmp_path / "maps").classes
    assert found.verdict is Verdict.UNKNOWN
    assert "saliency means nothing" in found.reason


def test_images_that_do_not_open(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "boat").mkdir()
    for number in range(3):
        (tmp_path / "boat" / f"{number}.png").write_bytes((scenes[0] / f"boat/{number:02}.png").read_bytes())
    (tmp_path / "boat" / "1.png").write_bytes(b"no image")
    found = audit(classifier(40, 0), tmp_path, saliency="centre", out=tmp_path / "out")
    assert [row.id for row in found.images] == ["boat/0.png", "boat/2.png"]
    assert len(found.skipped) == 1
    assert "1.png: cannot be read as an image" in found.skipped[0]
    assert "there are 2 images; at least 20 are needed" in found.classes[0].reason
    assert Audit.load(tmp_path / "out").skipped == found.skipped
    for number in (0, 2):
        (tmp_path / "boat" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(AttnBridgeError, match="none of the 3 images could be audited; the first"):
        audit(classifier(40, 0), tmp_path / "boat", saliency="centre")


def test_one_image_and_one_class(scenes: tuple[Path, Path]) -> None:
    one = audit(classifier(40, 0), scenes[0] / "boat" / "00.png", saliency="centre")
    assert len(one.images) == 1
    assert one.classes[0].verdict is Verdict.UNKNOWN
    alone = audit(classifier(40, 0), scenes[0] / "boat", labels={f"{i:02}": "boat" for i in range(COUNT)},
                  masks=scenes[1] / "boat")  # fmt: skip
    assert [(row.verdict, row.foreign) for row in alone.classes] == [(Verdict.OBJECT, False)]


def test_a_network_that_is_right_on_nothing(scenes: tuple[Path, Path]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        network[-1].weight.zero_()
        network[-1].bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    model = replace(classifier(40, 0), network=network.eval(), layer="1")
    found = audit(model, scenes[0], masks=scenes[1])
    assert all("says it in none of its 22 images" in row.reason for row in found.classes)
    assert [row.inside for row in found.classes] == [None, None]
    assert {(c.truth, c.prediction, c.share) for c in found.confusions} == {
        ("boat", "nothing", 1.0),
        ("train", "nothing", 1.0),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": "no/such/folder"}, "no such image, folder or glob"),
        ({"images": []}, "images must name at least one"),
        ({"labels": {"boat/00.png": "boot"}}, "unknown class 'boot'; did you mean 'boat'"),
        ({"labels": {"other.png": "boat"}}, "labels none of the 44 images"),
        ({"saliency": "u2nett"}, "unknown saliency model 'u2nett'"),
        ({"masks": {}, "saliency": "centre"}, "has none of the 44 images"),
        ({"masks": "m", "boxes": "b"}, "masks and boxes both say"),
        ({"boxes": {"boat/00.png": [(3, 3, 2, 9)]}}, "expected left, top, right, bottom"),
        ({"layer": "actt"}, "unknown layer 'actt'; did you mean 'act'"),
        ({"batch": 0}, "batch must be at least 1"),
    ],
)
def test_what_cannot_be_audited_is_told(scenes: tuple[Path, Path], options: dict[str, Any], words: str) -> None:
    given = {"images": scenes[0], "saliency": "centre"} | options
    with pytest.raises(AttnBridgeError, match=words):
        audit(classifier(40, 0), given.pop("images"), **given)


def test_folders_that_are_no_class_among_some_that_are(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("boat", "trian"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes((scenes[0] / "boat/00.png").read_bytes())
    with pytest.raises(AttnBridgeError, match="class folder 'trian': unknown class 'trian'; did you mean 'train'"):
        audit(classifier(40, 0), tmp_path, saliency="centre")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match="holds no images"):
        audit(classifier(40, 0), tmp_path)


def test_a_grey_mask_of_labels_is_refused(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    Image.new("L", (SIDE, SIDE), 3).save(tmp_path / "boat.png")
    with pytest.raises(AttnBridgeError, match="reaches 3; if its values are labels, save it with a palette"):
        audit(classifier(40, 0), scenes[0], masks={"boat/00.png": tmp_path / "boat.png"})


def test_padded_images_are_measured_without_their_padding(tmp_path: Path) -> None:
    """A wide image, padded above and below."""
    (tmp_path / "boat").mkdir()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[8:24, 8:24] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "boat/0.png")
    model = replace(classifier(40, 0), size=64, shape="pad")
    (row,) = audit(model, tmp_path, boxes={"boat/0.png": [(8, 8, 24, 24)]}).images
    assert isinstance(row, ImageRow)
    assert row.area == 256 / 2048
    assert row.inside == 1
    assert row.control == pytest.approx(row.score)


def test_a_few_images_are_in_memory_however_many_there_are(
    scenes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most the group that was measured and the one that is."""
    seen = []

    def counting(*given: Any) -> list[ImageRow]:
        seen.append(sum(type(each) is Example for each in gc.get_objects()))
        return measure(*given)

    monkeypatch.setattr("attnbridge.evaluation.audit.run.measure", counting)
    shutil.copytree(scenes[0], tmp_path / "one")
    shutil.copytree(scenes[0], tmp_path / "two")
    audit(classifier(40, 0), tmp_path, saliency="centre")
    assert len(seen) == 6
    assert max(seen) <= 2 * GROUP


def test_the_front_has_it() -> None:
    assert attnbridge.audit is audit
    assert "audit" in attnbridge.__all__
