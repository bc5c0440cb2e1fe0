"""What is answered at once: help, names and values that are wrong, names that were others once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnbridge.cli import VERBS, help_text, main
from attnbridge.cli.common import GROUPS

CHILD = """
import sys
from attnbridge.cli import main

status = main(sys.argv[1:])
print("heavy:", *sorted({"torch", "lightning", "timm", "torchvision"} & set(sys.modules)))
sys.exit(status)
"""


def run(*words: str, cwd: Path | None = None) -> tuple[int, str, list[str]]:
    """Status and words of a command in a process of its own, and which of the heavy packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], cwd=cwd, capture_output=True, text=True, check=False, env=os.environ
    )
    said, _, heavy = done.stdout.rpartition("heavy:")
    return done.returncode, said + done.stderr, heavy.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fitt"], "unknown command 'fitt'; did you mean 'fit'?"),
        (["fit", "atnbn"], "unknown configuration 'atnbn'; did you mean 'attnbn' or"),
        (["fit", "mine.yaml"], "mine.yaml: no such configuration file"),
        (["fit", "attnbn", "--model.atention_weight", "3"], "did you mean 'attention_weight'"),
        (["fit", "attnbn", "--data.batchsize", "3"], "did you mean 'batch_size'"),
        (["fit", "attnbn", "--trainer.max_epoch", "3"], "did you mean 'max_epochs'"),
        (["fit", "attnbn", "--modl.lr", "3"], "did you mean 'model'"),
        (["fit", "attnbn", "--model.normalise", "mx"], "unknown value of model.normalise: 'mx'"),
        (["fit", "attnbn", "--model.lr", "fast"], "option model.lr must be float above 0, but is 'fast'"),
        (["fit", "attnbn", "--model.lr"], "option --model.lr lacks its value"),
        (["fit", "attnbn", "lr=3"], "unexpected argument 'lr=3'"),
        (["fit", "attnbn", "--evaluation.treshold", "0.5"], "did you mean 'threshold'"),
        (["fit", "attnbn", "--method", "atnbn"], "unknown method in"),
        (["fit", "attnbn", "--data.source", "nowhere"], "nowhere: no such folder"),
        (["fit", "fine_tuned", "--data.source", "null"], "data.source is not set"),
        (["show", "attnbm"], "did you mean 'attnbn'"),
        (["demo", "--quik"], "did you mean '--quick'"),
        (["--versoin"], "did you mean '--version'"),
        (["explain", "."], "the following arguments are required: --model"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_name_is_answered_before_torch_is_imported(words: list[str], message: str, tmp_path: Path) -> None:
    status, text, heavy = run(*words, cwd=tmp_path)
    assert (status, heavy) == (2, [])
    assert message in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.lr", "-1"], "option model.lr must be above 0, not -1"),
        (["--model.lr", ".nan"], "option model.lr must be above 0, not nan"),
        (["--model.lr", "nan"], "option model.lr must be float above 0, but is 'nan'"),
        (["--model.lr", "1e999"], "option model.lr must be above 0, not inf"),
        (["--data.image_size", "0"], "option data.image_size must be at least 8 and at most 8192, not 0"),
        (["--data.image_size", "100000"], "option data.image_size must be at least 8 and at most 8192, not 100000"),
        (["--data.image_size", "[0, 64]"], "option data.image_size must be at least 8 and at most 8192, not 0"),
        (["--data.batch_size", "0"], "option data.batch_size must be at least 1 and at most 65536, not 0"),
        (["--seed", "-1"], "option seed must be at least 0 and at most 4294967295, not -1"),
        (["--seed", str(2**70)], f"option seed must be at least 0 and at most 4294967295, not {2**70}"),
        (["--trainer.max_epochs", "0"], "option trainer.max_epochs must be at least 1, not 0"),
        (["--evaluation.threshold", "0.33"], "option evaluation.threshold must be one of 0.05, 0.1, 0.15, "),
        (["--evaluation.score_threshold", "0"], "option evaluation.score_threshold must be above 0 and below 1, not 0"),
        (["--evaluation.scales", "[]"], "option evaluation.scales must be one or more numbers above 0, not []"),
        (["--evaluation.scales", "[1, 0]"], "option evaluation.scales must be at least 0.1 and at most 8, not 0"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_value_out_of_its_range_is_answered_with_the_range(words: list[str], message: str, tmp_path: Path) -> None:
    """Before torch is imported, and before anything is written."""
    status, text, heavy = run("fit", "attnbn", "--out", "run", *words, cwd=tmp_path)
    assert (status, heavy) == (2, [])
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--seed", "-1"], "--seed must be at least 0"),
        (["search", "attnbn", "--model.lr", "-1"], "option model.lr must be above 0, not -1"),
        (["benchmark", "scenes", "--model.lr", "-1"], "option model.lr must be above 0, not -1"),
        (["benchmark", "scenes", "--seeds", "0", "-1"], "--seeds must be at least 0"),
        (["benchmark", "finetune", "--trials", "-1"], "--trials must be at least 0, not -1"),
        (["search", "finetune/l2", "--trials", "0"], "--trials must be at least 1, not 0"),
        (["pipeline", "--source", "s", "--target", "t", "--model.lr", "-1"], "option model.lr must be above 0, not -1"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_every_verb_that_trains_answers_so(words: list[str], message: str, tmp_path: Path) -> None:
    status, text, heavy = run(*words, "--out", "run", cwd=tmp_path)
    assert (status, heavy) == (2, [])
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "run", "images"], "'predict' is another one now: attnbridge explain IMAGES --model RUN"),
        (["init-config", "attnbn"], "'init-config' is another one now: attnbridge show NAME > mine.yaml"),
        (["fit", "after.yaml"], "after.yaml: the section `after` is called `init_from` now"),
        (["fit", "first.yaml"], "first.yaml: the section `first` is called `init_overrides` now"),
        (["fit", "fine_tuned", "--after", "attnbn"], "the section `after` is called `init_from` now"),
        (["fit", "fine_tuned", "--first.trainer.max_epochs", "2"], "`first` is called `init_overrides` now"),
        (["fit", "transfer.yaml"], "the method 'transfer' is called 'attention_transfer' now"),
        (["fit", "adaptation.yaml"], "the method 'adaptation' is called 'domain_adaptation' now"),
        (["fit", "attnbn", "--method", "transfer"], "the method 'transfer' is called 'attention_transfer' now"),
        (["show", "transfer"], "unknown name 'transfer'; did you mean 'attention_transfer'"),
        (["show", "adaptation"], "unknown name 'adaptation'; did you mean 'domain_adaptation'"),
        (["test", "old"], "config.yaml: the section `after` is called `init_from` now"),
        (["explain", "one.png", "--model", "old"], "config.yaml: the section `after` is called `init_from` now"),
        (["segment", "old", "one.png", "--out", "masks"], "config.yaml: the section `after` is called `init_from` now"),
        (["cues", "--checkpoint", "old", "--out", "cues"], "config.yaml: the section `after` is called `init_from`"),
        (["submit", "old", "kit", "--out", "results"], "config.yaml: the section `after` is called `init_from` now"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_name_that_was_another_once_is_answered_with_the_new_one(
    words: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "after.yaml").write_text("method: attnbn\nafter: source_guided\n")
    (tmp_path / "first.yaml").write_text("base: fine_tuned\nfirst: {trainer: {max_epochs: 2}}\n")
    (tmp_path / "transfer.yaml").write_text("method: transfer\n")
    (tmp_path / "adaptation.yaml").write_text("method: adaptation\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.yaml").write_text("method: attnbn\nafter: source_guided\ndata: {target: t}\n")
    (tmp_path / "one.png").write_bytes(b"an image")
    (tmp_path / "kit/ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "kit/ImageSets/Segmentation/test.txt").write_text("one\n")
    before = sorted(tmp_path.rglob("*"))
    status, text, heavy = run(*words, cwd=tmp_path)
    assert (status, heavy) == (2, [])
    assert message in text
    assert "Traceback" not in text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model.layer", "bn22", "unknown layer 'bn22'; did you mean 'bn2'"),
        ("model.frozen", "[blocks.0, block.1]", "unknown layer 'block.1'; did you mean 'blocks.1'"),
        ("model.backbone", "vgg116", "unknown backbone 'vgg116'; did you mean 'vgg16'"),
        ("model.stride", "3", "stride must be 8, 16 or 32, or null for the network's own, not 3"),
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("module_cache")
def test_a_wrong_part_of_the_network_is_answered_before_anything_is_made(
    option: str, value: str, message: str, tmp_path: Path
) -> None:
    run("benchmark", "scenes", "--model.layer", "none", cwd=tmp_path)  # the first time timm is asked for the names
    status, text, heavy = run("benchmark", "scenes", f"--{option}", value, cwd=tmp_path)
    assert (status, message in text, "Traceback" in text) == (2, True, False), text
    assert not list(tmp_path.iterdir())
    if option in ("model.layer", "model.frozen"):
        assert heavy == []


def test_wrong_data_is_answered_before_torch_is_imported(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "scenes")
    options = [
        *("--data.source", "scenes/source/train", "--data.target", "scenes/target"),
        *("--data.saliency", "scenes/saliency/train"),
    ]
    status, text, heavy = run("fit", "attnbn", *options, "--model.weights", "lost.pth", cwd=tmp_path)
    assert (status, "lost.pth: no such weight file" in text, heavy) == (2, True, [])
    (tmp_path / "scenes/target/val/images/00001.jpg").write_bytes(b"broken")
    status, text, heavy = run("fit", "attnbn", *options, cwd=tmp_path)
    assert (status, "00001.jpg: cannot be read as an image" in text, heavy) == (2, True, [])


def test_help_shows_what_a_person_wants_each_with_its_commands() -> None:
    status, text, heavy = run("--help")
    assert (status, heavy, text) == (0, [], help_text())
    parts = text.split("\n\n")
    for group, title in GROUPS.items():
        (part,) = [part for part in parts if part.startswith(f"{title}\n")]
        first, _, rare = part.partition("and also:")
        for verb in (verb for verb in VERBS.values() if verb.group == group):
            assert f"{verb.name}, {verb.help}" in rare if verb.rare else f"\n  {verb.name:<11}{verb.help}" in first
        assert len(part.splitlines()) == 1 + len([v for v in VERBS.values() if v.group == group and not v.rare]) + bool(
            rare
        )
    assert {verb.group for verb in VERBS.values()} == set(GROUPS)
    assert {"explain", "verify", "demo", "fit", "test", "search", "pipeline", "benchmark", "data", "list", "show"} < {
        *VERBS
    }


def test_nothing_asked_is_answered_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == help_text()


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_tells_its_arguments(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: attnbridge {verb}" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m attnbridge list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0\n")
    assert not done.stderr
