"""Flows of the worker: life, and relaying between an application and a tunnel stream. No Python surface."""

from libc.errno cimport ECONNRESET, EPIPE, ETIMEDOUT
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from meshcore cimport linux
from meshcore.flowtable cimport (ENTRY_PENDING, flowtable_drop, flowtable_free_if_idle, link_add, link_del,
                                 link_init)
from meshcore.h2out cimport h2_consumed, h2_data_head, h2_headers, h2_remove, h2_reset
from meshcore.h2types cimport *
from meshcore.linux cimport (EAGAIN, EINTR, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, SHUT_WR, iovec, msghdr,
                             sendmsg)
from meshcore.nghttp2 cimport NGHTTP2_NV_FLAG_NONE, nghttp2_nv
from meshcore.pool cimport queue_append, queue_clear, queue_write
from meshcore.records cimport *
from meshcore.seeds cimport seed_leak
from meshcore.wheel cimport timer_clear, timer_set
from ztunnel._log cimport count_closed, count_opened, log_complete, slot_of
from ztunnel._relay cimport relay_close, relay_open, relay_pump
from ztunnel._sock cimport ev_add, ev_close, sock_dial, sock_error, sock_reset_on_close
from ztunnel._tunnel cimport (tunnel_congested, tunnel_mark, tunnel_room, tunnel_stream_gone, tunnel_wrote)
from ztunnel._types cimport *

cdef enum:
    FRAME_LEAST = 1024           # room below which a record is sealed rather than given a small frame
    IOV_MAX = 16
    KEEP_AFTER_MS = 5000         # age at which a dialled connection gets keepalive, at the latest


# === life ===

cdef flow_t *flow_new(worker_t *w, pod_t *pod, int direction) noexcept nogil:
    cdef flow_t *flow = <flow_t *>calloc(1, sizeof(flow_t))
    if flow is NULL:
        return NULL
    seed_leak()
    flow.setup = <setup_t *>calloc(1, sizeof(setup_t))
    if flow.setup is NULL:
        free(flow)
        return NULL
    flow.pod = pod
    flow.direction = <uint8_t>direction
    flow.app.fd = -1
    flow.opened_ms = w.now_ms
    link_add(&pod.flows, &flow.pod_link)
    pod.users += 1
    w.flows += 1
    w.page[PC_FLOWS_OPEN] += 1
    return flow


cdef void drop_setup(worker_t *w, flow_t *flow) noexcept nogil:
    if flow.setup is not NULL:
        timer_clear(&w.wheel, &flow.setup.timer)
        free(flow.setup)
        flow.setup = NULL


cdef void flow_attach(worker_t *w, flow_t *flow, entry_t *entry) noexcept nogil:
    flow_detach(w, flow)
    flow.entry = entry
    entry.users += 1
    link_add(&entry.flows, &flow.entry_link)


cdef void flow_detach(worker_t *w, flow_t *flow) noexcept nogil:
    cdef entry_t *entry = flow.entry
    if entry is NULL:
        return
    link_del(&flow.entry_link)
    entry.users -= 1
    flow.entry = NULL
    if entry.state == ENTRY_PENDING and entry.users == 0:
        # Nobody waits for the answer any more, which may never come: the next flow of the kind asks anew.
        flowtable_drop(&w.table, entry)
    else:
        flowtable_free_if_idle(entry)


cdef void flow_end(worker_t *w, flow_t *flow, const char *error) noexcept nogil:
    cdef tunnel_t *tunnel = flow.tunnel
    cdef uint8_t was = flow.state
    cdef uint32_t code = H2_CONNECT_ERROR if flow.bits & B_ABORT else H2_CANCEL
    if was == F_CLOSED:
        return
    flow.state = F_CLOSED
    drop_setup(w, flow)
    link_del(&flow.wait_link)
    link_del(&flow.pod_link)
    if tunnel is not NULL:
        if was == F_TUNNEL:
            tunnel.claimed -= 1
        elif flow.stream.id:
            if flow.stream.flags & S_LOCAL_END and flow.stream.flags & S_REMOTE_END:
                h2_remove(&tunnel.h2, &flow.stream)
            elif flow.stream.flags & S_LOCAL_END and tunnel.h2.server and not flow.bits & B_ABORT:
                h2_reset(&tunnel.h2, &flow.stream, H2_NO_ERROR)
            else:
                h2_reset(&tunnel.h2, &flow.stream, code)
        tunnel_stream_gone(w, tunnel)
    if flow.bits & B_ABORT and flow.app.fd >= 0:
        sock_reset_on_close(w, flow.app.fd)
    ev_close(w, &flow.app)
    relay_close(w, flow)
    queue_clear(&flow.to_app, &w.pool)
    count_closed(w, flow)
    log_complete(w, flow, error)
    flow_detach(w, flow)
    if flow.direction == DIR_INBOUND_HBONE:
        texts_release(flow.extra.texts)
        flow.extra.texts = NULL
    w.flows -= 1
    w.page[PC_FLOWS_OPEN] -= 1
    flow.wait_link.next = <link_t *>w.grave_flows
    w.grave_flows = flow


