"""Every bound of the data plane in one file, each with its reason.

Invariant: no queue, buffer, loop or table of the router grows past a number named here, or past a setting
whose default and range are named here. `*_MAX` are hard; a `*_DEFAULT` can be set in the configuration
(router/schema/config.py) up to the `*_MAX` beside it. Bounds of one native parser that are array sizes live
in its .pxd and are repeated here for Python.
"""

from __future__ import annotations

import resource

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# ---- one request's head
# nginx takes 4 x 8 KiB, Envoy 60 KiB, Node 16 KiB. SDK heads are under 2 KiB; tokens and trace baggage make
# some 16 KiB.
HEAD_BYTES_DEFAULT = 32 * KIB
HEAD_BYTES_MAX = 64 * KIB  # half of the space in which the native core writes a head anew
# RFC 9112 3 asks for at least 8000 octets; nothing in an inference API is near it.
TARGET_BYTES_DEFAULT = 8 * KIB
TARGET_BYTES_MAX = 64 * KIB
FIELDS_MAX = 128  # HTTP1_FIELDS_MAX of native/http1.pxd; browsers send 30, chains of proxies add a dozen
TRAILERS_MAX = 32  # HTTP1_TRAILERS_MAX of native/http1.pxd
TRAILER_BYTES_MAX = 8 * KIB  # checksums and timings need a few hundred bytes
# A chunk's size line with its extensions. Nobody sends extensions; curl and nginx give up at a few KiB too.
CHUNK_LINE_BYTES_MAX = 4 * KIB
# 1xx before the final answer: each is legal, an endless row of them is an attack on the first-byte timeout.
INTERIM_RESPONSES_MAX = 16
# What a pipelining client may send ahead of the answer it waits for; past it, reading stops until the
# answer is out.
PIPELINED_BYTES_MAX = 64 * KIB

# ---- bodies and buffers
# Chat requests with images are 10-20 MB of base64 JSON, audio uploads up to 25 MB (OpenAI's limit): 64 MiB
# passes them all.
BODY_BYTES_DEFAULT = 64 * MIB
BODY_BYTES_MAX = 16 * GIB
# A body is held whole up to here, so that another endpoint can be tried; a larger one is cut through and
# tried once. 1 MiB is a 250,000-token prompt; images are what goes over it.
RETRY_BUFFER_BYTES_DEFAULT = 1 * MIB
RETRY_BUFFER_BYTES_MAX = 64 * MIB
# All held bodies of a worker together: 512 full retry buffers. Past it new bodies are refused (503
# buffers_full), so that a flood of uploads costs a bounded amount of memory.
BUFFERED_BODY_BYTES_DEFAULT = 512 * MIB
BUFFERED_BODY_BYTES_MAX = 64 * GIB
# Unbounded, the kernel holds 8-16 MiB for one stalled reader (seen on Linux 6); SO_SNDBUF doubles what it
# is given.
SOCKET_SEND_BUFFER_BYTES = 256 * KIB
SOCKET_RECEIVE_BUFFER_BYTES = 512 * KIB  # of a client's upload; 10 MB/s at a round trip of 100 ms
READ_BUFFER_BYTES = 64 * KIB  # one reusable buffer per worker; larger reads gained nothing in the prototype
# How far into a form the `model` field is looked for: curl and the Node SDK send it behind the file, which
# OpenAI bounds by 25 MB. The form is held until then.
MULTIPART_SCAN_BYTES_MAX = 32 * MIB
MULTIPART_PARTS_MAX = 256  # looked at, each a step of Python: a request to edit images has some 30
MULTIPART_PART_HEAD_BYTES_MAX = 4 * KIB  # its fields; a name of a file has 255 bytes
ERROR_DETAIL_CHARS_MAX = 1024  # of the particulars in an error's message; they may quote the client

