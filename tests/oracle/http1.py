"""HTTP/1.1 messages read slowly and obviously, with the RFCs' grammars as regular expressions.

Invariant: nothing here is shared with router/native; every expression is transcribed from the ABNF of
RFC 9110, 9112 or 3986. A function answers what the native door answers: facts about an accepted message, or
the name of the error. Neighbours: tests/property and tests/fuzz hold `router.native.http1` and
`router.native.chunk` to it.
"""

import re

TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 5.6.2
TEXT = rb"[\t \x21-\x7e\x80-\xff]"  # RFC 9110 5.5: SP, HTAB, VCHAR, obs-text
QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'  # RFC 9110 5.6.4

# RFC 3986 3.2.2, each form spelt out as there.
H16 = rb"[0-9A-Fa-f]{1,4}"
DEC_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = rb"%b\.%b\.%b\.%b" % (DEC_OCTET, DEC_OCTET, DEC_OCTET, DEC_OCTET)
LS32 = rb"(?:%b:%b|%b)" % (H16, H16, IPV4)
IPV6 = b"|".join(
    (
        rb"(?:H:){6}L",
        rb"::(?:H:){5}L",
        rb"(?:H)?::(?:H:){4}L",
        rb"(?:(?:H:){0,1}H)?::(?:H:){3}L",
        rb"(?:(?:H:){0,2}H)?::(?:H:){2}L",
        rb"(?:(?:H:){0,3}H)?::H:L",
        rb"(?:(?:H:){0,4}H)?::L",
        rb"(?:(?:H:){0,5}H)?::H",
        rb"(?:(?:H:){0,6}H)?::",
    )
)
IPV6 = IPV6.replace(b"H", H16).replace(b"L", LS32)
IPV_FUTURE = rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+"
# One or more octets, not zero or more: RFC 9110 4.2.1 refuses an empty host.
REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
AUTHORITY = re.compile(rb"(?P<host>\[(?:%b|%b)\]|%b)(?::(?P<port>[0-9]*))?" % (IPV6, IPV_FUTURE, REG_NAME))

