"""Names of classes from files of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbridge.errors import AttnBridgeError
from attnbridge.models.labels import names_inside, read_class_names


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("c.txt", "cat\ndog\n\ncrane, bird\n"),
        ("c.names", "\ufeffcat\r\ndog\r\ncrane, bird"),
        ("c.json", '["cat", "dog", "crane, bird"]'),
        ("c.json", '{"0": "cat", "2": "crane, bird", "1": "dog"}'),
        ("c.json", '{"crane, bird": 2, "cat": 0, "dog": 1}'),
    ],
)
def test_each_form_gives_the_names_in_order(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / file) == ("cat", "dog", "crane, bird")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("c.txt", "\n", r"c\.txt: holds no class names; expected one a line"),
        ("c.json", "[]", r"c\.json: expected a list of class names, or a mapping .*, not \[\]"),
        ("c.json", '{"0": "cat", "2": "dog"}', r"c\.json: expected a list of class names"),
        ("c.json", '{"cat": 0, "dog": 0}', r"c\.json: expected a list of class names"),
        ("c.json", "[1, 2]", r"c\.json: expected a list of class names"),
        ("c.json", "{", r"c\.json: is not JSON"),
    ],
)
def test_files_without_names_are_told(file: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(AttnBridgeError, match=message):
        read_class_names(tmp_path / file)


def test_what_is_no_list_of_names_is_passed_over() -> None:
    assert names_inside({"classes": 5, "class_names": None, "config": {"id2label": {"1": "b", "0": "a"}}}) == ("a", "b")
    assert names_inside({"classes": True, "meta": 3}) is None
    assert names_inside([1]) is None
