"""The table ``domains``: all ordered pairs of domains, or each from all others, by rows and seeds; resumable."""

from __future__ import annotations

import argparse
import html
import statistics
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from attnbridge.cli.config import TABLES, load_config
from attnbridge.cli.preflight import check_data
from attnbridge.cli.table_text import as_html, mean_text
from attnbridge.cli.tables import TableData, one_row
from attnbridge.data.domain_folders import domain_classes, domain_names
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.class_report import class_sheet
from attnbridge.evaluation.pictures import data_uri
from attnbridge.evaluation.record import run_record, write_json
from attnbridge.evaluation.report import as_figure, record, words, write_page
from attnbridge.methods import DATA, DOMAINS

Row = dict[str, Any]
SCORES = ("source_validation", "target_oracle", "energy")


def domains(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Train what is missing; ``results.json`` after each run, ``report.html`` after each case, the table at the end."""
    out = options.out or Path("runs") / (f"{options.name}-unseen" if options.leave_one_out else options.name)
    if options.trials:
        raise AttnBridgeError("--trials: the table of domains does not search; `attnbridge search` does, on one case")
    for word in overrides:
        if word.split("=")[0] in (
            "--data.data",
            "--data.sources",
            "--data.target",
            "--data.generalise",
            "--data.saliency",
        ):
            raise AttnBridgeError(f"{word}: the table has --data, --domains, --leave-one-out and --saliency for that")
    cases = all_cases(options.data, options.domains, options.leave_one_out)
    check_all(options, cases, overrides)
    contents: list[Row] = []
    folders: list[Path] = []
    pictures: list[str] = []
    for sources, target in cases:
        begin = len(contents)
        data = TableData(case_data(options, sources, target), "", {})
        place = out / f"{'+'.join(sources)}-to-{'unseen-' * options.leave_one_out}{target}"
        for seed in options.seeds:
            for name in options.rows or TABLES[options.name]:
                folder = place / f"{name.replace('/', '_')}-{seed}"
                contents.append(one_row(name, seed, folder, data, place, overrides, options.seeds[0], 0))
                folders.append(folder)
                rows = [as_row(content) for content in contents]
                write_json(out / "results.json", {"rows": rows, "protocol": shared_protocol(contents), **run_record()})
        pictures.append(case_pictures(contents[begin:], folders[begin:]))
        write_report(out / "report.html", rows, contents, pictures)
    print(f"{table(rows)}\n\n{table(rows, 'energy')}\n\n{by_epoch(contents)}")
    return 0


def case_data(options: argparse.Namespace, sources: Sequence[str], target: str) -> dict[str, Any]:
    """The options of the data module in one case."""
    paths = {"data": str(options.data), "sources": list(sources), "target": target}
    return {**paths, "generalise": options.leave_one_out, "saliency": options.saliency}


def check_all(
    options: argparse.Namespace, cases: Sequence[tuple[tuple[str, ...], str]], overrides: Sequence[str]
) -> None:
    """Every row in every case, before the first is trained.

    Raises:
        AttnBridgeError: for the first thing that one of them would stumble over, or a row of another method.
    """
    for name in options.rows or TABLES[options.name]:
        config = load_config(name, overrides)
        if DATA[config["method"]] != DOMAINS:
            raise AttnBridgeError(f"{name}: trains {config['method']}, which has no domains; take domains/source")
        for sources, target in cases:
            check_data({**config, "data": {**(config.get("data") or {}), **case_data(options, sources, target)}})


def all_cases(root: Path | None, named: str | None, leave_one_out: bool) -> list[tuple[tuple[str, ...], str]]:
    """Sources and target of each case.

    Raises:
        AttnBridgeError: for fewer than two domains, one that is not there, or classes that differ.
    """
    if root is None:
        raise AttnBridgeError("--data: name a folder with DOMAIN/CLASS/*.jpg")
    names = [name.strip() for name in named.split(",")] if named else domain_names(root)
    domain_classes(root, names)
    if leave_one_out:
        return [(tuple(name for name in names if name != target), target) for target in names]
    return [((source,), target) for source, target in permutations(names, 2)]


def shared_protocol(contents: Sequence[Row]) -> dict[str, Any]:
    """What of the protocol all runs have in common."""
    first = contents[0]["protocol"]
    return {k: v for k, v in first.items() if all(content["protocol"].get(k) == v for content in contents)}


def as_row(content: Row) -> Row:
    """A run's line of ``results.json``."""
    scores = content["scores"]
    own = {"name": content["name"], "seed": content["seed"], "seconds": content["seconds"]}
    return {**own, "domains": content["protocol"]["domains"], **{name: scores[name] for name in SCORES}}


def table(rows: Sequence[Row], score: str = "source_validation") -> str:
    """Accuracy by case and row, mean and deviation over the seeds, the mean over the cases, and how much that is above
    the first row's, as Markdown.

    >>> same = {"domains": "a to b"}
    >>> rows = [{"name": n, "seed": s, "source_validation": 0.5 + s / 10, **same} for n in "xy" for s in (0, 1)]
    >>> print("\\n".join(table(rows).splitlines()[-2:]))
    | mean of 1 | 55.0 ± 7.1 | 55.0 ± 7.1 |
    | above x |  | 0.0 ± 0.0, in 0 of 1 |
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [f"| {score} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    cases = list(dict.fromkeys(row["domains"] for row in rows))
    for case in cases:
        lines.append(f"| {case} | {' | '.join(_cell(rows, name, score, case) for name in names)} |")
    means = {name: _over_cases(rows, name, score) for name in names}
    lines.append(f"| mean of {len(cases)} | {' | '.join(_words(list(means[name].values())) for name in names)} |")
    if len(names) > 1:
        above = [_above(rows, means, (name, names[0]), score) for name in names[1:]]
        lines.append(f"| above {names[0]} |  | {' | '.join(above)} |")
    return "\n".join(lines)


def _cell(rows: Sequence[Row], name: str, score: str, case: str) -> str:
    return _words(_values(rows, name, score, case))


def _words(values: Sequence[float]) -> str:
    return mean_text(values) if values else ""


def _values(rows: Sequence[Row], name: str, score: str, case: str) -> list[float]:
    """Of each seed, percent."""
    return [100 * r[score] for r in rows if (r["name"], r["domains"]) == (name, case) and r[score] is not None]


def _over_cases(rows: Sequence[Row], name: str, score: str) -> dict[int, float]:
    """The mean over the cases, of each seed that has all of them."""
    own = [r for r in rows if r["name"] == name and r[score] is not None]
    cases = {r["domains"] for r in rows}
    whole = [s for s in {r["seed"] for r in own} if {r["domains"] for r in own if r["seed"] == s} == cases]
    return {seed: 100 * statistics.mean(r[score] for r in own if r["seed"] == seed) for seed in whole}


def _above(rows: Sequence[Row], means: dict[str, dict[int, float]], pair: tuple[str, str], score: str) -> str:
    """By how much a row is above another with each seed, and in how many cases, means over the seeds."""
    differences = [means[pair[0]][seed] - means[pair[1]][seed] for seed in means[pair[0]] if seed in means[pair[1]]]
    if not differences:
        return ""
    cases = {row["domains"] for row in rows}
    mean = {(n, c): statistics.mean(_values(rows, n, score, c)) for n in pair for c in cases}
    higher = sum(mean[pair[0], case] > mean[pair[1], case] for case in cases)
    return f"{mean_text(differences)}, in {higher} of {len(cases)}"


def by_epoch(contents: Sequence[Row]) -> str:
    """Accuracy in the target after each epoch that was scored, mean over all runs of a row, as Markdown.

    >>> runs = [{"name": "x", "scores": {"curve": [{"epoch": 2, "target": value}]}} for value in (0.5, 0.7)]
    >>> print(by_epoch(runs).splitlines()[-1])
    | 2 | 60.0 |
    """
    found: dict[tuple[int, str], list[float]] = {}
    for content in contents:
        for point in content["scores"]["curve"]:
            found.setdefault((int(point["epoch"]), content["name"]), []).append(100 * point["target"])
    names = list(dict.fromkeys(content["name"] for content in contents))
    lines = [f"| target after epoch | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for epoch in sorted({epoch for epoch, _ in found}):
        means = [f"{statistics.mean(found[epoch, name]):.1f}" if (epoch, name) in found else "" for name in names]
        lines.append(f"| {epoch} | {' | '.join(means)} |")
    return "\n".join(lines)


def heat_maps(rows: Sequence[Row], score: str = "source_validation") -> Figure:
    """A matrix for each row: what was learnt from by what was asked, mean over the seeds; several sources are all
    others."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    cases = {row["domains"]: row["domains"].split(" to ") for row in rows}
    ends = {case: ("all others" if ", " in source else source, target) for case, (source, target) in cases.items()}
    sources, targets = (sorted({end[i] for end in ends.values()}) for i in (0, 1))
    figure = Figure(figsize=(3.2 * len(names) + 1, 0.6 * len(sources) + 2), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), number + 1)
        cells = np.full((len(sources), len(targets)), np.nan)
        for case, (source, target) in ends.items():
            y, x = sources.index(source), targets.index(target)
            values = _values(rows, name, score, case)
            if values:
                cells[y, x] = value = statistics.mean(values)
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
        axes.imshow(cells, vmin=0, vmax=100, cmap="viridis")
        axes.set_title(name.rpartition("/")[2])
        axes.set_xticks(range(len(targets)), targets, rotation=45, ha="right")
        axes.set_yticks(range(len(sources)), sources if number == 0 else [""] * len(sources))
    return figure


