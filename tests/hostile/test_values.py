"""One experiment, checked whole before anything is written: values, sections, YAML, the trainer, commands, Python."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from PIL import Image

import attnbridge
from attnbridge import cli
from attnbridge.cli import main
from attnbridge.cli.common import Verb
from attnbridge.cli.failures import answer
from attnbridge.data.files import atomic_write
from attnbridge.data.provenance import LEDGER
from attnbridge.data.text import dump_yaml, parse_yaml, write_rows
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.record import check_scores
from attnbridge.experiments.checks import check_environment, check_processes
from attnbridge.experiments.config import Experiment, load_experiment
from attnbridge.experiments.fit import fit
from attnbridge.experiments.runs import load_run
from attnbridge.experiments.tables import TableRequest
from attnbridge.methods.attnbn import AttnBN
from attnbridge.models.weights import load_tensors
from attnbridge.segmentation import CueSettings, make_cue
from tests.hostile.answers import refused, tree

pytestmark = pytest.mark.usefixtures("module_cache")
TRAINER = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
NETWORK = ["--model.backbone", "resnet10t", "--model.weights", "none"]
SIZES = ["--data.image_size", "32", "--data.batch_size", "8", "--data.workers", "0"]
CALLBACKS = "lightning.pytorch.callbacks"
slowly = partial(pytest.param, marks=pytest.mark.hostile)
SMALL = [*TRAINER, *NETWORK, *SIZES, "--model.frozen", "[]"]


def joined(value: Any) -> str:
    return " ".join(map(str, value))[:60] if isinstance(value, list) else ""


@pytest.fixture
def place(scenes: Path, images: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with small data in it."""
    for name, path in (("scenes", scenes), ("images", images), ("classes", classes)):
        (tmp_path / name).symlink_to(path)
    (tmp_path / "domains").mkdir()
    for name in "abc":
        (tmp_path / "domains" / name).symlink_to(classes / "train")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def on_scenes(*words: str) -> list[str]:
    return [
        *("--data.source", "scenes/source/train", "--data.saliency", "scenes/saliency/train"),
        *("--data.target", "scenes/target", *SMALL, *words),
    ]


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory, module_cache: None) -> Path:
    """A small run that is done."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    data = {name: str(scenes / part) for name, part in (("source", "source/train"), ("saliency", "saliency/train"))}
    model = {"backbone": "resnet10t", "weights": "none", "frozen": []}
    fit(
        "attnbn", data={**data, "target": str(scenes / "target"), "image_size": 32, "batch_size": 8, "workers": 0},
        model=model, trainer={"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}, out=folder,
    )  # fmt: skip
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be scored again."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


HUGE = 10**400


@pytest.mark.parametrize(
    ("method", "option", "value", "names"),
    [
        # numbers
        ("attnbn", "model.lr", HUGE, ["model.lr must be above 0", "1000"]),
        ("attnbn", "model.lr", float("inf"), ["model.lr must be above 0, not inf"]),
        ("attnbn", "model.attention_weight", float("nan"), ["model.attention_weight must be at least 0, not nan"]),
        ("attnbn", "model.attention_weight", None, ["model.attention_weight must be float at least 0, but is None"]),
        ("gain", "model.mask_threshold", 1, ["model.mask_threshold must be above 0 and below 1, not 1"]),
        ("attention_transfer", "model.distillation_weight", 1.5, ["distillation_weight must be at least 0", "1.5"]),
        ("attention_transfer", "model.temperature", 0, ["model.temperature must be above 0, not 0"]),
        ("fine_tuning", "model.label_smoothing", 1, ["model.label_smoothing must be at least 0 and below 1, not 1"]),
        ("segmentation", "model.grow_background", 0, ["model.grow_background must be above 0 and below 1, not 0"]),
        ("segmentation", "model.head_width", 10**9, ["model.head_width must be at least 1 and at most 65536"]),
        ("segmentation", "model.head_rate", [6, 0], ["model.head_rate must be at least 1", "not 0"]),
        ("segmentation", "model.setting", "papers", ["value of model.setting", "did you mean 'paper'"]),
        ("segmentation", "data.augment", "flop", ["value of data.augment", "did you mean 'flip'"]),
        ("segmentation", "evaluation.combine", "logit", ["value of evaluation.combine", "did you mean 'logits'"]),
        ("domain_adaptation", "model.mmd_weight", -1, ["model.mmd_weight must be at least 0, not -1"]),
        ("domain_adaptation", "data.val_share", 1, ["data.val_share must be above 0 and below 1, not 1"]),
        ("attnbn", "model.discriminator_width", 10**11, ["discriminator_width must be at least 1 and at most 65536"]),
        ("attnbn", "data.batch_size", 10**9, ["data.batch_size must be at least 1 and at most 65536"]),
        ("attnbn", "data.guided_batch", 10**9, ["data.guided_batch must be at least 1 and at most 65536"]),
        ("attnbn", "data.workers", 10**7, ["data.workers must be at least 0 and at most 256"]),
        ("attnbn", "data.views", 10**7, ["data.views must be at least 1 and at most 1000"]),
        ("attnbn", "data.image_size", 100000, ["data.image_size must be", "at most 8192", "not 100000"]),
        ("attnbn", "data.source_zoom_out", 0.5, ["data.source_zoom_out must be at least 1, not 0.5"]),
        ("attnbn", "seed", False, ["option seed must be int", "False"]),
        ("attnbn", "seed", 2**70, ["option seed must be at least 0", str(2**70)]),
        # types: text for numbers, truth for counts, one for several, several for one
        ("attnbn", "model.lr", "1e-3", ["model.lr must be float above 0, but is '1e-3'"]),
        ("attnbn", "data.batch_size", 8.0, ["data.batch_size must be int", "8.0"]),
        ("attnbn", "data.batch_size", True, ["data.batch_size must be int", "True"]),
        ("attnbn", "model.label_shift", 1, ["model.label_shift must be bool, but is 1"]),
        ("attnbn", "model.frozen", "cat", ["model.frozen must be a list of names, but is 'cat'"]),
        ("fine_tuning", "model.layers", "cat", ["model.layers must be a list of names", "'cat'"]),
        ("domain_adaptation", "data.sources", "cat", ["data.sources must be a list of names, but is 'cat'"]),
        ("attention_transfer", "model.pairs", ["ab"], ["model.pairs must be a list of names, but is 'ab'"]),
        ("attention_transfer", "model.pairs", [["a", 1]], ["model.pairs must be str, but is 1"]),
        ("attnbn", "data.lists", "train", ["data.lists must be names by name", "'train'"]),
        ("attnbn", "data.lists", {"train": 3}, ["data.lists.train must be str, but is 3"]),
        ("attnbn", "data.target", ["a"], ["data.target must be str, but is ['a']"]),
        ("attnbn", "model.layer", "", ["model.layer must not be ''"]),
        ("attnbn", "data.target", "a\0b", ["data.target must not be 'a\\x00b'"]),
        ("attnbn", "name", "..", ["option name must be a name that a folder can have, not '..'"]),
        # choices
        ("attnbn", "model.normalise", ["none"], ["value of model.normalise", "['none']", "did you mean 'none'"]),
        ("attnbn", "model.batch_norm", None, ["value of model.batch_norm: 'None'"]),
        ("gain", "model.mined_classes", True, ["value of model.mined_classes: 'True'; there are: all, one"]),
        # how it is scored
        ("attnbn", "evaluation.threshold", None, ["evaluation.threshold must be float, but is None"]),
        ("attnbn", "evaluation.score_threshold", 0, ["evaluation.score_threshold must be above 0 and below 1, not 0"]),
        ("attnbn", "evaluation.scales", [1e5], ["evaluation.scales must be at least 0.1 and at most 8"]),
        ("attnbn", "evaluation.scales", [True], ["evaluation.scales must be float", "True"]),
        # the trainer
        ("attnbn", "trainer.devices", -2, ["trainer.devices must be a count of devices", "-2"]),
        ("attnbn", "trainer.devices", [0, 0], ["trainer.devices must be", "[0, 0]"]),
        ("attnbn", "trainer.devices", 1.5, ["trainer.devices must be", "1.5"]),
        ("attnbn", "trainer.precision", "nope", ["value of trainer.precision: 'nope'"]),
        ("attnbn", "trainer.num_nodes", 0, ["trainer.num_nodes must be at least 1, not 0"]),
        ("attnbn", "trainer.min_epochs", -1, ["trainer.min_epochs must be at least 0, not -1"]),
        ("attnbn", "trainer.limit_train_batches", 7.5, ["limit_train_batches must be above 0 and at most 1, not 7.5"]),
        ("attnbn", "trainer.limit_train_batches", 0, ["trainer.limit_train_batches must be", "not 0"]),
        ("attnbn", "trainer.limit_val_batches", 0, ["trainer.limit_val_batches must be", "not 0"]),
        ("attnbn", "trainer.limit_test_batches", -1, ["trainer.limit_test_batches must be", "not -1"]),
        ("attnbn", "trainer.val_check_interval", 0, ["trainer.val_check_interval must be", "not 0"]),
        ("attnbn", "trainer.max_time", {"hours": -1}, ["trainer.max_time.hours must be at least 0, not -1"]),
        ("attnbn", "trainer.num_sanity_val_steps", -5, ["trainer.num_sanity_val_steps must be at least 0, not -5"]),
        ("attnbn", "trainer.gradient_clip_val", -1, ["trainer.gradient_clip_val must be at least 0, not -1"]),
        ("attnbn", "trainer.accumulate_grad_batches", 0, ["trainer.accumulate_grad_batches must be at least 1, not 0"]),
        ("attnbn", "trainer.enable_progress_bar", 3, ["trainer.enable_progress_bar must be bool | None, but is 3"]),
        # what is searched, and what of an earlier stage is changed
        ("fine_tuning", "search.model.lr", [True, 2], ["bounds of model.lr must be [LOW, HIGH]", "[True, 2]"]),
        ("fine_tuning", "search.model.lr", [0.1, float("inf")], ["search.model.lr must be above 0, not inf"]),
        ("fine_tuning", "search.model.momentum", [0.5, 2], ["search.model.momentum must be", "below 1, not 2"]),
        ("fine_tuning", "search.model.lr", 3, ["bounds of model.lr must be [LOW, HIGH]", "not 3"]),
        ("fine_tuning", "init_overrides.trainer.max_epochs", 0, ["init_overrides.trainer.max_epochs must be at"]),
        ("fine_tuning", "init_overrides.evaluation.crf", True, ["section in init_overrides", "'evaluation'"]),
    ],
    ids=lambda v: str(v)[:40] if not isinstance(v, list) else "",
)  # fmt: skip
def test_a_value_that_cannot_be_is_named(method: str, option: str, value: Any, names: list[str]) -> None:
    config: dict[str, Any] = {"method": method}
    *sections, last = option.split(".")
    inner = config
    for name in sections:
        inner = inner.setdefault(name, {})
    inner[last] = value
    with pytest.raises(AttnBridgeError) as error:
        Experiment.from_mapping(config)
    assert [name for name in names if name not in str(error.value)] == [], str(error.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["mine.yaml", "is empty"]),
        ("# nothing\n", ["mine.yaml", "is empty"]),
        ("- 1\n", ["mine.yaml", "expected sections", "list"]),
        ("attnbn\n", ["mine.yaml", "expected sections", "str"]),
        ("base: mine.yaml\n", ["mine.yaml: its `base` leads back to itself"]),
        ("base: other.yaml\n", ["mine.yaml: its `base` leads back to itself"]),
        ("base: 3\n", ["mine.yaml: `base` must be the name of a configuration, or a list, not 3"]),
        ("base: [attnbn, {}]\n", ["mine.yaml: `base` must be", "{}"]),
        ("base: twice-0.yaml\n", ["more than 100 files", "merge fewer"]),
        ("method: attnbn\nmethod: gain\n", ["mine.yaml", "line 2", "'method' is there twice"]),
        ("method: attnbn\nmodel: {lr: 1, lr: 2}\n", ["mine.yaml", "line 2", "'lr' is there twice"]),
        ("method: attnbn\nmodel: [1]\n", ["mine.yaml: model must hold options", "[1]"]),
        ("method: attnbn\nmodel: []\n", ["mine.yaml: model must hold options", "[]"]),
        ("method: attnbn\nevaluation: false\n", ["mine.yaml: evaluation must hold options", "False"]),
        ("method: attnbn\nsearch: {model: 3}\n", ["mine.yaml: search.model must hold options", "3"]),
        ("method: attnbn\nsearch: []\n", ["mine.yaml: search must hold options", "[]"]),
        ("method: [attnbn]\n", ["unknown method in mine.yaml", "did you mean 'attnbn'"]),
        ("method: attnbn\n1: 2\n", ["mine.yaml: the name 1 is no text"]),
        ("method: attnbn\nmodel: {yes: 2}\n", ["mine.yaml: the name True is no text"]),
        ("method: attnbn\nmodell: {}\n", ["unknown section in mine.yaml: 'modell'; did you mean 'model'"]),
        ("method: attnbn\ninit_from: [attnbn]\n", ["option init_from must be str | None, but is ['attnbn']"]),
        ("method: attnbn\nteacher: {a: 1}\n", ["option teacher must be str | None, but is {'a': 1}"]),
        ("method: attnbn\nname: !!python/object/apply:os.getcwd []\n", ["mine.yaml", "line 2", "python/object"]),
        ("method: attnbn\n---\nmethod: gain\n", ["mine.yaml", "another document"]),
        ("[" * 5000, ["mine.yaml", "nested too deeply"]),
        ("a: &a [*a]\n", ["mine.yaml", "holds itself"]),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{n}: &{n} [{','.join(['*' + o] * 10)}]\n" for o, n in zip("abcde", "bcdef", strict=True)
        ), ["mine.yaml", "aliases stand for more than"]),
    ],
    ids=lambda v: v.splitlines()[-1][:40] if isinstance(v, str) and v else "",
)  # fmt: skip
def test_a_configuration_of_another_shape_is_named(
    text: str, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    Path("other.yaml").write_text("base: mine.yaml\n")
    for number in range(10):
        Path(f"twice-{number}.yaml").write_text(f"base: [twice-{number + 1}.yaml, twice-{number + 1}.yaml]\n")
    Path("twice-10.yaml").write_text("method: attnbn\n")
    refused(["fit", "mine.yaml"], names, capsys, tmp_path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "binary", "unreadable", "long"])
def test_a_configuration_that_is_no_text_file_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, words = "mine.yaml", "is no regular file"
    if kind == "folder":
        Path(name).mkdir()
    elif kind == "fifo":
        os.mkfifo(name)
    elif kind == "binary":
        Path(name).write_bytes(b"\xff\xfe\x00")
        words = "is not UTF-8: byte 0"
    elif kind == "unreadable":
        Path(name).write_text("method: attnbn\n")
        known = Path.read_bytes

        def read(self: Path) -> bytes:
            if not self.is_absolute():
                raise PermissionError(errno.EACCES, "Denied")
            return known(self)

        monkeypatch.setattr(Path, "read_bytes", read)
        words = "cannot be read (Denied)"
    else:
        name, words = "n" * 300 + ".yaml", "name too long"
    refused(["fit", name], [name[:80], words], capsys, tmp_path)


def test_numbers_with_an_exponent_are_numbers_and_quoted_ones_text(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for text."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "method: attnbn\nname: '1e-3'\nmodel: {lr: 1e-3, step_at: [5e-1]}\nsearch: {model: {lr: [1e-4, 1E-2]}}"
    )
    found = load_experiment(str(path))
    assert (found.model["lr"], found.model["step_at"], found.search["model"]["lr"]) == (1e-3, [0.5], [1e-4, 1e-2])
    assert parse_yaml(dump_yaml(found.to_mapping()), "") == found.to_mapping()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--model.", "1"], ["--model.", "a name is missing"]),
        (["--model..lr", "1"], ["--model..lr", "a name is missing"]),
        (["--.", "1"], ["--.", "a name is missing"]),
        (["--model.lr"], ["--model.lr lacks its value"]),
        (["--model.lr", "--seed", "1"], ["--model.lr lacks its value"]),
        (["--model.lr", "1", "--model.lr.x", "1"], ["--model.lr.x", "model.lr is 1", "has no 'x'"]),
        (["--a.b.c", "1"], ["unknown section", "'a'"]),
        (["--model", "[]"], ["model must hold options", "[]"]),
        (["--model.lr", "[1"], ["--model.lr", "is no YAML", "line 1"]),
        (["--model.lr", "&a [*a]"], ["--model.lr", "holds itself"]),
        (["--method", "[attnbn]"], ["unknown method", "attnbn"]),
        (["--base", "attnbn"], ["unknown section", "'base'"]),
        (["--data.lists", "{trian: x}"], ["split in data.lists", "'trian'", "did you mean 'train'"]),
        (["--data.lists", "{val: mine}"],
         ["data.lists is {'val': 'mine'}", "scenes/target is not of VOC's layout", "set data.lists to null"]),
        (["--out", ""], ["--out: is ''"]),
        (["--device", "banana"], ["--device must be auto, cpu", "'banana'"]),
        (["--model.weights", "nowhere.pt"], ["nowhere.pt", "no such weight file"]),
        # found by the parts themselves, before anything is written
        (["--out", "scenes/scenes.json"], ["scenes.json: cannot be made a folder"]),
        (["--data.batch_size", "1000"], ["data.batch_size is 1000", "only 32 images", "smaller"]),
        (["--trainer.devices", "99"], ["trainer.devices is 99", "cores"]),
        (["--trainer.max_epochs", "null"], ["trainer.max_epochs is not set"]),
        slowly(["--trainer.max_epochs", "-1"], ["trainer.max_epochs is not set"]),
        (["--trainer.strategy", "nope"], ["trainer", "invalid strategy name", "'nope'"]),
        slowly(["--trainer.strategy", "deepspeed"], ["trainer", "deepspeed"]),
        slowly(["--trainer.accelerator", "3"], ["trainer.accelerator cannot be 3"]),
        (["--trainer.logger.class_path", "nope.Logger"], ["trainer.logger", "nope.Logger", "No module named"]),
        slowly(["--trainer.callbacks", "[{class_path: pathlib.Path}]"], ["trainer.callbacks", "Path", "subclass"]),
        slowly(["--trainer.max_time", "x"], ["trainer", "not a valid duration"]),
        (["--trainer.strategy", "ddp_spawn"], ["trainer.strategy cannot be 'ddp_spawn'", "take ddp"]),
        (["--model.lr", "1e300"], ["model.lr must be", "1e+300"]),
        (["--model.attention_weight", "1e308"], ["model.attention_weight must be", "at most 3.4e+38", "1e+308"]),
        (["--trainer.num_nodes", "2"], ["trainer.num_nodes is 2", "MASTER_ADDR"]),
        # found once it trains: what was written is taken away
        (["--trainer.max_time", "00:00:00:00"], ["not a single step was trained", "trainer.max_time"]),
        (["--trainer.val_check_interval", "100"], ["trainer", "val_check_interval", "100"]),
        slowly(["--trainer.limit_train_batches", "0.01"], ["trainer", "limit_train_batches"]),
        slowly(["--trainer.callbacks", f"[{{class_path: {CALLBACKS}.EarlyStopping, init_args: {{monitor: nope}}}}]"],
                ["trainer", "Early stopping", "`nope`"]),
        slowly(["--model.lr", "1_000_000", "--model.optimizer", "sgd"], ["not finite", "lower the learning rate"]),
    ],
    ids=joined,
)  # fmt: skip
def test_a_start_that_fails_leaves_nothing(
    words: list[str], names: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {word for word in words if word.startswith("--")}
    usual = on_scenes()
    kept = [w for i in range(0, len(usual), 2) if usual[i] not in given for w in usual[i : i + 2]]
    refused(["fit", "attnbn", *kept, *words], names, capsys, place)


def test_the_corrected_command_starts_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folder of one that failed, in which something of the user's lies."""
    (place / "run").mkdir()
    (place / "run/notes.txt").write_text("mine")
    words = ["fit", "attnbn", "--out", "run", *on_scenes()]
    refused([*words, "--trainer.val_check_interval", "100"], ["val_check_interval"], capsys, place)
    assert main(words) == 0
    assert (place / "run/notes.txt").read_text() == "mine"


