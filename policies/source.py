"""YAML as a tree that knows where everything stands, read safely and within bounds.

Scalars follow the YAML 1.2 core schema, so `no` is text and not false; numbers with a point become exact decimals.
Aliases are shared, and count in full against the bound on nodes, so that an alias bomb is refused and never expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml

from policies.errors import PolicyError, PolicyErrors, one_line, shown

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000
"""Of all documents of a file together, aliases expanded."""
MAX_DOCUMENTS: Final = 200
MAX_ERRORS: Final = 100
"""Told of one document; more help nobody and take time."""

Steps = tuple[str | int, ...]
"""Where a value stands in its document: keys and list positions."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
)
_UNPRINTABLE: Final = re.compile(
    "[^\\x09\\x0a\\x0d\\x20-\\x7e\\x85\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]"
)
_LINE_END: Final = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_INT: Final = re.compile(r"[-+]?[0-9]{1,30}")
_DECIMAL: Final = re.compile(r"[-+]?(?:\.[0-9]{1,30}|[0-9]{1,30}(?:\.[0-9]{0,30})?)(?:[eE][-+]?[0-9]{1,2})?")
_WORDS: Final[dict[str, bool | None]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """`plain`: written without quotes, so that it may be a number or true. `style`: None, ', ", | or >."""

    place: Place
    text: str
    plain: bool
    style: str | None
    size: int = 1
    height: int = 0


@dataclass(frozen=True, slots=True)
class ListNode:
    place: Place
    items: tuple[Node, ...]
    size: int
    height: int


@dataclass(frozen=True, slots=True)
class MapNode:
    place: Place
    entries: tuple[tuple[Scalar, Node], ...]
    size: int
    height: int


Node = Scalar | ListNode | MapNode
"""`size`: nodes in it, itself included, aliases expanded. `height`: levels below it."""


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document of a file, with the lines of the file for places inside of scalars."""

    file: str
    lines: tuple[str, ...]
    root: Node

    def place(self, path: Steps, *, key: bool = False) -> Place:
        """Of the value at `path` (with `key`, of its key), or of the nearest thing around it that is there."""
        place = self.root.place
        node: Node | None = self.root
        for part in path:
            match node, part:
                case MapNode(), str():
                    found = [(name, value) for name, value in node.entries if name.text == part]
                    if not found:
                        return place
                    name, node = found[0]
                    place = name.place if key or not isinstance(node, Scalar) else node.place
                case ListNode(), int() if part < len(node.items):
                    node = node.items[part]
                    place = node.place
                case _:
                    return place
        return place

    def place_inside(self, path: Steps, line: int, column: int) -> Place:
        """Of a character of the text at `path`, by its line and column in that text (from 1).

        Exact for text on one line and for `|` blocks; elsewhere the start of the text.
        """
        scalar = self.at(path)
        if not isinstance(scalar, Scalar):
            return self.place(path)
        start = scalar.place
        quote = 1 if scalar.style in ("'", '"') else 0
        first = self.lines[start.line - 1][start.column - 1 + quote :]
        if line == 1 and first.startswith(scalar.text.rstrip("\n")) and scalar.style not in ("|", ">"):
            return Place(start.line, start.column + quote + column - 1)
        wanted = scalar.text.split("\n")
        if scalar.style == "|" and line <= len(wanted) and start.line + line <= len(self.lines):
            written = self.lines[start.line + line - 1]
            if written.endswith(wanted[line - 1]):
                return Place(start.line + line, len(written) - len(wanted[line - 1]) + column)
        return start

    def at(self, path: Steps) -> Node | None:
        """The node at `path`; None when there is none."""
        node: Node | None = self.root
        for part in path:
            match node, part:
                case MapNode(), str():
                    node = next((value for name, value in node.entries if name.text == part), None)
                case ListNode(), int():
                    node = node.items[part] if part < len(node.items) else None
                case _:
                    return None
        return node

    def error(self, place: Place, message: str) -> PolicyError:
        return PolicyError(self.file, place.line, place.column, one_line(message))


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises: PolicyErrors when it cannot be read or is larger than 1 MiB."""
    try:
        if not path.is_file():
            raise _refused(path, "not a regular file; name a YAML file or a folder of them")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refused(path, f"cannot be read ({reason}); check the path and its permissions") from error
    return data


def decode(data: bytes, file: str) -> str:
    """The text of a YAML file. Raises: PolicyErrors when it is too large, not UTF-8, or holds control characters."""
    if len(data) > MAX_BYTES:
        raise PolicyErrors([PolicyError(file, 1, 1, "larger than 1 MiB; split the file")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_at_end(data[: error.start].decode("utf-8-sig"))
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise PolicyErrors([PolicyError(file, place.line, place.column, message)]) from error
    bad = _UNPRINTABLE.search(text)
    if bad:
        place = _place_at_end(text[: bad.start()])
        message = f"control character U+{ord(bad[0]):04X} is not allowed in YAML; remove it"
        raise PolicyErrors([PolicyError(file, place.line, place.column, message)])
    return text


def parse(text: str, file: str) -> tuple[tuple[Document, ...], tuple[PolicyError, ...]]:
    """The documents of a YAML text, and everything that is wrong with it as YAML. Never raises."""
    return _Composer(text, file).documents()


def plain(node: Node) -> Any:
    """The tree as dicts, lists, text, ints, Decimals, bools and None, without places."""
    match node:
        case MapNode():
            return {key.text: plain(value) for key, value in node.entries}
        case ListNode():
            return [plain(item) for item in node.items]
        case Scalar():
            return _resolve(node)


def _resolve(scalar: Scalar) -> str | int | Decimal | bool | None:
    text = scalar.text
    if not scalar.plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return Decimal(text) if _DECIMAL.fullmatch(text) else text


class _TooMuchError(Exception):
    """A bound is passed: the rest of the file is not read."""


class _Composer:
    """Makes the tree from the parser's events. Its recursion ends at MAX_DEPTH."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._text = text
        self._lines = tuple(_LINE_END.split(text))
        self._errors: list[PolicyError] = []
        self._anchors: dict[str, Node | None] = {}
        """None: still being read, so that an alias to it would hold itself."""
        self._nodes = 0
        self._events: Iterator[yaml.Event] = iter(())

    def documents(self) -> tuple[tuple[Document, ...], tuple[PolicyError, ...]]:
        found: list[Document] = []
        try:
            self._events = iter(yaml.parse(self._text, Loader=_LOADER))
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if len(found) == MAX_DOCUMENTS:
                        self._stop(_place(event), f"more than {MAX_DOCUMENTS} documents; split the file")
                    self._anchors = {}
                    root = self._node(next(self._events), 0)
                    found.append(Document(self._file, self._lines, root))
        except _TooMuchError:
            pass
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
            self._report(place, f"not YAML: {error.problem or error.context}; correct the syntax here or just above")
        except yaml.YAMLError as error:
            self._report(Place(1, 1), f"not YAML: {error}; correct the syntax")
        return tuple(found), tuple(self._errors)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        place = _place(event)
        if depth > MAX_DEPTH:
            self._stop(place, f"nested deeper than {MAX_DEPTH} levels; flatten it")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, depth)
        anchor: str | None = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        self._check_tag(event, place)
        self._count(1, place)
        node: Node
        if isinstance(event, yaml.MappingStartEvent):
            node = self._map(place, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(place, depth)
        elif isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, place)
        else:
            self._stop(place, "not YAML: a value is missing; write one here")
            raise AssertionError
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, place: Place, depth: int) -> Node:
        anchor = event.anchor or ""
        node = self._anchors.get(anchor)
        if node is None:
            problem = "refers to what it stands in" if anchor in self._anchors else "has no anchor before it"
            self._report(place, f"alias {shown('*' + anchor)} {problem}; write the value out")
            return Scalar(place, "alias", plain=False, style=None)
        if depth + node.height > MAX_DEPTH:
            self._stop(place, f"nested deeper than {MAX_DEPTH} levels by aliases; write the values out")
        self._count(node.size, place)
        return node

    def _map(self, place: Place, depth: int) -> MapNode:
        entries: dict[str, tuple[Scalar, Node]] = {}
        size, height = 1, 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            key_place = _place(event)
            value = self._node(next(self._events), depth + 1)
            size += key.size + value.size
            height = max(height, value.height + 1, key.height + 1)
            if not isinstance(key, Scalar):
                self._report(key_place, "a key must be plain text; write key: value")
            elif key.plain and key.text == "<<":
                self._report(key_place, "merge keys (<<) are not supported; write the keys out")
            elif key.text in entries:
                first = entries[key.text][0].place
                self._report(key_place, f"duplicate key {shown(key.text)} (first on line {first.line}); remove one")
            else:
                entries[key.text] = (Scalar(key_place, key.text, key.plain, key.style), value)
        return MapNode(place, tuple(entries.values()), size, height)

    def _list(self, place: Place, depth: int) -> ListNode:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return ListNode(
            place, tuple(items), 1 + sum(i.size for i in items), 1 + max((i.height for i in items), default=0)
        )

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Scalar:
        if any("\ud800" <= char <= "\udfff" for char in event.value):
            self._report(place, "half of a surrogate pair is no character; write the character itself")
            return Scalar(place, "", plain=False, style=None)
        tag = event.tag
        style = event.style or None
        bare = style is None and tag is None
        typed = tag is not None and tag in _CORE_TAGS and not tag.endswith(":str")
        return Scalar(place, event.value, plain=bare or typed, style=style)

    def _check_tag(self, event: yaml.Event, place: Place) -> None:
        tag: str | None = getattr(event, "tag", None)
        if tag not in (None, "!") and tag not in _CORE_TAGS:
            self._report(place, f"tag {shown(tag)} is not allowed; remove it")

    def _count(self, nodes: int, place: Place) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._stop(place, f"more than {MAX_NODES} values (aliases expanded); split the file")

    def _report(self, place: Place, message: str) -> None:
        if len(self._errors) >= MAX_ERRORS:
            raise _TooMuchError
        self._errors.append(PolicyError(self._file, place.line, place.column, one_line(message)))

    def _stop(self, place: Place, message: str) -> None:
        self._report(place, message)
        raise _TooMuchError


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _place_at_end(text: str) -> Place:
    lines = _LINE_END.split(text)
    return Place(len(lines), len(lines[-1]) + 1)


def _refused(path: Path, message: str) -> PolicyErrors:
    return PolicyErrors([PolicyError(str(path), 1, 1, message)])
