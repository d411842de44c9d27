"""The worker: one nogil epoll loop over everything in ztunnel/_*.pyx.

The process that runs it is forked from a zygote that has imported nothing but the extension modules. The loop
is entered once and left when the control process says so; no Python object is touched in between.
"""

cimport cython
from libc.stdlib cimport calloc, free, malloc

from meshcore cimport linux
from meshcore.flowtable cimport link_del, link_init
from meshcore.h2out cimport h2_credit
from meshcore.linux cimport *
from meshcore.pool cimport pool_tight
from meshcore.records cimport *
from meshcore.wheel cimport wheel_init, wheel_run, wheel_wait
from ztunnel._control cimport control_close, control_drain_check, control_event, control_open, control_signal
from ztunnel._decide cimport decide_again, decide_report_evicted
from ztunnel._flow cimport (flow_event, flow_fail, flow_far_event, flow_ready, flows_run, spans_flush, stream_data,
                            stream_reset)
from ztunnel._inbound cimport inbound_field, inbound_headers, inbound_proceed, inbound_stream
from ztunnel._outbound cimport (outbound_field, outbound_headers, outbound_proceed, outbound_retry,
                                outbound_tunnel_open)
from ztunnel._pods cimport pods_event, pods_free_graves, pods_keepalive
from ztunnel._tunnel cimport tunnel_event, tunnel_mark, tunnel_read, tunnels_flush
from ztunnel._types cimport *

cdef enum:
    TIGHT_WAIT_MS = 10           # pause between tries while the buffer pool is at its bound


cdef void proceed(worker_t *w, flow_t *flow) noexcept nogil:
    if flow.direction == DIR_OUTBOUND:
        outbound_proceed(w, flow)
    else:
        inbound_proceed(w, flow)


cdef void stream_field(worker_t *w, flow_t *flow, const char *name, size_t name_len, const char *value,
                       size_t value_len) noexcept nogil:
    if flow.direction == DIR_OUTBOUND:
        outbound_field(w, flow, name, name_len, value, value_len)
    else:
        inbound_field(w, flow, name, name_len, value, value_len)


cdef void stream_headers(worker_t *w, flow_t *flow, bint end) noexcept nogil:
    if flow.direction == DIR_OUTBOUND:
        outbound_headers(w, flow, end)
    else:
        inbound_headers(w, flow, end)


cdef worker_ops OPS
OPS.on_event[EV_CONTROL] = control_event
OPS.on_event[EV_SIGNAL] = control_signal
OPS.on_event[EV_ALARM] = on_alarm
OPS.on_event[EV_LISTENER] = pods_event
OPS.on_event[EV_TUNNEL] = tunnel_event
OPS.on_event[EV_APP] = flow_event
OPS.on_event[EV_FAR] = flow_far_event
OPS.proceed = proceed
OPS.stream_new = inbound_stream
OPS.stream_field = stream_field
OPS.stream_headers = stream_headers
OPS.stream_data = stream_data
OPS.stream_reset = stream_reset
OPS.stream_retry = outbound_retry
OPS.flow_ready = flow_ready
OPS.tunnel_open = outbound_tunnel_open
OPS.flow_fail = flow_fail
OPS.spans_flush = spans_flush
OPS.decide_again = decide_again
OPS.keepalive = pods_keepalive


cdef void read_clock(worker_t *w) noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    w.now_ms = <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000
    w.page[PC_CLOCK_MS] = w.now_ms


cdef void release_credit(worker_t *w) noexcept nogil:
    """The pool has room again: connections whose credit was held back get it, and blocked flows go on."""
    cdef pod_t *pod
    cdef link_t *link
    cdef tunnel_t *tunnel
    cdef int i
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            link = pod.tunnels.next
            while link is not &pod.tunnels:
                tunnel = tunnel_of_pod(link)
                link = link.next
                if tunnel.state == T_OPEN and tunnel.h2.hold_credit:
                    tunnel.h2.hold_credit = False
                    h2_credit(&tunnel.h2, 0)
                if tunnel.blocked.next is not &tunnel.blocked:
                    tunnel_mark(w, tunnel)           # tunnels_flush wakes its flows
            pod = pod.chain


