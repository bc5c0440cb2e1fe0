"""Text that others wrote: one reader for each format. An error names the file, the place in it and what to do."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from attnbridge.errors import AttnBridgeError, shown

Kind = TypeVar("Kind")
DELIMITERS = ",;\t"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
MOST_NODES = 100_000
"""Values of a YAML file, each alias counted with all that it stands for."""


def read_text(path: Path) -> str:
    """A file of UTF-8, with or without a byte order mark.

    Raises:
        AttnBridgeError: if it is no regular file, cannot be read, or holds something that is not UTF-8 text.
    """
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AttnBridgeError(
            f"{path}: is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise AttnBridgeError(f"{path}: is no text: there is a zero byte at {text.index(chr(0))}")
    return text


def _bytes(path: Path) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
        words = "is no regular file" if path.exists() else "there is no such file"
    except OSError as error:
        words = f"cannot be read ({error.strerror})"
    raise AttnBridgeError(f"{path}: {words}")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers, without white space around them."""
    lines = ((number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1))
    return [(number, line) for number, line in lines if line]


def read_rows(path: Path, delimiter: str | None = None) -> list[list[str]]:
    """The rows of a CSV file that are not empty; a cell that :func:`plain_cell` changed is as it was.

    Args:
        path: of the file.
        delimiter: default: the one of comma, semicolon and tab that the first line has most of.

    Raises:
        AttnBridgeError: see :func:`read_text`; for broken quotes.
    """
    return [cells for _, cells in _numbered(path, delimiter)]


