"""An HTTP/1.1 load: one nogil epoll loop, no Python object and no allocation in it.

Open loop: request k is due at start + k / rate, whatever the answers do, and its latency counts from then. One that
finds every connection busy waits for the next free one; since all are alike and taken in order, the queue is a number.
Closed loop (rate 0): a connection sends its next request when the last was answered.
"""

from libc.signal cimport SIGINT
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_THREAD_CPUTIME_ID

from bench.answer import VERDICT_NAMES as _VERDICTS

from bench.answer cimport HEAD_MAX, V_CLOSED, V_CONNECT, V_DONE, V_LENGTH, V_MORE, V_TIMEOUT, VERDICTS, answer_t
from bench.answer cimport answer_take
from bench._histogram cimport HIST_BUCKETS, hist_add, hist_middle, hist_t
from meshcore cimport linux
from meshcore.linux cimport *

cdef enum:
    PATH_MAX = 4096              # so that the request fits where HEAD_MAX bytes do
    READ_BYTES = 65536           # bytes asked of one recv
    EVENTS_MAX = 64              # events of one epoll_wait
    CONNECTIONS_MAX = 60000      # local ports towards one address are 64 K at most
    SPARE_FDS = 64               # descriptors of the process besides the connections
    CONNECT_MS_MAX = 60000       # for each of the first connections, however long the timeout of a request
    S_FREE = 0                   # waits for a request; may have no connection yet
    S_BUSY = 1
    S_CLOSING = 2                # answered; the server has still to close
    S_RESTING = 3                # closed loop, connect failed

cdef int64_t SECOND = 1000000000             # ns
cdef int64_t GRACE_NS = 5 * SECOND           # after the last request was due: what is in flight may still end
cdef int64_t LINGER_NS = SECOND              # for the server to close, so that TIME_WAIT is its own
cdef int64_t REST_NS = 10000000              # closed loop: pause after a failed connect, lest refusals fill a core
cdef double RATE_MAX = 1e6                   # requests/s; more than a core can send
cdef double SECONDS_MAX = 86400.0

_PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))


cdef struct slot_t:              # one connection at a time; in exactly one of the lists of gen_t
    slot_t *prev
    slot_t *next
    int64_t began                # ns; latency counts from here
    int64_t deadline             # ns; ascending in each list but `free`
    answer_t answer
    uint32_t out                 # bytes of the request still to be sent
    int fd                       # -1: no connection
    uint8_t state
    uint8_t connected
    uint8_t counted              # 0: a request of the warm-up


cdef struct gen_t:
    slot_t *slots
    char *heads
    char *buf                    # READ_BYTES
    const char *request
    uint32_t request_len
    uint32_t connections
    sockaddr_in address
    int epfd
    int alarm_fd                 # timerfd: unlike a timeout of epoll it has no slack, and is not set twice per request
    int signal_fd
    bint fresh
    bint reached                 # some connection was made
    int fatal                    # errno: the very first one was not
    bint signalled
    int64_t now                  # ns, CLOCK_MONOTONIC; read anew for everything that is measured
    int64_t alarm                # ns; when the timer goes off, 0: not set
    int64_t start
    int64_t measured             # end of the warm-up
    int64_t stop
    int64_t end
    int64_t timeout
    int64_t last_done
    int64_t free_since           # when `free` was last empty before
    int64_t cpu_began
    int64_t cpu_ns
    double interval              # ns between two requests; 0: closed loop
    int64_t started              # requests begun, those of the warm-up included
    int64_t warm                 # open loop: requests of the warm-up
    int64_t total                # open loop: all requests
    int64_t body_bytes
    uint64_t opened
    uint64_t waited
    uint64_t unclosed
    uint64_t errors[VERDICTS]
    hist_t latency
    hist_t lag
    slot_t free                  # heads of the lists
    slot_t busy
    slot_t closing
    slot_t resting


cdef int64_t clock_ns(int clock) noexcept nogil:
    cdef timespec value
    clock_gettime(clock, &value)
    return value.tv_sec * SECOND + value.tv_nsec


# Lists and connections

