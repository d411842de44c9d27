# Records of the control process: pods, certificates, labels, verdicts, drain.
from ztunnel._types cimport pod_t, worker_t

cdef int control_open(worker_t *w) noexcept nogil          # says hello and registers the socket: 0 | -errno
cdef void control_read(worker_t *w) noexcept nogil
cdef void control_drain_check(worker_t *w) noexcept nogil  # reports the end of a drain
cdef void graves_free(worker_t *w) noexcept nogil          # end of the loop turn
cdef void control_close(worker_t *w) noexcept nogil        # everything goes, before the process ends
