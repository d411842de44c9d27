# Inbound: CONNECT streams of peers, and what becomes of captured plaintext.
from libc.stdint cimport uint8_t, uint32_t

from meshcore.h2types cimport h2_stream
from ztunnel._types cimport flow_t, tunnel_t, worker_t

cdef void inbound_proceed(worker_t *w, flow_t *flow) noexcept nogil
cdef h2_stream *inbound_stream(worker_t *w, tunnel_t *tunnel) noexcept nogil
cdef void inbound_field(worker_t *w, flow_t *flow, const char *name, size_t name_len, const char *value,
                        size_t value_len) noexcept nogil
cdef void inbound_headers(worker_t *w, flow_t *flow, bint end) noexcept nogil
