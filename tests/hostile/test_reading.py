"""Text files, masks, labels and scores that are not what they seem: each an error or a warning that names the file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from attnbridge.cli import main
from attnbridge.data.checks import check_classification, check_cues, check_domains, check_source_target
from attnbridge.data.cifar import load_cifar
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.face_pairs import read_pairs
from attnbridge.data.folders import scan_multi_label
from attnbridge.data.guidance import scan_guided
from attnbridge.data.images import ImageRecord
from attnbridge.data.palette import palette_png
from attnbridge.data.text import read_json
from attnbridge.data.transforms import eval_transform
from attnbridge.data.voc import list_names, scan_voc
from attnbridge.datasets.coco import coco
from attnbridge.datasets.csv_table import table
from attnbridge.datasets.imagenet import imagenet
from attnbridge.datasets.importer import import_dataset
from attnbridge.datasets.sbd import sbd
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.folders.cues import score_cues
from attnbridge.evaluation.folders.saliency import score_saliency
from attnbridge.evaluation.folders.verification import embed
from attnbridge.evaluation.record import write_json
from attnbridge.evaluation.tasks.classification import ClassScores, accuracy_figure
from attnbridge.evaluation.tasks.domains import DomainScores, DomainTask
from attnbridge.evaluation.tasks.maps import MapScores, MapTask
from attnbridge.evaluation.tasks.masks import MaskScores
from attnbridge.experiments.runs import Run
from attnbridge.models.classifiers import load_classifier
from tests.hostile import trees
from tests.hostile.answers import refused
from tests.runs import map_scores, record_of

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of pycocotools
]
MAPS = MapTask.reference()
CLASSES = "attnbridge.evaluation.tasks.classification:ClassificationTask"


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """A pipe that is opened waits for ever: then the case fails."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits"))
    signal.alarm(100)
    yield
    signal.alarm(0)


# ---- Each file of text: missing, empty, binary, in another encoding, no file at all


