"""Files for VOC's test server: names, values, sizes, and nothing half written."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from attnbridge.data.palette import voc_palette
from attnbridge.data.voc import VOC_CLASSES
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.folders.segment import MapSegmenter
from attnbridge.evaluation.folders.submission import write_submission
from attnbridge.models.classifiers import Classifier

CLASSES = ("dog", "boat")  # not in VOC's order


class Colours(nn.Module):
    """Sees dogs where it is red, boats where it is green, at a quarter of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        weight = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5]])  # grey, as padding is, is neither
        self.features.weight.data = weight[:, :, None, None].expand(-1, -1, 4, 4) / 16
        self.fc = nn.Linear(2, 2)
        self.fc.weight.data, self.fc.bias.data = 100 * torch.eye(2), torch.full((2,), -5.0)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(images).mean((2, 3)))
        return logits


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("2008_000006\n2008_000011\n")
    both = np.zeros((32, 64, 3), np.uint8)
    both[:, :16, 0], both[:, 48:, 1] = 255, 255
    Image.fromarray(both).save(root / "JPEGImages" / "2008_000006.jpg", quality=100, subsampling=0)
    Image.fromarray(both[:, :40]).save(root / "JPEGImages" / "2008_000011.JPG", "JPEG", quality=100, subsampling=0)
    return root


def model(shape: str = "stretch", classes: tuple[str, ...] = CLASSES) -> Classifier:
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Classifier("c", Colours().eval(), classes, (64, 64), mean, std, "features", "sigmoid", shape=shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["stretch", "pad"])
def test_masks_have_the_images_size_and_vocs_values_in_the_servers_folders(
    kit: Path, tmp_path: Path, shape: str
) -> None:
    archive = write_submission(MapSegmenter(model(shape), 0.5), kit, "test", tmp_path / "out")
    folder = "results/VOC2012/Segmentation/comp6_test_cls"
    with tarfile.open(archive) as packed:
        names = [entry.name for entry in packed if entry.isfile()]
    assert sorted(names) == [f"{folder}/2008_000006.png", f"{folder}/2008_000011.png"]
    image = Image.open(tmp_path / "out" / folder / "2008_000006.png")
    assert (image.mode, image.size) == ("P", (64, 32))
    assert image.getpalette()[3 * 4 : 3 * 4 + 3] == list(voc_palette()[4])  # type: ignore[index]
    mask = np.asarray(image)
    dog, boat = (VOC_CLASSES.index(name) + 1 for name in CLASSES)
    assert (mask[:, 4:12] == dog).all()
    assert (mask[:, 52:60] == boat).all()
    assert (mask[:, 24:40] == 0).all()
    other = np.asarray(Image.open(tmp_path / "out" / folder / "2008_000011.png"))
    assert other.shape == (32, 40)
    assert set(np.unique(other)) == {0, dog}


def test_the_class_that_is_not_predicted_is_left_out(kit: Path, tmp_path: Path) -> None:
    write_submission(MapSegmenter(model(), 0.5, score_threshold=1.0), kit, "test", tmp_path / "out")
    image = Image.open(next((tmp_path / "out").rglob("2008_000006.png")))
    assert set(np.unique(np.asarray(image))) == {0}


def test_wrong_inputs_leave_nothing(kit: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(AttnBridgeError, match=r"'dogs'.*did you mean 'dog'"):
        write_submission(MapSegmenter(model(classes=("dogs", "boat")), 0.5), kit, "test", out)
    with pytest.raises(AttnBridgeError, match=r"list of images.*'tset'"):
        write_submission(MapSegmenter(model(), 0.5), kit, "tset", out)
    (kit / "JPEGImages" / "2008_000011.JPG").write_bytes(b"no image")
    with pytest.raises(AttnBridgeError, match=r"2008_000011\.JPG: cannot be read"):
        write_submission(MapSegmenter(model(), 0.5), kit, "test", out)
    assert not out.exists()
    out.mkdir()
    (out / "results.tgz").write_bytes(b"theirs")
    with pytest.raises(AttnBridgeError, match=r"results\.tgz: there are results already"):
        write_submission(MapSegmenter(model(), 0.5), kit, "test", out)
