"""Tables of results: several rows over several seeds, resumable; the demo is the smallest one."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import track

from attnbridge.cli.config import PAPER, TABLES, load_config, with_device
from attnbridge.cli.preflight import check_data
from attnbridge.cli.run import Config, check_same, train
from attnbridge.cli.search import search, search_space
from attnbridge.cli.table_text import error_table, markdown_table, print_demo, rank_table
from attnbridge.cli.tasks import page_for
from attnbridge.data.folders import has_split
from attnbridge.data.photos import apt_available, prepare_photos
from attnbridge.data.saliency import check_model
from attnbridge.data.scenes import SceneSpec, compose
from attnbridge.data.shapes import prepare_shapes
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.class_report import class_sheet
from attnbridge.evaluation.record import run_record, write_json
from attnbridge.evaluation.report import example_sheet
from attnbridge.methods import CUES, DATA, PAIRED

console = Console()


GARMENTS = "Garments: source laid flat, target worn on the street, image labels only"
VOC = "Source: single objects of VOC's classes; target: VOC 2012 trainaug, image labels only, scored on val"
PAIRS = {
    "clothing": ("source/train", "target", GARMENTS, "docs/clothing.md"),
    "clothing_source": ("source/train", "target", GARMENTS, "docs/clothing.md"),
    "clothing_masks": ("source/train", "target", GARMENTS, "docs/clothing.md"),
    "clothing_unlabelled": ("source/train", "target", GARMENTS, "docs/clothing.md"),
    "clothing_segmentation": ("source/train", "target", GARMENTS, "docs/clothing.md"),
    "table1": ("source", "VOC2012", VOC, "docs/voc.md"),
    "table2": ("source", "VOC2012", VOC, "docs/voc.md"),
}
"""Tables on data of the user's: source, target, words, and the page that describes them."""
CLASSES: dict[str, str | None] = {"at-cifar10": "cifar10", "at-nin": "cifar10", "finetune": None}
"""Tables on pictures of one class each: their data, null for class folders of the user's."""
SPECS = {"biased": SceneSpec(context_bias=1.0, swapped=True)}
"""Scenes of the tables that do not have the default ones."""


@dataclass(frozen=True)
class TableData:
    """What all rows of a table are trained on: the paths of the data module, in words, and what made it."""

    paths: dict[str, Any]
    words: str
    made_with: dict[str, Any]


def demo(options: argparse.Namespace) -> int:
    """The main job on built-in data, with one seed."""
    started = time.perf_counter()
    spec = SceneSpec(seed=options.seed)
    if options.quick:
        spec = SceneSpec(size=64, source=64, target=64, val=16, test=16, seed=options.seed)
    extra = ["--trainer.max_epochs", "1", "--data.image_size", "64", "--model.weights", "none"] if options.quick else []
    data = scene_data(options.out, options.pictures, spec)
    results = run_table("demo", options.out, [options.seed], data, overrides=with_device(extra, options.device))
    print_demo(results, console)
    console.print(f"{time.perf_counter() - started:.0f} s in all; look at {options.out / 'report.html'}")
    return 0


def benchmark(options: argparse.Namespace, overrides: Sequence[str] = ()) -> int:
    """A named table over several seeds, with the same overrides for each row."""
    out = options.out or Path("runs") / options.name
    if options.domains or options.leave_one_out:
        raise AttnBridgeError("--domains and --leave-one-out belong to the tables `domains` and `table7`")
    if options.name in PAIRS:
        data = paired_data(options.name, options.data, options.saliency)
    elif options.name in CLASSES:
        data = class_data(options.name, options.data)
    else:
        data = scene_data(out, options.pictures, SPECS.get(options.name, SceneSpec()))
    results = run_table(
        options.name, out, options.seeds, data, rows=options.rows, overrides=overrides, trials=options.trials
    )
    paper = PAPER if options.name in ("table1", "table2") else None
    without = "shoes" if options.name.startswith("clothing") else None
    more = ("accuracy", "energy") if options.name in ("biased", "clothing_masks") else ()
    if options.name == "finetune":
        print(rank_table(results))
    else:
        print(error_table(results) if options.name in CLASSES else markdown_table(results, paper, without, more))
        if "selection" in results["protocol"]:
            print(f"\nepoch: {results['protocol']['selection']}")
    return 0


