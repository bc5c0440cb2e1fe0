"""Methods: one paper, one file. The table is plain, so that looking a name up imports nothing heavy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from attnbridge.errors import unknown

METHODS: dict[str, tuple[str, str]] = {
    "attnbn": ("attnbridge.methods.attnbn", "AttnBN"),
    "gain": ("attnbridge.methods.gain", "Gain"),
    "transfer": ("attnbridge.methods.attention_transfer", "AttentionTransfer"),
    "fine_tuning": ("attnbridge.methods.fine_tuning", "FineTuning"),
    "segmentation": ("attnbridge.methods.segmentation", "Segmentation"),
    "adaptation": ("attnbridge.methods.domain_adaptation", "DomainAdaptation"),
}
"""Name of a method, as configurations write it, to module and class."""
BRIDGE = ("attnbridge.data.module", "BridgeData")
CUES = ("attnbridge.data.cue_data", "CueData")
DOMAINS = ("attnbridge.data.domains", "DomainData")
PAIRED = (BRIDGE, CUES)
"""Those with a target, and a source or none; the others have class folders."""
DATA: dict[str, tuple[str, str]] = {
    "attnbn": BRIDGE,
    "gain": BRIDGE,
    "transfer": ("attnbridge.data.classes", "ClassData"),
    "fine_tuning": ("attnbridge.data.classes", "ClassData"),
    "segmentation": CUES,
    "adaptation": DOMAINS,
}
"""Name of a method to the data module that it learns from."""


def load_method(name: str) -> Any:
    """The class of a method.

    Raises:
        AttnBridgeError: for a name that is not in :data:`METHODS`.

    >>> load_method("attnbn").__name__
    'AttnBN'
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    module, attribute = METHODS[name]
    return getattr(import_module(module), attribute)


def load_data(name: str) -> Any:
    """The class of a method's data module.

    >>> load_data("attnbn").__name__
    'BridgeData'
    """
    module, attribute = DATA[name]
    return getattr(import_module(module), attribute)
