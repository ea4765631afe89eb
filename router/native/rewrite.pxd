"""Heads as they go on: hop-by-hop fields taken out, ours put in."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.exchange cimport core_t, exchange_t
from router.native.http1 cimport head_t
from router.native.pool cimport endpoint_t

cdef enum:
    LENGTH_NONE = -1                 # no body and no framing field
    LENGTH_CHUNKED = -2

# Each writes into core.compose and returns the head's length, or -1 when it does not fit.
cdef int64_t compose_request_head(core_t* core, const exchange_t* x, const uint8_t* buffer, const head_t* head,
                                  const endpoint_t* endpoint, int64_t body_length) noexcept nogil
cdef int64_t compose_response_head(core_t* core, const exchange_t* x, const uint8_t* buffer, const head_t* head,
                                   int64_t body_length, bint closes) noexcept nogil
cdef int64_t compose_local_head(core_t* core, const exchange_t* x, uint16_t status, const uint8_t* fields,
                                uint32_t fields_length,
                                int64_t body_length, bint closes) noexcept nogil
cdef int write_chunk_size(uint8_t* line, uint64_t size) noexcept nogil     # "1f4\r\n" into line[20]; its length
