"""One reader for each format, and what it says of files that are not of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbridge.data.text import read_json, read_rows, read_text, read_yaml, write_rows
from attnbridge.errors import AttnBridgeError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("größe\r\n".encode("utf-8-sig"))
    assert read_text(path) == "größe\r\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_of_any_spreadsheet(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f'id{delimiter}cat\r\n\r\n"1{delimiter}5"{delimiter}0\r\n'.encode("utf-8-sig"))
    assert read_rows(path) == [["id", "cat"], [f"1{delimiter}5", "0"]]


def test_a_cell_is_no_formula_and_comes_back(tmp_path: Path) -> None:
    rows = [["=1+1", "-2", "@a", "a", "'quoted'"]]
    write_rows(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text() == "'=1+1,-2,'@a,a,'quoted'\n"
    assert read_rows(tmp_path / "a.csv") == rows


@pytest.mark.parametrize(
    ("read", "content", "says"),
    [
        (read_text, b"abc\xff", "byte 3 is 0xff"),
        (read_text, b"ab\0c", "zero byte at 2"),
        (read_rows, b'a,b\n"c"d,e\n', "line 2"),
        (read_rows, b'a,b\n"c', "line 2"),
        (read_json, b'{"a": }', "line 1, column 7"),
        (read_json, b"", "is not JSON"),
        (read_json, b"[" * 100_000, "nested too deeply"),
        (read_yaml, b"a: 1\nb: [", "line 2, column 5"),
        (read_yaml, b"a: 1\na: 2\n", "line 2, column 1: the key 'a' is there twice"),
        (read_yaml, b"a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (read_yaml, b"a: 2001-99-99", "month must be in 1..12"),
        (read_yaml, b"a: &x [*x]", "holds itself"),
        (read_yaml, b"[" * 10_000, "nested too deeply"),
        (read_yaml, LAUGHS.encode(), "aliases stand for more than 100,000 values"),
    ],
    ids=lambda part: part.__name__ if callable(part) else str(part)[:30],
)
def test_errors_name_the_file_and_the_place(
    tmp_path: Path, read: Callable[[Path], Any], content: bytes, says: str
) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(AttnBridgeError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path / "pipe", "no regular file"),
        (tmp_path, "no regular file"),
        (tmp_path / "no", "no such"),
    ):
        with pytest.raises(AttnBridgeError, match=says):
            read_text(path)
