# Flows: life, relaying between an application and a tunnel stream, and plain relaying between two sockets.
from libc.stdint cimport uint8_t, uint32_t

from ztunnel._types cimport addr_t, entry_t, ev_t, flow_t, pod_t, worker_t

cdef flow_t *flow_new(worker_t *w, pod_t *pod, int direction) noexcept nogil                 # NULL: no memory
cdef void flow_attach(worker_t *w, flow_t *flow, entry_t *entry) noexcept nogil              # takes part in its verdict
cdef void flow_detach(worker_t *w, flow_t *flow) noexcept nogil
cdef void flow_end(worker_t *w, flow_t *flow, const char *error) noexcept nogil              # NULL: fine
cdef void flow_fail(worker_t *w, flow_t *flow, int flag, const char *error) noexcept nogil   # answers a pending CONNECT
cdef void flow_refuse(worker_t *w, flow_t *flow, int status, int flag, const char *error) noexcept nogil
cdef int flow_answer(worker_t *w, flow_t *flow, int status, bint end) noexcept nogil         # 0 | -1
# The application, or the far end of a plain flow.
cdef void flow_dial(worker_t *w, flow_t *flow, const addr_t *to, bint spoof) noexcept nogil
cdef void flow_open(worker_t *w, flow_t *flow) noexcept nogil                                # both sides are there
cdef void flow_watch(worker_t *w, flow_t *flow) noexcept nogil                               # put the socket into epoll
cdef void flow_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil                   # of flow_t.app
cdef void flow_far_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil               # of relay_t.ev
cdef void flow_ready(worker_t *w, flow_t *flow) noexcept nogil
cdef void flows_run(worker_t *w) noexcept nogil                                              # those on the ready list
cdef void flow_timeout(void *owner) noexcept nogil
cdef void stream_data(worker_t *w, flow_t *flow, const uint8_t *data, uint32_t size, bint end) noexcept nogil
cdef void stream_reset(worker_t *w, flow_t *flow, uint32_t code) noexcept nogil
cdef void spans_flush(worker_t *w) noexcept nogil
