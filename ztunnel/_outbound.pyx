"""Outbound side of the worker. No Python surface."""

from libc.string cimport memcmp, memcpy

from meshcore.flowtable cimport flowtable_pick, link_add, link_del
from meshcore.h2out cimport h2_add, h2_headers
from meshcore.h2types cimport S_ANSWERED
from meshcore.nghttp2 cimport NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NONE, nghttp2_nv
from meshcore.records cimport *
from meshcore.tls cimport cert_t, sans_t
from meshcore.wheel cimport timer_set
from ztunnel._flow cimport flow_dial, flow_fail, flow_open, flow_refuse, flow_timeout
from ztunnel._sock cimport addr_is_v4, addr_text
from ztunnel._tunnel cimport tunnel_obtain
from ztunnel._types cimport *

cdef enum:
    AUTHORITY_TEXT = 64          # "[ipv6]:port" and room
    FORWARDED_TEXT = 400         # for="...";host=<253 characters>
    TRACE_TEXT = 55              # RFC-less: W3C Trace Context version 00


cdef void outbound_proceed(worker_t *w, flow_t *flow) noexcept nogil:
    cdef entry_t *entry = flow.entry
    cdef rec_endpoint *endpoint
    if flow.bits & B_REEVALUATE:
        flow.bits &= <uint8_t>~B_REEVALUATE
        if entry.action == ACT_DENY and flow.state == F_OPEN:
            w.page[PC_CLOSED_BY_POLICY] += 1
            flow_fail(w, flow, FLAG_DENY, b"closed due to policy change")
        if flow.state != F_ASKING:
            return
    flow.label_id = entry.label_id
    if entry.action == ACT_PASSTHROUGH:
        flow.protocol = PROTO_TCP
        flow_dial(w, flow, &flow.dst, False)
        return
    if entry.action != ACT_BALANCE:
        flow_refuse(w, flow, 0, entry.flag, b"")
        return
    endpoint = flowtable_pick(entry, next_random(w))
    if endpoint is NULL:
        flow_refuse(w, flow, 0, FLAG_CONNECT, b"no healthy upstream")
        return
    memcpy(flow.actual.ip, endpoint.ip, 16)
    flow.actual.port = endpoint.port
    flow.target_port = endpoint.target_port
    flow.label_id = endpoint.label_id
    flow.protocol = endpoint.protocol
    if endpoint.protocol == PROTO_TCP:
        flow_dial(w, flow, &flow.actual, False)
        return
    flow.authority = endpoint.authority
    flow.setup.sans_id = endpoint.sans_id
    flow.setup.cert_id = entry.cert_id
    use_tunnel(w, flow)


cdef void use_tunnel(worker_t *w, flow_t *flow) noexcept nogil:
    cdef cert_t *cert = <cert_t *>slot_find(w.certs, flow.setup.cert_id)
    cdef sans_t *sans = <sans_t *>slot_find(w.sans, flow.setup.sans_id)
    cdef tunnel_t *tunnel
    cdef int rc = 0
    if cert is NULL:
        flow_fail(w, flow, FLAG_IDENTITY_ERROR, b"identity error: no certificate for the source workload yet")
        return
    if sans is NULL:
        flow_fail(w, flow, FLAG_IDENTITY_ERROR, b"identity error: no expected identity for the destination")
        return
    tunnel = tunnel_obtain(w, flow, cert, sans, &rc)
    if tunnel is NULL:
        flow_fail(w, flow, FLAG_CONNECT, b"connection to the peer failed")
        return
    flow.tunnel = tunnel
    if tunnel.state == T_OPEN:
        send_connect(w, flow)
        return
    flow.state = F_TUNNEL
    tunnel.claimed += 1
    link_add(&tunnel.waiting, &flow.wait_link)


