"""The HTTP/2 engine by itself: bytes in, events and bytes out.

For unit tests, fuzzers and replayed benchmarks; no component imports it. The engine's calls are recorded in C
memory and turned into Python objects afterwards, so what runs here is what runs in the worker.
"""

cimport cython
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from collections import namedtuple

from meshcore.h2 cimport h2_destroy, h2_init, h2_input
from meshcore.h2out cimport (h2_add, h2_consumed, h2_data_head, h2_find, h2_headers, h2_remove, h2_reset, h2_start)
from meshcore.h2types cimport *
from meshcore.nghttp2 cimport NGHTTP2_NV_FLAG_NONE, nghttp2_nv

Event = namedtuple("Event", ("kind", "stream", "value", "data"), module="meshcore.h2probe")

cdef enum:
    FIELDS_MAX = 32
    STREAMS_KEPT = 512           # stream objects; the engine refuses more

cdef enum event_kind:
    E_STREAM = 0
    E_HEADER = 1
    E_HEADERS = 2
    E_DATA = 3
    E_RESET = 4
    E_WINDOW = 5
    E_GOAWAY = 6
    E_PONG = 7

_KINDS = ("stream", "header", "headers", "data", "reset", "window", "goaway", "pong")

cdef struct log_t:               # 0 <= size <= cap
    uint8_t *data
    size_t size
    size_t cap

cdef struct event_head:
    uint32_t kind
    uint32_t stream
    uint32_t value
    uint32_t size

cdef struct probe_t:
    h2_conn conn
    log_t events
    log_t output
    bint no_memory


cdef void put(probe_t *probe, log_t *log, const void *data, size_t size) noexcept nogil:
    cdef uint8_t *grown
    cdef size_t cap = log.cap if log.cap else 4096
    while cap < log.size + size:
        cap *= 2
    if cap > log.cap:
        grown = <uint8_t *>realloc(log.data, cap)
        if grown is NULL:
            probe.no_memory = True
            return
        log.data = grown
        log.cap = cap
    if size:
        memcpy(log.data + log.size, data, size)
    log.size += size


cdef void note(h2_conn *conn, int kind, uint32_t stream, uint32_t value, const void *data, size_t size) noexcept nogil:
    cdef probe_t *probe = <probe_t *>conn.owner
    cdef event_head head
    head.kind = <uint32_t>kind
    head.stream = stream
    head.value = value
    head.size = <uint32_t>size
    put(probe, &probe.events, &head, sizeof(head))
    put(probe, &probe.events, data, size)


cdef h2_stream *on_stream(h2_conn *conn, uint32_t id) noexcept nogil:
    cdef h2_stream *stream
    if conn.streams >= STREAMS_KEPT:
        return NULL
    stream = <h2_stream *>calloc(1, sizeof(h2_stream))
    if stream is not NULL:
        note(conn, E_STREAM, id, 0, NULL, 0)
    return stream


cdef void on_header(h2_conn *conn, h2_stream *stream, const nghttp2_nv *field) noexcept nogil:
    cdef probe_t *probe = <probe_t *>conn.owner
    cdef event_head head
    head.kind = E_HEADER
    head.stream = stream.id
    head.value = <uint32_t>field.namelen
    head.size = <uint32_t>(field.namelen + field.valuelen)
    put(probe, &probe.events, &head, sizeof(head))
    put(probe, &probe.events, field.name, field.namelen)
    put(probe, &probe.events, field.value, field.valuelen)


cdef void close_when_done(h2_conn *conn, h2_stream *stream) noexcept nogil:
    if stream.flags & S_LOCAL_END and stream.flags & S_REMOTE_END:
        h2_remove(conn, stream)
        free(stream)


cdef void on_headers(h2_conn *conn, h2_stream *stream, bint end) noexcept nogil:
    stream.flags |= S_ANSWERED if not conn.server else 0
    note(conn, E_HEADERS, stream.id, end, NULL, 0)


cdef void on_data(h2_conn *conn, h2_stream *stream, const uint8_t *data, uint32_t size, bint end) noexcept nogil:
    note(conn, E_DATA, stream.id, end, data, size)
    close_when_done(conn, stream)


cdef void on_reset(h2_conn *conn, h2_stream *stream, uint32_t code) noexcept nogil:
    note(conn, E_RESET, 0, code, NULL, 0)
    free(stream)


cdef void on_window(h2_conn *conn, h2_stream *stream) noexcept nogil:
    if stream is NULL:
        note(conn, E_WINDOW, 0, <uint32_t>conn.send_window, NULL, 0)
    else:
        note(conn, E_WINDOW, stream.id, <uint32_t>stream.send_window, NULL, 0)


cdef void on_goaway(h2_conn *conn, uint32_t last, uint32_t code) noexcept nogil:
    note(conn, E_GOAWAY, last, code, NULL, 0)


cdef void on_pong(h2_conn *conn) noexcept nogil:
    note(conn, E_PONG, 0, 0, NULL, 0)


cdef void emit(h2_conn *conn, const uint8_t *frame, size_t size) noexcept nogil:
    cdef probe_t *probe = <probe_t *>conn.owner
    put(probe, &probe.output, frame, size)


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


