"""Verdicts of the worker: look up, ask, take the answer, ask again after a change. No Python surface."""

from libc.string cimport memcpy, memset

from meshcore cimport linux
from meshcore.flowtable cimport *
from meshcore.linux cimport MSG_DONTWAIT, MSG_NOSIGNAL
from meshcore.records cimport *
from meshcore.wheel cimport timer_clear, timer_set
from ztunnel._flow cimport flow_attach, flow_detach, flow_fail
from ztunnel._types cimport *

cdef enum:
    ASK_AGAIN_MS = 1000          # a lost question (full socket, new control process) is put again after this long
    UPCALL_BYTES = 4096          # the record, SPIFFE_MAX, AUTHORITY_MAX, FORWARDED_MAX and BAGGAGE_MAX
    EVICT_BYTES = 264            # the head and 64 ids


cdef int control_send(worker_t *w, const void *record, size_t size) noexcept nogil:
    if w.control < 0:
        return -linux.EAGAIN
    if linux.send(w.control, record, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
        return -linux.errno
    return 0


cdef void make_key(worker_t *w, flow_t *flow, flow_key *key) noexcept nogil:
    cdef texts_t *texts = texts_of(flow)
    memset(key, 0, sizeof(flow_key))
    key.pod_id = flow.pod.id
    key.direction = flow.direction
    key.dst_port = flow.dst.port
    memcpy(key.src_ip, flow.src.ip, 16)
    memcpy(key.dst_ip, flow.dst.ip, 16)
    if flow.tunnel is not NULL and flow.direction == DIR_INBOUND_HBONE:
        memcpy(key.local_ip, flow.tunnel.local.ip, 16)
        memcpy(key.peer, flow.tunnel.peer_id, 16)
    if texts is not NULL:
        key.flags = <uint8_t>texts.flags
        flowtable_text(&w.table, texts.data, texts.host_len, key.host)
        flowtable_text(&w.table, texts.data + texts.host_len, texts.forwarded_len, key.forwarded)
        flowtable_text(&w.table, texts.data + texts.host_len + texts.forwarded_len, texts.baggage_len, key.baggage)


cdef size_t put_text(uint8_t *at, const char *text, size_t size) noexcept nogil:
    memcpy(at, text, size)
    return size


cdef void ask(worker_t *w, flow_t *flow, uint64_t cookie) noexcept nogil:
    cdef uint8_t buffer[UPCALL_BYTES]
    cdef rec_upcall *record = <rec_upcall *>buffer
    cdef size_t size = sizeof(rec_upcall)
    cdef texts_t *texts = texts_of(flow)
    memset(record, 0, sizeof(rec_upcall))
    record.cookie = cookie
    record.pod_id = flow.pod.id
    record.src_port = flow.src.port
    record.dst_port = flow.dst.port
    memcpy(record.src_ip, flow.src.ip, 16)
    memcpy(record.dst_ip, flow.dst.ip, 16)
    record.direction = flow.direction
    if flow.direction == DIR_INBOUND_HBONE and flow.tunnel is not NULL:
        memcpy(record.local_ip, flow.tunnel.local.ip, 16)
        if flow.tunnel.tls.peer is not NULL:
            record.peer_len = flow.tunnel.tls.peer_len
            size += put_text(buffer + size, flow.tunnel.tls.peer, record.peer_len)
    if texts is not NULL:
        record.flags = <uint8_t>texts.flags
        record.host_len = texts.host_len
        record.forwarded_len = texts.forwarded_len
        record.baggage_len = texts.baggage_len
        size += put_text(buffer + size, texts.data, <size_t>texts.host_len + texts.forwarded_len + texts.baggage_len)
    record.head.type = REC_UPCALL
    record.head.version = RECORDS_VERSION
    record.head.size = <uint32_t>size
    w.page[PC_UPCALL] += 1
    control_send(w, buffer, size)


cdef void on_wait(void *owner) noexcept nogil:
    """The verdict is late: ask once more, or give up."""
    cdef flow_t *flow = <flow_t *>owner
    cdef worker_t *w = flow.pod.w
    if flow.entry is NULL:
        return
    if flow.state != F_ASKING:
        return                   # a live flow that asks again keeps its connection until it is told otherwise
    if w.now_ms - flow.opened_ms >= w.config.upcall_timeout_ms:
        w.page[PC_UPCALL_TIMEOUT] += 1
        flow_fail(w, flow, FLAG_CONNECT, b"no verdict from the control process in time")
        return
    ask(w, flow, flowtable_cookie(&w.table, flow.entry))
    wait(w, flow)


cdef void wait(worker_t *w, flow_t *flow) noexcept nogil:
    cdef uint32_t left = w.config.upcall_timeout_ms
    if left > ASK_AGAIN_MS:
        left = ASK_AGAIN_MS
    timer_set(&w.wheel, &flow.setup.timer, w.now_ms + left, on_wait, flow)


cdef void decide(worker_t *w, flow_t *flow) noexcept nogil:
    cdef flow_key key
    cdef entry_t *entry
    cdef bint created = False
    make_key(w, flow, &key)
    entry = flowtable_find(&w.table, &key, w.now_ms)
    if entry is not NULL:
        w.page[PC_FLOW_HIT] += 1
        flow_attach(w, flow, entry)
        w.ops.proceed(w, flow)
        return
    w.page[PC_FLOW_MISS] += 1
    entry = flowtable_pending(&w.table, &key, &created)
    if entry is NULL:
        flow_fail(w, flow, FLAG_CONNECT, b"flow table is full")
        return
    if flow.state != F_OPEN:
        flow.state = F_ASKING
        wait(w, flow)
    flow_attach(w, flow, entry)
    if created:
        ask(w, flow, flowtable_cookie(&w.table, entry))


cdef void settle_waiters(worker_t *w, entry_t *entry, entry_t *live) noexcept nogil:
    """Everybody who waited on `entry` goes on with `live`, which may be the same."""
    cdef link_t waiting
    cdef flow_t *flow
    if entry.flows.next is &entry.flows:
        return
    waiting = entry.flows
    waiting.next.prev = &waiting
    waiting.prev.next = &waiting
    link_init(&entry.flows)
    live.users += 1              # held while the list is worked off
    while waiting.next is not &waiting:
        flow = flow_of_entry(waiting.next)
        flow_attach(w, flow, live)
        if flow.state == F_ASKING:
            timer_clear(&w.wheel, &flow.setup.timer)
        w.ops.proceed(w, flow)
    live.users -= 1
    flowtable_free_if_idle(live)


cdef void reject(worker_t *w, entry_t *entry) noexcept nogil:
    """Close what a verdict no longer allows."""
    cdef flow_t *flow
    entry.users += 1
    while entry.flows.next is not &entry.flows:
        flow = flow_of_entry(entry.flows.next)
        w.page[PC_CLOSED_BY_POLICY] += 1
        flow_fail(w, flow, FLAG_DENY, b"closed due to policy change")
        if flow.entry is entry:  # already closed flows have let go
            flow_detach(w, flow)
    entry.users -= 1
    flowtable_free_if_idle(entry)


cdef void decide_verdict(worker_t *w, const rec_verdict *verdict) noexcept nogil:
    cdef entry_t *entry
    cdef entry_t *live
    if verdict.cookie == 0:
        entry = flowtable_by_id(&w.table, verdict.verdict_id)
        if entry is NULL or flowtable_fill(entry, verdict, w.now_ms) < 0:
            return
        if entry.action == ACT_DENY:
            reject(w, entry)
        return
    entry = flowtable_by_cookie(&w.table, verdict.cookie)
    if entry is NULL:
        return                   # every waiter gave up, and nobody asked again
    live = flowtable_settle(&w.table, entry, verdict, w.now_ms)
    if live is NULL:
        return                   # no memory: the waiters ask again
    entry.users += 1             # held: its last waiter would take it along
    settle_waiters(w, entry, live)
    entry.users -= 1
    if live is not entry:
        flowtable_drop(&w.table, entry)
    else:
        flowtable_free_if_idle(entry)


cdef void decide_flush(worker_t *w, uint32_t verdict_id, bint reevaluate) noexcept nogil:
    cdef entry_t *entry = flowtable_by_id(&w.table, verdict_id)
    cdef link_t round
    cdef flow_t *flow
    if entry is NULL:
        return
    entry.users += 1
    flowtable_drop(&w.table, entry)
    if reevaluate and entry.flows.next is not &entry.flows:
        round = entry.flows
        round.next.prev = &round
        round.prev.next = &round
        link_init(&entry.flows)
        while round.next is not &round:
            flow = flow_of_entry(round.next)
            flow.bits |= B_REEVALUATE
            link_del(&flow.entry_link)
            link_add(&entry.flows, &flow.entry_link)
            if flow.state == F_OPEN:
                decide_again(w, flow)
            # One that is still being set up asks when it opens (flow_open): until then it needs the old texts.
    entry.users -= 1
    flowtable_free_if_idle(entry)


cdef void decide_again(worker_t *w, flow_t *flow) noexcept nogil:
    flow_detach(w, flow)
    decide(w, flow)


cdef void decide_report_evicted(worker_t *w) noexcept nogil:
    cdef uint8_t buffer[EVICT_BYTES]
    cdef rec_head *head = <rec_head *>buffer
    if w.table.evicted_count == 0:
        return
    head.type = REC_EVICT
    head.version = RECORDS_VERSION
    head.size = <uint32_t>(sizeof(rec_head) + w.table.evicted_count * 4)
    memcpy(buffer + sizeof(rec_head), w.table.evicted, w.table.evicted_count * 4)
    w.page[PC_FLOW_EVICTED] += w.table.evicted_count
    control_send(w, buffer, head.size)
    w.table.evicted_count = 0
