"""Training: an experiment becomes a run, a folder with weights, scores, images and a page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from torch import nn

from attnbridge.data.files import named
from attnbridge.data.modules.base import ImageDataModule
from attnbridge.data.out_folders import check_out, owned
from attnbridge.data.provenance import OwnFiles
from attnbridge.errors import AttnBridgeError, DivergedError, shown
from attnbridge.evaluation.record import RunRecord, check_scores, run_record, working_folder, write_json
from attnbridge.evaluation.source_attention import CHANNELS, IMAGE
from attnbridge.evaluation.tasks.base import EXAMPLES, VALIDATION
from attnbridge.experiments.building import build, invalid
from attnbridge.experiments.callbacks import AtomicCheckpointIO, LastCheckpoint, MetricsTable
from attnbridge.experiments.checks import check_experiment, check_named_runs, check_network, check_processes
from attnbridge.experiments.config import Experiment, load_experiment
from attnbridge.experiments.process import interrupts, is_main_process, untouched
from attnbridge.experiments.runs import CHECKPOINT, CONFIG, NETWORK, NETWORK_FILES, RECORD, REPORT, Run
from attnbridge.experiments.user_data import data_module_of
from attnbridge.experiments.written_config import check_list, take_config, write_config, write_network
from attnbridge.methods import load_method, load_object
from attnbridge.methods.base import Method, read_checkpoint

METRICS = "metrics.csv"
WRITTEN = (CONFIG, NETWORK, METRICS, VALIDATION, "attention", "checkpoints")
"""What a run writes while it trains."""
RESUMED = ("epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "callbacks", "random_state")
"""What a checkpoint holds beside the method."""
OUTPUTS = (
    RECORD,
    REPORT,
    CHECKPOINT,
    METRICS,
    EXAMPLES,
    IMAGE,
    CHANNELS,
    *(f"{NETWORK}/{name}" for name in NETWORK_FILES),
)
"""What a run writes beside its configuration and its folder of images, ``attention``."""


def fit(
    experiment: Experiment | Path | str,
    *,
    data: Any = None,
    out: Path | str | None = None,
    network: nn.Module | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Any = None,
    resume: bool = False,
    trust: bool = False,
    **changes: Any,
) -> Run:
    """Train, score and report an experiment; what it needs first, an earlier stage or a teacher, is trained first.

    Args:
        experiment: one, or its name: a configuration of the package, or a YAML file.
        data: what it is trained on, if the experiment does not say it: a folder, options of the data module by name, a
            data module, or ``{"train": {STREAM: loader}, "val": loader, "test": loader, "classes": [...], "image_size":
            224}`` with loaders of :class:`~attnbridge.data.sample.Batch`.
        out: the run's folder; default: ``runs/NAME``.
        network: a network of one's own in the place of ``model.backbone``: from images to logits ``(B, N)``.
        callbacks: of Lightning, beside those that score and save.
        logger: of Lightning; ``metrics.csv`` is written anyhow.
        resume: go on with what is in ``out``, from the last whole epoch.
        trust: whether runs that ``init_from`` and ``teacher`` name may name classes, whose code may run.
        changes: other values of the experiment: ``seed=1``, ``model={"lr": 1e-3}``, ``trainer={"max_epochs": 2}``.

    Returns:
        The finished run.

    Raises:
        AttnBridgeError: for anything that is not as it must be, before anything is written; if ``out`` holds a run
            already; or if training diverges.

    >>> run = fit("attnbn", data="images", model={"lr": -1})
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: option model.lr must be above 0, not -1
    """
    _check_parts(experiment, out, network, callbacks, logger, resume)
    known = experiment if isinstance(experiment, Experiment) else load_experiment(str(experiment))
    sections = {name: value for name, value in changes.items() if isinstance(value, dict)}
    plain = {name: value for name, value in changes.items() if name not in sections}
    known = Experiment.from_mapping({**known.to_mapping(), **plain}).with_options(**sections)
    known, module = data_module_of(known, data)
    folder = check_out(out) if out is not None else Path("runs") / Path(known.name).stem
    check_named_runs(known, trust)
    if module is None:
        check_experiment(known)
    if network is None:
        check_network(known)
    parts: dict[str, Any] = {"module": module, "network": network, "callbacks": callbacks, "logger": logger}
    return run_checked(known, folder, resume=resume, **parts)


def _check_parts(
    experiment: object, out: object, network: object, callbacks: object, logger: object, resume: object
) -> None:
    """The arguments of :func:`fit` that no configuration holds.

    Raises:
        AttnBridgeError: naming the first that is something else.
    """
    if not isinstance(experiment, Experiment | Path | str):
        raise AttnBridgeError(f"experiment must be an Experiment, or the name of one, not {shown(experiment)}")
    if not isinstance(out, Path | str | None) or not str(out):
        raise AttnBridgeError(f"out must be the path of a folder, or None for runs/NAME, not {out!r}")
    if not isinstance(network, nn.Module | None):
        raise AttnBridgeError(f"network must be a torch.nn.Module, not {shown(network)}")
    if not isinstance(callbacks, list | tuple) or not all(isinstance(each, Callback) for each in callbacks):
        raise AttnBridgeError(f"callbacks must be a list of Lightning's Callbacks, not {shown(callbacks)}")
    loggers = logger if isinstance(logger, list | tuple) else [logger]
    if not all(isinstance(each, Logger | bool | None) for each in loggers):
        raise AttnBridgeError(f"logger must be a Logger of Lightning's, or several, not {shown(logger)}")
    if not isinstance(resume, bool):
        raise AttnBridgeError(f"resume must be True or False, not {shown(resume)}")


def run_checked(experiment: Experiment, folder: Path, **parts: Any) -> Run:
    """Train, score and report an experiment that was checked; the process is afterwards as it was.

    Args:
        experiment: what is trained.
        folder: the run's folder.
        parts: of :func:`train`.
    """
    run = Run(folder, trust=True)
    with owned(folder, CONFIG):
        with untouched():
            train(experiment, folder, **parts)
        if is_main_process():
            run.write_report()
    return run


def train(
    experiment: Experiment,
    folder: Path,
    *,
    module: ImageDataModule | None = None,
    network: nn.Module | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Any = None,
    resume: bool = False,
) -> RunRecord:
    """Train and score a checked experiment; returns what ``run.json`` holds. See :func:`fit`.

    Raises:
        AttnBridgeError: if the folder holds a run already, or files of the user's, or the parts refuse a value.
    """
    parts: dict[str, Any] = {"module": module, "network": network, "callbacks": callbacks, "logger": logger}
    with owned(folder, CONFIG) as own:
        _check_folder(experiment, own, resume)
        if experiment.init_from and network is None:
            _check_start(*build(experiment, **parts))  # wrong is told before the first stage is trained
        return _train(experiment, own, resume, **parts)


def _train(experiment: Experiment, own: OwnFiles, resume: bool, **parts: Any) -> RunRecord:
    folder = own.folder
    ready, earlier = _prerequisites(experiment, folder, resume)
    method, data, trainer = build(ready, **parts)
    _check_start(method, data, trainer)
    if earlier is not None:
        _start_from(method, earlier)
    task = load_object(experiment.entry.task).of(data, experiment.evaluation)
    run, timer = Run(folder), Timer()
    saves = [MetricsTable(folder / METRICS), timer, LastCheckpoint(run.checkpoint)]
    trainer.strategy.checkpoint_io = AtomicCheckpointIO(own)
    checkpoint = _resumed(run) if resume else None
    start = time.perf_counter()
    with named(folder), _undone(run) if is_main_process() else nullcontext():
        if is_main_process():
            write_config(experiment, own)
            if not method.own_network:
                write_network(experiment.option("model.backbone"), own)
        trainer.callbacks += [*task.callbacks(method, folder), *saves]  # type: ignore[attr-defined]
        _fit(trainer, method, data, checkpoint)
        if not trainer.global_step:
            raise AttnBridgeError(f"{folder}: not a single step was trained; raise trainer.max_time, or leave it out")
    _check_weights(method, folder)
    before = earlier.record["seconds"] if earlier else 0.0
    seconds = before + time.perf_counter() - start + _earlier(timer)
    with interrupts():
        scores = task.evaluate(method, trainer)
    check_scores(scores, folder)
    content: RunRecord = {
        "name": experiment.name,
        "method": experiment.method,
        "task": task.reference(),
        "seed": experiment.seed,
        "seconds": round(seconds, 1),
        "scores": scores,
        "classes": list(method.classes),
        "protocol": task.protocol(),
        "evaluation": task.evaluation(),
        "folder": working_folder(),
        **run_record(),  # type: ignore[typeddict-item]
    }
    if is_main_process():
        with named(folder):
            task.save_examples(method, folder)
        write_json(folder / RECORD, content)
    return content


def _check_start(method: Method, data: ImageDataModule, trainer: L.Trainer) -> None:
    """What Lightning would find once it trains.

    Raises:
        AttnBridgeError: for a number of processes that is not the environment's, an end that never comes, or a batch
            larger than the data.
    """
    check_processes(trainer.world_size, trainer.num_nodes)
    if trainer.max_epochs in (None, -1) and trainer.max_steps in (None, -1):
        raise AttnBridgeError("trainer.max_epochs is not set, nor trainer.max_steps; say how long to train")
    data.check_batch(data.training_length(), trainer.world_size)


@contextmanager
def _undone(run: Run) -> Iterator[None]:
    """What a start that failed before its first whole epoch wrote is taken away: nothing is in the way of the next."""
    folder = run.folder
    there = {path for name in WRITTEN for path in [folder / name, *(folder / name).rglob("*")] if path.exists()}
    try:
        yield
    except Exception:
        if not run.checkpoint.is_file():
            for path in (path for name in WRITTEN for path in [*(folder / name).rglob("*"), folder / name]):
                if path.is_file() and path not in there:
                    path.unlink()
            for path in (folder / name for name in WRITTEN):
                if path.is_dir() and path not in there and not any(path.iterdir()):
                    path.rmdir()
        raise


def _check_weights(method: Method, folder: Path) -> None:
    """Weights that are no numbers are no result, whatever scores they give.

    Raises:
        DivergedError: naming the first of them.
    """
    for name, value in method.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DivergedError(f"{folder}: training diverged: {name} is no longer finite; lower model.lr")


def check_same(before: Experiment, now: Experiment, folder: Path) -> None:
    """A run goes on with the experiment that it began with; the schedule depends on it.

    Raises:
        AttnBridgeError: naming the first option that differs.
    """
    difference = before.difference(now)
    if difference is not None:
        name, old, new = difference
        raise AttnBridgeError(
            f"{folder}: was begun with {name} = {old!r}, not {new!r}; go on with its own configuration "
            f"({folder / CONFIG}), name another folder, or remove this one"
        )


def _check_folder(experiment: Experiment, own: OwnFiles, resume: bool) -> None:
    """That a folder holds nothing of another run's, nor of the user's, under the names that are written."""
    folder, run = own.folder, Run(own.folder)
    if not is_main_process():
        return
    if resume:
        check_list(run)
    outputs = [folder / name for name in OUTPUTS]
    own.check([folder / CONFIG, folder / VALIDATION])
    own.check_unchanged([folder / VALIDATION])
    if not run.begun:
        left = [path for path in [*outputs, folder / "attention"] if _is_there(path)]
        if left:
            raise AttnBridgeError(
                f"{left[0]}: is there, but no {CONFIG} that it belongs to; move it away, or name another folder with "
                "--out"
            )
        return
    if not resume:
        raise AttnBridgeError(f"{folder}: holds a run already; name another folder, or add --resume")
    take_config(own)
    # how it is scored may change
    check_same(replace(Run(folder, trust=True).config, evaluation=experiment.evaluation), experiment, folder)
    outputs += (folder / "attention").glob("epoch_*.png")
    own.check(outputs)
    own.check_unchanged(outputs)


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir()))


def _resumed(run: Run) -> str | None:
    """The checkpoint to go on with, if there is one: of a whole epoch, and nothing in it would be run."""
    if not os.path.lexists(run.checkpoint):
        return None
    found = read_checkpoint(run.checkpoint)
    lacking = [name for name in RESUMED if name not in found]
    if lacking:
        raise AttnBridgeError(f"{run.checkpoint}: lacks {lacking[0]!r}, so training cannot go on; remove it")
    return str(run.checkpoint)


def _fit(trainer: L.Trainer, method: Method, data: ImageDataModule, checkpoint: str | None) -> None:
    try:
        with interrupts():
            trainer.fit(method, data, ckpt_path=checkpoint, weights_only=True)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        if not _is_lightnings(error):
            raise
        raise invalid("trainer", error, {}) from None


def _is_lightnings(error: Exception) -> bool:
    """Whether it was Lightning itself that refused, and not what it runs."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals.get("__name__", "") if place else ""
    return isinstance(error, MisconfigurationException) or module.startswith("lightning.")


