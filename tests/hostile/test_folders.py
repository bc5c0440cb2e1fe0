"""Output folders have an owner: what a command did not write it does not touch; one process at a time; paths stay."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attnbridge
from attnbridge.cli import main
from attnbridge.data import out_folders
from attnbridge.data.cues import with_cues
from attnbridge.data.face_pairs import read_pairs
from attnbridge.data.feature_cache import CachedFeatureDataset
from attnbridge.data.files import inner_path
from attnbridge.data.images import ImageRecord
from attnbridge.data.out_folders import check_out, owned
from attnbridge.data.provenance import LEDGER, LOCK, STAGES, OwnFiles, Stages
from attnbridge.data.saliency import make_saliency
from attnbridge.data.voc import list_names, scan_voc
from attnbridge.datasets.check import check_set
from attnbridge.datasets.importer import import_dataset
from attnbridge.datasets.synthetic.scenes import compose
from attnbridge.datasets.synthetic.shapes import prepare_shapes
from attnbridge.errors import RANKS, AttnBridgeError, warn_once
from attnbridge.evaluation.folders.segment import MapSegmenter
from attnbridge.evaluation.folders.submission import write_submission
from attnbridge.experiments.checks import _layer_names
from attnbridge.experiments.tables import TABLES
from tests.cli.test_fine_tuning import FROZEN, SHORT
from tests.conftest import SPEC
from tests.data.test_feature_cache import fitted
from tests.datasets.test_coco import HEIGHT, NAMES, WIDTH, Tree, box
from tests.datasets.test_voc import write_mat
from tests.evaluation.test_submission import model as colours
from tests.hostile.answers import refused, tree

pytestmark = pytest.mark.usefixtures("module_cache")
Capture = pytest.CaptureFixture[str]
LONG = pytest.mark.hostile
SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.frozen", "[]", "--model.layer", "null"),
    *("--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "0", "--data.views", "null"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
VERBS = ["fit", "demo", "benchmark", "search", "pipeline", "saliency", "segment", "explain", "cues", "verify", "import"]


@pytest.fixture(scope="module")
def inputs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all commands read: a run, three images, persons, a table of labels, VOC's kit."""
    root = tmp_path_factory.mktemp("inputs")
    data = [*("--data.source", str(scenes / "source/train"), "--data.saliency", str(scenes / "saliency/train"))]
    words = ["fit", "grad_cam", *data, "--data.target", str(scenes / "target"), "--out", str(root / "run"), *SMALL]
    assert main(words) == 0
    shutil.copytree(scenes / "target/train", root / "target/train")
    for number in range(3):
        (root / "images/sub").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scenes / f"target/test/images/0000{number}.jpg", root / f"images/sub/{number}.jpg")
    shutil.copytree(root / "images/sub", root / "own")
    (root / "own/labels.csv").write_text("id,dog,cat\n0,1,0\n1,0,1\n2,1,1\n")
    for person in range(20):
        (root / f"persons/{person}").mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (24, 24), (12 * person, 9 * number, 99)).save(root / f"persons/{person}/{number}.png")
    kit = root / "VOC2012"
    (kit / "JPEGImages").mkdir(parents=True)
    (kit / "ImageSets/Segmentation").mkdir(parents=True)
    (kit / "ImageSets/Segmentation/test.txt").write_text("a\nb\n")
    for name in "ab":
        Image.new("RGB", (32, 24), "red").save(kit / f"JPEGImages/{name}.jpg")
    (root / "segmentation.yaml").write_text(
        "base: segmentation/dsrg\nmodel: {head_width: 16}\nevaluation: {crf: false}\n"
    )
    return root


@pytest.fixture(scope="module")
def command(inputs: Path, scenes: Path, classes: Path) -> Callable[..., list[str]]:
    """The words of a command line by verb, and the folder that it writes."""
    run, images = str(inputs / "run"), str(inputs / "images")
    pair = [*("--source", str(scenes / "source/train"), "--target", str(scenes / "target"))]
    data = ["--data.source", pair[1], "--data.target", pair[3], "--data.saliency", str(scenes / "saliency/train")]
    short = [*SHORT, *FROZEN]
    words = {
        "fit": ["fit", "grad_cam", *data, *SMALL],
        "demo": ["demo", "--quick", "--images", "shapes"],
        "benchmark": ["benchmark", "finetune", "--data", str(classes), "--rows", "finetune/l2", "--seeds", "0", *short],
        "search": ["search", "finetune/l2_sp", "--trials", "1", "--data.data", str(classes), *short],
        "pipeline": ["pipeline", *pair, "--saliency", str(scenes / "saliency/train"), "--target-saliency", "centre"],
        "saliency": ["saliency", images, "--model", "centre", "--preview"],
        "segment": ["segment", run, images],
        "explain": ["explain", images, "--model", run],
        "cues": ["cues", "--checkpoint", run, "--data", str(inputs / "target"), "--scales", "1", "--no-flip"],
        "verify": ["verify", str(inputs / "persons"), "--model", run, "--each", "2"],
        "submit": ["submit", run, str(inputs / "VOC2012")],
        "import": ["data", "import", "csv", str(inputs / "own")],
    }
    words["search"] += ["--search.model.start_weight", "[1e-3, 10]"]
    words["pipeline"] += ["--segmentation", str(inputs / "segmentation.yaml"), *SMALL]
    return lambda verb, out: [*words[verb], "--out", str(out)]