def case_pictures(contents: Sequence[Row], folders: Sequence[Path]) -> str:
    """The attention of the same pictures of a case's target under each row, with the first seed, as HTML."""
    first, case = contents[0]["seed"], html.escape(contents[0]["protocol"]["domains"])
    shown = [(content, folder) for content, folder in zip(contents, folders, strict=True) if content["seed"] == first]
    picture = data_uri(class_sheet([c for c, _ in shown], [f for _, f in shown], most=len(shown)))
    return (
        f'<h2>{case}</h2><figure><img alt="pictures and maps" src="{picture}"><figcaption>After the last epoch, seed '
        f"{first}: the map of each picture's true class, to its own maximum, and the answer.</figcaption></figure>"
    )


def write_report(path: Path, rows: Sequence[Row], contents: Sequence[Row], pictures: Sequence[str]) -> None:
    """Tables, heat maps, and the cases' pictures."""
    parts = ["<h1>attnbridge domains</h1>", f"<p>{html.escape(words(shared_protocol(contents)))}</p>"]
    for score in SCORES:
        parts.append(as_html(table(rows, score)))
    parts.append(as_html(by_epoch(contents)))
    parts.append(as_figure(heat_maps(rows), "Accuracy in the target, percent, by source_validation."))
    write_page(path, "attnbridge domains", [*parts, *pictures, record(contents)])