def read_table(path: Path, expected: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of a CSV file's columns, and its rows with the numbers of their lines, each with a cell for each name.

    Args:
        path: of the file.
        expected: its header in words, for errors.

    Returns:
        Names and rows, without white space around the cells.

    Raises:
        AttnBridgeError: see :func:`read_rows`; if there is no header, a column has no name or that of another one, or
            a row has another length.
    """
    lines = [(line, [cell.strip() for cell in cells]) for line, cells in _numbered(path, None)]
    if not lines:
        raise AttnBridgeError(f"{path}, line 1: expected a header {expected!r}, but the file is empty")
    (first, names), *rows = lines
    for number, name in enumerate(names, 1):
        if not name:
            raise AttnBridgeError(f"{path}, line {first}: column {number} has no name; expected a header {expected!r}")
        if names.index(name) < number - 1:
            raise AttnBridgeError(f"{path}, line {first}: names the column {name!r} twice; take one of them out")
    for line, cells in rows:
        if len(cells) != len(names):
            raise AttnBridgeError(f"{path}, line {line}: expected {len(names)} fields, found {len(cells)}")
    return names, rows


def _numbered(path: Path, delimiter: str | None) -> list[tuple[int, list[str]]]:
    """Rows that are not empty, with the number of the line on which each ends."""
    text = read_text(path)
    if delimiter is None:
        first = text.split("\n", 1)[0]
        delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [
            (reader.line_num, [_original(cell) for cell in row]) for row in reader if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise AttnBridgeError(f"{path}: line {reader.line_num}: {error}; mend the line") from None


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in which no spreadsheet finds a formula."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:  # names of files are bytes
        plain = csv.writer(handle, lineterminator="\n")
        quoted = csv.writer(handle, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:  # Python leaves a lone \r, which ends a line, without quotes
            writer = quoted if any("\r" in cell for cell in row if isinstance(cell, str)) else plain
            writer.writerow([plain_cell(cell) for cell in row])


def plain_cell(value: Any) -> Any:
    """A cell of a CSV file; a text that a spreadsheet would compute gets an apostrophe, as spreadsheets do it.

    >>> plain_cell("=HYPERLINK(1)"), plain_cell("-0.5"), plain_cell(-0.5), plain_cell("a.jpg")
    ("'=HYPERLINK(1)", '-0.5', -0.5, 'a.jpg')
    """
    if not isinstance(value, str) or not value.lstrip("'").startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _original(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(FORMULA) else cell


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        AttnBridgeError: see :func:`read_text`; for something that is not JSON, or a key that is there twice.
    """
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise AttnBridgeError(f"{path}: is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except _TwiceError as error:
        raise AttnBridgeError(
            f"{path}: the key {shown(error.args[0])} is there twice in one object; keep one"
        ) from None
    except ValueError as error:  # a number that is none, or has thousands of digits
        raise AttnBridgeError(f"{path}: is not JSON: {error}") from None
    except RecursionError:
        raise AttnBridgeError(f"{path}: is nested too deeply for JSON that people write") from None


def read_cache(path: Path, kind: type[Kind]) -> Kind | None:
    """What a JSON file of the program's own cache holds; ``None`` to have it made again: it is not there, cut in half,
    or holds something of another type than ``kind``."""
    try:
        found = read_json(path)
    except AttnBridgeError:
        return None
    return found if isinstance(found, kind) else None


class _TwiceError(Exception):
    """A key of an object that has it already."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _TwiceError(next(key for key in counts if counts[key] > 1))
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no number; what is not known is null")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        AttnBridgeError: see :func:`read_json`; if it holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise AttnBridgeError(f"{path}: expected a JSON object, {{...}}, but it holds a {type(found).__name__}")
    return found


def read_xml(path: Path) -> ET.Element:
    """The root of an XML file, in the encoding that it names itself.

    Raises:
        AttnBridgeError: if it is no regular file, cannot be read, or is not XML.
    """
    content = _bytes(path)
    try:
        return ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two for encodings
        raise AttnBridgeError(f"{path}: is not XML ({error}); mend the file or fetch it again") from None


class _Loader(yaml.SafeLoader):
    """YAML without a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                words = f"the key {key.value!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, words, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML that :class:`_Loader` reads as it was."""


for _each in (_Loader, _Dumper):  # YAML 1.1 takes 1e-3 for text, 1.2 and everybody else for a number
    _each.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, "-+.0123456789")


def dump_yaml(content: Any, short: bool = False) -> str:
    """Content as YAML, keys in their order.

    Args:
        content: plain values.
        short: lists and mappings of plain values on one line.

    >>> parse_yaml(dump_yaml({"lr": 1e-3, "name": "1e-3"}), "mine.yaml")
    {'lr': 0.001, 'name': '1e-3'}
    """
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=None if short else False)
    return text


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        AttnBridgeError: see :func:`read_text`; for something that is not YAML, a key that is there twice, a value that
            holds itself, or aliases that stand for more than a person writes.
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What a text of YAML holds; ``where`` it stands is named in errors, see :func:`read_yaml`.

    >>> parse_yaml("a: [1, 2]", "mine.yaml")
    {'a': [1, 2]}
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_NODES:
            raise AttnBridgeError(f"{where}: its aliases stand for more than {MOST_NODES:,} values; write them out")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise AttnBridgeError(f"{where}: is no YAML that is read here: {place}{error.problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise AttnBridgeError(f"{where}: is no YAML that is read here: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise AttnBridgeError(f"{where}: is nested too deeply, or a value holds itself") from None
    finally:
        loader.dispose()


def with_values(text: str, section: str, values: Mapping[str, Any]) -> str | None:
    """A text of YAML with other values of some options of a section, and all else as it is: comments, blank lines,
    order.

    Args:
        text: a mapping that :func:`parse_yaml` reads.
        section: a key of it, which may be missing.
        values: plain values, by key of the section.

    Returns:
        The text; ``None`` where a comment stands inside a value that would be replaced.

    >>> print(with_values("# mine\\nseed: 1\\nscore:\\n  a: 1  # low\\n", "score", {"a": 2, "b": [3]}), end="")
    # mine
    seed: 1
    score:
      b: [3]
      a: 2  # low
    """
    root: Any = yaml.compose(text, Loader=_Loader)
    sections = {key.value: (key, value) for key, value in root.value}
    if section not in sections:
        return f"{text.rstrip()}\n{section}: {_flow(dict(values))}\n"
    key, node = sections[section]
    inner = {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    edits = []
    if not inner:
        edits.append((key.end_mark.index, _end(node), f": {_flow(dict(values))}"))
    for name, value in values.items():
        if name in inner:
            edits.append((inner[name][0].end_mark.index, _end(inner[name][1]), f": {_flow(value)}"))
        elif inner:
            first = next(iter(inner.values()))[0].start_mark
            apart = ", " if node.flow_style else "\n" + " " * first.column
            edits.append((first.index, first.index, f"{name}: {_flow(value)}{apart}"))
    for start, end, new in sorted(edits, reverse=True):
        if "#" in text[start:end]:
            return None
        text = text[:start] + new + text[end:]
    return text


def _flow(value: Any) -> str:
    """A value on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=10**6).split("\n")[0]


def _end(node: yaml.Node) -> int:
    """Where a node ends; PyYAML counts what follows one in lines of its own as part of it."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in a node, where each alias counts as what it stands for; a node in itself recurses without end."""
    if id(node) in known:
        return known[id(node)]
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