@dataclass(frozen=True)
class Door:
    """A file of text: how a good one is made, and what reads it.

    Attributes:
        make: writes a good tree and returns the file.
        read: the tree.
        fine: what is no fault here.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    fine: tuple[str, ...] = ()


def _labels(root: Path) -> Path:
    return trees.pair(root) / "target/val/labels.csv"


def _boxes(root: Path) -> Path:
    path = trees.pair(root) / "target/train/boxes.csv"
    path.write_text("id,class,left,top,right,bottom\n000,cat,1,1,9,9\n")
    return path


def _kit_labels(root: Path) -> Path:
    path = trees.kit(root) / "labels.csv"
    path.write_text("id,cat,dog\na0,1,0\na1,0,1\n")
    return path


def _table(root: Path) -> Path:
    for name in "ab":
        trees.noise(root / f"{name}.jpg", ord(name))
    (root / "labels.csv").write_text("id,cat\na,1\nb,0\n")
    return root / "labels.csv"


def _names(root: Path) -> Path:
    path = _table(root)
    path.write_text("image,labels\na,cat\nb,dog cat\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root / "classes.txt"


def _pairs(root: Path) -> Path:
    for name in ("Ann", "Bob"):
        for i in (1, 2):
            trees.noise(root / f"images/{name}/{i}.jpg", 10 * i + len(name))
    (root / "pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t2\n")
    return root / "pairs.txt"


def _cue_record(root: Path) -> Path:
    (trees.pair(root) / "cues").mkdir()
    for i in range(4):
        palette_png(trees.mask_of(1)).save(root / f"cues/00{i}.png")
    (root / "cues/cues.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    return root / "cues/cues.json"


def _cifar(root: Path) -> Path:
    root.mkdir()
    Image.new("RGB", (1024, 10)).save(root / "test_batch.png")
    (root / "test_lables.json").write_text(json.dumps([3] * 10))
    return root / "test_lables.json"


def _sbd(root: Path) -> Path:
    for part in ("sbd/cls", "sbd/img"):
        (root / part).mkdir(parents=True)
    (root / "sbd/train.txt").write_text("a0\n")
    (root / "sbd/val.txt").write_text("a1\n")
    kit = trees.kit(root / "VOC2012")
    shutil.copy(kit / "ImageSets/Segmentation/train.txt", kit / "ImageSets/Segmentation/val.txt")
    return root / "sbd/val.txt"


def _imagenet(root: Path) -> Path:
    trees.noise(root / "ILSVRC/Data/CLS-LOC/val/x.JPEG", 1)
    path = root / "ILSVRC/Annotations/CLS-LOC/val/x.xml"
    path.parent.mkdir(parents=True)
    path.write_text("<annotation><object><name>n01440764</name></object></annotation>")
    return path


def _imports(root: Path) -> Path:
    path = _table(root / "mine")
    import_dataset("csv", path.parent, root / "out", "train")
    return root / "out/imports.json"


def _run(root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text("method: attnbn\nname: mine\ndata: {target: t}\n")
    (root / "run.json").write_text(json.dumps(record_of(**changes)))
    (root / "metrics.csv").write_text("epoch,step,val/top1\n0,3,0.5\n1,6,\n2,9,1e-05\n")
    return root / "run.json"


def _plain(root: Path) -> dict[str, str]:
    return {"source": str(root / "source"), "target": str(root / "target"), "saliency": str(root / "saliency")}


DOORS = {
    "labels": Door(_labels, lambda root: check_source_target(True, **_plain(root))),
    "boxes": Door(
        _boxes,
        lambda root: scan_guided(root / "source", root / "target", "train", "boxes"),
        fine=("a folder", "a pipe"),
    ),
    "kit's labels": Door(
        _kit_labels, lambda root: scan_voc(root, ("cat", "dog"), "train"), fine=("missing", "a folder", "a pipe")
    ),
    "kit's list": Door(
        lambda root: trees.kit(root) / "ImageSets/Segmentation/train.txt",
        lambda root: scan_voc(root, ("cat",), "train"),
        fine=("missing", "a folder", "a pipe"),  # then it is an unknown list
    ),
    "annotation": Door(
        lambda root: trees.kit(root) / "Annotations/a0.xml",
        lambda root: scan_voc(root, ("cat",), "train"),
        fine=("missing", "a folder", "a pipe", "UTF-16"),  # then the mask is asked; XML names its encoding
    ),
    "table": Door(_table, lambda root: list(table(root, "train", None)[1])),
    "classes": Door(_names, lambda root: table(root, "train", None), fine=("missing", "a folder", "a pipe")),
    "pairs": Door(_pairs, lambda root: read_pairs(root / "pairs.txt", root / "images")),
    "coco": Door(
        lambda root: trees.coco(root) / "annotations/instances_mine.json",
        lambda root: list(coco(root, "mine", None)[1]),
    ),
    "cues": Door(
        _cue_record,
        lambda root: check_cues(True, cues=str(root / "cues"), **_plain(root)),
        fine=("missing",),
    ),
    "cifar": Door(_cifar, lambda root: load_cifar("cifar10", "test", root)),
    "sbd": Door(_sbd, lambda root: sbd(root / "sbd", "trainaug", root / "VOC2012"), fine=("empty",)),
    "imagenet": Door(_imagenet, lambda root: imagenet(root, "val", None), fine=("UTF-16",)),
    "imports": Door(
        _imports,
        lambda root: import_dataset("csv", root / "mine", root / "out", "train"),
        fine=("missing", "a folder", "a pipe"),
    ),
    "record": Door(_run, lambda root: Run(root).record),
    "configuration": Door(lambda root: _run(root).with_name("config.yaml"), lambda root: Run(root).config),
    "metrics": Door(
        lambda root: _run(root).with_name("metrics.csv"),
        lambda root: accuracy_figure([record_of()], [root]),  # type: ignore[list-item]
    ),
}


def _missing(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _binary(path: Path) -> None:
    path.write_bytes(b"\x89PNG\x00\x00\x01\x02" * 9)


def _utf16(path: Path) -> None:
    path.write_bytes(path.read_text().encode("utf-16"))


def _latin1(path: Path) -> None:
    text = path.read_text()
    path.write_bytes((text[: len(text) // 2] + "é" + text[len(text) // 2 :]).encode("latin-1"))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILS = {
    "missing": _missing,
    "empty": _empty,
    "binary": _binary,
    "UTF-16": _utf16,
    "Latin-1": _latin1,
    "a folder": _folder,
    "a pipe": _pipe,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_good_file_is_read(door: str, tmp_path: Path) -> None:
    DOORS[door].make(tmp_path / "x")
    DOORS[door].read(tmp_path / "x")


@pytest.mark.parametrize(
    ("door", "spoil"), [(door, spoil) for door in DOORS for spoil in SPOILS if spoil not in DOORS[door].fine]
)
def test_a_file_of_text_that_is_none_is_named(door: str, spoil: str, tmp_path: Path) -> None:
    path = DOORS[door].make(tmp_path / "x")
    SPOILS[spoil](path)
    with pytest.raises(AttnBridgeError) as error:
        DOORS[door].read(tmp_path / "x")
    assert str(path) in str(error.value), error.value


@pytest.mark.parametrize("door", ["labels", "kit's labels", "table", "kit's list", "pairs", "boxes"])
def test_a_file_of_windows_is_read(door: str, tmp_path: Path) -> None:
    path = DOORS[door].make(tmp_path / "x")
    before = DOORS[door].read(tmp_path / "x")
    assert before is not None
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    assert DOORS[door].read(tmp_path / "x") == before


@pytest.mark.hostile
@pytest.mark.parametrize("door", DOORS)
def test_a_mutated_file_is_read_or_named(door: str, tmp_path: Path) -> None:
    """Bytes that are changed, cut, doubled or put in: what is read may be odd, but nothing else is raised."""
    rng, path = random.Random(door), DOORS[door].make(tmp_path / "x")
    before = path.read_bytes()
    for _ in range(300):
        content = bytearray(before)
        for _ in range(rng.randint(1, 4)):
            at, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
            part = rng.choice(
                [b"", b"0", b"-1", b"1e999", b"null", b'"', b",", b"\n", b"\xff", b"{}", b"[]", b"NaN", b"\r"]
            )
            content[at : rng.choice([at, at + 1, end])] = rng.choice([part, bytes(content[at:end])])
        path.write_bytes(content)
        with suppress(AttnBridgeError):
            DOORS[door].read(tmp_path / "x")


# ---- Tables of labels

LABELS: list[tuple[str, str, str]] = [
    ("header only", "id,cat,dog\n", "the split is empty"),
    ("no class", "id\n000\n", "there is no class beside the id"),
    ("another header", "name,cat,dog\n000,1,0\n", "line 1: expected a header"),
    ("blank class", "id,cat,,dog\n000,1,0,0\n", "column 3 has no name"),
    ("class twice", "id,cat,dog,cat\n000,1,0,1\n", "names the column 'cat' twice"),
    ("longer row", "id,cat,dog\n000,1,0,0\n", "line 2: expected 3 fields, found 4"),
    ("shorter row", "id,cat,dog\n000,1,0\n001,1\n", "line 3: expected 3 fields, found 2"),
    ("yes", "id,cat,dog\n000,yes,0\n", "line 2: expected 0 or 1, found 'yes' for 'cat'"),
    ("a probability", "id,cat,dog\n000,1,0.5\n", "line 2: expected 0 or 1, found '0.5' for 'dog'"),
    ("an empty cell", "id,cat,dog\n000,1,\n", "line 2: expected 0 or 1, found '' for 'dog'"),
    ("no id", "id,cat,dog\n,1,0\n", "line 2: has no id"),
    ("unknown id", "id,cat,dog\n999,1,0\n", "line 2: no image '999'"),
    ("id with suffix", "id,cat,dog\n000.jpg,1,0\n", "names are written without suffix"),
    ("id with folder", "id,cat,dog\n../images/000,1,0\n", "names are written without folders"),
    ("contradiction", "id,cat,dog\n000,1,0\n001,0,1\n000,0,1\n", "line 4: contradicts line 2"),
    ("unknown class", "id,cat,dgo\n000,1,0\n", "did you mean 'dog'"),
    ("broken quotes", 'id,cat,dog\n"000"x,1,0\n', "line 2"),
    ("a cell without end", f"id,cat,dog\n{'0' * 1_000_000},1,0\n", "line 2: field larger than field limit"),
    ("a line without end", f"id,cat,dog\n000{',1' * 500_000}\n", "line 2: expected 3 fields, found 500001"),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in LABELS], ids=[case[0] for case in LABELS])
def test_labels_that_are_none_are_named(text: str, message: str, tmp_path: Path) -> None:
    root = trees.pair(tmp_path / "x")
    (root / "target/val/labels.csv").write_text(text)
    with pytest.raises(AttnBridgeError) as error:
        scan_multi_label(root / "target/val", ["cat", "dog"], masks=True)
    assert str(root / "target/val/labels.csv") in str(error.value)
    assert message in str(error.value)


def test_an_id_in_other_letters_is_asked_for(tmp_path: Path) -> None:
    root = trees.pair(tmp_path / "x")
    (root / "target/val/images/000.jpg").rename(root / "target/val/images/Ab.jpg")
    (root / "target/val/labels.csv").write_text("id,cat,dog\nAB,1,0\n")
    with pytest.raises(AttnBridgeError, match=r"no image 'AB' in .*there is 'Ab': upper and lower case count"):
        scan_multi_label(root / "target/val", ["cat", "dog"])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_labels_of_any_spreadsheet_are_read(delimiter: str, tmp_path: Path) -> None:
    root = trees.pair(tmp_path / "x")
    path = root / "target/val/labels.csv"
    before = scan_multi_label(path.parent, ["cat", "dog"], masks=True)
    path.write_text(path.read_text().replace(",", delimiter))
    assert scan_multi_label(path.parent, ["cat", "dog"], masks=True) == before
    path = _kit_labels(tmp_path / "kit")
    path.write_text(path.read_text().replace(",", delimiter))
    assert [record.classes for record in scan_voc(path.parent, ("cat", "dog"), "train")] == [(0,), (1,)]


TABLES: list[tuple[str, str, str]] = [
    ("row twice", "id,cat\na,1\na.jpg,1\n", "line 3: a.jpg has a row already, in line 2"),
    ("blank image", "id,cat\n,1\n", "line 2: has no image"),
    ("blank class", "id,cat,\na,1,0\n", "column 3 has no name"),
    ("one column", "id\na\n", "found 'id' alone"),
    ("a column of words", "id,what\na,cat\n", "a column of labels must be named"),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in TABLES], ids=[case[0] for case in TABLES])
def test_a_table_that_is_none_is_refused_by_import(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _table(tmp_path / "mine")
    path.write_text(text)
    words = ["data", "import", "csv", str(path.parent), "--out", str(tmp_path / "out")]
    refused(words, [str(path), message], capsys, tmp_path)


BOXES: list[tuple[str, str, str]] = [
    ("outside", "000,cat,1,1,99,9", "does not lie in the image"),
    ("negative", "000,cat,-1,1,9,9", "four whole numbers"),
    ("not western digits", "000,cat,١,1,9,9", "four whole numbers"),
    ("huge", f"000,cat,1,1,{'9' * 5000},9", "four whole numbers"),
    ("unlabelled", "000,cat,1,1,9,9\n000,dog,1,1,9,9", "has a box of 'dog', which is not among its labels"),
]


@pytest.mark.parametrize(("row", "message"), [case[1:] for case in BOXES], ids=[case[0] for case in BOXES])
def test_boxes_that_are_none_are_named(row: str, message: str, tmp_path: Path) -> None:
    path = _boxes(tmp_path / "x")
    path.write_text(f"id,class,left,top,right,bottom\n{row}\n")
    with pytest.raises(AttnBridgeError, match=message):
        scan_guided(tmp_path / "x/source", tmp_path / "x/target", "train", "boxes")


# ---- JSON of the wrong kind


def annotation(**changes: Any) -> dict[str, Any]:
    square = [2, 2, 10, 2, 10, 10, 2, 10]
    return {"annotations": [{"id": 5, "image_id": 0, "category_id": 7, "segmentation": [square], **changes}]}


def images(*entries: dict[str, Any]) -> dict[str, Any]:
    usual = {"id": 0, "file_name": "0.jpg", "width": trees.SIDE, "height": trees.SIDE}
    return {**annotation(), "images": [{**usual, **entry} for entry in entries]}


def rle(counts: Any, size: Any = (trees.SIDE, trees.SIDE)) -> dict[str, Any]:
    return annotation(segmentation={"counts": counts, "size": size})


COCO: list[tuple[str, dict[str, Any], str]] = [
    ("a list of names", {"categories": ["cat"]}, "holds no list 'categories'"),
    ("a mapping of images", {"images": {}}, "holds no list 'images'"),
    ("a crowd in words", annotation(iscrowd="x"), "annotation 5 has an 'iscrowd' that is neither 0 nor 1, but 'x'"),
    ("a crowd of none", annotation(iscrowd=None), "annotation 5 has an 'iscrowd' that is neither 0 nor 1, but None"),
    ("a crowd of two", annotation(iscrowd=2), "annotation 5 has an 'iscrowd' that is neither 0 nor 1, but 2"),
    ("an id as text", annotation(image_id="0"), "annotation 5 has no 'image_id' of the kind"),
    ("a category that is not there", annotation(category_id=8), "annotation 5 is of category 8, which its list"),
    ("an image that is not there", annotation(image_id=3), "annotations of the image 3, which its list 'images' lacks"),
    ("one id of two categories", {"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}, "'a' and 'b' both"),
    ("a category without name", {"categories": [{"id": 7, "name": " "}]}, "category 7 has an empty name"),
    ("one id of two images", images({}, {"file_name": "1.jpg"}), "the image 0, '1.jpg', is there twice"),
    ("one image of two ids", {**images({}, {"id": 1}), "annotations": [
        annotation()["annotations"][0], annotation(image_id=1)["annotations"][0]]}, "is there twice"),
    ("a way out", images({"file_name": "../mine/0.jpg"}), "leads out"),
    ("a gigantic image", images({"width": 10**9, "height": 10**9}), "is 16x16 pixels, but instances_mine.json says"),
    ("a lost file", images({"file_name": "lost.jpg"}), "holds none of the 1 images"),
    ("an odd polygon", annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "an odd number of coordinates"),
    ("a polygon of words", annotation(segmentation=[["a", "b"]]), "neither a list of polygons nor"),
    ("a polygon without end", annotation(segmentation=[[0, 0, 1e300, 0, 1, 1]]), "leads far out of its image"),
    ("a number", annotation(segmentation=3), "neither a list of polygons nor"),
    ("no polygon", annotation(segmentation=[]), "has no 'segmentation'"),
    ("a run-length of another size", rle("0", [3, 3]), "is of the size [3, 3], but its image of [16, 16]"),
    ("a size that is none", rle("0", 16), "is of the size 16"),
    ("runs that are too few", rle([5, 9]), "counts that do not add up to 16 x 16 pixels"),
    ("runs that lie", rle([-44, 300]), "counts that do not add up"),
    ("runs of words", rle(["256"]), "counts that do not add up"),
    ("packed runs that are too few", rle("~~~~"), "counts that do not add up"),
    ("packed runs that are none", rle("é"), "counts that do not add up"),
    ("packed runs cut off", rle("oooo"), "counts that do not add up"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), [case[1:] for case in COCO], ids=[case[0] for case in COCO])
def test_annotations_that_lie_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    root = trees.coco(tmp_path / "x", **changes)
    with pytest.raises(AttnBridgeError) as error:
        list(coco(root, "mine", None)[1])
    assert "instances_mine.json" in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": [-Infinity]}', f'{{"a": {"1" * 5000}}}'])
def test_json_that_people_cannot_mean_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(AttnBridgeError, match=r"a\.json: is not JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 1}', '[{"b": {"a": 1, "a": 2}}]', '{"a": [], "\\u0061": []}'])
def test_a_key_that_is_there_twice_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(AttnBridgeError, match=r"x\.json: the key 'a' is there twice in one object"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("crowd", [0, 1, False, True])
def test_a_crowd_is_marked_by_a_number_or_a_truth(crowd: Any, tmp_path: Path) -> None:
    root = trees.coco(tmp_path / "x", **annotation(iscrowd=crowd))
    if crowd:
        with pytest.raises(AttnBridgeError, match="no image has an object of a wanted category"):
            coco(root, "mine", None)
    else:
        assert [one.id for one in coco(root, "mine", None)[1]] == ["0"]


@pytest.mark.parametrize("classes", ["cat", {"cat": 1}, [["cat"]], None, ["dog", "cat"]])
def test_a_record_of_cues_of_another_kind_is_named(classes: Any, tmp_path: Path) -> None:
    path = _cue_record(tmp_path / "x")
    path.write_text(json.dumps({"classes": classes}))
    with pytest.raises(
        AttnBridgeError, match=r"x/cues.*(does not name the classes|its values stand for (dog, cat|\['cat'\]), but)"
    ):
        check_cues(True, cues=str(path.parent), **_plain(tmp_path / "x"))


def test_cues_that_are_none_are_not_learnt_from(tmp_path: Path) -> None:
    root = _cue_record(tmp_path / "x").parents[1]
    palette_png(trees.mask_of(5)).save(root / "cues/000.png")
    with pytest.raises(AttnBridgeError, match=r"cues/000\.png: holds the value 5"):
        check_cues(True, cues=str(root / "cues"), **_plain(root))


def test_cues_that_say_nothing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _cue_record(tmp_path / "x").parents[1]
    for path in (root / "cues").glob("*.png"):
        palette_png(VOID).save(path)
    check_cues(True, cues=str(root / "cues"), **_plain(root))
    assert "cues/000.png: every pixel is 255 (ignored)" in caplog.text
    assert "(4 such masks of 4 that were looked at)" in caplog.text


def test_more_classes_than_a_mask_holds_are_refused(tmp_path: Path) -> None:
    folder = trees.pair(tmp_path / "x") / "target"
    names = ["cat", "dog", *map(str, range(253))]
    for path in folder.glob("*/labels.csv"):
        rows = path.read_text().splitlines()[1:]
        path.write_text("\n".join([f"id,{','.join(names)}", *(row + ",0" * 253 for row in rows)]))
    with pytest.raises(AttnBridgeError, match=r"masks/000\.png: there are 255 classes, but 8-bit masks hold 254"):
        check_source_target(True, target=str(folder))


@pytest.mark.parametrize("labels", [[3] * 9, [10] * 10, ["3"] * 10, {"a": 3}])
def test_labels_of_cifar_of_another_kind_are_named(labels: Any, tmp_path: Path) -> None:
    _cifar(tmp_path / "x").write_text(json.dumps(labels))
    with pytest.raises(AttnBridgeError, match=r"test_lables\.json: expected 10 labels from 0 to 9"):
        load_cifar("cifar10", "test", tmp_path / "x")


PAIRS: list[tuple[str, str, str]] = [
    ("itself", "1\t1\nAnn\t1\t1\nAnn\t1\tBob\t2\n", "line 2: pairs .* with itself"),
    ("no number", "1\t1\nAnn\t1\tx\nAnn\t1\tBob\t2\n", "line 2: expected `NAME i j`"),
    ("no such image", "1\t1\nAnn\t1\t7\nAnn\t1\tBob\t2\n", "line 2: no image 7 of 'Ann'"),
    ("too few", "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t2\n", "has 2 pairs, but 2 folds"),
    ("a head that is huge", f"{'9' * 4400}\t1\n", "the first line must be the number of folds"),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in PAIRS], ids=[case[0] for case in PAIRS])
def test_pairs_that_are_none_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = _pairs(tmp_path / "x")
    path.write_text(text)
    with pytest.raises(AttnBridgeError, match=rf"pairs\.txt.*{message}"):
        read_pairs(path, tmp_path / "x/images")


# ---- Masks, labels, splits and maps that are read without a word


@dataclass(frozen=True)
class Doubt:
    """What is spoilt in a good pair, and what is said.

    Attributes:
        spoil: changes the tree.
        says: the message, file included.
        error: whether it is one; else a warning.
        also: whether ``data check`` of the target has it among its problems.
    """

    spoil: Callable[[Path], Any]
    says: tuple[str, ...]
    error: bool = False
    also: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def _save(path: str, values: Any, mode: str | None = None) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        image = Image.fromarray(np.asarray(values))
        (image.convert(mode) if mode else image).save(root / path)

    return spoil


def _each(pattern: str, change: Callable[[Path], Any]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for path in sorted(root.glob(pattern)):
            change(path)

    return spoil


def _copy(path: str, to: str) -> Callable[[Path], None]:
    return lambda root: shutil.copy(root / path, root / to)


def _in_other_colours(path: Path) -> None:
    mask = Image.fromarray(trees.mask_of(1), "P")
    mask.putpalette([v for k in range(256) for v in (k, 255 - k, k)])
    mask.save(path)


def _jpeg(path: Path) -> None:
    Image.fromarray(trees.mask_of(1) * 120).save(path, "JPEG")


def _text(path: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda root: (root / path).write_text(change((root / path).read_text()))


def _grey(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (trees.SIDE, trees.SIDE), 90).save(path)


def _with_bears(table: Path) -> None:
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},bear", *(f"{row},0" for row in rows)]))


VOID = np.full((trees.SIDE, trees.SIDE), 255, np.uint8)
RIM = 255 - np.pad(np.full((8, 8), 200, np.uint8), 4)
MASK = "target/val/masks/000.png"

DOUBTS = {
    "a mask above the classes": Doubt(
        _save(MASK, trees.mask_of(1, 3)), ("masks/000.png: holds the value 3; expected 0 to 2 or 255",), True, True
    ),
    "a mask in 16 bits": Doubt(
        _save(MASK, trees.mask_of(1).astype(np.uint16)), ("masks/000.png: is of mode I;16",), True, True
    ),
    "a mask in colours": Doubt(
        _save(MASK, np.stack([trees.mask_of(128)] * 3, 2)), ("masks/000.png: is of mode RGB",), True, True
    ),
    "a mask in black and white": Doubt(
        _save(MASK, trees.mask_of(1) > 0), ("masks/000.png: is of mode 1; expected 8-bit",), True, True
    ),
    "a mask with alpha": Doubt(_save(MASK, trees.mask_of(1), "LA"), ("masks/000.png: is of mode LA",), True, True),
    "a JPEG that is called PNG": Doubt(
        lambda root: _jpeg(root / MASK), ("masks/000.png: is a JPEG, which changes a mask's values",), True, True
    ),
    "a mask as JPEG": Doubt(
        lambda root: (root / MASK).rename((root / MASK).with_suffix(".jpg")),
        ("masks/000.png: no such file", "there is 000.jpg, but only a PNG keeps"),
        True,
        True,
    ),
    "a mask of another size": Doubt(
        _save(MASK, trees.mask_of(1)[:9]), ("000.png: the mask is 16x9 pixels, but its image",), True
    ),
    "masks of one split all void": Doubt(
        _each("target/test/masks/*.png", lambda path: Image.fromarray(VOID).save(path)),
        ("test/masks/000.png: has no pixel that is not 255 (ignored), nor does another mask of test",),
        True,
    ),
    "masks of one split all empty": Doubt(
        _each("target/val/masks/*.png", lambda path: Image.fromarray(VOID * 0).save(path)),
        ("val/masks/000.png: shows no class, nor does another mask of val",),
        True,
    ),
    "no label in a split": Doubt(
        _text("target/test/labels.csv", lambda text: text.replace(",1", ",0")),
        ("test/images/000.jpg: has no label, nor has another image of test",),
        True,
    ),
    "one mask all void": Doubt(
        _save(MASK, VOID), ("val/masks/000.png: every pixel is 255 (ignored)", "(1 such masks of 4"), also=True
    ),
    "a mask that contradicts the labels": Doubt(
        _save(MASK, trees.mask_of(1, 2)), ("000.png: dog in the mask, but not in the labels (1 such masks",), also=True
    ),
    "colours that are not VOC's": Doubt(
        lambda root: _in_other_colours(root / MASK), ("000.png: its palette is neither VOC's nor grey",)
    ),
    "two images of one id": Doubt(
        _copy("target/val/images/001.jpg", "target/val/images/000.png"),
        ("val/images: 000.jpg and 000.png both are the image '000'",),
        True,
        True,
    ),
    "an image without a row": Doubt(
        lambda root: trees.noise(root / "target/train/images/004.jpg", 99),
        ("train/images/004.jpg: has no row in", "(1 such images in all)"),
    ),
    "a row twice": Doubt(
        _text("target/train/labels.csv", lambda text: f"{text}000,1,0\n"),
        ("train/labels.csv, line 6: '000' is there twice; first in line 2",),
    ),
    "ids in two cases": Doubt(
        lambda root: (
            trees.noise(root / "target/train/images/a.jpg", 97),
            trees.noise(root / "target/train/images/A.jpg", 98),
            _text("target/train/labels.csv", lambda text: f"{text}a,1,0\nA,1,0\n")(root),
        ),
        ("train/labels.csv: 'a' and 'A' differ only in upper and lower case",),
    ),
    "a class that is never learnt": Doubt(
        _text("target/train/labels.csv", lambda text: text.replace(",1\n", ",0\n")),
        ("target: no image of train shows dog",),
        options={"source": None, "saliency": None},
        also=True,
    ),
    "a class that never occurs": Doubt(
        _each("target/*/labels.csv", _with_bears),
        ("no image of train, val, test shows bear; take it out",),
        options={"source": None, "saliency": None},
    ),
    "an empty class folder": Doubt(
        _each("source/dog/*", lambda path: path.unlink()), ("target: no image of source shows dog",)
    ),
    "a test that was learnt from": Doubt(
        _each("target/test/images/*", lambda path: shutil.copy(str(path).replace("/test/", "/train/"), path)),
        ("/images/000.jpg: is in train and in test", "as are 4 of 4 images"),
    ),
    "one test image that was learnt from": Doubt(
        _copy("target/train/images/002.jpg", "target/test/images/001.jpg"),
        ("images/002.jpg: is in train and in test", "as are 1 of 4 images"),
    ),
    "a threshold chosen on the test": Doubt(
        lambda root: (shutil.rmtree(root / "target/test"), (root / "target/test").symlink_to(root / "target/val")),
        ("is in val and in test",),
    ),
    "inverted saliency": Doubt(
        _each("saliency/*/*.png", lambda path: Image.fromarray(RIM).save(path)),
        ("saliency/cat/0.png: is darker at its centre than at its border (6 of 6 maps", "are the maps inverted?"),
    ),
    "saliency all zero": Doubt(
        _each("saliency/*/*.png", lambda path: Image.new("L", (16, 16)).save(path)),
        ("saliency/cat/0.png: holds one value only, and so do all 6 saliency maps",),
        True,
    ),
    "one map of saliency all zero": Doubt(
        _each("saliency/cat/1.png", lambda path: Image.new("L", (16, 16)).save(path)),
        ("saliency/cat/1.png: holds one value only (1 of 6 maps",),
    ),
    "saliency of another image": Doubt(
        _each("saliency/cat/1.png", lambda path: Image.new("L", (16, 12)).save(path)),
        ("saliency/cat/1.png: the saliency map is 16x12 pixels, but its image",),
        True,
    ),
    "no saliency of an image": Doubt(
        lambda root: (root / "saliency/cat/1.png").unlink(), ("saliency/cat/1.png: no such file; expected",), True
    ),
    "one map for two images": Doubt(
        lambda root: trees.noise(root / "source/cat/1.png", 91),
        ("source/cat/1.jpg and 1.png differ only in their suffix, so they would share one saliency map",),
        True,
    ),
    "two images that differ in their suffix": Doubt(
        lambda root: trees.noise(root / "source/cat/1.png", 91),
        ("source/cat/1.jpg and 1.png differ only in their suffix; are they meant to be two",),
        options={"saliency": None},
    ),
    "guides that are no masks": Doubt(
        _save("target/train/masks/001.png", trees.mask_of(7)),
        ("train/masks/001.png: holds the value 7; expected 0 to 2",),
        True,
        options={"guided": "train", "guided_by": "masks"},
    ),
    "guides that say nothing": Doubt(
        _each("target/train/images/*.jpg", lambda path: _grey(path.parents[1] / "saliency" / f"{path.stem}.png")),
        ("train/saliency/000.png: holds one value only, and so do all 4 saliency maps",),
        True,
        options={"guided": "train", "guided_by": "saliency"},
    ),
    "an image of one row": Doubt(
        lambda root: trees.noise(root / "target/train/images/000.jpg", 3, size=(7, 1)),
        ("train/images/000.jpg: is 7x1 pixels; is it an image?",),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.pair(tmp_path_factory.mktemp("good") / "x")


@pytest.fixture
def spoilt(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "pair"))


def test_good_data_are_taken_without_a_word(good: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_source_target(True, **_plain(good))
    assert caplog.text == ""


@pytest.mark.parametrize("name", DOUBTS)
def test_what_is_silently_wrong_is_said(name: str, spoilt: Path, caplog: pytest.LogCaptureFixture) -> None:
    doubt = DOUBTS[name]
    doubt.spoil(spoilt)
    options = {**_plain(spoilt), **doubt.options}
    if doubt.error:
        with pytest.raises(AttnBridgeError) as error:
            check_source_target(True, **options)
        said = str(error.value)
    else:
        check_source_target(True, **options)
        said = caplog.text
        assert "warning: " in said
    assert str(spoilt) in said
    assert [part for part in doubt.says if part not in said] == [], said
    caplog.clear()
    if not doubt.error:
        check_source_target(True, **options)
        assert caplog.text == "", "said twice"


@pytest.mark.parametrize("name", [name for name, doubt in DOUBTS.items() if doubt.also])
def test_data_check_has_it_among_its_problems(name: str, spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(spoilt / "target")
    assert main(["data", "check", target]) == 0
    capsys.readouterr()
    DOUBTS[name].spoil(spoilt)
    assert main(["data", "check", target]) == 1
    said = capsys.readouterr().out
    part = DOUBTS[name].says[0].split(" (1 such")[0].split(": ", 1)[-1]
    assert part in said or "class dog has no image" in said, said


@pytest.mark.parametrize("name", ["a JPEG that is called PNG", "masks of one split all void", "saliency all zero"])
def test_fit_is_refused_before_anything_is_written(name: str, spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DOUBTS[name].spoil(spoilt)
    words = ["fit", "attnbn", "--out", str(spoilt / "run")]
    words += [word for key, value in _plain(spoilt).items() for word in (f"--data.{key}", value)]
    refused(words, [DOUBTS[name].says[0]], capsys, spoilt)


def test_colours_and_splits_that_share_images_are_told_by_data_check(
    spoilt: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _in_other_colours(spoilt / MASK)
    shutil.copy(spoilt / "target/train/images/002.jpg", spoilt / "target/test/images/001.jpg")
    main(["data", "check", str(spoilt / "target")])
    assert "its palette is neither VOC's nor grey" in caplog.text
    assert "is in train and in test" in caplog.text


@pytest.mark.parametrize("change", ["mode", "value", "JPEG"])
def test_a_mask_is_checked_when_it_is_read_too(change: str, tmp_path: Path) -> None:
    trees.noise(tmp_path / "a.jpg", 1)
    path = tmp_path / "a.png"
    values = {"mode": trees.mask_of(1).astype(np.uint16) + 256, "value": trees.mask_of(9), "JPEG": trees.mask_of(1)}
    Image.fromarray(values[change]).save(path, "JPEG" if change == "JPEG" else "PNG")
    record = ImageRecord("a", tmp_path / "a.jpg", (0,), mask=path)
    with pytest.raises(AttnBridgeError, match=r"a\.png: (is of mode I;16|holds the value 9|is a JPEG)"):
        ImageDataset([record], 2, "target", eval_transform(16))[0]


@pytest.mark.parametrize("mode", ["P", "LA", "I;16", "CMYK", "1"])
def test_images_of_every_mode_are_trained_on(mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray((values // 257).astype(np.uint8))
    (image if mode == "I;16" else image.convert("RGB").convert(mode) if mode == "CMYK" else image.convert(mode)).save(
        path
    )
    (sample,) = [ImageDataset([ImageRecord("a", path, (0,))], 2, "source", eval_transform(16))[0]]
    assert sample["image"].shape == (3, 16, 16)
    assert 0.2 < float(sample["image"].mean()) < 0.8


def test_lists_of_a_kit_that_say_a_name_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = trees.kit(tmp_path / "x")
    (root / "ImageSets/Segmentation/train.txt").write_text("a0\na1\na0\n")
    assert list_names(root, "train") == ["a0", "a1"]
    assert "train.txt, line 3: 'a0' is there twice; first in line 1" in caplog.text


def test_an_image_of_a_kit_that_is_there_twice(tmp_path: Path) -> None:
    root = trees.kit(tmp_path / "x")
    trees.noise(root / "JPEGImages/a0.png", 5)
    with pytest.raises(AttnBridgeError, match=r"JPEGImages: a0\.jpg and a0\.png both are the image 'a0' of the list"):
        scan_voc(root, ("cat",), "train")


def test_domains_and_classes_that_share_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for domain, seed in (("a", 1), ("b", 1), ("train", 2), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            trees.noise(tmp_path / f"{'d' if domain in 'ab' else 'c'}/{domain}/{name}/x.png", seed + 10 * number)
    check_domains(True, data=str(tmp_path / "d"), sources=["a"], target="b")
    assert "cat/x.png: is in a and in b" in caplog.text
    check_classification(True, data=str(tmp_path / "c"))
    assert "cat/x.png: is in train and in test" in caplog.text
    for path in (tmp_path / "d/b/dog").iterdir():
        path.unlink()
    check_domains(True, data=str(tmp_path / "d"), sources=["a"], target="b")
    assert f"{tmp_path / 'd/b'}: no image of train shows dog; take it out" in caplog.text


@pytest.mark.parametrize("change", ["value", "size", "JPEG"])
def test_cues_that_are_none_are_not_scored(change: str, tmp_path: Path) -> None:
    trees.noise(tmp_path / "a.jpg", 1)
    Image.fromarray(trees.mask_of(1)).save(tmp_path / "mask.png")
    cue = {"value": trees.mask_of(3), "size": trees.mask_of(1)[:8], "JPEG": trees.mask_of(1)}[change]
    (tmp_path / "cues").mkdir()
    Image.fromarray(cue).save(tmp_path / "cues/a.png", "JPEG" if change == "JPEG" else "PNG")
    record = ImageRecord("a", tmp_path / "a.jpg", (0,), mask=tmp_path / "mask.png")
    with pytest.raises(AttnBridgeError, match=r"cues/a\.png: (is no cue of|is a JPEG)"):
        score_cues([record], tmp_path / "cues", 2)


def test_labels_are_no_masks_of_salient_objects(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(trees.mask_of(1)).save(tmp_path / "masks/a.png")
    Image.fromarray(trees.mask_of(255)).save(tmp_path / "a.png")
    with pytest.raises(AttnBridgeError, match=r"masks/a\.png: its largest value is 1 of 255"):
        score_saliency({"a.jpg": tmp_path / "a.png"}, tmp_path / "masks")


# ---- NaN


def outputs(name: str) -> dict[str, torch.Tensor]:
    """What a network says of two images, with one NaN."""
    answer = {
        "logits": torch.zeros(2, 2), "scores": torch.full((2, 2), 0.5), "maps": torch.rand(2, 2, 4, 4),
        "probabilities": torch.full((2, 3, 4, 4), 0.3),
    }  # fmt: skip
    answer[name][1].view(-1)[0] = torch.nan
    return answer


BATCH = {
    "id": ["one", "other"],
    "labels": torch.tensor([[1.0, 0], [0, 1]]),
    "mask": torch.ones(2, 4, 4, dtype=torch.long),
}
SCORES: dict[str, Callable[[], Any]] = {
    "maps": lambda: MapScores(2),
    "logits": lambda: MapScores(2),
    "probabilities": lambda: MaskScores(2),
    "scores": lambda: ClassScores(2),
}


@pytest.mark.parametrize("name", SCORES)
def test_answers_that_are_no_numbers_are_not_scored(name: str) -> None:
    module: Any = SimpleNamespace(device="cpu", trainer=SimpleNamespace(testing=False))
    scores = SCORES[name]()
    scores.on_validation_epoch_start(None, module)
    with pytest.raises(AttnBridgeError, match=rf"other: the network's {name} of it are not finite"):
        scores.on_validation_batch_end(None, module, outputs(name), BATCH)
    scores.on_validation_batch_end(None, module, {k: v.nan_to_num() for k, v in outputs(name).items()}, BATCH)


def test_answers_that_are_no_numbers_are_not_scored_in_domains() -> None:
    with pytest.raises(AttnBridgeError, match="other: the network's scores of it are not finite"):
        DomainScores(2).on_validation_batch_end(None, None, outputs("scores"), BATCH, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["maps", "masks"])
def test_masks_that_are_all_void_give_no_score(kind: str) -> None:
    logged: dict[str, Any] = {}
    module: Any = SimpleNamespace(
        device="cpu", trainer=SimpleNamespace(testing=False), log_dict=lambda values, **_: logged.update(values),
        log=lambda name, value, **_: logged.update({name: value}),
    )  # fmt: skip
    scores: Any = MapScores(2) if kind == "maps" else MaskScores(2)
    answer = {k: v.nan_to_num() for k, v in outputs("maps").items()}
    scores.start(module)
    scores.update(answer, {**BATCH, "mask": BATCH["mask"] * 255})
    scores.finish(module, "val")
    scores.finish(module, "test")
    assert not any(np.isnan(float(value)) for value in logged.values())
    with pytest.raises(AttnBridgeError, match=r"every pixel of its masks is 255 \(ignored\), so there is nothing"):
        scores.result(*([0.4] if kind == "maps" else []))


def test_what_is_no_number_is_null_in_a_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [0.5, float("nan")], "b": {"c": float("inf")}, "d": (np.float64("nan"),)})
    assert read_json(tmp_path / "a.json") == {"a": [0.5, None], "b": {"c": None}, "d": [None]}


def test_a_score_that_is_not_known_is_a_dash(tmp_path: Path) -> None:
    _run(tmp_path, task=MAPS, scores=map_scores(map=None, energy=None), classes=["cat", "dog"])
    record = Run(tmp_path).record
    assert "mAP -, label accuracy 80.0, energy inside the objects -" in MapTask.summary(record)[-1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(timm.create_model("resnet10t", num_classes=5).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def broken_weights(weights: Path) -> Path:
    state = torch.load(weights, weights_only=True)
    torch.save({**state, "fc.weight": state["fc.weight"] * torch.nan}, weights.with_name("broken.pth"))
    return weights.with_name("broken.pth")


def test_a_network_of_nan_is_not_looked_into(
    broken_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.noise(tmp_path / "a.jpg", 1, size=(64, 64))
    words = ["explain", str(tmp_path / "a.jpg"), "--out", str(tmp_path / "maps")]
    assert main([*words, "--model", "resnet10t", "--weights", str(broken_weights), "--device", "cpu"]) == 2
    assert "the network's 'fc.weight' holds NaN or infinity; load other weights" in capsys.readouterr().err
    assert not list((tmp_path / "maps").glob("a*"))


def test_features_of_nan_are_not_compared(weights: Path, tmp_path: Path) -> None:
    trees.noise(tmp_path / "a.jpg", 1, size=(64, 64))
    model = load_classifier("resnet10t", str(weights), "cpu")
    torch.nn.init.constant_(model.network.conv1[0].weight, torch.nan)
    with pytest.raises(AttnBridgeError, match="the features of resnet10t hold NaN or infinity"):
        embed(model, [tmp_path / "a.jpg"])


# ---- The files of a run

DOMAINS = DomainTask.reference()
DOMAIN: dict[str, Any] = {"source_validation": 0.5, "target_oracle": 0.6, "last": 0.5, "val_top1": 0.9, "curve": []}
RECORDS: list[tuple[str, Any, str]] = [
    ("a list", [1, 2], "expected a JSON object"),
    ("another object", {"scores": {}}, "is no record of a run: its 'name' is None"),
    ("scores as text", record_of(scores="0.5"), "its 'scores' is '0.5'"),
    ("classes as text", record_of(classes="cat"), "its 'classes' is 'cat'"),
    ("seconds as text", record_of(seconds="9"), "its 'seconds' is '9'"),
    ("classes that are numbers", record_of(classes=[1, 2]), "expected 'classes' to be a list of names, not [1, 2]"),
    ("a curve of words", record_of(task=MAPS, scores=map_scores(labels=map_scores()["labels"] | {"curve": ["a"]})),
     "expected the score labels.curve to be a list of numbers"),
    ("a domain without points", record_of(task=DOMAINS, protocol={"domains": "a to b"}, scores=DOMAIN | {"curve": [3]}),
     "expected points of the curve to have epoch, val and target, not 3"),
    ("no domains", record_of(task=DOMAINS, scores=DOMAIN), "its protocol names no domains"),
    ("a task of another package", record_of(task="os:system"), "its task 'os:system' is none"),
    ("a task that is none", record_of(task="attnbridge.evaluation.tasks.maps:nothing"), "is not there in this version"),
    ("another part of this package", record_of(task="attnbridge.experiments.fit:fit"), "is none; put the file back"),
    ("no scores", record_of(task=MAPS), "expected the score predicted.miou_fixed to be a number, not None"),
    ("a null score", record_of(task=CLASSES, scores={"top1": None}), "the score top1 to be a number, not None"),
    ("a score as text", record_of(task=CLASSES, scores={"top1": "0.5"}), "top1 to be a number, not '0.5'"),
    ("a curve that is none", record_of(task=MAPS, scores=map_scores(labels=map_scores()["labels"] | {"curve": 3})),
     "expected the score labels.curve to be a list of numbers, not 3"),
    ("scores of other classes", record_of(task=MAPS, scores=map_scores(5)), "6 values of predicted.iou for 3 labels"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in RECORDS], ids=[case[0] for case in RECORDS])
def test_a_record_that_is_none_is_named(content: Any, message: str, tmp_path: Path) -> None:
    path = _run(tmp_path / "run")
    path.write_text(json.dumps(content))
    with pytest.raises(AttnBridgeError) as error:
        _ = Run(path.parent).record
    assert message in str(error.value)
    assert str(path) in str(error.value) or "is not there in this version" in message


@pytest.mark.parametrize("verb", ["test", "explain", "segment"])
@pytest.mark.parametrize("text", ["- 1\n", "method: [", "method: attnbn\nmethod: gain\n"])
def test_a_configuration_of_a_run_that_is_none_is_named_by_each_verb(
    verb: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _run(tmp_path / "run").with_name("config.yaml")
    path.write_text(text)
    trees.noise(tmp_path / "a.jpg", 1)
    run, image, out = str(path.parent), str(tmp_path / "a.jpg"), str(tmp_path / "maps")
    words = {
        "test": ["test", run],
        "explain": ["explain", image, "--model", run, "--out", out],
        "segment": ["segment", run, image, "--out", out],
    }
    refused(words[verb], [str(path)], capsys, tmp_path)


@pytest.mark.parametrize("row", ["x,3,0.5", "0,3,nan", "0,3,high", "0,3,0..5"])
def test_metrics_that_are_none_are_named(row: str, tmp_path: Path) -> None:
    path = _run(tmp_path / "run").with_name("metrics.csv")
    path.write_text(f"epoch,step,val/top1\n{row}\n")
    with pytest.raises(AttnBridgeError, match=r"metrics\.csv, line 2: expected an epoch and an accuracy"):
        accuracy_figure([record_of()], [path.parent])  # type: ignore[list-item]


def test_an_import_of_something_else_is_named(tmp_path: Path) -> None:
    path = _imports(tmp_path / "x")
    path.write_text(json.dumps({"train": ["csv"]}))
    with pytest.raises(AttnBridgeError, match=r"imports\.json: does not say what was imported"):
        import_dataset("csv", tmp_path / "x/mine", tmp_path / "x/out", "train")


def test_a_broken_memory_of_checks_is_made_again(good: Path, tmp_path: Path) -> None:
    assert main(["data", "check", str(good / "target")]) == 0
    (memory,) = (tmp_path / "cache/checks").glob("*.json")
    before = json.loads(memory.read_text())
    for content in (b"", b"[1, 2]", b"\xff\x00"):
        memory.write_bytes(content)
        assert main(["data", "check", str(good / "target")]) == 0
        assert json.loads(memory.read_text()) == before
