"""Recognises a field name by its length and first letter, and by comparing it whole with the one name that has both.

Invariant: names are compared without regard to case (RFC 9110 5.1) and exactly; a name that is not here is
FIELD_OTHER, never an error. Neighbours: `http1` holds the ids and asks once for each field line.

The table is 1 KiB, of which a head touches a few lines. Two names may share a place; there they are chained.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t
from router.native.http1 cimport FIELD_COUNT, FIELD_OTHER
from router.native.octets cimport same_name

NAMES = (                            # by field_id
    b"", b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"te",
    b"trailer", b"upgrade", b"expect", b"via", b"authorization", b"x-api-key", b"api-key", b"x-request-id",
    b"traceparent", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"content-type",
    b"content-encoding", b"endpoint-load-metrics", b"retry-after", b"proxy-authenticate", b"proxy-authorization",
    b"cookie", b"x-session-id", b"sec-websocket-key", b"x-fairlead-explain",
    b"x-fairlead-require",
)

cdef const char* lower_names[32]     # FIELD_COUNT; borrowed from NAMES, which lives as long as the module
cdef uint8_t first_ids[32][32]       # [length][first letter & 31]: the last field_id with both, FIELD_OTHER when none
cdef uint8_t next_ids[32]            # the one before it that has both, too


cdef uint8_t field_id_of(const uint8_t* name, size_t size) noexcept nogil:
    cdef uint8_t id = first_ids[size][name[0] & 31] if size < 32 else FIELD_OTHER
    while id != FIELD_OTHER and not same_name(name, lower_names[id], size):
        id = next_ids[id]
    return id


cdef int fill_tables() except -1:
    cdef bytes name
    cdef uint8_t* first
    if len(NAMES) != FIELD_COUNT:
        raise AssertionError("a field_id without a name")
    for id in range(1, FIELD_COUNT):
        name = NAMES[id]
        lower_names[id] = PyBytes_AS_STRING(name)
        first = &first_ids[len(name)][name[0] & 31]
        next_ids[id] = first[0]
        first[0] = id
    return 0


fill_tables()
