"""The one exception that users meet, and the words it is made of."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache


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


class DivergedError(AttnBridgeError):
    """Training ended in a loss that is no number."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> AttnBridgeError:
    """Build the error for a name that does not exist, with the nearest ones that do.

    >>> print(unknown_name("method", "atnbn", ["attnbn", "grad_cam"]))
    unknown method 'atnbn'; did you mean 'attnbn'?
    >>> print(unknown_name("method", "zzz", ["attnbn", "grad_cam"], hint="see `attnbridge list`"))
    unknown method 'zzz'; there are: attnbn, grad_cam; see `attnbridge list`
    """
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        text = f"did you mean {' or '.join(repr(n) for n in near)}?"
    else:
        shown = ", ".join(names[:30]) + (f", ... ({len(names)} in all)" if len(names) > 30 else "")
        text = f"there are: {shown}"
    return AttnBridgeError(f"unknown {kind} {name!r}; {text}" + (f"; {hint}" if hint else ""))


@cache
def warn_once(message: str) -> None:
    """Tell of something that is suspicious, but may be meant: on stderr, or wherever logging leads, once a process."""
    logging.getLogger("attnbridge").warning("warning: %s", message)
