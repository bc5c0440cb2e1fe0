"""Maps of a user's images: overlays to look at, arrays to go on with, a manifest, a contact sheet."""

from __future__ import annotations

import errno
import json
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from attnbridge import __version__
from attnbridge.attention.explain import WHOLE_NETWORK_METHODS, ExplainMethod, explain
from attnbridge.attention.layers import check_layer
from attnbridge.attention.normalise import normalise_maps
from attnbridge.data.arrays import Array, read_arrays
from attnbridge.data.files import beside, partial_folder
from attnbridge.data.images import is_whole, load_image
from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.text import read_text, write_rows
from attnbridge.data.transforms import eval_transform, over_image
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.figures import caption, overlay, sheet
from attnbridge.evaluation.finite import check_finite
from attnbridge.evaluation.views import ONE_VIEW, Views
from attnbridge.models.classifiers import Classifier, find_classes

Choice = Callable[[Tensor], Tensor]
MANIFEST, SCORES = "manifest.jsonl", "scores.csv"
NAMES = "class_names"
"""Of the manifest's first line. Folders of earlier versions lack it: they have the names in each npz."""
PER_PAGE, CELL = 40, 144
ENOUGH = 2048
"""Pixels of the shorter side that an image keeps at least: of twice as many and more, a half, a quarter or an eighth is
looked at and overlaid."""


@dataclass(frozen=True)
class ExplainSettings:
    """What decides the outputs; a folder holds the outputs of one setting only.

    Attributes:
        method: of :func:`~attnbridge.attention.explain.explain`.
        layer: to look at; ``None``: the classifier's own.
        classes: how the shown classes are chosen, in words.
        all_maps: whether the arrays hold the maps of all classes, not only of the shown ones.
    """

    method: ExplainMethod = "grad_cam"
    layer: str | None = None
    classes: str = "predicted"
    all_maps: bool = False


def choose_classes(
    model: Classifier, named: Sequence[str] | None, top: int = 1, threshold: float | None = None
) -> tuple[Choice, str]:
    """Which classes of an image are shown, and the same in words.

    Args:
        model: whose classes they are.
        named: these, by name or number, in every image.
        top: else so many of the most probable ones.
        threshold: else all above this probability, and the most probable one.

    Raises:
        AttnBridgeError: for a class that the model does not know.
    """
    if threshold is not None:
        return lambda s: (s > threshold) | (s == s.amax(1, keepdim=True)), f"probability above {threshold}"
    wanted, count = find_classes(list(named or ()), model.classes), min(top, len(model.classes))

    def choose(scores: Tensor) -> Tensor:
        indices = torch.tensor(wanted).expand(len(scores), -1) if wanted else scores.topk(count).indices.cpu()
        return torch.zeros(scores.shape, dtype=torch.bool).scatter(1, indices, True).to(scores.device)

    return choose, ", ".join(model.classes[c] for c in wanted) or f"the {count} most probable"


def explain_images(
    model: Classifier, images: dict[str, Path], out: Path, choose: Choice, settings: ExplainSettings, batch: int = 8
) -> list[str]:
    """Write ``ID.CLASS.png`` overlays and ``ID.npz`` arrays of each image, ``manifest.jsonl``, sheets, scores as CSV.

    The arrays are ``maps (K, h, w)``, their classes' ``indices (K,)`` and the ``scores (N,)``; the names of the N
    classes are ``class_names`` in the first line of the manifest.

    An image counts as done when the manifest has its line, which is written after all its files have been moved to
    their places. A second call goes on where the first one stopped; images that changed since are done again.

    Args:
        model: what to look into.
        images: by id; see :func:`~attnbridge.data.folders.find_images`.
        out: folder to write.
        choose: from probabilities ``(B, N)`` to a bool matrix of the classes to show.
        settings: what decides the outputs.
        batch: images at once.

    Returns:
        One message for each image that could not be read.

    Raises:
        AttnBridgeError: if ``out`` holds the outputs of other settings or files of the user's, or the model refuses the
            settings.
    """
    if settings.layer:
        check_layer(model.network, settings.layer)
    about = {"attnbridge": __version__, "model": model.name, "checksum": model.checksum, **vars(settings)}
    with owned(out, MANIFEST) as own:
        return _explain(model, images, own, choose, settings, batch, about | {NAMES: list(model.classes)})


