"""Search for the values of a few options, by the accuracy on validation pictures, with Optuna."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from attnbridge.cli.run import train
from attnbridge.errors import AttnBridgeError, DivergedError
from attnbridge.evaluation.record import write_json
from attnbridge.methods import DATA, PAIRED

Config = dict[str, Any]
RECORD = "search.json"
SPREAD = (0.5, 0.25, 0.75, 0.0, 1.0)
"""Where in the range of a single option the first trials lie."""


def search(config: Config, out: Path, trials: int) -> Config:
    """Train a configuration ``trials`` times, each with other values of the options that its ``search`` names.

    Of one option, the first five values are the middle, the quarters and the ends of its range in logarithms, so that
    every method has the same chance; what follows, and several options, Optuna's TPE proposes. All trials have one
    seed and one validation split, and no test picture chooses anything. A search that was interrupted goes on: trials
    that are done are not trained again. ``out`` holds the trials' runs, ``search.json``, ``search.png`` and
    ``best.yaml``, ready for ``attnbridge fit``.

    Args:
        config: checked by :func:`attnbridge.cli.config.load_config`, with ``search: {model: {OPTION: [LOW, HIGH]}}``.
        out: folder of the search.
        trials: how many in all.

    Returns:
        The configuration with the best values, without its ``search``.

    Raises:
        AttnBridgeError: if Optuna is not installed, nothing is searched, ``out`` holds another search, there are no
            validation pictures, or several processes are asked for.
    """
    if DATA[config["method"]] in PAIRED:
        raise AttnBridgeError(f"{config['method']} has no accuracy to search by; methods of class folders have")
    devices = (config.get("trainer") or {}).get("devices", 1)
    if devices != 1 and not (isinstance(devices, list) and len(devices) == 1):
        raise AttnBridgeError(f"a search runs in one process: trainer.devices must be 1, not {devices}")
    config = {**config, "trainer": {**(config.get("trainer") or {}), "devices": devices}}
    space = search_space(config)
    if not space:
        raise AttnBridgeError(
            "nothing is searched: name options and bounds, --search.model.alignment_weight '[0.001, 1]'"
        )
    study = _study(config, out)
    while len(done := [t for t in study.trials if t.state.is_finished()]) < trials:
        begun = [t for t in study.trials if not t.state.is_finished() and t.params]
        trial = begun[0] if begun else _proposed(study, space)
        print(f"trial {len(done) + 1} of {trials}: {_words(trial.params)}")
        try:
            value = _accuracy(config, trial.params, out / f"trial-{trial.number}")
        except DivergedError as error:
            print(f"counts as 0: {error}")
            value = 0.0
        study.tell(trial.number, value)
    found = [{"number": t.number, "options": t.params, "val_top1": t.value} for t in done[:trials]]
    best = max(found, key=lambda trial: trial["val_top1"])
    write_json(out / RECORD, {"trials": found, "best": best})
    _figure(found).savefig(out / "search.png", dpi=120)
    tuned = with_options(config, best["options"])
    (out / "best.yaml").write_text(yaml.safe_dump(tuned, sort_keys=False))
    print(f"best: {_words(best['options'])}, validation accuracy {100 * best['val_top1']:.2f}%")
    return tuned


def search_space(config: Config) -> dict[str, tuple[float, float]]:
    """Options, as ``model.alignment_weight``, and their bounds.

    >>> search_space({"search": {"model": {"lr": [0.001, 0.1]}}})
    {'model.lr': (0.001, 0.1)}
    """
    sections = config.get("search") or {}
    return {f"{section}.{n}": (low, high) for section, own in sections.items() for n, (low, high) in own.items()}


def with_options(config: Config, options: dict[str, float]) -> Config:
    """A configuration with other values of some options, without its ``search``."""
    changed = {name: deepcopy(value) for name, value in config.items() if name != "search"}
    for name, value in options.items():
        section, _, option = name.partition(".")
        changed.setdefault(section, {})[option] = value
    return changed


def _study(config: Config, out: Path) -> Any:
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise AttnBridgeError("the search needs Optuna; install attnbridge[search]") from None
    begun = out / "searched.yaml"
    text = yaml.safe_dump(config, sort_keys=False)
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


def _accuracy(config: Config, options: dict[str, float], folder: Path) -> float:
    """Validation accuracy of a trial, trained unless it is done."""
    record = folder / "run.json"
    if record.is_file():
        content = json.loads(record.read_text())
    else:
        content = train(with_options(config, options), folder, resume=folder.exists())
    value = content["scores"].get("val_top1")
    if value is None:
        raise AttnBridgeError("there are no validation pictures to choose by; set data.val_share above 0")
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


def _words(options: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in options.items())
