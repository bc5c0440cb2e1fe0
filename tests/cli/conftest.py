"""A run of the README's configuration, made small, that the commands are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.cli import main

README = Path(__file__).parents[2] / "README.md"
SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.lr", "0.001"),
    *("--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "0"),
    *("--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(scope="session")
def run_folder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's configuration on the user's own two folders, made small by overrides."""
    base = tmp_path_factory.mktemp("user")
    text = README.read_text().split("```yaml\n")[1].split("```")[0]
    assert len(text.splitlines()) <= 20
    (base / "mine.yaml").write_text(text)
    for name, part in (("source", "source/train"), ("saliency", "saliency/train"), ("target", "target")):
        (base / name).symlink_to(scenes / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setenv("ATTNBRIDGE_CACHE", str(base / "cache"))
        assert main(["fit", "mine.yaml", "--out", str(base / "run"), *SMALL]) == 0
    return base / "run"
