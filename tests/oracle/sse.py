"""The slow, obvious reading of a response body that router/native/sse.pyx is held equal to.

The whole text, split into lines, events and JSON values; what it says binds where every event is valid JSON.
"""

import json
import re
from dataclasses import dataclass

ERROR_EVENTS = ("error", "response.failed")
LAST_EVENTS = ("message_stop", "response.completed", "response.incomplete", "response.failed")
DETAILS = ("prompt_tokens_details", "input_tokens_details")
FIELDS = {
    "prompt_tokens": "prompt_tokens",
    "input_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "output_tokens": "completion_tokens",
    "cache_read_input_tokens": "cached_tokens",
}


class Members(list[tuple[str, object]]):
    """A JSON object as its (key, value) pairs, in order, duplicates kept."""


class Count(int):
    """An integer written as at most 17 plain digits: what a token count looks like."""


@dataclass
class Reading:
    event_count: int = 0
    saw_done: bool = False
    saw_error: bool = False
    has_usage: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    usage_seen: bool = False  # a usage object outranks llama.cpp's timings
    is_plain: bool = True  # every event was JSON or [DONE]: only then is the reading binding


def parse(text: str) -> object:
    return json.loads(
        text,
        object_pairs_hook=Members,
        parse_int=lambda digits: Count(digits) if digits.isdigit() and len(digits) <= 17 else int(digits),
    )


def read_events(body: bytes) -> Reading:
    """Reads a stream whose last event has ended with a blank line."""
    reading = Reading()
    data: list[str] = []
    name = ""
    for line in re.split("\r\n|\r|\n", body.decode("utf-8", "surrogateescape")):
        if line == "":
            if data:
                take_event(reading, name, "\n".join(data))
            data, name = [], ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return reading


def take_event(reading: Reading, name: str, data: str) -> None:
    if name in LAST_EVENTS:
        reading.saw_done = True
    if name in ERROR_EVENTS:
        reading.saw_error = True
    if data.lstrip(" \t\r\n").startswith("[DONE]"):
        reading.saw_done = True
        reading.is_plain &= data.strip(" \t\r\n") == "[DONE]"
        return
    reading.event_count += 1
    take_json(reading, data)


def read_body(body: bytes) -> Reading:
    """Reads a non-streaming JSON body."""
    reading = Reading()
    take_json(reading, body.decode("utf-8", "surrogateescape"))
    return reading


def take_json(reading: Reading, text: str) -> None:
    try:
        value = parse(text)
    except (ValueError, RecursionError):
        reading.is_plain = False
        return
    if isinstance(value, Members) and value and value[0][0] == "error" and value[0][1] is not None:
        reading.saw_error = True
    search(reading, value)


def search(reading: Reading, value: object) -> None:
    """Every object under the key "usage" or "timings", in the order of the text."""
    if isinstance(value, Members):
        for key, member in value:
            if key == "usage" and isinstance(member, Members):
                take_usage(reading, member)
            elif key == "timings" and isinstance(member, Members):
                take_timings(reading, member)
            else:
                search(reading, member)
    elif isinstance(value, list):
        for member in value:
            search(reading, member)


def take_usage(reading: Reading, usage: Members) -> None:
    for key, member in usage:
        if key in FIELDS and isinstance(member, Count):
            setattr(reading, FIELDS[key], int(member))
            reading.has_usage = reading.usage_seen = True
        elif key in DETAILS and isinstance(member, Members):
            for inner, count in member:
                if inner == "cached_tokens" and isinstance(count, Count):
                    reading.cached_tokens = int(count)
                    reading.has_usage = reading.usage_seen = True


def take_timings(reading: Reading, timings: Members) -> None:
    """llama.cpp: prompt_n leaves out the tokens found in its cache, cache_n."""
    if reading.usage_seen:
        return
    evaluated = False
    for key, member in timings:
        if not isinstance(member, Count):
            continue
        if key == "prompt_n":
            reading.prompt_tokens = int(member)
            evaluated = True
        elif key == "predicted_n":
            reading.completion_tokens = int(member)
        elif key == "cache_n":
            reading.cached_tokens = int(member)
        else:
            continue
        reading.has_usage = True
    if evaluated and reading.prompt_tokens is not None:
        reading.prompt_tokens += reading.cached_tokens or 0
