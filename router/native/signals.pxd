"""What others say of an endpoint, in memory shared by all workers: a value, when it was true, and who said so.

One row per slot, one 64-bit word per signal, replaced whole: 24 bits of a float32 that is never negative (5 digits), 38
bits of milliseconds, 2 bits of source. What is out of range is counted and never kept. Signals are read off the pick,
by the learner's refresh, and weigh less with every moment of their age.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum signal_kind:
    SIGNAL_WAITING = 0               # requests in the engine's queue
    SIGNAL_RUNNING = 1               # requests in its batch
    SIGNAL_KV = 2                    # share of the KV cache in use
    SIGNAL_POWER = 3                 # draw / limit
    SIGNAL_RTT = 4                   # seconds
    SIGNAL_HEALTH = 5                # 1: well, 0: not
    SIGNAL_COUNT = 6

cdef enum signal_source:
    SOURCE_LOCAL = 0                 # measured by this router
    SOURCE_HEADER = 1                # a load report that came with an answer
    SOURCE_POLL = 2                  # asked for
    SOURCE_CONTROL = 3               # told by an operator or another process
    SOURCE_COUNT = 4

cdef enum signal_verdict:            # each but the first is counted, by source
    SIGNAL_TAKEN = 0
    SIGNAL_CLAMPED = 1               # a little above its bound; taken as the bound
    SIGNAL_NOT_A_NUMBER = 2
    SIGNAL_NEGATIVE = 3
    SIGNAL_TOO_LARGE = 4
    SIGNAL_FROM_THE_FUTURE = 5
    SIGNAL_OUT_OF_ORDER = 6          # older than what is there
    SIGNAL_UNREADABLE = 7            # a report that is none
    SIGNAL_VERDICT_COUNT = 8

cdef struct signal_table_t:          # process-local view of the shared segment
    uint8_t* base
    uint64_t* words                  # words[slot * 8 + kind]: a cache line per slot
    uint32_t slot_count

cdef struct others_t:                # a process's own: what others had at an endpoint when its engine last said
    uint64_t waiting_word            # from which it was worked out
    uint64_t running_word
    float waiting
    float running

cdef struct hearing_t:               # a process's own: whether it is told of the requests that others send
    float others                     # theirs and its own at endpoints whose queues are told now, summed by
    float own                        # signals_weigh from one judgement to the next
    float others_ratio               # running share of theirs
    uint64_t told_us                 # when a queue was last told; 0: never
    uint8_t is_partial               # others were there, and nobody tells of them any more

cdef struct told_t:                  # what the signals of one endpoint come to now
    float kv                         # as last told, and
    float kv_weight                  # what that is worth: 1 when said just now, 0 when too old or never said
    float power
    float power_weight
    float sickness                   # 1 - health, by its weight
    float rtt_s                      # -1: not known
    float others_waiting             # beyond what this router has there itself; decays
    float others_running

# A verdict; only taken and clamped values are kept. `stamp_us`: when it was true, on the clock of `now_us`.
cdef int signals_write(
    signal_table_t* table, uint32_t slot, int kind, float value, uint64_t stamp_us, int source, uint64_t now_us
) noexcept nogil
# One measured round trip: the least counts at once, more only slowly.
cdef void signals_round_trip(signal_table_t* table, uint32_t slot, uint32_t rtt_us, uint64_t now_us) noexcept nogil
# False: nobody has ever said.
cdef bint signals_read(
    const signal_table_t* table, uint32_t slot, int kind, uint64_t now_us, float* value, uint64_t* age_us,
    int* source) noexcept nogil
# `in_flight` and `pending` are this router's own accounts now.
cdef void signals_weigh(
    const signal_table_t* table, uint32_t slot, float in_flight, float pending, others_t* others, hearing_t* hearing,
    uint64_t now_us, told_t* told) noexcept nogil
# After all slots have been weighed.
cdef void signals_judge(hearing_t* hearing, uint64_t now_us) noexcept nogil
# Whether what this router knows of its own is far from all there is.
cdef bint signals_others_send(const hearing_t* hearing) noexcept nogil
cdef void signals_reject(signal_table_t* table, int source, int verdict) noexcept nogil     # counts
cdef void signals_forget(signal_table_t* table, uint32_t slot) noexcept nogil

cdef class SignalTable:
    cdef signal_table_t table
    cdef object _mapping
    cdef readonly int fd             # owned by the table; pass it on, do not close it
