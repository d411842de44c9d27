"""Timer wheel of a worker loop. No Python surface."""

from libc.string cimport memset


cdef extern from *:
    int ctz64 "__builtin_ctzll"(unsigned long long value) noexcept nogil


cdef void wheel_init(wheel_t *wheel, uint64_t now_ms) noexcept nogil:
    memset(wheel, 0, sizeof(wheel_t))
    wheel.tick = now_ms >> WHEEL_TICK_SHIFT


cdef void unlink(wheel_t *wheel, timer_t *timer) noexcept nogil:
    cdef uint32_t slot = <uint32_t>((timer.due >> WHEEL_TICK_SHIFT) & (WHEEL_SLOTS - 1))
    if timer.prev is not NULL:
        timer.prev.next = timer.next
    else:
        wheel.slots[slot] = timer.next
        if timer.next is NULL:
            wheel.occupied[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
            if wheel.occupied[slot >> 6] == 0:
                wheel.words &= ~(<uint32_t>1 << (slot >> 6))
    if timer.next is not NULL:
        timer.next.prev = timer.prev
    timer.next = timer.prev = NULL


cdef void timer_set(wheel_t *wheel, timer_t *timer, uint64_t due_ms, timer_fn fn, void *owner) noexcept nogil:
    cdef uint32_t slot
    if timer.fn is not NULL:
        timer_clear(wheel, timer)
    # A slot is visited once its whole tick has passed, so the deadline moves to the next boundary.
    timer.due = due_ms + (1 << WHEEL_TICK_SHIFT)
    if timer.due >> WHEEL_TICK_SHIFT <= wheel.tick:
        timer.due = (wheel.tick + 1) << WHEEL_TICK_SHIFT
    slot = <uint32_t>((timer.due >> WHEEL_TICK_SHIFT) & (WHEEL_SLOTS - 1))
    timer.fn = fn
    timer.owner = owner
    timer.prev = NULL
    timer.next = wheel.slots[slot]
    if timer.next is not NULL:
        timer.next.prev = timer
    wheel.slots[slot] = timer
    wheel.occupied[slot >> 6] |= <uint64_t>1 << (slot & 63)
    wheel.words |= <uint32_t>1 << (slot >> 6)
    wheel.armed += 1


cdef void timer_clear(wheel_t *wheel, timer_t *timer) noexcept nogil:
    if timer.fn is NULL:
        return
    unlink(wheel, timer)
    timer.fn = NULL
    wheel.armed -= 1


cdef void visit(wheel_t *wheel, uint64_t tick) noexcept nogil:
    cdef uint32_t slot = <uint32_t>(tick & (WHEEL_SLOTS - 1))
    cdef timer_t *timer
    cdef timer_fn fn
    while True:
        # The callback may set or clear any timer of this slot, so the search starts afresh after each.
        timer = wheel.slots[slot]
        while timer is not NULL and timer.due >> WHEEL_TICK_SHIFT > tick:
            timer = timer.next
        if timer is NULL:
            return
        fn = timer.fn
        timer_clear(wheel, timer)
        fn(timer.owner)


cdef void wheel_run(wheel_t *wheel, uint64_t now_ms) noexcept nogil:
    cdef uint64_t now = now_ms >> WHEEL_TICK_SHIFT, steps = 0, slot
    while wheel.tick <= now and steps <= WHEEL_SLOTS:
        slot = wheel.tick & (WHEEL_SLOTS - 1)
        if wheel.occupied[slot >> 6] >> (slot & 63) & 1:
            visit(wheel, now if now - wheel.tick >= WHEEL_SLOTS else wheel.tick)
        wheel.tick += 1
        steps += 1
    if wheel.tick <= now:
        wheel.tick = now + 1


cdef int wheel_wait(wheel_t *wheel, uint64_t now_ms) noexcept nogil:
    cdef uint32_t start, word, later
    cdef uint64_t bits, ahead, due
    if wheel.armed == 0:
        return -1
    start = <uint32_t>(wheel.tick & (WHEEL_SLOTS - 1))
    word = start >> 6
    bits = wheel.occupied[word] & (~<uint64_t>0 << (start & 63))
    if bits == 0:
        # The next word that has a timer, round the wheel: at last this one again, with the slots that are behind.
        later = wheel.words & (~<uint32_t>1 << word)
        word = <uint32_t>ctz64(later if later else wheel.words)
        bits = wheel.occupied[word]
    ahead = ((word << 6) + <uint32_t>ctz64(bits) - start) & (WHEEL_SLOTS - 1)
    due = (wheel.tick + ahead) << WHEEL_TICK_SHIFT
    return 0 if due <= now_ms else <int>(due - now_ms)
