# Sockets of the worker: epoll registration, original destination, dialling inside a pod.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from meshcore.linux cimport sockaddr_storage, socklen_t
from ztunnel._types cimport EV_DEAD, addr_t, ev_t, listener_t, pod_t, worker_t

cdef enum:
    ADDRESS_TEXT = 46            # INET6_ADDRSTRLEN

cdef int ev_add(worker_t *w, ev_t *ev, int fd, int kind) noexcept nogil                     # 0 | -errno; edge-triggered
cdef void ev_close(worker_t *w, ev_t *ev) noexcept nogil
cdef int sock_accept(worker_t *w, int listener, addr_t *peer) noexcept nogil                # fd | -errno
cdef bint sock_waiting(int listener) noexcept nogil
cdef void sock_original(worker_t *w, int fd, const addr_t *peer, addr_t *out) noexcept nogil
cdef void sock_local(worker_t *w, int fd, addr_t *out) noexcept nogil
# Connects from inside the pod: fd | -errno. Keepalive at once, or the caller sees to it later.
cdef int sock_dial(worker_t *w, pod_t *pod, const addr_t *to, const addr_t *spoof, bint keep) noexcept nogil
cdef void sock_keepalive(worker_t *w, int fd) noexcept nogil
cdef int sock_error(worker_t *w, int fd) noexcept nogil                                     # 0 | errno of the connect
cdef void sock_reset_on_close(worker_t *w, int fd) noexcept nogil
cdef void sock_listener(worker_t *w, int fd, bint keepalive) noexcept nogil
cdef bint addr_same_ip(const addr_t *a, const addr_t *b) noexcept nogil
cdef bint addr_is_v4(const addr_t *a) noexcept nogil
cdef size_t addr_text(const addr_t *addr, char *out) noexcept nogil     # the IP into ADDRESS_TEXT bytes: its length