cdef void list_init(slot_t *head) noexcept nogil:
    head.prev = head.next = head


cdef slot_t *first(slot_t *head) noexcept nogil:
    """-> NULL when the list is empty. The one way to look at a head: where a loop reads the same head both as a member
    of gen_t and through a pointer, gcc 12 takes the former for a constant (-ftree-loop-im)."""
    return NULL if head.next is head else head.next


cdef void move(slot_t *slot, slot_t *head, uint8_t state) noexcept nogil:
    """To the end of another list."""
    slot.prev.next = slot.next
    slot.next.prev = slot.prev
    slot.prev = head.prev
    slot.next = head
    slot.prev.next = head.prev = slot
    slot.state = state


cdef void hang_up(slot_t *slot) noexcept nogil:
    if slot.fd >= 0:
        linux.close(slot.fd)                 # the kernel takes it out of the epoll set
        slot.fd = -1


cdef void give_back(gen_t *g, slot_t *slot) noexcept nogil:
    if first(&g.free) is NULL:
        g.free_since = g.now
    move(slot, &g.free, S_FREE)


cdef void fail(gen_t *g, slot_t *slot, int verdict, int error) noexcept nogil:
    """The request of `slot` has failed, and its connection is of no more use."""
    if slot.counted:
        g.errors[verdict] += 1
    hang_up(slot)
    if verdict == V_CONNECT and not g.reached:
        g.fatal = error
    if verdict == V_CONNECT and g.interval == 0:
        slot.deadline = g.now + REST_NS
        move(slot, &g.resting, S_RESTING)
    else:
        give_back(g, slot)


cdef void done(gen_t *g, slot_t *slot) noexcept nogil:
    g.now = clock_ns(CLOCK_MONOTONIC)
    if slot.counted:
        hist_add(&g.latency, g.now - slot.began)
        g.last_done = g.now
    if g.fresh:
        slot.deadline = g.now + LINGER_NS
        move(slot, &g.closing, S_CLOSING)
        return
    if slot.answer.last or slot.out:                # no second request can follow
        hang_up(slot)
    give_back(g, slot)


cdef int dial(gen_t *g, slot_t *slot) noexcept nogil:
    """Begin to connect -> 0 or a negative errno."""
    cdef epoll_event event
    cdef int on = 1, rc
    cdef int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -linux.errno
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(int))
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.ptr = slot
    if ((connect(fd, <sockaddr *>&g.address, sizeof(sockaddr_in)) < 0 and linux.errno != EINPROGRESS)
            or epoll_ctl(g.epfd, EPOLL_CTL_ADD, fd, &event) < 0):
        rc = -linux.errno
        linux.close(fd)
        return rc
    slot.fd = fd
    slot.connected = 0
    g.opened += 1
    return 0


cdef void push(gen_t *g, slot_t *slot) noexcept nogil:
    """Send what is left of the request. While the connection is being made the kernel says EAGAIN."""
    cdef ssize_t n
    while slot.out:
        n = send(slot.fd, g.request + (g.request_len - slot.out), slot.out, MSG_NOSIGNAL)
        if n < 0:
            if linux.errno == EINTR:
                continue
            if linux.errno != EAGAIN:
                fail(g, slot, V_CLOSED if slot.connected else V_CONNECT, linux.errno)
            return
        slot.connected = 1
        g.reached = True
        slot.out -= <uint32_t>n


cdef void begin(gen_t *g, slot_t *slot, int64_t began, bint counted) noexcept nogil:
    """Give `slot` its next request; latency counts from `began`."""
    cdef int rc
    if counted and g.cpu_began == 0:
        g.cpu_began = clock_ns(CLOCK_THREAD_CPUTIME_ID)
    g.started += 1
    slot.began = began
    slot.counted = counted
    slot.deadline = g.now + g.timeout
    slot.answer.body = -1
    slot.answer.head_len = 0
    slot.answer.last = 0
    slot.out = g.request_len
    move(slot, &g.busy, S_BUSY)
    if slot.fd < 0:
        rc = dial(g, slot)
        if rc < 0:
            fail(g, slot, V_CONNECT, -rc)
            return
    push(g, slot)


