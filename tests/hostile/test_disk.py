"""A full disk, and two processes in one folder: real processes, clear words, and nothing lost."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hostile.answers import tree
from tests.hostile.processes import files, run, start
from tests.hostile.test_killed import Case, cases, plain, whole

__all__ = ["cases", "whole"]  # fixtures
pytestmark = [pytest.mark.usefixtures("module_cache"), pytest.mark.hostile]
ROOM = {"fit": 1500, "explain": 200, "saliency": 60, "data import": 30}
"""KB of the disk, less than each command needs."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A small disk, and a larger one in its place at the second call; skips where it cannot be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def resize(kilobytes: int) -> Path:
        nonlocal mounted
        how = f"remount,size={kilobytes}k" if mounted else f"size={kilobytes}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted = True
        return place

    yield resize
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("verb", ROOM)
def test_a_full_disk_is_told_and_more_room_is_enough(
    verb: str, disk: Callable[[int], Path], cases: dict[str, Case], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    expected, log = whole(verb), tmp_path / "log"
    out = disk(ROOM[verb]) / "out"
    words = [*cases[verb].words, "--out", str(out)]
    assert start(words, log).wait(timeout=600) in (1, 2), log.read_text()
    said = log.read_text()
    assert "Traceback" not in said
    assert "No space left" in said
    assert str(out) in said
    assert not [name for name in tree(out) if ".partial" in name]
    for path in files(out):
        assert path.stat().st_size or not (expected / path.relative_to(out)).stat().st_size, f"{path} is half written"
    disk(200_000)
    run([*words, *(cases[verb].resume if (out / "config.yaml").is_file() else ())], log)
    names = {path.relative_to(expected).as_posix() for path in files(expected)}
    assert {path.relative_to(out).as_posix() for path in files(out)} == names
    for name in sorted(names):
        assert plain(out / name, out) == plain(expected / name, expected), name


@pytest.mark.parametrize("verb", ROOM)
def test_a_file_that_may_not_grow_is_told(verb: str, cases: dict[str, Case], tmp_path: Path) -> None:
    """As with a quota."""
    out, log = tmp_path / "out", tmp_path / "log"
    code = "import resource, sys; from attnbridge.cli import main; sys.exit(main(sys.argv[1:]))"
    limit = 1000 if verb != "fit" else 100_000
    with log.open("wb") as handle:
        status = subprocess.run(
            [sys.executable, "-c", code, *cases[verb].words, "--out", str(out)],
            stdout=handle,
            stderr=handle,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            timeout=600,
            check=False,
        ).returncode
    said = log.read_text()
    assert status in (1, 2)
    assert "Traceback" not in said
    assert not [name for name in tree(out) if ".partial" in name]


@pytest.mark.parametrize("verb", ["fit", "explain", "saliency", "data import", "pipeline"])
def test_a_second_process_in_the_folder_is_told_so(
    verb: str, cases: dict[str, Case], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    expected, out = whole(verb), tmp_path / "out"
    words = [*cases[verb].words, "--out", str(out)]
    first = start(words, tmp_path / "first")
    while not files(out):
        assert first.poll() is None, (tmp_path / "first").read_text()
    first.send_signal(19)  # SIGSTOP: it holds the folder as long as it takes
    try:
        second = start([*words, *cases[verb].resume], tmp_path / "second")
        assert second.wait(timeout=120) == 2, (tmp_path / "second").read_text()
    finally:
        first.send_signal(18)  # SIGCONT
    said = (tmp_path / "second").read_text()
    assert str(out) in said
    assert "another process" in said
    assert first.wait(timeout=600) == 0, (tmp_path / "first").read_text()
    for path in files(expected):
        assert plain(out / path.relative_to(expected), out) == plain(path, expected), path
