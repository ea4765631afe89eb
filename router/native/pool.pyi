"""The handle of a native endpoint, for tests; the core makes and reads its own."""

from router.snapshot import EndpointTables

class Endpoint:
    def __init__(self, tables: EndpointTables) -> None:
        """Raises: ValueError when a TLS file cannot be used."""
    @property
    def identity(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