def run_table(
    name: str,
    out: Path,
    seeds: Sequence[int],
    data: TableData,
    rows: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    trials: int = 0,
) -> dict[str, Any]:
    """Train every row with every seed, writing ``results.json`` and ``report.html`` after each.

    A row that is done in ``out`` is not trained again; an unfinished one goes on from its checkpoint. The
    data are the same for every row; the seed changes the training alone. With ``trials`` the options that a row's
    ``search`` names are chosen first, by so many runs of the first seed and their validation pictures.
    """
    contents, folders = [], []
    for seed in seeds:
        for row in rows or TABLES[name]:
            folder = out / f"{row.replace('/', '_')}-{seed}"
            contents.append(one_row(row, seed, folder, data, out, overrides, seeds[0], trials))
            folders.append(folder)
            results = _collect(contents, data)
            write_json(out / "results.json", results)
            page_for(contents[0])(out / "report.html", f"attnbridge {name}", data.words, contents, folders)
    first = [(c, f) for c, f in zip(contents, folders, strict=True) if c["seed"] == seeds[0]]
    shown = [first[0], first[-1]] if len(first) > 1 else first
    picture = class_sheet if name in CLASSES else example_sheet
    picture([c for c, _ in shown], [f for _, f in shown]).save(out / "before_after.png")
    return results


def one_row(
    row: str,
    seed: int,
    folder: Path,
    data: TableData,
    out: Path,
    overrides: Sequence[str],
    first_seed: int,
    trials: int,
) -> dict[str, Any]:
    """Train a row with one seed, or go on, or read what is done already.

    Raises:
        AttnBridgeError: for what training would stumble over, or a run that is there with other options.
    """
    config = load_config(row, overrides)
    config["data"] = {**(config.get("data") or {}), **data.paths}
    config |= {"name": row, "seed": seed}
    done, begun = (folder / "run.json").is_file(), folder / "config.yaml"
    console.print(f"{row}, seed {seed}: done already, in {folder}" if done else f"[bold]{row}[/], seed {seed}")
    if not done:
        _check_row(row, config)
    if trials and search_space(config):
        place = out / f"search_{row.replace('/', '_')}"
        if begun.is_file() and not place.is_dir():
            raise AttnBridgeError(f"{folder}: was begun without --trials; name another folder, or remove this one")
        config |= {**search({**config, "seed": first_seed}, place, trials), "seed": seed}
        if seed == first_seed and not folder.exists():  # the best trial is this run
            best = json.loads((place / "search.json").read_text())["best"]["number"]
            shutil.copytree(place / f"trial-{best}", partial := out / f".{folder.name}", dirs_exist_ok=True)
            partial.rename(folder)
            done = True
    if begun.is_file():
        before = yaml.safe_load(begun.read_text())
        config |= {name: before[name] for name in ("after", "teacher") if name in before}
        check_same({**before, "search": None}, {**config, "search": None}, folder)
        if done:
            content: dict[str, Any] = json.loads((folder / "run.json").read_text())
            return content
    else:
        # one teacher for all seeds
        for name, number in (("after", seed), ("teacher", first_seed)):
            other = out / f"{(config.get(name) or '').replace('/', '_')}-{number}"
            if (other / "run.json").is_file():
                config[name] = str(other)
    return train(config, folder, resume=folder.exists())


def _check_row(row: str, config: Config) -> None:
    """What is wrong with a row before anything is trained."""
    if DATA[config["method"]] == CUES:
        raise AttnBridgeError(
            f"{row}: a segmentation network is no row of a table of maps; train it with `attnbridge fit`"
        )
    check_data(config)
    if DATA[config["method"]] in PAIRED:
        check_scored(config)


def check_scored(config: Config) -> None:
    """A table needs masks to score by.

    Raises:
        AttnBridgeError: for a target without them.
    """
    target = config["data"].get("target")
    if target and not has_split(Path(target), "val", config["data"].get("lists")):
        raise AttnBridgeError(f"{target}: has no val/ with masks; a table needs one")


