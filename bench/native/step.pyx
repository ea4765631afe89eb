"""The step model of an engine: one step is one batch iteration.

A sequence waits, is admitted first come first served while blocks last, has its prompt computed in chunks, then gets
one token a step. Its full prompt blocks become shared at its first token, those of its answer that have a hash when it
ends; blocks nobody references stay in the prefix cache until they are the least recently used. Out of blocks, the
newest running sequence is put back and computed again.

Invariant: every block is either in the free list (references 0) or held by as many sequences as `references` says;
every sequence slot is in exactly one queue, or finished. Time is an output here, never read: `step_begin` says how
long the step takes, and the caller calls `step_end` that much later. The timing formula and its figures: see
router/schema/engines.py and step_begin.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from router.schema.engines import OVERHEAD_MS


# --- queues and blocks --------------------------------------------------------------------------------------------

cdef inline void queue_append(step_model_t* model, queue_t* queue, int32_t index) noexcept nogil:
    cdef sequence_t* sequence = &model.sequences[index]
    sequence.previous = queue.tail
    sequence.next = -1
    if queue.tail >= 0:
        model.sequences[queue.tail].next = index
    else:
        queue.head = index
    queue.tail = index
    queue.count += 1


cdef inline void queue_prepend(step_model_t* model, queue_t* queue, int32_t index) noexcept nogil:
    cdef sequence_t* sequence = &model.sequences[index]
    sequence.previous = -1
    sequence.next = queue.head
    if queue.head >= 0:
        model.sequences[queue.head].previous = index
    else:
        queue.tail = index
    queue.head = index
    queue.count += 1


cdef inline void queue_remove(step_model_t* model, queue_t* queue, int32_t index) noexcept nogil:
    cdef sequence_t* sequence = &model.sequences[index]
    if sequence.previous >= 0:
        model.sequences[sequence.previous].next = sequence.next
    else:
        queue.head = sequence.next
    if sequence.next >= 0:
        model.sequences[sequence.next].previous = sequence.previous
    else:
        queue.tail = sequence.previous
    queue.count -= 1


cdef int32_t table_find(const step_model_t* model, uint64_t block_hash) noexcept nogil:
    cdef uint32_t at = <uint32_t> block_hash & model.table_mask
    while model.table[at]:
        if model.blocks[model.table[at] - 1].hash == block_hash:
            return model.table[at] - 1
        at = (at + 1) & model.table_mask
    return -1


cdef void table_insert(step_model_t* model, int32_t block) noexcept nogil:
    cdef uint32_t at = <uint32_t> model.blocks[block].hash & model.table_mask
    while model.table[at]:
        at = (at + 1) & model.table_mask
    model.table[at] = block + 1


cdef void table_remove(step_model_t* model, int32_t block) noexcept nogil:
    # Linear probing without tombstones: entries after the hole move back when their home does not lie between.
    cdef uint32_t mask = model.table_mask
    cdef uint32_t hole = <uint32_t> model.blocks[block].hash & mask
    cdef uint32_t at, home
    while model.table[hole] != block + 1:
        hole = (hole + 1) & mask
    at = hole
    while True:
        at = (at + 1) & mask
        if model.table[at] == 0:
            break
        home = <uint32_t> model.blocks[model.table[at] - 1].hash & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            model.table[hole] = model.table[at]
            hole = at
    model.table[hole] = 0


cdef void free_list_remove(step_model_t* model, int32_t index) noexcept nogil:
    cdef block_t* block = &model.blocks[index]
    if block.previous >= 0:
        model.blocks[block.previous].next = block.next
    else:
        model.free_head = block.next
    if block.next >= 0:
        model.blocks[block.next].previous = block.previous
    else:
        model.free_tail = block.previous
    model.free_count -= 1


cdef void block_release(step_model_t* model, int32_t index) noexcept nogil:
    cdef block_t* block = &model.blocks[index]
    block.references -= 1
    if block.references > 0:
        return
    model.free_count += 1
    if block.hash:                              # still worth something: youngest of the free list
        block.previous = model.free_tail
        block.next = -1
        if model.free_tail >= 0:
            model.blocks[model.free_tail].next = index
        else:
            model.free_head = index
        model.free_tail = index
    else:
        block.previous = -1
        block.next = model.free_head
        if model.free_head >= 0:
            model.blocks[model.free_head].previous = index
        else:
            model.free_tail = index
        model.free_head = index


cdef int32_t block_take(step_model_t* model) noexcept nogil:
    """The least recently used free block, forgotten by the prefix cache; the caller has checked free_count."""
    cdef int32_t index = model.free_head
    free_list_remove(model, index)
    if model.blocks[index].hash:
        table_remove(model, index)
        model.blocks[index].hash = 0
    model.blocks[index].references = 1
    return index


cdef void hold_block(sequence_t* sequence, int32_t block) noexcept nogil:
    sequence.blocks[sequence.block_count] = block
    sequence.block_count += 1


cdef void give_blocks_back(step_model_t* model, sequence_t* sequence) noexcept nogil:
    # Last block first, so that of one prompt the tail is evicted before the head that others are likelier to share.
    while sequence.block_count > 0:
        sequence.block_count -= 1
        block_release(model, sequence.blocks[sequence.block_count])


# --- life of a model and its sequences ----------------------------------------------------------------------------

cdef int step_model_init(step_model_t* model, const step_class_t* timing) noexcept nogil:
    cdef uint32_t table_size = 16
    cdef int32_t index
    memset(model, 0, sizeof(step_model_t))
    model.timing = timing[0]
    if model.timing.block_tokens <= 0:
        model.timing.block_tokens = BLOCK_TOKENS
    model.block_count = <int32_t> (timing.kv_tokens // model.timing.block_tokens)
    while table_size < <uint32_t> model.block_count * 2:
        table_size *= 2
    model.table_mask = table_size - 1
    model.table = <int32_t*> calloc(table_size, sizeof(int32_t))
    model.blocks = <block_t*> calloc(model.block_count + 1, sizeof(block_t))
    model.planned = <int32_t*> calloc(timing.sequences_max, sizeof(int32_t))
    model.emitted = <int32_t*> calloc(timing.sequences_max, sizeof(int32_t))
    model.idle.head = model.idle.tail = model.waiting.head = model.waiting.tail = -1
    model.running.head = model.running.tail = -1
    if model.table == NULL or model.blocks == NULL or model.planned == NULL or model.emitted == NULL:
        step_model_free(model)
        return -1
    for index in range(model.block_count):
        model.blocks[index].previous = index - 1
        model.blocks[index].next = index + 1 if index + 1 < model.block_count else -1
    model.free_head = 0 if model.block_count else -1
    model.free_tail = model.block_count - 1
    model.free_count = model.block_count
    return 0


cdef void step_model_free(step_model_t* model) noexcept nogil:
    cdef int32_t index
    for index in range(model.sequence_capacity):
        free(model.sequences[index].blocks)
        free(model.sequences[index].hashes)
    free(model.sequences)
    free(model.blocks)
    free(model.table)
    free(model.planned)
    free(model.emitted)
    memset(model, 0, sizeof(step_model_t))


cdef inline int32_t blocks_needed(const step_model_t* model, int32_t tokens) noexcept nogil:
    if model.block_count == 0:
        return 0
    return (tokens + model.timing.block_tokens - 1) // model.timing.block_tokens


cdef inline bint lacks_block(const step_model_t* model, const sequence_t* sequence) noexcept nogil:
    # Asked of every running sequence in every step: no division.
    return model.block_count > 0 and sequence.block_count * model.timing.block_tokens < target_tokens(sequence)


cdef int grow_sequences(step_model_t* model) noexcept nogil:
    cdef int32_t capacity = model.sequence_capacity * 2 if model.sequence_capacity else 64
    cdef void* sequences = realloc(model.sequences, capacity * sizeof(sequence_t))
    cdef int32_t index
    if sequences == NULL:
        return -1
    model.sequences = <sequence_t*> sequences
    memset(&model.sequences[model.sequence_capacity], 0, (capacity - model.sequence_capacity) * sizeof(sequence_t))
    for index in range(model.sequence_capacity, capacity):
        queue_append(model, &model.idle, index)
    model.sequence_capacity = capacity
    return 0


cdef int32_t step_submit(step_model_t* model, int32_t prompt_tokens, int32_t output_tokens, const uint64_t* hashes,
                         int32_t hash_count, void* owner) noexcept nogil:
    cdef int32_t index
    cdef int32_t blocks_max = blocks_needed(model, prompt_tokens + output_tokens)
    cdef sequence_t* sequence
    if model.block_count == 0:
        hash_count = 0
    if blocks_max > model.block_count or model.waiting.count >= QUEUE_MAX:
        return -1
    if model.idle.head < 0 and grow_sequences(model) < 0:
        return -1
    index = model.idle.head
    sequence = &model.sequences[index]
    if sequence.block_capacity < blocks_max:
        free(sequence.blocks)
        sequence.blocks = <int32_t*> malloc(blocks_max * sizeof(int32_t))
        sequence.block_capacity = blocks_max if sequence.blocks != NULL else 0
    if sequence.hash_capacity < hash_count:
        free(sequence.hashes)
        sequence.hashes = <uint64_t*> malloc(hash_count * sizeof(uint64_t))
        sequence.hash_capacity = hash_count if sequence.hashes != NULL else 0
    if sequence.block_capacity < blocks_max or sequence.hash_capacity < hash_count:
        return -1
    queue_remove(model, &model.idle, index)
    if hash_count:
        memcpy(sequence.hashes, hashes, hash_count * sizeof(uint64_t))
    sequence.hash_count = hash_count
    sequence.shared_count = 0
    sequence.prompt_tokens = prompt_tokens
    sequence.output_tokens = output_tokens
    sequence.generated_tokens = sequence.computed_tokens = sequence.cached_tokens = sequence.chunk_tokens = 0
    sequence.block_count = 0
    sequence.planned_index = -1
    sequence.stride = 1
    sequence.admitted = False
    sequence.owner = owner
    sequence.state = SEQUENCE_WAITING
    queue_append(model, &model.waiting, index)
    return index


cdef void leave_step(step_model_t* model, sequence_t* sequence) noexcept nogil:
    if sequence.planned_index >= 0:
        model.planned[sequence.planned_index] = -1
        sequence.planned_index = -1


cdef void step_abort(step_model_t* model, int32_t index) noexcept nogil:
    cdef sequence_t* sequence = &model.sequences[index]
    if sequence.state == SEQUENCE_WAITING:
        queue_remove(model, &model.waiting, index)
    elif sequence.state == SEQUENCE_RUNNING:
        leave_step(model, sequence)
        queue_remove(model, &model.running, index)
        give_blocks_back(model, sequence)
    step_release(model, index)


cdef void step_release(step_model_t* model, int32_t index) noexcept nogil:
    cdef sequence_t* sequence = &model.sequences[index]
    sequence.state = SEQUENCE_FREE
    sequence.owner = NULL
    queue_prepend(model, &model.idle, index)


# --- one step -----------------------------------------------------------------------------------------------------

cdef void preempt(step_model_t* model, int32_t index) noexcept nogil:
    """Put a running sequence back in front of the queue; what it has generated is kept, its keys and values are not."""
    cdef sequence_t* sequence = &model.sequences[index]
    leave_step(model, sequence)
    queue_remove(model, &model.running, index)
    give_blocks_back(model, sequence)
    sequence.computed_tokens = sequence.shared_count = 0
    sequence.state = SEQUENCE_WAITING
    queue_prepend(model, &model.waiting, index)
    model.preemption_count += 1


cdef inline int32_t target_tokens(const sequence_t* sequence) noexcept nogil:
    # What must be computed before the next token: the prompt, or after a preemption also what was generated.
    return sequence.prompt_tokens + sequence.generated_tokens


cdef bint admit(step_model_t* model, int32_t index) noexcept nogil:
    """Give a waiting sequence the blocks of its prompt, shared ones where the cache has them; False: too few free."""
    cdef sequence_t* sequence = &model.sequences[index]
    cdef int32_t target = target_tokens(sequence)
    cdef int32_t need = blocks_needed(model, target)
    cdef int32_t hits = 0
    cdef int32_t revived = 0          # hits that nobody references: they leave the free list too
    cdef int32_t block
    # The last token is always computed.
    while hits < sequence.hash_count and (hits + 1) * model.timing.block_tokens < target:
        block = table_find(model, sequence.hashes[hits])
        if block < 0:
            break
        if model.blocks[block].references == 0:
            revived += 1
        hits += 1
    if need - hits + revived > model.free_count:
        return False
    for at in range(hits):
        block = table_find(model, sequence.hashes[at])
        if model.blocks[block].references == 0:
            free_list_remove(model, block)
        model.blocks[block].references += 1
        hold_block(sequence, block)
    for _ in range(hits, need):
        hold_block(sequence, block_take(model))
    sequence.computed_tokens = hits * model.timing.block_tokens
    if not sequence.admitted:
        sequence.admitted = True
        sequence.cached_tokens = sequence.computed_tokens
        model.query_tokens += sequence.prompt_tokens
        model.hit_tokens += sequence.cached_tokens
    sequence.state = SEQUENCE_RUNNING
    queue_remove(model, &model.waiting, index)
    queue_append(model, &model.running, index)
    return True


cdef double plan_chunk(step_model_t* model, int32_t index, int32_t* budget) noexcept nogil:
    """Plan the next part of a sequence within the budget; its share of the attention and context cost in ms."""
    cdef sequence_t* sequence = &model.sequences[index]
    cdef int32_t chunk = target_tokens(sequence) - sequence.computed_tokens
    cdef bint decodes = chunk == 1 and sequence.generated_tokens > 0
    if chunk > budget[0]:
        chunk = budget[0]
    sequence.chunk_tokens = chunk
    sequence.planned_index = model.planned_count
    model.planned[model.planned_count] = index
    model.planned_count += 1
    budget[0] -= chunk
    if decodes:
        return model.timing.context_ms * sequence.computed_tokens
    return model.timing.attention_ms * chunk * (sequence.computed_tokens + 0.5 * chunk)


cdef double step_begin(step_model_t* model) noexcept nogil:
    # t = max(floor, base + token * tokens) + attention * sum n_j (ctx_j + n_j / 2)
    #     + context * sum(decode contexts) + overhead
    # with n_j the chunk a prefilling sequence computes after the ctx_j tokens it has (linear part: Vidur profiles).
    cdef int32_t budget = model.timing.chunk_tokens_max
    cdef int32_t index, following
    cdef sequence_t* sequence
    cdef double extra_ms = 0
    cdef double linear_ms
    cdef bint preempted = False
    if model.running.count == 0 and model.waiting.count == 0:
        return -1
    model.planned_count = 0
    model.step_count += 1
    index = model.running.head
    while index >= 0 and budget > 0:
        sequence = &model.sequences[index]
        following = sequence.next
        if sequence.stride <= 1 or model.step_count % sequence.stride == 0:
            while model.free_count == 0 and sequence.state == SEQUENCE_RUNNING and lacks_block(model, sequence):
                preempted = True
                if following == model.running.tail:
                    following = -1
                preempt(model, model.running.tail)        # the newest: may be this one
            if sequence.state != SEQUENCE_RUNNING:
                break
            if lacks_block(model, sequence):
                hold_block(sequence, block_take(model))
            extra_ms += plan_chunk(model, index, &budget)
        index = following
    # Who was just put back would only take the blocks away again.
    while not preempted and budget > 0 and model.waiting.count > 0 and model.running.count < model.timing.sequences_max:
        index = model.waiting.head
        if not admit(model, index):
            break
        extra_ms += plan_chunk(model, index, &budget)
    model.stepping = True
    linear_ms = model.timing.base_ms + model.timing.token_ms * (model.timing.chunk_tokens_max - budget)
    if linear_ms < model.timing.floor_ms:
        linear_ms = model.timing.floor_ms
    return linear_ms + extra_ms + model.timing.overhead_ms


cdef void share_blocks(step_model_t* model, sequence_t* sequence) noexcept nogil:
    # Only what is computed: an answer's last token is not, nobody came after it.
    cdef int32_t full = min(sequence.hash_count, sequence.computed_tokens // model.timing.block_tokens)
    cdef int32_t at
    cdef block_t* block
    for at in range(sequence.shared_count, full):
        block = &model.blocks[sequence.blocks[at]]
        if block.hash == 0 and table_find(model, sequence.hashes[at]) < 0:
            block.hash = sequence.hashes[at]
            table_insert(model, sequence.blocks[at])
    sequence.shared_count = full


cdef int32_t step_end(step_model_t* model) noexcept nogil:
    cdef int32_t emitted = 0
    cdef int32_t place, index
    cdef sequence_t* sequence
    model.stepping = False
    for place in range(model.planned_count):
        index = model.planned[place]
        if index < 0:                        # aborted meanwhile
            continue
        sequence = &model.sequences[index]
        sequence.planned_index = -1
        sequence.computed_tokens += sequence.chunk_tokens
        if sequence.computed_tokens < target_tokens(sequence):
            continue
        if sequence.generated_tokens == 0:
            share_blocks(model, sequence)
        sequence.generated_tokens += 1
        model.emitted[emitted] = index
        emitted += 1
        if sequence.generated_tokens >= sequence.output_tokens:
            share_blocks(model, sequence)
            queue_remove(model, &model.running, index)
            give_blocks_back(model, sequence)
            sequence.state = SEQUENCE_FINISHED
    model.planned_count = 0
    return emitted


cdef double step_kv_usage(const step_model_t* model) noexcept nogil:
    if model.block_count == 0:
        return 0
    return <double> (model.block_count - model.free_count) / model.block_count


cdef int32_t hash_prompt_blocks(const uint8_t* prompt, size_t size, uint64_t* hashes, int32_t hash_max) noexcept nogil:
    """Chained hashes of the prompt's full blocks, four bytes a token: equal prefixes give equal heads. The count."""
    cdef uint64_t chain = 0x9E3779B97F4A7C15ULL
    cdef uint64_t word
    cdef size_t block_bytes = BLOCK_TOKENS * 4
    cdef int32_t count = 0
    cdef size_t at = 0
    cdef size_t part
    while at + block_bytes <= size and count < hash_max:
        for part in range(0, block_bytes, 8):
            memcpy(&word, prompt + at + part, 8)
            chain = (chain ^ word) * 0xFF51AFD7ED558CCDULL      # MurmurHash3's finalizer, word by word
            chain ^= chain >> 32
        hashes[count] = chain if chain else 1
        count += 1
        at += block_bytes
    return count


