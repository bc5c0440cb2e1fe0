"""COCO in its own layout with its oddities, on small trees that the tests write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbridge.data.dataset import ImageDataset
from attnbridge.data.images import ORIENTATION, load_image
from attnbridge.data.transforms import eval_transform
from attnbridge.data.voc import VOC_CLASSES, scan_voc
from attnbridge.datasets.check import check_set
from attnbridge.datasets.coco import coco
from attnbridge.datasets.importer import import_dataset
from attnbridge.datasets.layouts import read_mapping
from attnbridge.errors import AttnBridgeError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "voc20"
WIDTH, HEIGHT = 8, 6
NAMES = {1: "person", 3: "car", 17: "cat", 62: "chair", 63: "couch", 64: "potted plant", 84: "book"}
PERSON, CAT, CHAIR, SOFA = (VOC_CLASSES.index(name) + 1 for name in ("person", "cat", "chair", "sofa"))
pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of pycocotools
]


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def runs(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """COCO's uncompressed run lengths: down the columns, beginning with zeros."""
    flat = mask.ravel(order="F")
    counts, value = [0], 0
    for pixel in flat.tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    from pycocotools.mask import encode

    rle = encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def region(left: int, top: int, right: int, bottom: int) -> np.ndarray[Any, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


class Tree:
    """COCO's layout, built up."""

    def __init__(self, root: Path, split: str = "val2017") -> None:
        self.root, self.split = root, split
        self.content: dict[str, Any] = {
            "info": {},
            "images": [],
            "annotations": [],
            "categories": [{"id": k, "name": name, "supercategory": "x"} for k, name in NAMES.items()],
        }
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)

    def image(self, name: str, mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT), turn: int = 1) -> int:
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        Image.new(mode, size).save(self.root / self.split / name, "JPEG", exif=exif)
        number = 100 - len(self.content["images"])  # ids in another order than names
        self.content["images"].append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        return number

    def object(self, image: int, category: int, segmentation: Any, crowd: int = 0) -> None:
        number = len(self.content["annotations"]) + 1
        self.content["annotations"].append(
            {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
        )

    def write(self) -> Path:
        path = self.root / "annotations" / f"instances_{self.split}.json"
        path.write_text(json.dumps(self.content))
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "coco")


def stored(out: Path, name: str) -> list[list[int]]:
    mask: list[list[int]] = np.asarray(load_image(out / "SegmentationClass" / f"{name}.png", "P")).tolist()
    return mask


def only(root: Path, classes: str | None = "voc") -> tuple[Any, ...]:
    """All that the reader yields."""
    return tuple(coco(root, "val2017", classes)[1])


def test_objects_cover_larger_ones_and_crowds_lie_below(tree: Tree, tmp_path: Path) -> None:
    one = tree.image("000000000002.jpg")
    tree.object(one, 17, [box(1, 1, 3, 3)])  # the cat first in the file, drawn last
    tree.object(one, 63, runs(region(0, 0, 6, 5)))
    tree.object(one, 1, runs(region(4, 0, 8, 6)), crowd=1)
    tree.object(one, 84, compressed(region(0, 0, 1, 1)))  # a book on the sofa is background
    tree.object(one, 84, compressed(region(0, 5, 8, 6)), crowd=1)  # many books are nothing
    tree.write()
    done = import_dataset("coco", tree.root, tmp_path / "out", "val2017", "voc")
    s, c, v = SOFA, CAT, 255
    assert stored(tmp_path / "out", "000000000002") == [
        [0, s, s, s, s, s, v, v],
        [s, c, c, s, s, s, v, v],
        [s, c, c, s, s, s, v, v],
        [s, s, s, s, s, s, v, v],
        [s, s, s, s, s, s, v, v],
        [0, 0, 0, 0, v, v, v, v],
    ]
    assert (done.images, {k for k, n in done.counts.items() if n}) == (1, {"cat", "sofa"})
    assert tuple(done.counts) == VOC_CLASSES


