# Access log and per-label counters.
from libc.stdint cimport uint32_t, uint64_t

from meshcore.records cimport SLOT_BYTES, SLOT_MAX
from ztunnel._types cimport flow_t, worker_t

# One line at the end of a connection; `error` NULL: it went well.
cdef void log_complete(worker_t *w, flow_t *flow, const char *error) noexcept nogil
cdef void log_flush(worker_t *w) noexcept nogil                           # writes what stdout takes without blocking
cdef void log_timer(void *owner) noexcept nogil
cdef void count_opened(worker_t *w, flow_t *flow) noexcept nogil
cdef void count_closed(worker_t *w, flow_t *flow) noexcept nogil

cdef inline uint64_t *slot_of(worker_t *w, uint32_t label_id) noexcept nogil:
    return <uint64_t *>(w.slots + <uint64_t>(label_id if label_id < SLOT_MAX else 0) * SLOT_BYTES)