def _explain(
    model: Classifier,
    images: dict[str, Path],
    own: OwnFiles,
    choose: Choice,
    settings: ExplainSettings,
    batch: int,
    header: dict[str, Any],
) -> list[str]:
    out, look = own.folder, FolderExplainer(model, choose, settings)
    done = _read_manifest(own, header)
    waiting = {i: p for i, p in images.items() if i not in done or not _is_current(out, done[i], p)}
    pages = [out / f"sheet-{page + 1}.jpg" for page in range(-(-len(images) // PER_PAGE))]
    outputs = [*_possible(out, waiting, model.classes), *pages, out / SCORES]
    own.check(outputs)
    own.check_unchanged(outputs)
    bad, sheets = [], _Sheets(own, images)
    with _begun(own, header, done) as manifest, Progress(transient=True) as progress:
        task = progress.add_task("maps", total=len(images), completed=len(images) - len(waiting))
        for loaded in _batches(waiting, batch):
            for name, _ in loaded:
                own.remove(_outputs(out, done.pop(name)) if name in done else ())
            made: dict[str, list[Array]] = {}
            for name, entry, made[name] in look(loaded, own):
                if isinstance(entry, AttnBridgeError):
                    bad.append(str(entry))
                    manifest.write(json.dumps({"id": name, "error": str(entry)}) + "\n")
                else:
                    done[name] = entry | {"file": _stamp(images[name])}
                    manifest.write(json.dumps(done[name]) + "\n")
            manifest.flush()
            sheets.add(done, made, last=loaded[-1][0])
            progress.advance(task, len(loaded))
    sheets.add(done, {}, last=None)
    _write_scores(own, [i for i in images if i in done], model.classes)
    return bad


@dataclass(frozen=True)
class FolderExplainer:
    """A classifier and how it is looked into, on batches of images as they were decoded."""

    model: Classifier
    choose: Choice
    settings: ExplainSettings
    views: Views = ONE_VIEW

    def __call__(
        self, loaded: list[tuple[str, Image.Image | AttnBridgeError]], own: OwnFiles
    ) -> Iterator[tuple[str, Any, list[Array]]]:
        """Id, manifest entry or error, and :func:`_cells` of each image, once its files are written."""
        yield from ((name, image, []) for name, image in loaded if isinstance(image, AttnBridgeError))
        entries = [(name, image) for name, image in loaded if not isinstance(image, AttnBridgeError)]
        if not entries:
            return
        scores, shown, maps = self.look([image for _, image in entries])
        for number, (name, image) in enumerate(entries):
            try:
                yield name, *self._write(own, name, image, scores[number], shown[number], maps[number])
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # else it is not this image's alone
                    raise
                yield name, AttnBridgeError(f"{name}: its maps cannot be written ({error})"), []

    def look(self, loaded: list[Image.Image]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores ``(B, N)``, shown classes ``(B, N)`` and maps ``(B, N, h, w)``, those not asked for 0."""
        transform = eval_transform(self.model.size, self.model.shape)
        images = torch.stack([transform(_tensor(image)) for image in loaded])
        images = to_dtype(images.to(next(self.model.network.parameters()).device), torch.float32, scale=True)
        kept: list[Tensor] = []

        def classes(logits: Tensor) -> Tensor:
            kept.append(self.model.scores(logits.detach()))
            kept.append(self.choose(kept[0]))
            return torch.ones_like(kept[1]) if self.settings.all_maps else kept[1]

        layer = self.settings.layer or (None if self.settings.method in WHOLE_NETWORK_METHODS else self.model.layer)
        how: dict[str, Any] = {"scales": self.views.scales, "flip": self.views.flip, "differentiable": False}
        how |= {"output": self.model.output, "target": self.model.target}
        images = self.model.normalise(images)
        maps = explain(self.model.network, images, classes, layer, self.settings.method, **how).cpu()
        for what, values in (("scores", kept[0]), ("maps", maps)):
            check_finite(values, f"the {what} of {self.model.name}")
        sizes, given = [(each.height, each.width) for each in loaded], (self.model.size, self.model.shape)
        maps = torch.stack([over_image(m, size, *given) for m, size in zip(maps, sizes, strict=True)])
        return kept[0].cpu(), kept[1].cpu(), maps

    def _write(
        self, own: OwnFiles, name: str, image: Image.Image, scores: Tensor, shown: Tensor, maps: Tensor
    ) -> tuple[dict[str, Any], list[Array]]:
        """One image's files, moved to their places once all are made; its entry and cells."""
        stored = torch.arange(len(shown)) if self.settings.all_maps else torch.nonzero(shown).flatten()
        target = own.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        names = {c: self.model.classes[c].split(",")[0] for c in torch.nonzero(shown).flatten().tolist()}
        both = {c: _endings(c, self.model.classes[c]) for c in names}
        apart = len({short for short, _ in both.values()}) == len(both)  # ImageNet knows two cranes
        files = {c: f"{target.name}.{short if apart else long}" for c, (short, long) in both.items()}
        place = Path(name).parent
        listed = [
            {"index": c, "name": names[c], "score": round(float(scores[c]), 5), "overlay": str(place / file)}
            for c, file in files.items()
        ]
        best, cells = _best(listed), list[Array]()
        with partial_folder(target.parent) as folder:
            for c, file in files.items():
                laid = Image.fromarray(overlay(np.asarray(image), normalise_maps(maps[c], "max").numpy()))
                laid.save(folder / file, compress_type=zlib.Z_RLE)  # three times as fast as by default
                if c == best["index"]:
                    cells = _cells(image, laid, best)
            arrays: dict[str, Any] = {"maps": maps[stored].numpy(), "indices": stored.numpy(), "scores": scores.numpy()}
            np.savez(folder / f"{target.name}.npz", **arrays)
            for path in folder.iterdir():
                own.put(path, target.parent / path.name)
        return {"id": name, "arrays": f"{name}.npz", "classes": listed}, cells


def _read_manifest(own: OwnFiles, header: dict[str, Any]) -> dict[str, Any]:
    """The lines of what is done, by id; the last one is dropped if an interruption cut it off."""
    path = own.folder / MANIFEST
    own.check([path])
    lines: list[dict[str, Any]] = []
    texts = read_text(path).splitlines() if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            if 1 < number == len(texts):
                break
            line = None
        if not (line.keys() >= header.keys() - {NAMES} if number == 1 and isinstance(line, dict) else _is_entry(line)):
            raise AttnBridgeError(
                f"{path}, line {number}: was not written by attnbridge; name another folder with --out"
            )
        lines.append(line)
    done = {line["id"]: line for line in lines[1:] if "error" not in line}
    before = {NAMES: header[NAMES]} | lines[0] if done else header
    if before != header:
        changed = next(k for k in [*header, *before] if before.get(k) != header.get(k))
        raise AttnBridgeError(
            f"{path}: this folder holds maps made with {changed} = {before.get(changed)!r}, not "
            f"{header.get(changed)!r}; name another folder with --out, or delete this one"
        )
    return done


def _is_entry(line: Any) -> bool:
    """Whether a line of the manifest is one of an image, whose files lie in the folder."""
    if not isinstance(line, dict) or not isinstance(line.get("id"), str):
        return False
    if "error" in line:
        return True
    shown = line.get("classes")
    if not isinstance(shown, list) or not all(isinstance(c, dict) and {"name", "score"} <= c.keys() for c in shown):
        return False
    places = [line.get("arrays"), *(c.get("overlay") for c in shown)]
    below = (isinstance(p, str) and ".." not in Path(p).parts and not Path(p).is_absolute() for p in places)
    return "file" in line and all(below)


def _write_manifest(own: OwnFiles, header: dict[str, Any], done: dict[str, Any]) -> None:
    """Its lines grow as images are done, so it is known by its name and its first line and not by a checksum."""
    path = own.folder / MANIFEST
    with beside(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in [header, *done.values()]))
        own.put(partial, path, grown=True)


@contextmanager
def _begun(own: OwnFiles, header: dict[str, Any], done: dict[str, Any]) -> Iterator[TextIO]:
    """The manifest, to add lines to; a new one is taken away where something is raised before an image was done."""
    path = own.folder / MANIFEST
    there = path.exists()
    try:
        _write_manifest(own, header, done)
        with path.open("a") as manifest:
            yield manifest
    except BaseException:
        if not there and not done:
            path.unlink(missing_ok=True)
        raise


def _endings(number: int, name: str) -> tuple[str, str]:
    """What is added to an image's id for a class's overlay; the second where two classes have one name.

    >>> _endings(3, "crane, bird")
    ('crane.png', 'crane.3.png')
    """
    plain = _plain(name.split(",")[0])
    return f"{plain}.png", f"{plain}.{number}.png"


def _possible(out: Path, images: Iterable[str], classes: Sequence[str]) -> list[Path]:
    """Arrays of these images, and what is there already under the name of an overlay, whatever its class."""
    endings = {ending for number, name in enumerate(classes) for ending in _endings(number, name)}
    ids = dict.fromkeys(images)
    found = [out / f"{name}.npz" for name in ids]
    for folder in dict.fromkeys(Path(name).parent for name in ids):
        names = sorted(path.name for path in (out / folder).iterdir()) if (out / folder).is_dir() else []
        for name in names:
            dots = [i for i, letter in enumerate(name) if letter == "."]
            if any(name[i + 1 :] in endings and (folder / name[:i]).as_posix() in ids for i in dots):
                found.append(out / folder / name)
    return found


def _stamp(path: Path) -> list[int]:
    """Size and time of a file, to see whether it has changed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _outputs(out: Path, entry: dict[str, Any]) -> list[Path]:
    return [out / entry["arrays"], *(out / c["overlay"] for c in entry["classes"])]


def _is_current(out: Path, entry: dict[str, Any], image: Path) -> bool:
    """Whether an image has not changed since its maps were made, and they are all there and whole."""
    arrays, *overlays = _outputs(out, entry)
    there = image.is_file() and entry["file"] == _stamp(image)
    return there and zipfile.is_zipfile(arrays) and all(map(is_whole, overlays))


def _batches(images: dict[str, Path], size: int) -> Iterator[list[tuple[str, Image.Image | AttnBridgeError]]]:
    """Decoded images; those of the next batch are read while this one is looked at."""

    def load(item: tuple[str, Path]) -> tuple[str, Image.Image | AttnBridgeError]:
        try:
            return item[0], load_image(item[1], least=ENOUGH)
        except AttnBridgeError as error:
            return item[0], error

    items = list(images.items())
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    with ThreadPoolExecutor(2) as pool:
        ahead = [pool.submit(load, item) for item in parts[0]] if parts else []
        for part in [*parts[1:], []] if parts else []:
            current, ahead = ahead, [pool.submit(load, item) for item in part]
            yield [future.result() for future in current]


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _plain(text: str) -> str:
    """A class's name as part of a file's name.

    >>> _plain("Tabby cat/1")
    'Tabby_cat_1'
    """
    return "".join(c if c.isalnum() or c in "-." else "_" for c in text)


class _Sheets:
    """Contact sheets ``sheet-1.jpg``, ...: each image beside the overlay of its most probable shown class.

    A sheet is written once its images are done, so that they need be neither kept nor read again.
    """

    def __init__(self, own: OwnFiles, images: dict[str, Path]) -> None:
        self._own, self._left, self._cells, self._pages = own, deque(images.items()), list[Array](), 0

    def add(self, done: dict[str, Any], made: dict[str, list[Array]], last: str | None) -> None:
        """The next images, up to the ``last`` one; those whose cells were not ``made`` now are read from the folder."""
        while self._left:
            name, path = self._left.popleft()
            if name in done and done[name]["classes"]:
                self._cells += made.get(name) or self._read(done[name], path)
            if len(self._cells) == 2 * PER_PAGE:
                self._write()
            if name == last:
                return
        if self._cells:
            self._write()

    def _read(self, entry: dict[str, Any], path: Path) -> list[Array]:
        best = _best(entry["classes"])
        return _cells(load_image(path, least=ENOUGH), load_image(self._own.folder / best["overlay"]), best)

    def _write(self) -> None:
        self._pages += 1
        rows = [self._cells[i : i + 8] for i in range(0, len(self._cells), 8)]
        with self._own.writing(self._own.folder / f"sheet-{self._pages}.jpg") as partial:
            sheet(rows).save(partial, "JPEG", quality=88)
        self._cells = []


def _best(shown: list[dict[str, Any]]) -> dict[str, Any]:
    """The most probable of an image's shown classes; nothing, if there is none."""
    return max(shown, key=lambda c: c["score"], default={"index": None})


def _cells(image: Image.Image, laid: Image.Image, best: dict[str, Any]) -> list[Array]:
    """An image and its overlay with the class's name, small."""
    return [_thumbnail(image), caption(_thumbnail(laid), f"{best['name']} {best['score']:.2f}")]


def _thumbnail(image: Image.Image) -> Array:
    return np.asarray(image.resize((CELL, CELL), Image.Resampling.BILINEAR, reducing_gap=1.0))


def _write_scores(own: OwnFiles, names: list[str], classes: tuple[str, ...]) -> None:
    """``scores.csv``: the probability of each class, a row for each image."""
    rows = ([name, *map(_digits, read_arrays(own.folder / f"{name}.npz", "scores")["scores"])] for name in names)
    with own.writing(own.folder / SCORES) as partial:
        write_rows(partial, [["id", *classes], *rows])


def _digits(score: float) -> str:
    return f"{score:.4f}"