# ---- connections
# Per worker. 10,000 concurrent streams is the goal of one worker; 16,384 leaves half as much again for idle
# ones.
DOWNSTREAM_CONNECTIONS_DEFAULT = 16384
DOWNSTREAM_CONNECTIONS_MIN = 16
DOWNSTREAM_CONNECTIONS_MAX = 1 << 20
# Per worker and endpoint. vLLM runs 256 sequences at once by default and queues the rest: 1024 is past any
# engine's use.
UPSTREAM_CONNECTIONS_PER_ENDPOINT_DEFAULT = 1024
UPSTREAM_CONNECTIONS_PER_ENDPOINT_MAX = 65535  # ports of one local address
# Kept open for reuse: what one engine runs at once. More would be closed by the engine's own idle timeout.
IDLE_UPSTREAM_CONNECTIONS_PER_ENDPOINT_DEFAULT = 256
LISTEN_BACKLOG = 4096  # net.core.somaxconn's default since Linux 5.4; the kernel cuts it to its own
EVENTS_PER_WAKE_MAX = 256  # then the loop's other work gets its turn: about 1 ms at 4 us an event
OUTBOX_MESSAGES_MAX = 64  # of one wake; emptied when half full, so that none waits long
OUTBOX_BYTES_MAX = 128 * KIB  # of these together: they stay in the second cache
OUTBOX_MESSAGE_BYTES_MAX = 8 * KIB  # copying a longer one costs more than it saves
ACCEPTS_PER_WAKE_MAX = 64  # a flood of connections must not starve open streams
# libraries, logs, listeners, epoll, shared memory, admin connections, certificates being read
FILES_RESERVED = 128
# scrapes and operators; they are answered when traffic is saturated because this is separate
ADMIN_CONNECTIONS_MAX = 64

# ---- tables
WORKERS_MAX = 64
# Columns of the shared tables, one for each worker that serves or still drains; one that nobody has written
# takes addresses and no memory. Four generations of the first one's workers fit, and a table made for few
# workers has room for what a machine of 32 cores runs. 4 x 64 is COLUMN_COUNT_MAX of native/loadtable.
COLUMNS_PER_WORKER = 4
COLUMNS_MIN = 32
ENDPOINTS_MAX = 4096  # slots of the load table: with 256 columns 33 MiB of shared memory, once all are used
MODELS_RESIDENT_MAX = 8  # remembered of an endpoint, as in native/residency.pxd
PREFIX_TABLE_BYTES_DEFAULT = 64 * MIB  # a million beginnings of prompts, once there were so many
PREFIX_TABLE_BYTES_MIN = MIB  # 15,000 of them
PREFIX_TABLE_BYTES_MAX = 16 * GIB
PROMPT_BLOCK_BYTES_DEFAULT = 256  # about 64 tokens of English, as in native/prompt.pxd
PROMPT_BLOCK_BYTES_MIN = 64  # engines' own blocks have 16 tokens and more
PROMPT_BLOCK_BYTES_MAX = 64 * KIB  # less than that of a prompt is then not recognised at all
SESSION_TABLE_BYTES = 16 * MIB  # a million sessions likewise: 300 new ones a second for an hour
POOLS_MAX = 256
ROUTES_MAX = 256  # matched in order, so the time of a match is bounded too
# Of the metrics: a route is counted apart for each version of the policy. Stable and canary, and both of
# those that a change takes out of use, which may still have open requests; each with the route for what
# matches none.
ROUTE_INDEXES_MAX = 4 * (ROUTES_MAX + 1)
# What versions before these counted stays to be seen for a while: a day's changes, and a page of metrics that
# is a few times as long as it was.
ROUTE_VERSIONS_KEPT = 4
MODELS_MAX = 4096  # names served, all endpoints together; also bounds the `model` label of metrics
ALIASES_MAX = 256  # as many as pools: an alias is a promise to clients, and few are kept
ALIAS_MODELS_MAX = 8  # of an alias, as in native/routes.pxd: each is scored anew for a request
CONDITIONS_MAX = 64  # that routes require of endpoints, different ones: a bit of a word each
MAY_REQUIRE_MAX = 16  # of a route: what a client may ask for on top, by name
CAPABILITIES_MAX = 32  # of an endpoint
LISTENERS_MAX = 16
TRUSTED_PROXIES_MAX = 64  # searched for each new connection
LABELS_MAX = 32  # of an endpoint
HEADER_MATCHES_MAX = 8  # of a route
NAME_BYTES_MAX = 128  # of pools, routes, endpoints: they become label values
MODEL_BYTES_MAX = 256  # BODY_MODEL_BYTES_MAX of native/body.pxd
PATTERN_BYTES_MAX = 256  # of a glob: bounds the time of one match
CONFIG_BYTES_MAX = 16 * MIB  # 4096 endpoints of 2 KiB each, twice over
CONFIG_NODES_MAX = 200_000  # values, YAML aliases expanded: 4096 endpoints of 48; stops an exponential file
CONFIG_DEPTH_MAX = 32  # the schema needs 7; libyaml's composer overruns the C stack at some 10,000
CONFIG_PROBLEMS_MAX = 100  # reported at once; the rest is counted