# The loop

cdef int64_t next_due(gen_t *g) noexcept nogil:
    return g.start + <int64_t>(<double>g.started * g.interval)


cdef void start_requests(gen_t *g) noexcept nogil:
    """Begin whatever is due and finds a free connection."""
    cdef slot_t *slot
    cdef int64_t due
    while True:
        slot = first(&g.free)
        if slot is NULL:
            return
        if g.interval == 0:
            g.now = clock_ns(CLOCK_MONOTONIC)
            if g.now >= g.stop:
                return
            begin(g, slot, g.now, g.now >= g.measured)
            continue
        if g.started == g.total:
            return
        due = next_due(g)
        if due > g.now:
            return
        g.now = clock_ns(CLOCK_MONOTONIC)
        if g.started >= g.warm:
            # Only what had a free connection when it was due says how late we are ourselves.
            if due >= g.free_since:
                hist_add(&g.lag, g.now - due)
            else:
                g.waited += 1
        begin(g, slot, due, g.started >= g.warm)


cdef void lost(gen_t *g, slot_t *slot, int error) noexcept nogil:
    """The server has closed, or the connection is broken."""
    if slot.state == S_BUSY:
        fail(g, slot, V_CLOSED if slot.connected else V_CONNECT, error)
        return
    hang_up(slot)                            # an idle one: the next request makes another
    if slot.state == S_CLOSING:
        give_back(g, slot)


