"""HTTP/2 output and stream table of one connection (RFC 9113). No Python surface."""

from libc.string cimport memcpy

from meshcore.be cimport be_store16, be_store24, be_store32
from meshcore.h2types cimport *
from meshcore.nghttp2 cimport nghttp2_hd_deflate_hd, nghttp2_nv

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

cdef enum:
    HEADERS_OUT = 8192           # bytes of one encoded request of ours; baggage is the largest part


cdef void h2_add(h2_conn *conn, h2_stream *stream, uint32_t id) noexcept nogil:
    cdef h2_stream **bucket = &conn.buckets[(id >> 1) & (H2_BUCKETS - 1)]
    stream.id = id
    stream.send_window = <int32_t>conn.peer_window
    stream.recv_window = <int32_t>conn.window
    stream.recv_credit = 0
    stream.flags = 0
    stream.next = bucket[0]
    bucket[0] = stream
    conn.streams += 1


cdef void h2_remove(h2_conn *conn, h2_stream *stream) noexcept nogil:
    cdef h2_stream **link
    if stream.id == 0:
        return
    link = &conn.buckets[(stream.id >> 1) & (H2_BUCKETS - 1)]
    while link[0] is not stream:
        link = &link[0].next
    link[0] = stream.next
    stream.next = NULL
    stream.id = 0
    stream.flags |= S_DEAD
    conn.streams -= 1


cdef h2_stream *h2_find(h2_conn *conn, uint32_t id) noexcept nogil:
    cdef h2_stream *stream = conn.buckets[(id >> 1) & (H2_BUCKETS - 1)]
    while stream is not NULL and stream.id != id:
        stream = stream.next
    return stream


cdef void h2_put_head(uint8_t *head, uint32_t size, int kind, int flags, uint32_t stream_id) noexcept nogil:
    be_store24(head, size)
    head[3] = <uint8_t>kind
    head[4] = <uint8_t>flags
    be_store32(head + 5, stream_id)


cdef void h2_emit_u32(h2_conn *conn, int kind, uint32_t stream_id, uint32_t value) noexcept nogil:
    cdef uint8_t frame[H2_HEAD + 4]
    h2_put_head(frame, 4, kind, 0, stream_id)
    be_store32(frame + H2_HEAD, value)
    conn.ops.emit(conn, frame, H2_HEAD + 4)


cdef void put_setting(uint8_t *at, int key, uint32_t value) noexcept nogil:
    be_store16(at, key)
    be_store32(at + 2, value)


cdef void h2_start(h2_conn *conn) noexcept nogil:
    cdef uint8_t out[H2_PREFACE_LEN + H2_HEAD + 24]
    cdef uint8_t *frame = out
    cdef uint8_t *body
    if not conn.server:
        memcpy(out, PREFACE, H2_PREFACE_LEN)
        frame = out + H2_PREFACE_LEN
    body = frame + H2_HEAD
    put_setting(body, SET_WINDOW, conn.window)
    put_setting(body + 6, SET_FRAME, conn.frame_max)
    put_setting(body + 12, SET_HEADER_LIST, conn.header_max)
    if conn.server:
        put_setting(body + 18, SET_STREAMS, conn.streams_max)
    else:
        put_setting(body + 18, SET_PUSH, 0)
    h2_put_head(frame, 24, F_SETTINGS, 0, 0)
    conn.ops.emit(conn, out, <size_t>(body + 24 - out))
    if conn.conn_window > H2_WINDOW_START:
        h2_emit_u32(conn, F_WINDOW_UPDATE, 0, conn.conn_window - H2_WINDOW_START)
        conn.recv_window = conn.conn_window


cdef int h2_headers(h2_conn *conn, h2_stream *stream, const nghttp2_nv *fields, size_t count, bint end) noexcept nogil:
    cdef uint8_t out[H2_HEAD + HEADERS_OUT]
    cdef ssize_t size
    # HEADERS_OUT is below the smallest MAX_FRAME_SIZE, so one frame always holds the block.
    size = nghttp2_hd_deflate_hd(conn.deflater, out + H2_HEAD, HEADERS_OUT, fields, count)
    if size < 0:
        return -1
    h2_put_head(out, <uint32_t>size, F_HEADERS, FL_END_HEADERS | (FL_END_STREAM if end else 0), stream.id)
    if end:
        stream.flags |= S_LOCAL_END
    conn.ops.emit(conn, out, H2_HEAD + <size_t>size)
    return 0


cdef void h2_data_head(h2_conn *conn, h2_stream *stream, uint8_t *head, uint32_t size, bint end) noexcept nogil:
    cdef int flags = FL_END_STREAM if end else 0
    h2_put_head(head, size, F_DATA, flags, stream.id)
    stream.send_window -= <int32_t>size
    conn.send_window -= size
    if end:
        stream.flags |= S_LOCAL_END


cdef void h2_reset(h2_conn *conn, h2_stream *stream, uint32_t code) noexcept nogil:
    if stream.id == 0:
        return
    h2_emit_u32(conn, F_RST_STREAM, stream.id, code)
    if not stream.flags & S_REMOTE_END:
        # Until the peer hears of it, it may fill the window and say that it has ended (RFC 9113 section 5.1).
        conn.late += 1 + (<uint64_t>stream.recv_window if stream.recv_window > 0 else 0)
    h2_remove(conn, stream)


cdef void h2_consumed(h2_conn *conn, h2_stream *stream, uint32_t size) noexcept nogil:
    if stream.id == 0 or stream.flags & S_REMOTE_END:
        return
    stream.recv_credit += size
    # Half a window at a time: the peer never stalls for credit and a bulk stream costs few frames.
    if stream.recv_credit >= conn.window // 2:
        h2_emit_u32(conn, F_WINDOW_UPDATE, stream.id, stream.recv_credit)
        stream.recv_window += <int32_t>stream.recv_credit
        stream.recv_credit = 0


cdef void h2_credit(h2_conn *conn, uint32_t size) noexcept nogil:
    conn.recv_credit += size
    if conn.recv_credit >= conn.conn_window // 4 and not conn.hold_credit:
        h2_emit_u32(conn, F_WINDOW_UPDATE, 0, conn.recv_credit)
        conn.recv_window += conn.recv_credit
        conn.recv_credit = 0


cdef void h2_ping(h2_conn *conn) noexcept nogil:
    cdef uint8_t frame[H2_HEAD + 8]
    h2_put_head(frame, 8, F_PING, 0, 0)
    memcpy(frame + H2_HEAD, b"mesh\x00\x00\x00\x01", 8)
    conn.ops.emit(conn, frame, H2_HEAD + 8)


cdef void h2_goaway(h2_conn *conn, uint32_t last, uint32_t code) noexcept nogil:
    cdef uint8_t frame[H2_HEAD + 8]
    h2_put_head(frame, 8, F_GOAWAY, 0, 0)
    be_store32(frame + H2_HEAD, last)
    be_store32(frame + H2_HEAD + 4, code)
    conn.goaway_sent = True
    conn.goaway_last = last
    conn.ops.emit(conn, frame, H2_HEAD + 8)
