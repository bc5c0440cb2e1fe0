"""Running tables of results: several rows over several seeds, resumable; the demo is the smallest one."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles, own_file
from attnbridge.data.voc import VOC_CLASSES, find_images_of, is_voc
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import data_uri
from attnbridge.evaluation.folders.submission import RESULTS as ARCHIVE
from attnbridge.evaluation.folders.submission import write_submission
from attnbridge.evaluation.page import as_figure, format_protocol, write_run_page
from attnbridge.evaluation.record import Row, RunRecord, check_scores, run_record, write_json
from attnbridge.evaluation.summary import (
    as_html,
    by_epoch,
    chain_table,
    domain_table,
    error_table,
    heat_maps,
    label_table,
    markdown_table,
    precision_table,
    rank_table,
)
from attnbridge.evaluation.tasks.classification import class_sheet
from attnbridge.evaluation.tasks.masks import mask_sheet
from attnbridge.experiments.checks import check_experiment, check_named_runs, check_network
from attnbridge.experiments.config import Experiment, load_experiment
from attnbridge.experiments.fit import check_same, train
from attnbridge.experiments.pipeline import PipelineRequest, train_chain
from attnbridge.experiments.process import untouched
from attnbridge.experiments.runs import Run
from attnbridge.experiments.search import best_trial, search, search_space
from attnbridge.experiments.table_data import Case, TableData, all_cases, check_scored, class_data, map_data
from attnbridge.experiments.tables import (
    ClassTable,
    DomainTable,
    LabelTable,
    MapTable,
    PipelineTable,
    Table,
    TableRequest,
)
from attnbridge.methods import CUES, DOMAINS, SOURCE_TARGET, load_object
from attnbridge.segmentation.cues import CueSettings

console = Console()
RESULTS, REPORT, SHEET, SUBMISSION = "results.json", "report.html", "before_after.png", "submission"


def run_map_table(name: str, table: MapTable, request: TableRequest) -> str:
    """Class maps scored as segmentations, each row on the same data."""
    _without_cases(request)
    out = _folder(name, request)
    with owned(out, RESULTS) as own:
        check_results(own)
        results = run_table(name, table, request, out, map_data(table.data, request, out))
    text = markdown_table(results, table.paper or None, table.without, table.columns)
    selection = results["protocol"].get("selection")
    return f"{text}\n\nepoch: {selection}" if selection else text


def run_label_table(name: str, table: LabelTable, request: TableRequest) -> str:
    """Labels of a target, each row on the same data."""
    _without_cases(request)
    out = _folder(name, request)
    with owned(out) as own:
        check_results(own)
        results = run_table(name, table, request, out, map_data(table.data, request, out))
    return precision_table(results, table.paper)


def run_class_table(name: str, table: ClassTable, request: TableRequest) -> str:
    """Accuracy on images of one class each."""
    _without_cases(request)
    results = run_table(name, table, request, _folder(name, request), class_data(table.data, request.data))
    return rank_table(results) if table.ranks else error_table(results)


def run_table(name: str, table: Table, request: TableRequest, out: Path, data: TableData) -> dict[str, Any]:
    """Train every row with every seed, writing ``results.json`` and ``report.html`` after each.

    A row that is done in ``out`` is not trained again; an unfinished one goes on from its checkpoint. The
    data are the same for every row; the seed changes the training alone. With ``trials`` the options that a row's
    ``search`` names are chosen first, by so many runs of the first seed and their validation images.

    Returns:
        What ``results.json`` holds.
    """
    with owned(out, RESULTS) as own:
        check_results(own)
        return _run_rows(name, table, request, out, data)


def _run_rows(name: str, table: Table, request: TableRequest, out: Path, data: TableData) -> dict[str, Any]:
    records: list[RunRecord] = []
    folders: list[Path] = []
    for seed in request.seeds:
        for row in request.rows or table.rows:
            folder = out / f"{row.replace('/', '_')}-{seed}"
            records.append(run_row(row, seed, folder, data, out, request))
            folders.append(folder)
            task = load_object(records[0]["task"])
            results = _collect(records, data)
            write_json(out / RESULTS, results)
            task.write_page(out / REPORT, f"attnbridge {name}", data.words, records, folders)
    first = [(r, f) for r, f in zip(records, folders, strict=True) if r["seed"] == request.seeds[0]]
    shown = [first[0], first[-1]] if len(first) > 1 else first
    with own_file(out / SHEET) as partial:
        task.sheet([r for r, _ in shown], [f for _, f in shown]).save(partial, "PNG")
    return results


def run_row(row: str, seed: int, folder: Path, data: TableData, out: Path, request: TableRequest) -> RunRecord:
    """Train a row with one seed, or go on, or read what is done already.

    Raises:
        AttnBridgeError: for what training would stumble over, or a run that is there with other options.
    """
    experiment = replace(load_experiment(row, request.overrides).with_options(data=data.paths), name=row, seed=seed)
    run, first_seed = Run(folder, trust=True), request.seeds[0]
    console.print(f"{row}, seed {seed}: done already, in {folder}" if run.done else f"[bold]{row}[/], seed {seed}")
    if not run.done:
        _check_row(row, experiment)
    if request.trials and search_space(experiment):
        experiment = _searched(experiment, row, run, out, first_seed, request.trials)
    if run.begun:
        before = run.config
        experiment = replace(experiment, init_from=before.init_from, teacher=before.teacher)
        check_same(replace(before, search={}), replace(experiment, search={}), folder)
        if run.done:
            check_scores(run.scores, folder)
            return run.record
    else:  # what is trained here already is used; one teacher for all seeds
        for name, number in (("init_from", seed), ("teacher", first_seed)):
            other = Run(out / f"{(getattr(experiment, name) or '').replace('/', '_')}-{number}")
            if other.done:
                own: dict[str, Any] = {name: str(other.folder)}
                experiment = replace(experiment, **own)
    with untouched():
        return train(experiment, folder, resume=folder.exists())


def _searched(experiment: Experiment, row: str, run: Run, out: Path, first_seed: int, trials: int) -> Experiment:
    """With the options that a search chose; the best trial is the first seed's run."""
    place = out / f"search_{row.replace('/', '_')}"
    if run.begun and not place.is_dir():
        raise AttnBridgeError(f"{run.folder}: was begun without --trials; name another folder, or remove this one")
    tuned = search(replace(experiment, seed=first_seed), place, trials)
    if experiment.seed == first_seed and not run.folder.exists():
        shutil.copytree(best_trial(place), partial := out / f".{run.folder.name}", dirs_exist_ok=True)
        partial.rename(run.folder)
    return replace(tuned, seed=experiment.seed)


