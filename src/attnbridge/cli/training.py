"""Verbs that train and score."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from attnbridge.cli.common import CODE, OVERRIDES, Verb, add_device, add_trust, number_of, out_for, path_of
from attnbridge.data.out_folders import owned
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.checks import check_experiment, check_named_runs, check_network, own_paths_told
from attnbridge.experiments.config import Experiment, load_experiment
from attnbridge.experiments.memory import keep_freed_memory
from attnbridge.experiments.overrides import evaluation_overrides, with_device
from attnbridge.experiments.runs import Run, load_run
from attnbridge.experiments.tables import DEMO, TABLES, Scenes, TableRequest
from attnbridge.models.device import pick_device

_IMAGES: dict[str, Any] = {"choices": ("auto", "photos", "shapes"), "default": "auto"}


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=out_for("results.json"), default=Path("runs/demo"), help="folder of the results")
    parser.add_argument(
        "--images",
        **_IMAGES,
        help="real cut-outs from Debian packages, or drawn ones; auto: photos where apt exists",
    )
    parser.add_argument("--seed", type=number_of("--seed", "Seed"), default=0)
    parser.add_argument("--quick", action="store_true", help="a few small images, untrained: only to see it run")
    add_device(parser)


def demo(options: argparse.Namespace) -> int:
    """The main job on built-in data, with one seed."""
    from attnbridge.datasets.synthetic.scenes import SceneSpec

    started = time.perf_counter()
    small = ["--trainer.max_epochs", "1", "--data.image_size", "64", "--model.weights", "none"] if options.quick else []
    overrides = tuple(with_device(small, options.device))
    for row in DEMO.rows:
        load_experiment(row, [*overrides, "--seed", str(options.seed)])
    pick_device(options.device)

    from attnbridge.evaluation.summary import print_demo
    from attnbridge.experiments.benchmark import check_results, console, run_table
    from attnbridge.experiments.table_data import map_data

    keep_freed_memory()
    sizes: dict[str, Any] = {"size": 64, "source": 64, "target": 64, "val": 16, "test": 16} if options.quick else {}
    request = TableRequest(options.out, (options.seed,), overrides=overrides, images=options.images)
    with owned(options.out) as own:
        check_results(own)
        data = map_data(Scenes(SceneSpec(seed=options.seed, **sizes)), request, options.out)
        results = run_table("demo", DEMO, request, options.out, data)
    print_demo(results, console)
    console.print(f"{time.perf_counter() - started:.0f} s in all; look at {options.out / 'report.html'}")
    return 0


def _checked(options: argparse.Namespace, begun: Path | None = None) -> Experiment:
    """The experiment that is asked for, once nothing is found wrong with it; from here on the process trains. ``begun``
    is the folder of the run that goes on."""
    experiment = load_experiment(options.config, with_device(options.overrides, options.device))
    check_named_runs(experiment, options.trust)
    with own_paths_told(Run(begun, trust=True), experiment) if begun else nullcontext():
        check_experiment(experiment)
    check_network(experiment)
    pick_device(options.device)
    keep_freed_memory()
    return experiment


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a name from `attnbridge list`, or a YAML file")
    parser.add_argument("--out", type=out_for("config.yaml"), help="the run's folder; default: runs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    add_trust(parser)
    add_device(parser)
    parser.epilog = f"{OVERRIDES} {CODE}"


def fit(options: argparse.Namespace) -> int:
    """Train, score, report."""
    folder = options.out or Path("runs") / Path(options.config).stem
    experiment = _checked(options, folder if options.resume else None)

    from attnbridge.experiments import fit as training
    from attnbridge.experiments.process import is_main_process
    from attnbridge.methods import load_object

    run = training.run_checked(experiment, folder, resume=options.resume)
    if is_main_process():
        print("\n".join([*load_object(run.record["task"]).summary(run.record), str(run.report)]))
    return 0


def _add_test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path_of("run"), help="folder of a run")
    parser.add_argument("--target", type=path_of("--target"), help="other target data, with val/ and test/")
    add_trust(parser)
    add_device(parser)
    parser.epilog = (
        "With --evaluation.OPTION VALUE, as in --evaluation.threshold 0.3, the run is scored so from now on: its "
        "record, page and configuration change, its weights do not. OPTION: threshold, score_threshold (class maps), "
        "size (network, or own: each image's own size), scales, flip, crf."
    )


def test(options: argparse.Namespace) -> int:
    """Score a run again; with ``--target`` on other data, with ``--evaluation.*`` by other settings."""
    run = load_run(options.run, trust=options.trust)
    experiment, settings = run.config, evaluation_overrides(options.overrides)
    if options.target and settings:
        raise AttnBridgeError(
            "--evaluation.* changes how the run is scored on its own data; give --target in another command"
        )
    if options.target:
        experiment = experiment.with_options(data={experiment.entry.data.own_path: str(options.target)})
    with own_paths_told(run, experiment):
        check_experiment(experiment.with_options(evaluation=settings), training=False)
    pick_device(options.device)

    from attnbridge.experiments.score import rescore, score_again
    from attnbridge.methods import load_object

    record = rescore(run, options.device, **settings) if settings else score_again(run, experiment, options.device)
    task = load_object(record["task"])
    print("\n".join([*task.summary(record), *task.label_lines(record)]))
    if settings:
        print(f"{run.folder}: is scored by {', '.join(f'{n} {v}' for n, v in settings.items())} from now on")
    return 0


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a name from `attnbridge list`, or a YAML file; its `search` names the options")
    parser.add_argument("--out", type=out_for("search.json"), help="folder of the trials; default: runs/search_NAME")
    parser.add_argument(
        "--trials", type=number_of("--trials", "Count"), default=8, help="how many runs in all; default: 8"
    )
    add_trust(parser)
    add_device(parser)
    parser.epilog = f"{OVERRIDES} {CODE}"


def search(options: argparse.Namespace) -> int:
    """Choose the values of an experiment's options."""
    experiment = _checked(options)

    from attnbridge.experiments import search as trials

    folder = options.out or Path("runs") / f"search_{Path(options.config).stem}"
    trials.search(experiment, folder, options.trials)
    print(folder / "best.yaml")
    return 0


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    lines = "; ".join(f"{name}: {table.help}" for name, table in TABLES.items())
    parser.add_argument("name", choices=list(TABLES), metavar="NAME", help=lines)
    parser.add_argument("--out", type=out_for("results.json"), help="folder of the runs; default: runs/NAME")
    parser.add_argument("--seeds", type=number_of("--seeds", "Seed"), nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="these configurations instead of the table's")
    parser.add_argument("--images", **_IMAGES, help="of the scenes")
    parser.add_argument(
        "--data", type=path_of("--data"), help="folder of the garments, of VOC, of CIFAR, of your classes; see docs/"
    )
    parser.add_argument("--domains", help="of --data: names with commas between; default: all")
    parser.add_argument(
        "--leave-one-out", action="store_true", help="domains: each from all others, unseen in training; NAME-unseen"
    )
    parser.add_argument(
        "--trials",
        type=number_of("--trials", "Natural"),
        default=0,
        help="choose the options that a row's `search` names first",
    )
    parser.add_argument("--saliency", default="u2net", help="model of the source's saliency maps")
    add_device(parser)
    parser.epilog = f"{OVERRIDES} {CODE}"