def test_a_second_stage_is_checked_before_the_first_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AttnBN, "training_step", lambda *_: pytest.fail("the first stage was trained"))
    words = ["fit", "fine_tuned", *on_scenes("--model.target_weight", "0")]
    refused(words, ["all loss weights are 0"], capsys, place)


def test_a_first_stage_of_other_options_is_not_taken_for_the_own(trained: Path, place: Path, capsys: Any) -> None:
    shutil.copytree(trained, place / "run/first")
    words = ["fit", "fine_tuned", "--out", "run", *on_scenes("--model.lr", "0.5")]
    refused(words, ["run/first", "was begun with", "go on with its own"], capsys, place)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["search", "finetune/l2", "--trials", "0"], ["--trials must be at least 1, not 0"]),
        (["search", "finetune/l2", "--trials", "1e3"], ["--trials must be a whole number", "'1e3'"]),
        (["search", "finetune/l2", "--data.data", "images", *SMALL, "--search.model.lr", "[0.1, 0.01]"],
         ["bounds of model.lr", "[0.1, 0.01]"]),
        (["search", "finetune/l2", "--data.data", "images", *SMALL, "--search.model.lr", "[0.01, 0.1]"],
         ["data.views needs model.frozen"]),
        (["benchmark", "scenes", "--seeds", "1", "1"], ["seeds must be one or more, each once, not [1, 1]"]),
        (["benchmark", "scenes", "--seeds"], ["--seeds", "at least one"]),
        (["benchmark", "scenes", "--seeds", "1.5"], ["--seeds must be a whole number", "'1.5'"]),
        (["benchmark", "scenes", "--seeds", "99999999999"], ["--seeds must be at least 0", "99999999999"]),
        (["benchmark", "scenes", "--rows", "grad_cam", "grad_cam"], ["rows must be one or more, each once"]),
        (["benchmark", "scenes", "--rows", "nope"], ["unknown configuration 'nope'"]),
        (["benchmark", "scenes", "--trials", "-1"], ["--trials must be at least 0, not -1"]),
        (["benchmark", "scenes", "--saliency", "u2nett"], ["saliency model", "'u2nett'", "did you mean 'u2net'"]),
        (["benchmark", "scenes", "--out", ""], ["--out: is ''"]),
        (["benchmark", "scenes", "--images", "foo"], ["--images", "'foo'"]),
        (["benchmark", "domains", "--data", "domains", "--domains", "a,a"], ["'a' is named twice"]),
        (["benchmark", "domains", "--data", "domains", "--domains", ""], ["--domains", "''"]),
        (["demo", "--seed", "-1"], ["--seed must be at least 0", "not -1"]),
        (["demo", "--out", ""], ["--out: is ''"]),
        (["explain", "scenes", "--model", "resnet10t", "--top", "0"], ["--top must be at least 1, not 0"]),
        (["explain", "scenes", "--model", "resnet10t", "--threshold", "nan"], ["--threshold must be", "not nan"]),
        (["explain", "scenes", "--model", "resnet10t", "--batch", "1000000"], ["--batch must be", "65536"]),
        (["explain", "", "--model", "resnet10t"], ["an argument: is ''"]),
        (["saliency", "", "--out", "o"], ["an argument: is ''"]),
        (["segment", "run", "", "--out", "o"], ["an argument: is ''"]),
        (["segment", "run", "images", "--out", "o", "--workers", "-1"], ["--workers must be at least 0", "not -1"]),
        (["segment", "run", "images", "--out", "o", "--threshold", "1"], ["--threshold must be", "below 1, not 1"]),
        (["verify", "images", "--model", "resnet10t", "--each", "x"], ["--each must be a whole number", "'x'"]),
        (["cues", "--checkpoint", "run", "--out", "o", "--scales", "0"], ["--scales must be at least 0.1", "not 0"]),
        (["cues", "--checkpoint", "run", "--out", "o", "--background", "2"], ["--background must be", "at most 1"]),
        (["pipeline", "--source", "", "--target", "t"], ["--source: is ''"]),
        (["pipeline", "--source", "s", "--target", "t", "--threshold", "-0.1"], ["--threshold must be at least 0"]),
        (["submit", "run", "domains", "--out", "o"], ["domains: is no development kit", "ImageSets", "test.txt"]),
        (["data", "check", ""], ["an argument: is ''"]),
    ],
    ids=joined,
)  # fmt: skip
def test_options_of_every_verb_are_checked_first(
    words: list[str], names: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(words, names, capsys, place)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--evaluation.threshold", "0.33"], ["evaluation.threshold must be one of 0.05", "0.33"]),
        (["--evaluation.score_threshold", "0"], ["evaluation.score_threshold must be above 0"]),
        (["--evaluation.treshold", "0.5"], ["'treshold'", "did you mean 'threshold'"]),
        (["--evaluation.size", "image"], ["unknown value of evaluation.size", "'image'", "network, own"]),
        (["--evaluation", "{crf: false}"], ["--evaluation", "keeps its own"]),
        (["--model.lr", "1"], ["--model.lr", "a run that was trained keeps its own", "--evaluation."]),
        (["--seed", "1"], ["--seed", "a run that was trained keeps its own"]),
        (["--evaluation.threshold", "0.3", "--target", "scenes/target"], ["--target", "another command"]),
        (["--evaluation.threshold"], ["--evaluation.threshold lacks its value"]),
    ],
    ids=joined,
)
def test_settings_that_a_run_cannot_be_scored_with_are_named(
    words: list[str], names: list[str], run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["test", str(run), *words], names, capsys, place)


