"""The plain reading of where a conversation's first user message ends: with a JSON parser."""

from __future__ import annotations

import json

BYTES_MAX = 65536


def end_of_first_user_message(messages: bytes) -> int:
    """Of valid JSON; 0: it is no array of objects, or none is a user's."""
    if not messages.startswith(b"["):
        return 0
    text = messages.decode()
    decoder = json.JSONDecoder()
    at = 1
    while True:
        while text[at] in " \n\r\t,":
            at += 1
        if text[at] == "]":
            break
        message, at = decoder.raw_decode(text, at)
        if not isinstance(message, dict):
            break
        size = len(text[:at].encode())
        if size > BYTES_MAX:
            break
        if message.get("role") == "user":
            return size
    size = len(text[:at].encode())
    return BYTES_MAX if len(messages) >= BYTES_MAX and size >= BYTES_MAX else 0
