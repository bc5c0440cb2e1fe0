"""Networks of images and texts, as CLIP and SigLIP: texts take the place of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from attnbridge.attention.answers import is_image_text
from attnbridge.attention.targets import SimilarityTarget, text_target
from attnbridge.bounds import check_names
from attnbridge.errors import AttnBridgeError
from attnbridge.models.libraries import hub_folder, in_transformers, says_preparation
from attnbridge.models.names import check_texts, parse_name


def load_image_text(name: str, texts: Sequence[str]) -> tuple[nn.Module, SimilarityTarget]:
    """A network of a Hugging Face folder that compares images with texts, and its scores of some texts.

    Args:
        name: ``hf/FOLDER``, with the network and its tokenizer; ``hf-hub:OWNER/NAME``, the same from the hub.
        texts: what the classes are called, as "a photo of a boat".

    Returns:
        The network, and the target that gives the similarity of an image with each text.

    Raises:
        AttnBridgeError: for another kind of name, no texts, or a folder without such a network or a tokenizer.
    """
    check_texts(name, check_names("texts", texts))
    parsed = parse_name(name)
    parsed = hub_folder(parsed, weights=True) if parsed.library == "hub" else parsed
    with in_transformers(parsed) as transformers:
        where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        network = transformers.AutoModel.from_pretrained(parsed.folder, dtype=torch.float32, **where).eval()
        if not is_image_text(network):
            raise AttnBridgeError(f"{name}: is a {type(network).__name__}, which compares no images with texts")
        tokenizer = transformers.AutoTokenizer.from_pretrained(parsed.folder, **where)
    length = network.config.text_config.max_position_embeddings
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    known = {key: value for key, value in tokens.items() if key in tokenizer.model_input_names}
    return says_preparation(network, parsed), text_target(network, known)
