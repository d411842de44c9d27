# HBONE connections of the worker: TLS and HTTP/2 glued to a socket, coalesced output, the client pool.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from meshcore.nghttp2 cimport nghttp2_nv
from meshcore.tls cimport cert_t, sans_t
from ztunnel._types cimport addr_t, ev_t, flow_t, pod_t, tunnel_t, worker_t

cdef void tunnel_accept(worker_t *w, pod_t *pod, int fd, const addr_t *peer) noexcept nogil
cdef void tunnel_certified(worker_t *w, tunnel_t *tunnel, cert_t *cert) noexcept nogil     # a T_WAIT_CERT one goes on
# A pooled or new connection for the flow: NULL and *rc = -errno when there can be none.
cdef tunnel_t *tunnel_obtain(worker_t *w, flow_t *flow, cert_t *cert, sans_t *sans, int *rc) noexcept nogil
cdef bint tunnel_has_room(worker_t *w, tunnel_t *tunnel) noexcept nogil
cdef void tunnel_mark(worker_t *w, tunnel_t *tunnel) noexcept nogil                          # has something to flush
cdef uint8_t *tunnel_room(worker_t *w, tunnel_t *tunnel, uint32_t least, uint32_t *room) noexcept nogil
cdef void tunnel_wrote(worker_t *w, tunnel_t *tunnel, uint32_t size, uint32_t stream_id) noexcept nogil
cdef bint tunnel_congested(worker_t *w, tunnel_t *tunnel) noexcept nogil
# Closed at the end of the turn.
cdef void tunnel_break(worker_t *w, tunnel_t *tunnel, int flag, const char *why) noexcept nogil
cdef void tunnel_close(worker_t *w, tunnel_t *tunnel) noexcept nogil
cdef void tunnel_drain(worker_t *w, tunnel_t *tunnel, bint final) noexcept nogil
cdef void tunnel_stream_gone(worker_t *w, tunnel_t *tunnel) noexcept nogil
cdef void tunnels_flush(worker_t *w) noexcept nogil                                          # end of the loop turn
cdef void tunnel_read(worker_t *w, tunnel_t *tunnel) noexcept nogil
cdef void tunnel_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil
