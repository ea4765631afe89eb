"""Where a policy's knobs are in policy_t.knobs: the order of router/schema/policies.py, which also says what they mean.

A test holds the two equal. Constants only: there is no module to import at run time. five_axis has its own in
policy_five_axis.pxd.
"""

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
