"""Whether a session gets the canary: which of two snapshots is for it, by a hash that never changes."""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #define FL_CANARY_SHARE_WHOLE (UINT64_C(1) << 63)
    """
    const uint64_t CANARY_SHARE_WHOLE "FL_CANARY_SHARE_WHOLE"

# `key` names the session (or person, or request); `share` is of CANARY_SHARE_WHOLE: 0 is nobody, all of it everybody.
cdef bint variant_is_canary(uint64_t key, uint64_t share) noexcept nogil
