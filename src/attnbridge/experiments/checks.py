"""What can be found wrong with an experiment before anything is trained, the cheapest checks first. Free of torch."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnbridge.data.files import atomic_write, cache_dir
from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.experiments.config import Experiment, config_names, load_experiment
from attnbridge.methods import CUES, DOMAINS, SOURCE_TARGET, load_object


def check_experiment(experiment: Experiment, training: bool = True) -> None:
    """Look for the folders, list every split, open every image's header; look for the weight file.

    Args:
        experiment: whose names and values are checked already.
        training: whether it is to be trained; else what scoring alone needs is looked for.

    Raises:
        AttnBridgeError: for the first thing that training would stumble over.
    """
    if training and experiment.init_from in config_names():
        check_experiment(replace(load_experiment(str(experiment.init_from)), data=experiment.data))
    begin = experiment.option("model.weights") or "none"
    if training and begin not in ("imagenet", "none") and not Path(begin).is_file():
        raise AttnBridgeError(f"{begin}: no such weight file; give a state dict, `imagenet` or `none`")
    if training:
        _check_needs(experiment)
    load_object(experiment.entry.data.check)(training, **experiment.data)


def _check_needs(experiment: Experiment) -> None:
    """What the method's options ask of the data and of the machine."""
    for need in experiment.entry.needs:
        if experiment.option(f"model.{need.option}") and not experiment.data.get(need.data):
            how = "" if need.data != "source" else f", with --data.source FOLDER{_without_source(experiment)}"
            raise AttnBridgeError(
                f"data.{need.data} is not set, but model.{need.option} {need.why}{how}, or set model.{need.option} to 0"
            )
    for conflict in experiment.entry.conflicts:
        if experiment.option(f"model.{conflict.option}") and experiment.data.get(conflict.data):
            raise AttnBridgeError(
                f"{conflict.why}; leave data.{conflict.data} out, or set model.{conflict.option} to 0"
            )
    aligning = [option for option in experiment.entry.aligns if experiment.option(f"model.{option}")]
    if aligning and experiment.data.get("generalise") and len(experiment.data.get("sources") or ()) == 1:
        raise AttnBridgeError(
            f"data.generalise withholds the target, and there is one source alone, so model.{aligning[0]} has no two "
            "domains to align; name several data.sources, or set it to 0"
        )
    for option, module, extra in experiment.entry.packages:
        if experiment.option(f"model.{option}") and find_spec(module) is None:
            raise AttnBridgeError(f"model.{option} needs {module}: pip install 'attnbridge[{extra}]'")


def _without_source(experiment: Experiment) -> str:
    """The other options that would have to be 0 too."""
    asking = [n.option for n in experiment.entry.needs if n.data == "source"]
    others = [option for option in asking if experiment.option(f"model.{option}")][1:]
    return f" (as {' and '.join(f'model.{o}' for o in others)} {'do' if len(others) > 1 else 'does'})" if others else ""


def check_network(experiment: Experiment) -> None:
    """Check the names of the backbone, the layer and the frozen modules, without a trainer.

    Raises:
        AttnBridgeError: for a name that does not exist, with the nearest ones that do.
    """
    backbone, stride, layer, frozen = (
        experiment.option(f"model.{n}") for n in ("backbone", "stride", "layer", "frozen")
    )
    names = _layer_names(backbone, stride, experiment.option("data.image_size"), experiment.entry.data == CUES)
    for name in [*frozen, *([layer] if layer else [])]:
        if name not in names:
            raise unknown_name("layer", name, names)
    if experiment.entry.data in (SOURCE_TARGET, CUES, DOMAINS) and experiment.data.get("views") and not frozen:
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
    from attnbridge.models.backbones import layer_names

    names = layer_names(backbone, stride, image_size, dilated)
    with atomic_write(memory) as partial:
        partial.write_text(json.dumps(names))
    return names
