"""LabelledImage-label sets in their true layouts, with their oddities, on small trees that the tests write."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import timm
from PIL import Image

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.folders import class_names, scan_class_folders
from attnbridge.data.transforms import eval_transform
from attnbridge.data.voc import VOC_CLASSES
from attnbridge.datasets.caltech import caltech101, caltech256
from attnbridge.datasets.clothing import clothing_small
from attnbridge.datasets.domains import office31, pacs, vlcs
from attnbridge.datasets.imagenet import imagenet
from attnbridge.datasets.layouts import LabelledImage, read_mapping, write_class_folders
from attnbridge.errors import AttnBridgeError

SHARED = Path(__file__).parents[3] / "shared" / "data"
Reader = Callable[[Path, str, str | None], tuple[tuple[str, ...], Iterator[LabelledImage]]]


def image(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 3)).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        image(root / path)
    return root


def listed(reader: Reader, root: Path, split: str = "all", classes: str | None = None) -> list[str]:
    return [f"{one.label}/{one.name}" for one in reader(root, split, classes)[1]]


@pytest.fixture
def caltech_101(tmp_path: Path) -> Path:
    root = tree(
        tmp_path / "c101",
        *(f"101_ObjectCategories/{name}/image_0001.jpg"
          for name in ("BACKGROUND_Google", "Faces", "Faces_easy", "ketch", "schooner", "accordion", "car_side")),
        "101_ObjectCategories/ketch/image_0002.JPG",
        "101_ObjectCategories/ketch/._image_0002.jpg",
    )  # fmt: skip
    image(root / "101_ObjectCategories/car_side/image_0001.jpg", "L")
    (root / "101_ObjectCategories/BACKGROUND_Google/tmp").touch()
    (root / "101_ObjectCategories/.hidden").mkdir()
    (root / "Annotations/ketch").mkdir(parents=True)
    return root


@pytest.fixture
def caltech_256(tmp_path: Path) -> Path:
    root = tree(
        tmp_path / "c256",
        *(f"{name}/{name[:3]}_0001.jpg" for name in ("001.ak47", "056.dog", "198.spider", "254.greyhound")),
        "056.dog/greg/vision309/056_0002.jpg",
        "251.airplanes-101/251_0001.jpg",
        "257.clutter/257_0001.jpg",
    )
    (root / "198.spider/RENAME2").write_text("#!/bin/sh\n")
    return root


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    root = tmp_path / "kaggle"
    data, notes = root / "ILSVRC/Data/CLS-LOC", root / "ILSVRC/Annotations/CLS-LOC/val"
    image(data / "train/n01440764/n01440764_10026.JPEG")
    image(data / "train/n02123045/n02123045_2.JPEG", "L")
    image(data / "train/n02123597/n02123597_2.JPEG", "CMYK")
    (data / "train/n02690373").mkdir()
    notes.mkdir(parents=True)
    for number, wnids in enumerate((["n02123597"], ["n01440764"], ["n02123045", "n02123045"]), start=1):
        name = f"ILSVRC2012_val_{number:08d}"
        image(data / f"val/{name}.JPEG")
        objects = "".join(f"<object><name>{wnid}</name></object>" for wnid in wnids)
        (notes / f"{name}.xml").write_text(f"<annotation><filename>{name}</filename>{objects}</annotation>")
    return root


def test_caltech101_by_its_own_names(caltech_101: Path) -> None:
    names, _ = caltech101(caltech_101, "all", None)
    assert names == ("Faces", "Faces_easy", "accordion", "car_side", "ketch", "schooner")
    assert listed(caltech101, caltech_101) == [
        "Faces/Faces_image_0001", "Faces_easy/Faces_easy_image_0001", "accordion/accordion_image_0001",
        "car_side/car_side_image_0001", "ketch/ketch_image_0001", "ketch/ketch_image_0002",
        "schooner/schooner_image_0001",
    ]  # fmt: skip
    assert listed(caltech101, caltech_101 / "101_ObjectCategories") == listed(caltech101, caltech_101)


def test_caltech101_by_vocs_names_is_read_back_by_training(caltech_101: Path, tmp_path: Path) -> None:
    names, items = caltech101(caltech_101, "all", "voc")
    assert set(names) == {
        "aeroplane",
        "bird",
        "boat",
        "car",
        "cat",
        "chair",
        "dog",
        "motorbike",
        "person",
        "pottedplant",
    }
    assert names == tuple(sorted(names))
    assert write_class_folders(items, tmp_path / "out") == {"boat": 3, "car": 1, "person": 1}
    records = scan_class_folders(tmp_path / "out", ["boat", "car", "person"])
    assert [record.id for record in records] == [
        "boat/ketch_image_0001.jpg", "boat/ketch_image_0002.jpg", "boat/schooner_image_0001.jpg",
        "car/car_side_image_0001.jpg", "person/Faces_image_0001.jpg",
    ]  # fmt: skip
    sample = ImageDataset(records, 3, "source", eval_transform((3, 4)))[3]
    assert sample["image"].shape == (3, 3, 4)
    assert sample["labels"].tolist() == [0, 1, 0]


def test_caltech256_leaves_out_clutter_and_strays(caltech_256: Path) -> None:
    names, _ = caltech256(caltech_256, "all", None)
    assert names == ("airplanes-101", "ak47", "dog", "greyhound", "spider")
    assert listed(caltech256, caltech_256, classes="voc") == [
        "aeroplane/airplanes-101_251_0001", "dog/dog_056_0001", "dog/greyhound_254_0001",
    ]  # fmt: skip
    nested = caltech_256.parent / "256_ObjectCategories"
    caltech_256.rename(nested)
    assert len(listed(caltech256, nested.parent)) == 5


def test_imagenets_two_layouts_agree(ilsvrc: Path, tmp_path: Path) -> None:
    wnids = ("n01440764", "n02123045", "n02123597")
    assert imagenet(ilsvrc, "train", None)[0] == (*wnids, "n02690373")
    assert listed(imagenet, ilsvrc / "ILSVRC", "train") == [
        "n01440764/n01440764_10026", "n02123045/n02123045_2", "n02123597/n02123597_2",
    ]  # fmt: skip
    assert imagenet(ilsvrc, "val", None)[0] == wnids
    flat = listed(imagenet, ilsvrc, "val")
    assert flat == [
        "n01440764/n01440764_ILSVRC2012_val_00000002", "n02123045/n02123045_ILSVRC2012_val_00000003",
        "n02123597/n02123597_ILSVRC2012_val_00000001",
    ]  # fmt: skip
    prepared = tree(tmp_path / "prepared", *(f"val/{name.replace('_', '/', 1)[10:]}.JPEG" for name in flat))
    assert listed(imagenet, prepared, "val") == flat


def test_imagenets_images_of_all_colour_modes_are_read_back(ilsvrc: Path, tmp_path: Path) -> None:
    _, items = imagenet(ilsvrc, "train", "voc")
    assert write_class_folders(items, tmp_path / "out") == {"cat": 2}
    records = scan_class_folders(tmp_path / "out", ["cat"])
    assert [record.image.name for record in records] == ["n02123045_2.jpeg", "n02123597_2.jpeg"]
    assert {Image.open(record.image).mode for record in records} == {"L", "CMYK"}
    dataset = ImageDataset(records, 1, "source", eval_transform((3, 4)))
    assert [tuple(dataset[i]["image"].shape) for i in range(2)] == [(3, 3, 4)] * 2


def test_imagenets_annotations_are_checked_before_anything_is_written(ilsvrc: Path) -> None:
    notes = ilsvrc / "ILSVRC/Annotations/CLS-LOC/val"
    first = notes / "ILSVRC2012_val_00000001.xml"
    first.write_text("<annotation><object>")
    with pytest.raises(AttnBridgeError, match=r"val_00000001\.xml: is not XML"):
        imagenet(ilsvrc, "val", None)
    for text in ("", "<object><name>cat</name></object>", "<object/>",
                 "<object><name>n02123597</name></object><object><name>n02123045</name></object>"):  # fmt: skip
        first.write_text(f"<annotation>{text}</annotation>")
        with pytest.raises(AttnBridgeError, match=r"val_00000001\.xml: expected objects of one wnid"):
            imagenet(ilsvrc, "val", None)
    first.unlink()
    with pytest.raises(AttnBridgeError, match=r"val_00000001\.xml: no such file; expected the annotation of .*JPEG"):
        imagenet(ilsvrc, "val", None)
    notes.rename(notes.with_name("other"))
    with pytest.raises(AttnBridgeError, match=r"unpack the annotations too"):
        imagenet(ilsvrc, "val", None)


@pytest.mark.parametrize("above", ["", "kfold", "PACS", "pacs_data"])
def test_pacs_domains_agree_on_the_classes(tmp_path: Path, above: str) -> None:
    tree(
        tmp_path / above, "photo/dog/pic_001.jpg", "photo/person/056_0001.jpg", "sketch/dog/n02103406_1.png",
        "sketch/house/1.png", "art_painting/guitar/pic_001.jpg",
    )  # fmt: skip
    names, _ = pacs(tmp_path, "photo", None)
    assert names == pacs(tmp_path, "sketch", None)[0] == ("dog", "guitar", "house", "person")
    assert listed(pacs, tmp_path, "photo") == ["dog/photo_pic_001", "person/photo_056_0001"]
    assert listed(pacs, tmp_path, "sketch", "voc") == ["dog/sketch_n02103406_1"]
    out = tmp_path / "out"
    for domain in ("photo", "sketch"):
        write_class_folders(pacs(tmp_path, domain, None)[1], out)
    assert class_names(out) == ["dog", "house", "person"]
    assert len(scan_class_folders(out, names)) == 4


def test_vlcs_of_domainbed_and_of_numbered_folders_agree(tmp_path: Path) -> None:
    new = tree(tmp_path / "new/VLCS", "SUN09/bird/a b.jpg", "SUN09/person/1.JPG", "Caltech101/dog/1.jpg")
    old = tree(
        tmp_path / "old", "SUN/train/0/1.jpg", "SUN/test/0/1.jpg", "SUN/crossval/4/2.jpg", "SUN/full/0/1.jpg",
        "CALTECH/train/3/1.jpg",
    )  # fmt: skip
    classes = ("bird", "car", "chair", "dog", "person")
    assert vlcs(new.parent, "SUN", None)[0] == vlcs(old, "SUN09", "voc")[0] == classes
    assert listed(vlcs, new, "SUN09") == listed(vlcs, new, "SUN") == ["bird/SUN09_a b", "person/SUN09_1"]
    expected = ["bird/SUN09_test_1", "bird/SUN09_train_1", "person/SUN09_crossval_2"]
    assert listed(vlcs, old, "SUN09") == listed(vlcs, old, "SUN") == expected
    assert write_class_folders(vlcs(old, "SUN", None)[1], tmp_path / "out") == {"bird": 2, "person": 1}
    assert len(scan_class_folders(tmp_path / "out", classes)) == 3
    (old / "SUN/train/5").mkdir()
    with pytest.raises(AttnBridgeError, match=r"unknown class folder in .*SUN.train: '5'"):
        vlcs(old, "SUN", None)


def test_office31_with_and_without_images(tmp_path: Path) -> None:
    tree(tmp_path / "office31", "amazon/images/bike/frame_0001.jpg", "webcam/monitor/frame_0001.jpg")
    assert office31(tmp_path, "amazon", None)[0] == office31(tmp_path, "webcam", None)[0] == ("bike", "monitor")
    assert listed(office31, tmp_path, "amazon") == ["bike/amazon_frame_0001"]
    assert listed(office31, tmp_path, "webcam", "voc") == ["tvmonitor/webcam_frame_0001"]


def test_clothing_small_by_its_splits(tmp_path: Path) -> None:
    root = tree(tmp_path / "clothing-dataset-small-master", "train/t-shirt/6aa750ad.jpg", "train/hat/1.jpg")
    (root / "validation/hat").mkdir(parents=True)
    assert clothing_small(root, "train", None)[0] == ("hat", "t-shirt")
    assert listed(clothing_small, tmp_path, "train") == ["hat/1", "t-shirt/6aa750ad"]
    with pytest.raises(AttnBridgeError, match=r"validation: its folders hold no image"):
        listed(clothing_small, tmp_path, "validation")
    with pytest.raises(AttnBridgeError, match=r"clothing_small comes in its own classes alone; leave --classes out"):
        clothing_small(root, "train", "voc")


SETS: list[tuple[Reader, str, str]] = [
    (caltech101, "all", "101_ObjectCategories/CLASS/image_0001.jpg"),
    (caltech256, "all", "256_ObjectCategories/001.ak47/001_0001.jpg"),
    (imagenet, "val", "ILSVRC/Data/CLS-LOC/val"),
    (pacs, "photo", "photo/CLASS/pic_001.jpg"),
    (vlcs, "SUN09", "SUN09/bird or SUN/train/0"),
    (office31, "dslr", "dslr/images/CLASS/frame_0001.jpg"),
    (clothing_small, "test", "test/dress/IMAGE.jpg"),
]


@pytest.mark.parametrize(("reader", "split", "expected"), SETS, ids=[reader.__name__ for reader, _, _ in SETS])
def test_wrong_roots_splits_and_classes_are_named(tmp_path: Path, reader: Reader, split: str, expected: str) -> None:
    with pytest.raises(AttnBridgeError, match=r"lost: no such folder; expected ") as caught:
        reader(tmp_path / "lost", split, None)
    assert expected in str(caught.value)
    tree(tmp_path / "other", "cats/1.jpg")
    with pytest.raises(AttnBridgeError, match=r"other: expected .*; give the folder that holds it"):
        reader(tmp_path / "other", split, None)
    with pytest.raises(
        AttnBridgeError, match=rf"unknown (split|domain) of {reader.__name__}: '{split}s'; did you mean"
    ):
        reader(tmp_path / "other", f"{split}s", None)
    if reader is not clothing_small:
        with pytest.raises(AttnBridgeError, match=rf"unknown classes for {reader.__name__}: 'vok'; did you mean 'voc'"):
            reader(tmp_path / "other", split, "vok")


def test_folders_without_what_is_wanted_are_named(caltech_101: Path, tmp_path: Path) -> None:
    tree(tmp_path / "few", "accordion/image_0001.jpg")
    with pytest.raises(AttnBridgeError, match=r"few: holds no class folder of the 18 that have a class: airplanes, "):
        caltech101(tmp_path / "few", "all", "voc")
    for path in (caltech_101 / "101_ObjectCategories").glob("[kscF]*/*"):
        path.unlink()
    with pytest.raises(AttnBridgeError, match=r"hold no image; is the download complete\?"):
        write_class_folders(caltech101(caltech_101, "all", "voc")[1], tmp_path / "out")
    (tmp_path / "photo").mkdir()
    with pytest.raises(AttnBridgeError, match=r"photo: holds no class folders"):
        pacs(tmp_path, "photo", None)


@pytest.mark.parametrize("name", ["caltech101", "caltech256", "imagenet", "pacs", "vlcs", "office31"])
def test_mappings_lead_to_vocs_classes(name: str) -> None:
    mapping = read_mapping(f"{name}_voc")
    assert set(mapping.values()) <= set(VOC_CLASSES)
    assert list(mapping.items()) == sorted(mapping.items(), key=lambda pair: (pair[1], pair[0].lower()))


def test_imagenets_mapping_has_true_wnids() -> None:
    info = Path(timm.__file__).parent / "data" / "_info"
    known = (info / "imagenet_synsets.txt").read_text().split()
    lemmas = dict(line.split("\t", 1) for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    mapping = read_mapping("imagenet_voc")
    assert set(mapping) <= set(known)
    assert set(mapping.values()) == set(VOC_CLASSES)
    text = (files("attnbridge.datasets") / "mappings" / "imagenet_voc.csv").read_text()
    rows = [row for row in csv.reader(text.splitlines()) if not row[0].startswith("#")]
    assert rows[0] == ["label", "class", "name"]
    assert {label: name for label, _, name in rows[1:]} == {label: lemmas[label] for label in mapping}
    spread = [mapping.get(wnid) for wnid in known]
    assert spread[151:269] == ["dog"] * 118
    assert spread.count("dog") == 118
    assert [spread.count(name) for name in ("bird", "cat", "boat", "person")] == [59, 5, 12, 3]
    assert spread[7:25] + spread[80:101] + spread[127:147] == ["bird"] * 59


def test_the_shared_caltech101(tmp_path: Path) -> None:
    if not (SHARED / "caltech101").is_dir():
        pytest.skip("needs ../shared/data/caltech101, which is not here")
    _, items = caltech101(SHARED / "caltech101", "all", "voc")
    counts = write_class_folders(items, tmp_path)
    assert sorted(counts) == [
        "aeroplane", "bird", "boat", "car", "cat", "chair", "dog", "motorbike", "person", "pottedplant",
    ]  # fmt: skip
    assert sum(counts.values()) == len(list((SHARED / "caltech101").glob("*/*.jpg")))
    assert len(scan_class_folders(tmp_path, sorted(counts))) == sum(counts.values())


def test_the_shared_101_names_hold_every_label_of_the_mapping() -> None:
    if not (SHARED / "caltech101_30").is_dir():
        pytest.skip("needs ../shared/data/caltech101_30, which is not here")
    assert set(read_mapping("caltech101_voc")) < set(class_names(SHARED / "caltech101_30" / "train"))


@pytest.mark.parametrize("domain", ["art_painting", "cartoon", "photo", "sketch"])
def test_the_shared_pacs(domain: str, tmp_path: Path) -> None:
    if not (SHARED / "pacs").is_dir():
        pytest.skip("needs ../shared/data/pacs, which is not here")
    names, items = pacs(SHARED / "pacs", domain, None)
    assert names == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert write_class_folders(items, tmp_path) == dict.fromkeys(names, 30)
    assert len(scan_class_folders(tmp_path, names)) == 210