def paired_data(name: str, folder: Path | None, saliency: str) -> TableData:
    """A source and a target of the user's; the source's saliency maps are made by a model."""
    source, target, words, page = PAIRS[name]
    if folder is None or not (folder / source).is_dir() or not (folder / target).is_dir():
        raise AttnBridgeError(
            f"{folder or '--data'}: expected a folder with {source}/CLASS/*.jpg and {target}/ in VOC's layout; "
            f"see {page}"
        )
    check_model(saliency)
    paths = {"source": str(folder / source), "saliency": saliency, "target": str(folder / target)}
    return TableData(paths, f"{words}; the source's saliency by {saliency}.", {"saliency": saliency})


def class_data(name: str, folder: Path | None) -> TableData:
    """Pictures of one class each; CIFAR is fetched where no folder holds it."""
    known = CLASSES[name]
    if known is not None:
        paths = {"data": known, **({"root": str(folder)} if folder else {})}
        return TableData(paths, f"{known}.", paths)
    if folder is None or not (folder / "train").is_dir():
        raise AttnBridgeError(
            f"{folder or '--data'}: expected a folder with train/CLASS/*.jpg and test/CLASS/*.jpg (or val in its place)"
        )
    return TableData({"data": str(folder)}, f"{folder.name}.", {"data": folder.name})


def scene_data(out: Path, pictures: str, spec: SceneSpec) -> TableData:
    """Composed scenes under ``out``."""
    scenes = make_scenes(out / "scenes", pictures, spec)
    made = json.loads((scenes / "scenes.json").read_text())["spec"]
    words = (
        f"Composed scenes of {made['size']} pixels: {made['source']} source pictures of one object, "
        f"{made['target']} target pictures of {made['objects'][0]} to {made['objects'][1]} objects whose "
        f"background is typical of a class with probability {made['context_bias']}; {made['val']} pictures for "
        f"validation and {made['test']} for the test, of other cut-outs on "
        f"{'the backgrounds of other classes' if made.get('swapped') else 'other backgrounds'}."
    )
    parts = {"source": "source/train", "saliency": "saliency/train", "target": "target"}
    return TableData({name: str(scenes / part) for name, part in parts.items()}, words, made)


def make_scenes(out: Path, pictures: str, spec: SceneSpec) -> Path:
    """Compose the scenes from real photographs or drawn shapes; says which and why."""
    if pictures == "auto":
        pictures = "photos" if apt_available() else "shapes"
        why = "apt is there to fetch them" if pictures == "photos" else "there is no apt on this platform"
    else:
        why = "as asked for"
    if pictures == "photos":
        console.print(f"scenes from photographs: cut-outs and places from Debian packages ({why})")
        cutouts, places = prepare_photos()
    else:
        console.print(f"scenes from drawn shapes on textures ({why})")
        cutouts, places = prepare_shapes(out.parent / "shapes")
    try:
        return compose(cutouts, places, out, spec, progress=_progress)
    except AttnBridgeError as error:
        raise AttnBridgeError(f"the scenes cannot be composed: {error}") from None


def _progress(items: Iterable[int], what: str) -> Iterable[int]:
    return track(list(items), description=f"composing {what}", transient=True, console=console)


def _collect(contents: Sequence[dict[str, Any]], data: TableData) -> dict[str, Any]:
    rows = [_row(c) for c in contents]
    return {
        "protocol": {"data": data.words, "made_with": data.made_with, **contents[0]["protocol"]},
        "rows": rows,
        **run_record(),
    }


def _row(c: dict[str, Any]) -> dict[str, Any]:
    """A run's line of ``results.json``."""
    own = {"name": c["name"], "seed": c["seed"], "seconds": c["seconds"]}
    if "top1" in c["scores"]:
        return {**own, **c["scores"]}
    return {
        **own,
        "miou_fixed": c["scores"]["predicted"]["miou_fixed"],
        "miou_best": c["scores"]["predicted"]["miou_best"],
        "threshold": c["scores"]["predicted"]["threshold"],
        "miou_fixed_labels": c["scores"]["labels"]["miou_fixed"],
        "miou_best_labels": c["scores"]["labels"]["miou_best"],
        "threshold_labels": c["scores"]["labels"]["threshold"],
        "map": c["scores"]["map"],
        "accuracy": c["scores"].get("accuracy"),
        "energy": c["scores"].get("energy"),
        "iou": dict(zip(("background", *c["classes"]), c["scores"]["predicted"]["iou"], strict=True)),
        "iou_labels": dict(zip(("background", *c["classes"]), c["scores"]["labels"]["iou"], strict=True)),
    }
