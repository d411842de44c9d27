# Outbound: connections of applications captured on 15001.
from libc.stdint cimport uint32_t

from ztunnel._types cimport flow_t, tunnel_t, worker_t

cdef void outbound_proceed(worker_t *w, flow_t *flow) noexcept nogil
cdef void outbound_tunnel_open(worker_t *w, tunnel_t *tunnel) noexcept nogil     # the flows that waited for it
cdef void outbound_field(worker_t *w, flow_t *flow, const char *name, size_t name_len, const char *value,
                         size_t value_len) noexcept nogil
cdef void outbound_headers(worker_t *w, flow_t *flow, bint end) noexcept nogil
cdef void outbound_retry(worker_t *w, flow_t *flow) noexcept nogil
