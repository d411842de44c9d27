# The control socket: records, certificates, labels, signals.
from ztunnel._types cimport worker_t

cdef int control_open(worker_t *w) noexcept nogil          # says hello and registers the socket: 0 | -errno
cdef void control_read(worker_t *w) noexcept nogil
cdef void control_drain_check(worker_t *w) noexcept nogil  # reports the end of a drain
cdef void control_close(worker_t *w) noexcept nogil        # everything goes, before the process ends
