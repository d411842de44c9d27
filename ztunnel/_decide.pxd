# Flow-table lookups, and the questions to the control process when there is no entry.
from libc.stdint cimport uint32_t, uint64_t

from meshcore.records cimport rec_verdict
from ztunnel._types cimport entry_t, flow_t, worker_t

cdef void decide(worker_t *w, flow_t *flow) noexcept nogil          # proceeds at once on a hit, parks on a miss
cdef void decide_again(worker_t *w, flow_t *flow) noexcept nogil    # live: its old verdict is gone
cdef void decide_verdict(worker_t *w, const rec_verdict *verdict) noexcept nogil
cdef void decide_flush(worker_t *w, uint32_t verdict_id, bint reevaluate) noexcept nogil
cdef void decide_report_evicted(worker_t *w) noexcept nogil
cdef int control_send(worker_t *w, const void *record, size_t size) noexcept nogil   # 0 | -errno
