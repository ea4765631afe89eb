"""Configuration text as plain values, with the place of each: YAML or JSON in, `${ENV}` filled in.

Scalars are read as YAML 1.2 has it: `true` and `false` are the only booleans (`no` is Norway), times and
dates are text. Merge keys (`<<`) and aliases work; tags do not. `${NAME}` and `${NAME:-default}` are
replaced inside values, `$${` is a literal `${`; a plain value is typed after the replacement, a quoted one
stays text.

Invariant: never raises for what a file holds; what is wrong becomes a `ConfigProblem`, all of it, and the
value is left out. Neighbour: config.py checks the values against the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from router import limits
from router.schema.faults import Path, dotted

# The C parser reads a file of thousands of endpoints in a second, the Python one in a minute.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_STRING_TAG = "tag:yaml.org,2002:str"
_STRUCTURE_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")  # longer ones do not fit 64 bits
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]{1,300}(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_REFERENCE = re.compile(
    r"(?P<escape>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|(?P<bad>\$\{)"
)


class Mark(NamedTuple):
    """A place in a file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong with a configuration, and where."""

    file: str  # or the command-line option
    line: int | None
    column: int | None
    path: str  # pools[0].endpoints[1].url; empty for the whole
    message: str
    expected: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        where = f"{self.path}: " if self.path else ""
        return f"{place}: {where}{self.message}" + (f"; expected {self.expected}" if self.expected else "")


@dataclass(slots=True)
class Source:
    """Values with their places. `values` is ours to change; the rest answers questions about a path."""

    file: str
    values: Any = None
    marks: dict[Path, Mark] = field(default_factory=dict)  # of values
    key_marks: dict[Path, Mark] = field(default_factory=dict)  # of the keys in front of them
    texts: dict[Path, str] = field(default_factory=dict)  # of plain scalars that are not text, as they stand
    references: dict[Path, str] = field(
        default_factory=dict
    )  # of values that are one ${NAME} and nothing else
    is_elsewhere: bool = False  # for another machine: what secrets refer to is there
    options: dict[Path, str] = field(default_factory=dict)  # the command-line option a value came from
    problems: list[ConfigProblem] = field(default_factory=list)
    left_out: set[Path] = field(default_factory=set)  # values that something is wrong with
    unknown: set[Path] = field(default_factory=set)  # keys that mean nothing
    kept: dict[Path, list[int]] = field(default_factory=dict)  # of lists with gaps: where what is left was

    def report(
        self,
        path: Path,
        message: str,
        expected: str = "",
        *,
        at_key: bool = False,
        leaves_out: Path | None = None,
    ) -> None:
        """Adds a problem at `path`, or at the innermost value around it that is written in the file.

        What is at `path`, or at `leaves_out`, cannot be taken then.
        """
        self.left_out.add(path if leaves_out is None else leaves_out)
        mark = self.key_marks.get(path) if at_key else None
        option = ""
        for length in range(len(path), -1, -1):
            mark = mark or self.marks.get(path[:length])
            option = option or self.options.get(path[:length], "")
        line, column = mark if mark is not None else (None, None)
        self.problems.append(
            ConfigProblem(option or self.file, line, column, dotted(path), message, expected)
        )


def read_source(text: str, file: str, environ: Mapping[str, str], *, is_elsewhere: bool = False) -> Source:
    """The values of `text`, which is JSON when `file` ends in .json and YAML otherwise.

    Of one that `is_elsewhere`, a value that is one `${NAME}` may name what is not set here: it is empty then,
    and whoever cannot do without it says so (`references`).
    """
    source = Source(file, is_elsewhere=is_elsewhere)
    if file.endswith(".json"):
        try:
            json.loads(text)
        except (json.JSONDecodeError, RecursionError) as exc:
            line, column = (exc.lineno, exc.colno) if isinstance(exc, json.JSONDecodeError) else (1, 1)
            message = exc.msg if isinstance(exc, json.JSONDecodeError) else "nested too deeply"
            source.problems.append(ConfigProblem(file, line, column, "", f"not JSON: {message}", ""))
            return source
        # JSON is YAML but for tabs, which valid JSON has only between its tokens
        text = text.replace("\t", " ")
    try:
        deep = _too_deep(text)
        node = None if deep else _Loader(text).get_single_node()
        if deep:
            message = f"nested deeper than {limits.CONFIG_DEPTH_MAX} levels"
            source.problems.append(ConfigProblem(file, *deep, "", message, "what the schema describes"))
        elif node is None:
            source.report((), "the file is empty", "at least pools")
        else:
            _Reader(source, environ).read(node, (), frozenset())
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = " ".join(part for part in (exc.context, exc.problem) if part)
        expected = ""
        row = "".join(text.split("\n")[line - 1 : line])  # none, where the text ends too soon
        if "\t" in row[: len(row) - len(row.lstrip())]:
            message, expected = "a tab in the indentation", "spaces: YAML allows no tabs there"
        source.problems.append(ConfigProblem(file, line, column, "", f"not YAML: {message}", expected))
    except yaml.YAMLError as exc:  # a character YAML forbids; the position counts characters or bytes
        position = getattr(exc, "position", 0)
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        source.problems.append(ConfigProblem(file, line, column, "", "not YAML: a control character", ""))
    return source


def _too_deep(text: str) -> Mark | None:
    """Where the text nests deeper than it may; events come one by one, a tree would be built by recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > limits.CONFIG_DEPTH_MAX:
                mark: Any = event.start_mark
                return Mark(mark.line + 1, mark.column + 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


class _Reader:
    """One walk over the nodes of a document."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._node_count = 0
        source.values = None

    def read(self, node: Any, path: Path, around: frozenset[int]) -> None:
        self._source.values = self._value(node, path, around)

    def _value(self, node: Any, path: Path, around: frozenset[int]) -> Any:
        source = self._source
        source.marks[path] = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
        self._node_count += 1
        if id(node) in around:
            source.report(path, "an alias that contains itself")
            return None
        if self._node_count > limits.CONFIG_NODES_MAX:
            if self._node_count == limits.CONFIG_NODES_MAX + 1:
                source.report(path, "too many values", f"at most {limits.CONFIG_NODES_MAX}, aliases expanded")
                source.left_out.add(())  # everything from here on
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in _STRUCTURE_TAGS:
            source.report(path, f"the tag {_short(node.tag)} means nothing here", "no tag")
            return None
        around |= {id(node)}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index), around) for index, item in enumerate(node.value)]
        return self._mapping(node, path, around)

    def _mapping(self, node: Any, path: Path, around: frozenset[int]) -> dict[str, Any]:
        source = self._source
        merged: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for key_node, value_node in sorted(node.value, key=lambda pair: not _is_merge(pair[0])):
            mark = Mark(key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                source.unknown.add((*path, "?"))
                source.problems.append(
                    ConfigProblem(source.file, *mark, dotted(path), "a list or mapping as a key", "text")
                )
            elif _is_merge(key_node):
                merged = {**self._merged(value_node, path, around), **merged}
            elif key_node.value in values:
                first = source.key_marks[*path, key_node.value]
                message = f"the key {key_node.value!r} is here twice, first in line {first.line}"
                where = dotted((*path, key_node.value))
                source.left_out.add((*path, key_node.value))
                source.problems.append(ConfigProblem(source.file, *mark, where, message, "each key once"))
            else:
                source.key_marks[*path, key_node.value] = mark
                values[key_node.value] = self._value(value_node, (*path, key_node.value), around)
        return {**merged, **values}

    def _merged(self, node: Any, path: Path, around: frozenset[int]) -> dict[str, Any]:
        """What `<<: node` brings into the mapping at `path`; the first of several parents wins."""
        here = self._source.marks[path]
        merged: dict[str, Any] = {}
        for parent in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            values = self._value(parent, path, around)
            if isinstance(values, dict):
                merged = {**values, **merged}
            else:
                self._source.report(path, "<< of something that is no mapping", "an alias of a mapping")
        self._source.marks[path] = here
        return merged

    def _scalar(self, node: Any, path: Path) -> Any:
        if node.tag != _STRING_TAG:
            self._source.report(
                path, f"the tag {_short(node.tag)} means nothing here", "no tag; quotes make text"
            )
            return None
        text = self._substituted(node.value, path)
        if any("\ud800" <= char <= "\udfff" for char in text):  # bytes of the environment that are not UTF-8
            self._source.report(path, f"{text!r} is not valid Unicode", "UTF-8 text")
            return None
        if node.style:
            return text
        value = _plain(text)
        if not isinstance(value, str):
            self._source.texts[path] = text
        return value

    def _substituted(self, text: str, path: Path) -> str:
        if "${" not in text:
            return text

        whole = _REFERENCE.fullmatch(text)
        if whole and whole["name"] and whole["default"] is None:
            self._source.references[path] = text
            if self._source.is_elsewhere and whole["name"] not in self._environ:
                return ""

        def replacement(match: re.Match[str]) -> str:
            if match["escape"]:
                return "${"
            if match["bad"]:
                self._source.report(
                    path, f"{text!r} has a ${{ that names no variable", "${NAME}, ${NAME:-default} or $${"
                )
                return ""
            value = self._environ.get(match["name"])
            if match["default"] is not None:
                return value or match["default"]
            if value is None:
                self._source.report(
                    path,
                    f"the environment variable {match['name']} is not set",
                    f"a value for it, or a default: ${{{match['name']}:-...}}",
                )
                return ""
            return value

        return _REFERENCE.sub(replacement, text)


def _plain(text: str) -> str | int | float | bool | None:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _is_merge(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "<<" and not node.style


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