cdef void outbound_tunnel_open(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef flow_t *flow
    while tunnel.waiting.next is not &tunnel.waiting:
        flow = flow_of_wait(tunnel.waiting.next)
        link_del(&flow.wait_link)
        tunnel.claimed -= 1
        send_connect(w, flow)


cdef size_t put_address(char *out, const addr_t *address, uint16_t port) noexcept nogil:
    cdef size_t size
    cdef char digits[5]
    cdef int at = 5
    if addr_is_v4(address):
        size = addr_text(address, out)
    else:
        out[0] = c"["
        size = 1 + addr_text(address, out + 1)
        out[size] = c"]"
        size += 1
    out[size] = c":"
    size += 1
    while port or at == 5:
        at -= 1
        digits[at] = <char>(c"0" + port % 10)
        port //= 10
    memcpy(out + size, digits + at, <size_t>(5 - at))
    return size + <size_t>(5 - at)


cdef size_t put_forwarded(char *out, flow_t *flow) noexcept nogil:
    cdef size_t size = 5, host_len = flow.entry.host_len
    memcpy(out, b'for="', 5)
    size += put_address(out + size, &flow.src, flow.src.port)
    out[size] = c'"'
    size += 1
    if host_len and host_len <= 253:
        memcpy(out + size, b";host=", 6)
        size += 6
        memcpy(out + size, flow.entry.text + flow.entry.baggage_len, host_len)
        size += host_len
    return size


cdef void put_trace(worker_t *w, char *out) noexcept nogil:
    """00-<trace id>-<span id>-00: fresh ids, never sampled, as upstream sends them."""
    cdef const char *digits = b"0123456789abcdef"
    cdef uint64_t bits = 0
    cdef int i, left = 0, at = 3
    memcpy(out, b"00-", 3)
    for i in range(48):
        if left == 0:
            bits = next_random(w)
            left = 16
        out[at] = digits[bits & 15]
        bits >>= 4
        left -= 1
        at += 1
        if i == 31:
            out[at] = c"-"
            at += 1
    memcpy(out + at, b"-00", 3)


cdef void send_connect(worker_t *w, flow_t *flow) noexcept nogil:
    cdef nghttp2_nv fields[5]
    cdef char authority[AUTHORITY_TEXT]
    cdef char forwarded[FORWARDED_TEXT]
    cdef char trace[TRACE_TEXT]
    cdef size_t authority_len, count = 4
    cdef tunnel_t *tunnel = flow.tunnel
    cdef const addr_t *target = &flow.dst if flow.authority == AUTH_ORIGINAL else &flow.actual
    authority_len = put_address(authority, target, flow.dst.port if flow.authority == AUTH_ORIGINAL
                                else flow.target_port)
    put_trace(w, trace)
    # What differs per connection would only push the rest out of the HPACK table.
    fields[0] = nghttp2_nv(<uint8_t *><char *>b":method", <uint8_t *><char *>b"CONNECT", 7, 7, NGHTTP2_NV_FLAG_NONE)
    fields[1] = nghttp2_nv(<uint8_t *><char *>b":authority", <uint8_t *>authority, 10, authority_len,
                           NGHTTP2_NV_FLAG_NONE)
    fields[2] = nghttp2_nv(<uint8_t *><char *>b"forwarded", <uint8_t *>forwarded, 9, put_forwarded(forwarded, flow),
                           NGHTTP2_NV_FLAG_NO_INDEX)
    fields[3] = nghttp2_nv(<uint8_t *><char *>b"traceparent", <uint8_t *>trace, 11, TRACE_TEXT,
                           NGHTTP2_NV_FLAG_NO_INDEX)
    if flow.entry.baggage_len:
        fields[4] = nghttp2_nv(<uint8_t *><char *>b"baggage", <uint8_t *>flow.entry.text, 7, flow.entry.baggage_len,
                               NGHTTP2_NV_FLAG_NONE)
        count = 5
    flow.state = F_REQUESTED
    h2_add(&tunnel.h2, &flow.stream, tunnel.h2.next_id)
    tunnel.h2.next_id += 2
    if tunnel.h2.next_id > 2147000000:
        tunnel.draining = 1      # stream ids are used up: no new stream here
    timer_set(&w.wheel, &flow.setup.timer, w.now_ms + w.config.response_timeout_ms, flow_timeout, flow)
    if h2_headers(&tunnel.h2, &flow.stream, fields, count, False) < 0:
        flow_fail(w, flow, FLAG_CONNECT, b"request headers cannot be encoded")


cdef void outbound_field(worker_t *w, flow_t *flow, const char *name, size_t name_len, const char *value,
                         size_t value_len) noexcept nogil:
    if name_len == 7 and value_len == 3 and memcmp(name, b":status", 7) == 0:
        flow.status = <uint16_t>((value[0] - 48) * 100 + (value[1] - 48) * 10 + (value[2] - 48))


cdef void outbound_headers(worker_t *w, flow_t *flow, bint end) noexcept nogil:
    if flow.state != F_REQUESTED:
        return
    if 100 <= flow.status < 200:
        flow.status = 0
        return                   # interim answer; the final one follows
    flow.stream.flags |= S_ANSWERED
    if flow.status != 200:
        flow_refuse(w, flow, 0, FLAG_DENY if flow.status == 401 else FLAG_CONNECT, b"refused by the peer")
        return
    flow.status = 0
    if end:
        flow.bits |= B_REMOTE_END
    flow_open(w, flow)


cdef void outbound_retry(worker_t *w, flow_t *flow) noexcept nogil:
    """The peer never answered and nothing was sent: another connection may do."""
    flow.setup.retries += 1
    flow.tunnel = NULL
    flow.state = F_TUNNEL
    flow.stream.flags = 0
    use_tunnel(w, flow)