cdef void on_slot(gen_t *g, slot_t *slot, uint32_t bits) noexcept nogil:
    """Edge-triggered. An event may be of the connection before: only what the calls say counts, `bits` are hints."""
    cdef bint ended = (bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0
    cdef ssize_t n
    cdef int verdict
    if slot.fd >= 0 and slot.state == S_BUSY:
        push(g, slot)
    if not ended and bits & EPOLLIN == 0:
        return
    while slot.fd >= 0:
        n = recv(slot.fd, g.buf, READ_BYTES, 0)
        if n < 0 and linux.errno == EINTR:
            continue
        if n < 0 and linux.errno == EAGAIN:
            return
        if n <= 0:
            lost(g, slot, linux.errno if n < 0 else ECONNRESET)
            return
        if slot.state != S_BUSY:             # bytes that nobody asked for
            g.errors[V_LENGTH] += 1
            lost(g, slot, 0)
            return
        verdict = answer_take(&slot.answer, g.buf, <size_t>n, g.body_bytes)
        if verdict == V_DONE:
            done(g, slot)
        elif verdict != V_MORE:
            fail(g, slot, verdict, 0)
        if n < READ_BYTES and not ended:     # all there is; more is a new edge
            return


cdef slot_t *overdue(gen_t *g, slot_t *head) noexcept nogil:
    """-> the first of the list if its time has come, or NULL."""
    cdef slot_t *slot = first(head)
    return slot if slot is not NULL and slot.deadline <= g.now else NULL


cdef void expire(gen_t *g) noexcept nogil:
    cdef slot_t *slot = overdue(g, &g.busy)
    while slot is not NULL:
        fail(g, slot, V_TIMEOUT if slot.connected else V_CONNECT, ETIMEDOUT)
        slot = overdue(g, &g.busy)
    slot = overdue(g, &g.closing)
    while slot is not NULL:
        g.unclosed += 1
        hang_up(slot)
        give_back(g, slot)
        slot = overdue(g, &g.closing)
    slot = overdue(g, &g.resting)
    while slot is not NULL:
        give_back(g, slot)
        slot = overdue(g, &g.resting)


cdef int64_t earliest(slot_t *head, int64_t when) noexcept nogil:
    cdef slot_t *slot = first(head)
    return when if slot is NULL else min(when, slot.deadline)


cdef int set_alarm(gen_t *g) noexcept nogil:
    """Wake for the next thing that is not an event of a socket. -> 0 or a negative errno."""
    cdef itimerspec value
    cdef int64_t when = earliest(&g.resting, earliest(&g.closing, earliest(&g.busy, g.end)))
    if g.interval > 0 and g.started < g.total and first(&g.free) is not NULL:
        when = min(when, next_due(g))
    if g.alarm and g.alarm <= when:
        return 0
    g.alarm = when
    memset(&value, 0, sizeof(value))
    value.it_value.tv_sec = when // SECOND
    value.it_value.tv_nsec = when % SECOND
    return -linux.errno if timerfd_settime(g.alarm_fd, TFD_TIMER_ABSTIME, &value, NULL) < 0 else 0


cdef bint finished(gen_t *g) noexcept nogil:
    if g.now >= g.end:
        return True
    if first(&g.busy) is not NULL:
        return False
    return g.now >= g.stop if g.interval == 0 else g.started == g.total


cdef void give_up(gen_t *g) noexcept nogil:
    """What was in flight or still waiting at the end."""
    cdef slot_t *slot
    cdef uint32_t i
    for i in range(g.connections):
        slot = &g.slots[i]
        if slot.state == S_BUSY and slot.counted:
            g.errors[V_TIMEOUT if slot.connected else V_CONNECT] += 1
    if g.interval > 0:
        g.errors[V_TIMEOUT] += <uint64_t>(g.total - max(g.started, g.warm))


cdef int loop(gen_t *g) noexcept nogil:
    """-> 0 or a negative errno."""
    cdef epoll_event events[EVENTS_MAX]
    cdef void *owner
    cdef int n, i, rc
    while True:
        g.now = clock_ns(CLOCK_MONOTONIC)
        expire(g)
        start_requests(g)
        if g.fatal or finished(g):
            give_up(g)
            return -g.fatal
        rc = set_alarm(g)
        if rc < 0:
            return rc
        # No timeout: the alarm is never later than the end of the run.
        n = epoll_wait(g.epfd, events, EVENTS_MAX, -1)
        if n < 0 and linux.errno != EINTR:
            return -linux.errno
        g.now = clock_ns(CLOCK_MONOTONIC)
        for i in range(n):
            owner = events[i].data.ptr
            if owner is &g.alarm_fd:
                g.alarm = 0
            elif owner is &g.signal_fd:
                g.signalled = True
                return 0
            else:
                on_slot(g, <slot_t *>owner, events[i].events)
            # Here as well, so that a request that is due does not wait for the whole batch.
            start_requests(g)


cdef int watch(gen_t *g, int fd, void *owner, uint32_t edge) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | edge
    event.data.ptr = owner
    return epoll_ctl(g.epfd, EPOLL_CTL_ADD, fd, &event)


cdef int open_own(gen_t *g) noexcept nogil:
    """Descriptors of the loop itself; SIGINT and SIGTERM are blocked and come as events. -> 0 or a negative errno."""
    cdef sigset_t signals
    sigemptyset(&signals)
    sigaddset(&signals, SIGTERM)
    sigaddset(&signals, SIGINT)
    g.epfd = epoll_create1(EPOLL_CLOEXEC)
    g.alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    g.signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC)
    # Edge-triggered: the alarm is never read, setting it anew clears it.
    if (g.epfd < 0 or g.alarm_fd < 0 or g.signal_fd < 0 or watch(g, g.alarm_fd, &g.alarm_fd, EPOLLET) < 0
            or watch(g, g.signal_fd, &g.signal_fd, 0) < 0):
        return -linux.errno
    return 0


