"""HBONE connections of the worker. No Python surface.

Output is coalesced: frames of all streams gather in one plaintext record per connection, which is sealed
when it is full or when the loop turn ends, and leaves in one write.
"""

from libc.errno cimport ECONNRESET, ENOMEM
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from meshcore cimport linux
from meshcore.flowtable cimport flowtable_text, link_add, link_del, link_init
from meshcore.h2 cimport h2_destroy, h2_init, h2_input
from meshcore.h2out cimport h2_goaway, h2_ping, h2_remove, h2_start
from meshcore.h2types cimport *
from meshcore.linux cimport EAGAIN, EINTR, MSG_NOSIGNAL
from meshcore.pool cimport (CHUNK_BYTES, pool_get, pool_put, pool_tight, queue_append, queue_clear, queue_size,
                            queue_write)
from meshcore.records cimport *
from meshcore.tls cimport *
from meshcore.wheel cimport timer_clear, timer_set
from ztunnel._sock cimport addr_same_ip, ev_add, ev_close, sock_dial, sock_error, sock_local
from ztunnel._types cimport *

cdef const char *POLICY_HINT = b"timed out, maybe a NetworkPolicy is blocking HBONE port 15008"

cdef enum:
    WAKE_BATCH = 16              # blocked flows woken at a time: more would only queue up again
    DISCARD_READS = 32           # 2 MiB: more than a frame of the largest size
    DRAIN_LAST = 2147483647      # first GOAWAY of a graceful end: announces it, refuses nothing yet


# === output ===

cdef void flush_cipher(worker_t *w) noexcept nogil:
    """Write the sealed records gathered for one tunnel; what the socket does not take waits in its queue."""
    cdef tunnel_t *tunnel = w.cipher_owner
    cdef ssize_t n
    cdef uint32_t size = w.cipher_used
    w.cipher_owner = NULL
    w.cipher_used = 0
    if tunnel is NULL or size == 0 or tunnel.state == T_CLOSED:
        return
    w.page[PC_WRITE] += 1
    n = linux.send(tunnel.ev.fd, w.cipher_out, size, MSG_NOSIGNAL)
    if n < 0:
        if linux.errno != EAGAIN and linux.errno != EINTR:
            tunnel_break(w, tunnel, FLAG_NONE, b"peer closed the connection")
            return
        n = 0
    if n < <ssize_t>size:
        tunnel.ev.ready &= <uint8_t>~R_OUT
        if queue_append(&tunnel.out, &w.pool, w.cipher_out + n, <size_t>(size - n)) < 0:
            tunnel_break(w, tunnel, FLAG_NONE, b"out of memory")


cdef int sink(void *owner, const uint8_t *data, size_t size) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>owner
    cdef worker_t *w = tunnel.w
    if w.cipher_owner is not tunnel or w.cipher_used + size > CIPHER_OUT:
        flush_cipher(w)
    if tunnel.out.tail is not NULL or size > CIPHER_OUT:
        return queue_append(&tunnel.out, &w.pool, data, size)
    w.cipher_owner = tunnel
    memcpy(w.cipher_out + w.cipher_used, data, size)
    w.cipher_used += <uint32_t>size
    return 0