KNOWN_NAMES = (
    *("", "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection"),
    *("te", "trailer", "upgrade", "expect", "via", "authorization", "x-api-key", "api-key", "x-request-id"),
    *("traceparent", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"),
    *("content-type", "content-encoding", "endpoint-load-metrics", "retry-after"),
    *("proxy-authenticate", "proxy-authorization", "cookie", "x-session-id", "sec-websocket-key"),
    "x-fairlead-explain",
)
"""A name's place is its field_id."""

HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    *("proxy-authenticate", "proxy-authorization"),
}
PROTECTED = {
    *("host", "content-length", "content-type", "content-encoding", "expect", "authorization", "x-api-key"),
    *("api-key", "via", "x-request-id", "traceparent", "forwarded"),
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
}
METHODS = ("", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
FORMS = ("origin", "absolute", "authority", "asterisk")

FIELDS_MAX = 128
TRAILERS_MAX = 32
CONNECTION_OPTIONS_MAX = 32
CHUNK_LINE_BYTES_MAX = 4096
CHUNK_TRAILER_BYTES_MAX = 8192

Field = tuple[bytes, bytes, int, bool]


class RefusedError(Exception):
    """Carries the error's name out of the grammar."""


def find_head(data: bytes, head_bytes_max: int = 65536) -> int | str:
    """The first head's length with its blank line, 0 when more is needed, or the error's name."""
    limit = min(len(data), head_bytes_max)
    for at in range(limit):
        before, here, after = data[max(0, at - 1) : at], data[at : at + 1], data[at + 1 : min(at + 2, limit)]
        if here == b"\0" or (here == b"\n" and before != b"\r"):
            return "BAD_LINE_END"
        if here == b"\r" and after not in (b"", b"\n"):
            return "BAD_LINE_END"
        if (at == 1 and data[:2] == b"\r\n") or data[max(0, at - 3) : at + 1] == b"\r\n\r\n":
            return at + 1
    if limit < head_bytes_max:
        return 0
    return "HEAD_TOO_LARGE" if b"\n" in data[:limit] else "TARGET_TOO_LONG"


def parse_head(head: bytes, is_response: bool, target_bytes_max: int = 8192) -> dict[str, object] | str:
    """What a whole head says, or the error's name."""
    try:
        return response(head) if is_response else request(head, target_bytes_max)
    except RefusedError as refused:
        return str(refused)


def request(head: bytes, target_bytes_max: int) -> dict[str, object]:
    start_line, lines = split_lines(head)
    method, target, minor_version = request_line(start_line, target_bytes_max)
    form, authority, path = target_form(method, target)
    facts = message(lines, minor_version, is_response=False) | {
        "length_bytes": len(head),
        "method": method,
        "method_id": METHODS.index(method.decode()) if method.decode() in METHODS else 0,
        "target": target,
        "form": FORMS.index(form),
        "path": path,
    }
    fields: list[Field] = facts["fields"]  # type: ignore[assignment]
    hosts = values_of(fields, "host")
    if not hosts and minor_version == 1:
        raise RefusedError("BAD_HOST")
    facts["authority"] = authority or (hosts[0] if hosts else b"")
    facts["expects_continue"] = False
    if minor_version == 1 and values_of(fields, "expect"):
        if any(value.lower() != b"100-continue" for value in values_of(fields, "expect")):
            raise RefusedError("BAD_EXPECT")
        facts["expects_continue"] = True
    return facts


def response(head: bytes) -> dict[str, object]:
    start_line, lines = split_lines(head)
    match = re.fullmatch(rb"(HTTP/[0-9]\.[0-9]) ([0-9]{3})(?: (%b*))?" % TEXT, start_line)
    version = re.match(rb"(HTTP/[0-9]\.[0-9]) ", start_line)
    # A version that is not spoken here is told from a malformed line even when the rest of the line is odd.
    if len(start_line) >= 12 and re.fullmatch(rb"%b*" % TEXT, start_line) and version:
        minor_version_of(version[1])
    if not match or not 100 <= int(match[2]) <= 599:
        raise RefusedError("BAD_STATUS_LINE")
    facts = message(lines, minor_version_of(match[1]), is_response=True)
    return facts | {"length_bytes": len(head), "status": int(match[2]), "reason": match[3] or b""}


def split_lines(head: bytes) -> tuple[bytes, list[bytes]]:
    """The start line, and every line after it up to the end of `head`, the blank one included."""
    if re.search(rb"(?<!\r)\n|\r(?!\n)", head) or not head.endswith(b"\r\n"):
        raise RefusedError("BAD_LINE_END")
    start_line, *lines = head.split(b"\r\n")
    return start_line, lines[:-1]


def request_line(line: bytes, target_bytes_max: int) -> tuple[bytes, bytes, int]:
    method = re.match(rb"%b*" % TCHAR, line)[0]  # type: ignore[index]
    rest = line[len(method) :]
    if rest == b"":
        raise RefusedError("BAD_REQUEST_LINE")
    if not rest.startswith(b" ") or not 1 <= len(method) <= 32:
        raise RefusedError("BAD_METHOD")
    target = re.match(rb"[\x21\x22\x24-\x7e]*", rest[1:])[0]  # type: ignore[index]
    rest = rest[1 + len(target) :]
    if rest == b"" or (rest.startswith(b" ") and target == b""):
        raise RefusedError("BAD_REQUEST_LINE")
    if not rest.startswith(b" "):
        raise RefusedError("BAD_TARGET")
    if len(target) > target_bytes_max:
        raise RefusedError("TARGET_TOO_LONG")
    version = rest[1:]
    if re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version):
        return method, target, minor_version_of(version)
    raise RefusedError("BAD_REQUEST_LINE" if b" " in version else "BAD_VERSION")


def minor_version_of(version: bytes) -> int:
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise RefusedError("UNSUPPORTED_VERSION")
    return int(version[-1:])