# Explained decisions that a worker keeps, 0.8 KiB each; the oldest gives way. With one request in a
# hundred sampled, at 1,000 a second, the last minute and a half.
EXPLAIN_RECORDS_MAX = 1024  # EXPLAIN_RECORDS_MAX of native/explain.pxd
EXPLAIN_LISTED_MAX = 1000  # of one answer of /debug/explain: 2 MiB

# ---- attempts
ATTEMPTS_PER_EXCHANGE_MAX = 3  # the first and two others: what the SDKs do
# A refused connection ejects at once, for a second at first: an engine restarts in many, a flap is over in
# less.
EJECT_BASE_MS = 1_000
EJECT_MAX_MS = 30_000  # an endpoint that is back is used again half a minute later at the latest
DNS_REFRESH_MS = 5_000  # names are looked up again this often; the system resolver hides the TTL
DNS_ADDRESSES_MAX = 8  # tried per name: ENDPOINT_ADDRESSES_MAX of native/pool.pxd

# ---- output
# 2,000-4,000 lines: a tenth of a second at full speed; then lines drop, counted
ACCESS_LOG_BUFFER_BYTES_DEFAULT = 1 * MIB
ACCESS_LOG_BUFFER_BYTES_MAX = 256 * MIB
ACCESS_LOG_LINE_BYTES_MAX = 4 * KIB  # PIPE_BUF: a line is written whole or not at all

# ---- processes
RESTART_BACKOFF_MIN_MS = 100  # a killed worker is back at once ...
RESTART_BACKOFF_MAX_MS = 10_000  # ... one that dies at start does not burn a core
WORKER_READY_TIMEOUT_MS = 30_000  # a new worker that has not listened by then is killed and started again
TAKEOVER_TIMEOUT_MS = 30_000  # the old process goes on if the new one is not ready by then
RELOAD_TIMEOUT_MS = 30_000  # all workers must have applied a configuration by then, or the old one stays

# ---- the link to control
# A snapshot of 4,096 endpoints and 256 routes is some 5 MiB; two of them, for a canary, and room to grow.
LINK_FRAME_BYTES_MAX = 64 * MIB
# What a router sends: a report of 514 rows of routes and 4,096 endpoints is 2 MiB.
LINK_REPORT_BYTES_MAX = 8 * MIB
KEPT_SNAPSHOTS_MAX = 8  # on each router, to go back to without their being sent again
LINK_BACKOFF_MIN_MS = 100  # a control that was restarted is found again at once ...
LINK_BACKOFF_MAX_MS = 10_000  # ... and one that is away costs a connection every ten seconds
LINK_CONNECT_TIMEOUT_MS = 5_000  # TCP and TLS and the answer to Hello
LINK_SILENCE_MS = 10_000  # a peer pings every second or two: one this silent is gone, or hangs
REPORT_INTERVAL_MS = 1_000
LINK_PING_INTERVAL_MS = 2_000  # five of them within LINK_SILENCE_MS
LINK_ROUTERS_MAX = 1_024  # of one control process; the aim is 200
LINK_UNSENT_BYTES_MAX = 1 * MIB  # to a router that reads slowly: past it signals are left out, and come again
SIGNALS_PER_BATCH_MAX = 6 * ENDPOINTS_MAX  # each signal of each endpoint

# ---- control: what endpoints say
# A page of metrics: vLLM's has 60 KiB, DCGM's of eight GPUs 200, one of eight data-parallel ranks half a MiB.
SCRAPE_BYTES_MAX = 4 * MIB
SCRAPE_LINES_MAX = 65_536  # of such a page: lines of 64 bytes; stops one of nothing but line ends
SCRAPE_LINE_BYTES_MAX = 16 * KIB  # of a line that is read: the longest labels known have 1 KiB
SCRAPE_SAMPLES_MAX = 2048  # read from one page: 20 names of 64 GPUs or ranks
SCRAPE_JSON_BYTES_MAX = 1 * MIB  # of a load page: llama.cpp's /slots with the prompts of 64 slots
SCRAPE_INFLATED_BYTES_MAX = 64 * KIB  # at a time: more at once would be a bomb's whole
SCRAPES_AT_ONCE_DEFAULT = 128  # 500 a second that take 0.25 s each; those that hang are asked less and less
COST_POINTS_MAX = 600  # of each counter of an endpoint: ten minutes of a point a second
SCRAPES_AT_ONCE_MAX = 1024  # a file descriptor each, of control's 1,024 or more

