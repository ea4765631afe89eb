"""Whether a session gets the canary: which of two snapshots is for it, by a hash that never changes.

Every key has its own fixed place on a line, and the canary's are those below the share. So whoever has the canary keeps
it while the share grows, and every worker of every router gives the same answer without asking anybody. Invariant: the
place says nothing of where rendezvous, rings or tables put the same key, else canary sessions would crowd at some
endpoints; the salt is what keeps them apart. Neighbours: path (asks, once per exchange), attempt (whose key it is),
routes (which snapshot has a canary beside it).
"""

from libc.stdint cimport uint64_t
from router.native.pick cimport hash_pair

cdef uint64_t SALT = 0xA4093822299F31D1      # 64 bits of the fraction of pi: no endpoint's identity but by chance


cdef bint variant_is_canary(uint64_t key, uint64_t share) noexcept nogil:
    return hash_pair(key, SALT) >> 1 < share


# --- the door: tests run the very code that requests run --------------------------------------------------------------

def is_canary(uint64_t key, double ratio):
    """Whether the session of this key has the canary when it is given to `ratio` of all."""
    return variant_is_canary(key, <uint64_t>(ratio * CANARY_SHARE_WHOLE))