def _earlier(timer: Timer) -> float:
    """Seconds of training before a run was resumed.

    >>> timer = Timer()
    >>> timer.load_state_dict({"time_elapsed": {"train": 5.0}})
    >>> _earlier(timer)
    5.0
    """
    start, end = timer.start_time("train"), timer.end_time("train")
    return timer.time_elapsed("train") - (end - start if start and end else 0)


def _prerequisites(experiment: Experiment, folder: Path, resume: bool) -> tuple[Experiment, Run | None]:
    """The experiment with its teacher's weights, and the run that it begins with; both are trained unless they are
    done."""
    ready = _with_teacher(experiment, folder, resume)
    return ready, _first_stage(experiment, folder, resume) if experiment.init_from else None


def _done_or(named: str, own: Path) -> Run:
    """The run that is named, if it is one; else the one that is to be trained. Named ones were looked at before."""
    return Run(named if Run(named).done else own, trust=True)


def _first_stage(experiment: Experiment, folder: Path, resume: bool) -> Run:
    """The run of the experiment that this one begins with."""
    first = _done_or(str(experiment.init_from), folder / "first")
    if first.folder != folder / "first":
        return first
    earlier = load_experiment(str(experiment.init_from))
    kind = load_method(experiment.method)
    shared = {name: value for name, value in experiment.model.items() if not kind.is_stage_specific(name)}
    earlier = replace(earlier, data=experiment.data, seed=experiment.seed, trainer=experiment.trainer)
    earlier = earlier.with_options(model=shared).with_options(**experiment.init_overrides)
    _train_unless_done(first, earlier, resume)
    return first


