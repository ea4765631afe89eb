"""Faults a mock engine makes on demand, written KIND[:ARG][@RATE]."""

from libc.stdint cimport uint8_t

cdef enum:
    FAULTS_MAX = 8               # at one engine at once

# See KINDS in fault.pyx for what each does and what ARG means.
cdef enum fault_kind:
    FAULT_NONE = 0
    FAULT_HANG
    FAULT_HANG_AFTER
    FAULT_RESET
    FAULT_CLOSE
    FAULT_TRUNCATE
    FAULT_BAD_CHUNK
    FAULT_ERROR_EVENT
    FAULT_NO_DONE
    FAULT_STATUS
    FAULT_BAD_HEAD
    FAULT_BOTH_LENGTHS
    FAULT_SHORT_LENGTH
    FAULT_LONG_LENGTH
    FAULT_SURPLUS
    FAULT_STORM
    FAULT_DRIP
    FAULT_CLOSE_DELIMITED
    FAULT_HTTP10
    FAULT_NO_KEEPALIVE
    FAULT_SILENT_CLOSE
    FAULT_SLOW
    FAULT_FLAP                   # from here on the engine as a whole, whatever the rate says
    FAULT_SICK
    FAULT_IDLE_CLOSE
    FAULT_REFUSE
    FAULT_KIND_COUNT

cdef struct fault_t:
    uint8_t kind
    double argument
    double rate                  # share of requests it befalls

cdef bint fault_parse(const uint8_t* text, size_t size, fault_t* fault) noexcept nogil       # False: not a fault
cdef const char* fault_name(int kind) noexcept nogil
