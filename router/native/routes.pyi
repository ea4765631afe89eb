"""The door of the native routing tables, for tests; requests call the same C without it."""

from collections.abc import Callable, Generator

from router.native.pool import Endpoint
from router.snapshot import Tables

class Snapshot:
    """Native tables, empty until `building` has run."""

    def building(
        self, tables: Tables, endpoints: dict[str, Endpoint]
    ) -> Generator[Callable[[], object] | None]:
        """Fills it over the endpoints by identity, in steps; another thread may do the work that it yields.

        Raises: MemoryError.
        """

def glob(pattern: str, text: str, ignore_case: bool = False) -> bool:
    """Whether `text` matches `pattern`: `*` is any run of characters."""

def match(
    snapshot: Snapshot, head: bytes, model: str = ""
) -> tuple[str | None, str | None, list[str] | None]:
    """(route, pool, endpoints) by name for a request head and a model; None where nothing is found.

    Raises: ValueError for what is no request head.
    """
