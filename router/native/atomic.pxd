"""Words that several processes read and write: whole values, never torn, ordered as a single writer per word needs.

One word may hold a float32 above 32 bits that say how old it is, or how much it is the mean of (word_pack).
"""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    static inline uint32_t load_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void store_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint64_t load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint64_t add_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
    static inline float load_f32(const float *p) {
        float value;
        __atomic_load(p, &value, __ATOMIC_RELAXED);
        return value;
    }
    static inline void store_f32(float *p, float value) { __atomic_store(p, &value, __ATOMIC_RELAXED); }
    static inline void or_u64(uint64_t *p, uint64_t v) { __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL); }
    static inline void and_u64(uint64_t *p, uint64_t v) { __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL); }
    static inline int swap_u64(uint64_t *p, uint64_t seen, uint64_t wanted) {
        return __atomic_compare_exchange_n(p, &seen, wanted, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline int lowest_bit(uint64_t word) { return __builtin_ctzll(word); }
    static inline uint64_t word_pack(float value, uint32_t low) {
        uint32_t bits;
        __builtin_memcpy(&bits, &value, 4);
        return ((uint64_t)bits << 32) | low;
    }
    static inline float word_value(uint64_t word) {
        uint32_t bits = (uint32_t)(word >> 32);
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }
    """
    uint32_t load_u32(const uint32_t* p) noexcept nogil
    void store_u32(uint32_t* p, uint32_t v) noexcept nogil
    uint64_t load_u64(const uint64_t* p) noexcept nogil
    void store_u64(uint64_t* p, uint64_t v) noexcept nogil
    uint64_t add_u64(uint64_t* p, uint64_t v) noexcept nogil                 # what was there before
    float load_f32(const float* p) noexcept nogil
    void store_f32(float* p, float value) noexcept nogil
    void or_u64(uint64_t* p, uint64_t v) noexcept nogil
    void and_u64(uint64_t* p, uint64_t v) noexcept nogil
    bint swap_u64(uint64_t* p, uint64_t seen, uint64_t wanted) noexcept nogil
    int lowest_bit(uint64_t word) noexcept nogil
    uint64_t word_pack(float value, uint32_t low) noexcept nogil
    float word_value(uint64_t word) noexcept nogil
