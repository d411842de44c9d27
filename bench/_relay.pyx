"""A TCP relay that only copies: what a proxy hop costs at the very least. One thread, one nogil epoll loop.

Sockets are edge-triggered. A direction reads into one shared buffer and writes at once; what the other side does not
take is kept, at most READ_BYTES, and nothing more is read until that is gone.
"""

from libc.errno cimport ECONNABORTED, ENOMEM
from libc.signal cimport SIGINT
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from meshcore cimport linux
from meshcore.linux cimport *

cdef enum:
    READ_BYTES = 65536           # bytes of one recv, and what a direction may hold back
    ROUNDS = 16                  # recvs of one direction before others get their turn: 1 MiB
    ACCEPTS = 64                 # connections of one listener before others get their turn
    EVENTS_MAX = 64
    SPARE_FDS = 64               # descriptors of the process besides the connections
    PAIRS_MAX = 500000           # where the limit on descriptors is none


cdef struct side_t:              # one socket and what is on its way to it
    pair_t *pair
    side_t *peer
    char *held                   # READ_BYTES, owned; NULL: nothing is held back
    uint32_t held_at
    uint32_t held_len
    int fd
    uint8_t connected
    uint8_t readable             # no EAGAIN since the last edge
    uint8_t ended                # FIN received
    uint8_t shut                 # FIN sent


cdef struct pair_t:
    side_t client
    side_t server
    pair_t *prev
    pair_t *next                 # among the open ones, or among the graves
    bint dead                    # closed; freed at the end of the turn, since the batch may name it once more


cdef struct route_t:
    sockaddr_in target
    int fd                       # listener, the caller's
    bint ready                   # no EAGAIN since the last edge


cdef struct relay_t:
    route_t *routes
    int route_count
    int epfd
    int signal_fd
    int mark
    uint32_t pairs
    uint32_t pairs_max
    pair_t open                  # head of a ring
    pair_t *graves
    char *buf                    # READ_BYTES, shared


cdef void hang_up(relay_t *r, pair_t *pair, bint reset) noexcept nogil:
    """Close both sides; with a reset what broke on one side looks broken on the other."""
    cdef linger value
    cdef side_t *side = &pair.client
    if pair.dead:
        return
    pair.dead = True
    value.l_onoff = 1
    value.l_linger = 0
    while side is not NULL:
        if side.fd >= 0:
            if reset:
                setsockopt(side.fd, SOL_SOCKET, SO_LINGER, &value, sizeof(value))
            linux.close(side.fd)             # the kernel takes it out of the epoll set
        free(side.held)
        side = &pair.server if side is &pair.client else NULL
    pair.prev.next = pair.next
    pair.next.prev = pair.prev
    pair.next = r.graves
    r.graves = pair
    r.pairs -= 1


cdef void bury(relay_t *r) noexcept nogil:
    cdef pair_t *pair
    while r.graves is not NULL:
        pair = r.graves
        r.graves = pair.next
        free(pair)


cdef int write_held(side_t *to) noexcept nogil:
    """-> 1: nothing is held back any more; 0: the socket is full; or a negative errno."""
    cdef ssize_t n
    while to.held is not NULL:
        n = send(to.fd, to.held + to.held_at, to.held_len, MSG_NOSIGNAL)
        if n < 0 and linux.errno == EINTR:
            continue
        if n < 0:
            return 0 if linux.errno == EAGAIN else -linux.errno
        to.held_at += <uint32_t>n
        to.held_len -= <uint32_t>n
        if to.held_len == 0:
            free(to.held)
            to.held = NULL
    return 1


cdef int hold(side_t *to, const char *data, size_t size) noexcept nogil:
    """-> 1, or -ENOMEM."""
    to.held = <char *>malloc(READ_BYTES)
    if to.held is NULL:
        return -ENOMEM
    memcpy(to.held, data, size)
    to.held_at = 0
    to.held_len = <uint32_t>size
    return 1


cdef int copy_some(relay_t *r, side_t *source, side_t *to) noexcept nogil:
    """One recv and one send. -> 1: there may be more; 0: the source has no more for now; or a negative errno."""
    cdef ssize_t got = recv(source.fd, r.buf, READ_BYTES, 0), put
    if got < 0:
        if linux.errno == EINTR:
            return 1
        if linux.errno != EAGAIN:
            return -linux.errno
        source.readable = 0
        return 0
    if got == 0:
        source.ended = 1
        return 0
    put = send(to.fd, r.buf, <size_t>got, MSG_NOSIGNAL)
    if put < 0:
        if linux.errno != EAGAIN and linux.errno != EINTR:
            return -linux.errno
        put = 0                              # also while the connection is being made
    return 1 if put == got else hold(to, r.buf + put, <size_t>(got - put))