cdef void seal(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    if tunnel.rec is NULL or tunnel.rec.end == 0:
        return
    if tls_write(&tunnel.tls, tunnel.rec.data, <int>tunnel.rec.end) < 0:
        tunnel_break(w, tunnel, FLAG_NONE, b"TLS write failed")
    tunnel.rec.end = 0
    tunnel.last_stream = 0


cdef void tunnel_mark(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    if tunnel.dirty_link.next is NULL and tunnel.state != T_CLOSED:
        link_add(&w.dirty, &tunnel.dirty_link)


cdef uint8_t *tunnel_room(worker_t *w, tunnel_t *tunnel, uint32_t least, uint32_t *room) noexcept nogil:
    """Where the next frame goes: at least `least` bytes of the record under construction. NULL: no memory."""
    if tunnel.rec is not NULL and CHUNK_BYTES - tunnel.rec.end < least:
        seal(w, tunnel)
    if tunnel.rec is NULL:
        tunnel.rec = pool_get(&w.pool)
        if tunnel.rec is NULL:
            tunnel_break(w, tunnel, FLAG_NONE, b"out of memory")
            return NULL
    tunnel_mark(w, tunnel)
    room[0] = CHUNK_BYTES - tunnel.rec.end
    return &tunnel.rec.data[tunnel.rec.end]


cdef void tunnel_wrote(worker_t *w, tunnel_t *tunnel, uint32_t size, uint32_t stream_id) noexcept nogil:
    tunnel.last_frame = tunnel.rec.end
    tunnel.last_stream = stream_id
    tunnel.rec.end += size
    if tunnel.rec.end == CHUNK_BYTES:
        seal(w, tunnel)


cdef bint tunnel_congested(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    return queue_size(&tunnel.out) > OUT_HIGH or pool_tight(&w.pool)


cdef void emit(h2_conn *conn, const uint8_t *frame, size_t size) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>conn.owner
    cdef uint32_t room = 0
    cdef uint8_t *at
    if tunnel.state != T_OPEN:
        return
    at = tunnel_room(tunnel.w, tunnel, <uint32_t>size, &room)
    if at is not NULL:
        memcpy(at, frame, size)
        tunnel_wrote(tunnel.w, tunnel, <uint32_t>size, 0)


cdef void flush(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    if tunnel.state == T_OPEN:
        seal(w, tunnel)
    if w.cipher_owner is tunnel:
        flush_cipher(w)
    if tunnel.rec is not NULL and tunnel.rec.end == 0:
        pool_put(&w.pool, tunnel.rec)
        tunnel.rec = NULL


cdef void tunnels_flush(worker_t *w) noexcept nogil:
    cdef tunnel_t *tunnel
    while w.dirty.next is not &w.dirty:
        tunnel = tunnel_of_dirty(w.dirty.next)
        link_del(&tunnel.dirty_link)
        flush(w, tunnel)
        if tunnel.broken is not NULL:
            tunnel_close(w, tunnel)
        elif tunnel.state == T_OPEN:
            wake(w, tunnel)


cdef void wake(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    """Flows that waited for window or room go on, oldest first."""
    cdef int count = 0
    cdef flow_t *flow
    if tunnel.h2.send_window <= 0 or tunnel_congested(w, tunnel):
        return
    while tunnel.blocked.next is not &tunnel.blocked and count < WAKE_BATCH:
        flow = flow_of_wait(tunnel.blocked.next)
        link_del(&flow.wait_link)
        w.ops.flow_ready(w, flow)
        count += 1


# === life ===

cdef tunnel_t *create(worker_t *w, pod_t *pod, int role) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>calloc(1, sizeof(tunnel_t))
    if tunnel is NULL:
        return NULL
    tunnel.w = w
    tunnel.pod = pod
    tunnel.role = <uint8_t>role
    tunnel.ev.fd = -1
    tunnel.opened_ms = tunnel.heard_ms = w.now_ms
    link_init(&tunnel.waiting)
    link_init(&tunnel.blocked)
    link_add(&pod.tunnels, &tunnel.pod_link)
    pod.users += 1
    w.tunnels += 1
    w.page[PC_TUNNELS_OPEN] += 1
    return tunnel


cdef void tunnel_accept(worker_t *w, pod_t *pod, int fd, const addr_t *peer) noexcept nogil:
    cdef tunnel_t *tunnel = create(w, pod, TLS_SERVER)
    cdef cert_t *cert
    if tunnel is NULL:
        linux.close(fd)
        w.page[PC_SOCKETS_OPEN] -= 1
        return
    tunnel.peer = peer[0]
    sock_local(w, fd, &tunnel.local)
    tunnel.cert_id = pod.cert_id
    tunnel.state = T_WAIT_CERT
    timer_set(&w.wheel, &tunnel.timer, w.now_ms + w.config.tls_timeout_ms, on_timer, tunnel)
    cert = <cert_t *>slot_find(w.certs, pod.cert_id)
    if cert is not NULL:
        start_tls(w, tunnel, cert, NULL)
    if ev_add(w, &tunnel.ev, fd, EV_TUNNEL) < 0:
        tunnel.ev.fd = fd
        tunnel_break(w, tunnel, FLAG_NONE, b"epoll refused the socket")


cdef void start_tls(worker_t *w, tunnel_t *tunnel, cert_t *cert, sans_t *sans) noexcept nogil:
    if tls_open(&tunnel.tls, &w.tls, tunnel.role, cert, sans, sink, tunnel) < 0:
        tunnel_break(w, tunnel, FLAG_TLS_FAILURE, b"TLS session cannot be made")
        return
    if tunnel.role == TLS_SERVER:
        tunnel.state = T_HANDSHAKE


cdef void tunnel_certified(worker_t *w, tunnel_t *tunnel, cert_t *cert) noexcept nogil:
    if tunnel.state != T_WAIT_CERT:
        return
    start_tls(w, tunnel, cert, NULL)
    if tunnel.state == T_HANDSHAKE and tunnel.ev.ready & (R_IN | R_HUP):
        tunnel_read(w, tunnel)


cdef bint tunnel_has_room(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef uint32_t most = w.config.pool_max_streams
    if tunnel.draining or tunnel.broken is not NULL or tunnel.state == T_CLOSED:
        return False
    if tunnel.state == T_OPEN and tunnel.h2.peer_streams_max < most:
        most = tunnel.h2.peer_streams_max
    return tunnel.h2.streams + tunnel.claimed < most


cdef link_t *pool_bucket(worker_t *w, uint32_t pod_id, const addr_t *to, uint32_t sans_id) noexcept nogil:
    cdef uint32_t word = 0
    memcpy(&word, to.ip + 12, 4)
    return &w.client_pool[(word * 2654435761U ^ (word >> 24) ^ to.port ^ pod_id * 31 ^ sans_id * 7) & (CHAINS - 1)]


cdef tunnel_t *tunnel_obtain(worker_t *w, flow_t *flow, cert_t *cert, sans_t *sans, int *rc) noexcept nogil:
    cdef link_t *bucket = pool_bucket(w, flow.pod.id, &flow.actual, flow.setup.sans_id)
    cdef link_t *link = bucket.next
    cdef tunnel_t *tunnel
    cdef int fd
    while link is not bucket:
        tunnel = tunnel_of_pool(link)
        link = link.next
        if (tunnel.pod is flow.pod and tunnel.sans_id == flow.setup.sans_id and tunnel.cert_id == flow.setup.cert_id
                and tunnel.peer.port == flow.actual.port and addr_same_ip(&tunnel.peer, &flow.actual)
                and tunnel_has_room(w, tunnel)):
            w.page[PC_POOL_HIT] += 1
            return tunnel
    w.page[PC_POOL_DIAL] += 1
    fd = sock_dial(w, flow.pod, &flow.actual, NULL, True)
    if fd < 0:
        rc[0] = fd
        return NULL
    tunnel = create(w, flow.pod, TLS_CLIENT)
    if tunnel is NULL:
        linux.close(fd)
        w.page[PC_SOCKETS_OPEN] -= 1
        rc[0] = -ENOMEM
        return NULL
    tunnel.peer = flow.actual
    tunnel.sans_id = flow.setup.sans_id
    tunnel.cert_id = flow.setup.cert_id
    tunnel.state = T_CONNECTING
    link_add(bucket, &tunnel.pool_link)
    timer_set(&w.wheel, &tunnel.timer, w.now_ms + w.config.connect_timeout_ms, on_timer, tunnel)
    start_tls(w, tunnel, cert, sans)
    if ev_add(w, &tunnel.ev, fd, EV_TUNNEL) < 0:
        tunnel.ev.fd = fd
        tunnel_break(w, tunnel, FLAG_CONNECT, b"epoll refused the socket")
    return tunnel


cdef void tunnel_break(worker_t *w, tunnel_t *tunnel, int flag, const char *why) noexcept nogil:
    if tunnel.broken is NULL:
        tunnel.broken = why
        tunnel.flag = <uint8_t>flag
    tunnel_mark(w, tunnel)


cdef flow_t *first_flow(tunnel_t *tunnel) noexcept nogil:
    cdef int i
    for i in range(H2_BUCKETS):
        if tunnel.h2.buckets[i] is not NULL:
            return flow_of_stream(tunnel.h2.buckets[i])
    return NULL


cdef void give_up(worker_t *w, tunnel_t *tunnel, flow_t *flow, bint may_retry) noexcept nogil:
    flow.status = 0
    if may_retry and flow.state == F_REQUESTED and flow.setup.retries < RETRIES_MAX:
        w.ops.stream_retry(w, flow)
    else:
        w.ops.flow_fail(w, flow, tunnel.flag, tunnel.broken)


cdef void tunnel_close(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef flow_t *flow
    cdef bint was_open = tunnel.state == T_OPEN
    if tunnel.state == T_CLOSED:
        return
    if tunnel.broken is NULL:
        tunnel.broken = b"connection closed"
    if was_open:
        flush(w, tunnel)
    if w.cipher_owner is tunnel:
        flush_cipher(w)
    tunnel.state = T_CLOSED
    timer_clear(&w.wheel, &tunnel.timer)
    link_del(&tunnel.dirty_link)
    link_del(&tunnel.ready_link)
    link_del(&tunnel.pool_link)
    link_del(&tunnel.pod_link)
    while tunnel.waiting.next is not &tunnel.waiting:
        flow = flow_of_wait(tunnel.waiting.next)
        link_del(&flow.wait_link)
        w.ops.flow_fail(w, flow, tunnel.flag, tunnel.broken)
    if was_open:
        flow = first_flow(tunnel)
        while flow is not NULL:
            h2_remove(&tunnel.h2, &flow.stream)
            give_up(w, tunnel, flow, tunnel.role == TLS_CLIENT and not tunnel.misbehaved)
            flow = first_flow(tunnel)
        h2_destroy(&tunnel.h2)
    free(tunnel.request)
    tunnel.request = NULL
    texts_release(tunnel.texts)
    tunnel.texts = NULL
    if tunnel.misbehaved:
        discard(w, tunnel)
    ev_close(w, &tunnel.ev)
    tls_close(&tunnel.tls)
    queue_clear(&tunnel.out, &w.pool)
    if tunnel.rec is not NULL:
        pool_put(&w.pool, tunnel.rec)
        tunnel.rec = NULL
    w.tunnels -= 1
    w.page[PC_TUNNELS_OPEN] -= 1
    tunnel.pool_link.next = <link_t *>w.grave_tunnels
    w.grave_tunnels = tunnel


cdef void discard(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    """Bytes left unread make the kernel answer with RST, which may overtake the GOAWAY that says why."""
    cdef int _read
    linux.shutdown(tunnel.ev.fd, linux.SHUT_WR)
    for _read in range(DISCARD_READS):
        w.page[PC_READ] += 1
        if linux.recv(tunnel.ev.fd, w.cipher_in, CIPHER_IN, 0) <= 0:
            return


cdef void finish(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    """Graceful end of a connection that carries nothing any more."""
    if tunnel.state == T_OPEN:
        if not tunnel.h2.goaway_sent or tunnel.h2.goaway_last == DRAIN_LAST:
            h2_goaway(&tunnel.h2, tunnel.h2.last_id, H2_NO_ERROR)
        seal(w, tunnel)
        tls_notify_close(&tunnel.tls)
    tunnel_break(w, tunnel, FLAG_NONE, b"connection drained")


cdef void tunnel_stream_gone(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    if tunnel.state != T_OPEN or tunnel.h2.streams or tunnel.claimed:
        return
    tunnel.idle_ms = w.now_ms
    if tunnel.draining and (tunnel.role == TLS_CLIENT or tunnel.h2.goaway_last != DRAIN_LAST):
        finish(w, tunnel)


cdef void tunnel_drain(worker_t *w, tunnel_t *tunnel, bint final) noexcept nogil:
    """Graceful end: announce it first, refuse new streams at the second call, close when the last stream ends."""
    if tunnel.state != T_OPEN:
        if tunnel.role == TLS_SERVER:
            tunnel_break(w, tunnel, FLAG_NONE, b"connection drained")
        return
    if tunnel.role == TLS_CLIENT:
        tunnel.draining = 1
        link_del(&tunnel.pool_link)
    elif not final:
        h2_goaway(&tunnel.h2, DRAIN_LAST, H2_NO_ERROR)
        return
    else:
        tunnel.draining = 1
        h2_goaway(&tunnel.h2, tunnel.h2.last_id, H2_NO_ERROR)
    tunnel_stream_gone(w, tunnel)


# === timers ===

cdef void on_timer(void *owner) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>owner
    cdef worker_t *w = tunnel.w
    if tunnel.state == T_CONNECTING:
        w.page[PC_CONNECT_TIMEOUT] += 1
        tunnel_break(w, tunnel, FLAG_NETWORK_POLICY, POLICY_HINT)
    elif tunnel.state != T_OPEN:
        w.page[PC_TLS_TIMEOUT] += 1
        tunnel_break(w, tunnel, FLAG_TLS_FAILURE, b"timed out in the TLS handshake")
    elif not tunnel.h2.settings_seen and w.now_ms - tunnel.opened_ms >= w.config.tls_timeout_ms:
        w.page[PC_TLS_TIMEOUT] += 1
        tunnel_break(w, tunnel, FLAG_H2_HANDSHAKE_FAILURE, b"timed out waiting for HTTP/2 SETTINGS")
    else:
        keepalive(w, tunnel)


cdef uint32_t first_look(worker_t *w) noexcept nogil:
    """Milliseconds from the handshake to whatever is due first: the peer's SETTINGS, or a ping."""
    if w.config.tls_timeout_ms < w.config.ping_interval_ms:
        return w.config.tls_timeout_ms
    return w.config.ping_interval_ms


cdef void keepalive(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef uint64_t next_ms
    tunnel.h2.now_ms = w.now_ms
    if tunnel.role == TLS_CLIENT and tunnel.h2.streams == 0 and tunnel.claimed == 0:
        if w.now_ms - tunnel.idle_ms >= w.config.pool_idle_ms:
            finish(w, tunnel)
            return
    if tunnel.pinged:
        w.page[PC_KEEPALIVE_TIMEOUT] += 1
        tunnel_break(w, tunnel, FLAG_NONE, b"peer does not answer keepalive pings")
        return
    next_ms = tunnel.heard_ms + w.config.ping_interval_ms
    if next_ms <= w.now_ms:
        # Bytes from the peer within the interval prove as much as a pong, so only silence is probed.
        h2_ping(&tunnel.h2)
        tunnel.pinged = 1
        next_ms = w.now_ms + w.config.ping_timeout_ms
    if not tunnel.h2.settings_seen and next_ms > tunnel.opened_ms + w.config.tls_timeout_ms:
        next_ms = tunnel.opened_ms + w.config.tls_timeout_ms
    timer_set(&w.wheel, &tunnel.timer, next_ms, on_timer, tunnel)


# === input ===

cdef void opened(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef h2_conn *h2 = &tunnel.h2
    if tunnel.role == TLS_SERVER:
        w.page[PC_TLS_ACCEPT_OK] += 1
    else:
        w.page[PC_TLS_CONNECT_OK] += 1
    if h2_init(h2, &OPS, tunnel, tunnel.role == TLS_SERVER, w.now_ms) < 0:
        tunnel_break(w, tunnel, FLAG_H2_HANDSHAKE_FAILURE, b"out of memory")
        return
    h2.window = w.config.stream_window
    h2.conn_window = w.config.connection_window
    h2.frame_max = w.config.frame_size
    h2.header_max = w.config.header_list_max if tunnel.role == TLS_SERVER else 16384
    h2.streams_max = w.config.server_max_streams
    tunnel.state = T_OPEN
    tunnel.idle_ms = w.now_ms
    if tunnel.tls.peer is not NULL:
        flowtable_text(&w.table, tunnel.tls.peer, tunnel.tls.peer_len, tunnel.peer_id)
    tunnel.opened_ms = w.now_ms
    timer_set(&w.wheel, &tunnel.timer, w.now_ms + first_look(w), on_timer, tunnel)
    h2_start(h2)
    w.ops.tunnel_open(w, tunnel)
    if w.draining and tunnel.role == TLS_SERVER:
        tunnel_drain(w, tunnel, False)


cdef void handshake(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef int rc = tls_handshake(&tunnel.tls)
    cdef int flag = FLAG_CONNECT
    tunnel_mark(w, tunnel)
    if rc == 1:
        opened(w, tunnel)
    elif rc == TLS_FAILED or tunnel.tls.input_eof:
        w.page[PC_TLS_ACCEPT_FAIL if tunnel.role == TLS_SERVER else PC_TLS_CONNECT_FAIL] += 1
        if tunnel.tls.fault == FAULT_IDENTITY or tunnel.tls.fault == FAULT_CHAIN:
            flag = FLAG_IDENTITY_ERROR
        tunnel_break(w, tunnel, flag, tls_reason(&tunnel.tls))


cdef void protocol_error(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    w.page[PC_H2_GOAWAY_SENT] += 1
    count_abuse(w, tunnel.h2.abuse)
    h2_goaway(&tunnel.h2, tunnel.h2.last_id, tunnel.h2.error)
    tunnel.misbehaved = 1
    tunnel_break(w, tunnel, FLAG_CONNECT, b"HTTP/2 protocol error of the peer")


cdef void count_abuse(worker_t *w, int abuse) noexcept nogil:
    if abuse == ABUSE_RESET:
        w.page[PC_H2_RESET_FLOOD] += 1
    elif abuse == ABUSE_PING:
        w.page[PC_H2_PING_FLOOD] += 1
    elif abuse == ABUSE_SETTINGS:
        w.page[PC_H2_SETTINGS_FLOOD] += 1
    elif abuse == ABUSE_EMPTY:
        w.page[PC_H2_EMPTY_FLOOD] += 1
    elif abuse == ABUSE_HEADERS:
        w.page[PC_H2_HEADERS_TOO_BIG] += 1
    elif abuse == ABUSE_WINDOW:
        w.page[PC_H2_WINDOW_OVERFLOW] += 1
    elif abuse == ABUSE_FRAME:
        w.page[PC_H2_BAD_FRAME] += 1


cdef bint take_plaintext(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    """Decrypt and parse what the last read brought. False: the connection has ended."""
    cdef uint8_t *at
    cdef int rc
    while tunnel.broken is NULL:
        if w.plain_used + PLAIN_RECORD > PLAIN_BYTES:
            w.ops.spans_flush(w)
        at = w.plain + w.plain_used
        rc = tls_read(&tunnel.tls, at, PLAIN_RECORD)
        if rc == TLS_WANT:
            return True
        if rc < 0:
            w.ops.spans_flush(w)
            tunnel_break(w, tunnel, FLAG_NONE if rc == TLS_CLOSED else FLAG_CONNECT,
                         b"peer closed the connection" if rc == TLS_CLOSED else b"TLS record of the peer is broken")
            return False
        w.plain_used += <uint32_t>rc
        if h2_input(&tunnel.h2, at, <size_t>rc) < 0:
            w.ops.spans_flush(w)
            protocol_error(w, tunnel)
            return False
        if tunnel.h2.abuse:
            count_abuse(w, tunnel.h2.abuse)
            tunnel.h2.abuse = 0
    return False


cdef void tunnel_read(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef ssize_t n
    cdef int _read
    for _read in range(READS_MAX):
        if tunnel.broken is not NULL:
            break
        w.page[PC_READ] += 1
        n = linux.recv(tunnel.ev.fd, w.cipher_in, CIPHER_IN, 0)
        if n < 0:
            if linux.errno == EINTR:
                continue
            tunnel.ev.ready &= <uint8_t>~R_IN
            if linux.errno != EAGAIN:
                tunnel_break(w, tunnel, FLAG_CONNECT if tunnel.state != T_OPEN else FLAG_NONE,
                             b"peer reset the connection" if linux.errno == ECONNRESET else b"connection failed")
            break
        if n:
            tunnel.heard_ms = w.now_ms
            tunnel.pinged = 0
        tls_feed(&tunnel.tls, w.cipher_in, <size_t>n, n == 0)
        if tunnel.state == T_HANDSHAKE:
            handshake(w, tunnel)
        if tunnel.state == T_OPEN and tunnel.broken is NULL:
            tunnel.h2.now_ms = w.now_ms
            tunnel.h2.hold_credit = pool_tight(&w.pool)
            take_plaintext(w, tunnel)
        tls_feed(&tunnel.tls, NULL, 0, n == 0)
        if n == 0:
            tunnel_break(w, tunnel, FLAG_CONNECT if tunnel.state != T_OPEN else FLAG_NONE,
                         b"peer closed the connection")
            break
        if n < CIPHER_IN and not tunnel.ev.ready & R_HUP:
            tunnel.ev.ready &= <uint8_t>~R_IN
            break
    w.ops.spans_flush(w)
    if tunnel.ev.ready & R_IN and tunnel.broken is NULL and tunnel.ready_link.next is NULL:
        link_add(&w.ready_tunnels, &tunnel.ready_link)


cdef void tunnel_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil:
    cdef tunnel_t *tunnel = tunnel_of_ev(ev)
    cdef ssize_t n
    cdef int error
    if tunnel.broken is not NULL:
        return
    if tunnel.state == T_CONNECTING:
        if not ready & (R_OUT | R_HUP):
            return
        error = sock_error(w, tunnel.ev.fd) if ready & (R_HUP | R_ERR) else 0
        if error:
            if error == linux.ETIMEDOUT:
                tunnel_break(w, tunnel, FLAG_NETWORK_POLICY, POLICY_HINT)
            else:
                tunnel_break(w, tunnel, FLAG_CONNECT, b"connection to the peer was refused")
            return
        tunnel.state = T_HANDSHAKE
        timer_set(&w.wheel, &tunnel.timer, w.now_ms + w.config.tls_timeout_ms, on_timer, tunnel)
        tls_feed(&tunnel.tls, NULL, 0, False)
        handshake(w, tunnel)
        return
    if tunnel.state == T_WAIT_CERT:
        return
    if ready & R_OUT and tunnel.out.tail is not NULL:
        n = queue_write(&tunnel.out, &w.pool, tunnel.ev.fd, &w.page[PC_WRITE])
        if n < 0:
            tunnel_break(w, tunnel, FLAG_NONE, b"peer closed the connection")
            return
        if tunnel.out.tail is not NULL:
            tunnel.ev.ready &= <uint8_t>~R_OUT
        if queue_size(&tunnel.out) < OUT_LOW and tunnel.state == T_OPEN:
            wake(w, tunnel)
    if ready & (R_IN | R_HUP):
        tunnel_read(w, tunnel)


# === HTTP/2 calls ===

cdef h2_stream *on_stream(h2_conn *conn, uint32_t id) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>conn.owner
    return tunnel.w.ops.stream_new(tunnel.w, tunnel)


cdef void on_header(h2_conn *conn, h2_stream *stream, const nghttp2_nv *field) noexcept nogil:
    cdef worker_t *w = (<tunnel_t *>conn.owner).w
    w.ops.stream_field(w, flow_of_stream(stream), <const char *>field.name, field.namelen, <const char *>field.value,
                       field.valuelen)


cdef void on_headers(h2_conn *conn, h2_stream *stream, bint end) noexcept nogil:
    cdef worker_t *w = (<tunnel_t *>conn.owner).w
    w.ops.stream_headers(w, flow_of_stream(stream), end)


cdef void on_data(h2_conn *conn, h2_stream *stream, const uint8_t *data, uint32_t size, bint end) noexcept nogil:
    cdef worker_t *w = (<tunnel_t *>conn.owner).w
    w.ops.stream_data(w, flow_of_stream(stream), data, size, end)


cdef void on_reset(h2_conn *conn, h2_stream *stream, uint32_t code) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>conn.owner
    cdef flow_t *flow = flow_of_stream(stream)
    if code == H2_REFUSED_STREAM and flow.state == F_REQUESTED and flow.setup.retries < RETRIES_MAX:
        tunnel.w.ops.stream_retry(tunnel.w, flow)
    else:
        tunnel.w.ops.stream_reset(tunnel.w, flow, code)


cdef void on_window(h2_conn *conn, h2_stream *stream) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>conn.owner
    if stream is NULL:
        wake(tunnel.w, tunnel)
    else:
        tunnel.w.ops.flow_ready(tunnel.w, flow_of_stream(stream))


cdef void on_goaway(h2_conn *conn, uint32_t last, uint32_t code) noexcept nogil:
    """No new stream here; those the peer will not answer go to another connection (RFC 9113 section 6.8)."""
    cdef tunnel_t *tunnel = <tunnel_t *>conn.owner
    cdef worker_t *w = tunnel.w
    cdef h2_stream *stream
    cdef int i
    if tunnel.role == TLS_SERVER:
        return
    tunnel.draining = 1
    link_del(&tunnel.pool_link)
    for i in range(H2_BUCKETS):
        stream = conn.buckets[i]
        while stream is not NULL:
            if stream.id > last and flow_of_stream(stream).state == F_REQUESTED:
                h2_remove(conn, stream)
                if flow_of_stream(stream).setup.retries < RETRIES_MAX:
                    w.ops.stream_retry(w, flow_of_stream(stream))
                else:
                    w.ops.flow_fail(w, flow_of_stream(stream), FLAG_CONNECT, b"peer is going away")
                stream = conn.buckets[i]
            else:
                stream = stream.next
    tunnel_stream_gone(w, tunnel)


cdef void on_pong(h2_conn *conn) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>conn.owner
    tunnel.pinged = 0
    timer_set(&tunnel.w.wheel, &tunnel.timer, tunnel.w.now_ms + tunnel.w.config.ping_interval_ms, on_timer, tunnel)


cdef h2_ops OPS
OPS.on_stream = on_stream
OPS.on_header = on_header
OPS.on_headers = on_headers
OPS.on_data = on_data
OPS.on_reset = on_reset
OPS.on_window = on_window
OPS.on_goaway = on_goaway
OPS.on_pong = on_pong
OPS.emit = emit
