"""What a mock engine tells about itself: vLLM's metrics text, the load-report header, its own counters as JSON."""

from bench.native.out cimport out_t
from bench.native.step cimport step_model_t
from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    BUCKETS_MAX = 24

cdef struct histogram_t:
    uint64_t[BUCKETS_MAX] buckets    # not cumulative; the last one in use is +Inf
    uint64_t count
    double sum_s

cdef struct telemetry_t:
    uint64_t connections_accepted
    uint64_t connections_open
    uint64_t requests                # inference requests read whole
    uint64_t in_flight
    uint64_t finished
    uint64_t aborted                 # the client went away first
    uint64_t refused                 # answered with an error of the request's own making
    uint64_t faulted                 # ended by a fault on demand
    uint64_t events                  # stream events written
    uint64_t prompt_tokens
    uint64_t generation_tokens
    uint64_t finished_length         # of `finished`: by the token limit
    histogram_t ttft
    histogram_t itl
    histogram_t e2e

cdef void observe_ttft(telemetry_t* telemetry, uint64_t elapsed_us) noexcept nogil
cdef void observe_itl(telemetry_t* telemetry, uint64_t elapsed_us) noexcept nogil
cdef void observe_e2e(telemetry_t* telemetry, uint64_t elapsed_us) noexcept nogil
cdef void write_metrics(out_t* out, const telemetry_t* telemetry, const step_model_t* step,
                        const char* model) noexcept nogil
cdef void write_stats(out_t* out, const telemetry_t* telemetry, const step_model_t* step) noexcept nogil
cdef void write_load_report(out_t* out, const step_model_t* step, uint8_t report_format) noexcept nogil   # a header
