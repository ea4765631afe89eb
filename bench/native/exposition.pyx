"""What a mock engine tells about itself: vLLM's metrics text, the load-report header, its own counters as JSON.

Metric names, labels and bucket bounds are those of vLLM's V1 engine, so that a scraper written for it reads a mock
unchanged. Times are wall-clock times as clients see them: an engine sped up tenfold reports a tenth. The load report
follows ORCA (Open Request Cost Aggregation) as vLLM writes it: two named metrics, JSON or TEXT.
"""

from bench.native.out cimport out_bytes, out_float, out_free, out_int, out_t, out_text
from bench.native.request cimport REPORT_JSON
from bench.native.step cimport BLOCK_TOKENS, step_kv_usage, step_model_t
from libc.stdint cimport uint8_t, uint64_t

cdef double[22] TTFT_BOUNDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
                               20, 40, 80, 160, 640, 2560]
cdef double[19] ITL_BOUNDS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20,
                              40, 80]
cdef double[21] E2E_BOUNDS = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920,
                              7680]


cdef void observe(histogram_t* histogram, const double* bounds, int bound_count, uint64_t elapsed_us) noexcept nogil:
    cdef double elapsed_s = elapsed_us * 1e-6
    cdef int place = 0
    while place < bound_count and elapsed_s > bounds[place]:
        place += 1
    histogram.buckets[place] += 1
    histogram.count += 1
    histogram.sum_s += elapsed_s


cdef void observe_ttft(telemetry_t* telemetry, uint64_t elapsed_us) noexcept nogil:
    observe(&telemetry.ttft, TTFT_BOUNDS, 22, elapsed_us)


cdef void observe_itl(telemetry_t* telemetry, uint64_t elapsed_us) noexcept nogil:
    observe(&telemetry.itl, ITL_BOUNDS, 19, elapsed_us)


cdef void observe_e2e(telemetry_t* telemetry, uint64_t elapsed_us) noexcept nogil:
    observe(&telemetry.e2e, E2E_BOUNDS, 21, elapsed_us)


# --- vLLM's text --------------------------------------------------------------------------------------------------

cdef void write_type(out_t* out, const char* name, const char* kind, const char* help_text) noexcept nogil:
    out_text(out, b"# HELP vllm:")
    out_text(out, name)
    out_text(out, b" ")
    out_text(out, help_text)
    out_text(out, b"\n# TYPE vllm:")
    out_text(out, name)
    out_text(out, b" ")
    out_text(out, kind)
    out_text(out, b"\n")


cdef void write_sample(out_t* out, const char* name, const char* suffix, const char* model, const char* label,
                       const char* label_value, double value) noexcept nogil:
    out_text(out, b"vllm:")
    out_text(out, name)
    out_text(out, suffix)
    out_text(out, b"{engine=\"0\",")
    if label != NULL:
        out_text(out, label)
        out_text(out, b"=\"")
        out_text(out, label_value)
        out_text(out, b"\",")
    out_text(out, b"model_name=\"")
    out_text(out, model)
    out_text(out, b"\"} ")
    if value == <double> <uint64_t> value:
        out_int(out, <uint64_t> value)
        out_text(out, b".0\n")
    else:
        out_float(out, value)
        out_text(out, b"\n")


cdef void write_one(out_t* out, const char* name, const char* kind, const char* help_text, const char* model,
                    double value) noexcept nogil:
    write_type(out, name, kind, help_text)
    write_sample(out, name, b"", model, NULL, NULL, value)


cdef void write_histogram(out_t* out, const char* name, const char* help_text, const char* model,
                          const histogram_t* histogram, const double* bounds, int bound_count) noexcept nogil:
    cdef out_t label
    cdef uint64_t below = 0
    cdef int place
    label.data = NULL
    label.size = label.taken = label.capacity = 0
    write_type(out, name, b"histogram", help_text)
    for place in range(bound_count):
        below += histogram.buckets[place]
        label.size = 0
        out_float(&label, bounds[place])
        if bounds[place] == <double> <int> bounds[place]:
            out_text(&label, b".0")
        out_bytes(&label, b"\0", 1)
        write_sample(out, name, b"_bucket", model, b"le", <const char*> label.data, <double> below)
    out_free(&label)
    write_sample(out, name, b"_bucket", model, b"le", b"+Inf", <double> histogram.count)
    write_sample(out, name, b"_count", model, NULL, NULL, <double> histogram.count)
    write_sample(out, name, b"_sum", model, NULL, NULL, histogram.sum_s)