def _check_row(row: str, experiment: Experiment) -> None:
    """What is wrong with a row before anything is trained."""
    if experiment.entry.data == CUES:
        raise AttnBridgeError(
            f"{row}: a segmentation network is no row of a table of maps; train it with `attnbridge fit`"
        )
    check_named_runs(experiment)
    check_experiment(experiment)
    check_network(experiment)
    if experiment.entry.data == SOURCE_TARGET:
        check_scored(experiment)


def _collect(records: Sequence[RunRecord], data: TableData) -> dict[str, Any]:
    rows = [load_object(record["task"]).row(record) for record in records]
    protocol = {"data": data.words, "made_with": data.made_with, **records[0]["protocol"]}
    return {"protocol": protocol, "rows": rows, **run_record()}


def _folder(name: str, request: TableRequest) -> Path:
    return request.out or Path("runs") / name


def check_results(own: OwnFiles) -> None:
    """That what a table writes after hours of training may be written.

    Raises:
        AttnBridgeError: for files of the user's.
    """
    places = [own.folder / name for name in (RESULTS, REPORT, SHEET)]
    own.check(places)
    own.check_unchanged(places)


def _without_cases(request: TableRequest) -> None:
    if request.domains or request.leave_one_out:
        raise AttnBridgeError("--domains and --leave-one-out belong to the tables `domains` and `table7`")


def run_domain_table(name: str, table: DomainTable, request: TableRequest) -> str:
    """All ordered pairs of domains, or each from all others; ``report.html`` after each case."""
    out = request.out or Path("runs") / (f"{name}-unseen" if request.leave_one_out else name)
    rows = request.rows or table.rows
    cases = all_cases(request)
    with owned(out, RESULTS) as own:
        check_results(own)
        _check_cases(rows, cases, request)
        return _run_cases(rows, cases, request, out)


