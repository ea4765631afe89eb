"""Who may import whom: each module of the router stands on a floor and looks down, never up or in circles.

The floors are those of ARCHITECTURE.md. A module that is not on one fails here until someone has decided
where it stands. Imports inside functions count too, but for circles; those for type checking alone do not.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.tidy.tree import files, module_name, native_imports, text

FLOORS: list[set[str]] = [
    # 0: words, bounds and outcomes; the standard library and msgspec
    {"router", "router.errors", "router.limits", "router.build_info", "router.runtime_folder"}
    | {"router.sdnotify"},
    # 1: the native request path over its leaves
    {"router._fastpath"},
    # 2: pure rules, tables and formats
    {"router.access_log", "router.body_facts", "router.config", "router.config_source"}
    | {"router.received_policy", "router.reporter"}
    | {"router.endpoint_view", "router.explain_report", "router.explain_view", "router.listeners"}
    | {"router.metrics", "router.resolver", "router.retry"}
    | {"router.pieces", "router.slots", "router.snapshot", "router.steps", "router.tls_watch", "router.wire"},
    # 3: what the request path asks, and what processes share
    {"router.dispatch", "router.rollout", "router.shared_state", "router.subscriber"}
    | {"router.takeover", "router.worker_process"},
    # 4: where aiohttp starts
    {"router.admin", "router.model_list", "router.slowpath"},
    # 5: what puts it together
    {"router.__main__", "router.app", "router.cli", "router.reference", "router.supervisor", "router.worker"},
]

THIRD_PARTY: dict[str, set[str]] = {
    "aiohttp": FLOORS[4],
    "click": {"router.cli", "router.reference"},
    "cryptography": {"router.received_policy"},
    "prometheus_client": {"router.metrics"},
    "uvloop": {"router.app", "router.worker"},
    "yaml": {"router.cli", "router.config_source"},
}
"""Beside msgspec, which any module may import: each dependency has its place."""

BENCH_MAY: dict[str, tuple[str, ...]] = {
    "bench.micro": ("router._fastpath", "router.native", "router.schema"),
    "bench.sim": ("router._fastpath", "router.native", "router.schema"),
}
"""All the rest of bench may only know the schema: it measures any router over the wire."""

LIBC = ("libc", "posix", "cpython", "cython")


def floor_of(module: str) -> int | None:
    if module.startswith("router.schema"):
        return 0
    if module.startswith("router.native"):
        return 1
    return next((index for index, names in enumerate(FLOORS) if module in names), None)


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk_imports(body: list[ast.stmt], is_lazy: bool) -> Iterator[tuple[str, bool]]:
    for node in body:
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written whole"
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in modules() else base), is_lazy
        inner = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in ("body", "orelse", "finalbody"):
            yield from walk_imports(getattr(node, name, []), inner)
        for handler in getattr(node, "handlers", []) + getattr(node, "cases", []):
            yield from walk_imports(handler.body, inner)


@cache
def modules() -> dict[str, Path]:
    """Module to its source; a .pyx goes before the .pxd and .pyi beside it."""
    return {module_name(path): path for path in [*files(".pxd"), *files(".pyx"), *files(".py")]}


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """(imported module, whether only when a function runs)."""
    if path.suffix == ".py":
        return tuple(walk_imports(ast.parse(text(path)).body, False))
    return tuple((module, False) for module, _, _ in native_imports(text(path)))


def sources(package: str, *suffixes: str) -> list[Path]:
    return [path for path in files(*suffixes) if path.parts[0] == package]


def test_every_module_of_the_router_has_a_floor() -> None:
    homeless = [str(path) for path in sources("router", ".py", ".pyx") if floor_of(module_name(path)) is None]
    assert homeless == []


def test_no_floor_names_a_module_that_is_gone() -> None:
    assert [name for names in FLOORS for name in names if name not in modules()] == []


def test_modules_import_from_their_floor_and_below() -> None:
    breaches = []
    for path in sources("router", ".py", ".pyx", ".pxd"):
        own = floor_of(module_name(path))
        for module, _ in imports(path):
            floor = floor_of(module) if module.split(".")[0] == "router" else None
            if own is not None and floor is not None and floor > own:
                breaches.append(f"{path} (floor {own}) imports {module} (floor {floor})")
    assert breaches == []


def test_the_router_knows_neither_control_nor_bench_nor_tests() -> None:
    others = {"control", "bench", "tests"}
    breaches = [
        f"{path} imports {module}"
        for path in sources("router", ".py", ".pyx", ".pxd", ".pyi")
        for module, _ in (imports(path) if path.suffix != ".pyi" else ())
        if module.split(".")[0] in others
    ]
    assert breaches == []


def test_nothing_imports_tests() -> None:
    breaches = [
        f"{path} imports {module}"
        for package in ("router", "bench", "control")
        for path in sources(package, ".py", ".pyx", ".pxd")
        for module, _ in imports(path)
        if module.split(".")[0] == "tests"
    ]
    assert breaches == []


def test_the_bench_knows_only_the_schema() -> None:
    breaches = []
    for path in sources("bench", ".py", ".pyx", ".pxd"):
        own = module_name(path)
        allowed = next((may for name, may in BENCH_MAY.items() if own.startswith(name)), ("router.schema",))
        for module, _ in imports(path):
            if module.split(".")[0] == "router" and not module.startswith(allowed):
                breaches.append(f"{path} imports {module}")
    assert breaches == []


def test_control_knows_only_the_words_and_the_way_to_a_configuration_that_it_shares_with_the_router() -> None:
    names = ("schema", "errors", "limits", "build_info", "runtime_folder", "config", "config_source")
    allowed = tuple(f"router.{name}" for name in names)
    breaches = [
        f"{path} imports {module}"
        for path in sources("control", ".py")
        for module, _ in imports(path)
        if module.split(".")[0] == "router" and not module.startswith(allowed)
    ]
    assert breaches == []


def test_each_dependency_is_imported_in_its_place_only() -> None:
    own = {"router", "msgspec"}
    breaches = [
        f"{path} imports {module}"
        for path in sources("router", ".py")
        for module, _ in imports(path)
        if (top := module.split(".")[0]) not in own | sys.stdlib_module_names
        and module_name(path) not in THIRD_PARTY.get(top, set())
    ]
    assert breaches == []


@pytest.mark.parametrize("package", ["router", "bench"])
def test_native_modules_rest_on_libc_and_on_each_other(package: str) -> None:
    allowed = (package, *LIBC)
    breaches = []
    for path in sources(package, ".pyx", ".pxd"):
        own = module_name(path)
        may = next((names for name, names in BENCH_MAY.items() if own.startswith(name)), ("router.schema",))
        for module, kind, _ in native_imports(text(path)):
            top = module.split(".")[0]
            is_known = package == "bench" and module.startswith(may)
            is_stdlib = kind == "import" and top in sys.stdlib_module_names
            if top not in allowed and not is_known and not is_stdlib:
                breaches.append(f"{path} {kind}s {module}")
    assert breaches == []


def test_native_modules_call_each_other_in_one_direction() -> None:
    """Names in capitals do not count: they are numbers of a contract, and nothing is called through them."""
    below: dict[str, set[str]] = {}
    for path in files(".pyx", ".pxd"):
        own = module_name(path)
        for module, _, names in native_imports(text(path)):
            if module in modules() and module != own and not (names and all(map(str.isupper, names))):
                below.setdefault(own, set()).add(module)
    graphlib.TopologicalSorter(below).prepare()


def test_python_modules_import_each_other_in_one_direction() -> None:
    below: dict[str, set[str]] = {}
    for package in ("router", "bench", "control"):
        for path in sources(package, ".py"):
            own = module_name(path)
            below[own] = {module for module, is_lazy in imports(path) if not is_lazy and module != own}
    graphlib.TopologicalSorter(below).prepare()


def test_a_worker_starts_without_aiohttp() -> None:
    """It costs 12 MiB and 0.3 s in each worker, and only what is not hot needs it: it can wait."""
    seen: set[str] = set()
    waiting = ["router.worker"]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            if module in modules():
                waiting += [name for name, is_lazy in imports(modules()[module]) if not is_lazy]
    assert "aiohttp" not in {module.split(".")[0] for module in seen}
