"""Sockets of the worker. No Python surface."""

from libc.string cimport memcmp, memcpy, memset, strlen

from meshcore cimport linux
from meshcore.linux cimport *
from meshcore.records cimport PC_ACCEPT, PC_CLOSE, PC_CONNECT, PC_EPOLL_CTL, PC_SETNS, PC_SOCKETS_OPEN, PC_SOCKOPT

cdef enum:
    SO_ORIGINAL_DST = 80         # linux/netfilter_ipv4.h; the IPv6 option has the same number
    BIND_NO_PORT = 24            # IP_BIND_ADDRESS_NO_PORT: choose the port at connect, by the whole 4-tuple

cdef const uint8_t *V4_PREFIX = b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"


cdef bint addr_is_v4(const addr_t *a) noexcept nogil:
    return memcmp(a.ip, V4_PREFIX, 12) == 0


cdef bint addr_same_ip(const addr_t *a, const addr_t *b) noexcept nogil:
    return memcmp(a.ip, b.ip, 16) == 0


cdef size_t addr_text(const addr_t *addr, char *out) noexcept nogil:
    """IPv4 by hand: inet_ntop goes through printf, and every connection has five addresses to write."""
    cdef size_t size = 0
    cdef uint32_t value
    cdef int i
    if not addr_is_v4(addr):
        inet_ntop(AF_INET6, addr.ip, out, ADDRESS_TEXT)
        return strlen(out)
    for i in range(12, 16):
        value = addr.ip[i]
        if value >= 100:
            out[size] = <char>(c"0" + value // 100)
            size += 1
        if value >= 10:
            out[size] = <char>(c"0" + value // 10 % 10)
            size += 1
        out[size] = <char>(c"0" + value % 10)
        out[size + 1] = c"."
        size += 2
    return size - 1


cdef void from_storage(const sockaddr_storage *storage, addr_t *out) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>storage
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>storage
    if storage.ss_family == AF_INET:
        memcpy(out.ip, V4_PREFIX, 12)
        memcpy(out.ip + 12, &v4.sin_addr, 4)
        out.port = ntohs(v4.sin_port)
    else:
        memcpy(out.ip, &v6.sin6_addr, 16)
        out.port = ntohs(v6.sin6_port)


cdef socklen_t to_storage(const addr_t *addr, sockaddr_storage *storage) noexcept nogil:
    cdef sockaddr_in *v4 = <sockaddr_in *>storage
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>storage
    memset(storage, 0, sizeof(sockaddr_storage))
    if addr_is_v4(addr):
        v4.sin_family = <uint16_t>AF_INET
        v4.sin_port = htons(addr.port)
        memcpy(&v4.sin_addr, addr.ip + 12, 4)
        return sizeof(sockaddr_in)
    v6.sin6_family = <uint16_t>AF_INET6
    v6.sin6_port = htons(addr.port)
    memcpy(&v6.sin6_addr, addr.ip, 16)
    return sizeof(sockaddr_in6)


cdef int ev_add(worker_t *w, ev_t *ev, int fd, int kind) noexcept nogil:
    cdef epoll_event event
    ev.kind = <uint8_t>kind
    ev.fd = fd
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.ptr = ev
    w.page[PC_EPOLL_CTL] += 1
    if epoll_ctl(w.epfd, EPOLL_CTL_ADD, fd, &event) < 0:
        return -linux.errno
    ev.armed = 1
    return 0


cdef void ev_close(worker_t *w, ev_t *ev) noexcept nogil:
    """Closes the descriptor; the kernel takes it out of the epoll set, and EV_DEAD out of the current batch."""
    ev.kind = EV_DEAD
    ev.armed = 0
    if ev.fd >= 0:
        w.page[PC_CLOSE] += 1
        w.page[PC_SOCKETS_OPEN] -= 1
        linux.close(ev.fd)
        ev.fd = -1


cdef void option(worker_t *w, int fd, int level, int name, int value) noexcept nogil:
    w.page[PC_SOCKOPT] += 1
    setsockopt(fd, level, name, &value, sizeof(int))


cdef void sock_keepalive(worker_t *w, int fd) noexcept nogil:
    if w.config.keepalive_idle_s == 0:
        return
    # In this order: the kernel counts the idle time from the last byte heard, however late it is told.
    option(w, fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    option(w, fd, IPPROTO_TCP, TCP_KEEPIDLE, <int>w.config.keepalive_idle_s)
    option(w, fd, IPPROTO_TCP, TCP_KEEPINTVL, <int>w.config.keepalive_interval_s)
    option(w, fd, IPPROTO_TCP, TCP_KEEPCNT, <int>w.config.keepalive_retries)
    if w.config.user_timeout_ms:
        option(w, fd, IPPROTO_TCP, TCP_USER_TIMEOUT, <int>w.config.user_timeout_ms)


cdef void sock_listener(worker_t *w, int fd, bint with_keepalive) noexcept nogil:
    """Accepted sockets inherit these from the listener, which saves a call each."""
    option(w, fd, IPPROTO_TCP, TCP_NODELAY, 1)
    if with_keepalive:
        sock_keepalive(w, fd)


cdef bint sock_waiting(int listener) noexcept nogil:
    """Is there a connection to accept? Asking costs a tenth of an accept that finds none: that one makes a socket and
    throws it away."""
    cdef pollfd state
    state.fd = listener
    state.events = POLLIN
    return poll(&state, 1, 0) > 0


cdef int sock_accept(worker_t *w, int listener, addr_t *peer) noexcept nogil:
    cdef sockaddr_storage storage
    cdef socklen_t size = sizeof(storage)
    cdef int fd
    w.page[PC_ACCEPT] += 1
    fd = accept4(listener, <sockaddr *>&storage, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        return -linux.errno
    w.page[PC_SOCKETS_OPEN] += 1
    from_storage(&storage, peer)
    return fd


cdef void sock_local(worker_t *w, int fd, addr_t *out) noexcept nogil:
    cdef sockaddr_storage storage
    cdef socklen_t size = sizeof(storage)
    w.page[PC_SOCKOPT] += 1
    memset(&storage, 0, sizeof(storage))
    getsockname(fd, <sockaddr *>&storage, &size)
    from_storage(&storage, out)


cdef void sock_original(worker_t *w, int fd, const addr_t *peer, addr_t *out) noexcept nogil:
    """Where the client meant to go: conntrack's word for REDIRECT, the local address for TPROXY and SK_LOOKUP."""
    cdef sockaddr_storage storage
    cdef socklen_t size = sizeof(storage)
    cdef int level = IPPROTO_IP if addr_is_v4(peer) else IPPROTO_IPV6
    w.page[PC_SOCKOPT] += 1
    if getsockopt(fd, level, SO_ORIGINAL_DST, &storage, &size) == 0:
        from_storage(&storage, out)
    else:
        sock_local(w, fd, out)


cdef int enter(worker_t *w, pod_t *pod) noexcept nogil:
    """Move this thread into the pod's namespace and stay there until another pod needs it."""
    if w.netns == pod.netns or pod.netns < 0:
        return 0
    w.page[PC_SETNS] += 1
    if setns(pod.netns, CLONE_NEWNET) < 0:
        return -linux.errno
    w.netns = pod.netns
    return 0


cdef void bind_foreign(worker_t *w, int fd, bint v4, const addr_t *source) noexcept nogil:
    """The client's own address as source. A refusal leaves the socket usable with the pod's address."""
    cdef sockaddr_storage storage
    cdef addr_t address = source[0]
    cdef socklen_t size
    address.port = 0
    if v4:
        option(w, fd, IPPROTO_IP, IP_TRANSPARENT, 1)
        option(w, fd, IPPROTO_IP, BIND_NO_PORT, 1)
    else:
        option(w, fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        option(w, fd, IPPROTO_IP, BIND_NO_PORT, 1)
    size = to_storage(&address, &storage)
    w.page[PC_SOCKOPT] += 1
    linux.bind(fd, <sockaddr *>&storage, size)


cdef int sock_dial(worker_t *w, pod_t *pod, const addr_t *to, const addr_t *spoof, bint keep) noexcept nogil:
    cdef sockaddr_storage storage
    cdef bint v4 = addr_is_v4(to)
    cdef int fd, rc = enter(w, pod)
    cdef socklen_t size
    if rc < 0:
        return rc
    fd = socket(AF_INET if v4 else AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -linux.errno
    w.page[PC_SOCKETS_OPEN] += 1
    if w.config.packet_mark:
        option(w, fd, SOL_SOCKET, SO_MARK, <int>w.config.packet_mark)
    option(w, fd, IPPROTO_TCP, TCP_NODELAY, 1)
    if keep:
        sock_keepalive(w, fd)
    if spoof is not NULL and not addr_same_ip(spoof, to) and addr_is_v4(spoof) == v4:
        bind_foreign(w, fd, v4, spoof)
    size = to_storage(to, &storage)
    w.page[PC_CONNECT] += 1
    if connect(fd, <sockaddr *>&storage, size) < 0 and linux.errno != EINPROGRESS:
        rc = -linux.errno
        w.page[PC_CLOSE] += 1
        w.page[PC_SOCKETS_OPEN] -= 1
        linux.close(fd)
        return rc
    return fd


cdef int sock_error(worker_t *w, int fd) noexcept nogil:
    cdef int error = 0
    cdef socklen_t size = sizeof(int)
    w.page[PC_SOCKOPT] += 1
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0:
        return linux.errno
    return error


cdef void sock_reset_on_close(worker_t *w, int fd) noexcept nogil:
    cdef linger value
    value.l_onoff = 1
    value.l_linger = 0
    w.page[PC_SOCKOPT] += 1
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, sizeof(value))
