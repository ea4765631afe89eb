"""A policy as native code knows it: its number, its knobs, and what a decision is made with.

The order of the knobs is that of router/schema/policies.py, which also says what they mean; a test holds the two equal
(five_axis has its own in policy_five_axis.pxd). Types and constants only: there is no module to import at run time.
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.learner cimport learner_t
from router.native.loadtable cimport load_table_t
from router.native.prefix cimport prefix_table_t
from router.native.residency cimport residency_table_t
from router.native.session cimport session_t, session_table_t
from router.native.view cimport view_t

cdef enum policy_kind:
    POLICY_P2C = 0                   # least in-flight of two random choices (in_flight / weight)
    POLICY_ROUND_ROBIN = 1
    POLICY_RENDEZVOUS = 2            # weighted rendezvous hashing of the key
    POLICY_BOUNDED_RING = 3          # consistent-hash ring with bounded load
    POLICY_LEAST_IN_FLIGHT = 4       # full scan
    POLICY_RANDOM = 5                # uniform
    POLICY_WEIGHTED = 6              # random by weight
    POLICY_RING = 7                  # consistent-hash ring
    POLICY_MAGLEV = 8
    POLICY_PEAK_EWMA = 9             # from here on: policies that weigh every candidate by a view
    POLICY_PREQUAL = 10
    POLICY_SMG_CACHE_AWARE = 11
    POLICY_LOADAWARE = 12
    POLICY_LLMD = 13
    POLICY_STICKY = 14
    POLICY_DYNAMO = 15
    POLICY_LMETRIC = 16
    POLICY_SMETRIC = 17
    POLICY_MOONCAKE = 18
    POLICY_FIVE_AXIS = 19
    POLICY_COUNT = 20

cdef enum:
    KNOBS_MAX = 16                   # numbers a policy is set with; their order is in router/schema/policies.py

cdef struct policy_t:
    int kind                         # policy_kind
    float knobs[16]                  # KNOBS_MAX

cdef struct decider_t:               # one per worker (or replica): everything a decision reads and writes
    load_table_t* load
    prefix_table_t* prefix           # NULL: no prefix is known
    learner_t* learner
    residency_table_t* residency     # NULL: no model is ever loaded
    session_table_t* sessions        # NULL: no session is remembered
    session_t session                # who asks, as the last pick knew it; key 0 once that is charged
    uint32_t column
    view_t view
    uint64_t* excluded               # for callers: bits of slots, all 0 between picks (pick_request_t.excluded)
    void* memory                     # what policies remember between picks: policy_memory.pxd; NULL: nothing

cdef enum:
    BOUNDED_RING_LOAD_FACTOR = 0

    PEAK_EWMA_DECAY_MS = 0
    PEAK_EWMA_FIRST_GUESS_MS = 1

    PREQUAL_POOL = 0
    PREQUAL_Q_RIF = 1

    SMG_CACHE_AWARE_CACHE_THRESHOLD = 0
    SMG_CACHE_AWARE_BALANCE_ABS = 1
    SMG_CACHE_AWARE_BALANCE_REL = 2

    LOADAWARE_BETA = 0

    LLMD_PREFIX_WEIGHT = 0
    LLMD_QUEUE_WEIGHT = 1
    LLMD_KV_WEIGHT = 2
    LLMD_POLL_MS = 3

    STICKY_AFFINITY_RATIO = 0
    STICKY_SATURATED_TOKENS = 1

    DYNAMO_OVERLAP_CREDIT = 0
    DYNAMO_CREDIT_DECAY = 1
    DYNAMO_PREFILL_SCALE = 2
    DYNAMO_REQUEST_WEIGHT = 3
    DYNAMO_TEMPERATURE = 4
    DYNAMO_BLOCK_TOKENS = 5

    LMETRIC_QUEUE_WEIGHT = 0

    SMETRIC_HIT_RATIO = 0
    SMETRIC_SLACK = 1
    SMETRIC_TTFT_S = 2
    SMETRIC_TTFT_S_PER_1K = 3
