"""What can be found wrong with an experiment before anything is trained, the cheapest checks first. Free of torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnbridge.data.files import atomic_write, cache_dir
from attnbridge.data.text import read_cache
from attnbridge.errors import RANKS, AttnBridgeError, unknown_name
from attnbridge.experiments.config import Experiment, config_names, load_experiment
from attnbridge.experiments.runs import CONFIG, RECORD, Run
from attnbridge.methods import CUES, DOMAINS, SOURCE_TARGET, load_object
from attnbridge.models.names import check_folder, parse_name


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
    if training and begin not in ("imagenet", "none") and not Path(begin).exists():
        raise AttnBridgeError(f"{begin}: no such weight file; give a state dict, `imagenet` or `none`")
    if training:
        _check_needs(experiment)
    load_object(experiment.entry.data.check)(training, **experiment.data)


@contextmanager
def own_paths_told(run: Run, experiment: Experiment) -> Iterator[None]:
    """Inside, an error for data that is not there says it where the path is the run's own, and relative.

    Args:
        run: whose configuration names the data.
        experiment: the run's own, or on other data.
    """
    try:
        yield
    except AttnBridgeError as error:
        own = run.config.data if run.begun else {}
        lost = [name for name, path in own.items() if experiment.data.get(name) == path and _is_lost(path, str(error))]
        if not lost:
            raise
        name, trained = lost[0], (read_cache(run.folder / RECORD, dict) or {}).get("folder")
        target = name == experiment.entry.data.own_path and run.done
        words = (
            f"data.{name} is the run's own, of {run.folder / CONFIG}, relative to the folder in which it was trained"
        )
        if trained is not None:
            words += f", {trained}"
        what = f"run this command there{', or name other data with --target FOLDER' if target else ''}"
        raise AttnBridgeError(f"{error}; {words}: {what}") from None


def _is_lost(path: Any, message: str) -> bool:
    """Whether a message is of a relative path that leads nowhere."""
    if not isinstance(path, str) or Path(path).is_absolute() or Path(path).exists():
        return False
    lacks = any(words in message for words in ("no such", "has no "))
    return lacks and message.startswith((f"{path}:", f"{path}/"))


def check_named_runs(experiment: Experiment, trust: bool = False) -> None:
    """Look at the runs that an experiment begins with or learns from.

    Args:
        experiment: that may name the folders of runs.
        trust: whether their configurations may name classes.

    Raises:
        AttnBridgeError: for a run whose configuration cannot be read, or names a class and is not trusted.
    """
    for name in (experiment.init_from, experiment.teacher):
        if name and Run(name).done:
            Run(name, trust=trust).check()


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


def check_environment() -> None:
    """Check that what Lightning reads as a process's number is one.

    Raises:
        AttnBridgeError: naming the variable.
    """
    for name in RANKS:
        text = os.environ.get(name, "0")
        if not text.isdecimal():
            raise AttnBridgeError(f"the environment has {name}={text!r}, which is no number; unset {name}")


def check_processes(wanted: int, nodes: int = 1) -> None:
    """Check that the environment and the options say the same of how many processes there are.

    Args:
        wanted: how many the options ask for.
        nodes: on how many machines.

    Raises:
        AttnBridgeError: where a process would take itself for one of several, or wait for others that never come.
    """
    found = {name: os.environ[name] for name in RANKS if os.environ.get(name, "0") != "0"}
    if os.environ.get("WORLD_SIZE", "1") != "1":
        found["WORLD_SIZE"] = os.environ["WORLD_SIZE"]
    if wanted == 1 and found:
        words = ", ".join(f"{name}={value}" for name, value in found.items())
        raise AttnBridgeError(
            f"the environment has {words}, as of one of several processes, but trainer.devices asks for one; unset "
            f"{' and '.join(found)}, or set trainer.devices"
        )
    if nodes > 1 and not {"MASTER_ADDR", "SLURM_NTASKS"} & set(os.environ):
        raise AttnBridgeError(
            f"trainer.num_nodes is {nodes}, but the environment does not say where the others are (MASTER_ADDR, as "
            "torchrun sets it, or SLURM's variables); start it by one of these, or leave num_nodes out"
        )
    if wanted > 1 and "LOCAL_RANK" in os.environ and "MASTER_PORT" not in os.environ:
        raise AttnBridgeError(
            f"the environment has LOCAL_RANK={os.environ['LOCAL_RANK']}, so another program has to start the {wanted} "
            "processes, but no MASTER_PORT by which they find each other; unset LOCAL_RANK, or set both"
        )


def check_network(experiment: Experiment) -> None:
    """Check the names of the backbone, the layer and the frozen modules, without a trainer.

    Raises:
        AttnBridgeError: for a name that does not exist, with the nearest ones that do.
    """
    backbone, stride, layer, head, frozen = (
        experiment.option(f"model.{n}") for n in ("backbone", "stride", "layer", "head", "frozen")
    )
    names = _layer_names(backbone, stride, experiment.option("data.image_size"), experiment.entry.data == CUES)
    for name in [*frozen, *([layer] if layer else [])]:
        if name not in names:
            raise unknown_name("layer", name, names)
    if head and head not in names:
        raise unknown_name("head", head, names)
    if experiment.entry.data in (SOURCE_TARGET, CUES, DOMAINS) and experiment.data.get("views") and not frozen:
        raise AttnBridgeError(
            "data.views needs model.frozen: the modules from the first one on that are not trained; or set it to null"
        )


def _layer_names(backbone: str, stride: int | None, image_size: Any, dilated: bool) -> list[str]:
    """A backbone's module names, remembered if a library has it: importing timm takes seconds."""
    parsed = parse_name(backbone)
    check_folder(parsed)
    library = parsed.library if parsed.library in ("timm", "torchvision") else None
    memory = cache_dir(
        "layers",
        f"{library}-{version(library or 'timm')}",
        f"{str(backbone).replace('/', '_')}-{stride}{'-dilated' * dilated}.json",
    )
    remembered = read_cache(memory, list) if library else None
    if remembered and all(isinstance(name, str) for name in remembered):
        return remembered
    from attnbridge.models.backbones import layer_names

    names = layer_names(backbone, stride, image_size, dilated)
    if library is None:
        return names
    with atomic_write(memory) as partial:
        partial.write_text(json.dumps(names))
    return names
