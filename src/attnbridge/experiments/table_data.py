"""What tables are trained on: the user's folders, fetched sets, composed scenes, cases of domains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from attnbridge.data.domain_folders import domain_classes, domain_names
from attnbridge.data.folders import has_split
from attnbridge.data.saliency import check_model
from attnbridge.data.text import read_json
from attnbridge.datasets.synthetic.photos import apt_available, prepare_photos
from attnbridge.datasets.synthetic.scenes import RECORD, SceneSpec, compose
from attnbridge.datasets.synthetic.shapes import prepare_shapes
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.tables import Folders, Scenes, TableRequest

console = Console()


@dataclass(frozen=True)
class TableData:
    """What all rows of a table are trained on.

    Attributes:
        paths: options of the data module.
        words: what they are.
        made_with: what made them.
    """

    paths: dict[str, Any]
    words: str
    made_with: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Domains that are learnt from, and the one that is scored."""

    sources: tuple[str, ...]
    target: str

    def paths(self, request: TableRequest) -> dict[str, Any]:
        """The options of the data module."""
        own = {"data": str(request.data), "sources": list(self.sources), "target": self.target}
        return {**own, "generalise": request.leave_one_out, "saliency": request.saliency}


def all_cases(request: TableRequest) -> list[Case]:
    """Sources and target of each case.

    Raises:
        AttnBridgeError: for fewer than two domains, one that is not there, or classes that differ.
    """
    root = request.data
    if root is None:
        raise AttnBridgeError("--data: name a folder with DOMAIN/CLASS/*.jpg")
    names = [name.strip() for name in request.domains.split(",")] if request.domains else domain_names(root)
    domain_classes(root, names)
    if request.leave_one_out:
        return [Case(tuple(name for name in names if name != target), target) for target in names]
    return [Case((source,), target) for source, target in permutations(names, 2)]


def check_scored(experiment: Experiment) -> None:
    """A table needs masks to score by.

    Raises:
        AttnBridgeError: for a target without them.
    """
    target = experiment.data.get("target")
    if target and not has_split(Path(target), "val", experiment.data.get("lists")):
        raise AttnBridgeError(f"{target}: has no val/ with masks; a table needs one")


def map_data(data: Scenes | Folders, request: TableRequest, out: Path) -> TableData:
    """The data of a table of maps: composed under ``out``, or the user's.

    Raises:
        AttnBridgeError: for folders that are not there.
    """
    if isinstance(data, Scenes):
        return scene_data(out, request.images, data.spec)
    folder = request.data
    missing: dict[str, list[str]] = {}
    for part, where in {data.source: "", data.target: "", **data.parts}.items():
        if folder is None or not (folder / part).exists():
            missing.setdefault(where, []).append(part)
    if missing or folder is None:
        lacking = "; ".join(f"{', '.join(parts)}{f' ({where})' * bool(where)}" for where, parts in missing.items())
        raise AttnBridgeError(
            f"{folder or '--data'}: expected a folder with {data.source}/CLASS/*.jpg and {data.target}/ in VOC's "
            f"layout; it lacks {lacking}; see {data.page}"
        )
    check_model(request.saliency)
    paths = {"source": str(folder / data.source), "saliency": request.saliency, "target": str(folder / data.target)}
    words = f"{data.words}; the source's saliency by {request.saliency}."
    return TableData(paths, words, {"saliency": request.saliency})


def class_data(known: str | None, folder: Path | None) -> TableData:
    """Images of one class each; CIFAR is fetched where no folder holds it."""
    if known is not None:
        paths = {"data": known, **({"root": str(folder)} if folder else {})}
        return TableData(paths, f"{known}.", paths)
    if folder is None or not (folder / "train").is_dir():
        raise AttnBridgeError(
            f"{folder or '--data'}: expected a folder with train/CLASS/*.jpg and test/CLASS/*.jpg (or val in its place)"
        )
    return TableData({"data": str(folder)}, f"{folder.name}.", {"data": folder.name})


def scene_data(out: Path, images: str, spec: SceneSpec) -> TableData:
    """Composed scenes under ``out``."""
    scenes = make_scenes(out / "scenes", images, spec)
    made = read_json(scenes / RECORD)["spec"]
    words = (
        f"Composed scenes of {made['size']} pixels: {made['source']} source images of one object, "
        f"{made['target']} target images of {made['objects'][0]} to {made['objects'][1]} objects whose "
        f"background is typical of a class with probability {made['context_bias']}; {made['val']} images for "
        f"validation and {made['test']} for the test, of other cut-outs on "
        f"{'the backgrounds of other classes' if made.get('swapped') else 'other backgrounds'}."
    )
    parts = {"source": "source/train", "saliency": "saliency/train", "target": "target"}
    return TableData({name: str(scenes / part) for name, part in parts.items()}, words, made)


def make_scenes(out: Path, images: str, spec: SceneSpec) -> Path:
    """Compose the scenes from real photographs or drawn shapes; says which and why."""
    if images == "auto":
        images = "photos" if apt_available() else "shapes"
        why = "apt is there to fetch them" if images == "photos" else "there is no apt on this platform"
    else:
        why = "as asked for"
    if images == "photos":
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