@pytest.mark.parametrize("form", [runs, compressed], ids=["uncompressed", "compressed"])
def test_both_kinds_of_run_lengths_are_the_same_mask(tree: Tree, form: Any) -> None:
    ring = region(1, 1, 7, 5) - region(3, 2, 5, 4)
    tree.object(tree.image("a.jpg"), 62, form(ring))
    tree.write()
    (item,) = only(tree.root)
    assert (item.mask == ring * CHAIR).all()
    assert item.labels == {"chair"}


def test_several_polygons_are_one_object_and_lines_are_nothing(tree: Tree) -> None:
    tree.object(tree.image("a.jpg"), 17, [box(0, 0, 2, 2), box(6, 4, 8, 6), [0, 5, 3, 5]])
    tree.object(tree.image("line.jpg"), 17, [[0, 5, 3, 5]])
    tree.write()
    (item,) = only(tree.root)
    assert (item.mask == (region(0, 0, 2, 2) + region(6, 4, 8, 6)) * CAT).all()


def test_images_without_a_wanted_object_are_left_out(tree: Tree, tmp_path: Path) -> None:
    tree.object(tree.image("book.jpg"), 84, [box(0, 0, 8, 6)])
    tree.object(tree.image("crowd.jpg"), 1, runs(region(0, 0, 8, 6)), crowd=1)
    tree.image("nothing.jpg")
    tree.object(tree.image("cat.jpg"), 17, [box(0, 0, 2, 2)])
    for name, categories in (("hidden", (1, 17)), ("covered", (17, 1))):
        image = tree.image(f"{name}.jpg")
        for category in categories:  # the same area: the later covers the earlier
            tree.object(image, category, [box(0, 0, 8, 6)])
    tree.write()
    for lost in ("book", "crowd", "nothing"):
        (tree.root / "val2017" / f"{lost}.jpg").unlink()  # they need not even be there
    found = {item.id: item.labels for item in only(tree.root)}
    assert found == {"cat": {"cat"}, "covered": {"person"}, "hidden": {"cat"}}
    import_dataset("coco", tree.root, tmp_path / "out", "val2017", "voc")
    problems = check_set(tmp_path / "out").problems
    assert "val2017: class sofa has no image" in problems
    assert all("has no image" in line for line in problems)


def test_own_classes_are_in_the_order_of_the_ids(tree: Tree) -> None:
    tree.content["categories"].reverse()
    tree.object(tree.image("a.jpg"), 84, [box(0, 0, 4, 6)])
    tree.write()
    names, items = coco(tree.root, "val2017", None)
    assert names == tuple(NAMES.values())
    (item,) = items
    assert item.mask is not None
    assert (item.mask == region(0, 0, 4, 6) * 7).all()
    assert item.labels == {"book"}


