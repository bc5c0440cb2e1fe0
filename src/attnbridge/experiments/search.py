"""Search for the values of a few options, by the accuracy on validation images, with Optuna."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from attnbridge.errors import AttnBridgeError, DivergedError
from attnbridge.evaluation.record import write_json
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.fit import train, untouched
from attnbridge.experiments.runs import Run
from attnbridge.methods import CUES, SOURCE_TARGET

RECORD = "search.json"
SPREAD = (0.5, 0.25, 0.75, 0.0, 1.0)
"""Where in the range of a single option the first trials lie."""


def search(experiment: Experiment, out: Path, trials: int) -> Experiment:
    """Train an experiment ``trials`` times, each with other values of the options that its ``search`` names.

    Of one option, the first five values are the middle, the quarters and the ends of its range in logarithms, so that
    every method has the same chance; what follows, and several options, Optuna's TPE proposes. All trials have one
    seed and one validation split, and no test image chooses anything. A search that was interrupted goes on: trials
    that are done are not trained again. ``out`` holds the trials' runs, ``search.json``, ``search.png`` and
    ``best.yaml``, ready for ``attnbridge fit``.

    Args:
        experiment: with ``search: {model: {OPTION: [LOW, HIGH]}}``.
        out: folder of the search.
        trials: how many in all.

    Returns:
        The experiment with the best values, without its ``search``.

    Raises:
        AttnBridgeError: if Optuna is not installed, nothing is searched, ``out`` holds another search, there are no
            validation images, or several processes are asked for.
    """
    if experiment.entry.data in (SOURCE_TARGET, CUES):
        raise AttnBridgeError(f"{experiment.method} has no accuracy to search by; methods of class folders have")
    devices = experiment.trainer.get("devices", 1)
    if devices != 1 and not (isinstance(devices, list) and len(devices) == 1):
        raise AttnBridgeError(f"a search runs in one process: trainer.devices must be 1, not {devices}")
    experiment = experiment.with_options(trainer={"devices": devices})
    space = search_space(experiment)
    if not space:
        raise AttnBridgeError(
            "nothing is searched: name options and bounds, --search.model.alignment_weight '[0.001, 1]'"
        )
    study = _study(experiment, out)
    while len(done := [t for t in study.trials if t.state.is_finished()]) < trials:
        begun = [t for t in study.trials if not t.state.is_finished() and t.params]
        trial = begun[0] if begun else _proposed(study, space)
        print(f"trial {len(done) + 1} of {trials}: {_words(trial.params)}")
        try:
            value = _accuracy(experiment, trial.params, out / f"trial-{trial.number}")
        except DivergedError as error:
            print(f"counts as 0: {error}")
            value = 0.0
        study.tell(trial.number, value)
    found = [{"number": t.number, "options": t.params, "val_top1": t.value} for t in done[:trials]]
    best = max(found, key=lambda trial: trial["val_top1"])
    write_json(out / RECORD, {"trials": found, "best": best})
    _figure(found).savefig(out / "search.png", dpi=120)
    tuned = with_values(experiment, best["options"])
    (out / "best.yaml").write_text(yaml.safe_dump(tuned.to_mapping(), sort_keys=False))
    print(f"best: {_words(best['options'])}, validation accuracy {100 * best['val_top1']:.2f}%")
    return tuned


def search_space(experiment: Experiment) -> dict[str, tuple[float, float]]:
    """Options, as ``model.alignment_weight``, and their bounds.

    >>> search_space(Experiment("attnbn", search={"model": {"lr": [0.001, 0.1]}}))
    {'model.lr': (0.001, 0.1)}
    """
    sections = experiment.search
    return {f"{section}.{n}": (low, high) for section, own in sections.items() for n, (low, high) in own.items()}


def with_values(experiment: Experiment, values: dict[str, float]) -> Experiment:
    """An experiment with other values of some options, without its ``search``."""
    changed = replace(experiment, search={})
    for name, value in values.items():
        section, _, option = name.partition(".")
        changed = changed.with_options(**{section: {option: value}})
    return changed


def best_trial(out: Path) -> Path:
    """The folder of the best trial's run."""
    return out / f"trial-{json.loads((out / RECORD).read_text())['best']['number']}"


def _study(experiment: Experiment, out: Path) -> Any:
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise AttnBridgeError("the search needs Optuna; install attnbridge[search]") from None
    begun = out / "searched.yaml"
    text = yaml.safe_dump(experiment.to_mapping(), sort_keys=False)
    if begun.is_file() and begun.read_text() != text:
        raise AttnBridgeError(f"{out}: holds the search of another configuration ({begun}); name another folder")
    out.mkdir(parents=True, exist_ok=True)
    begun.write_text(text)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(out / "trials.log")))
    return optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)


def _proposed(study: Any, space: dict[str, tuple[float, float]]) -> Any:
    """The next trial; it depends on those before it alone, so that a resumed search proposes the same."""
    from optuna.distributions import FloatDistribution
    from optuna.samplers import TPESampler

    number = sum(1 for trial in study.trials if trial.params)
    study.sampler = TPESampler(seed=number, n_startup_trials=len(SPREAD))
    if len(space) == 1 and number < len(SPREAD):
        wanted = {name: low * (high / low) ** SPREAD[number] for name, (low, high) in space.items()}
        study.enqueue_trial(wanted, skip_if_exists=True)
    return study.ask({name: FloatDistribution(low, high, log=True) for name, (low, high) in space.items()})


def _accuracy(experiment: Experiment, values: dict[str, float], folder: Path) -> float:
    """Validation accuracy of a trial, trained unless it is done."""
    run = Run(folder)
    if not run.done:
        with untouched():
            train(with_values(experiment, values), folder, resume=folder.exists())
    value = run.scores.get("val_top1")
    if value is None:
        raise AttnBridgeError("there are no validation images to choose by; set data.val_share above 0")
    return float(value)


def _figure(trials: list[dict[str, Any]]) -> Figure:
    """Validation accuracy over each option."""
    names = list(trials[0]["options"])
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = sorted((trial["options"][name], 100 * trial["val_top1"]) for trial in trials)
        axes.plot(*zip(*points, strict=True), ".-" if len(names) == 1 else ".")
        axes.set(xscale="log", xlabel=name, ylabel="validation accuracy, %")
        axes.grid(alpha=0.3)
    return figure


def _words(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
