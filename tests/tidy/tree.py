"""The files of this repository as the tidy tests see them: what people wrote, not what was built.

Invariant: nothing here depends on git, so that an unpacked archive is held to the same rules. Neighbours:
test_*.py beside this file, one kind of rule each.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

BUILT_FOLDERS = {"build", "results", "__pycache__", "node_modules"}
"""Beside them everything hidden but `.ci`, and `*.egg-info`."""

BUILT_SUFFIXES = {".so", ".html"}

CIMPORT = re.compile(
    r"^[ \t]*from[ \t]+([\w.]+)[ \t]+(c?import)[ \t]+(\([^)]*\)|[^(\n]*)"
    r"|^[ \t]*(c?import)[ \t]+([\w., \t]+)$",
    re.MULTILINE,
)
"""Groups 1-3 of `from A import B, C`, groups 4-5 of `import A, B`; Cython's `cimport` of both."""


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """All files of these suffixes (of any when none are given), relative to the root, in a fixed order."""
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(
            name
            for name in folders
            if name not in BUILT_FOLDERS
            and not name.endswith(".egg-info")
            and (not name.startswith(".") or name == ".ci")
        )
        here = Path(folder).relative_to(ROOT)
        found += [here / name for name in sorted(names) if not is_built(here / name)]
    return tuple(path for path in found if not suffixes or path.suffix in suffixes)


def is_built(path: Path) -> bool:
    """Whether Cython or the compiler made it, or an editor keeps it."""
    is_translation = path.suffix == ".c" and (ROOT / path).with_suffix(".pyx").exists()
    return path.suffix in BUILT_SUFFIXES or is_translation or path.name.endswith(("~", ".swp", ".orig"))


@cache
def text(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def texts() -> dict[Path, str]:
    """Every file that is text."""
    found: dict[Path, str] = {}
    for path in files():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data[:8192]:
            found[path] = data.decode("utf-8", "replace")
    return found


def module_name(path: Path) -> str:
    """`router/native/http1.pyx` is router.native.http1; a package is its folder."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def native_imports(source: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(module, `import` or `cimport`, names) for each line of a .pyx or .pxd that brings names in."""
    for found in CIMPORT.finditer(source):
        module, kind, names, plain_kind, modules = found.groups()
        if module:
            words = re.findall(r"(\w+)(?:[ \t]+as[ \t]+\w+)?", re.sub(r"#.*", "", names))
            yield module, kind, tuple(words)
        else:
            for plain in modules.split(","):
                yield plain.split()[0], plain_kind, ()
