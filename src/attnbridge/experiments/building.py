"""Method, data and trainer of an experiment, their options brought to the types of the signatures."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import CPUAccelerator
from torch import nn

from attnbridge.data.modules.base import ImageDataModule
from attnbridge.errors import AttnBridgeError, shown
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.options import data_arguments, data_options, method_options, trainer_options
from attnbridge.methods import load_data, load_method
from attnbridge.methods.base import Method


def build(
    experiment: Experiment,
    *,
    module: ImageDataModule | None = None,
    network: nn.Module | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Any = None,
) -> tuple[Method, ImageDataModule, L.Trainer]:
    """Method, data and trainer of an experiment; types are checked against the signatures.

    Raises:
        AttnBridgeError: for a value that does not fit its type, or anything the parts refuse.
    """
    L.seed_everything(experiment.seed, workers=True, verbose=False)
    data = build_data(experiment) if module is None else module
    facts = {name: value for name, value in data.facts().items() if name in data_arguments(experiment.method)}
    own = {"network": network} if network is not None else {}
    kind = load_method(experiment.method)
    method: Method = kind(**parsed(kind, "model", experiment), **facts, **own)
    data.request = method.data_request()
    return method, data, build_trainer(experiment, callbacks, logger)


def build_data(experiment: Experiment) -> ImageDataModule:
    """The data module of an experiment."""
    kind = load_data(experiment.method)
    found: ImageDataModule = kind(**parsed(kind, "data", experiment))
    return found


def build_trainer(experiment: Experiment, callbacks: Sequence[Callback] = (), logger: Any = None) -> L.Trainer:
    """Lightning's trainer; its own callbacks and loggers may be named by ``class_path``."""
    given = dict(experiment.trainer)
    if re.search(r"spawn|fork|notebook", str(given.get("strategy", ""))):
        raise AttnBridgeError(
            f"trainer.strategy cannot be {given['strategy']!r}: its processes are copies of this one, and what is "
            "written is not theirs; take ddp"
        )
    plain = {"use_distributed_sampler": False, "enable_model_summary": False, "logger": False}
    # a run is saved after each epoch; callbacks of the user's may save what they like
    saves = bool(given.get("callbacks")) or any("Checkpoint" in type(c).__name__ for c in callbacks)
    options = {**plain, "enable_checkpointing": saves, **given}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False, fail_untyped=False)
    try:
        known = parser.instantiate(parser.parse_object({"trainer": options})).trainer.as_dict()
        known["callbacks"] = [*(known.get("callbacks") or []), *callbacks]
        trainer = L.Trainer(**known | ({"logger": logger} if logger is not None else {}))
    except AttnBridgeError:
        raise
    except Exception as error:  # Lightning's refusals have no common class
        raise invalid("trainer", error, given) from None
    cores = os.cpu_count() or 1
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        raise AttnBridgeError(
            f"trainer.devices is {trainer.num_devices}, but there are {cores} cores; each device of a CPU is a process"
        )
    return trainer


def parsed(kind: Any, section: str, experiment: Experiment) -> dict[str, Any]:
    """The options of a section, brought to the types that a class wants.

    Raises:
        AttnBridgeError: for a value that does not fit.
    """
    given = dict(getattr(experiment, section))
    if section == "data":
        given = {"seed": experiment.seed, **given}
    parser = ArgumentParser(exit_on_error=False)
    skipped = data_arguments(experiment.method) if section == "model" else set()
    options = method_options(experiment.method) if section == "model" else data_options(experiment.method)
    required = {name for name, option in options.items() if option.default is None}
    parser.add_class_arguments(kind, section, instantiate=False, fail_untyped=False, skip=skipped)
    try:
        known = parser.parse_object({section: {**dict.fromkeys(required), **given}})[section].as_dict()
    except (ArgumentError, TypeError) as error:
        raise invalid(section, error, given) from None
    return {name: known[name] for name in known if name in given or name in required}


def invalid(section: str, error: Exception, given: Mapping[str, Any]) -> AttnBridgeError:
    """The error for what jsonargparse or Lightning refuses, as one line that names the option."""
    words = " ".join(str(error).split())
    named = re.search(rf'Parser key "{section}\.(\w+)', words)
    why = re.search(r"(Problem with given class_path .*?|Import path .*?)(?= - |$| Given value)", words)
    if named is None:
        return AttnBridgeError(f"the configuration is not valid: {section}: {shortened_text(why[1] if why else words)}")
    name = named[1]
    known = trainer_options() if section == "trainer" else {}
    reason = why[1] if why else f"expected {known[name].annotation}" if name in known else words
    return AttnBridgeError(
        f"the configuration is not valid: {section}.{name} cannot be {shown(given.get(name))}: {shortened_text(reason)}"
    )


def shortened_text(words: str, most: int = 300) -> str:
    """Words as a message shows them."""
    return words if len(words) <= most else f"{words[:most]}..."