cdef void run_ready(worker_t *w) noexcept nogil:
    """What was cut short last turn: streams first in, first out, then connections with more to read."""
    cdef link_t round
    cdef tunnel_t *tunnel
    flows_run(w)
    if w.ready_tunnels.next is &w.ready_tunnels or w.pool.out >= 2 * w.pool.limit:
        return
    round = w.ready_tunnels
    round.next.prev = &round
    round.prev.next = &round
    link_init(&w.ready_tunnels)
    while round.next is not &round:
        tunnel = tunnel_of_ready(round.next)
        link_del(&tunnel.ready_link)
        if tunnel.broken is NULL:
            tunnel_read(w, tunnel)


cdef void dispatch(worker_t *w, epoll_event *events, int count) noexcept nogil:
    cdef ev_t *ev
    cdef uint32_t bits
    cdef uint8_t ready
    cdef int i
    for i in range(count):
        ev = <ev_t *>events[i].data.ptr
        if ev.kind == EV_DEAD:
            continue
        bits = events[i].events
        ready = 0
        if bits & EPOLLIN:
            ready |= R_IN
        if bits & EPOLLOUT:
            ready |= R_OUT
        if bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            ready |= R_HUP | R_IN
        if bits & EPOLLERR:
            ready |= R_OUT | R_ERR
        ev.ready |= ready
        w.ops.on_event[ev.kind](w, ev, ready)