def theirs(path: Path, content: bytes = b"hand-drawn") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """As another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write("4711")
        handle.flush()
        yield


# places that are no folder to write


@pytest.mark.parametrize(
    ("verb", "place", "says"),
    [
        ("fit", "a file", "is a file"),
        ("explain", "a file", "is a file"),
        ("import", "a file", "is a file"),
        ("pipeline", "below a file", "is a file"),
        ("cues", "below a file", "is a file"),
        ("search", "a broken link", "is a link to nothing"),
        ("saliency", "a broken link", "is a link to nothing"),
        ("demo", "below a broken link", "is a link to nothing"),
        ("benchmark", "/", "is the root or the home folder"),
        ("segment", "home", "is the root or the home folder"),
        ("submit", "home", "is the root or the home folder"),
        ("verify", "home by a link", "is the root or the home folder"),
        ("explain", "read-only", "cannot be"),
        ("fit", "read-only", "cannot be"),
    ],
)
def test_places_where_no_folder_can_be(
    verb: str,
    place: str,
    says: str,
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    home = tmp_path / "home"
    theirs(home / "thesis.tex")
    theirs(tmp_path / "a file")
    (tmp_path / "a broken link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "home by a link").symlink_to(home)
    places = {
        "below a file": tmp_path / "a file/out",
        "below a broken link": tmp_path / "a broken link/out",
        "/": Path("/"),
        "read-only": Path("/proc/attnbridge/out"),  # for root too
    }
    out = places.get(place, tmp_path / place)
    monkeypatch.setenv("HOME", str(home))
    refused(command(verb, out), [str(out), says, "name a"], capsys, tmp_path)


@pytest.mark.parametrize("verb", ["fit", "pipeline", "explain", "import", "verify"])
def test_an_empty_out_is_not_the_working_folder(
    verb: str,
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command(verb, ""), ["--out: is ''", "give a name"], capsys, tmp_path)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["demo", "--out="], "--out: is ''"),
        (["segment", "", "images", "--out", "masks"], "an argument: is ''"),
        (["saliency", "images", "--out", "maps", "--score", " "], "--score: is ' '"),
        (["fit", "grad_cam", "--data.source", ""], "--data.source: is ''"),
        (["data", "check", ""], "an argument: is ''"),
        (["test", "run\0"], "an argument: is 'run\\x00'"),
        (["verify", "faces", "--model", ""], "--model: is ''"),
    ],
)
def test_empty_words_are_refused(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(words, [name], capsys, tmp_path)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: attnbridge.fit("grad_cam", data={"target": "x"}, out=""), "out must be the path of a folder"),
        (lambda: attnbridge.fit("grad_cam", data=" "), "data is ' '"),
        (lambda: attnbridge.fit("grad_cam", data={"target": "", "source": None}), "option data.target must not be ''"),
        (lambda: attnbridge.load_run(""), "the run's folder is ''"),
        (lambda: attnbridge.show(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 2, 2), ""), "show: path is ''"),
        (lambda: import_dataset("csv", "", Path("x")), "ROOT is ''"),  # type: ignore[arg-type]
        (lambda: import_dataset("csv", Path("x"), ""), "--out is ''"),  # type: ignore[arg-type]
        (lambda: check_out("a\0b"), r"--out, is 'a\x00b'"),
    ],
    ids=["fit-out", "fit-data", "fit-target", "load_run", "show", "import-root", "import-out", "zero-byte"],
)
def test_empty_paths_are_refused_in_python(
    call: Callable[[], Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttnBridgeError) as error:
        call()
    assert says in str(error.value)
    assert tree(tmp_path) == {}


# files of the user's


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("fit", "report.html"),
        ("fit", "run.json"),
        pytest.param(*("fit", "config.yaml"), marks=LONG),
        ("fit", "checkpoints/last.ckpt"),
        pytest.param(*("fit", "attention/epoch_01.png"), marks=LONG),
        ("benchmark", "results.json"),
        ("benchmark", "finetune_l2-0/validation.txt"),
        pytest.param(*("benchmark", "before_after.png"), marks=LONG),
        ("demo", "report.html"),
        ("pipeline", "report.html"),
        pytest.param(*("pipeline", "pipeline.json"), marks=LONG),
        pytest.param(*("search", "best.yaml"), marks=LONG),
        pytest.param(*("search", "searched.yaml"), marks=LONG),
        ("search", "trials.log"),
        ("verify", "pairs.txt"),
        ("verify", "roc.png"),
        ("saliency", "sub/1.png"),
        ("segment", "sheet.jpg"),
        ("cues", "scores.csv"),
        ("explain", "scores.csv"),
        ("explain", "manifest.jsonl"),
        ("import", "labels.csv"),
        ("import", "SegmentationClass/0.png"),
        ("import", "imports.json"),
        ("import", "ImageSets/Segmentation/train.txt"),
    ],
)
def test_a_file_of_the_users_is_named_and_stays(
    verb: str, name: str, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """Before anything is trained or written."""
    out = tmp_path / "out"
    theirs(out / name)
    theirs(out / "masks/mine.png")
    named = out / name.split("/")[0] if verb in ("import", "fit") and "/" in name else out / name
    refused(command(verb, out), [str(named), "name another folder"], capsys, tmp_path)


@pytest.mark.parametrize("kind", ["written", "edited", "link"])
def test_show_and_check_write_a_file_of_their_own_alone(
    kind: str, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    images, maps = torch.rand(1, 3, 8, 8), torch.rand(1, 1, 2, 2)
    shown, table = tmp_path / "a.png", tmp_path / "a.md"
    words = ["data", "check", str(scenes / "source/train"), "--out", str(table)]
    for _ in range(2):  # one's own is replaced
        attnbridge.show(images, maps, shown)
        assert main(words) == 0
    for path in (shown, table):
        path.unlink()
        if kind == "link":
            path.symlink_to(theirs(tmp_path / "mine" / path.name))
        else:
            path.write_bytes(b"hand-drawn")
    if kind == "written":
        (tmp_path / LEDGER).unlink()
    before = tree(tmp_path)
    with pytest.raises(AttnBridgeError, match=r"a\.png: was not written|a\.png: was changed"):
        attnbridge.show(images, maps, shown)
    assert tree(tmp_path) == before
    refused(words, [str(table), "by attnbridge" if kind != "edited" else "attnbridge wrote it"], capsys, tmp_path)


def test_show_takes_a_format_that_there_is(tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"a\.txt: its suffix is of no image format"):
        attnbridge.show(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 2, 2), tmp_path / "a.txt")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("verb", ["saliency", "segment", "explain"])
def test_the_folder_of_the_images_is_left_alone(
    verb: str, command: Callable[..., list[str]], inputs: Path, capsys: Capture
) -> None:
    refused(command(verb, inputs / "images"), [str(inputs / "images")], capsys, inputs / "images")


def test_cues_do_not_go_among_their_images(
    command: Callable[..., list[str]], inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(inputs / "target/train/images", tmp_path / "train/images")
    shutil.copyfile(inputs / "target/train/labels.csv", tmp_path / "train/labels.csv")
    words = command("cues", tmp_path / "train/images")
    words[words.index("--data") + 1] = str(tmp_path)
    refused(words, [str(tmp_path / "train/images"), "holds the images"], capsys, tmp_path)


def test_a_folder_inside_the_images_is_written_and_not_read(
    command: Callable[..., list[str]], inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "images", tmp_path / "images")
    words = command("saliency", tmp_path / "images/maps")
    words[1] = str(tmp_path / "images")
    before = tree(tmp_path / "images/sub")
    for _ in range(2):
        assert main(words) == 0
    assert tree(tmp_path / "images/sub") == before
    made = tree(tmp_path / "images/maps")
    assert sorted(made) == [LEDGER, "saliency.json", "sheet.jpg", "sub", "sub/0.png", "sub/1.png", "sub/2.png"]


@pytest.mark.parametrize("verb", ["saliency", "segment", "explain"])
def test_no_link_leads_out_of_the_folder(
    verb: str, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    theirs(tmp_path / "masks/mine.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "masks")
    refused(command(verb, tmp_path / "out"), [str(tmp_path / "out/sub"), "is a link out of"], capsys, tmp_path)


def test_a_folder_named_by_a_link_is_written(command: Callable[..., list[str]], tmp_path: Path) -> None:
    theirs(tmp_path / "disk/mine.png")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert main(command("saliency", tmp_path / "out")) == 0
    assert (tmp_path / "disk/sub/0.png").is_file()
    assert (tmp_path / "disk/mine.png").read_bytes() == b"hand-drawn"


def test_results_for_the_server_are_not_written_over(inputs: Path, tmp_path: Path) -> None:
    segmenter, kit = MapSegmenter(colours(), 0.5), inputs / "VOC2012"
    mine = theirs(tmp_path / "results/VOC2012/Segmentation/comp6_test_cls/b.png")
    before = tree(tmp_path)
    with pytest.raises(AttnBridgeError, match=rf"{mine}: was not written by attnbridge"):
        write_submission(segmenter, kit, "test", tmp_path)
    assert tree(tmp_path) == before
    mine.unlink()
    theirs(tmp_path / "results.tgz")
    with pytest.raises(AttnBridgeError, match=r"results\.tgz: there are results already"):
        write_submission(segmenter, kit, "test", tmp_path)


def test_masks_of_ones_own_in_vocs_kit_stay(inputs: Path, tmp_path: Path) -> None:
    """As SegmentationClassAug is passed around."""
    kit, sbd = tmp_path / "VOC2012", tmp_path / "sbd"
    shutil.copytree(inputs / "VOC2012", kit)
    for name, text in (("train", "a\n"), ("val", "b\n")):
        (kit / f"ImageSets/Segmentation/{name}.txt").write_text(text)
    for part in ("img", "cls"):
        (sbd / part).mkdir(parents=True)
    (sbd / "train.txt").write_text("c\n")
    (sbd / "val.txt").write_text("d\n")
    mine = theirs(kit / "SegmentationClassAug/d.png")
    for name in "cd":
        Image.new("RGB", (WIDTH, HEIGHT)).save(sbd / f"img/{name}.jpg")
        write_mat(sbd / f"cls/{name}.mat", np.ones((HEIGHT, WIDTH), np.uint8))
    os.utime(mine, (0, 0))
    before = tree(tmp_path)
    with pytest.raises(AttnBridgeError, match=rf"{mine}: was not written by attnbridge"):
        import_dataset("sbd", sbd, kit)
    assert tree(tmp_path) == before


def test_an_import_that_was_corrected_by_hand_is_not_made_again(
    command: Callable[..., list[str]], inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = command("import", tmp_path / "out")
    assert main(words) == 0
    (tmp_path / "out/labels.csv").write_text((tmp_path / "out/labels.csv").read_text().replace("0,1,0", "0,1,1"))
    more = [*words, "--split", "val"]
    refused(more, [str(tmp_path / "out/labels.csv"), "was changed after attnbridge wrote it"], capsys, tmp_path)


# lists of files that are not ours


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is no regular file"),
        (b"\xff\xfe\x00\x01", "is not UTF-8"),
        (b"my notes\n", "line 1 was not written by attnbridge"),
        (b'\n{"file": "a.png", "sha256": "0"}\n["a.png"]\n', "line 3 was not written by attnbridge"),
        (b'{"file": "../mine.png", "sha256": "0"}\n', "line 1: '../mine.png' leads outside"),
        (b'{"file": 3, "sha256": "0"}\n', "line 1 was not written by attnbridge"),
    ],
    ids=["folder", "binary", "notes", "list", "outside", "number"],
)
@pytest.mark.parametrize("verb", ["saliency", pytest.param("fit", marks=LONG)])
def test_a_foreign_list_of_files_is_named(
    verb: str, content: bytes | None, says: str, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    ledger = tmp_path / "out" / LEDGER
    if content is None:
        theirs(ledger / "mine.txt")
    else:
        theirs(ledger, content)
    refused(command(verb, tmp_path / "out"), [str(ledger), says], capsys, tmp_path)


def test_a_foreign_lock_is_named(tmp_path: Path) -> None:
    lock = theirs(tmp_path / LOCK, b"my notes")
    with pytest.raises(AttnBridgeError, match=rf"{lock}: was not written by attnbridge"), owned(tmp_path):
        pass
    assert lock.read_bytes() == b"my notes"


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    with own.writing(tmp_path / "a.png") as partial:
        partial.write_text("made")
    for cut in ("\n{", '\n{"file": "b', '\n{"file": "b.png", "sha2'):
        with (tmp_path / LEDGER).open("a") as ledger:
            ledger.write(cut)
        again = OwnFiles(tmp_path)
        again.check_unchanged([tmp_path / "a.png"])
        with again.writing(tmp_path / "a.png") as partial:
            partial.write_text("made")


@pytest.mark.parametrize(
    "line",
    [
        {"id": "x", "arrays": "../mine.png", "file": [0, 0], "classes": []},
        {"id": "x", "arrays": "{}/mine.png", "file": [0, 0], "classes": []},
        {"id": "x", "arrays": "a.npz", "file": [], "classes": [{"name": "a", "score": 1, "overlay": "../mine.png"}]},
        {"id": 3, "error": "x"},
        ["x"],
    ],
    ids=["outside", "absolute", "overlay", "number", "list"],
)
def test_a_manifest_that_was_written_by_others_removes_nothing(
    line: Any, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    out, mine = tmp_path / "out", theirs(tmp_path / "mine.png")
    assert main(command("explain", out)) == 0
    text = json.dumps(line).replace("{}", str(tmp_path)).replace('"x"', '"sub/1.jpg"')
    with (out / "manifest.jsonl").open("a") as manifest:
        manifest.write(text + "\n")
    refused(command("explain", out), [str(out / "manifest.jsonl"), "line 5"], capsys, tmp_path)
    assert mine.read_bytes() == b"hand-drawn"


# one process at a time


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_process_is_told(
    verb: str, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    with locked(out):
        said = [f"{out}: another process (4711) writes into it", "wait until it has ended", "--out"]
        refused(command(verb, out), said, capsys, tmp_path)


@pytest.mark.parametrize("call", ["scenes", "shapes", "submission"])
def test_a_second_process_is_told_in_python(call: str, shapes: tuple[Path, Path], inputs: Path, tmp_path: Path) -> None:
    calls = {
        "scenes": lambda: compose(*shapes, tmp_path, SPEC),
        "shapes": lambda: prepare_shapes(tmp_path, 4, 3, 32),
        "submission": lambda: write_submission(MapSegmenter(colours(), 0.5), inputs / "VOC2012", "test", tmp_path),
    }
    with locked(tmp_path), pytest.raises(AttnBridgeError, match=rf"{tmp_path}: another process \(4711\)"):
        calls[call]()
    assert list(tree(tmp_path)) == [LOCK]


@pytest.mark.parametrize("left", [[LOCK, LEDGER], [LOCK], [LEDGER]], ids=["both", "lock", "list"])
def test_a_lock_ends_with_its_process(left: list[str], tmp_path: Path) -> None:
    """What a killed one leaves: a lock that nobody holds, a file that was not in its place yet."""
    for name in left:
        theirs(tmp_path / name, b"4711" if name == LOCK else b'\n{"file": "a.png", "sha256": "0"}')
    theirs(tmp_path / "sub/.partialab_12345")
    theirs(tmp_path / ".partialab_12345/b.png")
    theirs(tmp_path / ".partially mine")
    with owned(tmp_path):
        assert sorted(tree(tmp_path)) == sorted({LOCK, *left, ".partially mine", "sub"})
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    assert sorted(tree(tmp_path)) == sorted([*({LEDGER} & {*left}), ".partially mine", "sub"])


def test_a_process_may_ask_again_for_its_own_folder(tmp_path: Path) -> None:
    with owned(tmp_path / "out"):
        with owned(tmp_path / "out"):
            assert (tmp_path / "out" / LOCK).is_file()
        assert (tmp_path / "out" / LOCK).is_file()
    assert tree(tmp_path) == {}


def test_a_fork_neither_keeps_the_lock_nor_ends_it(tmp_path: Path) -> None:
    """As a DataLoader's worker that outlives its parent for seconds."""
    read, write = os.pipe()
    with owned(tmp_path):
        child = os.fork()
        if child == 0:
            held = sorted(out_folders._handles)
            os.write(write, b"held" if held else b"free")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 9) == b"free"
        with (tmp_path / LOCK).open() as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"])