def benchmark(options: argparse.Namespace) -> int:
    """A table over several seeds, with the same overrides for each row."""
    table = TABLES[options.name]
    request = TableRequest(
        out=options.out,
        seeds=tuple(options.seeds),
        rows=tuple(options.rows) if options.rows else None,
        overrides=tuple(with_device(options.overrides, options.device)),
        data=options.data,
        images=options.images,
        saliency=options.saliency,
        domains=options.domains,
        leave_one_out=options.leave_one_out,
        trials=options.trials,
        device=options.device,
    )
    for row in request.rows or table.rows:
        check_network(load_experiment(row, request.overrides))
    pick_device(options.device)

    keep_freed_memory()
    print(table.run(options.name, request))
    return 0


VERBS = (
    Verb("demo", "train", "Grad-CAM against AttnBN on composed scenes, with a report", _add_demo, demo),
    Verb("fit", "train", "train a configuration, score it, write a run folder", _add_fit, fit, overrides=True),
    Verb("test", "train", "score a run again, on its own or other data", _add_test, test, overrides=True),
    Verb("search", "train", "choose options by validation accuracy", _add_search, search, rare=True, overrides=True),
    Verb(
        "benchmark", "tables", "a table of results; resumes where it stopped", _add_benchmark, benchmark, overrides=True
    ),
)