cdef int flow_answer(worker_t *w, flow_t *flow, int status, bint end) noexcept nogil:
    cdef nghttp2_nv fields[2]
    cdef char digits[3]
    cdef size_t count = 1
    digits[0] = <char>(c"0" + status // 100)
    digits[1] = <char>(c"0" + status // 10 % 10)
    digits[2] = <char>(c"0" + status % 10)
    fields[0] = nghttp2_nv(<uint8_t *><char *>b":status", <uint8_t *>digits, 7, 3, NGHTTP2_NV_FLAG_NONE)
    if status == 200 and flow.entry is not NULL and flow.entry.baggage_len:
        fields[1] = nghttp2_nv(<uint8_t *><char *>b"baggage", <uint8_t *>flow.entry.text, 7, flow.entry.baggage_len,
                               NGHTTP2_NV_FLAG_NONE)
        count = 2
    flow.stream.flags |= S_ANSWERED
    return h2_headers(&flow.tunnel.h2, &flow.stream, fields, count, end)


cdef void flow_refuse(worker_t *w, flow_t *flow, int status, int flag, const char *error) noexcept nogil:
    """End a flow that was never opened; an inbound CONNECT gets its status."""
    flow.flag = <uint8_t>flag
    if flow.direction == DIR_INBOUND_HBONE and flow.stream.id and not flow.stream.flags & S_ANSWERED:
        flow_answer(w, flow, status, True)
    flow_end(w, flow, error)


cdef void flow_fail(worker_t *w, flow_t *flow, int flag, const char *error) noexcept nogil:
    if flow.state == F_CLOSED:
        return
    if flow.state != F_OPEN:
        flow_refuse(w, flow, 503, flag, error)
        return
    # Cut in the middle: a reset, so that nobody takes the end of the bytes for the end of the message.
    flow.flag = <uint8_t>flag
    flow.bits |= B_ABORT
    flow_end(w, flow, error)


cdef void flow_timeout(void *owner) noexcept nogil:
    cdef flow_t *flow = <flow_t *>owner
    cdef worker_t *w = flow.pod.w
    if flow.state == F_DIALLING:
        w.page[PC_CONNECT_TIMEOUT] += 1
        flow_fail(w, flow, FLAG_CONNECT, b"timed out connecting to the destination")
    elif flow.state == F_REQUESTED:
        w.page[PC_RESPONSE_TIMEOUT] += 1
        flow_fail(w, flow, FLAG_CONNECT, b"timed out waiting for the peer's answer to CONNECT")
    elif flow.state == F_OPEN:
        flow_fail(w, flow, FLAG_NONE, b"half-closed for too long")


# === opening ===

cdef uint32_t keep_after(worker_t *w) noexcept nogil:
    """Milliseconds from a dial to the round that gives it keepalive: well before the first probe is due."""
    cdef uint64_t least = <uint64_t>w.config.keepalive_idle_s * 500
    if w.config.user_timeout_ms and w.config.user_timeout_ms // 2 < least:
        least = w.config.user_timeout_ms // 2
    return KEEP_AFTER_MS if least > KEEP_AFTER_MS else <uint32_t>least


cdef void flow_dial(worker_t *w, flow_t *flow, const addr_t *to, bint spoof) noexcept nogil:
    cdef int fd, rc
    cdef ev_t *ev = &flow.app
    cdef int kind = EV_APP
    cdef const addr_t *source = &flow.src if spoof else NULL
    cdef bint late
    flow.actual = to[0]
    if flow.direction != DIR_INBOUND_HBONE:
        if relay_of(flow) is NULL and relay_open(w, flow) < 0:
            flow_fail(w, flow, FLAG_CONNECT, b"out of memory")
            return
        ev = &relay_of(flow).ev
        kind = EV_FAR
    flow.state = F_DIALLING
    # Most connections end before keepalive could find out anything, so its options are set on those that last
    # (pods_keepalive): five calls less. One that was made before the last round has missed it.
    late = flow.opened_ms <= w.kept_ms
    fd = sock_dial(w, flow.pod, to, source, late)
    if fd < 0:
        flow_fail(w, flow, FLAG_CONNECT, b"connection to the destination failed")
        return
    ev.fd = fd
    if w.keep_timer.fn is NULL and w.config.keepalive_idle_s and not late:
        timer_set(&w.wheel, &w.keep_timer, w.now_ms + keep_after(w), w.ops.keepalive, w)
    timer_set(&w.wheel, &flow.setup.timer, w.now_ms + w.config.connect_timeout_ms, flow_timeout, flow)
    rc = ev_add(w, ev, fd, kind)
    if rc < 0:
        flow_fail(w, flow, FLAG_CONNECT, b"epoll refused the socket")


cdef void dialled(worker_t *w, flow_t *flow, ev_t *ev) noexcept nogil:
    cdef int error
    if not ev.ready & (R_OUT | R_HUP):
        return
    error = sock_error(w, ev.fd) if ev.ready & (R_HUP | R_ERR) else 0
    if error:
        if error == ETIMEDOUT:
            flow_fail(w, flow, FLAG_CONNECT, b"timed out connecting to the destination")
        else:
            flow_fail(w, flow, FLAG_CONNECT, b"connection to the destination was refused")
        return
    if flow.direction == DIR_INBOUND_HBONE and flow_answer(w, flow, 200, False) < 0:
        flow_fail(w, flow, FLAG_CONNECT, b"response headers cannot be encoded")
        return
    flow_open(w, flow)


cdef void flow_watch(worker_t *w, flow_t *flow) noexcept nogil:
    if flow.app.armed == 0 and ev_add(w, &flow.app, flow.app.fd, EV_APP) < 0:
        flow_fail(w, flow, FLAG_NONE, b"epoll refused the socket")


cdef void flow_open(worker_t *w, flow_t *flow) noexcept nogil:
    drop_setup(w, flow)
    flow.state = F_OPEN
    count_opened(w, flow)
    flow.app.ready |= R_OUT
    if flow.direction != DIR_INBOUND_HBONE:
        # Accepted, and watched from here on: the request is nearly always there already, so the first read is tried
        # without an event. A dialled socket has been watched since it was made, and says when there is something.
        flow.app.ready |= R_IN
    flow_watch(w, flow)
    if flow.state == F_OPEN and flow.bits & B_REEVALUATE:
        w.ops.decide_again(w, flow)
    if flow.state != F_OPEN:
        return
    if relay_of(flow) is not NULL:
        relay_of(flow).ev.ready |= R_OUT
        relay(w, flow)
        return
    drain_queue(w, flow)
    if flow.state == F_OPEN:
        pump_up(w, flow)


# === application -> tunnel ===

cdef inline void moved(worker_t *w, flow_t *flow, bint from_app, uint64_t size) noexcept nogil:
    cdef uint64_t *cells = slot_of(w, flow.label_id)
    if from_app == (flow.direction == DIR_OUTBOUND):
        flow.sent += size
        cells[SC_RECEIVED] += size
    else:
        flow.received += size
        cells[SC_SENT] += size


cdef inline uint32_t window(flow_t *flow) noexcept nogil:
    cdef int64_t room = flow.stream.send_window
    if flow.tunnel.h2.send_window < room:
        room = flow.tunnel.h2.send_window
    if room > flow.tunnel.h2.peer_frame_max:
        room = flow.tunnel.h2.peer_frame_max
    return 0 if room <= 0 else <uint32_t>room


cdef void up_done(worker_t *w, flow_t *flow) noexcept nogil:
    """The application has finished sending: END_STREAM, on its last frame if that is still in the record."""
    cdef tunnel_t *tunnel = flow.tunnel
    cdef uint32_t room = 0
    cdef uint8_t *head
    flow.bits |= B_UP_DONE
    if tunnel.last_stream == flow.stream.id and tunnel.rec is not NULL and tunnel.rec.end:
        tunnel.rec.data[tunnel.last_frame + 4] |= 1
        flow.stream.flags |= S_LOCAL_END
    else:
        head = tunnel_room(w, tunnel, H2_HEAD, &room)
        if head is NULL:
            return
        h2_data_head(&tunnel.h2, &flow.stream, head, 0, True)
        tunnel_wrote(w, tunnel, H2_HEAD, flow.stream.id)
    half_closed(w, flow)


cdef void half_closed(worker_t *w, flow_t *flow) noexcept nogil:
    if flow.bits & B_UP_DONE and flow.bits & B_DOWN_DONE:
        flow_end(w, flow, NULL)
    elif w.config.half_close_ms:
        if flow.setup is NULL:
            flow.setup = <setup_t *>calloc(1, sizeof(setup_t))
        if flow.setup is NULL:
            flow_fail(w, flow, FLAG_NONE, b"out of memory")
            return
        timer_set(&w.wheel, &flow.setup.timer, w.now_ms + w.config.half_close_ms, flow_timeout, flow)


cdef void app_lost(worker_t *w, flow_t *flow) noexcept nogil:
    """The application reset its connection: the peer sees a reset too, and it is an ordinary end."""
    flow.bits |= B_ABORT
    flow_end(w, flow, NULL)


cdef bint at_end(worker_t *w, flow_t *flow) noexcept nogil:
    """Has the application ended with nothing left to read? Its END_STREAM needs no window (RFC 9113 section 6.9.1)."""
    cdef uint8_t byte = 0
    if not flow.app.ready & R_HUP:
        return False
    w.page[PC_READ] += 1
    return linux.recv(flow.app.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0


cdef void pump_up(worker_t *w, flow_t *flow) noexcept nogil:
    cdef tunnel_t *tunnel = flow.tunnel
    cdef uint32_t budget = QUANTUM, room = 0, most, asked
    cdef uint8_t *at
    cdef ssize_t n
    if flow.bits & B_UP_DONE or flow.wait_link.next is not NULL:
        return
    while flow.app.ready & (R_IN | R_HUP):
        if tunnel.broken is not NULL:
            return
        if window(flow) == 0 and at_end(w, flow):
            up_done(w, flow)
            return
        if flow.stream.send_window <= 0:
            return               # on_window of the stream calls again
        if tunnel_congested(w, tunnel) or tunnel.h2.send_window <= 0:
            link_add(&tunnel.blocked, &flow.wait_link)
            tunnel_mark(w, tunnel)
            return
        if budget == 0:
            link_add(&w.ready, &flow.wait_link)
            return
        most = window(flow)
        if most > budget:
            most = budget
        at = tunnel_room(w, tunnel, H2_HEAD + (FRAME_LEAST if most > FRAME_LEAST else most), &room)
        if at is NULL:
            return
        asked = room - H2_HEAD
        if asked > most:
            asked = most
        w.page[PC_READ] += 1
        n = linux.recv(flow.app.fd, at + H2_HEAD, asked, 0)     # a read of a socket costs 1 % more
        if n > 0:
            h2_data_head(&tunnel.h2, &flow.stream, at, <uint32_t>n, False)
            tunnel_wrote(w, tunnel, H2_HEAD + <uint32_t>n, flow.stream.id)
            moved(w, flow, True, <uint64_t>n)
            budget -= <uint32_t>n
            if n < <ssize_t>asked and not flow.app.ready & R_HUP:
                flow.app.ready &= <uint8_t>~R_IN
        elif n == 0:
            flow.app.ready &= <uint8_t>~(R_IN | R_HUP)
            up_done(w, flow)
            return
        elif linux.errno == EAGAIN:
            flow.app.ready &= <uint8_t>~(R_IN | R_HUP)
        elif linux.errno != EINTR:
            app_lost(w, flow)
            return


# === tunnel -> application ===

cdef void delivered(worker_t *w, flow_t *flow, uint64_t size) noexcept nogil:
    moved(w, flow, False, size)
    h2_consumed(&flow.tunnel.h2, &flow.stream, <uint32_t>size)


cdef inline bint shuts(flow_t *flow) noexcept nogil:
    """Is the application told of the end, once its queue is empty, by a FIN of its own?"""
    # With both directions done the close that follows says the same.
    return flow.bits & (B_REMOTE_END | B_APP_SHUT | B_UP_DONE) == B_REMOTE_END


cdef void shut_app(worker_t *w, flow_t *flow) noexcept nogil:
    cdef bint tell = shuts(flow)
    if flow.to_app.tail is not NULL or not flow.bits & B_REMOTE_END or flow.bits & B_APP_SHUT:
        return
    flow.bits |= B_APP_SHUT | B_DOWN_DONE
    if tell:
        linux.shutdown(flow.app.fd, SHUT_WR)
    half_closed(w, flow)


cdef void drain_queue(worker_t *w, flow_t *flow) noexcept nogil:
    cdef ssize_t n
    if flow.to_app.tail is not NULL:
        n = queue_write(&flow.to_app, &w.pool, flow.app.fd, &w.page[PC_WRITE])
        if n < 0:
            app_lost(w, flow)
            return
        if n:
            delivered(w, flow, <uint64_t>n)
        if flow.to_app.tail is not NULL:
            flow.app.ready &= <uint8_t>~R_OUT
            return
    shut_app(w, flow)


cdef void stream_data(worker_t *w, flow_t *flow, const uint8_t *data, uint32_t size, bint end) noexcept nogil:
    cdef span_t *span
    if flow.state == F_CLOSED:
        return
    if flow.state == F_REQUESTED:
        flow_fail(w, flow, FLAG_CONNECT, b"peer sent data before its answer to CONNECT")
        return
    if end:
        flow.bits |= B_REMOTE_END
    if flow.state != F_OPEN or flow.to_app.tail is not NULL:
        # Bounded by the stream's window, which is only given back as bytes reach the socket.
        if queue_append(&flow.to_app, &w.pool, data, size) < 0:
            flow_fail(w, flow, FLAG_NONE, b"out of memory")
        return
    if w.span_count == SPANS_MAX:
        spans_flush(w)
        if flow.state != F_OPEN:
            return
        if flow.to_app.tail is not NULL:
            queue_append(&flow.to_app, &w.pool, data, size)
            return
    span = &w.spans[w.span_count]
    span.flow = flow
    span.data = data
    span.size = size
    w.span_count += 1


cdef uint32_t write_group(worker_t *w, uint32_t first) noexcept nogil:
    """Write the consecutive spans of one flow; -> index after the group."""
    cdef flow_t *flow = w.spans[first].flow
    cdef iovec vector[IOV_MAX]
    cdef msghdr message
    cdef uint32_t i = first, count = 0, asked = 0, at
    cdef int flags = MSG_NOSIGNAL
    cdef ssize_t n = 0
    while i < w.span_count and w.spans[i].flow is flow and count < IOV_MAX:
        if w.spans[i].size:
            vector[count].iov_base = <void *>w.spans[i].data
            vector[count].iov_len = w.spans[i].size
            asked += w.spans[i].size
            count += 1
        i += 1
    if flow.state != F_OPEN:
        return i
    if asked and flow.to_app.tail is NULL:
        w.page[PC_WRITE] += 1
        if shuts(flow) and (i == w.span_count or w.spans[i].flow is not flow):
            flags |= MSG_MORE    # shut_app follows: the last bytes and the FIN leave in one segment
        if count == 1:
            n = linux.send(flow.app.fd, vector[0].iov_base, vector[0].iov_len, flags)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov = vector
            message.msg_iovlen = count
            n = sendmsg(flow.app.fd, &message, flags)
        if n < 0:
            if linux.errno != EAGAIN and linux.errno != EINTR:
                app_lost(w, flow)
                return i
            n = 0
        if n:
            delivered(w, flow, <uint64_t>n)
    if n < <ssize_t>asked:
        flow.app.ready &= <uint8_t>~R_OUT
        for at in range(count):
            if n >= <ssize_t>vector[at].iov_len:
                n -= <ssize_t>vector[at].iov_len
                continue
            if queue_append(&flow.to_app, &w.pool, <uint8_t *>vector[at].iov_base + n,
                            vector[at].iov_len - <size_t>n) < 0:
                flow_fail(w, flow, FLAG_NONE, b"out of memory")
                return i
            n = 0
    elif i == w.span_count or w.spans[i].flow is not flow:
        shut_app(w, flow)
    return i


cdef void spans_flush(worker_t *w) noexcept nogil:
    cdef uint32_t at = 0
    while at < w.span_count:
        at = write_group(w, at)
    w.span_count = 0
    w.plain_used = 0


cdef void stream_reset(worker_t *w, flow_t *flow, uint32_t code) noexcept nogil:
    """RST_STREAM from the peer. NO_ERROR is an end like any other; everything else reaches the application as RST."""
    cdef const char *error = NULL
    spans_flush_of(w, flow)
    if flow.state == F_CLOSED:
        return
    if flow.state != F_OPEN:
        flow_fail(w, flow, FLAG_CONNECT, b"peer reset the stream")
        return
    if code == H2_NO_ERROR:
        flow.bits |= B_REMOTE_END | B_UP_DONE
        if flow.bits & B_APP_SHUT:
            flow_end(w, flow, NULL)
        else:
            drain_queue(w, flow)
        return
    flow.bits |= B_ABORT
    if code != H2_CANCEL and code != H2_CONNECT_ERROR:
        error = b"peer reset the stream"
    flow_end(w, flow, error)


cdef void spans_flush_of(worker_t *w, flow_t *flow) noexcept nogil:
    """What arrived before the reset still goes out; the plaintext stays where it is, the parser is inside it."""
    cdef uint32_t i, used = w.plain_used
    for i in range(w.span_count):
        if w.spans[i].flow is flow:
            spans_flush(w)
            w.plain_used = used
            return


# === events ===

cdef void relay(worker_t *w, flow_t *flow) noexcept nogil:
    cdef int rc = relay_pump(w, flow)
    if rc == 2:
        flow_end(w, flow, NULL)
    elif rc == 1:
        if flow.wait_link.next is NULL:
            link_add(&w.ready, &flow.wait_link)
    elif rc == -ECONNRESET or rc == -EPIPE:
        app_lost(w, flow)
    elif rc < 0:
        flow_fail(w, flow, FLAG_NONE, b"relay failed")
    elif flow.bits & (B_UP_DONE | B_DOWN_DONE) and w.config.half_close_ms and flow.setup is NULL:
        half_closed(w, flow)


cdef bint broken(worker_t *w, flow_t *flow, ev_t *ev, uint32_t ready) noexcept nogil:
    """A reset is noticed even by a flow that is stalled and would not read."""
    if not ready & R_ERR or sock_error(w, ev.fd) == 0:
        return False
    app_lost(w, flow)
    return True


cdef void flow_far_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil:
    cdef flow_t *flow = relay_of_ev(ev).flow
    if flow.state == F_DIALLING:
        dialled(w, flow, ev)
    elif flow.state == F_OPEN and not broken(w, flow, ev, ready):
        relay(w, flow)


cdef void flow_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil:
    cdef flow_t *flow = flow_of_app(ev)
    if flow.state == F_DIALLING and relay_of(flow) is NULL:
        dialled(w, flow, &flow.app)
        return
    if flow.state != F_OPEN or broken(w, flow, &flow.app, ready):
        return
    if relay_of(flow) is not NULL:
        relay(w, flow)
        return
    if ready & R_OUT and flow.to_app.tail is not NULL:
        drain_queue(w, flow)
        if flow.state != F_OPEN:
            return
    pump_up(w, flow)


cdef void flow_ready(worker_t *w, flow_t *flow) noexcept nogil:
    if flow.state == F_OPEN and flow.wait_link.next is NULL:
        link_add(&w.ready, &flow.wait_link)


cdef void flows_run(worker_t *w) noexcept nogil:
    """One round: those that use up their quantum again wait for the next turn behind the others."""
    cdef link_t round
    cdef flow_t *flow
    if w.ready.next is &w.ready:
        return
    round = w.ready
    round.next.prev = &round
    round.prev.next = &round
    link_init(&w.ready)
    while round.next is not &round:
        flow = flow_of_wait(round.next)
        link_del(&flow.wait_link)
        if flow.state != F_OPEN:
            continue
        if relay_of(flow) is not NULL:
            relay(w, flow)
        else:
            pump_up(w, flow)
