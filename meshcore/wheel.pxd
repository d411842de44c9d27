# Timers of one loop: a wheel of 1024 slots of 64 ms. Setting, moving and clearing are O(1); a timer fires up to one
# tick late, never early. A deadline beyond the horizon (65 s) stays in its slot and is passed over until it is due.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    WHEEL_SLOTS = 1024           # power of two
    WHEEL_WORDS = 16             # WHEEL_SLOTS / 64
    WHEEL_TICK_SHIFT = 6         # 64 ms

ctypedef void (*timer_fn)(void *owner) noexcept nogil

cdef struct timer_t:             # embedded in its owner; armed iff fn is not NULL
    timer_t *next
    timer_t *prev
    uint64_t due                 # ms, CLOCK_MONOTONIC
    timer_fn fn
    void *owner

cdef struct wheel_t:
    uint64_t tick                # slots before this one have been visited
    uint32_t armed
    uint32_t words               # bit n: occupied[n] is not 0
    uint64_t occupied[WHEEL_WORDS]
    timer_t *slots[WHEEL_SLOTS]

cdef void wheel_init(wheel_t *wheel, uint64_t now_ms) noexcept nogil
cdef void timer_set(wheel_t *wheel, timer_t *timer, uint64_t due_ms, timer_fn fn, void *owner) noexcept nogil
cdef void timer_clear(wheel_t *wheel, timer_t *timer) noexcept nogil
cdef void wheel_run(wheel_t *wheel, uint64_t now_ms) noexcept nogil
cdef int wheel_wait(wheel_t *wheel, uint64_t now_ms) noexcept nogil   # ms until the next visit, -1: no timer