def test_a_run_is_scored_by_other_settings_without_training(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AttnBN, "training_step", lambda *_: pytest.fail("it was trained again"))
    before, files = load_run(run).record, tree(run)
    assert main(["test", str(run), "--evaluation.threshold", "0.05"]) == 0
    assert "is scored by threshold 0.05 from now on" in capsys.readouterr().out
    after, changed = load_run(run), {name for name, value in tree(run).items() if value != files[name]}
    assert changed <= {"config.yaml", "run.json", "report.html", "examples.npz", LEDGER}
    assert after.config.evaluation.threshold == after.record["evaluation"]["threshold"] == 0.05
    assert after.record["protocol"]["fixed_threshold"] == 0.05
    curve = before["scores"]["predicted"]["curve"]
    assert after.scores["predicted"]["miou_fixed"] == pytest.approx(curve[0], abs=1e-5)
    assert after.rescore(threshold=0.5).scores == before["scores"]
    with pytest.raises(AttnBridgeError, match=r"unknown option evaluation\. 'treshold'"):
        after.rescore(treshold=0.5)


COMMENTS: dict[str, tuple[str, str]] = {
    "above": ("method:", "# my notes\n\nmethod:"),
    "below": ("enable_progress_bar: false\n", "enable_progress_bar: false\n# that is all"),
    "beside a value": ("  max_epochs: 1\n", "  max_epochs: 1   # a try\n"),
}
"""What a user adds to a configuration: in the place of what."""