def target_form(method: bytes, target: bytes) -> tuple[str, bytes, bytes]:
    """(form, authority, path) by RFC 9112 3.2."""
    if method == b"CONNECT":
        if not is_authority(target, needs_port=True):
            raise RefusedError("BAD_TARGET")
        return "authority", target, b""
    if target.startswith(b"/"):
        return "origin", b"", target
    if target == b"*" and method == b"OPTIONS":
        return "asterisk", b"", target
    absolute = re.fullmatch(rb"(?i:https?)://([^/?]*)(.*)", target)
    if not absolute or not is_authority(absolute[1], needs_port=False):
        raise RefusedError("BAD_TARGET")
    return "absolute", absolute[1], absolute[2] or b"/"


def is_authority(text: bytes, needs_port: bool) -> bool:
    match = AUTHORITY.fullmatch(text)
    if not match:
        return False
    if not match["port"]:
        return not needs_port
    return int(match["port"]) <= 65535


def message(lines: list[bytes], minor_version: int, is_response: bool) -> dict[str, object]:
    """The facts that requests and responses share; `lines` ends with the blank one."""
    fields: list[Field] = []
    lengths: set[int] = set()
    is_chunked = False
    while True:
        if not lines:
            raise RefusedError("BAD_LINE_END")
        line, *lines = lines
        if line == b"":
            break
        if len(fields) == FIELDS_MAX:
            raise RefusedError("TOO_MANY_FIELDS")
        name, value = field_line(line)
        lowered = name.decode().lower()
        is_host = lowered == "host" and not is_response
        if is_host and (values_of(fields, "host") or not is_authority(value, needs_port=False)):
            raise RefusedError("BAD_HOST")
        if lowered == "content-length":
            lengths |= content_lengths(value)
            if len(lengths) > 1:
                raise RefusedError("BAD_LENGTH")
        if lowered == "transfer-encoding":
            if is_chunked or minor_version == 0 or value.lower() != b"chunked":
                raise RefusedError("BAD_CODING")
            is_chunked = True
        fields.append((name, value, field_id_of(lowered), lowered in HOP_BY_HOP))
    if lines:
        raise RefusedError("BAD_LINE_END")
    if lengths and is_chunked:
        raise RefusedError("LENGTH_AND_CODING")
    options = connection_options(fields)
    named = options - {"close", "keep-alive", "upgrade"} - PROTECTED
    fields = [(*field[:3], field[3] or field[0].decode().lower() in named) for field in fields]
    return {
        "minor_version": minor_version,
        "fields": fields,
        "known": {fields[place][2]: place for place in reversed(range(len(fields))) if fields[place][2]},
        "content_length": lengths.pop() if lengths else -1,
        "is_chunked": is_chunked,
        "keep_alive": "close" not in options and (minor_version == 1 or "keep-alive" in options),
        "wants_upgrade": minor_version == 1 and "upgrade" in options and values_of(fields, "upgrade") != [],
    }


def field_line(line: bytes) -> tuple[bytes, bytes]:
    match = re.fullmatch(rb"(%b+):(.*)" % TCHAR, line, re.DOTALL)
    if not match:
        raise RefusedError("OBS_FOLD" if line[:1] in (b" ", b"\t") else "BAD_FIELD_NAME")
    value = match[2].strip(b" \t")
    if not re.fullmatch(rb"%b*" % TEXT, value):
        raise RefusedError("BAD_FIELD_VALUE")
    return match[1], value


def field_id_of(lowered: str) -> int:
    return KNOWN_NAMES.index(lowered) if lowered in KNOWN_NAMES else 0


def values_of(fields: list[Field], name: str) -> list[bytes]:
    return [value for field, value, _, _ in fields if field.decode().lower() == name]


def content_lengths(value: bytes) -> set[int]:
    members = [member.strip(b" \t") for member in value.split(b",")]
    if not all(re.fullmatch(rb"[0-9]+", member) for member in members):
        raise RefusedError("BAD_LENGTH")
    if any(int(member) > 2**63 - 1 for member in members):
        raise RefusedError("BAD_LENGTH")
    return {int(member) for member in members}


