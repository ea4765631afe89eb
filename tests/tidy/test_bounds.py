"""Bounds that native code and Python both name have one value, and arrays are as long as their comment says.

A bound is written where the code is that keeps it: in a native enum where a struct has room for so many, in
router/limits.py for the rest. Where both name it, this is what keeps them together.
"""

import ast
import operator
import re
from functools import cache
from pathlib import Path

import pytest

from router import limits
from tests.tidy.tree import files, text

ENUMERATOR = re.compile(r"^[ \t]+([A-Z][A-Z0-9_]*) = ([^#\n]+?)[ \t]*(?:#.*)?$", re.MULTILINE)
ARRAY = re.compile(r"\[(\d+)\][^\n#]*#[ \t]*([A-Z][A-Z0-9_]+)\b(?! and)")

TWINS: dict[tuple[str, str], str] = {
    ("router/_fastpath.pyx", "LISTENERS_MAX"): "LISTENERS_MAX",
    ("router/_fastpath.pyx", "NETWORKS_MAX"): "TRUSTED_PROXIES_MAX",
    ("router/native/body.pxd", "BODY_MODEL_BYTES_MAX"): "MODEL_BYTES_MAX",
    ("router/native/chunk.pxd", "CHUNK_LINE_BYTES_MAX"): "CHUNK_LINE_BYTES_MAX",
    ("router/native/chunk.pxd", "CHUNK_TRAILER_BYTES_MAX"): "TRAILER_BYTES_MAX",
    ("router/native/driver_epoll.pxd", "DRIVER_ACCEPTS_MAX"): "ACCEPTS_PER_WAKE_MAX",
    ("router/native/driver_epoll.pxd", "DRIVER_EVENTS_MAX"): "EVENTS_PER_WAKE_MAX",
    ("router/native/driver_epoll.pxd", "DRIVER_READ_BYTES"): "READ_BUFFER_BYTES",
    ("router/native/driver_epoll.pyx", "UPSTREAM_KERNEL_BYTES"): "SOCKET_SEND_BUFFER_BYTES",
    ("router/native/epoll_state.pxd", "OUTBOX_BYTES_MAX"): "OUTBOX_BYTES_MAX",
    ("router/native/epoll_state.pxd", "OUTBOX_COUNT_MAX"): "OUTBOX_MESSAGES_MAX",
    ("router/native/epoll_state.pxd", "OUTBOX_MESSAGE_BYTES_MAX"): "OUTBOX_MESSAGE_BYTES_MAX",
    ("router/native/explain.pxd", "EXPLAIN_RECORDS_MAX"): "EXPLAIN_RECORDS_MAX",
    ("router/native/http1.pxd", "HTTP1_FIELDS_MAX"): "FIELDS_MAX",
    ("router/native/http1.pxd", "HTTP1_TRAILERS_MAX"): "TRAILERS_MAX",
    ("router/native/logline.pyx", "LINE_BYTES_MAX"): "ACCESS_LOG_LINE_BYTES_MAX",
    ("router/native/path.pyx", "MULTIPART_SCAN_BYTES"): "MULTIPART_SCAN_BYTES_MAX",
    ("router/native/pool.pxd", "ENDPOINT_ADDRESSES_MAX"): "DNS_ADDRESSES_MAX",
    ("router/native/routes.pxd", "ROUTE_HEADERS_MAX"): "HEADER_MATCHES_MAX",
}
"""(file, enumerator) of native code to the name in router.limits."""

OPERATORS = {
    ast.Mult: operator.mul,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.LShift: operator.lshift,
    ast.FloorDiv: operator.floordiv,
}


def value_of(expression: str) -> int | None:
    """Of an expression of integers; None when it names something."""

    def reckon(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as value):
                return value
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return int(OPERATORS[type(op)](reckon(left), reckon(right)))
        raise ValueError(ast.unparse(node))

    try:
        return reckon(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return None


@cache
def enumerators(path: Path) -> dict[str, int]:
    found = ((name, value_of(value)) for name, value in ENUMERATOR.findall(text(path)))
    return {name: value for name, value in found if value is not None}


@pytest.mark.parametrize(("native", "name"), TWINS.items(), ids=str)
def test_native_bounds_are_those_of_limits(native: tuple[str, str], name: str) -> None:
    path, enumerator = native
    assert enumerators(Path(path))[enumerator] == getattr(limits, name)


def test_bounds_of_one_name_have_one_value() -> None:
    differing = [
        f"{path}: {name} = {value}"
        for path in files(".pyx", ".pxd")
        if path.parts[0] == "router"
        for name, value in enumerators(path).items()
        if name in vars(limits) and getattr(limits, name) != value
    ]
    assert differing == []


def test_what_limits_says_of_native_code_is_so() -> None:
    said = re.findall(
        r"^(\w+) = .*#.*?\b([A-Z][A-Z0-9_]+) of (native/\w+\.p\w+)", text(Path("router/limits.py")), re.M
    )
    assert said
    for name, enumerator, path in said:
        assert enumerators(Path("router", path))[enumerator] == getattr(limits, name), (name, enumerator)


def test_arrays_are_as_long_as_the_bound_they_are_commented_with() -> None:
    known = {name: value for path in files(".pyx", ".pxd") for name, value in enumerators(path).items()}
    differing = []
    for path in files(".pyx", ".pxd"):
        for length, name in ARRAY.findall(text(path)):
            value = enumerators(path).get(name, known.get(name))
            if value is not None and int(length) != value:
                differing.append(f"{path}: [{length}] for {name} = {value}")
    assert differing == []