cdef int rearm(relay_t *r, side_t *side) noexcept nogil:
    """Have the kernel report a state that it has reported before."""
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.ptr = side
    return -linux.errno if epoll_ctl(r.epfd, EPOLL_CTL_MOD, side.fd, &event) < 0 else 0


cdef int pump(relay_t *r, side_t *source, side_t *to) noexcept nogil:
    """Move what can be moved from `source` to `to`. -> 0 or a negative errno: the connection is broken."""
    cdef int rounds = 0, rc
    while True:
        rc = write_held(to)
        if rc <= 0:
            return rc                        # EPOLLOUT of `to` goes on
        if not source.readable or source.ended:
            break
        if rounds == ROUNDS:
            return rearm(r, source)
        rounds += 1
        rc = copy_some(r, source, to)
        if rc < 0:
            return rc
    # A shutdown before the connection is made would abort it; EPOLLOUT comes once it is.
    if source.ended and not to.shut and to.connected:
        to.shut = 1
        if shutdown(to.fd, SHUT_WR) < 0:
            return -linux.errno
    return 0


cdef void on_side(relay_t *r, side_t *side, uint32_t bits) noexcept nogil:
    cdef pair_t *pair = side.pair
    if pair.dead:
        return
    if bits & EPOLLERR and side.ended:       # otherwise recv finds it, behind the data that came before
        hang_up(r, pair, True)
        return
    if bits & EPOLLOUT and bits & EPOLLERR == 0:
        side.connected = 1
    if bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        side.readable = 1
    if pump(r, side, side.peer) < 0 or pump(r, side.peer, side) < 0:
        hang_up(r, pair, True)
    elif pair.client.shut and pair.server.shut:
        hang_up(r, pair, False)


cdef int add(relay_t *r, side_t *side) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.ptr = side
    return epoll_ctl(r.epfd, EPOLL_CTL_ADD, side.fd, &event)


cdef int dial(relay_t *r, const sockaddr_in *target) noexcept nogil:
    """Begin to connect -> a descriptor or a negative errno."""
    cdef int on = 1, rc
    cdef int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -linux.errno
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(int))
    if ((r.mark and setsockopt(fd, SOL_SOCKET, SO_MARK, &r.mark, sizeof(int)) < 0)
            or (connect(fd, <sockaddr *>target, sizeof(sockaddr_in)) < 0 and linux.errno != EINPROGRESS)):
        rc = -linux.errno
        linux.close(fd)
        return rc
    return fd


cdef int open_pair(relay_t *r, route_t *route, int client) noexcept nogil:
    """Take over an accepted socket. -> 0, also when its target cannot be reached, or -ENOMEM."""
    cdef int on = 1
    cdef pair_t *pair = <pair_t *>calloc(1, sizeof(pair_t))
    if pair is NULL:
        linux.close(client)
        return -ENOMEM
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(int))
    pair.client.pair = pair.server.pair = pair
    pair.client.peer = &pair.server
    pair.server.peer = &pair.client
    pair.client.fd = client
    pair.client.connected = 1
    pair.server.fd = dial(r, &route.target)
    pair.prev = r.open.prev
    pair.next = &r.open
    pair.prev.next = r.open.prev = pair
    r.pairs += 1
    if pair.server.fd < 0 or add(r, &pair.client) < 0 or add(r, &pair.server) < 0:
        hang_up(r, pair, True)
    return 0


