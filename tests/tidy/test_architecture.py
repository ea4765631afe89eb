"""ARCHITECTURE.md names real things: what its life-of-a-... sections name in backticks exists in the source.

A function that is renamed or moved away takes the page with it, in the same commit.
"""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.tidy.test_imports import FLOORS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
SECTIONS = (
    "Processes and wires",
    "The hot path",
    "Life of a request",
    "Life of a snapshot",
    "Life of a process",
)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*(?:\(\))?")
FILE = re.compile(r"[\w/.-]+\.(?:py|pyx|pxd|yaml|md)")
# Words in backticks that are the kernel's, the language's or a configuration's, not names of the source.
FOREIGN = {
    "nogil",
    "recv",
    "sendmsg",
    "ssl",
    "add_reader",
    "SO_REUSEPORT",
    "drain.propagation_ms",
    "drain.deadline_ms",
}


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"ARCHITECTURE.md has no section {title}"
    return found[1]


def backticked(text: str) -> list[str]:
    without_blocks = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return sorted(set(re.findall(r"`([^`\n]+)`", without_blocks)))


@cache
def defined() -> frozenset[str]:
    """Every function, class, method, struct and struct member of the data plane."""
    patterns = (
        r"^\s*(?:async )?def (\w+)\(",
        r"^\s*(?:cdef|cpdef)\b[^=(\n]*?\b(\w+)\(",
        r"^\s*(?:cdef )?class (\w+)\b",
        r"^\s*cdef struct (\w+)\b",
        r"^    (?:u?int\d+_t|\w+_fn) (\w+)\b",
    )
    wanted = re.compile("|".join(patterns), re.MULTILINE)
    files = [
        path for suffix in ("py", "pyx", "pxd") for path in sorted((ROOT / "router").rglob(f"*.{suffix}"))
    ]
    found: set[str] = {path.stem for path in files}
    for path in files:
        for groups in wanted.findall(path.read_text(encoding="utf-8")):
            found.update(filter(None, groups))
    return frozenset(found)


@pytest.mark.parametrize("title", SECTIONS)
def test_everything_named_exists_in_the_source(title: str) -> None:
    missing = []
    for name in backticked(section(title)):
        if FILE.fullmatch(name):
            if not (ROOT / name).is_file():
                missing.append(name)
        elif NAME.fullmatch(name) and name not in FOREIGN:
            missing += [part for part in name.removesuffix("()").split(".") if part not in defined()]
    assert not missing


def test_the_life_of_a_request_names_its_steps() -> None:
    steps = (
        *("advance", "take_head", "take_body", "route_exchange", "begin_attempt", "send_request"),
        *("take_response", "on_response_head", "relay", "finish"),
        *("attempt_failed", "cut_short", "client_gone"),
    )
    named = backticked(section("Life of a request"))
    assert [step for step in steps if step not in named] == []


def test_the_layout_names_every_module_of_the_data_plane() -> None:
    layout = section("Layout")
    words = set(re.findall(r"[\w./]+", layout))
    modules = {path.name for path in (ROOT / "router").glob("*.py*") if path.suffix in (".py", ".pyx")}
    natives = {path.stem for path in (ROOT / "router" / "native").glob("*.pxd")}
    assert sorted(modules - words - {"__init__.py"}) == []
    assert sorted(natives - words) == []


def test_invariants_stand_in_lines_of_their_own() -> None:
    beginnings = [line for line in PAGE.splitlines() if line.startswith("Invariant:")]
    assert len(beginnings) >= 5
    assert PAGE.count("Invariant:") == len(beginnings)


def test_the_floors_are_those_the_imports_are_held_to() -> None:
    rows = re.findall(r"^\| (\d) \| (.*?) \|", section("Layout"), re.MULTILINE)
    shown = {int(floor): set(backticked(names)) for floor, names in rows}
    for number, modules in enumerate(FLOORS):
        wanted = {name.removeprefix("router.") for name in modules} - {"router", "__main__"}
        assert shown[number] - {"schema"} == wanted