cdef void write_metrics(out_t* out, const telemetry_t* telemetry, const step_model_t* step,
                        const char* model) noexcept nogil:
    write_one(out, b"num_requests_running", b"gauge", b"Requests in the execution batch.", model,
              step.running.count)
    write_one(out, b"num_requests_waiting", b"gauge", b"Requests waiting to be admitted.", model,
              step.waiting.count)
    write_type(out, b"num_requests_waiting_by_reason", b"gauge", b"Requests waiting, by what they wait for.")
    write_sample(out, b"num_requests_waiting_by_reason", b"", model, b"reason", b"capacity", step.waiting.count)
    write_sample(out, b"num_requests_waiting_by_reason", b"", model, b"reason", b"deferred", 0)
    write_one(out, b"kv_cache_usage_perc", b"gauge", b"KV-cache usage, 1 is all.", model, step_kv_usage(step))
    write_one(out, b"prefix_cache_queries_total", b"counter", b"Prompt tokens looked up in the prefix cache.",
              model, <double> step.query_tokens)
    write_one(out, b"prefix_cache_hits_total", b"counter", b"Prompt tokens found in the prefix cache.", model,
              <double> step.hit_tokens)
    write_one(out, b"num_preemptions_total", b"counter", b"Preemptions by the engine.", model,
              <double> step.preemption_count)
    write_one(out, b"prompt_tokens_total", b"counter", b"Prefill tokens processed.", model,
              <double> telemetry.prompt_tokens)
    write_one(out, b"generation_tokens_total", b"counter", b"Generation tokens processed.", model,
              <double> telemetry.generation_tokens)
    write_type(out, b"request_success_total", b"counter", b"Requests that finished.")
    write_sample(out, b"request_success_total", b"", model, b"finished_reason", b"stop",
                 <double> (telemetry.finished - telemetry.finished_length))
    write_sample(out, b"request_success_total", b"", model, b"finished_reason", b"length",
                 <double> telemetry.finished_length)
    write_sample(out, b"request_success_total", b"", model, b"finished_reason", b"abort", <double> telemetry.aborted)
    write_sample(out, b"request_success_total", b"", model, b"finished_reason", b"error", 0)
    write_sample(out, b"request_success_total", b"", model, b"finished_reason", b"repetition", 0)
    write_histogram(out, b"time_to_first_token_seconds", b"Time to first token.", model, &telemetry.ttft, TTFT_BOUNDS,
                    22)
    write_histogram(out, b"inter_token_latency_seconds", b"Time between tokens.", model, &telemetry.itl, ITL_BOUNDS, 19)
    write_histogram(out, b"e2e_request_latency_seconds", b"Whole request.", model, &telemetry.e2e, E2E_BOUNDS, 21)
    write_type(out, b"cache_config_info", b"gauge", b"Cache configuration.")
    out_text(out, b"vllm:cache_config_info{block_size=\"")
    out_int(out, BLOCK_TOKENS)
    out_text(out, b"\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",engine=\"0\",num_gpu_blocks=\"")
    out_int(out, step.block_count)
    out_text(out, b"\"} 1.0\n")


# --- load report and counters -------------------------------------------------------------------------------------

cdef void write_load_report(out_t* out, const step_model_t* step, uint8_t report_format) noexcept nogil:
    if report_format == REPORT_JSON:
        out_text(out, b"endpoint-load-metrics: JSON {\"named_metrics\": {\"num_requests_waiting\": ")
        out_int(out, step.waiting.count)
        out_text(out, b".0, \"kv_cache_usage_perc\": ")
        out_float(out, step_kv_usage(step))
        out_text(out, b"}}\r\n")
    else:
        out_text(out, b"endpoint-load-metrics: TEXT named_metrics.num_requests_waiting=")
        out_int(out, step.waiting.count)
        out_text(out, b".0, named_metrics.kv_cache_usage_perc=")
        out_float(out, step_kv_usage(step))
        out_text(out, b"\r\n")


cdef void write_count(out_t* out, const char* name, uint64_t value) noexcept nogil:
    out_text(out, b",\"")
    out_text(out, name)
    out_text(out, b"\":")
    out_int(out, value)


cdef void write_stats(out_t* out, const telemetry_t* telemetry, const step_model_t* step) noexcept nogil:
    out_text(out, b"{\"requests\":")
    out_int(out, telemetry.requests)
    write_count(out, b"in_flight", telemetry.in_flight)
    write_count(out, b"finished", telemetry.finished)
    write_count(out, b"aborted", telemetry.aborted)
    write_count(out, b"refused", telemetry.refused)
    write_count(out, b"faulted", telemetry.faulted)
    write_count(out, b"running", step.running.count)
    write_count(out, b"waiting", step.waiting.count)
    write_count(out, b"steps", step.step_count)
    write_count(out, b"preemptions", step.preemption_count)
    write_count(out, b"events", telemetry.events)
    write_count(out, b"prompt_tokens", telemetry.prompt_tokens)
    write_count(out, b"generation_tokens", telemetry.generation_tokens)
    write_count(out, b"prefix_query_tokens", step.query_tokens)
    write_count(out, b"prefix_hit_tokens", step.hit_tokens)
    write_count(out, b"connections_accepted", telemetry.connections_accepted)
    write_count(out, b"connections_open", telemetry.connections_open)
    out_text(out, b"}")