cdef int accept_some(relay_t *r, route_t *route) noexcept nogil:
    """-> 0 or a negative errno: the relay cannot go on."""
    cdef int fd, rc, n = 0
    while route.ready and n < ACCEPTS and r.pairs < r.pairs_max:
        n += 1
        fd = accept4(route.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            rc = open_pair(r, route, fd)
            if rc < 0:
                return rc
        elif linux.errno == EAGAIN:
            route.ready = False
        elif linux.errno != EINTR and linux.errno != ECONNABORTED:
            return -linux.errno
    return 0


cdef int loop(relay_t *r) noexcept nogil:
    """Until SIGINT or SIGTERM -> 0, or a negative errno."""
    cdef epoll_event events[EVENTS_MAX]
    cdef void *owner
    cdef void *routes_end = &r.routes[r.route_count]
    cdef int n, i, rc, wait
    while True:
        # No timeout: nothing here depends on time, and signals are events.
        wait = -1
        for i in range(r.route_count):
            rc = accept_some(r, &r.routes[i])
            if rc < 0:
                return rc
            if r.routes[i].ready and r.pairs < r.pairs_max:
                wait = 0
        bury(r)
        n = epoll_wait(r.epfd, events, EVENTS_MAX, wait)
        if n < 0 and linux.errno != EINTR:
            return -linux.errno
        for i in range(n):
            owner = events[i].data.ptr
            if owner is &r.signal_fd:
                return 0
            if <void *>r.routes <= owner < routes_end:
                (<route_t *>owner).ready = True
            else:
                on_side(r, <side_t *>owner, events[i].events)
        bury(r)


cdef int watch(relay_t *r, int fd, void *owner) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLET
    event.data.ptr = owner
    return epoll_ctl(r.epfd, EPOLL_CTL_ADD, fd, &event)


cdef int serve(relay_t *r) noexcept nogil:
    cdef sigset_t signals
    cdef int i
    sigemptyset(&signals)
    sigaddset(&signals, SIGTERM)
    sigaddset(&signals, SIGINT)
    r.epfd = epoll_create1(EPOLL_CLOEXEC)
    r.signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC)
    if r.epfd < 0 or r.signal_fd < 0 or watch(r, r.signal_fd, &r.signal_fd) < 0:
        return -linux.errno
    for i in range(r.route_count):
        if watch(r, r.routes[i].fd, &r.routes[i]) < 0:
            return -linux.errno
    return loop(r)


cdef void relay_free(relay_t *r) noexcept nogil:
    cdef pair_t *pair = r.open.next
    cdef pair_t *after
    while pair is not &r.open:
        after = pair.next
        hang_up(r, pair, True)
        pair = after
    bury(r)
    if r.epfd >= 0:
        linux.close(r.epfd)
    if r.signal_fd >= 0:
        linux.close(r.signal_fd)
    free(r.routes)
    free(r.buf)
    free(r)


cdef relay_t *relay_new(routes, uint32_t pairs_max, int mark) except NULL:
    """`routes`: pairs of a listening socket and (IPv4 address, port)."""
    cdef relay_t *r = <relay_t *>calloc(1, sizeof(relay_t))
    cdef route_t *route
    if r is NULL:
        raise MemoryError
    r.epfd = r.signal_fd = -1
    r.mark, r.pairs_max = mark, pairs_max
    r.open.prev = r.open.next = &r.open
    r.routes = <route_t *>calloc(len(routes), sizeof(route_t))
    r.buf = <char *>malloc(READ_BYTES)
    if r.routes is NULL or r.buf is NULL:
        relay_free(r)
        raise MemoryError
    for listener, (host, port) in routes:
        route = &r.routes[r.route_count]
        route.fd = listener.fileno()
        route.target.sin_family = AF_INET
        route.target.sin_port = htons(port)
        inet_pton(AF_INET, host.encode(), &route.target.sin_addr)
        r.route_count += 1
    return r


cdef check(routes, int mark):
    """Raises ConfigError or BenchError."""
    import _socket

    from bench.errors import BenchError
    from meshcore.errors import ConfigError

    cdef in_addr address
    if not routes:
        raise ConfigError("no route is given")
    for listener, (host, port) in routes:
        if inet_pton(AF_INET, host.encode(), &address) != 1 or not 0 < port < 65536:
            raise ConfigError(f"target {host}:{port} is not an IPv4 address and port")
        listener.setblocking(False)
    if mark:
        probe = _socket.socket(AF_INET, SOCK_STREAM)
        try:
            probe.setsockopt(SOL_SOCKET, SO_MARK, mark)
        except OSError as error:
            what = "sockets cannot be marked, which needs CAP_NET_ADMIN or CAP_NET_RAW"
            raise BenchError(f"{what}: {error.strerror}") from None
        finally:
            probe.close()


def run(routes, int mark=0):
    """See the stub."""
    import _signal
    import os
    import resource

    from bench.errors import BenchError

    cdef relay_t *r
    cdef int rc
    routes = list(routes)
    check(routes, mark)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pairs_max = (hard - SPARE_FDS - len(routes)) // 2 if hard != resource.RLIM_INFINITY else PAIRS_MAX
    blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT, _signal.SIGTERM))
    try:
        r = relay_new(routes, min(pairs_max, PAIRS_MAX), mark)
        with nogil:
            rc = serve(r)
            relay_free(r)
    finally:
        # The signal is still pending: it now does what it does to any Python program.
        _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)
    if rc < 0:
        raise BenchError(f"the relay cannot go on: {os.strerror(-rc)}")
