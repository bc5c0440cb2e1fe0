"""What is answered at once: help, lists, and every name that is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnbridge.cli import main
from attnbridge.cli.config import config_names, config_path, load_config
from attnbridge.cli.preflight import check_data
from attnbridge.cli.schema import data_options, method_options, trainer_options
from attnbridge.errors import AttnBridgeError
from attnbridge.methods import METHODS


def run(*words: str, cwd: Path | None = None) -> tuple[int, str, float]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from attnbridge.cli import main; sys.exit(main())", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, time.perf_counter() - start


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
        (["fit", "attnbn", "--model.lr", "fast"], "option model.lr must be float, but is 'fast'"),
        (["fit", "attnbn", "--model.lr"], "option --model.lr lacks its value"),
        (["fit", "attnbn", "lr=3"], "unexpected argument 'lr=3'"),
        (["fit", "attnbn", "--evaluation.treshold", "0.5"], "did you mean 'threshold'"),
        (["fit", "attnbn", "--method", "atnbn"], "unknown method in"),
        (["fit", "attnbn", "--data.source", "nowhere"], "nowhere: no such folder"),
        (["fit", "fine_tuned", "--data.source", "null"], "data.source is not set"),
        (["show", "attnbm"], "did you mean 'attnbn'"),
        (["demo", "--quik"], "did you mean '--quick'"),
        (["--versoin"], "did you mean '--version'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_name_is_answered_before_torch_is_imported(words: list[str], message: str) -> None:
    status, text, seconds = run(*words)
    assert status == 2
    assert message in text
    assert "Traceback" not in text
    assert seconds < 3


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model.layer", "bn22", "unknown layer 'bn22'; did you mean 'bn2'"),
        ("model.frozen", "[blocks.0, block.1]", "unknown layer 'block.1'; did you mean 'blocks.1'"),
        ("model.backbone", "vgg116", "unknown backbone 'vgg116'; did you mean 'vgg16'"),
        ("model.stride", "3", "stride must be 8, 16 or 32, or null for the network's own, not 3"),
    ],
)
def test_a_wrong_part_of_the_network_is_answered_before_anything_is_made(option: str, value: str, message: str) -> None:
    run("benchmark", "scenes", "--model.layer", "none")  # the first time timm is asked for the names
    status, text, seconds = run("benchmark", "scenes", f"--{option}", value)
    assert (status, message in text, "Traceback" in text) == (2, True, False), text
    if option in ("model.layer", "model.frozen"):
        assert seconds < 3


def test_wrong_data_is_answered_before_torch_is_imported(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "scenes")
    options = [
        *("--data.source", "scenes/source/train", "--data.target", "scenes/target"),
        *("--data.saliency", "scenes/saliency/train"),
    ]
    status, text, _ = run("fit", "attnbn", *options, "--model.weights", "lost.pth", cwd=tmp_path)
    assert (status, "lost.pth: no such weight file" in text) == (2, True)
    (tmp_path / "scenes/target/val/images/00001.jpg").write_bytes(b"broken")
    status, text, seconds = run("fit", "attnbn", *options, cwd=tmp_path)
    assert (status, "00001.jpg: cannot be read as a picture" in text) == (2, True)
    assert seconds < 3
    data = {"source": str(scenes / "source/train"), "target": str(scenes / "target")}
    with pytest.raises(AttnBridgeError, match=r"data.source is not set"):
        check_data({"method": "attnbn", "data": {"target": data["target"]}})
    with pytest.raises(AttnBridgeError, match=r"data.saliency is not set"):
        check_data({"method": "attnbn", "data": data})
    with pytest.raises(AttnBridgeError, match=r"data.views keeps no pictures, but mining erases parts of them"):
        check_data({"method": "gain", "data": {**data, "views": 2}})


def test_help_and_lists_are_quick(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, seconds = run("--help")
    assert (status, seconds < 3) == (0, True)
    assert all(verb in text for verb in ("demo", "fit", "test", "predict", "benchmark", "list", "show"))
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*METHODS, *config_names()])
    assert main([]) == 0


def test_show_tells_every_option_with_its_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "attnbn"]) == 0
    text = capsys.readouterr().out
    assert "--model.attention_weight: float = 40.0" in text
    for method in METHODS:
        for name, option in {**method_options(method), **data_options(method)}.items():
            assert option.doc, f"{name} of {method} is not documented"
    assert "max_epochs" in trainer_options()


def test_init_config_prints_a_configuration_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in config_names():
        assert main(["init-config", name]) == 0
        path = tmp_path / f"{name.replace('/', '_')}.yaml"
        path.write_text(capsys.readouterr().out)
        assert len(config_path(name).read_text().splitlines()) <= 20
        assert load_config(str(path)) == load_config(name)


def test_yaml_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: [")
    with pytest.raises(AttnBridgeError, match=r"a\.yaml: is not YAML"):
        load_config(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("- 1")
    with pytest.raises(AttnBridgeError, match=r"expected sections such as `model:`, found list"):
        load_config(str(tmp_path / "b.yaml"))
    (tmp_path / "c.yaml").write_text("method: attnbn\nmodel: 3")
    with pytest.raises(AttnBridgeError, match="model must hold options"):
        load_config(str(tmp_path / "c.yaml"))


def test_overrides_are_yaml_values() -> None:
    config = load_config("attnbn", ["--model.lr", "1e-4", "--model.frozen=[layer1]", "--seed", "7"])
    assert config["model"]["lr"] == 1e-4
    assert config["model"]["frozen"] == ["layer1"]
    assert config["seed"] == 7


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m attnbridge list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0\n")
    assert not done.stderr


def test_guidance_without_masks_is_named_before_training(scenes: Path) -> None:
    data = {"source": str(scenes / "source/train"), "target": str(scenes / "target")}
    config = {"method": "gain", "data": data, "model": {"attention_weight": 0, "guidance_weight": 10.0}}
    with pytest.raises(AttnBridgeError, match=r"data\.guided is not set, but model\.guidance_weight is"):
        check_data(config)
    with pytest.raises(AttnBridgeError, match="no such file"):
        check_data({**config, "data": {**data, "guided": "nowhere"}})
