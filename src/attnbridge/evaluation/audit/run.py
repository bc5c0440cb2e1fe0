"""An audit over any number of images: a few at a time, each row written as it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torchvision.transforms.v2.functional import to_dtype

from attnbridge import __version__
from attnbridge.attention.finder import find_layer
from attnbridge.attention.layers import check_layer, eval_mode, unwrap
from attnbridge.bounds import BatchSize, Seed, check_number
from attnbridge.data.images import load_image
from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles
from attnbridge.data.transforms import eval_transform, sides
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.audit.contexts import find_contexts
from attnbridge.evaluation.audit.masks import Objects, at_size
from attnbridge.evaluation.audit.measure import Example, measure
from attnbridge.evaluation.audit.result import TABLES, Audit
from attnbridge.evaluation.audit.rows import ROWS, Entry, check_same, growing, read_rows, to_line
from attnbridge.evaluation.audit.sources import Listed
from attnbridge.evaluation.audit.tables import ImageRow
from attnbridge.evaluation.audit.verdict import find_confusions, judge
from attnbridge.evaluation.record import run_record
from attnbridge.models.classifiers import Classifier

GROUP = 16
"""Images that are in memory at once, among which backgrounds are swapped; which these are hangs on no other option."""
ENOUGH = 2048
"""Pixels of the shorter side that an image keeps at least."""
console = Console(stderr=True)


def audit_images(
    model: Classifier,
    listed: Listed,
    objects: Objects,
    *,
    layer: str | None = None,
    batch: int = 8,
    out: Path | None = None,
    seed: int = 0,
) -> Audit:
    """Audit a classifier; see :func:`attnbridge.audit`.

    Args:
        model: what is audited.
        listed: its images.
        objects: where their objects are.
        layer: to look at; default: the classifier's own, or the last spatial features.
        batch: images in one forward pass.
        out: folder to write; a second call goes on where the first one stopped.
        seed: of bootstrap and contexts.

    Raises:
        AttnBridgeError: if ``out`` holds an audit of something else, no image can be read, or the model cannot be
            looked into.
    """
    check_number("batch", batch, BatchSize)
    check_number("seed", seed, Seed)
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model.network))
        chosen = _layer(model, layer)
        header = _header(model, chosen, listed, objects)
        own = None if out is None else stack.enter_context(owned(out, TABLES))
        entries = _measure_all(model, chosen, listed, objects, batch, own, header)
        found = _result(listed, objects, entries, header, seed)
        if own is not None:
            found.save(own.folder)
    return found


def _layer(model: Classifier, layer: str | None) -> str:
    chosen = layer or model.layer
    if chosen is None:
        return find_layer(model.network, sides(model.size))
    check_layer(unwrap(model.network), chosen)
    return chosen


def _header(model: Classifier, layer: str, listed: Listed, objects: Objects) -> dict[str, Any]:
    """What decides the rows."""
    return {
        "attnbridge": __version__,
        "model": model.name,
        "checksum": model.checksum,
        "layer": layer,
        "classes": hashlib.sha256("\n".join(model.classes).encode()).hexdigest()[:16],
        "images": f"{len(listed.images)} of the checksum {listed.digest()}",
        "objects": objects.words,
    }


def _measure_all(
    model: Classifier,
    layer: str,
    listed: Listed,
    objects: Objects,
    batch: int,
    own: OwnFiles | None,
    header: Mapping[str, Any],
) -> dict[str, Entry]:
    groups = deal(listed)
    done = {} if own is None else _done(own, header, groups)
    waiting = [group for group in groups if group[0] not in done]
    with _rows_of(own, header, done) as handle, ThreadPoolExecutor(2) as pool:
        for group in track(waiting, "images", transient=True, console=console):
            loaded = list(pool.map(lambda name: _load(model, listed, objects, name), group))
            found = _measured(model, layer, group, loaded, batch)
            done |= found
            if handle is not None:
                handle.write("".join(f"{to_line(name, found[name])}\n" for name in group))
                handle.flush()
    return done


@contextmanager
def _rows_of(own: OwnFiles | None, header: Mapping[str, Any], done: Mapping[str, Entry]) -> Iterator[TextIO | None]:
    if own is None:
        yield None
    else:
        with growing(own, header, done) as handle:
            yield handle


def deal(listed: Listed) -> list[list[str]]:
    """Groups of at most :data:`GROUP` ids, of sizes as equal as can be, with the classes spread over all of them.

    >>> groups = deal(Listed({f"{i}": Path("x") for i in range(20)}, {f"{i}": (i // 10,) for i in range(20)}))
    >>> [[sum(int(name) // 10 == c for name in group) for c in (0, 1)] for group in groups]
    [[5, 5], [5, 5]]
    """

    def key(name: str) -> tuple[tuple[int, ...], bytes]:
        return listed.truth.get(name, ()), hashlib.sha256(name.encode()).digest()

    ordered, count = sorted(listed.images, key=key), -(-len(listed.images) // GROUP)
    return [ordered[start::count] for start in range(count)]


def _done(own: OwnFiles, header: Mapping[str, Any], groups: Sequence[Sequence[str]]) -> dict[str, Entry]:
    """What an earlier call has measured, in whole groups."""
    path = own.folder / ROWS
    own.check([path])
    if not path.is_file():
        return {}
    before, entries = read_rows(path)
    check_same(path, {name: before.get(name) for name in header}, header)
    return {name: entries[name] for group in groups if all(n in entries for n in group) for name in group}


def _load(model: Classifier, listed: Listed, objects: Objects, name: str) -> Example | str:
    """One image with its object at the network's size, or why it cannot be had."""
    path, size, shape = listed.images[name], model.size, model.shape
    try:
        image = load_image(path, least=ENOUGH)
        find = objects.find(name, path, size, shape)
        second = objects.find_second(name, path, size, shape)
    except AttnBridgeError as error:
        return str(error)
    pixels = eval_transform(size, shape)(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    inside = at_size(torch.ones(image.height, image.width), size, shape) >= 0.5
    whole = to_dtype(pixels, torch.float32, scale=True)
    return Example(name, whole, inside, listed.truth.get(name, ()), find, objects.drawn, second)


def _measured(
    model: Classifier, layer: str, group: Sequence[str], loaded: Sequence[Example | str], batch: int
) -> dict[str, Entry]:
    examples = [each for each in loaded if isinstance(each, Example)]
    rows = {row.id: row for row in measure(model, layer, examples, batch)} if examples else {}
    failed = {name: each for name, each in zip(group, loaded, strict=True) if isinstance(each, str)}
    return {name: failed[name] if name in failed else rows[name] for name in group}


def _result(
    listed: Listed, objects: Objects, entries: Mapping[str, Entry], header: Mapping[str, Any], seed: int
) -> Audit:
    rows = tuple(entry for name in listed.images if isinstance(entry := entries[name], ImageRow))
    skipped = tuple(entry for name in listed.images if isinstance(entry := entries[name], str))
    if not rows:
        raise AttnBridgeError(f"none of the {len(skipped)} images could be audited; the first: {skipped[0]}")
    about = {**header, "drawn": objects.drawn, "seed": seed, **run_record()}
    classes, contexts = judge(rows, objects.drawn, seed), find_contexts(rows, seed)
    return Audit(rows, classes, contexts, find_confusions(rows), skipped, about)
