"""Verification of persons: LFW's list, thresholds that a fold does not choose for itself, ROC, the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbridge.cli import main
from attnbridge.data.face_pairs import FOLDS, draw_pairs, read_pairs
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.folders.verification import best_threshold, verify


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 "persons", each a colour with noise; of the last only one image; one name with a space."""
    root = tmp_path_factory.mktemp("persons")
    rng = np.random.default_rng(0)
    for number in range(24):
        name = "Ann Lee" if number == 3 else f"P_{number:02d}"
        (root / name).mkdir()
        colour = rng.integers(0, 200, 3)
        for i in range(1 if number == 23 else 3):
            image = (colour + rng.integers(0, 50, (24, 24, 3))).astype(np.uint8)
            file = f"{name}_{i + 1:04d}.jpg" if number < 12 else f"{'cab'[i]}.JPG"
            Image.fromarray(image).save(root / name / file)
    return root


def test_lfws_list_is_read(persons: Path, tmp_path: Path) -> None:
    lines = ["2\t1", "P_00\t1\t3", "P_01\t2\tAnn Lee\t1", "P_12\t1\t2", "P_13\t3\tP_14\t1"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    pairs = read_pairs(tmp_path / "pairs.txt", persons)
    assert [(p.first.name, p.second.name) for p in pairs] == [
        ("P_00_0001.jpg", "P_00_0003.jpg"),
        ("P_01_0002.jpg", "Ann Lee_0001.jpg"),
        ("a.JPG", "b.JPG"),
        ("c.JPG", "a.JPG"),
    ]
    assert [(p.same, p.fold) for p in pairs] == [(True, 0), (False, 0), (True, 1), (False, 1)]


def test_drawn_pairs_are_balanced_folds_that_share_no_person(persons: Path, tmp_path: Path) -> None:
    draw_pairs(persons, tmp_path / "pairs.txt", each=5)
    pairs = read_pairs(tmp_path / "pairs.txt", persons)
    held: list[set[str]] = []
    for fold in range(FOLDS):
        own = [p for p in pairs if p.fold == fold]
        assert sum(p.same for p in own) == len(own) / 2 == 5
        assert all((p.first.parent == p.second.parent) == p.same and p.first != p.second for p in own)
        held.append({path.parent.name for p in own for path in (p.first, p.second)})
    assert all(not held[a] & held[b] for a in range(FOLDS) for b in range(a))
    assert "P_23" not in set().union(*held)
    again = tmp_path / "again.txt"
    draw_pairs(persons, again, each=5)
    assert again.read_text() == (tmp_path / "pairs.txt").read_text()


def naive(similarity: Tensor, same: Tensor) -> float:
    values = sorted(set(similarity.tolist()))
    candidates = [values[0] - 1, *((a + b) / 2 for a, b in pairwise(values)), values[-1] + 1]
    return max(float(((similarity >= c) == same).double().mean()) for c in candidates)


def test_a_threshold_has_the_fewest_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        similarity = torch.rand(15, generator=generator).mul(8).round() / 8  # some are equal
        same = torch.rand(15, generator=generator) > 0.5
        chosen = best_threshold(similarity, same)
        right = float(((similarity >= chosen) == same).double().mean())
        assert right == pytest.approx(naive(similarity, same))


def test_a_fold_does_not_choose_its_own_threshold() -> None:
    """The second fold's similarities are all higher, so the first one's threshold takes all of them for same."""
    similarity = torch.tensor([0.1, 0.3, 0.7, 0.9])
    same, folds = torch.tensor([False, True, False, True]), torch.tensor([0, 0, 1, 1])
    scores = verify(similarity, same, folds)
    assert scores["folds"] == [0.5, 0.5]
    assert scores["thresholds"] == [pytest.approx(0.8), pytest.approx(0.2)]
    assert scores["auc"] == pytest.approx(0.75)  # of four pairs of pairs one is in the wrong order


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["ten"], "the first line must be the number of folds"),
        (["1\t1", "P_00\t1\t2"], "has 1 pairs, but 1 folds of 2 x 1 are announced"),
        (["1\t1", "P_00 1 2", "P_00\t1\tP_01\t1"], "line 2: expected `NAME i j`"),
        (["1\t1", "P_00\t1\t9", "P_00\t1\tP_01\t1"], "line 2: no image 9 of 'P_00'"),
        (["1\t1", "P_00\t1\t2", "P_00\t1\tP_99\t1"], "line 3: no image 1 of 'P_99'"),
    ],
)
def test_a_wrong_list_is_told(lines: Sequence[str], words: str, persons: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(AttnBridgeError, match=words):
        read_pairs(tmp_path / "pairs.txt", persons)


@pytest.mark.slow
def test_the_command_tells_colours_apart(
    persons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a network that has learnt the persons with ArcFace's margin; classified as well by its plain logits."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        Path("data").mkdir(exist_ok=True)
        (Path("data") / split).symlink_to(persons)
    small = [
        *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.margin", "10", "--model.scale", "16"),
        *("--model.lr", "0.05", "--model.frozen", "[]", "--data.views", "null", "--data.image_size", "32"),
        *("--data.batch_size", "16", "--data.val_share", "0", "--trainer.max_epochs", "9"),
    ]
    assert main(["fit", "finetune/l2", "--out", "run", "--data.data", "data", "--data.augment", "none", *small]) == 0
    assert json.loads(Path("run/run.json").read_text())["scores"]["top1"] > 0.3  # one in 24 by chance
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(state["network.fc.weight"].norm(dim=1), torch.ones(24))
    assert main(["verify", str(persons), "--model", "run", "--out", "found", "--each", "4"]) == 0
    scores = json.loads(Path("found/verification.json").read_text())
    assert scores["accuracy"] > 0.75
    assert scores["pairs"] == 80
    assert len(scores["folds"]) == FOLDS
    assert Image.open("found/roc.png").size[0] > 300
    assert Image.open("found/mistakes.jpg").size[0] > 300
    assert f"accuracy {100 * scores['accuracy']:.2f} ± " in capsys.readouterr().out
    assert main(["verify", str(persons), "--model", "run", "--pairs", "nowhere.txt"]) == 2
    assert "nowhere.txt: no such file" in capsys.readouterr().err
    assert main(["verify", "nowhere", "--model", "run"]) == 2
    assert "nowhere: no such folder; expected one folder of images for each person" in capsys.readouterr().err
