"""How exchanges and client connections end: finished, answered by the router itself, or cut so that the client can
see it.
"""

from libc.stdint cimport uint16_t
from router.native.exchange cimport core_t, downstream_t, exchange_t

cdef int passed_cause(uint16_t status) noexcept nogil                # what an endpoint's own final status means
# after any step that may have brought the deadline nearer
cdef void arm(core_t* core, downstream_t* down) noexcept nogil
cdef void finish(core_t* core, exchange_t* x, int cause) noexcept nogil
cdef void answer_error(core_t* core, exchange_t* x, int cause, const char* detail) noexcept nogil
# the body may still be on its way
cdef void answer_early(core_t* core, exchange_t* x, int cause, const char* detail) noexcept nogil
cdef void refuse(core_t* core, downstream_t* down, int error) noexcept nogil
cdef void time_out_head(core_t* core, downstream_t* down) noexcept nogil
cdef void cut_short(core_t* core, exchange_t* x, int cause) noexcept nogil
cdef void close_downstream(core_t* core, downstream_t* down) noexcept nogil
cdef void forget_downstream(core_t* core, downstream_t* down) noexcept nogil
# cancels what it asked for
cdef void client_gone(core_t* core, downstream_t* down) noexcept nogil