def test_other_processes_of_a_group_are_let_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with locked(tmp_path), owned(tmp_path):
        pass
    monkeypatch.setenv(name, "0")
    with locked(tmp_path), pytest.raises(AttnBridgeError, match="another process"), owned(tmp_path):
        pass


@pytest.mark.parametrize(("rank", "told"), [("0", 1), ("", 1), ("1", 0)])
@pytest.mark.parametrize("name", RANKS)
def test_the_first_process_of_a_group_warns(
    name: str, rank: str, told: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, rank)
    warn_once(f"seen by {name}={rank!r}")
    assert len(caplog.records) == told


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(out_folders.fcntl, "flock", none)
    with owned(tmp_path / "out") as own, own.writing(tmp_path / "out/a.txt") as partial:
        partial.write_text("made")
    assert sorted(tree(tmp_path / "out")) == [LEDGER, "a.txt"]


@pytest.mark.parametrize(
    ("verb", "more", "says"),
    [
        ("fit", ["--model.stride", "3"], "stride"),
        ("pipeline", ["--trainer.strategy", "nonsense"], "nonsense"),
        pytest.param("search", ["--trainer.strategy", "nonsense"], "nonsense", marks=LONG),
        pytest.param("benchmark", ["--trainer.strategy", "nonsense"], "nonsense", marks=LONG),
    ],
)
def test_a_start_that_failed_leaves_nothing(
    verb: str, more: list[str], says: str, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    code = main([*command(verb, tmp_path / "deep/out"), *more])
    assert code == 2
    assert says in capsys.readouterr().err
    left = {name for name in tree(tmp_path) if Path(name).suffix not in (".yaml", ".log", ".json", ".jsonl")}
    assert left <= {"deep", "deep/out"} if verb in ("search", "pipeline") else not left


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyError), owned(tmp_path / "out"):
        raise KeyError
    assert tree(tmp_path) == {"out": "folder"}


