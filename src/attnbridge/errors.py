"""The one exception that users meet, and the words it is made of."""

from __future__ import annotations

import logging
import os
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from typing import Any

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "NODE_RANK", "GROUP_RANK")
"""Variables of the environment that tell a process of a group that it is not the first."""


class AttnBridgeError(Exception):
    """Something in the user's files, names or options is not as it must be.

    The message names the file or argument, says what was expected and what to do. The command line
    prints it alone, without a traceback, and exits with status 2. A DataLoader that raises it again from a
    worker process wraps the worker's traceback around the message; the message alone is kept.

    >>> print(AttnBridgeError("Caught AttnBridgeError in worker 0. ... AttnBridgeError: a.jpg: is no image"))
    a.jpg: is no image
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught AttnBridgeError in "):
            message = message.strip().rsplit("AttnBridgeError: ", 1)[-1]
        super().__init__(message)


@contextmanager
def gathering(faults: list[str] | None) -> Iterator[None]:
    """An error inside ends what is inside and is added to a list; without a list it is raised.

    >>> faults = []
    >>> with gathering(faults):
    ...     raise AttnBridgeError("a.jpg: is no image")
    >>> faults
    ['a.jpg: is no image']
    """
    try:
        yield
    except AttnBridgeError as error:
        if faults is None:
            raise
        faults.append(str(error))


class DivergedError(AttnBridgeError):
    """Training ended in a loss that is no number."""


def unknown_name(kind: str, name: Any, known: Iterable[str], hint: str = "") -> AttnBridgeError:
    """Build the error for a name that does not exist, with the nearest ones that do.

    >>> print(unknown_name("method", "atnbn", ["attnbn", "grad_cam"]))
    unknown method 'atnbn'; did you mean 'attnbn'?
    >>> print(unknown_name("method", "zzz", ["attnbn", "grad_cam"], hint="see `attnbridge list`"))
    unknown method 'zzz'; there are: attnbn, grad_cam; see `attnbridge list`
    """
    names = list(known)
    text = did_you_mean(name, names)
    if not text:
        some = ", ".join(names[:30]) + (f", ... ({len(names)} in all)" if len(names) > 30 else "")
        text = f"there are: {some}"
    what = repr(name) if isinstance(name, str) else shown(name)
    return AttnBridgeError(f"unknown {kind} {what}; {text}" + (f"; {hint}" if hint else ""))


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise unless the value of an argument is one of the choices.

    >>> check_choice("resolution", "maps", ("map", "saliency"))
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: resolution must be map or saliency, not 'maps'; did you mean 'map'?
    """
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        listed = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
        near = did_you_mean(value, known)
        raise AttnBridgeError(f"{name} must be {listed}, not {shown(value)}" + (f"; {near}" if near else ""))


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """The question for the nearest names, or nothing where none is near.

    >>> did_you_mean("maps", ["map", "saliency"])
    "did you mean 'map'?"
    """
    near = get_close_matches(name, list(known), n=3, cutoff=0.6) if isinstance(name, str) else []
    return f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def shown(value: Any) -> str:
    """A value as messages show it: short, on one line.

    >>> shown("map"), shown([0] * 100)
    ("'map'", '[0, 0, 0, 0, 0, 0, ...]')
    """
    try:
        return " ".join(_short.repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


@cache
def warn_once(message: str) -> None:
    """Tell of something that is suspicious, but may be meant: on stderr, or wherever logging leads, once a process; of
    a group of processes, which all look at the same data, the first one tells."""
    if is_first_process():
        logging.getLogger("attnbridge").warning("warning: %s", message)


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of a group."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)
