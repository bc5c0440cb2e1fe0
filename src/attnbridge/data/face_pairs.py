"""Pairs of images of the same person or of two, in LFW's format: ten folds, half of each the same."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attnbridge.data.files import inner_path
from attnbridge.data.folders import class_names, list_images
from attnbridge.data.provenance import own_file
from attnbridge.data.text import read_text
from attnbridge.errors import AttnBridgeError

FOLDS = 10


class Pair(NamedTuple):
    """Two images, whether they show one person, and the fold that they belong to, from 0."""

    first: Path
    second: Path
    same: bool
    fold: int


def read_pairs(path: Path, images: Path) -> list[Pair]:
    """Pairs as LFW's ``pairs.txt`` has them.

    The first line is the number of folds and of same pairs in each; then, for each fold, so many lines ``NAME i j`` and
    as many ``NAME i OTHER j``, separated by tabs. Image i of NAME is ``NAME/NAME_000i.*`` as in LFW, or, where there
    is none of this name, the i-th of the folder's images in order of their names, from 1.

    Args:
        path: the list.
        images: a folder with one folder for each person.

    Raises:
        AttnBridgeError: for a line that is no pair, or an image that is not there.
    """
    if not path.is_file():
        raise AttnBridgeError(f"{path}: no such file; leave --pairs out to have pairs drawn from the folders")
    lines = read_text(path).rstrip().split("\n")
    numbers = lines[0].split()
    if len(numbers) != 2 or not all(re.fullmatch("[1-9][0-9]{0,8}", number) for number in numbers):
        raise AttnBridgeError(
            f"{path}: the first line must be the number of folds and of same pairs in a fold, `10 300`, not "
            f"{lines[0][:80]!r}"
        )
    folds, each = map(int, numbers)
    if len(lines) != 1 + folds * each * 2:
        raise AttnBridgeError(f"{path}: has {len(lines) - 1} pairs, but {folds} folds of 2 x {each} are announced")
    shelf: dict[str, list[Path]] = {}
    return [_pair(path, n, line, images, shelf, (n - 2) // (2 * each)) for n, line in enumerate(lines[1:], 2)]


def _pair(path: Path, number: int, line: str, images: Path, shelf: dict[str, list[Path]], fold: int) -> Pair:
    words = line.rstrip("\r").split("\t")
    places = words[1:] if len(words) == 3 else words[1::2]
    if len(words) not in (3, 4) or not all(re.fullmatch("[0-9]{1,9}", place.strip()) for place in places):
        raise AttnBridgeError(
            f"{path}, line {number}: expected `NAME i j` or `NAME i OTHER j`, separated by tabs, not {line!r}"
        )
    names = (words[0], words[0] if len(words) == 3 else words[2])
    first, second = (_image(path, number, images, n, int(p), shelf) for n, p in zip(names, places, strict=True))
    if first == second:
        raise AttnBridgeError(f"{path}, line {number}: pairs {first} with itself; take the line out")
    return Pair(first, second, len(words) == 3, fold)


def _image(path: Path, number: int, images: Path, name: str, place: int, shelf: dict[str, list[Path]]) -> Path:
    if name not in shelf:
        shelf[name] = _images(images / inner_path(name, f"{path}, line {number}"))
    for found in shelf[name]:
        if found.stem == f"{name}_{place:04d}":
            return found
    if not 1 <= place <= len(shelf[name]):
        raise AttnBridgeError(
            f"{path}, line {number}: no image {place} of {name!r}; {images / name} holds {len(shelf[name])}"
        )
    return shelf[name][place - 1]


def _images(folder: Path) -> list[Path]:
    return list_images(folder) if folder.is_dir() else []


def draw_pairs(images: Path, out: Path, each: int = 300, seed: int = 0) -> None:
    """Draw pairs of a folder of persons into a list that :func:`read_pairs` reads.

    The folds share no person, as in LFW; where few persons have two images, a fold has fewer than ``each`` same
    pairs.

    Args:
        images: a folder with one folder for each person.
        out: the list to write.
        each: same pairs of a fold, and as many of two persons.
        seed: of the draw.

    Raises:
        AttnBridgeError: if there are fewer than two persons with two images for each fold.
    """
    counts = {name: len(_images(images / name)) for name in class_names(images)}
    twice = sorted(name for name, count in counts.items() if count > 1)
    if len(twice) < 2 * FOLDS:
        raise AttnBridgeError(
            f"{images}: {len(twice)} persons have two images or more; {FOLDS} folds need {2 * FOLDS} of them"
        )
    rng = random.Random(seed)
    rng.shuffle(twice)
    groups = [twice[fold::FOLDS] for fold in range(FOLDS)]
    same = [_same(group, counts, rng) for group in groups]
    each = min(each, *(len(found) for found in same))
    lines = [f"{FOLDS}\t{each}"]
    for group, found in zip(groups, same, strict=True):
        lines += found[:each]
        lines += [_other(group, counts, rng) for _ in range(each)]
    with own_file(out) as partial:
        partial.write_text("\n".join(lines) + "\n")


def _same(group: Sequence[str], counts: dict[str, int], rng: random.Random) -> list[str]:
    found = [f"{n}\t{i}\t{j}" for n in group for i in range(1, counts[n] + 1) for j in range(i + 1, counts[n] + 1)]
    rng.shuffle(found)
    return found


def _other(group: Sequence[str], counts: dict[str, int], rng: random.Random) -> str:
    first, second = rng.sample(group, 2)
    return f"{first}\t{rng.randint(1, counts[first])}\t{second}\t{rng.randint(1, counts[second])}"