@cython.final
cdef class H2Probe:
    """One connection without a socket. A server starts by reading the client's preface."""

    cdef probe_t *probe

    def __cinit__(self, bint server, *, uint32_t window=4194304, uint32_t conn_window=16777216,
                  uint32_t frame_max=1048576, uint32_t header_max=65536, uint32_t streams_max=200):
        self.probe = <probe_t *>calloc(1, sizeof(probe_t))
        if self.probe is NULL or h2_init(&self.probe.conn, &OPS, self.probe, server, 0) < 0:
            raise MemoryError
        self.probe.conn.window = window
        self.probe.conn.conn_window = conn_window
        self.probe.conn.frame_max = frame_max
        self.probe.conn.header_max = header_max
        self.probe.conn.streams_max = streams_max
        h2_start(&self.probe.conn)

    def __dealloc__(self):
        cdef h2_stream *stream
        cdef int i
        if self.probe is NULL:
            return
        for i in range(H2_BUCKETS):
            while self.probe.conn.buckets[i] is not NULL:
                stream = self.probe.conn.buckets[i]
                self.probe.conn.buckets[i] = stream.next
                free(stream)
        h2_destroy(&self.probe.conn)
        free(self.probe.events.data)
        free(self.probe.output.data)
        free(self.probe)

    cdef h2_stream *find(self, uint32_t stream_id) except NULL:
        cdef h2_stream *stream = h2_find(&self.probe.conn, stream_id)
        if stream is NULL:
            raise KeyError(stream_id)
        return stream

    def feed(self, bytes data not None, uint64_t now_ms=0):
        """Parse `data`. -> False when the connection has to end: see `error` and `abuse`."""
        cdef const uint8_t *at = data
        cdef size_t size = len(data)
        cdef int rc
        self.probe.conn.now_ms = now_ms
        with nogil:
            rc = h2_input(&self.probe.conn, at, size)
        if self.probe.no_memory:
            raise MemoryError
        return rc == 0

    def take_events(self):
        """What the engine said since the last call, in order."""
        cdef size_t at = 0
        cdef event_head head
        events = []
        while at < self.probe.events.size:
            memcpy(&head, self.probe.events.data + at, sizeof(head))
            at += sizeof(head)
            events.append(Event(_KINDS[head.kind], head.stream, head.value, self.probe.events.data[at:at + head.size]))
            at += head.size
        self.probe.events.size = 0
        return events

    def take_output(self):
        """The bytes the engine wants to send."""
        out = self.probe.output.data[:self.probe.output.size] if self.probe.output.size else b""
        self.probe.output.size = 0
        return out

    cdef int put_headers(self, h2_stream *stream, list fields, bint end) except -1:
        cdef nghttp2_nv values[FIELDS_MAX]
        cdef size_t count = len(fields)
        cdef int i
        if count > FIELDS_MAX:
            raise ValueError(f"at most {FIELDS_MAX} fields")
        for i, (name, value) in enumerate(fields):
            values[i].name = <uint8_t *><char *>name
            values[i].value = <uint8_t *><char *>value
            values[i].namelen = len(name)
            values[i].valuelen = len(value)
            values[i].flags = NGHTTP2_NV_FLAG_NONE
        if h2_headers(&self.probe.conn, stream, values, count, end) < 0:
            raise ValueError("the fields do not fit one header block")
        return 0

    def open(self, list fields not None):
        """Client: send a request. -> stream id."""
        cdef h2_stream *stream = <h2_stream *>calloc(1, sizeof(h2_stream))
        if stream is NULL:
            raise MemoryError
        h2_add(&self.probe.conn, stream, self.probe.conn.next_id)
        self.probe.conn.next_id += 2
        self.put_headers(stream, fields, False)
        return stream.id

    def answer(self, uint32_t stream_id, list fields not None, bint end=False):
        """Server: send response headers."""
        cdef h2_stream *stream = self.find(stream_id)
        stream.flags |= S_ANSWERED
        self.put_headers(stream, fields, end)

    def data(self, uint32_t stream_id, bytes payload not None, bint end=False):
        """Send a DATA frame, whatever the windows say."""
        cdef h2_stream *stream = self.find(stream_id)
        cdef uint8_t head[H2_HEAD]
        cdef const uint8_t *at = payload
        cdef size_t size = len(payload)
        h2_data_head(&self.probe.conn, stream, head, <uint32_t>size, end)
        put(self.probe, &self.probe.output, head, H2_HEAD)
        put(self.probe, &self.probe.output, at, size)
        close_when_done(&self.probe.conn, stream)

    def reset(self, uint32_t stream_id, uint32_t code):
        cdef h2_stream *stream = self.find(stream_id)
        h2_reset(&self.probe.conn, stream, code)
        free(stream)

    def consumed(self, uint32_t stream_id, uint32_t size):
        """The application took `size` bytes of the stream."""
        h2_consumed(&self.probe.conn, self.find(stream_id), size)

    def send_window(self, uint32_t stream_id):
        """What may still be sent on the stream, or on the connection when it is 0."""
        return self.probe.conn.send_window if stream_id == 0 else self.find(stream_id).send_window

    @property
    def error(self):
        """Code of the connection error (RFC 9113 section 7)."""
        return self.probe.conn.error

    @property
    def abuse(self):
        """Which limit was passed (meshcore/h2types.pxd, h2_abuse)."""
        return self.probe.conn.abuse

    @property
    def streams(self):
        return self.probe.conn.streams
