"""Recognises a field name by its length first and its letters after, without hashing or lower-casing it anywhere.

Invariant: names are compared without regard to case (RFC 9110 5.1) and exactly; a name that is not here is
FIELD_OTHER, never an error. Neighbours: `http1` holds the ids and asks once for each field line.
"""

from libc.stdint cimport uint8_t
from router.native.http1 cimport (
    FIELD_OTHER,
    FIELD_HOST, FIELD_CONTENT_LENGTH, FIELD_TRANSFER_ENCODING, FIELD_CONNECTION, FIELD_KEEP_ALIVE,
    FIELD_PROXY_CONNECTION, FIELD_TE, FIELD_TRAILER, FIELD_UPGRADE, FIELD_EXPECT, FIELD_VIA,
    FIELD_AUTHORIZATION, FIELD_X_API_KEY, FIELD_API_KEY, FIELD_X_REQUEST_ID, FIELD_TRACEPARENT,
    FIELD_X_FORWARDED_FOR, FIELD_X_FORWARDED_PROTO, FIELD_X_FORWARDED_HOST, FIELD_FORWARDED,
    FIELD_CONTENT_TYPE, FIELD_CONTENT_ENCODING, FIELD_ENDPOINT_LOAD_METRICS, FIELD_RETRY_AFTER,
    FIELD_PROXY_AUTHENTICATE, FIELD_PROXY_AUTHORIZATION, FIELD_COOKIE, FIELD_X_SESSION_ID,
    FIELD_SEC_WEBSOCKET_KEY,
)
from router.native.octets cimport same_name


cdef uint8_t field_id_of(const uint8_t* name, size_t size) noexcept nogil:
    if size == 2:
        if same_name(name, b"te", 2):
            return FIELD_TE
    elif size == 3:
        if same_name(name, b"via", 3):
            return FIELD_VIA
    elif size == 4:
        if same_name(name, b"host", 4):
            return FIELD_HOST
    elif size == 6:
        if same_name(name, b"expect", 6):
            return FIELD_EXPECT
        if same_name(name, b"cookie", 6):
            return FIELD_COOKIE
    elif size == 7:
        if same_name(name, b"trailer", 7):
            return FIELD_TRAILER
        if same_name(name, b"upgrade", 7):
            return FIELD_UPGRADE
        if same_name(name, b"api-key", 7):
            return FIELD_API_KEY
    elif size == 9:
        if same_name(name, b"x-api-key", 9):
            return FIELD_X_API_KEY
        if same_name(name, b"forwarded", 9):
            return FIELD_FORWARDED
    elif size == 10:
        if same_name(name, b"connection", 10):
            return FIELD_CONNECTION
        if same_name(name, b"keep-alive", 10):
            return FIELD_KEEP_ALIVE
    elif size == 11:
        if same_name(name, b"traceparent", 11):
            return FIELD_TRACEPARENT
        if same_name(name, b"retry-after", 11):
            return FIELD_RETRY_AFTER
    elif size == 12:
        if same_name(name, b"x-request-id", 12):
            return FIELD_X_REQUEST_ID
        if same_name(name, b"content-type", 12):
            return FIELD_CONTENT_TYPE
        if same_name(name, b"x-session-id", 12):
            return FIELD_X_SESSION_ID
    elif size == 13:
        if same_name(name, b"authorization", 13):
            return FIELD_AUTHORIZATION
    elif size == 14:
        if same_name(name, b"content-length", 14):
            return FIELD_CONTENT_LENGTH
    elif size == 15:
        if same_name(name, b"x-forwarded-for", 15):
            return FIELD_X_FORWARDED_FOR
    elif size == 16:
        if same_name(name, b"proxy-connection", 16):
            return FIELD_PROXY_CONNECTION
        if same_name(name, b"x-forwarded-host", 16):
            return FIELD_X_FORWARDED_HOST
        if same_name(name, b"content-encoding", 16):
            return FIELD_CONTENT_ENCODING
    elif size == 17:
        if same_name(name, b"transfer-encoding", 17):
            return FIELD_TRANSFER_ENCODING
        if same_name(name, b"x-forwarded-proto", 17):
            return FIELD_X_FORWARDED_PROTO
        if same_name(name, b"sec-websocket-key", 17):
            return FIELD_SEC_WEBSOCKET_KEY
    elif size == 18:
        if same_name(name, b"proxy-authenticate", 18):
            return FIELD_PROXY_AUTHENTICATE
    elif size == 19:
        if same_name(name, b"proxy-authorization", 19):
            return FIELD_PROXY_AUTHORIZATION
    elif size == 21:
        if same_name(name, b"endpoint-load-metrics", 21):
            return FIELD_ENDPOINT_LOAD_METRICS
    return FIELD_OTHER
