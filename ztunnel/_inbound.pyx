"""Inbound side of the worker. No Python surface."""

from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from meshcore.h2out cimport h2_reset
from meshcore.h2types cimport H2_PROTOCOL_ERROR, h2_stream
from meshcore.linux cimport AF_INET, AF_INET6, inet_pton
from meshcore.records cimport *
from ztunnel._decide cimport decide
from ztunnel._flow cimport flow_dial, flow_end, flow_fail, flow_new, flow_refuse
from ztunnel._types cimport *


cdef h2_stream *inbound_stream(worker_t *w, tunnel_t *tunnel) noexcept nogil:
    cdef flow_t *flow
    if tunnel.role != 1:
        return NULL
    if tunnel.request is NULL:
        tunnel.request = <request_t *>malloc(sizeof(request_t))
        if tunnel.request is NULL:
            return NULL
    memset(tunnel.request, 0, sizeof(request_t) - AUTHORITY_MAX - FORWARDED_MAX - BAGGAGE_MAX)
    flow = flow_new(w, tunnel.pod, DIR_INBOUND_HBONE)
    if flow is NULL:
        return NULL
    flow.tunnel = tunnel
    flow.src = tunnel.peer
    flow.protocol = PROTO_HBONE
    return &flow.stream


cdef inline bint same(const char *a, size_t a_len, const char *b, size_t b_len) noexcept nogil:
    return a_len == b_len and memcmp(a, b, a_len) == 0


cdef void forwarded_host(request_t *request, const char *value, size_t size) noexcept nogil:
    """`for="1.2.3.4:5";host=name`: the first part that starts with host= (RFC 7239, as upstream writes it)."""
    cdef const char *end = value + size
    cdef const char *next_part
    while value < end:
        next_part = <const char *>memchr(value, c";", <size_t>(end - value))
        if next_part is NULL:
            next_part = end
        if next_part - value > 5 and memcmp(value, b"host=", 5) == 0:
            value += 5
            size = <size_t>(next_part - value)
            if size >= 2 and value[0] == c'"' and value[size - 1] == c'"':
                value += 1
                size -= 2
            if 0 < size <= FORWARDED_MAX and printable(value, size):
                memcpy(request.forwarded, value, size)
                request.forwarded_len = <uint16_t>size
            return
        value = next_part + 1


cdef bint printable(const char *text, size_t size) noexcept nogil:
    cdef size_t i
    for i in range(size):
        if text[i] <= 32 or text[i] >= 127 or text[i] == c'"' or text[i] == c"\\":
            return False
    return True


cdef void inbound_field(worker_t *w, flow_t *flow, const char *name, size_t name_len, const char *value,
                        size_t value_len) noexcept nogil:
    cdef request_t *request = flow.tunnel.request
    if request is NULL:
        return
    if same(name, name_len, b":method", 7):
        request.connect = same(value, value_len, b"CONNECT", 7)
    elif same(name, name_len, b":authority", 10):
        if value_len > AUTHORITY_MAX:
            request.too_long = 1
        else:
            memcpy(request.authority, value, value_len)
            request.authority_len = <uint16_t>value_len
    elif same(name, name_len, b":scheme", 7) or same(name, name_len, b":path", 5):
        request.forbidden = 1
    elif same(name, name_len, b"forwarded", 9):
        forwarded_host(request, value, value_len)
    elif same(name, name_len, b"x-forwarded-network", 19):
        request.gateway = 1
    elif same(name, name_len, b"baggage", 7) and value_len <= BAGGAGE_MAX - request.baggage_len - 1:
        if request.baggage_len:
            request.baggage[request.baggage_len] = c","
            request.baggage_len += 1
        memcpy(request.baggage + request.baggage_len, value, value_len)
        request.baggage_len += <uint16_t>value_len


cdef bint parse_port(const char *text, size_t size, uint16_t *port) noexcept nogil:
    cdef uint32_t value = 0
    cdef size_t i
    if size == 0 or size > 5:
        return False
    for i in range(size):
        if text[i] < c"0" or text[i] > c"9":
            return False
        value = value * 10 + <uint32_t>(text[i] - c"0")
    port[0] = <uint16_t>value
    return 0 < value <= 65535


