# The control socket: records, certificates, labels, signals.
from libc.stdint cimport uint32_t

from ztunnel._types cimport ev_t, worker_t

cdef int control_open(worker_t *w) noexcept nogil          # says hello and registers the socket: 0 | -errno
cdef void control_read(worker_t *w) noexcept nogil
cdef void control_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil
cdef void control_signal(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil   # SIGTERM
cdef void control_drain_check(worker_t *w) noexcept nogil  # reports the end of a drain
cdef void control_close(worker_t *w) noexcept nogil        # everything goes, before the process ends
