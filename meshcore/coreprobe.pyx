"""Flow table, timer wheel and byte queue by themselves, for unit tests; no component imports it."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from meshcore.flowtable cimport *
from meshcore.pool cimport *
from meshcore.records cimport rec_verdict
from meshcore.wheel cimport *


cdef void put_ip(uint64_t *words, bytes address):
    if len(address) != 16:
        raise ValueError("an address has 16 bytes")
    memcpy(words, <const char *>address, 16)


@cython.final
cdef class FlowTableProbe:
    """A flow table whose entries are numbers."""

    cdef flowtable_t table

    def __cinit__(self, uint32_t limit):
        if flowtable_init(&self.table, limit) < 0:
            raise MemoryError

    def __dealloc__(self):
        flowtable_destroy(&self.table)

    cdef int make_key(self, dict fields, flow_key *key) except -1:
        cdef bytes text
        memset(key, 0, sizeof(flow_key))
        key.pod_id = fields.get("pod_id", 1)
        key.direction = fields.get("direction", 1)
        key.flags = fields.get("flags", 0)
        key.dst_port = fields.get("dst_port", 0)
        put_ip(key.src_ip, fields.get("src_ip", bytes(16)))
        put_ip(key.dst_ip, fields.get("dst_ip", bytes(16)))
        put_ip(key.local_ip, fields.get("local_ip", bytes(16)))
        text = fields.get("peer", "").encode()
        flowtable_text(&self.table, text, len(text), key.peer)
        text = fields.get("host", "").encode()
        flowtable_text(&self.table, text, len(text), key.host)
        text = fields.get("forwarded", "").encode()
        flowtable_text(&self.table, text, len(text), key.forwarded)
        text = fields.get("baggage", "").encode()
        flowtable_text(&self.table, text, len(text), key.baggage)
        return 0

    def ask(self, dict key not None):
        """A pending entry for the flow. -> (cookie, was it new), or None when the table is full."""
        cdef flow_key flow
        cdef bint created = False
        cdef entry_t *entry
        self.make_key(key, &flow)
        entry = flowtable_pending(&self.table, &flow, &created)
        return None if entry is NULL else (flowtable_cookie(&self.table, entry), bool(created))

    def settle(self, uint64_t cookie, uint32_t verdict_id, uint32_t mask, uint32_t ttl_ms=0, uint64_t now_ms=0):
        """The answer. -> id of the live entry, or None when the cookie is not known."""
        cdef rec_verdict verdict
        cdef entry_t *entry = flowtable_by_cookie(&self.table, cookie)
        cdef entry_t *live
        if entry is NULL:
            return None
        memset(&verdict, 0, sizeof(verdict))
        verdict.verdict_id = verdict_id
        verdict.mask = mask
        verdict.ttl_ms = ttl_ms
        live = flowtable_settle(&self.table, entry, &verdict, now_ms)
        if live is NULL:
            raise MemoryError
        if live is not entry:
            flowtable_drop(&self.table, entry)
        return live.verdict_id

    def find(self, dict key not None, uint64_t now_ms=0):
        cdef flow_key flow
        cdef entry_t *entry
        self.make_key(key, &flow)
        entry = flowtable_find(&self.table, &flow, now_ms)
        return None if entry is NULL else entry.verdict_id

    def drop(self, uint32_t verdict_id):
        cdef entry_t *entry = flowtable_by_id(&self.table, verdict_id)
        if entry is NULL:
            return False
        flowtable_drop(&self.table, entry)
        return True

    def take_evicted(self):
        """Verdict ids that left the table, at most the last 64."""
        ids = [self.table.evicted[i] for i in range(self.table.evicted_count)]
        self.table.evicted_count = 0
        return ids

    @property
    def count(self):
        return self.table.count


cdef struct slot_timer:
    timer_t timer
    uint32_t *fired
    uint32_t *count
    uint32_t index


cdef void on_fire(void *owner) noexcept nogil:
    cdef slot_timer *slot = <slot_timer *>owner
    slot.fired[slot.count[0]] = slot.index
    slot.count[0] += 1


@cython.final
cdef class WheelProbe:
    """A timer wheel with a clock of its own. Each timer fires at most once per `run`."""

    cdef wheel_t wheel
    cdef slot_timer *timers
    cdef uint32_t *fired
    cdef uint32_t count
    cdef uint32_t total

    def __cinit__(self, uint32_t timers, uint64_t now_ms=0):
        cdef uint32_t i
        self.timers = <slot_timer *>calloc(timers, sizeof(slot_timer))
        self.fired = <uint32_t *>calloc(timers, sizeof(uint32_t))
        if self.timers is NULL or self.fired is NULL:
            raise MemoryError
        self.total = timers
        wheel_init(&self.wheel, now_ms)
        for i in range(timers):
            self.timers[i].fired = self.fired
            self.timers[i].count = &self.count
            self.timers[i].index = i

    def __dealloc__(self):
        free(self.timers)
        free(self.fired)

    def set(self, uint32_t index, uint64_t due_ms):
        if index >= self.total:
            raise IndexError(index)
        timer_set(&self.wheel, &self.timers[index].timer, due_ms, on_fire, &self.timers[index])

    def clear(self, uint32_t index):
        if index >= self.total:
            raise IndexError(index)
        timer_clear(&self.wheel, &self.timers[index].timer)

    def run(self, uint64_t now_ms):
        """Advance the clock. -> indexes of the timers that fired, in order."""
        self.count = 0
        wheel_run(&self.wheel, now_ms)
        return [self.fired[i] for i in range(self.count)]

    def wait(self, uint64_t now_ms):
        """Milliseconds until the wheel wants to run again; -1: no timer is set."""
        return wheel_wait(&self.wheel, now_ms)


@cython.final
cdef class QueueProbe:
    """A byte queue over a small pool."""

    cdef pool_t pool
    cdef queue_t queue
    cdef uint64_t gauge[2]
    cdef uint64_t calls

    def __cinit__(self, uint64_t max_bytes):
        pool_init(&self.pool, max_bytes, self.gauge)

    def __dealloc__(self):
        queue_clear(&self.queue, &self.pool)
        pool_destroy(&self.pool)

    def append(self, bytes data not None):
        cdef const unsigned char *at = data
        cdef size_t size = len(data)
        if queue_append(&self.queue, &self.pool, at, size) < 0:
            raise MemoryError

    def write(self, int fd):
        """-> bytes the descriptor took, or a negative errno."""
        return queue_write(&self.queue, &self.pool, fd, &self.calls)

    @property
    def size(self):
        return queue_size(&self.queue)

    @property
    def chunks(self):
        """Buffers of the pool that are in use."""
        return self.gauge[0]
