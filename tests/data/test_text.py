"""One reader for each format, and what it says of files that are not of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbridge.data.text import parse_yaml, read_json, read_rows, read_text, read_yaml, with_values, write_rows
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\n", "a: 1\ns: {x: 2, y: [1, 2]}\n"),
        ("a: 1", "a: 1\ns: {x: 2, y: [1, 2]}\n"),
        ("s:\n# end\n", "s: {x: 2, y: [1, 2]}\n# end\n"),
        ("s: {}  # none\na: 1\n", "s: {x: 2, y: [1, 2]}  # none\na: 1\n"),
        ("s: {x: 1}\n", "s: {y: [1, 2], x: 2}\n"),
        ("s:\n    x: 1  # one\n    z: 3\n# a\na: 1\n", "s:\n    y: [1, 2]\n    x: 2  # one\n    z: 3\n# a\na: 1\n"),
        ("s:\n  y:\n  - 3\n  - 4 # four\n\n  # x\n  x: 1\n", "s:\n  y: [1, 2] # four\n\n  # x\n  x: 2\n"),
        ("# \u00e4\r\ns:\r\n  x: 'one'\r\n  y: []\r\n", "# \u00e4\r\ns:\r\n  x: 2\r\n  y: [1, 2]\r\n"),
        ("s:\n  y:\n  - 3 # three\n  - 4\n", None),
    ],
    ids=["no section", "no end", "null", "empty", "one line", "lines", "a list", "carriage returns", "inside a value"],
)
def test_values_are_replaced_and_comments_stay(text: str, expected: str | None) -> None:
    assert with_values(text, "s", {"x": 2, "y": [1, 2]}) == expected
    if expected is not None:
        before, after = (parse_yaml(each, "mine.yaml") for each in (text, expected))
        assert after == {**before, "s": {**(before.get("s") or {}), "x": 2, "y": [1, 2]}}