def test_odd_images_are_read_back_with_their_masks(tree: Tree, tmp_path: Path) -> None:
    for name, mode in (("a photo.jpg", "RGB"), ("grey.jpg", "L"), ("print.jpg", "CMYK"), ("UPPER.JPG", "RGB")):
        tree.object(tree.image(name, mode), 17, [box(0, 0, 2, 6)])
    tree.write()
    out = tmp_path / "out"
    done = import_dataset("coco", tree.root, out, "val2017", "voc")
    assert (done.images, done.counts["cat"]) == (4, 4)
    records = scan_voc(out, ("cat", "dog"), "val2017", masks=True)
    assert [r.image.name for r in records] == ["UPPER.jpg", "a_photo.jpg", "grey.jpg", "print.jpg"]
    dataset = ImageDataset(records, 2, "target", eval_transform((HEIGHT, WIDTH)))
    for k in range(4):
        sample = dataset[k]
        assert sample["image"].shape == (3, HEIGHT, WIDTH)
        assert sample["mask"][0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
        assert sample["labels"].tolist() == [1, 0]


@pytest.mark.parametrize("turn", range(1, 9))
def test_masks_are_turned_like_images_with_an_orientation(tree: Tree, turn: int) -> None:
    """Black where the object is; upright, as training reads both, they must still agree."""
    tree.object(tree.image("a.jpg", turn=turn), 17, [box(0, 0, 3, 2)])
    tree.write()
    pixels = Image.fromarray((255 * (1 - region(0, 0, 3, 2))).astype(np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    pixels.save(tree.root / "val2017" / "a.jpg", quality=100, exif=exif)
    (item,) = only(tree.root)
    image = np.asarray(load_image(item.image, "L"))
    assert item.mask.shape == image.shape
    assert ((image < 128) == (item.mask == CAT)).all()


def test_annotations_of_the_upright_image_stay(tree: Tree) -> None:
    tree.object(tree.image("a.jpg", turn=6), 17, [box(0, 0, 2, 3)])
    tree.content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    tree.write()
    (item,) = only(tree.root)
    assert item.mask.shape == (WIDTH, HEIGHT)
    assert (item.mask[:3, :2] == CAT).all()
    assert (item.mask == CAT).sum() == 6


def test_splits_are_added_and_a_second_call_draws_nothing(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.object(tree.image("a.jpg"), 17, [box(0, 0, 3, 2)])
    path = tree.write()
    other = Tree(tree.root, "street")  # a split of one's own
    other.object(other.image("b.jpg"), 1, [box(0, 0, 3, 2)])
    other.write()
    out = tmp_path / "out"
    first = import_dataset("coco", tree.root, out, "val2017", "voc")
    assert import_dataset("coco", tree.root, out, "street", "voc").counts["person"] == 1
    with monkeypatch.context() as patch:
        patch.setattr("attnbridge.datasets.coco._draw", lambda *_: pytest.fail("drawn again"))
        assert import_dataset("coco", tree.root, out, "val2017", "voc") == first
    assert check_set(out).images == {"street": 1, "val2017": 1}
    tree.object(tree.image("c.jpg"), 1, [box(0, 0, 3, 2)])
    path.unlink()
    tree.write()  # what has changed is made again
    assert import_dataset("coco", tree.root, out, "val2017", "voc").images == 2
    with pytest.raises(AttnBridgeError, match=r"was made from coco in .*with --classes voc; name another folder"):
        import_dataset("coco", tree.root, out, "val2017")


def test_an_interrupted_import_is_made_again(tree: Tree, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        tree.object(tree.image(name), 17, [box(0, 0, 3, 2)])
    tree.write()
    whole = (tree.root / "val2017/b.jpg").read_bytes()
    (tree.root / "val2017/b.jpg").write_bytes(b"broken")
    out = tmp_path / "out"
    with pytest.raises(AttnBridgeError, match=r"b\.jpg: cannot be read as an image"):
        import_dataset("coco", tree.root, out, "val2017", "voc")
    assert not (out / "ImageSets").exists()
    (tree.root / "val2017/b.jpg").write_bytes(whole)
    assert import_dataset("coco", tree.root, out, "val2017", "voc").images == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": []}, "annotation 1 has no 'segmentation'; boxes alone give no masks"),
        ({"segmentation": [[0, 0, 1, 1, 2, 2, 3]]}, "annotation 1 has a polygon with an odd number"),
        ({"segmentation": "x"}, "annotation 1 is neither a list of polygons nor a run-length mask"),
        ({"segmentation": [box(0, 0, 1, 1), None]}, "annotation 1 is neither a list of polygons"),
        ({"segmentation": {"size": [6, 8], "counts": [3, 4]}}, "counts that do not add up to 6 x 8 pixels"),
        ({"segmentation": {"size": [8, 6], "counts": [48]}}, r"annotation 1 is of the size \[8, 6\], but its image"),
        ({"segmentation": {"size": [6, 8], "counts": "ooo9"}}, "counts that do not add up to 6 x 8 pixels"),
        ({"category_id": "cat"}, "annotation 1 has no 'category_id' of the kind"),
        ({"image_id": 7}, "has annotations of the image 7, which its list 'images' lacks"),
    ],
)
def test_a_malformed_annotation_is_named(tree: Tree, change: dict[str, Any], message: str) -> None:
    tree.object(tree.image("a.jpg"), 17, [box(0, 0, 3, 2)])
    tree.content["annotations"][0] |= change
    tree.write()
    with pytest.raises(AttnBridgeError, match=r"instances_val2017\.json.*" + message):
        only(tree.root)


def test_what_is_missing_in_coco_is_named(tree: Tree) -> None:
    with pytest.raises(AttnBridgeError, match=r"instances_val2017\.json: no such file"):
        only(tree.root)
    tree.object(tree.image("a.jpg"), 17, [box(0, 0, 3, 2)])
    tree.object(tree.image("b.jpg"), 17, [box(0, 0, 3, 2)])
    path = tree.write()
    with pytest.raises(AttnBridgeError, match=r"'val217'; did you mean 'val2017'"):
        coco(tree.root, "val217", "voc")
    Image.new("RGB", (5, 5)).save(tree.root / "val2017/a.jpg")
    with pytest.raises(AttnBridgeError, match=r"a\.jpg: is 5x5 pixels, but instances_val2017\.json says 8x6"):
        only(tree.root)
    (tree.root / "val2017/b.jpg").unlink()
    with pytest.raises(AttnBridgeError, match=r"b\.jpg: no such image, but .* names it \(1 of 2 are missing\)"):
        only(tree.root)
    (tree.root / "val2017/a.jpg").unlink()
    with pytest.raises(AttnBridgeError, match=r"val2017: holds none of the 2 images"):
        only(tree.root)
    (tree.root / "val2017").rmdir()
    with pytest.raises(AttnBridgeError, match=r"val2017: no such folder \(nor images/val2017\)"):
        only(tree.root)
    path.write_text('{"images": [')
    (tree.root / "images/val2017").mkdir(parents=True)
    with pytest.raises(AttnBridgeError, match=r"instances_val2017\.json: is not JSON"):
        only(tree.root)
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(AttnBridgeError, match=r"holds no list 'categories'; expected COCO's format"):
        only(tree.root)
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "tree"}]}))
    with pytest.raises(AttnBridgeError, match=r"none of its categories \(tree\) is in the mapping voc"):
        only(tree.root)


