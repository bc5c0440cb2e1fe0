"""Plain folders: what is read, and what is said of folders that are not right."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from attnbridge.data.checks import check_classification, check_source_target
from attnbridge.data.folders import class_names, find_images, scan_class_folders, scan_multi_label, scan_pair
from attnbridge.data.modules.classification import ClassificationDataModule
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.errors import AttnBridgeError


@pytest.fixture
def pair(scenes: Path, tmp_path: Path) -> Path:
    """A copy of the scenes to break."""
    return Path(shutil.copytree(scenes, tmp_path / "pair"))


def scan(pair: Path, split: str) -> list[object]:
    return list(scan_pair(pair / "source/train", pair / "target", pair / "saliency/train", split))


def test_class_folders_name_classes_labels_and_saliency(pair: Path) -> None:
    classes = class_names(pair / "source/train")
    records = scan_class_folders(pair / "source/train", classes, pair / "saliency/train")
    assert len(records) == 24
    for record in records:
        assert record.id.split("/")[0] == classes[record.classes[0]]
        assert record.saliency is not None
        assert record.saliency.stem == record.image.stem


def test_multi_label_follows_the_csv_whatever_its_column_order(pair: Path) -> None:
    folder, classes = pair / "target/val", class_names(pair / "source/train")
    before = scan_multi_label(folder, classes, masks=True)
    rows = list(csv.reader((folder / "labels.csv").open()))
    flipped = [[row[0], *reversed(row[1:])] for row in rows]
    with (folder / "labels.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(flipped)
    assert scan_multi_label(folder, classes, masks=True) == before
    assert all(record.mask is not None for record in before)


def test_training_records_carry_no_mask_though_the_folder_has_them(pair: Path) -> None:
    assert (pair / "target/train/masks").is_dir()
    assert all(record.mask is None for record in scan_pair(pair / "source/train", pair / "target", None, "train"))


def unknown_class(pair: Path) -> None:
    table = pair / "target/train/labels.csv"
    table.write_text(table.read_text().replace("square", "sqare", 1))


def missing_class(pair: Path) -> None:
    table = pair / "target/train/labels.csv"
    rows = [line.rsplit(",", 1)[0] for line in table.read_text().splitlines()]
    table.write_text("\n".join(rows))


def empty_split(pair: Path) -> None:
    table = pair / "target/train/labels.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")


def no_table(pair: Path) -> None:
    (pair / "target/train/labels.csv").unlink()


def bad_cell(pair: Path) -> None:
    table = pair / "target/train/labels.csv"
    table.write_text(table.read_text().replace(",1", ",yes", 1))


def short_row(pair: Path) -> None:
    table = pair / "target/train/labels.csv"
    table.write_text(table.read_text() + "00000,1\n")


def lost_image(pair: Path) -> None:
    (pair / "target/train/images/00003.jpg").unlink()


def corrupt_image(pair: Path) -> None:
    (pair / "target/train/images/00003.jpg").write_bytes(b"no image at all")


def truncated_image(pair: Path) -> None:
    path = pair / "target/train/images/00003.jpg"
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unknown_class, r"labels.csv: 'sqare'; did you mean 'square'"),
        (missing_class, r"labels.csv: has no column for class 'zigzag'"),
        (empty_split, r"labels.csv: the split is empty"),
        (no_table, r"labels.csv: no such file; expected a header"),
        (bad_cell, r"labels.csv, line 2: expected 0 or 1, found 'yes'"),
        (short_row, r"labels.csv, line 34: expected 9 fields, found 2"),
        (lost_image, r"line 5: no image '00003'"),
        (corrupt_image, r"00003.jpg: cannot be read as an image"),
        (truncated_image, r"00003.jpg: cannot be read as an image .*truncated"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_with_the_target_is_named(pair: Path, damage: object, message: str) -> None:
    damage(pair)  # type: ignore[operator]
    with pytest.raises(AttnBridgeError, match=message):
        scan(pair, "train")


def other_class(pair: Path) -> None:
    (pair / "target/val/labels.csv").write_text("id,disc\n")


def small_map(pair: Path) -> None:
    path = next((pair / "saliency/train/disc").iterdir())
    Image.new("L", (10, 12)).save(path)


def lost_map(pair: Path) -> None:
    next((pair / "saliency/train/disc").iterdir()).unlink()


def no_images(pair: Path) -> None:
    for folder in (pair / "source/train").iterdir():
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (small_map, r"saliency map is 10x12 pixels, but its image .* is 48x48"),
        (lost_map, r"\.png: no such file; expected the saliency map of"),
        (no_images, r"the class folders hold no images"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_with_the_source_is_named(pair: Path, damage: object, message: str) -> None:
    damage(pair)  # type: ignore[operator]
    with pytest.raises(AttnBridgeError, match=message):
        scan(pair, "source")


def test_a_class_folder_that_the_target_does_not_know(pair: Path) -> None:
    (pair / "source/train/wheel").mkdir()
    with pytest.raises(AttnBridgeError, match="has no column for class 'wheel', which the pair has"):
        scan(pair, "train")
    with pytest.raises(AttnBridgeError, match=r"no such folder; expected a folder with one sub-folder per class"):
        class_names(pair / "nowhere")
    with pytest.raises(AttnBridgeError, match=r"unknown class folder in .*'moon'"):
        scan_class_folders(pair / "source/train", ["cross", "disc"])


def test_names_of_lists_are_refused_where_there_are_none(scenes: Path) -> None:
    options = {"source": str(scenes / "source/train"), "target": str(scenes / "target"), "lists": {"val": "mine"}}
    with pytest.raises(AttnBridgeError, match=r"data\.lists is .* not of VOC's layout .* which alone reads it"):
        SourceTargetDataModule(**options, batch_size=4, workers=0).train_dataloader()
    with pytest.raises(AttnBridgeError, match=r"data\.lists is"):
        check_source_target(True, **options)
    check_source_target(False, **options)  # those of a run that is scored on other data


def test_a_folder_for_cifar_is_refused_where_it_is_not_read(images: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"data\.root is .*'x'.* but .* is not of CIFAR's layout"):
        ClassificationDataModule(str(images), root="x", batch_size=4, workers=0).train_dataloader()
    with pytest.raises(AttnBridgeError, match=r"data\.root is 'x'"):
        check_classification(True, data=str(images), root="x")


def test_results_that_lie_behind_a_link_are_not_taken_for_images(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "maps/sub/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    (tmp_path / "images/made").symlink_to(tmp_path / "maps")
    assert list(find_images([str(tmp_path / "images")], tmp_path / "maps")) == ["a.jpg"]
    assert list(find_images([str(tmp_path / "images")])) == ["a.jpg", "made/sub/a.png"]