def _train_unless_done(run: Run, experiment: Experiment, resume: bool) -> None:
    """Train a stage of a run; one that is done has to be of the same experiment."""
    if run.done:
        check_same(run.config, experiment, run.folder)
    else:
        train(experiment, run.folder, resume=resume or run.folder.exists())


def _with_teacher(experiment: Experiment, folder: Path, resume: bool) -> Experiment:
    """The experiment with the teacher that it names."""
    kind = load_method(experiment.method)
    if not experiment.teacher or not any(experiment.model.get(option) for option in kind.taught_options):
        return experiment
    run = _done_or(experiment.teacher, folder / "teacher")
    known = run.config if run.done else load_experiment(experiment.teacher)
    if known.method != experiment.method:
        raise AttnBridgeError(f"{experiment.teacher}: was trained by {known.method}, not by {experiment.method}")
    taught = {"teacher": known.option("model.backbone"), "teacher_stride": known.model.get("stride")}
    own = build(experiment.with_options(model={**taught, "teacher_weights": "none"}))[1].classes  # wrong is told first
    if run.folder == folder / "teacher":
        fresh = load_experiment(experiment.teacher)
        trainer = {**fresh.trainer, **experiment.trainer}
        _train_unless_done(run, replace(fresh, data=experiment.data, seed=experiment.seed, trainer=trainer), resume)
        run = Run(run.folder, trust=True)
    if own != run.record["classes"]:
        raise AttnBridgeError(
            f"{run.folder}: the teacher knows {', '.join(run.record['classes'])}, in this order, but the data has "
            f"{', '.join(own)}"
        )
    return experiment.with_options(model={**taught, "teacher_weights": str(run.checkpoint)})


def _start_from(method: Method, earlier: Run) -> None:
    """Begin with the weights of an earlier stage."""
    found = read_checkpoint(earlier.checkpoint)
    prefixes = method.training_only_prefixes
    state = {k: v for k, v in found["state_dict"].items() if not k.startswith(prefixes)}
    own = {k: v for k, v in method.state_dict().items() if not k.startswith(prefixes)}
    classes = earlier.record["classes"]
    if tuple(classes) != method.classes or {k: v.shape for k, v in state.items()} != {
        k: v.shape for k, v in own.items()
    }:
        raise AttnBridgeError(
            f"{earlier.folder}: the run that this one comes after has another network or other classes "
            f"({', '.join(classes[:5])}, ...); give both the same model.backbone and data"
        )
    method.load_state_dict(state, strict=False)
    method.on_weights_loaded()
