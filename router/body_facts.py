"""The slow, certain reading of what a request asks for: when the scan is in doubt or the body is no JSON.

Three doors, one a place where an API carries its model: a JSON body, a multipart form, the path. A body is
refused only where routing cannot go on: it is not readable at all, or its model is not a string. Everything
else that is wrong with it is the engine's to judge, so an odd `stream` or bound counts as absent.
Neighbours: router/native/body.pyx reads most JSON bodies first and never contradicts this; dispatch.py
asks.
"""

import json
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in typeshed; public since Python 2.6
from typing import Final
from urllib.parse import unquote

import msgspec

from router.limits import (
    MODEL_BYTES_MAX,
    MULTIPART_PART_HEAD_BYTES_MAX,
    MULTIPART_PARTS_MAX,
    MULTIPART_SCAN_BYTES_MAX,
)

INT64_MAX: Final = 2**63 - 1  # what the native side can hold
FORM_FIELDS: Final = ("model", "stream", "user")
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # Windows clients send it; engines' parsers take it
JSON_SPACE: Final = b" \t\r\n"

_BOUNDARY = re.compile(r'boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;,\s"]+))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
_SPACE = re.compile(r"[ \t\r\n]*")

# Azure; TF Serving, Gemini and Vertex (`models/NAME:verb`, behind any prefix); KServe v2 and Triton.
_MODEL_PATHS = (
    re.compile(r"^/openai/deployments/([^/]+)/."),
    re.compile(r"/models/([^/]+?)(?:/versions/[^/:]+)?:[A-Za-z]+$"),
    re.compile(r"^/v2/models/([^/]+)(?:/versions/[^/]+)?/(?:infer|generate|generate_stream)$"),
)
_STREAM_PATH = re.compile(r"(?::streamGenerateContent|/generate_stream)$")


class BodyUnreadable(ValueError):
    """The body does not say which model it wants; the message says why, for the client."""


class BodyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What routing asks of a body; `model` is None when it names none, or none yet."""

    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    user: str | None = None


class _RawFacts(msgspec.Struct):
    """The wanted members, undecoded, so that an odd one does not make the others unreadable."""

    model: msgspec.Raw = msgspec.Raw(b"null")
    stream: msgspec.Raw = msgspec.Raw(b"null")
    user: msgspec.Raw = msgspec.Raw(b"null")
    max_completion_tokens: msgspec.Raw = msgspec.Raw(b"null")
    max_output_tokens: msgspec.Raw = msgspec.Raw(b"null")
    max_tokens: msgspec.Raw = msgspec.Raw(b"null")


_raw_facts = msgspec.json.Decoder(_RawFacts)


def read_body_facts(
    path: bytes, content_type: bytes, body: bytes, complete: bool
) -> tuple[str | None, bool, str | None]:
    """Model, whether a stream is asked for, and user of any request.

    A model in the path outranks one in the body, as it does in the APIs that have one there. A body that is
    neither a JSON object nor a form names no model, which is no error: engines have APIs of their own.

    Raises: BodyUnreadable.
    """
    target = path.decode("latin-1")
    kind = content_type.decode("latin-1")
    path_model = model_from_path(target)
    path_streams = _STREAM_PATH.search(target.partition("?")[0]) is not None
    try:
        if kind.lower().lstrip().startswith("multipart/form-data"):
            facts = read_multipart_facts(kind, body, complete)
        elif not body.removeprefix(BYTE_ORDER_MARK).lstrip(JSON_SPACE).startswith(b"{"):
            facts = BodyFacts()
        else:
            facts = read_json_facts(body) if complete else read_json_prefix_facts(body)
    except BodyUnreadable:
        if path_model is None:
            raise
        facts = BodyFacts()
    return path_model or facts.model, facts.stream or path_streams, facts.user


def read_json_facts(body: bytes) -> BodyFacts:
    """The facts of a whole JSON body.

    A member that comes twice counts as it was written last: so do the parsers of the engines (Python's json,
    nlohmann::json, serde_json's Value), and the router must not send a request to another model than the one
    that the engine then reads. Of the bounds on output, max_completion_tokens counts before max_output_tokens
    and max_tokens, which OpenAI deprecates.

    Raises: BodyUnreadable.
    """
    try:
        raw = _raw_facts.decode(body.removeprefix(BYTE_ORDER_MARK))
        members = {name: msgspec.json.decode(getattr(raw, name)) for name in raw.__struct_fields__}
    except msgspec.ValidationError as exc:
        raise BodyUnreadable("The body must be a JSON object.") from exc
    except msgspec.DecodeError as exc:
        raise BodyUnreadable(f"The body is not valid JSON: {exc}.") from exc
    except UnicodeDecodeError as exc:
        raise BodyUnreadable("The body is not valid UTF-8.") from exc
    except RecursionError as exc:
        raise BodyUnreadable("The body is nested too deeply to be read.") from exc
    return _facts_of(members)


def read_json_prefix_facts(body: bytes) -> BodyFacts:
    """The facts that the first part of a JSON object already holds; what is cut off is absent.

    For bodies too large to be held: slower than the whole reading, and only asked when the scan is in doubt.

    Raises: BodyUnreadable when its model is not a string.
    """
    text = body.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace")
    return _facts_of(dict(_members_of_prefix(text)))


def _members_of_prefix(text: str) -> Iterator[tuple[str, object]]:
    """The top-level members that are whole. A last number may go on, so it needs something after it."""
    decoder = json.JSONDecoder()
    index = _skip_space(text, 0)
    try:
        while text[index] in "{,":
            index = _skip_space(text, index + 1)
            if text[index] != '"':
                return
            key, index = scanstring(text, index + 1, True)
            index = _skip_space(text, index)
            if text[index] != ":":
                return
            value, index = decoder.raw_decode(text, _skip_space(text, index + 1))
            index = _skip_space(text, index)
            if index == len(text):
                return
            yield key, value
    except (ValueError, IndexError, RecursionError):
        return


def _skip_space(text: str, index: int) -> int:
    match = _SPACE.match(text, index)
    return match.end() if match else index


def _facts_of(members: dict[str, object]) -> BodyFacts:
    model = members.get("model")
    if model is not None and not isinstance(model, str):
        raise BodyUnreadable("`model` must be a string.")
    user = members.get("user")
    bounds = (members.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    return BodyFacts(
        model=model,
        stream=members.get("stream") is True,
        max_tokens=next((bound for bound in bounds if type(bound) is int and abs(bound) <= INT64_MAX), None),
        user=user if isinstance(user, str) else None,
    )


def read_multipart_facts(content_type: str, body: bytes, complete: bool) -> BodyFacts:
    """The facts of a multipart/form-data body (RFC 7578), or of as much of it as has arrived.

    `model` is None until the whole field is there; nothing behind MULTIPART_SCAN_BYTES_MAX or
    MULTIPART_PARTS_MAX is looked at.

    Raises: BodyUnreadable.
    """
    delimiter = _delimiter(content_type)
    if complete and not body.startswith(delimiter) and b"\r\n" + delimiter not in body:
        raise BodyUnreadable("The form does not contain the boundary that its Content-Type names.")
    fields: dict[str, str] = {}
    for name, begin, end in _form_places(body, delimiter):
        content = body[begin:end]
        try:
            value = content.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise BodyUnreadable(f"The form's `{name}` is not valid UTF-8.") from exc
        if name == "model":
            if len(content) > MODEL_BYTES_MAX:
                raise BodyUnreadable(f"The form's `model` is longer than {MODEL_BYTES_MAX} bytes.")
            if fields.get("model", value) != value:
                raise BodyUnreadable("The form names more than one `model`.")
        fields[name] = value
    return BodyFacts(
        model=fields.get("model"),
        stream=fields.get("stream", "").lower() in ("true", "1"),
        user=fields.get("user"),
    )


def _delimiter(content_type: str) -> bytes:
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise BodyUnreadable("The Content-Type of the form has no boundary.")
    boundary = _unquote_string(match[1]) if match[1] is not None else match[2]
    return b"--" + boundary.encode("latin-1")


def _form_places(body: bytes, delimiter: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of content of the wanted fields that have arrived whole, in order."""
    end = min(len(body), MULTIPART_SCAN_BYTES_MAX)
    separator = b"\r\n" + delimiter
    start = len(delimiter)
    if not body.startswith(delimiter):
        preamble = body.find(separator, 0, end)
        if preamble < 0:
            return
        start = preamble + len(separator)
    for _ in range(MULTIPART_PARTS_MAX):
        # `start` is just after a delimiter: two hyphens end the form, else only white space may follow.
        line_end = body.find(b"\r\n", start, end)
        if line_end < 0 or body.startswith(b"--", start) or body[start:line_end].strip(b" \t"):
            return
        # From the line end before the fields, so that a part without any has its blank line too.
        head_end = body.find(b"\r\n\r\n", line_end, min(end, line_end + MULTIPART_PART_HEAD_BYTES_MAX))
        content_end = body.find(separator, head_end + 2, end) if head_end >= 0 else -1
        if content_end < 0:
            return
        name = _field_name(body[line_end:head_end])
        if name in FORM_FIELDS:
            yield name, head_end + 4, content_end
        start = content_end + len(separator)


def _field_name(head: bytes) -> str | None:
    for line in head.split(b"\r\n"):
        label, _, value = line.decode("utf-8", "replace").partition(":")
        if label.strip().lower() == "content-disposition":
            for match in _PARAMETER.finditer(value):
                if match[1].lower() == "name":
                    raw = match[2].strip()
                    return _unquote_string(raw[1:-1]) if raw.startswith('"') else raw
    return None


def _unquote_string(raw: str) -> str:
    return re.sub(r"\\(.)", r"\1", raw)


def replace_model(content_type: bytes, body: bytes, model: str) -> bytes:
    """`body` with `model` in place of the model it names; everything else stays as it was written.

    A form may be cut off behind its model field. Raises: BodyUnreadable where no model is found.
    """
    kind = content_type.decode("latin-1")
    if not kind.lower().lstrip().startswith("multipart/form-data"):
        try:
            members = msgspec.json.decode(body.removeprefix(BYTE_ORDER_MARK), type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BodyUnreadable(f"The body is not a JSON object: {exc}.") from exc
        if "model" not in members:
            raise BodyUnreadable("The body names no model.")
        members["model"] = msgspec.Raw(msgspec.json.encode(model))
        return msgspec.json.encode(members)
    for name, begin, end in _form_places(body, _delimiter(kind)):
        if name == "model":
            return body[:begin] + model.encode() + body[end:]
    raise BodyUnreadable("The form names no model.")


def model_from_path(path: str) -> str | None:
    """The model that the path names, percent-decoded and fit to print; None where the body is to name it."""
    path = path.partition("?")[0]
    for pattern in _MODEL_PATHS:
        match = pattern.search(path)
        if match is not None:
            model = unquote(match[1])
            fits = len(model.encode("utf-8", "replace")) <= MODEL_BYTES_MAX
            return model if fits and model.isprintable() else None
    return None
