"""The simulated world: requests, routers that decide, engines, the network between them, and faults."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from bench.sim.agenda cimport agenda_t
from bench.sim.engine cimport engine_t
from bench.sim.request cimport request_t
from router.native.choice cimport choice_t
from router.native.pick cimport candidate_set_t, decider_t, policy_t

cdef enum event_kind:
    EVENT_ARRIVAL = 0                # index: request
    EVENT_DELIVERY = 1               # request; at the engine
    EVENT_STEP = 2                   # endpoint; its step is over
    EVENT_FIRST_TOKEN = 3            # request; at the router
    EVENT_END = 4                    # request; at the router
    EVENT_FAILURE = 5                # request; at the router
    EVENT_LOADED = 6                 # endpoint; a model is there
    EVENT_GOSSIP = 7
    EVENT_GOSSIP_STALE = 8           # nothing has been heard since
    EVENT_POLL = 9                   # of the engines' signals
    EVENT_FAULT = 10                 # fault; it begins
    EVENT_FAULT_OVER = 11
    EVENT_FLAP = 12                  # fault; up or down, whichever it was not

cdef enum fault_kind:
    FAULT_SLOW = 0                   # steps take FAULT_SLOWNESS times as long
    FAULT_CRASH = 1                  # connections reset, new ones refused; cold when it is back
    FAULT_HANG = 2                   # the same without a word: every connection times out
    FAULT_FLAP = 3                   # crashes and comes back every FLAP_US
    FAULT_ERRORS = 4                 # every new request is answered at once with an error
    FAULT_SIGNALS = 5                # no usage reports, no polled signals, no gossip
    FAULT_REJOIN = 6                 # drained, then back with nothing cached

cdef enum:
    CHOICES_MAX = 8                  # as in router/native/choice
    WORLD_START_US = 1000000000      # the clock is a machine's, up for a while: 0 means "never" in many places

cdef struct fault_t:
    int kind                         # fault_kind
    int32_t endpoint                 # -1: all
    uint64_t start_us
    uint64_t end_us

cdef struct endpoint_t:
    engine_t engine
    uint64_t half_rtt_us
    bint is_drained
    bint is_mute                     # its signals are lost

cdef struct name_t:                  # that requests ask for: a model's, or an alias
    uint32_t count
    uint32_t models[8]               # CHOICES_MAX, in order of preference
    float quality_s[8]               # what an answer by it costs in quality

cdef struct world_t:
    agenda_t agenda
    uint64_t now_us
    request_t* requests              # requests[request_count]
    uint32_t request_count
    uint32_t done_count
    endpoint_t* endpoints            # endpoints[endpoint_count]; the index is the slot
    uint32_t endpoint_count
    uint32_t model_count
    name_t* names                    # names[name_count]
    uint32_t name_count
    choice_t choices[8]              # CHOICES_MAX: scratch of a pick
    uint64_t* choice_keys            # choice_keys[choice * key_count_max + depth], likewise
    uint32_t key_count_max           # of a request
    decider_t** deciders             # deciders[replica_count]
    uint32_t replica_count
    bint by_session                  # requests of one session go to one replica
    candidate_set_t* candidates      # candidates[replica * model_count + model]
    const uint32_t* key_tokens       # key_tokens[depth]: of a prompt up to its keys
    policy_t policy
    uint64_t seed
    float ttft_target_s              # what requests ask for; 0: nothing
    float ttft_target_token_s        # more of it per prompt token
    float cost_weight_s
    fault_t* faults
    uint32_t fault_count
    uint64_t gossip_us               # 0: never
    uint64_t poll_us                 # 0: never
    uint32_t gossip_serial
    request_t* untold                # picked since the last gossip, in order
    request_t* untold_last
    bint is_gossip_lost
    bint is_gossip_fresh             # what replicas hold of each other is no older than GOSSIP_STALE_US
    uint32_t mark_index              # at its arrival the busy times so far are noted
    uint64_t* busy_mark_us           # busy_mark_us[endpoint_count]
    uint64_t mark_us
    uint64_t pick_count
    uint64_t out_of_order            # invariants broken: any but 0 is a bug

cdef void world_run(world_t* world) noexcept nogil       # until all requests are done, or nothing is left to happen
