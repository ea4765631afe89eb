"""What is depended on is pinned, nothing else is, and CONTRIBUTING.md says of each why it is there."""

import re
import tomllib
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.tidy.tree import text

PYTHONS = ("3.11", "3.12", "3.13")
"""The lock serves all of them."""


@cache
def project() -> dict[str, Any]:
    return tomllib.loads(text(Path("pyproject.toml")))


@cache
def direct() -> tuple[Requirement, ...]:
    """All that pyproject.toml asks for: to build, to run, to test and to check."""
    table = project()["project"]
    lines = [*project()["build-system"]["requires"], *table["dependencies"]]
    for extra in table["optional-dependencies"].values():
        lines += extra
    return tuple(Requirement(line) for line in lines)


@cache
def pins() -> dict[str, Version]:
    lines = [line.partition("#")[0].strip() for line in text(Path("requirements.lock")).splitlines()]
    found: dict[str, Version] = {}
    for line in filter(None, lines):
        name, exactly, version = line.partition("==")
        assert exactly, f"{line} is not pinned"
        found[canonicalize_name(name)] = Version(version)
    return found


def needed(python: str) -> dict[str, list[str]]:
    """Name -> who asks for it, of everything that is installed on Linux with this Python."""
    environment = {name: str(value) for name, value in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    asked: dict[str, list[str]] = {}
    waiting = [(requirement, "pyproject.toml") for requirement in direct()]
    seen = set()
    while waiting:
        requirement, by = waiting.pop()
        name = canonicalize_name(requirement.name)
        asked.setdefault(name, []).append(f"{requirement} by {by}")
        key = (name, frozenset(requirement.extras))
        if key in seen or name not in pins():
            continue
        seen.add(key)
        for line in distribution(name).requires or []:
            more = Requirement(line)
            extras = ["", *requirement.extras]
            if more.marker is None or any(
                more.marker.evaluate({**environment, "extra": each}) for each in extras
            ):
                waiting.append((more, name))
    return asked


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_all_that_is_needed(python: str) -> None:
    missing = {name: asked for name, asked in needed(python).items() if name not in pins()}
    assert missing == {}


def test_the_lock_holds_nothing_that_nobody_needs() -> None:
    wanted = {name for python in PYTHONS for name in needed(python)}
    assert sorted(set(pins()) - wanted - {"wheel"}) == []  # setuptools builds editable installs with wheel


def test_the_lock_satisfies_every_range() -> None:
    unmet = [
        f"{asked}: {pins()[name]}"
        for name, by in needed(PYTHONS[0]).items()
        for asked in by
        if name in pins() and not Requirement(asked.split(" by ")[0]).specifier.contains(pins()[name], True)
    ]
    assert unmet == []


def test_the_lock_is_sorted_and_names_each_distribution_once() -> None:
    lines = [line for line in text(Path("requirements.lock")).splitlines() if "==" in line]
    assert lines == sorted(set(lines), key=str.lower)
    assert len(lines) == len(pins())


def test_each_dependency_has_its_reason() -> None:
    section = text(Path("CONTRIBUTING.md")).partition("## Dependencies")[2].partition("\n## ")[0]
    reasons = dict(re.findall(r"^- `([\w-]+)`: (\S.+)$", section, re.MULTILINE))
    names = {canonicalize_name(requirement.name) for requirement in direct()} | {"wheel"}
    assert sorted(canonicalize_name(name) for name in reasons) == sorted(names)


def test_the_floor_of_python_is_said_alike_everywhere() -> None:
    floor = project()["project"]["requires-python"].removeprefix(">=")
    assert project()["tool"]["ruff"]["target-version"] == "py" + floor.replace(".", "")
    assert project()["tool"]["mypy"]["python_version"] == floor
    major, minor = floor.split(".")
    assert f"({major}$(comma) {minor})" in text(Path("Makefile"))