cdef void on_alarm(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil:
    cdef uint64_t rings = 0
    w.page[PC_READ] += 1
    linux.read(w.alarm_ev.fd, &rings, sizeof(rings))
    w.alarm_ms = 0


cdef int open_alarm(worker_t *w) noexcept nogil:
    """A timerfd that stays set over many waits. A timeout of epoll_wait would start and cancel a kernel timer at every
    sleep, which costs more than the rest of the wait on a virtual machine."""
    cdef epoll_event event
    w.alarm_ev.kind = EV_ALARM
    w.alarm_ev.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    event.events = EPOLLIN
    event.data.ptr = &w.alarm_ev
    if w.alarm_ev.fd < 0 or epoll_ctl(w.epfd, EPOLL_CTL_ADD, w.alarm_ev.fd, &event) < 0:
        return -linux.errno
    return 0


cdef int set_alarm(worker_t *w) noexcept nogil:
    """-> timeout for epoll_wait: 0 when a timer is due, else -1, with the alarm set no later than the next timer."""
    cdef int wait = wheel_wait(&w.wheel, w.now_ms)
    cdef uint64_t due
    cdef itimerspec when
    if wait <= 0:
        return wait
    due = w.now_ms + <uint64_t>wait
    if w.alarm_ms and w.alarm_ms <= due:
        return -1
    w.alarm_ms = due
    when.it_interval.tv_sec = when.it_interval.tv_nsec = 0
    when.it_value.tv_sec = <long>(due // 1000)
    when.it_value.tv_nsec = <long>(due % 1000) * 1000000
    w.page[PC_TIMER] += 1
    timerfd_settime(w.alarm_ev.fd, TFD_TIMER_ABSTIME, &when, NULL)
    return -1


cdef int loop(worker_t *w) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int n, wait
    while not w.stop:
        wait = set_alarm(w)
        if w.ready.next is not &w.ready:
            wait = 0
        elif w.ready_tunnels.next is not &w.ready_tunnels:
            wait = TIGHT_WAIT_MS if w.pool.out >= 2 * w.pool.limit else 0
        w.page[PC_EPOLL_WAIT] += 1
        n = epoll_wait(w.epfd, events, EVENTS_MAX, wait)
        if n < 0:
            if linux.errno != EINTR:
                return -linux.errno
            n = 0
        read_clock(w)
        w.page[PC_LOOP_TURNS] += 1
        dispatch(w, events, n)
        wheel_run(&w.wheel, w.now_ms)
        run_ready(w)
        tunnels_flush(w)
        if w.tight and not pool_tight(&w.pool):
            release_credit(w)
            tunnels_flush(w)
        w.tight = pool_tight(&w.pool)
        pods_free_graves(w)
        decide_report_evicted(w)
        w.page[PC_FLOW_ENTRIES] = w.table.count
        if w.draining:
            control_drain_check(w)
    return -EPROTO if w.failed else 0


@cython.final
cdef class Worker:
    """One data-path process. `control_fd` and `page_fd` are taken over.

    `control_fd` is a SOCK_SEQPACKET socket to the control process (records of meshcore/records.pxd), `page_fd` a
    memfd of PAGE_BYTES + SLOT_MAX * SLOT_BYTES, shared with it and kept over a respawn.
    """

    cdef worker_t *w
    cdef int page_fd

    def __cinit__(self, int control_fd, int page_fd, int index):
        cdef worker_t *w = <worker_t *>calloc(1, sizeof(worker_t))
        cdef void *page
        cdef int i
        if w is NULL:
            raise MemoryError
        self.w = w
        self.page_fd = page_fd
        w.control = control_fd
        w.index = index
        w.netns = -1
        w.ops = &OPS
        page = mmap(NULL, PAGE_BYTES + <size_t>SLOT_MAX * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0)
        if page is MAP_FAILED:
            raise OSError(linux.errno, "shared counters cannot be mapped")
        w.page = <uint64_t *>page
        w.slots = <uint8_t *>page + PAGE_BYTES
        w.plain = <uint8_t *>malloc(PLAIN_BYTES)
        w.cipher_in = <uint8_t *>malloc(CIPHER_IN)
        w.cipher_out = <uint8_t *>malloc(CIPHER_OUT)
        w.record = <uint8_t *>malloc(RECORD_MAX)
        w.log = <char *>malloc(LOG_BYTES)
        if (w.plain is NULL or w.cipher_in is NULL or w.cipher_out is NULL or w.record is NULL or w.log is NULL
                or getrandom(&w.random, sizeof(w.random), 0) != sizeof(w.random)):
            raise MemoryError
        w.random |= 1
        link_init(&w.ready)
        link_init(&w.ready_tunnels)
        link_init(&w.dirty)
        for i in range(CHAINS):
            link_init(&w.client_pool[i])

    def __dealloc__(self):
        cdef worker_t *w = self.w
        if w is NULL:
            return
        free(w.plain)
        free(w.cipher_in)
        free(w.cipher_out)
        free(w.record)
        free(w.log)
        if w.page is not NULL:
            munmap(w.page, PAGE_BYTES + <size_t>SLOT_MAX * SLOT_BYTES)
        free(w)

    def run(self):
        """Serve until REC_STOP. -> 0, or a negative errno: -EPROTO when the control process is not understood."""
        cdef worker_t *w = self.w
        cdef int rc, cell
        with nogil:
            # A predecessor's gauges are not ours; its counts are.
            for cell in range(PC_FLOWS_OPEN, PC_FLOW_ENTRIES + 1):
                if cell != PC_BUFFERS_HIGH:
                    w.page[cell] = 0
            w.page[PC_PID] = <uint64_t>getpid()
            read_clock(w)
            wheel_init(&w.wheel, w.now_ms)
            w.epfd = epoll_create1(EPOLL_CLOEXEC)
            rc = -linux.errno if w.epfd < 0 else open_alarm(w)
            if rc == 0:
                rc = control_open(w)
            if rc == 0:
                rc = loop(w)
            control_close(w)
            if w.alarm_ev.fd > 0:
                linux.close(w.alarm_ev.fd)
            if w.epfd >= 0:
                linux.close(w.epfd)
        return rc


def record_layout():
    """Sizes and offsets of the records as the compiler sees them, for the test that holds records.py equal."""
    cdef rec_verdict verdict
    cdef rec_upcall upcall
    cdef rec_dump_flow flow
    return {
        "HEAD": sizeof(rec_head), "CONFIG": sizeof(rec_config), "POD_ADD": sizeof(rec_pod_add),
        "POD": sizeof(rec_pod), "CERT": sizeof(rec_cert), "BUNDLE": sizeof(rec_bundle), "LABEL": sizeof(rec_label),
        "SANS": sizeof(rec_sans), "ENDPOINT": sizeof(rec_endpoint), "VERDICT": sizeof(rec_verdict),
        "FLUSH": sizeof(rec_flush), "ENDPOINT_GONE": sizeof(rec_endpoint_gone), "DRAIN": sizeof(rec_drain),
        "HELLO": sizeof(rec_hello), "UPCALL": sizeof(rec_upcall), "DUMP_FLOW": sizeof(rec_dump_flow),
        "VERDICT.action": <char *>&verdict.action - <char *>&verdict,
        "VERDICT.reason_len": <char *>&verdict.reason_len - <char *>&verdict,
        "UPCALL.direction": <char *>&upcall.direction - <char *>&upcall,
        "UPCALL.baggage_len": <char *>&upcall.baggage_len - <char *>&upcall,
        "DUMP_FLOW.bytes_sent": <char *>&flow.bytes_sent - <char *>&flow,
        "flow": sizeof(flow_t), "tunnel": sizeof(tunnel_t),
    }
