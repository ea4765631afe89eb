"""Types of the reader's door for tests; what it does is told in reader.pyx."""

def read_message(
    pieces: list[bytes], is_response: bool, body: bytes, last: bytes | None = None
) -> dict[str, object]: ...
