"""The handle of a native endpoint, for tests; the core makes and reads its own."""

from router.native.tls import TlsContext
from router.snapshot import EndpointTables

class Endpoint:
    def __init__(self, tables: EndpointTables, context: TlsContext | None = None) -> None:
        """Raises: ValueError when a TLS file cannot be used."""
    @property
    def identity(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
