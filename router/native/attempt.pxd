"""One try of an exchange at one endpoint: pick, connect or reuse, send, let go."""

from libc.stdint cimport uint8_t, uint64_t
from router.native.exchange cimport core_t, exchange_t
from router.native.pool cimport upstream_t
from router.native.routes cimport target_t

cdef enum attempt_result:            # of attempt_begin; a positive value is a cause
    ATTEMPT_CONNECTING = 0           # on_connected will be told
    ATTEMPT_CONNECTED = -1           # an idle connection was taken: send now

# The endpoints of the model that comes first for this exchange, once its route and alias are known; NULL: none.
cdef target_t* attempt_target(const exchange_t* x) noexcept nogil
cdef int attempt_begin(core_t* core, exchange_t* x) noexcept nogil
# The idle connection was dead: a new one to the same endpoint, whose charge goes on. ATTEMPT_CONNECTING or a cause.
cdef int attempt_renew(core_t* core, exchange_t* x) noexcept nogil
# after a failed connect: ATTEMPT_CONNECTING or a cause
cdef int attempt_next_address(core_t* core, exchange_t* x) noexcept nogil
cdef int attempt_send(core_t* core, exchange_t* x) noexcept nogil               # CAUSE_NONE or a cause
cdef int attempt_push_body(core_t* core, exchange_t* x) noexcept nogil          # cut through: what has come goes on
# connection to the pool or closed; charge released
cdef void attempt_end(core_t* core, exchange_t* x, bint reusable) noexcept nogil
cdef void upstream_drop(core_t* core, upstream_t* upstream) noexcept nogil
# The endpoint that failed is not to be tried again, for whichever model; False: enough have been tried.
cdef bint attempt_exclude(exchange_t* x) noexcept nogil
# Conditions of all that is required that no endpoint meets, or no endpoint meets together; 0: there is one that does.
cdef uint64_t attempt_unmet(const exchange_t* x) noexcept nogil
# Whose request it is, for what everybody is to see one of; routed, but not sent yet. Never 0.
cdef uint64_t person_key(exchange_t* x, const uint8_t* buffer) noexcept nogil
cdef uint64_t affinity_key(exchange_t* x, const uint8_t* buffer) noexcept nogil