def connection_options(fields: list[Field]) -> set[str]:
    options = []
    for value in values_of(fields, "connection"):
        members = [member.strip(b" \t") for member in value.split(b",")]
        options += [member for member in members if member]
    if len(options) > CONNECTION_OPTIONS_MAX:
        raise RefusedError("BAD_FIELD_VALUE")
    if not all(re.fullmatch(rb"%b+" % TCHAR, option) for option in options):
        raise RefusedError("BAD_FIELD_VALUE")
    return {option.decode().lower() for option in options}


def parse_trailer_section(section: bytes) -> list[Field] | str:
    """(name, value, field id, is dropped) of each trailer field, or the error's name."""
    if section == b"":
        return []
    fields: list[Field] = []
    try:
        first, rest = split_lines(section)
        lines = [first, *rest]
        if b"" in lines[:-1]:
            lines, fault = lines[: lines.index(b"")], "BAD_TRAILER"
        else:
            lines, fault = lines[:-1] if lines[-1] == b"" else lines, ""
        for line in lines:
            if len(fields) == TRAILERS_MAX:
                return "TOO_MANY_FIELDS"
            name, value = field_line(line)
            lowered = name.decode().lower()
            is_dropped = lowered in KNOWN_NAMES and lowered != "endpoint-load-metrics"
            fields.append((name, value, field_id_of(lowered), is_dropped))
    except RefusedError:
        return "BAD_TRAILER"
    return fault or fields


# RFC 9112 7.1 and 7.1.1; BWS is the same as OWS.
CHUNK_LINE = re.compile(
    rb"(?P<size>[0-9A-Fa-f]{1,16})"
    rb"(?:[ \t]*;[ \t]*%b+(?:[ \t]*=[ \t]*(?:%b+|%b))?)*\r\n" % (TCHAR, TCHAR, QUOTED)
)
CHUNK_LINE_ENDINGS = (b"", b"\n", b"\r\n", b"0\r\n", b"a\r\n", b";a\r\n", b"=a\r\n", b'"\r\n', b'a"\r\n')
"""What can follow a size line cut short anywhere, so that the whole is a line."""

TRAILER_LINE = re.compile(rb"%b+:%b*\r\n" % (TCHAR, TEXT))
TRAILER_LINE_ENDINGS = (b"", b"\n", b"\r\n", b":\r\n")


def decode_chunked(body: bytes) -> tuple[str, bytes, bytes, int]:
    """("end", "more" or "bad", data, trailer section, bytes consumed); the last two count at "end" only."""
    data = b""
    place = 0
    while True:
        line = first_line(body[place:])
        sizes = [chunk_size(line + ending) for ending in CHUNK_LINE_ENDINGS]
        if len(line) > CHUNK_LINE_BYTES_MAX or sizes == [None] * len(sizes):
            return "bad", data, b"", 0
        size = sizes[0]
        if size is None:
            return "more", data, b"", 0
        place += len(line)
        if size == 0:
            break
        data += body[place : place + size]
        place += size
        if not b"\r\n".startswith(body[place : place + 2]):
            return "bad", data, b"", 0
        if len(body) < place + 2:
            return "more", data, b"", 0
        place += 2
    start = place
    while True:
        rest = body[place:]
        if rest.startswith(b"\r\n"):
            return "end", data, body[start:place], place + 2
        if rest in (b"", b"\r"):
            return "more", data, b"", 0
        line = first_line(rest)
        place += len(line)
        if place - start > CHUNK_TRAILER_BYTES_MAX:
            return "bad", data, b"", 0
        if not any(TRAILER_LINE.fullmatch(line + ending) for ending in TRAILER_LINE_ENDINGS):
            return "bad", data, b"", 0
        if not TRAILER_LINE.fullmatch(line):
            return "more", data, b"", 0


def first_line(text: bytes) -> bytes:
    """Up to and with the first LF, or all of it."""
    return text[: text.index(b"\n") + 1] if b"\n" in text else text


def chunk_size(line: bytes) -> int | None:
    match = CHUNK_LINE.fullmatch(line)
    return int(match["size"], 16) if match and int(match["size"], 16) < 2**63 else None