# runs


def test_an_old_run_without_its_configuration_is_left_alone(
    command: Callable[..., list[str]], inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(inputs / "run", tmp_path / "run")
    (tmp_path / "run/config.yaml").unlink()
    for more in ([], ["--resume"]):
        refused(
            [*command("fit", tmp_path / "run"), *more],
            [str(tmp_path / "run/run.json"), "config.yaml"],
            capsys,
            tmp_path,
        )


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/last.ckpt",
        "metrics.csv",
        *(pytest.param(name, marks=LONG) for name in ("report.html", "attention/epoch_01.png")),
    ],
)
def test_a_run_goes_on_with_its_own_files_alone(
    name: str, command: Callable[..., list[str]], inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Cut in half, as it may be after a crash of the disk, or edited."""
    shutil.copytree(inputs / "run", tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    words = [*command("fit", tmp_path / "run"), "--resume"]
    refused(words, [f"{path}: was changed after attnbridge wrote it", "move it away"], capsys, tmp_path)


def test_a_runs_files_are_all_in_its_list(inputs: Path) -> None:
    files = {path.relative_to(inputs / "run").as_posix() for path in (inputs / "run").rglob("*") if path.is_file()}
    assert files - {LEDGER} == set(OwnFiles(inputs / "run")._written)
    OwnFiles(inputs / "run").check_all()


# stages


def make(folder: Path) -> None:
    with owned(folder) as own, own.writing(folder / "a.png") as partial:
        partial.write_text("made")


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ({"config": {"model": {"lr": 0.1}}}, {"config": {"model": {"lr": 0.2}}}, "config.model.lr = 0.1, not 0.2"),
        ({"images": ["a 1", "b 1"]}, {"images": ["a 1", "b 2"]}, "other images, as b 2"),
        ({"images": ["a 1", "b 1"]}, {"images": ["a 1"]}, "other images, as b 1"),
        ({"saliency": "u2net"}, {"saliency": ["m.png 3"]}, "saliency = 'u2net', not ['m.png 3']"),
    ],
)
def test_a_stage_of_other_options_is_not_replaced_unasked(
    before: dict[str, Any], now: dict[str, Any], says: str, tmp_path: Path
) -> None:
    Stages(tmp_path).run("masks", before, make)
    kept = tree(tmp_path)
    with pytest.raises(AttnBridgeError) as error:
        Stages(tmp_path).run("masks", now, make)
    assert says in str(error.value)
    assert "--replace" in str(error.value)
    assert str(tmp_path / "masks") in str(error.value)
    assert tree(tmp_path) == kept
    Stages(tmp_path, replaces=True).run("masks", now, make)
    assert json.loads((tmp_path / STAGES).read_text())["masks"]["made_of"] == now


@pytest.mark.parametrize("name", ["classifier/a.png", "masks/a.png", "masks/notes.txt", "masks/.hidden", "cues/deep/x"])
def test_before_a_stage_is_replaced_all_are_checked(name: str, tmp_path: Path) -> None:
    stages = Stages(tmp_path, replaces=True)
    for stage in ("classifier", "cues", "masks"):
        stages.run(stage, {"seed": 0}, make)
    theirs(tmp_path / name)
    kept = tree(tmp_path)
    with pytest.raises(AttnBridgeError, match=rf"{tmp_path / name}: was (changed|not written)"):
        stages.run("classifier", {"seed": 1}, make)
    assert tree(tmp_path) == kept


def test_a_stage_that_failed_at_once_does_not_block_its_correction(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with owned(folder):
            raise AttnBridgeError("no")

    with pytest.raises(AttnBridgeError, match="no"):
        Stages(tmp_path).run("classifier", {"devices": 99}, fail)
    Stages(tmp_path).run("classifier", {"devices": 1}, make)
    assert (tmp_path / "classifier/a.png").is_file()


@pytest.mark.parametrize("content", [b"", b'{"masks": {"ke', b"[]", b'{"masks": 3}'])
def test_a_broken_record_of_stages_is_named(content: bytes, tmp_path: Path) -> None:
    theirs(tmp_path / STAGES, content)
    with pytest.raises(AttnBridgeError, match=rf"{tmp_path / STAGES}: "):
        Stages(tmp_path).run("masks", {}, make)
    assert list(tree(tmp_path)) == [STAGES]


# scenes


@pytest.fixture(scope="module")
def composed(shapes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose(*shapes, tmp_path_factory.mktemp("own") / "scenes", SPEC)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 4}, "spec.seed = 3, not 4"),
        ({"val": 9}, "spec.val = 8, not 9"),
        ({"size": 40}, "spec.size = 48, not 40"),
    ],
)
def test_scenes_that_were_trained_on_are_not_replaced(
    change: dict[str, int], says: str, composed: Path, shapes: tuple[Path, Path]
) -> None:
    before = tree(composed)
    with pytest.raises(AttnBridgeError) as error:
        compose(*shapes, composed, replace(SPEC, **change))
    assert says in str(error.value)
    assert str(composed) in str(error.value)
    assert tree(composed) == before


@pytest.mark.hostile
def test_the_demo_with_another_seed_names_another_folder(
    command: Callable[..., list[str]], shapes: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    prepare_shapes(tmp_path / "shapes")
    spec = replace(SPEC, size=64, source=64, target=64, val=16, test=16, seed=0)
    compose(tmp_path / "shapes/cutouts", tmp_path / "shapes/places", tmp_path / "scenes", spec)
    words = [*command("demo", tmp_path), "--seed", "1"]
    refused(
        words, [str(tmp_path / "scenes"), "spec.seed = 0, not 1", "name another folder"], capsys, tmp_path / "scenes"
    )


@pytest.mark.parametrize("content", [b"", b'{"version": 2, "spe', b"[]", b"\xff"])
def test_a_broken_record_of_scenes_is_named(
    content: bytes, composed: Path, shapes: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(composed, tmp_path / "scenes")
    (tmp_path / "scenes/scenes.json").write_bytes(content)
    before = tree(tmp_path)
    with pytest.raises(AttnBridgeError, match=str(tmp_path / "scenes")):
        compose(*shapes, tmp_path / "scenes", SPEC)
    assert tree(tmp_path) == before


def test_scenes_of_which_some_are_gone_are_not_trusted(
    composed: Path, shapes: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(composed, tmp_path / "scenes")
    lost = tmp_path / "scenes/target/val/masks/00003.png"
    lost.unlink()
    with pytest.raises(AttnBridgeError, match=rf"{lost}: is missing"):
        compose(*shapes, tmp_path / "scenes", SPEC)


@pytest.mark.parametrize("name", ["source/train/disc/00000.jpg", "notes.txt", "target/train/masks/00001.png"])
def test_scenes_are_not_composed_over_files_of_the_users(
    name: str, composed: Path, shapes: tuple[Path, Path], tmp_path: Path
) -> None:
    mine = theirs(tmp_path / "scenes" / name)
    theirs(tmp_path / "scenes.partial/mine.png")  # a name that was once taken for granted
    before = tree(tmp_path)
    with pytest.raises(AttnBridgeError, match=rf"{mine}: was not written by attnbridge"):
        compose(*shapes, tmp_path / "scenes", SPEC)
    assert tree(tmp_path) == before


def test_scenes_that_were_interrupted_are_composed_again(
    composed: Path, shapes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, count = OwnFiles.put, []

    def stop(self: OwnFiles, *arguments: Any) -> None:
        count.append(1)
        if len(count) == 20:
            raise KeyboardInterrupt
        put(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OwnFiles, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            compose(*shapes, tmp_path / "scenes", SPEC)
    compose(*shapes, tmp_path / "scenes", SPEC)
    again, once = tree(tmp_path / "scenes"), tree(composed)
    assert {n: h for n, h in again.items() if n != LEDGER} == {n: h for n, h in once.items() if n != LEDGER}


# names that lead outside


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "", " ", ".", "a\0b", "..", "a//../b"]
)
def test_a_name_that_leads_outside_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(AttnBridgeError) as error:
        inner_path(name, "list.txt, line 3")
    assert str(error.value).startswith(f"list.txt, line 3: {name!r} leads outside")


@pytest.mark.parametrize("name", ["a/b.jpg", "a..b.jpg", "..a/b", "x:y.jpg", "a\\b.jpg"])
def test_a_name_that_stays_inside_is_as_it_is(name: str) -> None:
    assert inner_path(name, "list.txt") == name


@pytest.mark.parametrize("line", ["../../mine", "/mine", "..\\mine"])
def test_a_kits_list_does_not_lead_outside(line: str, inputs: Path, tmp_path: Path) -> None:
    kit = tmp_path / "VOC2012"
    shutil.copytree(inputs / "VOC2012", kit)
    mine = theirs(tmp_path / "mine.png")
    listed = kit / "ImageSets/Segmentation/test.txt"
    listed.write_text(f"a\n\n{line}\n")
    for call in (
        lambda: write_submission(MapSegmenter(colours(), 0.5), kit, "test", tmp_path / "out"),
        lambda: scan_voc(kit, ("cat",), "test"),
    ):
        with pytest.raises(AttnBridgeError) as error:
            call()
        assert f"{listed}, line 3: {line!r} leads outside" in str(error.value)
    assert mine.read_bytes() == b"hand-drawn"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", ["../../../mine", "/mine", ""])
def test_the_name_of_a_list_does_not_lead_outside(names: str, inputs: Path, tmp_path: Path) -> None:
    theirs(tmp_path / "mine.txt", b"a\n")
    shutil.copytree(inputs / "VOC2012", tmp_path / "VOC2012")
    with pytest.raises(AttnBridgeError, match="leads outside"):
        list_names(tmp_path / "VOC2012", names)


def test_sbds_list_does_not_lead_outside(inputs: Path, tmp_path: Path) -> None:
    kit, sbd = tmp_path / "VOC2012", tmp_path / "sbd"
    shutil.copytree(inputs / "VOC2012", kit)
    for name in ("train", "val"):
        (kit / f"ImageSets/Segmentation/{name}.txt").write_text("a\n")
    for part in ("img", "cls"):
        (sbd / part).mkdir(parents=True)
    (sbd / "train.txt").write_text("c\n../../VOC2012/JPEGImages/a\n")
    (sbd / "val.txt").write_text("d\n")
    before = tree(tmp_path)
    with pytest.raises(AttnBridgeError, match=r"train\.txt, line 2: '../../VOC2012/JPEGImages/a' leads outside"):
        import_dataset("sbd", sbd, kit)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../mine.jpg", "/mine.jpg", "a/../../mine.jpg"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_cocos_file_names_do_not_lead_outside(name: str, tmp_path: Path) -> None:
    coco = Tree(tmp_path / "coco")
    coco.object(coco.image("a.jpg"), next(iter(NAMES)), [box(0, 0, 4, 4)])
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "coco/mine.jpg")
    coco.content["images"][0]["file_name"] = name
    path = coco.write()
    with pytest.raises(AttnBridgeError) as error:
        import_dataset("coco", tmp_path / "coco", tmp_path / "out", "val2017")
    assert f"{path}: image 100: {name!r} leads outside" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_table_of_labels_does_not_lead_outside(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs / "own", tmp_path / "own")
    shutil.copyfile(tmp_path / "own/0.jpg", tmp_path / "mine.jpg")
    (tmp_path / "own/labels.csv").write_text("id,dog,cat\n0,1,0\n../mine.jpg,0,1\n")
    with pytest.raises(AttnBridgeError, match=r"labels\.csv, line 3: .*'../mine\.jpg'"):
        import_dataset("csv", tmp_path / "own", tmp_path / "out", "train")
    assert not (tmp_path / "out").exists()


def test_a_list_of_pairs_does_not_lead_outside(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs / "persons/0", tmp_path / "mine")
    shutil.copytree(inputs / "persons", tmp_path / "persons")
    (tmp_path / "pairs.txt").write_text("1\t1\n0\t1\t2\n../mine\t1\t0\t1\n")
    with pytest.raises(AttnBridgeError, match=r"pairs\.txt, line 3: '\.\./mine' leads outside"):
        read_pairs(tmp_path / "pairs.txt", tmp_path / "persons")


def test_a_split_does_not_lead_outside(command: Callable[..., list[str]], tmp_path: Path, capsys: Capture) -> None:
    words = [*command("import", tmp_path / "out"), "--split", "../../../mine"]
    refused(words, ["--split: '../../../mine' leads outside"], capsys, tmp_path)


def test_a_link_inside_class_folders_is_read(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "set/cat").mkdir(parents=True)
    (tmp_path / "set/cat/a.jpg").symlink_to(inputs / "own/0.jpg")
    (tmp_path / "set/dog").symlink_to(inputs / "own")
    assert check_set(tmp_path / "set").problems == []


@pytest.mark.parametrize("verb", ["saliency", "segment", "explain"])
def test_links_to_folders_are_followed_and_links_to_nothing_are_told(
    verb: str, command: Callable[..., list[str]], inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    """As `fit` does."""
    images = tmp_path / "images"
    (images / "cat").mkdir(parents=True)
    shutil.copyfile(inputs / "own/0.jpg", images / "cat/0.jpg")
    (images / "dog").symlink_to(inputs / "own")
    (images / "cat/up").symlink_to("..")
    lost = images / "cat/lost.jpg"
    lost.symlink_to("/nowhere.jpg")
    out, ending = tmp_path / "out", ".npz" if verb == "explain" else ".png"
    words = [str(images) if word == str(inputs / "images") else word for word in command(verb, out)]
    assert main(words) == 1
    assert f"{lost}: is a link to '/nowhere.jpg', where nothing is" in capsys.readouterr().out
    names = {path.relative_to(out).parts[0] + "/" + path.name.split(".")[0] for path in out.rglob(f"*{ending}")}
    assert names == {"cat/0", "dog/0", "dog/1", "dog/2"}
    words[words.index(str(images))] = f"{images}/*/*.jpg"
    assert main([*words[:-1], str(tmp_path / "more")]) == 1
    assert str(lost) in capsys.readouterr().out


def test_an_image_that_became_a_link_to_nothing_is_told(
    command: Callable[..., list[str]], inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b"):
        shutil.copyfile(inputs / "own/0.jpg", images / f"{name}.jpg")
    for verb in ("explain", "saliency", "segment"):
        out = tmp_path / verb
        words = [str(images) if word == str(inputs / "images") else word for word in command(verb, out)]
        assert main(words) == 0
        (images / "a.jpg").unlink()
        (images / "a.jpg").symlink_to("/nowhere.jpg")
        capsys.readouterr()
        assert main(words) == 1
        assert f"{images}/a.jpg: is a link to '/nowhere.jpg'" in capsys.readouterr().out
        (images / "a.jpg").unlink()
        shutil.copyfile(inputs / "own/0.jpg", images / "a.jpg")


# links of an import


def clothing(root: Path) -> Path:
    for number, name in enumerate(("hat", "shirt")):
        (root / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 6), (90 * number, 9, 9)).save(root / f"train/{name}/1.png")
    return root


def test_links_of_an_import_are_in_its_list_and_follow_a_set_that_moved(tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset("clothing_small", clothing(tmp_path / "set"), out)
    OwnFiles(out).check_all()
    before = tree(out)
    import_dataset("clothing_small", tmp_path / "set", out)
    assert tree(out) == before
    (tmp_path / "set").rename(tmp_path / "moved")
    import_dataset("clothing_small", tmp_path / "moved", out)
    assert (out / "hat/1.png").readlink() == tmp_path / "moved/train/hat/1.png"
    OwnFiles(out).check_all()


@pytest.mark.parametrize("to", ["nowhere.png", "mine.png"])
def test_a_link_of_an_import_that_was_changed_stays(to: str, tmp_path: Path, capsys: Capture) -> None:
    out, link = tmp_path / "out", tmp_path / "out/hat/1.png"
    words = ["data", "import", "clothing_small", str(clothing(tmp_path / "set")), "--out", str(out)]
    assert main(words) == 0
    Image.new("RGB", (9, 9)).save(tmp_path / "mine.png")
    link.unlink()
    link.symlink_to(tmp_path / to)
    refused(words, [str(link), "name another"], capsys, tmp_path)
    assert link.readlink() == tmp_path / to
    with pytest.raises(AttnBridgeError, match=r"1\.png: was not written by attnbridge"):
        OwnFiles(out).check_all()


def test_two_images_of_one_name_are_told_although_the_link_is_ones_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset("clothing_small", clothing(tmp_path / "set"), out)
    with pytest.raises(AttnBridgeError, match=r"1\.png: is there already and is not .*two images of the set"):
        import_dataset("clothing_small", clothing(tmp_path / "other"), out)


def test_where_there_are_no_links_an_import_is_of_copies_in_its_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError("no links here")

    out = tmp_path / "out"
    monkeypatch.setattr(Path, "symlink_to", none)
    for _ in range(2):
        import_dataset("clothing_small", clothing(tmp_path / "set") if not out.exists() else tmp_path / "set", out)
    assert not (out / "hat/1.png").is_symlink()
    OwnFiles(out).check_all()


# caches


@pytest.mark.parametrize(
    "how",
    ["cut", "lost", *(pytest.param(h, marks=pytest.mark.hostile) for h in ("empty", "no record", "list", "rows"))],
)
@pytest.mark.usefixtures("own_cache")
def test_views_of_which_half_was_lost_are_made_again(how: str, scenes: Path) -> None:
    def kept() -> CachedFeatureDataset:
        found: CachedFeatureDataset = data.train_dataloader().iterables["target"].dataset
        return found

    data, _ = fitted(scenes)
    folder = kept().folder
    before = tree(folder)
    path, record = folder / "features.npy", folder / "fields.json"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "lost":
        path.unlink()
    elif how == "rows":
        np.save(path, np.load(path)[:3])
    else:
        record.write_text("[]" if how == "list" else "")
    data, _ = fitted(scenes)
    assert tree(folder) == before
    assert kept()[3, 1]["features"].isfinite().all()
    assert list(folder.parent.glob(".partial*")) == []


@pytest.mark.parametrize("content", [b"", b'{"a": [[1', b"[1]", b"\xff\x00"])
@pytest.mark.usefixtures("own_cache")
def test_broken_memories_are_made_again(content: bytes, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    shutil.copytree(inputs / "own", tmp_path / "set/cat")
    names = _layer_names("resnet10t", None, 48, False)
    assert check_set(tmp_path / "set").problems == []
    memories = [*(tmp_path / "cache/layers").rglob("*.json"), *(tmp_path / "cache/checks").glob("*.json")]
    assert len(memories) == 2
    before = [json.loads(path.read_text()) for path in memories]
    for path in memories:
        path.write_bytes(content)
    assert check_set(tmp_path / "set").problems == []
    assert _layer_names("resnet10t", None, 48, False) == names
    assert [json.loads(path.read_text()) for path in memories] == before


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", None])
@pytest.mark.parametrize("where", ["cache", "folder"])
def test_a_saliency_map_of_which_half_was_lost(
    content: bytes | None, where: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cache it is made again, and where it is empty; else a folder of the user's names it, and makes it again
    once it is moved away."""
    if where == "cache":
        monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path))
    images = {"1.jpg": inputs / "images/sub/1.jpg"}
    out, path = tmp_path / "saliency/x", tmp_path / "saliency/x/1.png"
    make_saliency(images, out, "spectral")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    if where == "folder" and content != b"":
        with pytest.raises(AttnBridgeError, match=rf"{path}: was changed after attnbridge wrote it"):
            make_saliency(images, out, "spectral")
        path.unlink()
    make_saliency(images, out, "spectral")
    assert path.read_bytes() == whole