# ---- control: health
# Probes open at once, a descriptor each: of 4,096 endpoints that all hang, each holds its place for two
# seconds, so that the last is asked after 32.
PROBES_AT_ONCE_DEFAULT = 256
PROBES_AT_ONCE_MAX = 4096
PROBE_BODY_BYTES_MAX = 64 * KIB  # read of an answer: a health check's has none, a token's 2 KiB
PROBE_DETAIL_CHARS_MAX = 200  # of what an answer said, for people
# Results that wait for control's main loop: a minute of 1,000 endpoints. Past it the oldest go.
PROBE_RESULTS_MAX = 32_768
REGIONS_PER_ENDPOINT_MAX = 32  # of routers that send to it; past it the one silent for longest is forgotten
# ---- control: its API
TOKEN_GUESSES_FREE = 5  # wrong tokens of an address: a person's slips; from then on it waits
TOKEN_LOCKOUT_S_MAX = 900.0  # a quarter of an hour: a script gets nowhere, a person is back after coffee
TOKEN_GUESSERS_MAX = 4_096  # addresses remembered; with more of them the oldest starts anew

# ---- control: what routers report, and the guard
GUARD_INTERVAL_MS = 5_000  # between two looks: a bad canary lives so much longer, for a fifth of the work
REPORT_SILENCE_MS = LINK_SILENCE_MS  # then a router is not counted until it speaks again
REPORT_BOUNDS_MAX = 256  # of a histogram in a report; routers send 91
SLIDING_SLICES_MAX = 180  # of one GUARD_INTERVAL_MS each: a quarter of an hour, what a bake compares with
CANARY_STEPS_MAX = 16  # doublings from one request in 65,536 to all
GUARD_QUANTILES_MAX = 3  # of one criterion: p50, p95 and p99

# ---- control: where endpoints come from
SOURCES_MAX = 64  # a task each, and each is gone through when endpoints are put together
DISCOVERY_NAMESERVERS_MAX = 8  # asked one after the other: at 2 s each nobody waits for more
LEASE_S_MIN = 1  # a registrant renews three times in a lease: three requests a second
LEASE_S_MAX = 86_400  # a dead one that stays longer is better removed by hand

# ---- control: the store
STORE_BATCH_ITEMS_MAX = 1_024  # written in one transaction: a storm of registrations is a few of them
STORE_PENDING_ITEMS_MAX = 2 * ENDPOINTS_MAX  # not written yet; past it nothing new is taken on
STORE_RETRY_MS = 1_000  # after a write that was refused: a disk with room again is seen within a second
PUSH_ATTEMPTS_MAX = 16  # each fails only because another push has succeeded meanwhile
# What a router may claim to have seen beyond the clock: sequences are milliseconds since 1970, and a clock
# may have been wrong by years. A claim of 2^62 would leave no sequence to give.
SEQUENCE_AHEAD_MAX = 10 * 365 * 86_400_000
AUDIT_PAGE_RECORDS = 1_000  # checked at a time: 5 ms of control's loop
AUDIT_FAULTS_MAX = 100  # listed; a chain with one altered record has two, one of noise has thousands


def downstream_connections_max(wanted: int, files_max: int | None = None) -> int:
    """How many client connections a worker may hold so that it cannot run out of file descriptors.

    Each may need an upstream connection too, so half of what RLIMIT_NOFILE (`files_max`; asked when None)
    leaves after the reserve, and never more than `wanted`. At least DOWNSTREAM_CONNECTIONS_MIN: fewer is an
    unusable limit, to be reported.
    """
    if files_max is None:
        files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files_max == resource.RLIM_INFINITY:
        return wanted
    return max(DOWNSTREAM_CONNECTIONS_MIN, min(wanted, (files_max - FILES_RESERVED) // 2))
