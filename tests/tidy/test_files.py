"""What holds for every file: size, opening docstring, name, and what it never contains.

Exceptions are written out, each with its reason; a test fails when one of them is no longer needed. Widths of
lines are left to ruff and cython-lint.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.tree import files, text, texts

LINES_MAX = 600
LEAF_LINES_MIN = 60
"""Of a native leaf: less is no concept of its own."""

SIZE_EXCEPTIONS: dict[str, str] = {
    "router/native/field_names.pyx": "a table of names and its one lookup; http1 is full",
    "router/native/http_date.pyx": "one date format",
    "router/native/variant.pyx": "one hash that must never change; who asks it are full",
    "router/native/slab.pyx": "a free list per size, and nothing else belongs to it",
}

BLIND_HANDLERS: dict[str, str] = {
    "router/admin.py": "the outermost handler of the admin port: one bad answer must not end the process",
    "control/supervision.py": "the outermost handler of control's tasks: begun again, logged and counted",
    "bench/mock/fleet.py": "undoes a half-started fleet, then raises again",
}

CATCH_ALLS = {"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common", "stuff"}
"""Names that say nothing of what is inside."""

REMINDERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")

PAUSE_S_MAX = 0.05
"""Between two looks at a condition that another process or thread brings about."""

TRAILING_BLANK = re.compile(r"[ \t]+$|\r", re.MULTILINE)


def sources(*suffixes: str) -> Iterator[tuple[Path, str]]:
    return ((path, text(path)) for path in files(*suffixes))


def line_count(source: str) -> int:
    return source.count("\n")


def test_no_source_is_longer_than_one_concept_needs() -> None:
    long = {str(path): line_count(source) for path, source in sources(".py", ".pyx", ".pxd", ".pyi")}
    found = {path: count for path, count in long.items() if count > LINES_MAX and path not in SIZE_EXCEPTIONS}
    assert found == {}


def test_a_native_leaf_is_a_concept_of_its_own() -> None:
    short = {
        str(path): line_count(source)
        for path, source in sources(".pyx")
        if path.parts[:2] == ("router", "native") and line_count(source) < LEAF_LINES_MIN
    }
    assert {path: count for path, count in short.items() if path not in SIZE_EXCEPTIONS} == {}


def test_no_exception_of_size_is_left_over() -> None:
    left = [
        path
        for path in SIZE_EXCEPTIONS
        if Path(path) not in files() or LEAF_LINES_MIN <= line_count(text(Path(path))) <= LINES_MAX
    ]
    assert left == []


def test_text_ends_in_one_newline_and_lines_in_no_blank() -> None:
    corpora = ("tests", "fuzz", "corpus")
    bad = [
        str(path)
        for path, source in texts().items()
        if path.parts[:3] != corpora
        and source
        and (
            not source.endswith("\n")
            or source.endswith("\n\n")
            or re.search(r"[ \t]+$|\r", source, re.MULTILINE)
        )
    ]
    assert bad == []


def test_every_module_says_first_what_it_is() -> None:
    silent = [
        str(path) for path, source in sources(".py") if source and not ast.get_docstring(ast.parse(source))
    ]
    silent += [str(path) for path, source in sources(".pyx", ".pxd") if not source.startswith('"""')]
    assert silent == []


def test_names_say_what_is_inside() -> None:
    bad = [
        str(path)
        for path in files()
        if CATCH_ALLS
        & {word for part in path.with_suffix("").parts for word in re.split(r"[._-]", part.lower())}
    ]
    for path, source in sources(".py"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = re.findall(r"[A-Z]?[a-z]+", node.name)
                if CATCH_ALLS & {word.lower() for word in words}:
                    bad.append(f"{path}:{node.lineno}: {node.name}")
    assert bad == []


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{path}:{number}"
        for path, source in texts().items()
        if path.parts[0] != "LICENSE"
        for number, line in enumerate(source.splitlines(), 1)
        if REMINDERS.search(line)
    ]
    assert found == []


def test_no_test_waits_by_sleeping() -> None:
    """A loop that asks for a condition until a deadline may pause between two questions."""
    found = []
    for path, source in sources(".py"):
        if path.parts[0] != "tests":
            continue
        tree = ast.parse(source)
        loops = [node for node in ast.walk(tree) if isinstance(node, ast.While)]
        in_loops = {id(node) for loop in loops for node in ast.walk(loop)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep"):
                pause_s = ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else None
                if id(node) not in in_loops or pause_s is None or pause_s > PAUSE_S_MAX:
                    found.append(f"{path}:{node.lineno}")
    assert found == []


def blind_handlers(path: Path) -> list[str]:
    if path.suffix == ".py":
        return [
            f"{path}:{node.lineno}"
            for node in ast.walk(ast.parse(text(path)))
            if isinstance(node, ast.ExceptHandler)
            and (node.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(node.type)))
        ]
    lines = enumerate(text(path).splitlines(), 1)
    return [
        f"{path}:{number}"
        for number, line in lines
        if re.match(r"\s*except(\s*:|\s+(Base)?Exception\b.*:\s*$)", line)
    ]


def test_only_outermost_handlers_catch_everything() -> None:
    found = [
        place
        for path in files(".py", ".pyx")
        if str(path) not in BLIND_HANDLERS
        for place in blind_handlers(path)
    ]
    assert found == []
    assert [
        path for path in BLIND_HANDLERS if Path(path) not in files() or not blind_handlers(Path(path))
    ] == []