@pytest.mark.parametrize("verb", ["saliency", "segment", "explain", "cues"])
def test_what_was_written_and_is_empty_is_made_again(
    verb: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    """As after a crash or on a full disk; it holds nothing of anybody's."""
    out = tmp_path / "out"
    assert main(command(verb, out)) == 0
    grown = (LEDGER, "manifest.jsonl")
    before = {name: content for name, content in tree(out).items() if name not in grown}
    made = [path for path in sorted(out.rglob("*")) if path.suffix in (".png", ".npz")]
    assert len(made) >= 3
    for path in (made[0], made[-1]):
        path.write_bytes(b"")
        assert main(command(verb, out)) == 0
        assert {name: content for name, content in tree(out).items() if name not in grown} == before
    (out / "mine.png").touch()  # this one is somebody's
    assert main(command(verb, out)) == 0
    with pytest.raises(AttnBridgeError, match=r"mine\.png: was not written by attnbridge"):
        OwnFiles(out).check([out / "mine.png"])


@pytest.mark.parametrize("content", [b"", b'{"train": {"se', b"[]", b'{"train": []}'])
def test_a_broken_record_of_imports_is_named(
    content: bytes, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    words = command("import", tmp_path / "out")
    assert main(words) == 0
    (tmp_path / "out/imports.json").write_bytes(content)
    refused(words, [str(tmp_path / "out/imports.json")], capsys, tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"classes": ["a"', b"[]", b'{"classes": 3}', b"{}"])
def test_a_broken_record_of_cues_is_named(content: bytes, tmp_path: Path) -> None:
    theirs(tmp_path / "cues.json", content)
    theirs(tmp_path / "a.png")
    with pytest.raises(AttnBridgeError, match=r"cues\.json: "):
        with_cues([ImageRecord("a", tmp_path / "a.jpg", (0,))], tmp_path, ["a"])


@pytest.mark.parametrize("name", ["saliency.json", "masks.json", "cues.json"])
def test_a_broken_record_of_a_folder_is_named(
    name: str, command: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    verb = {"saliency.json": "saliency", "masks.json": "segment", "cues.json": "cues"}[name]
    out = tmp_path / "out"
    assert main(command(verb, out)) == 0
    (out / name).write_bytes((out / name).read_bytes()[:-5])
    refused(command(verb, out), [f"{out / name}: was changed", "move it away"], capsys, tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"name": "x", "sco', b"[]", b"3"])
def test_a_broken_record_of_a_run_is_named(content: bytes, inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs / "run", tmp_path / "run")
    (tmp_path / "run/run.json").write_bytes(content)
    with pytest.raises(AttnBridgeError, match=r"run\.json: "):
        _ = attnbridge.load_run(tmp_path / "run").record


# killed, and the same again

KILLED = """
import os, signal, sys
from attnbridge.cli import main
from attnbridge.data.provenance import OwnFiles

place, *words = sys.argv[1:]
put = OwnFiles.put

def killed(self, made, path, *more, **options):
    if place in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, made, path, *more, **options)

OwnFiles.put = killed
sys.exit(main(words))
"""
HOLDS = """
import sys, time
from attnbridge.data.out_folders import owned

with owned(sys.argv[1]):
    print(1, flush=True)
    time.sleep(99)
"""
PLACES = [
    *(("saliency", place) for place in ("saliency.json", "sub/1.png", "sheet.jpg")),
    *(("segment", place) for place in ("masks.json", "sub/2.png")),
    *(("cues", place) for place in ("00003.png", "scores.csv")),
    *(("explain", place) for place in ("manifest.jsonl", "sub/1.jpg.npz", "sheet-1.jpg", "scores.csv")),
    *(("import", place) for place in ("imports.json", "labels.csv", "train.txt")),
    *(("verify", place) for place in ("pairs.txt", "mistakes.jpg")),
    *(("search", place) for place in ("searched.yaml", "run.json", "best.yaml")),
    *(("benchmark", place) for place in ("config.yaml", "examples.npz", "results.json")),
    *(("demo", place) for place in ("scenes.json", "shapes/places", "before_after.png")),
]


@pytest.mark.hostile
@pytest.mark.parametrize(("verb", "place"), PLACES)
def test_killed_in_the_middle_the_same_command_gives_the_same(
    verb: str, place: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(command(verb, whole)) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILLED, place, *command(verb, parts)]
    assert subprocess.run(words, env=environment, check=False).returncode == -signal.SIGKILL
    assert main(command(verb, parts)) == 0
    compare(whole, parts)


@pytest.mark.hostile
@pytest.mark.parametrize(
    "stage", ["pipeline.json", "cues/00003.png", "segmentation/metrics.csv", "masks/val/00002.png"]
)
def test_a_pipeline_killed_at_a_stage_gives_the_same(
    stage: str, command: Callable[..., list[str]], tmp_path: Path, pipeline_whole: Path
) -> None:
    parts = tmp_path / "out"
    words = [sys.executable, "-c", KILLED, stage, *command("pipeline", parts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run(words, env=environment, check=False).returncode == -signal.SIGKILL
    assert main(command("pipeline", parts)) == 0
    compare(pipeline_whole, parts)


@pytest.fixture(scope="module")
def pipeline_whole(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(command("pipeline", out)) == 0
    return out


@pytest.mark.hostile
@pytest.mark.parametrize("verb", ["explain", "fit"])
def test_two_real_processes_in_one_folder(verb: str, command: Callable[..., list[str]], tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"1\n"
        second = [sys.executable, "-m", "attnbridge", *command(verb, tmp_path)]
        done = subprocess.run(second, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"{tmp_path}: another process ({first.pid}) writes into it" in done.stderr
        first.kill()
    assert main(command(verb, tmp_path)) == 0


def compare(whole: Path, parts: Path) -> None:
    """Names and contents, but for what has times or paths in it."""
    varies = (".html", ".json", ".jsonl", ".ckpt", ".yaml", ".log", ".npz", ".tgz", ".csv", "search.png")
    one, other = (
        {name: "" if name.endswith(varies) else content for name, content in tree(folder).items()}
        for folder in (whole, parts)
    )
    assert one == other
    for path in whole.rglob("*.npz"):
        first, second = (np.load(folder / path.relative_to(whole)) for folder in (whole, parts))
        assert all(np.array_equal(first[name], second[name]) for name in first.files)
    for path in whole.rglob("scores.csv"):
        assert path.read_text() == (parts / path.relative_to(whole)).read_text()


OUT: dict[str, tuple[list[str], str]] = {
    "explain": (["images", "--model", "run"], "manifest.jsonl"),
    "saliency": (["images"], "saliency.json"),
    "segment": (["run", "images"], "masks.json"),
    "cues": (["--checkpoint", "run"], "cues.json"),
    "score": (["masks", "--truth", "truth"], "scores.json"),
    "submit": (["run", "kit"], "results.tgz"),
    "verify": (["images", "--model", "run"], "verification.json"),
    "pipeline": ([], "pipeline.json"),
    "search": (["attnbn"], "search.json"),
    "benchmark": (["attnbn"], "results.json"),
    "data": (["import", "csv", "table"], "imports.json"),
}
"""What each command needs beside ``--out``, and a file of what it makes."""


def out_words(verb: str, out: Path) -> list[str]:
    words = OUT[verb][0]
    name = next(iter(TABLES)) if verb == "benchmark" else None
    return [verb, *([name] if name else words), "--out", str(out)]


@pytest.mark.parametrize("marked", ["run.json", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("verb", OUT)
def test_nothing_is_put_into_a_run(verb: str, marked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether its list of files was copied with it or not; nor into the folders in it that are its own."""
    run = tmp_path / "run"
    for name in ("config.yaml", marked, "attention/epoch_01.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    (tmp_path / "link").symlink_to(run)
    for place in (run, tmp_path / "link"):
        refused(out_words(verb, place), [f"{place}: holds a run of `attnbridge fit`", "--out"], capsys, tmp_path)
    for place in (run / "attention", run / "checkpoints/mine"):
        refused(out_words(verb, place), [f"{place}: is a part of the run {run}", "--out"], capsys, tmp_path)
    assert check_out(run / "mine", OUT[verb][1]) == run / "mine"


@pytest.mark.parametrize("verb", ["fit", *OUT])
def test_nothing_is_put_beside_what_another_command_made(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other, (_, name) in OUT.items():
        folder = tmp_path / other
        with owned(folder, name) as own, own.writing(folder / name) as partial:
            partial.write_text("{}")
        words = ["fit", "attnbn", "--out", str(folder)] if verb == "fit" else out_words(verb, folder)
        if other == verb:
            assert check_out(folder, name) == folder
            continue
        said = refused(words, [f"{folder}: holds ", "--out"], capsys, tmp_path)
        assert out_folders.HOLDS[name] in said
    (tmp_path / "mine").mkdir()
    for _, name in OUT.values():  # the user's own
        (tmp_path / "mine" / name).write_text("{}")
    assert check_out(tmp_path / "mine", "config.yaml") == tmp_path / "mine"
