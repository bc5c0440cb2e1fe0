"""The verb ``data``: check a data set, or bring a public one into a layout that training reads."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter

from attnbridge.cli.common import Verb, out_for, path_of
from attnbridge.datasets import SETS, resolve_split

EPILOG = """Class folders go to DIR/CLASS/ as links; name another DIR for each split. Sets of several labels go to VOC's
layout, several splits into one DIR. VOC itself is read where it lies; SBD is written into VOC 2012's kit.

data sets (name, splits, classes other than its own, where to get it, what ROOT must hold):
"""


def _add_data(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="counts, broken files, masks and labels that disagree")
    check.add_argument("path", type=path_of("path"), help="class folders, splits with labels.csv, or VOC's layout")
    check.add_argument("--out", type=path_of("--out"), help="write the table and the problems there, as Markdown")

    bring = actions.add_parser(
        "import",
        help="bring a public data set into a layout that training reads",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG + "\n".join(_described(name) for name in SETS),
    )
    bring.add_argument("set", help="one of those below")
    bring.add_argument("root", type=path_of("root"), help="the set's folder, in its own layout")
    bring.add_argument("--out", type=out_for("imports.json"), metavar="DIR", help="folder to write")
    bring.add_argument("--split", help="default: the first")
    bring.add_argument("--classes", help="voc: VOC's names of classes; default: the set's own classes")
    bring.add_argument("--download", action="store_true", help="fetch the set into ROOT first (VOC, SBD, Caltech)")


def _described(name: str) -> str:
    entry = SETS[name]
    splits = ", ".join(entry.splits) + (", or of your own" if entry.other_splits else "")
    classes = f"; --classes {', '.join(entry.mappings)}" if entry.mappings else ""
    return f"  {name}: {splits}{classes}\n    {entry.source}\n    ROOT: {entry.layout}"


def data(options: argparse.Namespace) -> int:
    """Run the action."""
    return _import(options) if options.action == "import" else _check(options)


def _check(options: argparse.Namespace) -> int:
    """Print the table and the problems; status 1 if there are any."""
    from attnbridge.data.provenance import check_own_file, own_file
    from attnbridge.datasets.check import check_set, table

    if options.out:
        check_own_file(options.out)
    found = check_set(options.path)
    text = "\n".join([table(found), "", f"{len(found.problems)} problems", *(f"- {p}" for p in found.problems)])
    print(text)
    if options.out:
        with own_file(options.out) as partial:
            partial.write_text(text + "\n")
    return 1 if found.problems else 0


def _import(options: argparse.Namespace) -> int:
    """Bring a set in, print its table and what to do next."""
    resolve_split(options.set, options.split, options.classes)
    from attnbridge.datasets.check import Check, table
    from attnbridge.datasets.importer import import_dataset

    done = import_dataset(options.set, options.root, options.out, options.split, options.classes, options.download)
    counts = Counter(dict(enumerate(done.counts.values())))
    print(table(Check(tuple(done.counts), {done.split: counts}, {done.split: done.images})))
    check = f"\nnext: attnbridge data check {shlex.quote(str(done.folder))}"
    if SETS[options.set].module.endswith(".domains"):
        print(
            f"{check}, and the other domains beside it\nin a configuration:\n"
            f"  data:\n    data: {done.folder.parent}\n"
            f"    sources: [...]\n    target: {done.folder.name}"
        )
    elif done.kind == "class folders":
        print(f"{check}\nin a configuration:\n  data:\n    source: {done.folder}")
    else:
        print(
            f"{check}\nin a configuration, with the lists that you want:\n"
            f"  data:\n    target: {done.folder}\n    lists: {{train: {done.split}, val: ..., test: ...}}"
        )
    return 0


VERBS = (
    Verb(
        "data", "data", "check a data set, or import a public one (COCO, VOC, Caltech, ImageNet, ...)", _add_data, data
    ),
)
