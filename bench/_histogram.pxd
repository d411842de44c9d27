# Latencies in fixed memory: buckets as wide as a nanosecond at first, then 128 to each power of two. A bucket's middle
# is at most 1/256 away from anything in it. The highest reaches to 68 s and takes everything above.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    int clz64 "__builtin_clzll"(unsigned long long value) noexcept nogil

cdef enum:
    HIST_BITS = 7                # 128 buckets to a power of two
    HIST_LINEAR = 256            # 2 << HIST_BITS: below, a bucket is one nanosecond
    HIST_BUCKETS = 3840          # 30 * 128: the last power of two ends at 1 << 36 ns

cdef struct hist_t:
    uint64_t count
    uint64_t sum_ns
    int64_t max_ns
    uint64_t buckets[HIST_BUCKETS]

cdef inline uint32_t hist_index(uint64_t ns) noexcept nogil:
    cdef int shift
    if ns < HIST_LINEAR:
        return <uint32_t>ns
    shift = 63 - HIST_BITS - clz64(ns)
    if shift > HIST_BUCKETS // (1 << HIST_BITS) - 2:
        return HIST_BUCKETS - 1
    return (<uint32_t>shift << HIST_BITS) + <uint32_t>(ns >> shift)

cdef inline uint64_t hist_middle(uint32_t index) noexcept nogil:
    cdef uint32_t shift
    if index < HIST_LINEAR:
        return index
    shift = (index >> HIST_BITS) - 1
    return (<uint64_t>(index - (shift << HIST_BITS)) << shift) + (<uint64_t>1 << shift >> 1)

cdef inline void hist_add(hist_t *hist, int64_t ns) noexcept nogil:
    ns = max(ns, 0)
    hist.count += 1
    hist.sum_ns += <uint64_t>ns
    hist.max_ns = max(hist.max_ns, ns)
    hist.buckets[hist_index(<uint64_t>ns)] += 1
