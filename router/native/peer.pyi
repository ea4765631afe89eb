"""The door of what is known of a connection's other end, for tests."""

def describe(address: bytes, networks: list[str]) -> tuple[str, bool]:
    """(text, whether it is trusted) of a sockaddr_in6 among CIDR `networks`.

    Raises: ValueError for a bad network, or more than 64 of them.
    """
