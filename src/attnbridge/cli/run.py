"""One run: a configuration becomes a folder with weights, scores, pictures and a report."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from attnbridge.cli.callbacks import AtomicCheckpointIO, LastCheckpoint, MetricsTable
from attnbridge.cli.config import load_config
from attnbridge.cli.schema import method_options, option_value
from attnbridge.cli.tasks import task_of
from attnbridge.data.cache import replacing
from attnbridge.data.loaders import PictureData
from attnbridge.data.transforms import Shape
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.record import run_record, write_json
from attnbridge.methods import DATA, PAIRED, load_data, load_method
from attnbridge.methods.base import Method

Config = dict[str, Any]
TAUGHT = ("transfer", "distillation", "hint", "gradient")
"""The losses that need a teacher."""
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # no hints on hardware and add-ons


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.image_size", "model.image_size")


def build(config: Config) -> tuple[Method, PictureData, L.Trainer]:
    """Method, data and trainer of a configuration; types are checked against the signatures.

    Args:
        config: checked by :func:`attnbridge.cli.config.load_config`.

    Raises:
        AttnBridgeError: for a value that does not fit its type, or anything the parts refuse.
    """
    defaults = {"source": None} if DATA[config["method"]] in PAIRED else {}
    trainer: Config = {"use_distributed_sampler": False, "enable_model_summary": False, "logger": False}
    # `train` saves after each epoch; callbacks of the user's may save what they like
    trainer["enable_checkpointing"] = bool((config.get("trainer") or {}).get("callbacks"))
    try:
        cli = _CLI(
            load_method(config["method"]),
            load_data(config["method"]),
            run=False,
            save_config_callback=None,
            seed_everything_default=config.get("seed", 0),
            trainer_defaults=trainer,
            parser_kwargs={"exit_on_error": False},
            args={
                "model": config.get("model") or {},
                "data": {**defaults, "seed": config.get("seed", 0), **(config.get("data") or {})},
                "trainer": config.get("trainer") or {},
            },
        )
    except ArgumentError as error:
        raise AttnBridgeError(f"the configuration is not valid: {error}") from None
    return cli.model, cli.datamodule, cli.trainer


def train(config: Config, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train and evaluate; returns the content of ``run.json``.

    Args:
        config: checked by :func:`attnbridge.cli.config.load_config`.
        folder: the run's folder; must not hold another run, unless it is to be resumed.
        resume: go on from ``checkpoints/last.ckpt``, if there is one.

    Raises:
        AttnBridgeError: if the folder holds a run already, or the configuration or data are not valid.
    """
    main = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if main and (folder / "config.yaml").exists() and not resume:
        raise AttnBridgeError(f"{folder}: holds a run already; name another folder, or add --resume")
    if resume and (folder / "config.yaml").is_file():
        check_same(yaml.safe_load((folder / "config.yaml").read_text()), config, folder)
    keep_freed_memory()
    method, data, trainer = build(_with_teacher(config, folder, resume))
    before = 0.0
    if config.get("after"):
        first = _first_stage(config, folder, resume)
        _start_from(method, first / "checkpoints" / "last.ckpt")
        before = json.loads((first / "run.json").read_text())["seconds"]
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "config.yaml") as partial:
            partial.write_text(yaml.safe_dump(config, sort_keys=False))
    task = task_of(config, data)
    checkpoint, timer = folder / "checkpoints" / "last.ckpt", Timer()
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    own = [MetricsTable(folder / "metrics.csv"), timer, LastCheckpoint(checkpoint)]
    trainer.callbacks += [*task.callbacks(method, folder), *own]  # type: ignore[attr-defined]
    start = time.perf_counter()
    try:
        trainer.fit(method, data, ckpt_path=str(checkpoint) if resume and checkpoint.is_file() else None)
    except SystemExit:  # Lightning's answer to an interrupt, after it has cleaned up
        raise KeyboardInterrupt from None
    seconds = before + time.perf_counter() - start + _earlier(timer)
    result = task.evaluate(method, trainer)
    content = {
        "name": config.get("name", config["method"]),
        "seed": config.get("seed", 0),
        "seconds": round(seconds, 1),
        "scores": result,
        "classes": list(method.classes),
        "protocol": task.protocol(),
        **run_record(),
    }
    if main:
        task.save_examples(method, folder)
        write_json(folder / "run.json", content)
    return content


def load_run(folder: Path) -> tuple[Config, Method]:
    """The configuration and the trained method of a run's folder.

    Raises:
        AttnBridgeError: if it is no run, or has no checkpoint.
    """
    path, checkpoint = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    for needed in (path, checkpoint):
        if not needed.is_file():
            raise AttnBridgeError(f"{needed}: no such file; expected the folder of a run made by `attnbridge fit`")
    try:
        config: Config = yaml.safe_load(path.read_text())
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        wanted = config["method"], state["classes"], state["image_size"], state["state_dict"]
    except Exception as error:  # YAML's, pickle's and zip's errors have no common class
        words = f"{type(error).__name__} {error}".splitlines()[0]
        raise AttnBridgeError(f"{folder}: its configuration or checkpoint cannot be read ({words})") from None
    name, classes, image_size, weights = wanted
    kind = load_method(name)
    method: Method = kind(classes, image_size=image_size, **kind.to_use(config.get("model") or {}))
    own = set(method.state_dict())
    method.load_state_dict({k: v for k, v in weights.items() if k in own or not k.startswith(kind.only_training)})
    return config, method.eval()