cdef bint parse_authority(request_t *request, addr_t *address, const char **host, size_t *host_len) noexcept nogil:
    """`ip:port`, `[ip]:port` or `name:port`; a name leaves the address zero."""
    cdef char text[AUTHORITY_MAX]
    cdef uint8_t v4[4]
    cdef size_t size = request.authority_len, colon = size, start = 0, end
    memset(address, 0, sizeof(addr_t))
    host_len[0] = 0
    while colon and request.authority[colon - 1] != c":":
        colon -= 1
    if colon < 2 or not parse_port(request.authority + colon, size - colon, &address.port):
        return False
    end = colon - 1
    if request.authority[0] == c"[" and request.authority[end - 1] == c"]":
        start, end = 1, end - 1
    if end <= start or end - start >= AUTHORITY_MAX:
        return False
    memcpy(text, request.authority + start, end - start)
    text[end - start] = 0
    if inet_pton(AF_INET, text, v4) == 1 and start == 0:
        address.ip[10] = address.ip[11] = 0xFF
        memcpy(address.ip + 12, v4, 4)
        return True
    if start:
        return inet_pton(AF_INET6, text, address.ip) == 1
    if not printable(request.authority, end) or memchr(request.authority, c":", end) is not NULL:
        return False
    host[0] = request.authority
    host_len[0] = end
    return True


cdef bint keep_texts(flow_t *flow, request_t *request, const char *host, size_t host_len) noexcept nogil:
    """The texts of this CONNECT for its flow. Those of a tunnel are mostly alike, so its flows share them."""
    cdef texts_t *last = flow.tunnel.texts
    cdef texts_t *texts
    cdef size_t baggage_len = request.baggage_len if request.gateway else 0
    cdef size_t size = host_len + request.forwarded_len + baggage_len
    if size == 0 and not request.gateway:
        return True
    texts = <texts_t *>malloc(sizeof(texts_t) + size)
    if texts is NULL:
        return False
    texts.users = 1
    texts.host_len = <uint16_t>host_len
    texts.forwarded_len = request.forwarded_len
    texts.baggage_len = <uint16_t>baggage_len
    texts.flags = UF_GATEWAY if request.gateway else 0
    if host_len:
        memcpy(texts.data, host, host_len)
    memcpy(texts.data + host_len, request.forwarded, request.forwarded_len)
    memcpy(texts.data + host_len + request.forwarded_len, request.baggage, baggage_len)
    if last is not NULL and same_texts(last, texts, size):
        free(texts)
        texts = last
    else:
        texts_release(last)
        flow.tunnel.texts = texts
    texts.users += 1
    flow.extra.texts = texts
    return True


cdef bint same_texts(const texts_t *a, const texts_t *b, size_t size) noexcept nogil:
    return (a.host_len == b.host_len and a.forwarded_len == b.forwarded_len and a.baggage_len == b.baggage_len
            and a.flags == b.flags and memcmp(a.data, b.data, size) == 0)


cdef void inbound_headers(worker_t *w, flow_t *flow, bint end) noexcept nogil:
    cdef request_t *request = flow.tunnel.request
    cdef const char *host = NULL
    cdef size_t host_len = 0
    flow.tunnel.request = NULL
    if end:
        flow.bits |= B_REMOTE_END
    if request is NULL:
        flow_fail(w, flow, FLAG_CONNECT, b"out of memory")
    elif not request.connect:
        flow_refuse(w, flow, 400, FLAG_NONE, b"method is not CONNECT")
    elif request.forbidden:
        # RFC 9113 section 8.5: a CONNECT carries neither; the stream is malformed.
        h2_reset(&flow.tunnel.h2, &flow.stream, H2_PROTOCOL_ERROR)
        flow_end(w, flow, b"CONNECT with :scheme or :path")
    elif request.too_long or not parse_authority(request, &flow.dst, &host, &host_len):
        flow_refuse(w, flow, 400, FLAG_NONE, b"authority is neither ip:port nor host:port")
    elif not keep_texts(flow, request, host, host_len):
        flow_fail(w, flow, FLAG_CONNECT, b"out of memory")
    else:
        free(request)
        decide(w, flow)
        return
    free(request)


cdef void inbound_proceed(worker_t *w, flow_t *flow) noexcept nogil:
    cdef entry_t *entry = flow.entry
    cdef int status = entry.status if entry.status else 503
    cdef addr_t to
    if flow.bits & B_REEVALUATE:
        flow.bits &= <uint8_t>~B_REEVALUATE
        if entry.action == ACT_DENY and flow.state == F_OPEN:
            w.page[PC_CLOSED_BY_POLICY] += 1
            flow_fail(w, flow, FLAG_DENY, b"closed due to policy change")
        if flow.state != F_ASKING:
            return
    flow.label_id = entry.label_id
    if entry.action != ACT_DELIVER or entry.endpoints == 0:
        flow_refuse(w, flow, status, entry.flag, b"")
        return
    if entry.flags & VF_PROXY_PROTOCOL:
        # Without its header the application would take the proxy for the client: refuse rather than mislead.
        flow_refuse(w, flow, 503, FLAG_CONNECT, b"application tunnel protocol PROXY is not supported")
        return
    memcpy(to.ip, entry.endpoint.ip, 16)
    to.port = entry.endpoint.port
    flow.target_port = entry.endpoint.target_port
    flow_dial(w, flow, &to, entry.flags & VF_SPOOF)
