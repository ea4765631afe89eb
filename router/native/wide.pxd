"""Loops over endpoints in the widest vectors that a machine has.

FL_WIDE before a C function has it built twice, for any x86-64 and for AVX2, and the loader takes the one that this CPU
runs. Both give the same bits: AVX2 brings no fused multiplication. Elsewhere (clang, musl, ARM) it says nothing.
"""

cdef extern from *:
    """
    #ifndef FL_WIDE
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__AVX2__)
    #define FL_WIDE __attribute__((target_clones("avx2", "default")))
    #else
    #define FL_WIDE
    #endif
    #endif
    """
    const int FL_WIDE                # only a name: C code uses it