cdef int open_connection(gen_t *g, slot_t *slot) noexcept nogil:
    """Connect and wait until that is done. -> 0 or a negative errno."""
    cdef pollfd fds[2]
    cdef int error = 0, rc = dial(g, slot)
    cdef socklen_t size = sizeof(int)
    if rc < 0:
        return rc
    fds[0].fd = slot.fd
    fds[0].events = POLLOUT
    fds[1].fd = g.signal_fd
    fds[1].events = POLLIN
    rc = poll(fds, 2, <int>min(g.timeout // 1000000, CONNECT_MS_MAX))
    if rc < 0:
        return -linux.errno
    if rc == 0:
        return -ETIMEDOUT
    if fds[1].revents:
        g.signalled = True
        return 0
    if getsockopt(slot.fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0:
        return -linux.errno
    slot.connected = error == 0
    return -error


cdef int open_connections(gen_t *g) noexcept nogil:
    """Make all of them, one after the other, before the clock starts. -> 0 or a negative errno."""
    cdef uint32_t i
    cdef int rc
    for i in range(g.connections):
        rc = open_connection(g, &g.slots[i])
        if rc < 0:
            g.fatal = -rc
        if rc < 0 or g.signalled:
            return rc
    g.reached = True
    return 0


cdef int measure(gen_t *g, double warm_up, double seconds) noexcept nogil:
    """-> 0 or a negative errno."""
    cdef int rc = open_own(g)
    if rc == 0 and not g.fresh:
        rc = open_connections(g)
    if rc < 0 or g.signalled:
        return rc
    g.now = g.start = g.free_since = clock_ns(CLOCK_MONOTONIC)
    g.measured = g.start + <int64_t>(warm_up * SECOND)
    g.stop = g.measured + <int64_t>(seconds * SECOND)
    g.end = g.stop + GRACE_NS
    rc = loop(g)
    if g.cpu_began:
        g.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - g.cpu_began
    return rc


# What Python sees

cdef gen_t *gen_new(uint32_t connections) except NULL:
    cdef gen_t *g = <gen_t *>calloc(1, sizeof(gen_t))
    cdef slot_t *slot
    cdef uint32_t i
    if g is NULL:
        raise MemoryError
    g.epfd = g.alarm_fd = g.signal_fd = -1
    g.slots = <slot_t *>calloc(connections, sizeof(slot_t))
    g.heads = <char *>malloc(<size_t>connections * HEAD_MAX)
    g.buf = <char *>malloc(READ_BYTES)
    if g.slots is NULL or g.heads is NULL or g.buf is NULL:
        gen_free(g)
        raise MemoryError
    list_init(&g.free)
    list_init(&g.busy)
    list_init(&g.closing)
    list_init(&g.resting)
    for i in range(connections):
        slot = &g.slots[i]
        slot.fd = -1
        slot.answer.body = -1
        slot.answer.head = g.heads + <size_t>i * HEAD_MAX
        list_init(slot)
        move(slot, &g.free, S_FREE)
    g.connections = connections
    return g


cdef void gen_free(gen_t *g) noexcept:
    cdef uint32_t i
    for i in range(g.connections):
        hang_up(&g.slots[i])
    if g.epfd >= 0:
        linux.close(g.epfd)
    if g.alarm_fd >= 0:
        linux.close(g.alarm_fd)
    if g.signal_fd >= 0:
        linux.close(g.signal_fd)
    free(g.slots)
    free(g.heads)
    free(g.buf)
    free(g)


cdef double quantile(const hist_t *hist, double share) noexcept nogil:
    """Nearest rank, us."""
    cdef uint64_t seen = 0, rank = <uint64_t>(share * <double>hist.count)
    cdef uint32_t i
    if <double>rank < share * <double>hist.count or rank == 0:
        rank += 1
    for i in range(HIST_BUCKETS):
        seen += hist.buckets[i]
        if seen >= rank:
            return min(<double>hist_middle(i), <double>hist.max_ns) / 1000.0
    return 0.0                               # empty


cdef dict summary(const hist_t *hist):
    """us, and 0 where nothing was counted."""
    found = {key: round(quantile(hist, share), 3) for key, share in _PERCENTILES}
    found["max"] = hist.max_ns / 1000.0
    found["mean"] = round(hist.sum_ns / 1000.0 / hist.count, 3) if hist.count else 0.0
    return found


def summarize(values_ns):
    """What a report says of these durations (ns): p50, p90, p99, p999, max and mean, us. For the tests."""
    cdef gen_t *g = gen_new(1)
    cdef int64_t value
    try:
        for value in values_ns:
            hist_add(&g.latency, value)
        return summary(&g.latency)
    finally:
        gen_free(g)


cdef check(str host, int port, str path, double rate, int connections, double seconds, int64_t body_bytes,
           double warm_up, double timeout):
    """Raises ConfigError for what cannot be meant; a NaN fails every comparison."""
    from meshcore.errors import ConfigError

    cdef in_addr address
    if inet_pton(AF_INET, host.encode(), &address) != 1:
        raise ConfigError(f"host {host!r} is not an IPv4 address")
    if not 0 < port < 65536:
        raise ConfigError(f"port {port} is not between 1 and 65535")
    if not path.startswith("/") or len(path) > PATH_MAX or not path.isascii() or not path.isprintable() or " " in path:
        raise ConfigError(f"path {path[:80]!r} is not a /path of at most {PATH_MAX} printable characters, no blanks")
    if not 0 <= rate <= RATE_MAX:
        raise ConfigError(f"rate {rate:g} is not between 0 and {RATE_MAX:g} requests/s")
    if not 0 < connections <= CONNECTIONS_MAX:
        raise ConfigError(f"{connections} connections: between 1 and {CONNECTIONS_MAX} are possible")
    if not 0 < seconds <= SECONDS_MAX:
        raise ConfigError(f"{seconds:g} seconds: more than 0 and at most {SECONDS_MAX:g} are possible")
    if not 0 <= warm_up <= SECONDS_MAX:
        raise ConfigError(f"warm-up of {warm_up:g} seconds: between 0 and {SECONDS_MAX:g} are possible")
    if not 0 < timeout <= SECONDS_MAX:
        raise ConfigError(f"timeout of {timeout:g} seconds: more than 0 and at most {SECONDS_MAX:g} are possible")
    if body_bytes < 0:
        raise ConfigError(f"a body of {body_bytes} bytes is not possible")
    if rate and round(rate * seconds, 6) <= 0:
        raise ConfigError(f"no request is due within {seconds:g} s at {rate:g} requests/s")


cdef allow_descriptors(int count):
    import resource

    from bench.errors import BenchError

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise BenchError(f"{count} descriptors are needed and {hard} allowed: raise the limit (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def run(str host, int port, str path, *, double rate, int connections, double seconds, int64_t body_bytes,
        bint fresh=False, double warm_up=0.0, double timeout=5.0):
    """See the stub."""
    import _signal
    import math
    import os

    from bench.errors import BenchError

    cdef gen_t *g
    cdef bytes request
    cdef int rc
    check(host, port, path, rate, connections, seconds, body_bytes, warm_up, timeout)
    allow_descriptors(connections + SPARE_FDS)
    closing = "Connection: close\r\n" if fresh else ""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{closing}\r\n".encode()
    blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT, _signal.SIGTERM))
    try:
        g = gen_new(connections)
        try:
            g.address.sin_family = AF_INET
            g.address.sin_port = htons(port)
            inet_pton(AF_INET, host.encode(), &g.address.sin_addr)
            g.request, g.request_len = request, len(request)
            g.fresh, g.body_bytes, g.timeout = fresh, body_bytes, <int64_t>(timeout * SECOND)
            if rate:
                # The rounding is for 0.3 s at 1,000/s, which in binary is a little more than 300.
                g.interval = SECOND / rate
                g.warm = math.ceil(round(rate * warm_up, 6))
                g.total = g.warm + math.ceil(round(rate * seconds, 6))
            with nogil:
                rc = measure(g, warm_up, seconds)
            if rc < 0:
                what = "cannot be reached" if g.fatal else "the load generator failed"
                raise BenchError(f"{host}:{port}: {what}: {os.strerror(-rc)}")
            signalled = g.signalled
            result = {
                "requests": g.latency.count,
                "errors": {name: g.errors[i] for i, name in enumerate(_VERDICTS) if g.errors[i]},
                "seconds": max(seconds, (g.last_done - g.measured) / <double>SECOND),
                "latency_us": summary(&g.latency),
                "lag_us": summary(&g.lag),
                "connections": g.opened,
                "waited": g.waited,
                "unclosed": g.unclosed,
                "cpu_seconds": g.cpu_ns / <double>SECOND,
            }
        finally:
            gen_free(g)
    finally:
        # The signal is still pending: it now does what it does to any Python program.
        _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)
    if signalled:
        raise BenchError("the load was ended by a signal")
    return result
