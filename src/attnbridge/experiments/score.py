"""Scoring a run again, on its own or other data, or with other settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attnbridge.data.out_folders import owned
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.record import RunRecord, check_scores, write_json
from attnbridge.evaluation.tasks.base import EXAMPLES
from attnbridge.experiments.building import build_data, build_trainer
from attnbridge.experiments.checks import check_experiment, own_paths_told
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.overrides import trainer_device
from attnbridge.experiments.process import interrupts, untouched
from attnbridge.experiments.runs import CONFIG, RECORD, REPORT, Run
from attnbridge.experiments.written_config import check_list, take_config, write_config
from attnbridge.methods import SOURCE_TARGET, load_object


def score_again(run: Run, experiment: Experiment, device: str = "auto") -> RunRecord:
    """The record of a run with the scores that its method has now; nothing is written.

    Args:
        run: a run.
        experiment: the run's own, or on other data.
        device: where it is scored.

    Raises:
        AttnBridgeError: for data of other classes, or without masks to score against.
    """
    return _scored(run, experiment, device)[2]


def rescore(run: Run, device: str = "auto", **settings: Any) -> RunRecord:
    """Score a run with other settings of the evaluation, which are its own from now on: in its configuration, its
    record, its examples and its page. Its weights stay, so that the settings which it had give the scores that it had.

    Args:
        run: a run.
        device: where it is scored.
        settings: of :class:`~attnbridge.evaluation.settings.EvaluationSettings`, by name.

    Raises:
        AttnBridgeError: see :func:`score_again`; for a setting that cannot be, or that its scores do not depend on.
            Nothing is changed then.
    """
    experiment = run.config.with_options(evaluation=settings)
    uses = load_object(run.record["task"]).uses
    for name in settings:
        if name not in uses:
            raise AttnBridgeError(
                f"{run.folder}: its scores do not depend on evaluation.{name}; they do on {', '.join(uses) or 'none'}"
            )
    with own_paths_told(run, experiment):
        check_experiment(experiment, training=False)
    with owned(run.folder) as own:
        check_list(run)
        take_config(own)
        outputs = [run.folder / name for name in (CONFIG, EXAMPLES, RECORD, REPORT)]
        own.check(outputs)
        own.check_unchanged(outputs)
        task, method, record = _scored(run, experiment, device)
        write_config(experiment, own)
        task.save_examples(method, run.folder)
        write_json(run.folder / RECORD, record)
        Run(run.folder).write_report()
    return record


def _scored(run: Run, experiment: Experiment, device: str) -> tuple[Any, Any, RunRecord]:
    """The task, the method, and the record with the scores."""
    method = run.method()
    if experiment.entry.data != SOURCE_TARGET and experiment.data.get("saliency"):
        experiment = experiment.with_options(data={"saliency": None})  # serves training, and may not be there
    data = build_data(experiment)
    with own_paths_told(run, experiment):
        classes = tuple(data.classes)
    if classes != method.classes:
        raise AttnBridgeError(
            f"the run knows the classes {', '.join(method.classes)}, in this order, but the data has "
            f"{', '.join(classes)}; bring its columns or folders to the run's"
        )
    task = load_object(experiment.entry.task).of(data, experiment.evaluation)
    if task.scores is None:
        with own_paths_told(run, experiment):
            raise AttnBridgeError(f"{experiment.data['target']}: has no val/ with masks to score against")
    shown = {name: value for name, value in experiment.trainer.items() if name == "enable_progress_bar"}
    with untouched(), interrupts():
        trainer = build_trainer(replace(experiment, trainer={**shown, **trainer_device(device)}), [task.scores])
        scores = task.evaluate(method, trainer)
    check_scores(scores, run.folder)
    own: dict[str, Any] = {
        "task": task.reference(),
        "scores": scores,
        "classes": list(method.classes),
        "protocol": task.protocol(),
        "evaluation": task.evaluation(),
    }
    return task, method, {**run.record, **own}  # type: ignore[typeddict-item]