@pytest.mark.parametrize("place", COMMENTS)
def test_comments_in_a_runs_configuration_stay_when_it_is_scored_again(place: str, run: Path) -> None:
    config = run / "config.yaml"
    before, new = COMMENTS[place]
    assert before in config.read_text()
    config.write_text(config.read_text().replace(before, new))
    text = config.read_text()
    for settings in ({"threshold": 0.3}, {"threshold": 0.4, "score_threshold": 0.25}, {"threshold": 0.5}):
        load_run(run).rescore(**settings)
        assert [line for line in text.splitlines() if line not in config.read_text().splitlines()] == []
        found = load_run(run).config.evaluation
        assert {name: getattr(found, name) for name in settings} == settings
    config.write_text("# one more\n" + config.read_text())
    load_run(run).rescore(threshold=0.6)
    assert config.read_text().startswith("# one more\n")
    fit(load_run(run).config.with_options(evaluation={"threshold": 0.7}), out=run, resume=True)
    assert load_run(run).config.evaluation.threshold == 0.7
    assert new.strip() in config.read_text()


def test_other_values_in_a_runs_configuration_are_the_users(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before it is scored for hours."""
    monkeypatch.setattr(AttnBN, "predict_batch", lambda *_: pytest.fail("it was scored"))
    config = run / "config.yaml"
    config.write_text("# mine\n" + config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    words = ["test", str(run), "--evaluation.threshold", "0.3"]
    refused(words, [f"{config}: was changed after attnbridge wrote it"], capsys, place)


def test_a_run_without_its_hidden_list_is_scored_and_not_changed(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `cp run/* other/` leaves it."""
    (run / LEDGER).unlink()
    told = [f"{run}: has no {LEDGER}", "copy that file, too", "cp -r RUN PLACE", f"attnbridge test {run}"]
    refused(["test", str(run), "--evaluation.threshold", "0.3"], told, capsys, place)
    before = tree(run)
    with pytest.raises(AttnBridgeError, match=f"has no {LEDGER}"):
        fit(load_run(run).config, out=run, resume=True)
    assert main(["test", str(run)]) == 0
    assert tree(run) == before


def test_settings_of_the_evaluation_may_change_when_a_run_goes_on(run: Path) -> None:
    """What failed at its scores is scored without training."""
    (run / "run.json").unlink()
    config = load_run(run).config
    again = fit(config.with_options(evaluation={"score_threshold": 0.25}), out=run, resume=True)
    assert again.record["protocol"]["score_threshold"] == 0.25


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"experiment": "atnbn"}, ["unknown configuration 'atnbn'", "did you mean 'attnbn'"]),
        ({"experiment": 3}, ["experiment must be an Experiment, or the name of one, not 3"]),
        ({"experiment": None}, ["experiment must be", "None"]),
        ({"experiment": replace(Experiment("attnbn"), model={"lr": -1})}, ["model.lr must be above 0, not -1"]),
        ({"data": 3}, ["data: expected a folder", "int"]),
        ({"data": ""}, ["data", "''"]),
        ({"data": {"train": {}}}, ["data", "'train'"]),
        ({"network": "resnet18"}, ["network must be a torch.nn.Module, not 'resnet18'"]),
        ({"network": torch.nn.Linear}, ["network must be a torch.nn.Module", "Linear"]),
        ({"out": ""}, ["out must be the path of a folder", "''"]),
        ({"out": 3}, ["out must be the path of a folder", "3"]),
        ({"resume": "yes"}, ["resume must be True or False, not 'yes'"]),
        ({"callbacks": "x"}, ["callbacks must be a list of Lightning's Callbacks, not 'x'"]),
        ({"callbacks": [Callback]}, ["callbacks must be a list of Lightning's Callbacks"]),
        ({"logger": "csv"}, ["logger must be a Logger of Lightning's", "'csv'"]),
        ({"model": 3}, ["model must hold options", "3"]),
        ({"seeed": 3}, ["unknown section", "'seeed'", "did you mean 'seed'"]),
        ({"trainer": {"logger": "csv"}}, ["trainer.logger cannot be 'csv'"]),
        ({"trainer": {"max_epochs": "3"}}, ["trainer.max_epochs must be int", "'3'"]),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else "",
)
def test_fit_names_what_cannot_be(options: dict[str, Any], names: list[str], place: Path) -> None:
    given: dict[str, Any] = {
        "experiment": "attnbn",
        "data": {"source": "scenes/source/train", "saliency": "scenes/saliency/train", "target": "scenes/target"},
        **options,
    }
    before = tree(place)
    with pytest.raises(AttnBridgeError) as error:
        attnbridge.fit(**given)
    assert [name for name in names if name not in str(error.value)] == [], str(error.value)
    assert tree(place) == before