def test_the_mapping_has_vocs_classes_in_vocs_order() -> None:
    mapping = read_mapping("coco_voc")
    assert tuple(mapping.values()) == VOC_CLASSES
    assert {"couch", "tv", "airplane", "motorcycle", "potted plant", "dining table"} < mapping.keys()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real COCO images in ../shared/data/voc20 are not there")
def test_real_coco_gives_the_masks_that_others_drew(tmp_path: Path) -> None:
    """The folder's own masks were made by others, so edges differ a little. Objects of other categories count: 0.91
    where they are not drawn as background, as pizzas on tables."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/instances_val2017.json").symlink_to(SHARED.resolve() / "instances.json")
    (root / "val2017").symlink_to(SHARED.resolve() / "JPEGImages")
    done = import_dataset("coco", root, tmp_path / "out", "val2017", "voc")
    records = scan_voc(tmp_path / "out", VOC_CLASSES, "val2017", masks=True)
    assert len(records) == done.images > 100
    same, total = 0, 0
    for record in records:
        assert record.mask is not None
        ours = np.asarray(load_image(record.mask, "P"))
        theirs = np.asarray(load_image(SHARED / "SegmentationClass" / record.mask.name, "P"))
        counted = (ours != 255) & (theirs != 255) & ((ours > 0) | (theirs > 0))
        same, total = same + int((ours == theirs)[counted].sum()), total + int(counted.sum())
    assert same / total > 0.97
    assert [p for p in check_set(tmp_path / "out").problems if "has no image" not in p] == []
