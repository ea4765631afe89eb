"""The targets of the Makefile that need nothing built do what `make help` says of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.tidy.tree import ROOT


def make(folder: Path, target: str) -> str:
    """Runs one target on a copy of the Makefile and returns what it prints."""
    shutil.copy(ROOT / "Makefile", folder)
    run = subprocess.run(
        ["make", "-C", str(folder), target], check=False, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_clean_removes_what_was_built_and_no_source(tmp_path: Path) -> None:
    sources = [
        "router/a.pyx",
        "router/a.py",
        "bench/native/b.pyx",
        "bench/native/kept.c",
        "control/d.py",
        "tests/c.py",
        "setup.py",
    ]
    built = [
        *("router/a.c", "router/a.html", "router/a.cpython-311.so", "bench/native/b.c", "bench/native/b.so"),
        *(
            "router/__pycache__/a.pyc",
            "tests/unit/__pycache__/c.pyc",
            "build/x",
            ".venv/bin/python",
            "results/y",
        ),
    ]
    for name in (*sources, *built):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    make(tmp_path, "clean")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*sources, "Makefile"}
    assert not list(tmp_path.rglob("__pycache__"))


def test_help_lists_every_target_that_is_meant_to_be_called(tmp_path: Path) -> None:
    for folder in ("router", "bench"):
        (tmp_path / folder).mkdir()
    listed = make(tmp_path, "help")
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    for target in phony.removeprefix(".PHONY:").split():
        assert f"make {target} " in listed
