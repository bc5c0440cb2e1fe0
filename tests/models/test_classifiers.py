"""Classifiers by name: files that hold no weights, weights that do not fit, classes that are not known."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from attnbridge.errors import AttnBridgeError
from attnbridge.models.classifiers import find_classes, load_classifier


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_hold_no_weights_are_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(AttnBridgeError, match=rf"w\{suffix}: cannot be read as weights"):
        load_classifier("resnet10t", str(path))


def test_a_tensor_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "t.pth")
    with pytest.raises(AttnBridgeError, match=r"t\.pth: holds no state dict"):
        load_classifier("resnet10t", str(tmp_path / "t.pth"))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    weights = tmp_path / "small.pth"
    torch.save(timm.create_model("resnet10t", num_classes=5).state_dict(), weights)
    with pytest.raises(AttnBridgeError, match=r"small\.pth: does not fit 'resnet18'"):
        load_classifier("resnet18", str(weights))
    with pytest.raises(AttnBridgeError, match=r"small\.pth: holds no classifier\.weight"):
        load_classifier("efficientnet_b0", str(weights))
    with pytest.raises(AttnBridgeError, match="'crane' is the name of 0 and 1; give the number"):
        find_classes(["crane"], ("crane", "crane"))
    with pytest.raises(AttnBridgeError, match="did you mean 'tabby'"):
        find_classes(["taby"], ("tabby, tabby cat", "dog"))