@pytest.mark.parametrize(
    ("variables", "wanted", "names"),
    [
        ({"LOCAL_RANK": "1"}, 1, ["LOCAL_RANK=1", "trainer.devices", "unset LOCAL_RANK"]),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, ["RANK=1, WORLD_SIZE=2", "unset RANK and WORLD_SIZE"]),
        ({"WORLD_SIZE": "4", "RANK": "0"}, 1, ["WORLD_SIZE=4"]),
        ({"SLURM_PROCID": "3"}, 1, ["SLURM_PROCID=3"]),
        ({"LOCAL_RANK": "0"}, 2, ["LOCAL_RANK=0", "MASTER_PORT"]),
    ],
    ids=str,
)
def test_ranks_that_were_set_by_accident_are_named(
    variables: dict[str, str], wanted: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AttnBridgeError) as error:
        check_processes(wanted)
    assert [name for name in names if name not in str(error.value)] == [], str(error.value)


@pytest.mark.parametrize("variables", [{}, {"LOCAL_RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}])
def test_the_ranks_of_a_single_process_are_let_be(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_environment()
    check_processes(1)


def test_a_process_that_takes_itself_for_another_does_not_start(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trained and wrote nothing."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    refused(["fit", "attnbn", *on_scenes()], ["LOCAL_RANK=1", "unset LOCAL_RANK"], capsys, place)
    monkeypatch.setenv("LOCAL_RANK", "one")
    refused(["fit", "attnbn", *on_scenes()], ["LOCAL_RANK='one'", "unset LOCAL_RANK"], capsys, place)


@pytest.mark.parametrize("seeds", [(1, 1), (), (1, -1), (True,), ("1",)])
def test_a_table_of_odd_seeds_is_none(seeds: tuple[Any, ...]) -> None:
    with pytest.raises(AttnBridgeError, match="seeds"):
        TableRequest(seeds=seeds)


@pytest.mark.parametrize(
    ("scores", "name"),
    [
        ({"predicted": {"miou_best": float("nan")}}, "predicted.miou_best is nan"),
        ({"curve": [{"val": 0.5}, {"val": float("inf")}]}, "curve.1.val is inf"),
    ],
)
def test_a_score_that_is_no_number_is_named(scores: dict[str, Any], name: str) -> None:
    check_scores({"a": None, "b": [0.5, None], "c": {"d": 1}}, Path("run"))
    with pytest.raises(AttnBridgeError, match=f"run: the score {name}, no number"):
        check_scores(scores, Path("run"))


def test_weights_that_are_no_numbers_are_no_result(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of NaN answers with maps of NaN, which were counted as an ordinary mIoU."""

    def spoil(self: AttnBN) -> None:
        with torch.no_grad():
            next(self.network.parameters()).fill_(torch.nan)

    monkeypatch.setattr(AttnBN, "on_train_end", spoil, raising=False)
    assert main(["fit", "attnbn", *on_scenes()]) == 2
    assert "training diverged: network." in capsys.readouterr().err
    assert not (place / "runs/attnbn/run.json").exists()


def test_a_row_without_a_number_is_no_row_of_a_table(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of an earlier version may have one."""
    record = json.loads((run / "run.json").read_text())
    record["scores"]["predicted"]["miou_best"] = float("nan")
    (run / "run.json").write_text(json.dumps(record))
    (place / "out").mkdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    from attnbridge.experiments.benchmark import run_row
    from attnbridge.experiments.table_data import TableData

    paths = {name: config["data"][name] for name in ("source", "target", "saliency")}
    data = TableData(paths, "", {})
    request = TableRequest(overrides=tuple(on_scenes()[6:]))
    with pytest.raises(AttnBridgeError, match=r"run\.json: is not JSON: it holds NaN, which is no number"):
        run_row("attnbn", 0, run, data, place / "out", request)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A command that raises."""

    def command(error: BaseException) -> None:
        def fail(_: Any) -> int:
            raise error

        verb = cli.VERBS["list"]
        monkeypatch.setitem(cli.VERBS, "list", Verb(verb.name, verb.group, verb.help, verb.add, fail))

    return command


@pytest.mark.parametrize(
    ("error", "status", "names"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 1, ["runs/a: No space left", "make room"]),
        (OSError(errno.EACCES, "Permission denied", "runs/a"), 2, ["runs/a: Permission denied", "name a place"]),
        (OSError(errno.EROFS, "Read-only file system", "runs/a"), 2, ["runs/a: Read-only", "name a place"]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), 2, ["nnn...", "too long", "shorter"]),
        (MemoryError(), 1, ["too little memory", "data.batch_size"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, ["too little memory"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, ["too little memory"]),
        (RecursionError(), 2, ["nested too deeply"]),
    ],
    ids=lambda v: repr(v)[:50] if isinstance(v, Exception) else "",
)
def test_what_the_machine_lacks_is_one_line(
    error: Exception, status: int, names: list[str], raising: Any, tmp_path: Path, capsys: Any
) -> None:
    raising(error)
    refused(["list"], names, capsys, tmp_path, status)


def test_what_nobody_thought_of_calls_itself_so_and_keeps_a_log(
    raising: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    raising(KeyError("val\nue"))
    assert main(["list"]) == 70
    said = capsys.readouterr().err
    (log,) = tmp_path.glob("attnbridge-*.log")
    assert f"this is a bug of attnbridge: KeyError: 'val\\nue'; please report it with {log}\n" in said
    assert said.count("\n") == 1
    assert "Traceback" in log.read_text()
    assert "attnbridge list" in log.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert "no log could be written" in answer(KeyError(), [])[0]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """A write that fails knows no name."""
    with pytest.raises(OSError) as error, atomic_write(tmp_path / "a.json"):  # noqa: PT011
        raise OSError(errno.ENOSPC, "No space left on device")
    assert answer(error.value, [])[0].startswith(f"{tmp_path / 'a.json'}: No space left")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.hostile
@pytest.mark.parametrize("size", [200, 3_000, 200_000])
def test_a_run_that_finds_no_room_says_where(size: int, place: Path) -> None:
    """A limit of the size of files stands for a full disk."""
    code = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
        from attnbridge.cli import main
        sys.exit(main({["fit", "attnbn", *on_scenes()]!r}))
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"attnbridge: error: runs/attnbn\S*: File too large; make room", done.stderr)
    assert not (place / "runs").exists()


def test_a_user_callbacks_own_error_stays_its_own(place: Path) -> None:
    """And is not taken for Lightning's."""

    class Mine(Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            raise ValueError("of mine")

    with pytest.raises(ValueError, match="of mine"):
        fit(load_experiment("attnbn", on_scenes()), callbacks=[Mine()], out="run")
    assert not Path("run").exists()


def test_a_batch_that_the_second_network_cannot_fill_is_told_before_the_first_is_trained(
    place: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "second.yaml").write_text("base: segmentation/dsrg\ndata: {batch_size: 500}\n")
    words = ["pipeline", "--source", str(scenes / "source/train"), "--target", str(scenes / "target"), "--out", "out"]
    words += ["--saliency", str(scenes / "saliency/train"), "--target-saliency", "centre", *NETWORK]
    words += ["--segmentation", "second.yaml", "--model.frozen", "[]", "--model.layer", "null", "--data.views", "null"]
    refused(words, ["second.yaml: data.batch_size is 500", "only 32 images for training"], capsys, place)


def test_other_data_need_no_training_images(
    run: Path, scenes: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("val", "test"):
        shutil.copytree(scenes / "target" / split, place / "other" / split)
    assert main(["test", str(run), "--target", str(place / "other")]) == 0
    assert "mIoU" in capsys.readouterr().out


def test_an_output_folder_that_holds_the_images_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(place / "photos/a.png")
    words = ["saliency", "photos", "--model", "centre", "--out", "."]
    refused(words, ["the images of photos lie in it"], capsys, place)


def test_a_rule_that_raises_is_named(place: Path) -> None:
    maps, present = torch.rand(2, 4, 4), torch.tensor([True, True])
    with pytest.raises(AttnBridgeError, match=r"--rule math:sqrt: raised TypeError"):
        make_cue(maps, present, settings=CueSettings(rule="math:sqrt"))


def test_a_name_that_is_no_text_is_written_as_it_is(place: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write_rows(place / "a.csv", [[name]])
    assert (place / "a.csv").read_bytes() == b"caf\xe9.jpg\n"


def test_weights_without_names_are_none(place: Path) -> None:
    torch.save({1: torch.zeros(2)}, place / "w.pth")
    with pytest.raises(AttnBridgeError, match=r"w\.pth: cannot be read as weights .*its keys are no names"):
        load_tensors(place / "w.pth")


def test_no_folder_is_no_run() -> None:
    with pytest.raises(AttnBridgeError, match="the run's folder must be a path, not None"):
        load_run(None)  # type: ignore[arg-type]
