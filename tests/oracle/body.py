"""The slow, obvious reading of a JSON request body that router/native/body.pyx is held equal to.

`read` parses with the json module and walks the top-level members with its raw decoder, on the body decoded
as latin-1, so that every index is a byte offset. It says which bodies the scanner has to be in doubt about,
too: doubt is part of the contract, and a scanner that doubted everything would be useless.
"""

import json
from dataclasses import dataclass, field
from json.decoder import JSONDecoder

PROMPT_KEYS = ("messages", "prompt", "input", "inputs", "text", "query")
BOUND_KEYS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
WANTED_KEYS = ("model", "user", "stream", *BOUND_KEYS, *PROMPT_KEYS)
AHEAD_NAMES = {"system": 13, "tools": 14, "instructions": 15, "functions": 16, "cache_salt": 17}
"""What engines put before the prompt, with the numbers that tell the parts apart (wanted_key in body.pyx)."""
NAME_BYTES_MAX = 256
DEPTH_MAX = 128
PROMPT_KEY_BYTES = 1024
SPACE = " \t\r\n"


@dataclass
class Reading:
    in_doubt: bool = False
    model: bytes | None = None
    model_offset: int | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    user: bytes | None = None
    prompt: bytes | None = None
    prompt_offset: int | None = None
    ahead: list[tuple[int, bytes]] = field(default_factory=list)


def is_valid(body: bytes) -> bool:
    """Whether the body is JSON by RFC 8259 in UTF-8: no NaN, no byte-order mark, no other encodings."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def read(body: bytes) -> Reading:
    """What a body for which `is_valid` holds says."""
    text = body.decode("latin-1")
    reading = Reading()
    index = skip_space(text, 0)
    if text[index] != "{":
        reading.in_doubt = True
        return reading
    seen: set[str] = set()
    index = skip_space(text, index + 1)
    while text[index] != "}":
        if text[index] == ",":
            index = skip_space(text, index + 1)
        key, end = JSONDecoder().raw_decode(text, index)
        raw_key = text[index + 1 : end - 1]
        if "\\" in raw_key:
            reading.in_doubt = True
            key = ""
        start = skip_space(text, skip_space(text, end) + 1)
        value, end = JSONDecoder().raw_decode(text, start)
        if depth_of(value) + 1 > DEPTH_MAX:
            reading.in_doubt = True
        if key in WANTED_KEYS:
            if key in seen:
                reading.in_doubt = True
            else:
                take(reading, key, value, text[start:end], start)
            seen.add(key)
        elif key in AHEAD_NAMES and isinstance(value, (str, list, dict)):
            reading.ahead.append((AHEAD_NAMES[key], text[start:end].encode("latin-1")))
        index = skip_space(text, end)
    return reading


def take(reading: Reading, key: str, value: object, raw: str, start: int) -> None:
    if key in PROMPT_KEYS:
        if isinstance(value, (str, list, dict)) and reading.prompt is None:
            reading.prompt = raw.encode("latin-1")
            reading.prompt_offset = start
        return
    if value is None:
        return
    if key in ("model", "user"):
        content = raw[1:-1].encode("latin-1")
        if not isinstance(value, str) or "\\" in raw or len(content) > NAME_BYTES_MAX:
            reading.in_doubt = True
        elif key == "model":
            reading.model = content
            reading.model_offset = start + 1
        else:
            reading.user = content
    elif key == "stream":
        if isinstance(value, bool):
            reading.stream = value
        else:
            reading.in_doubt = True
    elif type(value) is int and len(raw.lstrip("-")) <= 18 and reading.max_tokens in (None, value):
        reading.max_tokens = value
    else:
        reading.in_doubt = True


def depth_of(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


def skip_space(text: str, index: int) -> int:
    while index < len(text) and text[index] in SPACE:
        index += 1
    return index
