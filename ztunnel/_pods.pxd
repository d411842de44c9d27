# Pods of the worker: listeners, arrival and departure, endpoints that vanish, drain.
from libc.stdint cimport uint8_t, uint32_t

from meshcore.records cimport rec_pod_add
from ztunnel._types cimport ev_t, worker_t

cdef void pods_add(worker_t *w, const rec_pod_add *record, int *fds, int count) noexcept nogil   # takes the descriptors
cdef void pods_del(worker_t *w, uint32_t id) noexcept nogil
cdef void pods_endpoint_gone(worker_t *w, const uint8_t *ip) noexcept nogil
cdef void pods_drain(worker_t *w, uint32_t deadline_ms) noexcept nogil
cdef void pods_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil                      # of a listener
cdef void pods_keepalive(void *owner) noexcept nogil       # a timer of the worker's, set by whoever dials
cdef void pods_free_graves(worker_t *w) noexcept nogil     # end of the loop turn
