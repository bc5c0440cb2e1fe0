"""``attnbridge explain`` of texts, of an output by name, of a function's scores; ``explain`` of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from attnbridge import explain
from attnbridge.cli import main
from attnbridge.data import Preparation, preparation_of
from attnbridge.errors import AttnBridgeError

WORDS = ["[PAD]", "[UNK]", "[EOS]", "a", "boat", "water", "photo", "of"]
MODULE = """
import torch
from torch import nn

class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, images):
        logits = self.head(self.act(self.conv(images)).mean((2, 3)))
        return {"embedding": images, "scores": logits}

def make():
    return Packed()

def first_two(answer):
    return answer["scores"][:, :2] - answer["scores"][:, 2:]

value = 3
"""
PREPARED = ["--size", "32", "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "packed_networks.py").write_text(MODULE)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["CLIP", "Siglip"])
def image_text(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any, Any]:
    """The folder of a small network of images and texts, it, and its tokenizer."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    plain.post_processor = tokenizers.processors.TemplateProcessing("$A [EOS]", special_tokens=[("[EOS]", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]",
        model_input_names=["input_ids", "attention_mask"] if request.param == "CLIP" else ["input_ids"],
    )  # fmt: skip
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 8, "projection_dim": 16, "eos_token_id": 2}
    vision = {**small, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    name = request.param
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision)
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}Model")(config).eval()
    folder = tmp_path / "model"
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size=32).save_pretrained(folder)
    return folder, network, tokenizer


def test_texts_take_the_place_of_classes(image_text: tuple[Path, Any, Any], images: Path, tmp_path: Path) -> None:
    folder, network, tokenizer = image_text
    out, texts = tmp_path / "maps", ["a boat", "water"]
    words = ["--model", f"hf/{folder}", "--text", *texts, "--top", "2"]
    assert main(["explain", str(images), *words, "--out", str(out)]) == 0
    assert {path.name for path in out.glob("0*.png")} == {"0.png.a_boat.png", "0.png.water.png"}
    header, *lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert header["class_names"] == texts
    tokens = dict(tokenizer(texts, padding="max_length", max_length=8, return_tensors="pt"))
    prepared = torch.cat([stretched(images / f"{i}.png", preparation_of(network) or fallback(folder)) for i in (0, 1)])
    with torch.no_grad():
        logits = network(**tokens, pixel_values=prepared).logits_per_image
    expected = logits.softmax(1) if "CLIP" in type(network).__name__ else logits.sigmoid()
    found = torch.tensor([[c["score"] for c in sorted(line["classes"], key=lambda c: c["index"])] for line in lines])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def fallback(folder: Path) -> Preparation:
    from attnbridge.data.preparation import processor_preparation

    found = processor_preparation(folder)
    assert found is not None
    return found


def stretched(path: Path, how: Preparation) -> torch.Tensor:
    """As ``attnbridge explain`` brings an image to a network's size: without a crop."""
    from attnbridge.data.transforms import eval_transform

    image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    floats = eval_transform(how.size, "stretch")(image)[None].float() / 255
    return (floats - torch.tensor(how.mean).view(3, 1, 1)) / torch.tensor(how.std).view(3, 1, 1)


def test_an_output_by_name_and_scores_of_a_function(own_module: Path, images: Path) -> None:
    words = ["explain", str(images), "--model", "packed_networks:make", *PREPARED]
    assert main([*words, "--output", "scores", "--classes", "2", "--out", "named"]) == 0
    assert main([*words, "--output", "1", "--classes", "2", "--out", "counted"]) == 0
    assert main([*words, "--target", "packed_networks:first_two", "--top", "2", "--out", "own"]) == 0
    named, counted, own = (np.load(f"{folder}/0.png.npz") for folder in ("named", "counted", "own"))
    assert named["scores"].shape == (4,)
    assert named["scores"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(named["maps"], counted["maps"])
    assert own["scores"].shape == (2,)
    assert own["maps"].shape[0] == 2
    logits = np.log(named["scores"])
    np.testing.assert_allclose(own["scores"], logits[:2] - logits[2:], atol=1e-4)  # raw, no probabilities


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "must be logits of shape (batch, classes), but is a dict of embedding (a tensor"),
        (["--output", "score"], "unknown output 'score'; did you mean 'scores'"),
        (["--output", "7"], "output 7: the network's answer is a dict of"),
        (["--target", "packed_networks:first"], "the module has no 'first'; did you mean 'first_two'"),
        (["--target", "first_two"], "'first_two' names no function of a module; write package.module:function"),
        (
            ["--target", "packed_networks:value"],
            "--target packed_networks:value: must be a function from the network's",
        ),
        (["--text", "a boat"], "packed_networks:make: texts belong to a network of images and texts, hf/FOLDER or"),
        (["--text", "a boat", "--output", "scores"], "texts belong to a network of images and texts"),
    ],
)
def test_wrong_scores_are_named_and_nothing_is_written(
    own_module: Path, images: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ["explain", str(images), "--model", "packed_networks:make", *PREPARED, *words, "--out", "maps"]
    assert main(made) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (own_module / "maps").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", " "], "--text: is ' '; give a name or a value, or leave it out"),
        (["--text", "a boat", "--output", "logits"], "--text and --output both say what the classes are"),
        (["--text", "a boat", "--weights", "x.pth"], "x.pth: no such weight file"),
    ],
)
def test_wrong_texts_are_named(
    image_text: tuple[Path, Any, Any], images: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(images), "--model", f"hf/{image_text[0]}", *words]) == 2
    assert message in capsys.readouterr().err


def test_files_and_images_are_prepared_as_the_network_says(images: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=4).eval()
    how = preparation_of(network)
    assert how is not None
    opened = [Image.open(images / f"{i}.png") for i in (0, 1)]
    batch = torch.cat([how.prepare(image) for image in opened])
    expected = explain(network, batch, 2)
    torch.testing.assert_close(explain(network, opened, 2), expected)  # PIL's
    torch.testing.assert_close(explain(network, [images / "0.png", str(images / "1.png")], 2), expected)
    torch.testing.assert_close(explain(network, images / "1.png", 2), expected[1:])
    other = Preparation(64, (0.0,) * 3, (1.0,) * 3)
    assert explain(network, opened[0], 2, preparation=other).shape == (1, 1, 2, 2)


def test_where_nothing_says_how_images_are_prepared_it_is_asked(images: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(AttnBridgeError, match=r"nothing says how the model wants them; give size, mean and std"):
        explain(network, images / "0.png")
    with pytest.raises(AttnBridgeError, match="preparation is for files and PIL images"):
        explain(network, torch.rand(1, 3, 8, 8), preparation=Preparation(8, (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(AttnBridgeError, match=r"none\.png"):
        explain(network, "none.png", preparation=Preparation(8, (0.0,) * 3, (1.0,) * 3))
