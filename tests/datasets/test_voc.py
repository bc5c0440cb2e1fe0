"""SBD and VOC in their own layouts, on small trees that the tests write, and the table of all sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.transforms import eval_transform
from attnbridge.data.voc import VOC_CLASSES, scan_voc
from attnbridge.datasets import SETS, find_set, how_to_get, load
from attnbridge.datasets.check import check_set
from attnbridge.datasets.importer import import_dataset
from attnbridge.datasets.layouts import read_mapping
from attnbridge.datasets.sbd import read_mask, sbd
from attnbridge.datasets.voc import find_kit
from attnbridge.errors import AttnBridgeError
from tests.datasets.test_coco import CAT, HEIGHT, PERSON, WIDTH, region

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """VOC 2012's kit: a and b in train, v in val, the others of SBD."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_a\n2007_b\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_v\n")
    for name in ("2007_a", "2007_b", "2007_v", "2008_s"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"JPEGImages/{name}.jpg")
        thing = "<object><name>cat</name><difficult>0</difficult></object>"
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{thing}</annotation>")
        Image.fromarray(region(0, 0, 4, 4) * CAT).save(root / f"SegmentationClass/{name}.png")
    (root / "SegmentationClass/2008_s.png").unlink()
    return root


def write_mat(path: Path, mask: np.ndarray[Any, Any]) -> None:
    """The struct of SBD's cls/*.mat."""
    boundaries = np.empty((20, 1), object)
    boundaries[:] = [[np.zeros((2, 2))] for _ in range(20)]
    struct = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.array([[8]], np.uint8)}
    savemat(path, {"GTcls": struct}, do_compression=True)


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    root = tmp_path / "benchmark_RELEASE" / "dataset"
    for folder in ("img", "cls", "inst"):
        (root / folder).mkdir(parents=True)
    (root / "train.txt").write_text("2008_s\n2007_v\n2007_b\n")
    (root / "val.txt").write_text("2008_new\n2008_s\n")
    for name in ("2008_s", "2007_v", "2007_b", "2008_new"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"img/{name}.jpg")
        write_mat(root / f"cls/{name}.mat", region(0, 0, 2, 2) * np.uint8(PERSON) + region(7, 5, 8, 6) * np.uint8(255))
    return root


def test_sbd_gives_trainaug(kit: Path, benchmark: Path, tmp_path: Path) -> None:
    (kit / "Annotations/2008_s.xml").unlink()  # its mask gives the labels
    done = import_dataset("sbd", tmp_path, kit.parents[1])
    assert done.folder == kit
    listed = (kit / "ImageSets/Segmentation/trainaug.txt").read_text().split()
    assert listed == ["2007_a", "2007_b", "2008_new", "2008_s"]
    assert sorted(p.stem for p in (kit / "SegmentationClassAug").iterdir()) == ["2008_new", "2008_s"]
    assert (kit / "JPEGImages/2008_new.jpg").is_symlink()
    assert (done.counts["cat"], done.counts["person"], done.images) == (2, 2, 4)
    records = scan_voc(kit, VOC_CLASSES, "trainaug", masks=True)
    dataset = ImageDataset(records, 20, "target", eval_transform((HEIGHT, WIDTH)))
    assert dataset[1]["mask"][0].tolist() == [CAT] * 4 + [0] * 4  # VOC's own
    assert dataset[3]["mask"][0].tolist() == [PERSON] * 2 + [0] * 6
    assert dataset[3]["mask"][5].tolist() == [0] * 7 + [255]
    before = (kit / "SegmentationClassAug/2008_s.png").stat().st_mtime_ns
    assert import_dataset("sbd", benchmark, kit) == done
    assert (kit / "SegmentationClassAug/2008_s.png").stat().st_mtime_ns == before
    problems = check_set(kit).problems
    assert all("has no image" in line for line in problems)


def test_what_is_wrong_with_sbd_is_named(kit: Path, benchmark: Path, tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"holds no kit of VOC 2012"):
        sbd(benchmark, "trainaug", benchmark)
    with pytest.raises(AttnBridgeError, match=r"name its folder with --out"):
        sbd(benchmark, "trainaug", None)
    with pytest.raises(AttnBridgeError, match=r"holds no SBD; expected cls and img there"):
        sbd(kit, "trainaug", kit)
    mat = benchmark / "cls/2008_s.mat"
    for content, message in (
        (b"broken", r"2008_s\.mat: cannot be read as a MATLAB file"),
        (None, "5x5 pixels, but its"),
    ):
        if content is None:
            write_mat(mat, np.zeros((5, 5), np.uint8))
        else:
            mat.write_bytes(content)
        with pytest.raises(AttnBridgeError, match=message):
            sbd(benchmark, "trainaug", kit)
        assert not (kit / "ImageSets/Segmentation/trainaug.txt").exists()
    savemat(mat, {"other": 1})
    with pytest.raises(AttnBridgeError, match=r"2008_s\.mat: has no variable 'GTcls'"):
        read_mask(mat)
    write_mat(mat, np.full((HEIGHT, WIDTH), 21, np.uint8))
    with pytest.raises(AttnBridgeError, match=r"2008_s\.mat: holds the values \[21\]; expected 0 to 20 or 255"):
        read_mask(mat)
    mat.unlink()
    with pytest.raises(AttnBridgeError, match=r"2008_s\.mat: no such file, but a list names it; 1 of 2 are missing"):
        sbd(benchmark, "trainaug", kit)
    (kit / "ImageSets/Segmentation/trainaug.txt").write_text("2007_a\n")
    with pytest.raises(AttnBridgeError, match=r"trainaug\.txt: is there already and names other images"):
        sbd(benchmark, "trainaug", kit)
    (benchmark / "val.txt").unlink()
    with pytest.raises(AttnBridgeError, match=r"val\.txt: no such file"):
        sbd(benchmark, "trainaug", kit)


def test_voc_is_read_where_it_lies(kit: Path, tmp_path: Path) -> None:
    done = import_dataset("voc2012", tmp_path)
    assert (done.folder, done.images, done.counts["cat"]) == (kit, 2, 2)
    assert find_kit(kit.parent, "2012") == kit
    with pytest.raises(AttnBridgeError, match=r"holds no kit of VOC 2007.*\nvoc2007: get it from http://host\.robots"):
        import_dataset("voc2007", tmp_path)
    with pytest.raises(AttnBridgeError, match=r"unknown list of images.*'trainval'; did you mean 'train'"):
        import_dataset("voc2012", tmp_path, split="trainval")
    with pytest.raises(AttnBridgeError, match=r"leave --out out"):
        import_dataset("voc2012", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_the_table_names_functions_that_are_there(name: str) -> None:
    entry = find_set(name)
    for function in filter(None, (entry.function, entry.download)):
        assert callable(load(name, function))
    prefix = {"csv": "table"}.get(name, name)
    for mapping in entry.mappings:
        assert read_mapping(f"{prefix}_{mapping}")
    assert entry.layout in how_to_get(name)
