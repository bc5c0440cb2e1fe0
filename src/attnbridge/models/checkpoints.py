"""Weights in the forms that people save them: which part of a file is the network, and under which names."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from attnbridge.data.text import read_object
from attnbridge.errors import AttnBridgeError

State = dict[str, Tensor]
PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""Where checkpoints keep the weights, the usual first."""
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
"""Where they keep averages of the weights over training."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before names."""
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Classifiers of torchvision's GoogLeNet and Inception that only training has."""
NESTED = 4
"""Dictionaries that a state dict may lie inside."""
DEPTH = 4
"""Parts of a name that may lie before the network's own."""
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights in a Hugging Face folder, the first that is there."""
ASK = (
    "it has no module to look into; give the module (--model package.module:function), or its state dict, "
    "torch.save(network.state_dict(), FILE)"
)


def find_state(found: Any, depth: int = NESTED) -> tuple[State, str] | None:
    """The state dict in what a file holds.

    Args:
        found: a state dict, or a dictionary with one in it, alone or beside other things.
        depth: how many dictionaries it may lie inside; a file may hold one that lies inside itself.

    Returns:
        It, and the keys that lead to it, joined by dots; ``None`` if there is none. Averages of the weights are taken
        where there is nothing else.

    >>> import torch
    >>> find_state({"epoch": 3, "model_ema": {}, "model": {"state_dict": {"fc.bias": torch.zeros(1)}}})
    ({'fc.bias': tensor([0.])}, 'model.state_dict')
    """
    if not isinstance(found, dict) or depth < 0:
        return None
    if found and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        return found, ""
    for key in (*PLAIN, *AVERAGED):
        inner = find_state(found.get(key), depth - 1)
        if inner is not None:
            return inner[0], f"{key}.{inner[1]}".rstrip(".")
    return None


def is_average(place: str) -> bool:
    """Whether what :func:`find_state` found there is an average over training.

    >>> is_average("ema.model"), is_average("model.state_dict"), is_average("lemma")
    (True, False, False)
    """
    return any(part in AVERAGED for part in place.split("."))


def under_names(state: State, own: Collection[str], path: Path) -> State:
    """A state dict under a network's names: what lies before them is taken off, and what is not the network's, dropped.

    Args:
        state: as the file has it, say with Lightning's ``model.`` before all names, beside those of a loss.
        own: the network's names; none: they are not known, so ``module.`` and ``_orig_mod.`` alone are taken off.
        path: of the file, for messages.

    Raises:
        AttnBridgeError: if the network lies there several times, say as teacher and student.
    """
    bare = {_unwrapped(name): value for name, value in state.items()}
    if not own:
        return bare
    prefix = _prefix(bare, own, path)
    found = {name.removeprefix(prefix): value for name, value in bare.items() if name.startswith(prefix)}
    spare = () if any(name.startswith(AUXILIARY) for name in own) else AUXILIARY
    # what torch.optim.swa_utils keeps beside the weights
    return {n: v for n, v in found.items() if not n.startswith(spare) and (n != "n_averaged" or n in own)}


def _unwrapped(name: str) -> str:
    name = name.replace("_orig_mod.", "")
    while name.startswith(WRAPPERS[0]):
        name = name.removeprefix(WRAPPERS[0])
    return name


def _prefix(state: State, own: Collection[str], path: Path) -> str:
    """What lies before most of the network's names; nothing, if that is not more than half of them."""
    names, counts = set(own), Counter[str]()
    for name in state:
        parts = name.split(".")
        for depth in range(min(DEPTH, len(parts) - 1) + 1):
            if ".".join(parts[depth:]) in names:
                counts["".join(f"{part}." for part in parts[:depth])] += 1
    most = max(counts.values(), default=0)
    if most * 2 <= len(names) or counts[""] == most:
        return ""
    best = [prefix for prefix, count in counts.items() if count == most]
    plain = [prefix for prefix in best if "ema" not in prefix.rstrip(".").replace(".", "_").split("_")] or best
    if len(plain) > 1:
        raise AttnBridgeError(
            f"{path}: holds the network {len(plain)} times, under {' and '.join(sorted(plain))}; save the state dict "
            "of one alone"
        )
    return plain[0]


def weight_files(path: Path) -> list[Path]:
    """The files of weights: a file itself; of a Hugging Face folder the file in it, or the parts that an index names.

    Raises:
        AttnBridgeError: if there are none.
    """
    if not path.is_dir():
        if not path.is_file():
            raise AttnBridgeError(f"{path}: no such weight file; give a state dict (.pth, .safetensors)")
        return [path]
    first = next((path / name for name in FILES if (path / name).is_file()), None)
    if first is None:
        raise AttnBridgeError(
            f"{path}: no such weight file, but a folder without {FILES[0]} and {FILES[2]}; give a state dict"
        )
    if first.suffix != ".json":
        return [first]
    parts = read_object(first).get("weight_map")
    if not isinstance(parts, Mapping) or not parts or not all(isinstance(part, str) for part in parts.values()):
        raise AttnBridgeError(f"{first}: expected a weight_map from names to files; fetch it again")
    files = [path / Path(part).name for part in sorted(set(parts.values()))]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise AttnBridgeError(f"{missing}: there is no such file, but {first.name} names it; fetch it again")
    return files


def check_is_no_graph(path: Path) -> None:
    """Raise for a network that was saved as a graph: ONNX, TorchScript, ``torch.export``."""
    kind = _graph(path)
    if kind:
        raise AttnBridgeError(f"{path}: is {kind}; {ASK}")


def _graph(path: Path) -> str | None:
    if path.suffix.lower() == ".onnx":
        return "an ONNX graph"
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as packed:
                names = ["/".join(name.split("/")[1:]) for name in packed.namelist()]
                names += packed.namelist()
        except (OSError, zipfile.BadZipFile):  # what reads it says what is wrong
            return None
        if "constants.pkl" in names:
            return "a TorchScript archive"
        if "archive_format" in names or "serialized_exported_program.json" in names:
            return "an archive of torch.export"
        return None
    with path.open("rb") as handle:
        start = handle.read(64)
    return "an ONNX graph" if start[:1] == b"\x08" and b"\x12\x07pytorch" in start else None
