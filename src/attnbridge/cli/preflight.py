"""What can be found wrong with a configuration before anything is trained, the cheapest checks first."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnbridge.cli.schema import data_options, method_options, option_value
from attnbridge.data.cache import cache_dir, replacing
from attnbridge.data.cifar import NAMES as CIFAR
from attnbridge.data.cues import with_cues
from attnbridge.data.domain_folders import domain_classes, of_target, scan_domain
from attnbridge.data.folders import class_names, class_splits, has_split, pair_classes, scan_class_folders, scan_pair
from attnbridge.data.guidance import scan_guided
from attnbridge.data.pictures import Record, check_record
from attnbridge.data.saliency import check_model, is_model
from attnbridge.errors import AttnBridgeError, unknown
from attnbridge.methods import CUES, DATA, DOMAINS, PAIRED


def check_data(config: dict[str, Any], training: bool = True) -> None:
    """Look for the folders, list every split, open every picture's header; look for the weight file. Free of torch.

    Raises:
        AttnBridgeError: for the first thing that training would stumble over.
    """
    data, model = config.get("data") or {}, config.get("model") or {}
    begin = model.get("weights", "imagenet")
    if training and begin not in ("imagenet", "none") and not Path(begin).is_file():
        raise AttnBridgeError(f"{begin}: no such weight file; give a state dict, `imagenet` or `none`")
    if DATA[config["method"]] in PAIRED:
        found = _check_pair(config["method"], data if training else {**data, "saliency": None}, model, training)
        if DATA[config["method"]] == CUES and training:
            classes = pair_classes(Path(data["source"]) if data.get("source") else None, Path(data["target"]))
            for record in with_cues(found, Path(data["cues"]) if data.get("cues") else None, classes):
                check_record(record)
    elif DATA[config["method"]] == DOMAINS:
        _check_domains(data if training else {**data, "saliency": None}, model, training)
    else:
        _check_classes(data)


def _check_domains(data: dict[str, Any], model: dict[str, Any], training: bool) -> None:
    """A folder of domains with the same classes."""
    for name in ("data", "sources", "target"):
        if not data.get(name):
            raise AttnBridgeError(f"data.{name} is not set; see `attnbridge show adaptation`")
    if isinstance(data["sources"], str):
        raise AttnBridgeError(f'data.sources must be a list of names: "[{data["sources"]}]"')
    names = [str(name) for name in data["sources"]]
    aligns = [f"{n}_weight" for n in ("adversarial", "reversal", "coral", "mmd") if model.get(f"{n}_weight")]
    if data.get("generalise") and aligns and len(names) < 2:
        raise AttnBridgeError(
            f"data.generalise withholds the target, and there is one source alone, so model.{aligns[0]} has no two "
            "domains to align; name several data.sources, or set it to 0"
        )
    if {"coral_weight", "mmd_weight"} & set(aligns) and find_spec("skada") is None:
        raise AttnBridgeError("coral_weight and mmd_weight need skada: pip install 'attnbridge[domains]'")
    named = data.get("saliency")
    if named and named.endswith(".onnx"):
        check_model(named)
    if training and not named and model.get("attention_weight"):
        raise AttnBridgeError(
            "data.saliency is not set, but the attention constraint needs a saliency map of each source picture; name "
            "their folder, or a saliency model such as u2net, or set model.attention_weight to 0"
        )
    root, saliency = Path(data["data"]), Path(named) if named and not is_model(named) else None
    domains = [*names, str(data["target"])]
    classes = domain_classes(root, domains)
    for domain in domains:
        for record in scan_domain(root, domain, classes, saliency if domain in names else of_target(saliency, domain)):
            check_record(record)


def _check_classes(data: dict[str, Any]) -> None:
    """Pictures of one class each: CIFAR is fetched later, folders must be there."""
    if not data.get("data"):
        raise AttnBridgeError(
            "data.data is not set; name cifar10, cifar100, or a folder with train/CLASS/*.jpg and test/CLASS/*.jpg"
        )
    if data["data"] not in CIFAR:
        folder = Path(data["data"])
        classes = class_names(folder / "train")
        for place in class_splits(folder).values():
            for record in scan_class_folders(place, classes):
                check_record(record)


def _check_pair(method: str, data: dict[str, Any], model: dict[str, Any], training: bool) -> list[Record]:
    """Returns the target's training pictures."""
    known = method_options(method)
    weights = {n: option_value(model, known, f"{n}_weight") for n in ("source", "attention", "adversarial")}
    asks = "source" if DATA[method] == CUES else "attention"
    for name in ("source", "target"):
        if not data.get(name) and (name == "target" or any(weights.values())):
            without = "; without a source set model.source_weight to 0" if asks == "source" and name == asks else ""
            raise AttnBridgeError(
                f"data.{name} is not set; name the folder of the {name} domain in the configuration, or with "
                f"--data.{name} FOLDER{without}"
            )
    source, target = Path(data["source"]) if data.get("source") else None, Path(data["target"])
    named = data.get("saliency")
    if named and named.endswith(".onnx"):
        check_model(named)
    saliency = Path(named) if named and not is_model(named) else None  # a model's maps are yet to be made
    if training and not named and weights[asks]:
        raise AttnBridgeError(
            f"data.saliency is not set, but model.{asks}_weight needs a saliency map of each source picture; name "
            f"their folder, or a saliency model such as u2net, or set model.{asks}_weight to 0"
        )
    if data.get("views") and option_value(model, known, "mining_weight"):
        raise AttnBridgeError(
            "data.views keeps no pictures, but mining erases parts of them; leave data.views out, or set "
            "model.mining_weight to 0"
        )
    lists = data.get("lists")
    splits = ["train", *(split for split in ("val", "test") if has_split(target, split, lists))]
    if "test" in splits and "val" not in splits:
        raise AttnBridgeError(
            f"{target}: has a test split, but none for validation, by which a threshold is chosen; name part of it val"
        )
    if source:
        scan_pair(source, target, saliency, "source", lists)
    found = {split: scan_pair(source, target, saliency, split, lists) for split in splits}
    if data.get("guided"):
        scan_guided(source, target, data["guided"], data.get("guided_by", "masks"))
    elif model.get("guidance_weight"):
        raise AttnBridgeError(
            "data.guided is not set, but model.guidance_weight is; name the list or folder of the pictures whose masks "
            "(or boxes, or saliency maps: data.guided_by) may be used, or set model.guidance_weight to 0"
        )
    return found["train"]


