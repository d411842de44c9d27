# Plain relaying between two sockets by splice: passthrough, inbound plaintext, plain TCP endpoints.
from ztunnel._types cimport flow_t, worker_t

cdef int relay_open(worker_t *w, flow_t *flow) noexcept nogil              # 0 | -ENOMEM; makes flow.relay
cdef int relay_pump(worker_t *w, flow_t *flow) noexcept nogil              # 0 | 1 more to do | 2 both done | -errno
cdef void relay_close(worker_t *w, flow_t *flow) noexcept nogil
cdef void relay_free_spares(worker_t *w) noexcept nogil
