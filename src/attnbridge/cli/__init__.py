"""The command line. Names and options are checked before torch is imported, so a typo is answered at once."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attnbridge import __version__
from attnbridge.cli import datasets, looking, masks, names, training
from attnbridge.cli.common import GROUPS, Verb
from attnbridge.cli.failures import answer, is_interrupt
from attnbridge.errors import AttnBridgeError, unknown_name
from attnbridge.experiments.checks import check_environment
from attnbridge.lazy import lacks_training

DESCRIPTION = "See where a vision network looks, teach it where to look, and carry that across datasets."
VERBS: dict[str, Verb] = {
    verb.name: verb for group in (looking, training, masks, datasets, names) for verb in group.VERBS
}
FORMER = {
    "predict": "attnbridge explain IMAGES --model RUN --threshold 0.5 --all",
    "init-config": "attnbridge show NAME > mine.yaml",
}
"""Commands that are another one now."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0; 1 where some input was skipped, or the machine has too little room; 2 for a user's mistake;
        70 for a bug; 130 when interrupted; 143 after SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes that are started find no modules in the working folder
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    with _terminable() as terminated:
        status = _answered(words)
    return 143 if terminated else status


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """SIGTERM, as schedulers send it, ends a command as Ctrl+C does, so that it clears up; it is in the list then."""
    terminated: list[int] = []

    def terminate(number: int, frame: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _answered(words: list[str]) -> int:
    """Run a command, and tell of what it raises; the exit status."""
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except AttnBridgeError as error:
        print(f"attnbridge: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        lacking = lacks_training(words[0], error)
        if lacking is None:
            return _failed(error, words)
        print(f"attnbridge: error: {lacking}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            return _failed(error, words)
        print("attnbridge: interrupted; the same command goes on, `fit` with --resume", file=sys.stderr)
        return 130


def _failed(error: BaseException, words: list[str]) -> int:
    """Tell of an error that is no mistake in the command's words; the exit status."""
    text, status = answer(error, words)
    print(f"attnbridge: error: {text}", file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        if words[0] in FORMER:
            raise AttnBridgeError(f"the command {words[0]!r} is another one now: {FORMER[words[0]]}")
        raise unknown_name("command", words[0], VERBS, "see `attnbridge --help`")
    _check_words(words)
    parser, parsers = _parsers()
    if not words or words[0] in ("-h", "--help"):
        print(help_text(), end="")
        return 0
    options, rest = parser.parse_known_args(words)
    verb = VERBS.get(options.verb or "")
    if rest and (verb is None or not verb.overrides):
        where = f"of {options.verb}" if verb else "before a command"
        own = parsers[verb.name] if verb else parser
        raise unknown_name(f"argument {where}:", rest[0], _flags(own, getattr(options, "action", None)))
    if verb is None:
        print(help_text(), end="")
        return 0
    options.overrides = rest
    check_environment()
    return verb.run(options)


def _check_words(words: list[str]) -> None:
    """An empty word, as of a variable that is not set, would be the working folder, or no value at all."""
    for before, word in zip(["", *words], words, strict=False):
        flag, is_pair, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if "\0" in word or ((is_pair or not flag) and not value.strip()):
            where = flag or (before if before.startswith("--") else "an argument")
            raise AttnBridgeError(f"{where}: is {value!r}; give a name or a value, or leave it out")


def help_text() -> str:
    """What ``--help`` prints: the commands by what a person wants, the first of each group before the rare ones."""
    lines = ["usage: attnbridge COMMAND ...", "", DESCRIPTION]
    for group, title in GROUPS.items():
        own = [verb for verb in VERBS.values() if verb.group == group]
        lines += ["", title, *(f"  {verb.name:<11}{verb.help}" for verb in own if not verb.rare)]
        rare = [verb for verb in own if verb.rare]
        if rare:
            lines.append("  and also:  " + "; ".join(f"{verb.name}, {verb.help}" for verb in rare))
    lines += ["", "attnbridge COMMAND --help tells its arguments; --version the version."]
    return "\n".join(lines) + "\n"


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and that of each command."""
    parser = argparse.ArgumentParser("attnbridge", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"attnbridge {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND")
    known = {}
    for verb in VERBS.values():
        known[verb.name] = commands.add_parser(verb.name, help=verb.help, description=verb.help)
        verb.add(known[verb.name])
    return parser, known


def _flags(parser: argparse.ArgumentParser, action: str | None) -> list[str]:
    """The options of a command, of its action if it has actions."""
    for known in parser._actions:
        if action and isinstance(known, argparse._SubParsersAction):
            parser = known.choices[action]
    return [flag for known in parser._actions for flag in known.option_strings]