def _run_cases(rows: Sequence[str], cases: Sequence[Case], request: TableRequest, out: Path) -> str:
    records: list[RunRecord] = []
    folders: list[Path] = []
    images: list[str] = []
    for case in cases:
        begin = len(records)
        place = out / f"{'+'.join(case.sources)}-to-{'unseen-' * request.leave_one_out}{case.target}"
        for seed in request.seeds:
            for row in rows:
                folder = place / f"{row.replace('/', '_')}-{seed}"
                data = TableData(case.paths(request), "", {})
                records.append(run_row(row, seed, folder, data, place, request))
                folders.append(folder)
                lines = [load_object(record["task"]).row(record) for record in records]
                protocol = _shared_protocol(records)
                write_json(out / RESULTS, {"rows": lines, "protocol": protocol, **run_record()})
        images.append(_case_images(records[begin:], folders[begin:]))
        _write_domain_page(out / REPORT, lines, records, images)
    return f"{domain_table(lines)}\n\n{domain_table(lines, 'energy')}\n\n{by_epoch(records)}"


def _check_cases(rows: Sequence[str], cases: Sequence[Case], request: TableRequest) -> None:
    """Every row in every case, before the first is trained.

    Raises:
        AttnBridgeError: for the first thing that one of them would stumble over, or a row of another method.
    """
    if request.trials:
        raise AttnBridgeError("--trials: the table of domains does not search; `attnbridge search` does, on one case")
    for word in request.overrides:
        if word.split("=")[0] in (f"--data.{n}" for n in ("data", "sources", "target", "generalise", "saliency")):
            raise AttnBridgeError(f"{word}: the table has --data, --domains, --leave-one-out and --saliency for that")
    for row in rows:
        experiment = load_experiment(row, request.overrides)
        if experiment.entry.data != DOMAINS:
            raise AttnBridgeError(f"{row}: trains {experiment.method}, which has no domains; take domains/source")
        for case in cases:
            check_experiment(experiment.with_options(data=case.paths(request)))


def _shared_protocol(records: Sequence[RunRecord]) -> dict[str, Any]:
    """What of the protocol all runs have in common."""
    first = records[0]["protocol"]
    return {k: v for k, v in first.items() if all(record["protocol"].get(k) == v for record in records)}


def _case_images(records: Sequence[RunRecord], folders: Sequence[Path]) -> str:
    """The attention of the same images of a case's target under each row, with the first seed, as HTML."""
    first, case = records[0]["seed"], html.escape(records[0]["protocol"]["domains"])
    shown = [(record, folder) for record, folder in zip(records, folders, strict=True) if record["seed"] == first]
    image = data_uri(class_sheet([r for r, _ in shown], [f for _, f in shown], most=len(shown)))
    return (
        f'<h2>{case}</h2><figure><img alt="images and maps" src="{image}"><figcaption>After the last epoch, seed '
        f"{html.escape(str(first))}: the map of each image's true class, to its own maximum, and the answer."
        "</figcaption></figure>"
    )


def _write_domain_page(path: Path, rows: Sequence[Row], records: Sequence[RunRecord], images: Sequence[str]) -> None:
    """Tables, heat maps, and the cases' images."""
    parts = [as_html(domain_table(rows, score)) for score in ("source_validation", "target_oracle", "energy")]
    parts.append(as_html(by_epoch(records)))
    parts.append(as_figure(heat_maps(rows), "Accuracy in the target, percent, by source_validation."))
    words = format_protocol(_shared_protocol(records))
    write_run_page(path, "attnbridge domains", words, [*parts, *images], records)


def run_pipeline_table(name: str, table: PipelineTable, request: TableRequest) -> str:
    """Each classifier's chain with each seed; ``results.json`` and ``report.html`` after each.

    Raises:
        AttnBridgeError: for an option that belongs to another table, or what a stage would stumble over.
    """
    if request.domains or request.leave_one_out or request.trials:
        raise AttnBridgeError("--domains, --leave-one-out and --trials belong to other tables")
    out, names = _folder(name, request), request.rows or table.rows
    with owned(out, RESULTS) as own:
        check_results(own)
        data = map_data(table.data, request, out)
        for row in names:
            check_scored(load_experiment(row, request.overrides, shared=True).with_options(data=data.paths))
        return _run_chains(names, table, request, out, data)


