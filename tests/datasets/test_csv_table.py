"""Tables of labels of the user's own, in all forms that are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.transforms import eval_transform
from attnbridge.data.voc import scan_voc
from attnbridge.datasets.check import check_set
from attnbridge.datasets.csv_table import table
from attnbridge.datasets.ids import plain_ids
from attnbridge.datasets.importer import import_dataset
from attnbridge.errors import AttnBridgeError

pytestmark = pytest.mark.usefixtures("own_cache")

WIDTH, HEIGHT = 8, 6


@pytest.fixture
def own(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for name in ("a.jpg", "two words.JPG", "deep/down/c.png", "deep/a.jpg", ".hidden/d.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / name, "PNG" if name.endswith("png") else "JPEG")
    return root


@pytest.mark.parametrize(
    "text",
    [
        "id,dog,cat\na,1,0\ntwo words.jpg,0,0\ndeep/down/c.png,1,1\n",
        "\ufeffid;dog;cat\r\na;1;0\r\ntwo words;0;0\r\ndeep\\down\\c;1;1\r\n\r\n",
        "image,labels\na.jpg,dog\ntwo words,\nc,dog;cat\n",
        "image,labels\n./a.jpg, dog \ntwo words.JPG,\nc.png,cat dog\n",
        'image\tLabels\n"a"\t"dog"\n"two words"\t""\n"deep/down/c"\t"cat, dog"\n',
        'image,tags\na,dog\ntwo words,\ndeep/down/c,"cat|dog"\n',
    ],
    ids=["columns", "excel", "semicolons", "spaces", "tabs", "bars"],
)
def test_every_form_of_a_table_gives_the_same(own: Path, tmp_path: Path, text: str) -> None:
    (own / "labels.csv").write_text(text, encoding="utf-8", newline="")
    names, items = table(own, "train", None)
    assert sorted(names) == ["cat", "dog"]
    assert {i.id: (i.image.name, i.labels) for i in items} == {
        "a": ("a.jpg", {"dog"}),
        "two_words": ("two words.JPG", set()),
        "deep__down__c": ("c.png", {"cat", "dog"}),
    }
    import_dataset("csv", own, tmp_path / "out", "train")
    records = scan_voc(tmp_path / "out", ("cat", "dog"), "train")
    assert [r.classes for r in records] == [(1,), (), (0, 1)]
    assert check_set(tmp_path / "out").problems == []
    assert ImageDataset(records, 2, "target", eval_transform((HEIGHT, WIDTH)))[2]["labels"].tolist() == [1, 1]


def test_classes_may_be_listed_and_tables_may_be_of_splits(own: Path, tmp_path: Path) -> None:
    (own / "classes.txt").write_text("traffic light\ndog\ncat\n")
    (own / "train.csv").write_text("image,labels\na.jpg,traffic light;dog\n")
    (own / "val.csv").write_text("image,labels\nc,cat;\n")
    assert import_dataset("csv", own, tmp_path / "out", "train").counts == {"traffic light": 1, "dog": 1, "cat": 0}
    assert import_dataset("csv", own, tmp_path / "out", "val").counts == {"traffic light": 0, "dog": 0, "cat": 1}
    assert import_dataset("csv", own, tmp_path / "out", "train").images == 1
    (own / "val.csv").write_text("image,labels\nc,dogg;\n")
    with pytest.raises(AttnBridgeError, match=r"val\.csv, line 2: 'dogg'; did you mean 'dog'"):
        import_dataset("csv", own, tmp_path / "out", "val")
    with pytest.raises(AttnBridgeError, match=r"unknown table in .*'vall\.csv'; did you mean 'val\.csv'"):
        import_dataset("csv", own, tmp_path / "out", "vall")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a header"),
        ("id\na\n", "line 1: expected a header 'id,CLASS,CLASS,... or image,labels', found 'id' alone"),
        ("id,dog,dog\na,1,0\n", "line 1: names the column 'dog' twice"),
        ("id,dog,cat\na,1\n", "line 2: expected 3 fields, found 2"),
        ("id,dog,cat\n\na,1,yes\n", "line 3: expected 0 or 1 for 'cat', found 'yes'"),
        ("id,what\na,dog\n", "line 2: expected 0 or 1 for 'what', found 'dog'; a column of labels must be named"),
        ("id,dog\nlost.jpg,1\n", "line 2: no image 'lost.jpg' below"),
        ("id,dog\nd,1\n", "line 2: no image 'd' below"),
        ("id,dog\na,1\na.jpg,0\n", "line 3: a.jpg has a row already, in line 2"),
        ("id,dog\n", "has no row after the header"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_by_its_line(own: Path, text: str, message: str) -> None:
    (own / "labels.csv").write_text(text)
    with pytest.raises(AttnBridgeError, match=r"labels\.csv.*" + re.escape(message)):
        table(own, "train", None)


def test_images_that_may_be_two_are_named(own: Path) -> None:
    (own / "labels.csv").write_text("id,dog\nc,1\n")
    Image.new("RGB", (5, 5)).save(own / "deep/c.jpg")
    with pytest.raises(AttnBridgeError, match=r"line 2: 'c' may be .*c\.jpg or .*c\.png; give the path"):
        table(own, "train", None)
    with pytest.raises(AttnBridgeError, match=r"'a b\.jpg' and 'a_b\.jpg' would have the same name"):
        plain_ids(["a b.jpg", "a_b.jpg"], own)
    (own / "labels.csv").write_bytes(b"id,\xff\n")
    with pytest.raises(AttnBridgeError, match=r"labels\.csv: is not UTF-8"):
        table(own, "train", None)
    (own / "labels.csv").unlink()
    with pytest.raises(AttnBridgeError, match=r"labels\.csv: no such file"):
        table(own, "train", None)


def test_nothing_is_written_over_what_is_not_ours(own: Path, tmp_path: Path) -> None:
    kit = tmp_path / "VOC2012"
    (kit / "ImageSets/Segmentation").mkdir(parents=True)
    (kit / "ImageSets/Segmentation/train.txt").write_text("2007_a\n")
    (own / "labels.csv").write_text("id,dog\na,1\n")
    with pytest.raises(AttnBridgeError, match=r"is of a data set that `attnbridge data import` did not write"):
        import_dataset("csv", own, kit, "train")
    assert (kit / "ImageSets/Segmentation/train.txt").read_text() == "2007_a\n"
    assert not (kit / "labels.csv").exists()
    with pytest.raises(AttnBridgeError, match=r"out: lies in .*own, which is read"):
        import_dataset("csv", own, own / "out")