def check_network(config: dict[str, Any]) -> None:
    """Check the names of the backbone, the layer and the frozen modules, without a trainer.

    Raises:
        AttnBridgeError: for a name that does not exist, with the nearest ones that do.
    """
    known, model = method_options(config["method"]), config.get("model") or {}
    backbone, stride, layer, frozen = (option_value(model, known, n) for n in ("backbone", "stride", "layer", "frozen"))
    image_size = option_value(config.get("data") or {}, data_options(config["method"]), "image_size")
    names = _layer_names(backbone, stride, image_size, DATA[config["method"]] == CUES)
    for name in [*frozen, *([layer] if layer else [])]:
        if name not in names:
            raise unknown("layer", name, names)
    if DATA[config["method"]] in (*PAIRED, DOMAINS) and (config.get("data") or {}).get("views") and not frozen:
        raise AttnBridgeError(
            "data.views needs model.frozen: the modules from the first one on that are not trained; or set it to null"
        )


def _layer_names(backbone: str, stride: int | None, image_size: Any, dilated: bool) -> list[str]:
    """A backbone's module names, remembered: importing timm takes seconds."""
    memory = cache_dir(
        "layers", f"timm-{version('timm')}", f"{backbone.replace('/', '_')}-{stride}{'-dilated' * dilated}.json"
    )
    if memory.is_file():
        remembered: list[str] = json.loads(memory.read_text())
        return remembered
    from attnbridge.attention.backbones import layer_names

    names = layer_names(backbone, stride, image_size, dilated)
    with replacing(memory) as partial:
        partial.write_text(json.dumps(names))
    return names


def run_folder(model: str) -> Path | None:
    """The folder of a run that ``model`` names, by itself or by its checkpoint; ``None`` for the name of a network.

    Raises:
        AttnBridgeError: for a path that is no run.
    """
    path = Path(model)
    folder = path.absolute().parents[1] if path.name == "last.ckpt" and path.is_file() else path
    if (folder / "config.yaml").is_file():
        return folder
    if len(path.parts) > 1 or path.suffix in (".ckpt", ".pth", ".pt", ".safetensors"):
        raise AttnBridgeError(
            f"{model}: is no run made by `attnbridge fit` (no {folder / 'config.yaml'}); for weights of a timm model "
            "write --model NAME --weights FILE"
        )
    return None


def report_skipped(messages: list[str]) -> int:
    """Print what could not be read; the exit status."""
    for message in messages:
        print(f"attnbridge: skipped: {message}")
    return 1 if messages else 0