def _run_chains(names: Sequence[str], table: PipelineTable, request: TableRequest, out: Path, data: TableData) -> str:
    rows: list[Row] = []
    runs: list[tuple[RunRecord, Path]] = []
    for seed in request.seeds:
        for row in names:
            console.print(f"[bold]{row}[/], seed {seed}")
            place = out / f"{row.replace('/', '_')}-{seed}"
            asked = PipelineRequest(
                source=Path(data.paths["source"]),
                target=Path(data.paths["target"]),
                saliency=data.paths["saliency"],
                target_saliency=request.saliency,
                out=place,
                config=row,
                segmentation=table.segmentation,
                retrain=table.retrain,
                begin=table.begin,
                settings=CueSettings() if table.threshold is None else CueSettings(table.threshold),
                overrides=(*request.overrides, "--seed", str(seed)),
                device=request.device,
            )
            last = Run(place / train_chain(asked).last)
            rows.append(_chain_row(row, seed, place, last))
            runs.append(({**last.record, "name": f"from {row}"}, last.folder))
            write_json(out / RESULTS, {"rows": rows, **run_record()})
            _write_chain_page(out / REPORT, data.words, rows, runs)
            _export(last, Path(data.paths["target"]), place / SUBMISSION, request.device)
    text = chain_table(rows, table.paper)
    return f"{text}\n\n{label_table(rows, table.labels)}" if table.labels else text


def _export(run: Run, kit: Path, out: Path, device: str | None) -> None:
    """Masks of a kit's test images, for VOC's server, where the kit has them."""
    own = is_voc(kit) and set(run.record["classes"]) <= set(VOC_CLASSES)
    if not own or not (kit / "ImageSets" / "Segmentation" / "test.txt").is_file():
        return
    try:
        find_images_of(kit, "test")
    except AttnBridgeError as error:  # the kit of training and validation may have the list and not the images
        console.print(f"no masks for VOC's server: {error}", soft_wrap=True)
        return
    if not (out / ARCHIVE).is_file():
        write_submission(run.segmenter(device=device), kit, "test", out)
    console.print(f"{out / ARCHIVE}: masks of the test images, to upload to VOC's server", soft_wrap=True)


def _chain_row(name: str, seed: int, place: Path, last: Run) -> Row:
    """The scores of a chain."""
    first, second = (Run(place / stage).record for stage in ("classifier", "segmentation"))
    found = {"classifier": first, "segmentation": second, last.folder.name: last.record}
    for stage, record in found.items():
        check_scores(record["scores"], place / stage)
    labels = ("background", *last.record["classes"])
    retrained = {"retrained": found["retrained"]["scores"]["miou"]} if "retrained" in found else {}
    return {
        "name": name,
        "seed": seed,
        "direct": first["scores"]["predicted"]["miou_best"],
        "direct_labels": first["scores"]["labels"]["miou_best"],
        "plain": second["scores"]["plain"]["miou"],
        "refined": second["scores"]["miou"],
        **retrained,
        "iou": dict(zip(labels, last.record["scores"]["iou"], strict=True)),
        "seconds": sum(record["seconds"] for record in found.values()),
    }


def _write_chain_page(
    path: Path, introduction: str, rows: Sequence[Row], runs: Sequence[tuple[RunRecord, Path]]
) -> None:
    """The table, and the masks of the same test images from each row's cues."""
    shown = [(record, folder) for record, folder in runs if record["seed"] == rows[0]["seed"]]
    records = [record for record, _ in shown]
    image = data_uri(mask_sheet(records, [folder for _, folder in shown], most=len(shown)))
    parts = [
        as_html(chain_table(rows)),
        f"<p>mIoU, percent. The maps: each class where its map exceeds a threshold chosen on val. "
        f"{html.escape(format_protocol(records[0]['protocol']))}</p>",
        f'<figure><img alt="test images and masks" src="{image}"><figcaption>Test images, their masks, and '
        "those of the networks.</figcaption></figure>",
    ]
    write_run_page(path, "From image labels to masks", introduction, parts, records)
