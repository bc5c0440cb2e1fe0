"""A run's configuration on the disk: comments that a user added to it are no change, and stay. Free of torch."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnbridge.data.provenance import LEDGER, OwnFiles
from attnbridge.data.text import dump_yaml, parse_yaml, read_text, with_values
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.runs import CONFIG, NETWORK, NETWORK_FILES, Run
from attnbridge.models.names import parse_name


def write_network(backbone: str, own: OwnFiles) -> None:
    """Keep in a run's folder what describes a backbone from a Hugging Face folder, so that the run can be loaded
    without that one."""
    name = parse_name(backbone)
    if name.library == "hub":
        from attnbridge.models.libraries import hub_folder

        name = hub_folder(name, weights=False)
    for file in NETWORK_FILES if name.library == "folder" else ():
        if (name.folder / file).is_file():
            with own.writing(own.folder / NETWORK / file) as partial:
                shutil.copyfile(name.folder / file, partial)


def write_config(experiment: Experiment, own: OwnFiles) -> None:
    """Write what a run is of into its folder, unless it says so already; in a file with comments, see
    :func:`take_config`, other settings of the evaluation alone are written, at their places."""
    path, run = own.folder / CONFIG, Run(own.folder, trust=True)
    text = plain = dump_yaml(experiment.to_mapping())
    if run.begun:
        if run.config == experiment:
            return
        before = read_text(path)
        if before != _plain(before, path):
            text = _edited(before, path, experiment)
    with own.writing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    if text != plain:
        own.note(path, _plain(text, path))


def take_config(own: OwnFiles) -> None:
    """A run's configuration that says what was written, whatever comments and blank lines were added, is the program's
    to change; one with other values is not."""
    path = own.folder / CONFIG
    forms = _plain(read_text(path), path), dump_yaml(Run(own.folder, trust=True).config.to_mapping())
    if any(own.wrote(path, form) for form in forms):
        own.adopt(path)


def check_list(run: Run) -> None:
    """Check that a run has the list of its files, without which none of them is known to be the program's.

    Raises:
        AttnBridgeError: saying how to copy it.
    """
    if (run.done or run.checkpoint.is_file()) and not os.path.lexists(run.folder / LEDGER):
        raise AttnBridgeError(
            f"{run.folder}: has no {LEDGER}, the hidden list of what attnbridge wrote, so nothing in it is changed; "
            "copy that file, too, from where the run was made (cp -r RUN PLACE does so, cp RUN/* PLACE does not); "
            f"`attnbridge test {shlex.quote(str(run.folder))}` alone writes nothing and needs no list"
        )


def _plain(text: str, path: Path) -> str:
    """What a configuration says, as it would be written."""
    return dump_yaml(parse_yaml(text, str(path)))


def _edited(text: str, path: Path, experiment: Experiment) -> str:
    """A configuration with comments, with other settings of the evaluation."""
    before = parse_yaml(text, str(path)).get("evaluation") or {}
    now: dict[str, Any] = experiment.to_mapping().get("evaluation", {})
    usual = asdict(experiment.evaluation)  # of those that are as they are by default, which are not written
    values = {name: now.get(name, usual[name]) for name in {**before, **now} if before.get(name) != now.get(name)}
    edited = with_values(text, "evaluation", {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()})
    try:
        if edited is not None and Experiment.from_mapping(parse_yaml(edited, str(path)), str(path)) == experiment:
            return edited
    except AttnBridgeError:
        pass
    raise AttnBridgeError(
        f"{path}: has comments where other settings of the evaluation would be written; move them to lines of their "
        "own outside of `evaluation`"
    )
