"""The door of the native routing tables, for tests; requests call the same C without it."""

from router.native.pool import Endpoint
from router.snapshot import Tables

class Snapshot:
    def __init__(self, tables: Tables, endpoints: dict[str, Endpoint]) -> None:
        """Native tables over the endpoints by identity."""

def glob(pattern: str, text: str, ignore_case: bool = False) -> bool:
    """Whether `text` matches `pattern`: `*` is any run of characters."""

def match(
    snapshot: Snapshot, head: bytes, model: str = ""
) -> tuple[str | None, str | None, list[str] | None]:
    """(route, pool, endpoints) by name for a request head and a model; None where nothing is found.

    Raises: ValueError for what is no request head.
    """
