"""The step model of an engine: continuous batching, chunked prefill, KV blocks with a prefix cache. No clock, no
sockets."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    BLOCK_TOKENS = 16            # vLLM's default block size; what a class with block_tokens 0 has
    SEQUENCES_DEFAULT = 256      # vLLM's default max_num_seqs
    CHUNK_DEFAULT_TOKENS = 2048  # vLLM's default max_num_batched_tokens for online serving
    QUEUE_MAX = 65536            # waiting sequences; a submit above this is refused

cdef enum sequence_state:
    SEQUENCE_FREE = 0
    SEQUENCE_WAITING = 1
    SEQUENCE_RUNNING = 2
    SEQUENCE_FINISHED = 3        # all tokens out, blocks given back; the slot waits for step_release

cdef struct step_class_t:        # milliseconds; see step_begin for the formula
    double floor_ms
    double base_ms
    double token_ms
    double attention_ms
    double context_ms
    double overhead_ms
    int64_t kv_tokens            # 0: endless, and then nothing is cached
    int32_t sequences_max        # running at once
    int32_t chunk_tokens_max     # computed in one step
    int32_t block_tokens         # of a KV block; 0: BLOCK_TOKENS

cdef struct block_t:
    uint64_t hash                # 0: holds nothing that another sequence may share
    int32_t references
    int32_t previous             # links of the free list, least recently used first
    int32_t next

cdef struct sequence_t:
    uint8_t state
    uint32_t stride              # takes part in every stride-th step only (1: all); a slow request
    int32_t prompt_tokens
    int32_t output_tokens        # how many it will have when finished
    int32_t generated_tokens
    int32_t computed_tokens      # tokens whose keys and values are in its blocks
    int32_t cached_tokens        # of the prompt, found in the prefix cache at first admission
    int32_t chunk_tokens         # computed by the step under way
    int32_t planned_index        # place in the step under way, or -1
    int32_t* blocks              # blocks[block_count]
    int32_t block_count
    int32_t block_capacity
    uint64_t* hashes             # hashes[hash_count]: chained hash of each full block, prompt's, then answer's
    int32_t hash_count
    int32_t shared_count         # blocks that have been offered to the prefix cache
    int32_t hash_capacity
    int32_t previous             # links of the queue it is in
    int32_t next
    uint8_t admitted             # has run before: a second admission is a recompute
    void* owner                  # the caller's; not looked at

cdef struct queue_t:
    int32_t head
    int32_t tail
    int32_t count

cdef struct step_model_t:
    step_class_t timing
    block_t* blocks              # blocks[block_count]
    int32_t block_count
    int32_t free_head            # free list: not referenced, least recently used first
    int32_t free_tail
    int32_t free_count
    int32_t* table               # open addressing over block hashes: block index + 1, 0 empty
    uint32_t table_mask
    sequence_t* sequences        # sequences[sequence_capacity]
    int32_t sequence_capacity
    queue_t idle                 # free slots
    queue_t waiting
    queue_t running              # in order of admission: the tail is the newest
    int32_t* planned             # planned[planned_count] of timing.sequences_max
    int32_t planned_count
    int32_t* emitted             # what step_end gave a token, as many as it said
    uint8_t stepping             # between step_begin and step_end
    uint64_t step_count
    uint64_t preemption_count
    uint64_t query_tokens        # prompt tokens looked up in the prefix cache
    uint64_t hit_tokens          # of these found

cdef int step_model_init(step_model_t* model, const step_class_t* timing) noexcept nogil    # 0, or -1: no memory
cdef void step_model_free(step_model_t* model) noexcept nogil

# Index of the new sequence, or -1: it can never fit, or the queue is full. `hashes` is copied.
cdef int32_t step_submit(step_model_t* model, int32_t prompt_tokens, int32_t output_tokens, const uint64_t* hashes,
                         int32_t hash_count, void* owner) noexcept nogil
cdef void step_abort(step_model_t* model, int32_t index) noexcept nogil      # at once, also in mid-step
cdef void step_release(step_model_t* model, int32_t index) noexcept nogil    # hand a finished sequence's slot back
cdef double step_begin(step_model_t* model) noexcept nogil      # plan a step: its length in ms; -1: nothing to do
cdef int32_t step_end(step_model_t* model) noexcept nogil       # how many of emitted[] got a token
cdef double step_kv_usage(const step_model_t* model) noexcept nogil          # share of blocks referenced, 0-1
cdef int32_t hash_prompt_blocks(const uint8_t* prompt, size_t size, uint64_t* hashes, int32_t hash_max) noexcept nogil
