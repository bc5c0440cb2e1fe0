"""The tables of chains: class maps, cues from them, and a segmentation network from the cues; resumable."""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from attnbridge.cli.config import TABLES, load_config
from attnbridge.cli.pipeline import train_chain
from attnbridge.cli.table_text import as_html, mean_text
from attnbridge.cli.tables import PAIRS, check_scored, paired_data, scene_data
from attnbridge.data.scenes import SceneSpec
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.mask_report import mask_sheet
from attnbridge.evaluation.pictures import data_uri
from attnbridge.evaluation.record import run_record, write_json
from attnbridge.evaluation.report import record, words, write_page
from attnbridge.segmentation.cues import CueSettings

Row = dict[str, Any]
SEGMENTERS = {"segmentation": "segmentation/dsrg", "clothing_segmentation": "clothing/dsrg"}
"""Tables of chains, and what learns from the cues in them."""

console = Console()


def chains(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Each classifier's chain with each seed; ``results.json`` and ``report.html`` after each, the table at the end.

    Raises:
        AttnBridgeError: for an option that belongs to another table, or what a stage would stumble over.
    """
    if options.domains or options.leave_one_out or options.trials:
        raise AttnBridgeError("--domains, --leave-one-out and --trials belong to other tables")
    out = options.out or Path("runs") / options.name
    if options.name in PAIRS:
        data = paired_data(options.name, options.data, options.saliency)
    else:
        data = scene_data(out, options.pictures, SceneSpec())
    paths = {name: Path(data.paths[name]) for name in ("source", "target")} | {"saliency": data.paths["saliency"]}
    for name in options.rows or TABLES[options.name]:
        own = load_config(name, overrides)
        check_scored({**own, "data": {**(own.get("data") or {}), **data.paths}})
    rows: list[Row] = []
    for seed in options.seeds:
        for name in options.rows or TABLES[options.name]:
            console.print(f"[bold]{name}[/], seed {seed}")
            place = out / f"{name.replace('/', '_')}-{seed}"
            asked = argparse.Namespace(
                **paths, **vars(CueSettings()), config=name, out=place, target_saliency=options.saliency,
                segmentation=SEGMENTERS[options.name], retrain=None, device=options.device,
            )  # fmt: skip
            train_chain(asked, [*overrides, "--seed", str(seed)], replaces=False)
            rows.append(as_row(name, seed, place))
            write_json(out / "results.json", {"rows": [plain(row) for row in rows], **run_record()})
            write_report(out / "report.html", data.words, rows)
    print(table(rows))
    return 0


def as_row(name: str, seed: int, place: Path) -> Row:
    """The scores of a chain, and its segmentation network's record."""
    first, second = (json.loads((place / stage / "run.json").read_text()) for stage in ("classifier", "segmentation"))
    return {
        "name": name,
        "seed": seed,
        "direct": first["scores"]["predicted"]["miou_best"],
        "direct_labels": first["scores"]["labels"]["miou_best"],
        "plain": second["scores"]["plain"]["miou"],
        "refined": second["scores"]["miou"],
        "seconds": first["seconds"] + second["seconds"],
        "run": {**second, "name": f"from {name}"},
        "folder": place / "segmentation",
    }


def plain(row: Row) -> Row:
    """A row's line of ``results.json``."""
    return {name: value for name, value in row.items() if name not in ("run", "folder")}


def table(rows: Sequence[Row]) -> str:
    """mIoU by row, mean and deviation over the seeds, as Markdown.

    >>> row = {"name": "a", "seed": 0, "direct": 0.2, "direct_labels": 0.3, "plain": 0.25, "refined": 0.28}
    >>> print(table([{**row, "seconds": 9.0}]).splitlines()[-1])
    | a | 20.0 | 30.0 | 25.0 | 28.0 | +8.0 | 9 |
    """
    head = ["cues from", "the maps", "the maps, true labels", "network", "network, scales and CRF", "gain", "seconds"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        cells = [mean_text([100 * r[f] for r in own]) for f in ("direct", "direct_labels", "plain", "refined")]
        gain = sum(r["refined"] - r["direct"] for r in own) / len(own)
        seconds = sum(r["seconds"] for r in own) / len(own)
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * gain:+.1f} | {seconds:.0f} |")
    return "\n".join(lines)


def write_report(path: Path, introduction: str, rows: Sequence[Row]) -> None:
    """The table, and the masks of the same test pictures from each row's cues."""
    shown = [row for row in rows if row["seed"] == rows[0]["seed"]]
    runs = [row["run"] for row in shown]
    picture = data_uri(mask_sheet(runs, [row["folder"] for row in shown], most=len(shown)))
    parts = [
        f"<h1>From image labels to masks</h1><p>{html.escape(introduction)}</p>",
        as_html(table(rows)),
        f"<p>mIoU, percent. The maps: each class where its map exceeds a threshold chosen on val. "
        f"{html.escape(words(runs[0]['protocol']))}</p>",
        f'<figure><img alt="test pictures and masks" src="{picture}"><figcaption>Test pictures, their masks, and '
        "those of the networks.</figcaption></figure>",
        record(runs),
    ]
    write_page(path, "From image labels to masks", parts)
