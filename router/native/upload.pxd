"""The request body on its way in, and on to the endpoint."""

from libc.stdint cimport int64_t, uint8_t
from posix.uio cimport iovec
from router.native.buffer cimport buffer_t
from router.native.exchange cimport core_t, exchange_t
from router.native.pool cimport text_t

# Takes bytes of the request body from data[0:size]: decoded into x.body, scanned for facts. `used` says how many were
# the body's. Returns an upload_result.
cdef int upload_feed(core_t* core, exchange_t* x, const uint8_t* data, size_t size, size_t* used) noexcept nogil
# What the endpoint calls this exchange's model, in a body that names it as `model`; empty: the same. `in_json`: as it
# stands in JSON.
cdef text_t upload_name(const exchange_t* x, text_t model, bint in_json) noexcept nogil
# Lists what of x.body is to be sent after the head, with the model's name replaced when the endpoint calls it
# otherwise. At most 3 pieces; returns their count and the total length.
cdef int upload_pieces(exchange_t* x, iovec* pieces, int64_t* total) noexcept nogil
# Appends the last chunk and the trailers that may pass to `out`; 0, or -1 when the trailers are malformed.
cdef int upload_ending(core_t* core, exchange_t* x, buffer_t* out) noexcept nogil