def shape_of(config: Config) -> Shape:
    """In which shape a run's network is given its pictures."""
    shape: Shape = (config.get("data") or {}).get("shape", "stretch")
    return shape


def check_same(before: Config, now: Config, folder: Path) -> None:
    """A run goes on with the configuration that it began with; the schedule depends on it.

    Raises:
        AttnBridgeError: naming the first option that differs.
    """
    for section in sorted({*before, *now}):
        old, new = before.get(section), now.get(section)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(n for n in [*old, *new] if old.get(n) != new.get(n))
            section, old, new = f"{section}.{name}", old.get(name), new.get(name)
        raise AttnBridgeError(
            f"{folder}: was begun with {section} = {old!r}, not {new!r}; go on with its own configuration "
            f"({folder / 'config.yaml'}), name another folder, or remove this one"
        )


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks: it gives large ones back at once, and PyTorch asks for them at each step.

    On two cores a step of AttnBN takes four fifths of the time at 128 pixels, less than half at 240 x 160; other C
    libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _done_or(named: Path, own: Path) -> Path:
    """The run that is named, if it is one; else where one is to be trained."""
    return named if (named / "run.json").is_file() else own


def _earlier(timer: Timer) -> float:
    """Seconds of training before a run was resumed.

    >>> timer = Timer()
    >>> timer.load_state_dict({"time_elapsed": {"train": 5.0}})
    >>> _earlier(timer)
    5.0
    """
    start, end = timer.start_time("train"), timer.end_time("train")
    return timer.time_elapsed("train") - (end - start if start and end else 0)


def _first_stage(config: Config, folder: Path, resume: bool) -> Path:
    """Train the configuration that this one comes after, in ``folder/first``, unless it is done; that run's folder."""
    first = _done_or(Path(config["after"]), folder / "first")
    if not (first / "run.json").is_file():
        earlier = load_config(config["after"])
        earlier |= {
            "data": config["data"],
            "seed": config.get("seed", 0),
            "trainer": config.get("trainer") or {},
        }
        earlier["model"] = {**(earlier.get("model") or {}), **_shared(config)}
        for section, own in (config.get("first") or {}).items():
            earlier[section] = {**(earlier.get(section) or {}), **own}
        train(earlier, first, resume=resume or first.exists())
    return first


def _with_teacher(config: Config, folder: Path, resume: bool) -> Config:
    """The configuration with the teacher that it names, which is trained in ``folder/teacher`` unless it is done."""
    model = config.get("model") or {}
    if not config.get("teacher") or not any(model.get(f"{loss}_weight") for loss in TAUGHT):
        return config
    run = _done_or(Path(config["teacher"]), folder / "teacher")
    whole = (run / "run.json").is_file()
    known = yaml.safe_load((run / "config.yaml").read_text()) if whole else load_config(config["teacher"])
    if known["method"] != config["method"]:
        raise AttnBridgeError(f"{config['teacher']}: was trained by {known['method']}, not by {config['method']}")
    its = known.get("model") or {}
    backbone = option_value(its, method_options(known["method"]), "backbone")
    taught = {**model, "teacher": backbone, "teacher_stride": its.get("stride")}
    own = build({**config, "model": {**taught, "teacher_weights": "none"}})[1].classes  # what is wrong is told first
    if not whole:
        trainer = {**(known.get("trainer") or {}), **(config.get("trainer") or {})}
        known |= {"data": config["data"], "seed": config.get("seed", 0), "trainer": trainer}
        train(known, run, resume=resume or run.exists())
    checkpoint = run / "checkpoints" / "last.ckpt"
    classes = json.loads((run / "run.json").read_text())["classes"]
    if own != classes:
        raise AttnBridgeError(
            f"{run}: the teacher knows {', '.join(classes)}, in this order, but the data has {', '.join(own)}"
        )
    return {**config, "model": {**taught, "teacher_weights": str(checkpoint)}}


def _shared(config: Config) -> Config:
    """What both stages' models have in common, see :meth:`~attnbridge.methods.base.Method.staged`."""
    staged = load_method(config["method"]).staged
    return {name: value for name, value in (config.get("model") or {}).items() if not staged(name)}


def _start_from(method: Method, checkpoint: Path) -> None:
    found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = {k: v for k, v in found["state_dict"].items() if not k.startswith(method.only_training)}
    own = {k: v for k, v in method.state_dict().items() if not k.startswith(method.only_training)}
    if tuple(found["classes"]) != method.classes or {k: v.shape for k, v in state.items()} != {
        k: v.shape for k, v in own.items()
    }:
        raise AttnBridgeError(
            f"{checkpoint.parents[1]}: the run that this one comes after has another network or other classes "
            f"({', '.join(found['classes'][:5])}, ...); give both the same model.backbone and data"
        )
    method.load_state_dict(state, strict=False)
    method.begun()
