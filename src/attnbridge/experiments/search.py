"""Search for the values of a few options, by the accuracy on validation images, with Optuna."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles, own_file
from attnbridge.data.text import dump_yaml, read_json, read_text
from attnbridge.errors import AttnBridgeError, DivergedError
from attnbridge.evaluation.record import write_json
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.fit import train
from attnbridge.experiments.process import untouched
from attnbridge.experiments.runs import Run
from attnbridge.methods import CUES, SOURCE_TARGET

RECORD, FIGURE, BEST, ASKED, TRIALS = "search.json", "search.png", "best.yaml", "searched.yaml", "trials.log"
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
    if type(trials) is not int or trials < 1:
        raise AttnBridgeError(f"trials must be a number from 1 on, not {trials!r}")
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
    with owned(out, RECORD) as own:
        return _search(experiment, space, own, trials)


def _search(experiment: Experiment, space: dict[str, tuple[float, float]], own: OwnFiles, trials: int) -> Experiment:
    out, study = own.folder, _study(experiment, own)
    while len(done := [t for t in study.trials if t.state.is_finished()]) < trials:
        begun = [t for t in study.trials if not t.state.is_finished() and t.params]
        trial = begun[0] if begun else _proposed(study, space)
        print(f"trial {len(done) + 1} of {trials}: {_words(trial.params)}")
        try:
            value = _accuracy(experiment, trial.params, out / f"trial-{trial.number}")
        except DivergedError as error:
            print(f"counts as 0: {error}")
            value = 0.0
        except AttnBridgeError:
            if not done:
                _undo(out)
            raise
        study.tell(trial.number, value)
    found = [{"number": t.number, "options": t.params, "val_top1": t.value} for t in done[:trials]]
    best = max(found, key=lambda trial: trial["val_top1"])
    write_json(out / RECORD, {"trials": found, "best": best})
    with own_file(out / FIGURE) as partial:
        _figure(found).savefig(partial, dpi=120, format="png")
    tuned = with_values(experiment, best["options"])
    with own_file(out / BEST) as partial:
        partial.write_text(dump_yaml(tuned.to_mapping()))
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


def _undo(out: Path) -> None:
    """Take a search back that has no trial yet: it is not to be in the way of another one."""
    for name in (ASKED, TRIALS, f"{TRIALS}.lock"):
        (out / name).unlink(missing_ok=True)


def best_trial(out: Path) -> Path:
    """The folder of the best trial's run."""
    return out / f"trial-{read_json(out / RECORD)['best']['number']}"


def _study(experiment: Experiment, own: OwnFiles) -> Any:
    out = own.folder
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise AttnBridgeError("the search needs Optuna; install attnbridge[search]") from None
    begun, log = out / ASKED, out / TRIALS
    own.check([out / name for name in (RECORD, FIGURE, BEST, ASKED, TRIALS)])
    own.check_unchanged([out / name for name in (RECORD, FIGURE, BEST)])
    text = dump_yaml(experiment.to_mapping())
    if begun.is_file() and read_text(begun) != text:
        raise AttnBridgeError(f"{out}: holds the search of another configuration ({begun}); name another folder")
    for path, content in ((begun, text), (log, "")):
        if not path.is_file():
            with own.writing(path) as partial:
                partial.write_text(content)
    for left in out.glob(f"{TRIALS}.lock*"):  # of a process that was killed: this one has the folder for itself
        left.unlink()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(log)))
        return optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AttnBridgeError(f"{log}: is no list of trials any more ({error}); name another folder") from None


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
