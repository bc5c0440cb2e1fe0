"""The scene composer: nothing shared between splits, exact masks, the bias that was asked for."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbridge.data.palette import voc_palette
from attnbridge.datasets.synthetic.scenes import Composer, SceneSpec, compose
from attnbridge.errors import AttnBridgeError
from tests.conftest import SPEC


def test_splits_share_neither_cutouts_nor_backgrounds(shapes: tuple[Path, Path]) -> None:
    manifest = Composer(*shapes, SPEC).manifest()
    for split in manifest["cutouts"].values():
        names = [name for part in split.values() for name in part]
        assert sorted(split) == ["source", "target", "test", "val"]
        assert len(names) == len(set(names)) == 9
        assert all(split.values())
    places = [name for part in manifest["places"].values() for name in part]
    assert len(places) == len(set(places)) == 8


def test_masks_labels_and_saliency_are_exact(scenes: Path) -> None:
    rows = list(csv.reader((scenes / "target/test/labels.csv").open()))
    assert len(rows) == 1 + SPEC.test
    for name, *cells in rows[1:]:
        mask = np.asarray(Image.open(scenes / f"target/test/masks/{name}.png"))
        present = {i + 1 for i, cell in enumerate(cells) if cell == "1"}
        assert set(np.unique(mask)) - {0} == present
        assert present
    for path in (scenes / "saliency/train").rglob("*.png"):
        saliency = np.asarray(Image.open(path))
        assert saliency.max() > 200
        assert 0.02 < (saliency > 127).mean() < 0.9


def test_the_object_lies_where_the_mask_says(shapes: tuple[Path, Path]) -> None:
    """On a black background only the object's pixels can have colour."""
    black = shapes[1].parent / "black"
    black.mkdir(exist_ok=True)
    for i in range(4):
        Image.new("RGB", (64, 64)).save(black / f"{i}.png")
    composer = Composer(shapes[0], black, SPEC)
    rng = np.random.default_rng(0)
    for _ in range(20):
        image, mask = composer.target_scene("test", rng)
        coloured = np.asarray(image).max(2) > 60
        assert (coloured & (mask == 0)).mean() < 0.02


def test_everything_is_seeded(shapes: tuple[Path, Path], scenes: Path, tmp_path: Path) -> None:
    again = compose(*shapes, tmp_path / "again", SPEC)
    for path in sorted(p for p in scenes.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again / path.relative_to(scenes)).read_bytes(), path
    other = compose(*shapes, tmp_path / "other", replace(SPEC, seed=4))
    name = "target/test/images/00000.jpg"
    assert (scenes / name).read_bytes() != (other / name).read_bytes()


@pytest.mark.parametrize("bias", [0.0, 0.6, 1.0])
def test_context_bias_is_the_share_of_typical_backgrounds(
    shapes: tuple[Path, Path], bias: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    composer = Composer(*shapes, replace(SPEC, context_bias=bias))
    asked: list[int] = []
    monkeypatch.setattr(composer, "typical", lambda c: asked.append(c) or composer.places["train"][0])
    rng, objects = np.random.default_rng(0), 0
    for _ in range(150):
        objects += len(np.unique(composer.target_scene("train", rng)[1])) - 1
    assert abs(len(asked) / (2 * 150) - bias) < 0.1  # two objects an image on average
    asked.clear()
    for split in ("val", "test"):
        for _ in range(30):
            composer.target_scene(split, rng)
    assert not asked
    assert objects > 150


def test_swapped_backgrounds_are_those_of_other_classes(shapes: tuple[Path, Path]) -> None:
    composer = Composer(*shapes, replace(SPEC, context_bias=1.0, swapped=True))
    typical = [composer.typical(label) for label in range(len(composer.classes))]
    rng = np.random.default_rng(0)
    for label, own in enumerate(typical):
        assert {composer._place(label, "train", rng) for _ in range(20)} == {own}
        lies = {composer._place(label, "test", rng) for _ in range(60)}
        assert lies == set(typical) - {own}


def test_complete_scenes_are_left_alone_and_others_are_not_overwritten(
    shapes: tuple[Path, Path], scenes: Path, tmp_path: Path
) -> None:
    before = (scenes / "scenes.json").stat().st_mtime_ns
    compose(*shapes, scenes, SPEC)
    assert (scenes / "scenes.json").stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.txt").write_text("mine")
    with pytest.raises(AttnBridgeError, match=r"mine/a\.txt: was not written by attnbridge"):
        compose(*shapes, tmp_path / "mine", SPEC)


def test_an_interrupted_composition_leaves_nothing_half_written(
    shapes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Composer, split: str, rng: np.random.Generator) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Composer, "target_scene", stop)
        with pytest.raises(KeyboardInterrupt):
            compose(*shapes, tmp_path / "scenes", SPEC)
    assert not (tmp_path / "scenes").exists()
    assert json.loads((compose(*shapes, tmp_path / "scenes", SPEC) / "scenes.json").read_text())["version"]


def test_too_little_to_compose_from_is_named(shapes: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "disc").mkdir()
    with pytest.raises(AttnBridgeError, match="disc: holds 0 cut-outs; at least 4"):
        Composer(tmp_path, shapes[1], SceneSpec())
    with pytest.raises(AttnBridgeError, match="holds 0 backgrounds; at least 3"):
        Composer(shapes[0], tmp_path / "none", SceneSpec())


def test_palette_is_pascal_vocs() -> None:
    palette = voc_palette()
    assert palette[15] == (192, 128, 128)
    assert palette[255] == (224, 224, 192)