# --- door for tests -----------------------------------------------------------------------------------------------

cdef class StepModel:
    """The step model as mock engines run it, one call at a time."""
    cdef step_model_t model

    def __cinit__(self, timing, int block_tokens=0):
        cdef step_class_t values
        values.floor_ms, values.base_ms, values.token_ms, values.attention_ms, values.context_ms = timing[:5]
        values.kv_tokens = timing[5]
        values.overhead_ms = OVERHEAD_MS
        values.sequences_max = SEQUENCES_DEFAULT
        values.chunk_tokens_max = CHUNK_DEFAULT_TOKENS
        values.block_tokens = block_tokens
        if step_model_init(&self.model, &values) < 0:
            raise MemoryError

    def __dealloc__(self):
        step_model_free(&self.model)

    def submit(self, int prompt_tokens, int output_tokens, hashes=(), int stride=1):
        cdef uint64_t[4096] copied
        cdef int count = len(hashes)
        if count > 4096:
            raise ValueError("at most 4096 block hashes")
        for place in range(count):
            copied[place] = hashes[place]
        index = step_submit(&self.model, prompt_tokens, output_tokens, copied, count, NULL)
        if index >= 0:
            self.model.sequences[index].stride = stride
        return index

    def abort(self, int index):
        step_abort(&self.model, index)

    def begin(self):
        return step_begin(&self.model)

    def end(self):
        emitted = []
        for place in range(step_end(&self.model)):
            index = self.model.emitted[place]
            finished = self.model.sequences[index].state == SEQUENCE_FINISHED
            emitted.append((index, finished))
            if finished:
                step_release(&self.model, index)
        return emitted

    def cached_tokens(self, int index):
        return self.model.sequences[index].cached_tokens

    def counts(self):
        return {
            "running": self.model.running.count,
            "waiting": self.model.waiting.count,
            "free_blocks": self.model.free_count,
            "blocks": self.model.block_count,
            "preemptions": self.model.preemption_count,
            "query_tokens": self.model.query_tokens,
            "hit_tokens": self.model.hit_tokens,
        }

    def broken_invariant(self):
        """What does not add up, or an empty string: references, free list and hash table against the sequences."""
        held = [0] * self.model.block_count
        for index in range(self.model.sequence_capacity):
            for place in range(self.model.sequences[index].block_count):
                held[self.model.sequences[index].blocks[place]] += 1
        listed = 0
        at = self.model.free_head
        while at >= 0:
            if held[at]:
                return f"block {at} is free and held"
            listed += 1
            at = self.model.blocks[at].next
        if listed != self.model.free_count:
            return f"{listed} blocks listed as free, {self.model.free_count} counted"
        for block in range(self.model.block_count):
            if held[block] != self.model.blocks[block].references:
                return f"block {block} held {held[block]} times, references {self.model.blocks[block].references}"
            if self.model.blocks[block].hash and table_find(&self.model, self.model.blocks[block].hash) != block:
                return f"block {block} not found by its hash"
        if listed + sum(1 for count in held if count) != self.model.block_count:
            return "a block is lost"
        return ""


def prompt_block_hashes(bytes prompt):
    """Chained block hashes of a prompt, as a list."""
    cdef uint64_t[4096] hashes
    count = hash_prompt_blocks(prompt, len(prompt), hashes, 4096)
    return [hashes[place] for place in range(count)]
