"""TLS by the OpenSSL that Python's own ssl module has loaded, as Python sees it."""

def available() -> bool:
    """Whether this Python's OpenSSL can be used natively."""

class TlsContext:
    """An SSL_CTX for one listener (`server`) or one endpoint (`client`).

    Raises: ValueError, with the file and OpenSSL's reason, when one cannot be used.
    """

    @property
    def is_server(self) -> bool: ...
    @property
    def verifies(self) -> bool: ...
    @staticmethod
    def server(
        cert: str, key: str, *, min_version: str = "1.2", client_ca: str | None = None
    ) -> TlsContext: ...
    @staticmethod
    def client(
        *, verify: bool = True, ca_file: str | None = None, cert: str | None = None, key: str | None = None
    ) -> TlsContext:
        """Without `ca_file` the system's authorities are asked; without `key` it is in the file of `cert`."""
