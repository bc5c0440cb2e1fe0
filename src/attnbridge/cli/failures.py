"""What a command says of an error that is not a mistake in its words: a full disk, too little memory, or a bug."""

from __future__ import annotations

import errno
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from attnbridge import __version__

BUG = 70
"""Exit status of an error that nobody thought of: ``EX_SOFTWARE`` of sysexits.h."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def answer(error: BaseException, words: Sequence[str]) -> tuple[str, int]:
    """A line for an error, and the exit status.

    Args:
        error: that nobody caught.
        words: the command.

    >>> answer(PermissionError(13, "Permission denied", "runs/a"), ["fit"])
    ('runs/a: Permission denied; name a place that you may read and write', 2)
    """
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error)
    if is_out_of_memory(error):
        return "there is too little memory; make data.batch_size, data.image_size or data.workers smaller", 1
    if isinstance(error, RecursionError):
        return "something is nested too deeply; look at the configuration and at the files that the command names", 2
    return _bug(error, words), BUG


def is_interrupt(error: BaseException) -> bool:
    """Whether an error is an interrupt, or what it left behind, as a file that cannot be closed any more."""
    return isinstance(error, KeyboardInterrupt) or (error.__context__ is not None and is_interrupt(error.__context__))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was lacking, on the processor or on a GPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text))
    )


def _of_the_system(error: OSError) -> tuple[str, int]:
    """What the system refused: the file, its words, and what to do."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = " -> ".join(names) or "a file"
    words = error.strerror or type(error).__name__
    if error.errno in FULL:
        return f"{where}: {words}; make room, and give the same command again", 1
    if error.errno in DENIED:
        return f"{where}: {words}; name a place that you may read and write", 2
    if error.errno == errno.ENAMETOOLONG:
        return f"{where[:80]}...: {words}; name a shorter one", 2
    return f"{where}: {words}", 1


def _bug(error: BaseException, words: Sequence[str]) -> str:
    """Keep all that is known of an error in a file of its own."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    lines = [f"attnbridge {__version__}, Python {sys.version}", f"attnbridge {shlex.join(words)}", ""]
    text = "\n".join([*lines, *traceback.format_exception(error)])
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="attnbridge-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as handle:
            handle.write(text)
    except OSError:
        return f"this is a bug of attnbridge: {said}; no log could be written to {tempfile.gettempdir()}"
    return f"this is a bug of attnbridge: {said}; please report it with {Path(handle.name)}"
