"""Why an attempt or an exchange ended, as numbers that native code can carry. router/errors.py holds what each one
means.

Invariant: the values equal `router.errors.Cause`; tests/unit keeps them so.
"""

cdef enum cause:
    CAUSE_NONE = 0                   # completed
    # downstream: the client did it
    CAUSE_CLIENT_CLOSED = 1          # went away before its answer was complete
    CAUSE_BAD_REQUEST = 2            # malformed HTTP
    CAUSE_HEAD_TIMEOUT = 3
    CAUSE_BODY_TIMEOUT = 4
    CAUSE_HEAD_TOO_LARGE = 5
    CAUSE_TARGET_TOO_LONG = 6
    CAUSE_BODY_TOO_LARGE = 7
    CAUSE_UNSUPPORTED_VERSION = 8
    CAUSE_BAD_EXPECT = 9
    CAUSE_METHOD_NOT_ALLOWED = 10
    CAUSE_BAD_BODY = 11              # unreadable JSON or multipart
    CAUSE_CLIENT_STALLED = 12        # takes nothing for the write-stall time
    CAUSE_TLS_HANDSHAKE = 13         # the client's handshake failed or timed out
    # policy: configuration says no
    CAUSE_MODEL_NOT_FOUND = 20
    CAUSE_NO_ROUTE = 21
    CAUSE_REQUIREMENT_UNMET = 22     # no endpoint has all that is required
    CAUSE_REQUIREMENT_UNKNOWN = 23   # a client requires what its route does not offer
    # router: our own limits and faults
    CAUSE_NO_ENDPOINT = 30           # nobody eligible is there
    CAUSE_ENDPOINTS_FULL = 31        # every eligible endpoint is at its connection bound
    CAUSE_BUFFERS_FULL = 32          # the worker's budget for held request bodies is spent
    CAUSE_DRAINING = 33
    CAUSE_INTERNAL = 34
    # upstream: the endpoint or the way to it
    CAUSE_DNS_FAILED = 40
    CAUSE_CONNECT_FAILED = 41
    CAUSE_CONNECT_TIMEOUT = 42
    CAUSE_TLS_FAILED = 43
    CAUSE_TLS_TIMEOUT = 44
    CAUSE_RESET_BEFORE_HEAD = 45     # reset or closed before a complete response head
    CAUSE_UPSTREAM_MALFORMED = 46
    CAUSE_FIRST_BYTE_TIMEOUT = 47
    CAUSE_IDLE_TIMEOUT = 48          # between events
    CAUSE_TOTAL_TIMEOUT = 49
    CAUSE_TRUNCATED = 50             # reset or closed inside the body
    CAUSE_UPSTREAM_4XX = 51          # passed on unchanged
    CAUSE_UPSTREAM_5XX = 52          # passed on unchanged
    CAUSE_WRITE_TIMEOUT = 53         # takes nothing of an upload for the write-stall time
    CAUSE_COUNT = 56
