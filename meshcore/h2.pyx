"""HTTP/2 engine of one connection, sans I/O (RFC 9113). No Python surface.

Only what a CONNECT tunnel needs is accepted: no push, no trailers, no priorities.
"""

from libc.errno cimport ENOMEM
from libc.string cimport memcmp, memcpy, memset

from meshcore.be cimport be_load16, be_load24, be_load32
from meshcore.h2out cimport *
from meshcore.h2types cimport *
from meshcore.nghttp2 cimport *

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

cdef enum parse_mode:
    P_PREFACE = 0
    P_HEAD = 1
    P_PAD_LENGTH = 2
    P_PRIORITY = 3               # the five bytes before a header fragment
    P_DATA = 4
    P_FRAGMENT = 5
    P_SMALL = 6
    P_SKIP = 7                   # padding and what nobody reads

cdef enum:
    # Floods: a burst, then a rate. A peer that opens and resets without waiting for an answer gains work
    # from us for nothing (CVE-2023-44487), so only such resets count.
    RESET_BURST = 1000
    RESET_RATE = 200             # per second
    PING_BURST = 100
    PING_RATE = 10
    SETTINGS_BURST = 50
    SETTINGS_RATE = 5
    EMPTY_BURST = 1000           # DATA without bytes or end, and frames on closed streams
    EMPTY_RATE = 200
    CONTINUATION_MAX = 64        # frames of one header block (CVE-2024-24549 and kin)
    FRAGMENT_MAX = 131072        # bytes of one encoded header block
    PRIORITY_BYTES = 5
    HPACK_TABLE = 4096           # bytes; the default both sides start from, RFC 7541 section 6.5.2


cdef bint flood(h2_conn *conn, h2_bucket_t *bucket, uint32_t burst, uint32_t rate) noexcept nogil:
    """Takes a token; True when there is none."""
    cdef uint64_t gained = (conn.now_ms - bucket.at_ms) * rate // 1000
    if gained:
        bucket.tokens = burst if gained > burst - bucket.tokens else bucket.tokens + <uint32_t>gained
        bucket.at_ms = conn.now_ms
    if bucket.tokens == 0:
        return True
    bucket.tokens -= 1
    return False


cdef int fail(h2_conn *conn, int code, int abuse) noexcept nogil:
    conn.error = <uint8_t>code
    conn.abuse = <uint8_t>abuse
    return -1


cdef int h2_init(h2_conn *conn, const h2_ops *ops, void *owner, bint server, uint64_t now_ms) noexcept nogil:
    memset(conn, 0, sizeof(h2_conn))
    conn.ops = ops
    conn.owner = owner
    conn.server = server
    conn.now_ms = now_ms
    conn.send_window = H2_WINDOW_START
    conn.recv_window = H2_WINDOW_START
    conn.peer_window = H2_WINDOW_START
    conn.peer_frame_max = H2_FRAME_MIN
    conn.peer_streams_max = 100  # assumed until the peer's SETTINGS, as upstream does
    conn.next_id = 1
    conn.mode = P_PREFACE if server else P_HEAD
    conn.resets = h2_bucket_t(RESET_BURST, now_ms)
    conn.pings = h2_bucket_t(PING_BURST, now_ms)
    conn.settings = h2_bucket_t(SETTINGS_BURST, now_ms)
    conn.empties = h2_bucket_t(EMPTY_BURST, now_ms)
    if nghttp2_hd_deflate_new(&conn.deflater, HPACK_TABLE) != 0 or nghttp2_hd_inflate_new(&conn.inflater) != 0:
        h2_destroy(conn)
        return -ENOMEM
    return 0


cdef void h2_destroy(h2_conn *conn) noexcept nogil:
    if conn.deflater is not NULL:
        nghttp2_hd_deflate_del(conn.deflater)
        conn.deflater = NULL
    if conn.inflater is not NULL:
        nghttp2_hd_inflate_del(conn.inflater)
        conn.inflater = NULL


cdef bint is_idle(h2_conn *conn, uint32_t id) noexcept nogil:
    """Has nobody opened this stream yet?"""
    if (id & 1) == (1 if conn.server else 0):
        return id > conn.last_id
    return conn.server or id >= conn.next_id


cdef int stream_error(h2_conn *conn, h2_stream *stream, uint32_t code) noexcept nogil:
    """Reset a stream for what the peer did to it: 0, or -1 when it does so too often.

    Resets that a client provokes cost us what its own would (CVE-2025-8671), so they come out of the same bucket.
    """
    cdef bint counts = conn.server and not stream.flags & S_ANSWERED
    h2_reset(conn, stream, code)
    conn.ops.on_reset(conn, stream, code)
    if counts and flood(conn, &conn.resets, RESET_BURST, RESET_RATE):
        return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_RESET)
    return 0


# === input ===

cdef int h2_input(h2_conn *conn, const uint8_t *data, size_t size) noexcept nogil:
    cdef size_t n, kept
    cdef int rc
    while size:
        n = 0
        if conn.mode == P_DATA:
            n = conn.left if size > conn.left else size
            take_data(conn, data, <uint32_t>n)
            rc = 0
        elif conn.mode == P_HEAD:
            n = H2_HEAD - conn.have
            if n > size:
                n = size
            memcpy(&conn.head[conn.have], data, n)
            conn.have += <uint8_t>n
            rc = take_head(conn) if conn.have == H2_HEAD else 0
        elif conn.mode == P_FRAGMENT:
            n = conn.left if size > conn.left else size
            rc = take_fragment(conn, data, n)
        elif conn.mode == P_SMALL:
            n = conn.left if size > conn.left else size
            kept = H2_SMALL - conn.have if n > <size_t>(H2_SMALL - conn.have) else n
            memcpy(&conn.small[conn.have], data, kept)
            conn.have += <uint8_t>kept
            conn.left -= <uint32_t>n
            rc = take_small(conn) if conn.left == 0 else 0
        elif conn.mode == P_SKIP:
            n = conn.left if size > conn.left else size
            conn.left -= <uint32_t>n
            rc = 0
            if conn.left == 0:
                next_frame(conn)
        elif conn.mode == P_PAD_LENGTH:
            n = 1
            rc = take_pad_length(conn, data[0])
        elif conn.mode == P_PRIORITY:
            n = PRIORITY_BYTES - conn.have
            if n > size:
                n = size
            conn.have += <uint8_t>n
            conn.left -= <uint32_t>n
            rc = begin_fragment(conn) if conn.have == PRIORITY_BYTES else 0
        else:
            n = H2_PREFACE_LEN - conn.preface
            if n > size:
                n = size
            if memcmp(data, PREFACE + conn.preface, n) != 0:
                return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
            conn.preface += <uint32_t>n
            rc = 0
            if conn.preface == H2_PREFACE_LEN:
                next_frame(conn)
        if rc < 0:
            return rc
        data += n
        size -= n
    return 0


cdef void next_frame(h2_conn *conn) noexcept nogil:
    conn.mode = P_HEAD
    conn.have = 0


cdef void skip_padding(h2_conn *conn) noexcept nogil:
    if conn.pad == 0:
        next_frame(conn)
        return
    conn.left = conn.pad
    conn.pad = 0
    conn.mode = P_SKIP


cdef int take_head(h2_conn *conn) noexcept nogil:
    cdef uint32_t size = be_load24(conn.head)
    conn.type = conn.head[3]
    conn.flags = conn.head[4]
    conn.stream_id = be_load32(conn.head + 5) & 0x7FFFFFFF
    conn.left = size
    conn.pad = 0
    conn.have = 0
    if size > conn.frame_max:
        return fail(conn, H2_FRAME_SIZE_ERROR, ABUSE_FRAME)
    if conn.header_stream and (conn.type != F_CONTINUATION or conn.stream_id != conn.header_stream):
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    if not conn.settings_seen and (conn.type != F_SETTINGS or conn.flags & FL_ACK):
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    if conn.type == F_DATA:
        return begin_data(conn)
    if conn.type == F_HEADERS:
        return begin_headers(conn)
    if conn.type == F_CONTINUATION:
        if conn.header_stream == 0:
            return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
        conn.header_frames += 1
        if conn.header_frames > CONTINUATION_MAX:
            return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_HEADERS)
        return begin_fragment(conn)
    if conn.type == F_PUSH_PROMISE:
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    if conn.type > F_CONTINUATION:               # unknown types are ignored, RFC 9113 section 5.5
        if size == 0 and flood(conn, &conn.empties, EMPTY_BURST, EMPTY_RATE):
            return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_EMPTY)
        conn.mode = P_SKIP
        if size == 0:
            next_frame(conn)
        return 0
    conn.mode = P_SMALL
    return check_small(conn, size)


cdef int check_small(h2_conn *conn, uint32_t size) noexcept nogil:
    """Sizes and stream ids that are wrong whatever the payload says (RFC 9113 section 6)."""
    cdef bint on_stream = conn.type == F_PRIORITY or conn.type == F_RST_STREAM
    if conn.type != F_WINDOW_UPDATE and on_stream != (conn.stream_id != 0):
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    if ((conn.type == F_PRIORITY and size != 5) or (conn.type == F_RST_STREAM and size != 4)
            or (conn.type == F_PING and size != 8) or (conn.type == F_WINDOW_UPDATE and size != 4)
            or (conn.type == F_GOAWAY and size < 8)):
        return fail(conn, H2_FRAME_SIZE_ERROR, ABUSE_FRAME)
    if conn.type == F_SETTINGS:
        if size % 6 or (conn.flags & FL_ACK and size):
            return fail(conn, H2_FRAME_SIZE_ERROR, ABUSE_FRAME)
        if size > H2_SMALL:
            return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_SETTINGS)
        if size == 0:
            return take_small(conn)
    return 0


cdef int take_pad_length(h2_conn *conn, uint8_t pad) noexcept nogil:
    conn.left -= 1
    if pad > conn.left:
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    conn.pad = pad
    conn.left -= pad
    if conn.type == F_DATA:
        return enter_data(conn)
    return enter_headers(conn)


# --- DATA ---

cdef int begin_data(h2_conn *conn) noexcept nogil:
    cdef h2_stream *stream
    cdef uint32_t cost = conn.left if conn.left else 1   # of a late frame: a bare END_STREAM is not free
    if conn.stream_id == 0:
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    if is_idle(conn, conn.stream_id):
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    # Padding counts against both windows; it comes back with the connection's credit and at once for the stream.
    conn.recv_window -= conn.left
    if conn.recv_window < 0:
        return fail(conn, H2_FLOW_CONTROL_ERROR, ABUSE_WINDOW)
    h2_credit(conn, conn.left)
    stream = h2_find(conn, conn.stream_id)
    if stream is NULL and conn.late >= cost:
        conn.late -= cost        # was on its way when we reset the stream: ignored
    elif stream is NULL or stream.flags & S_REMOTE_END:
        # This ends the stream only, and a flood of it the connection.
        if flood(conn, &conn.empties, EMPTY_BURST, EMPTY_RATE):
            return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_EMPTY)
        if stream is NULL:
            h2_emit_u32(conn, F_RST_STREAM, conn.stream_id, H2_STREAM_CLOSED)
        elif stream_error(conn, stream, H2_STREAM_CLOSED) < 0:
            return -1
    else:
        stream.recv_window -= <int32_t>conn.left
        if stream.recv_window < 0:
            conn.abuse = ABUSE_WINDOW
            if stream_error(conn, stream, H2_FLOW_CONTROL_ERROR) < 0:
                return -1
    if conn.left == 0 and not conn.flags & FL_END_STREAM and flood(conn, &conn.empties, EMPTY_BURST, EMPTY_RATE):
        return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_EMPTY)
    if conn.flags & FL_PADDED:
        if conn.left == 0:
            return fail(conn, H2_FRAME_SIZE_ERROR, ABUSE_FRAME)
        conn.mode = P_PAD_LENGTH
        return 0
    return enter_data(conn)


cdef int enter_data(h2_conn *conn) noexcept nogil:
    cdef h2_stream *stream
    if conn.flags & FL_PADDED:
        stream = h2_find(conn, conn.stream_id)
        if stream is not NULL:
            h2_consumed(conn, stream, conn.pad + 1)
        if (conn.left == 0 and not conn.flags & FL_END_STREAM
                and flood(conn, &conn.empties, EMPTY_BURST, EMPTY_RATE)):
            return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_EMPTY)
    conn.mode = P_DATA
    if conn.left == 0:
        take_data(conn, NULL, 0)
    return 0


cdef void take_data(h2_conn *conn, const uint8_t *data, uint32_t size) noexcept nogil:
    cdef h2_stream *stream = h2_find(conn, conn.stream_id)
    cdef bint end
    conn.left -= size
    end = conn.left == 0 and conn.flags & FL_END_STREAM
    if conn.left == 0:
        skip_padding(conn)
    if stream is not NULL and (size or end):
        if end:
            stream.flags |= S_REMOTE_END
        conn.ops.on_data(conn, stream, data, size, end)


# --- HEADERS and CONTINUATION ---

cdef int begin_headers(h2_conn *conn) noexcept nogil:
    if conn.stream_id == 0:
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    conn.header_frames = 0
    conn.header_bytes = 0
    conn.header_list = 0
    conn.header_over = False
    conn.header_end = (conn.flags & FL_END_STREAM) != 0
    if conn.flags & FL_PADDED:
        if conn.left == 0:
            return fail(conn, H2_FRAME_SIZE_ERROR, ABUSE_FRAME)
        conn.mode = P_PAD_LENGTH
        return 0
    return enter_headers(conn)


cdef int enter_headers(h2_conn *conn) noexcept nogil:
    cdef int rc = open_block(conn)
    if rc < 0:
        return rc
    if conn.flags & FL_PRIORITY:
        if conn.left < PRIORITY_BYTES:
            return fail(conn, H2_FRAME_SIZE_ERROR, ABUSE_FRAME)
        conn.mode = P_PRIORITY
        return 0
    return begin_fragment(conn)


cdef int open_block(h2_conn *conn) noexcept nogil:
    """Which stream does this header block belong to, and may it have one?"""
    cdef h2_stream *stream = h2_find(conn, conn.stream_id)
    conn.header_stream = conn.stream_id
    conn.header_dead = False
    if stream is not NULL:
        # A second block is trailers, which a tunnel has not (RFC 9113 section 8.5).
        if conn.server or stream.flags & (S_ANSWERED | S_REMOTE_END):
            conn.header_dead = True
            return stream_error(conn, stream, H2_PROTOCOL_ERROR)
        return 0
    conn.header_dead = True
    if not conn.server:
        if is_idle(conn, conn.stream_id):
            return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
        return 0                 # a late answer on a stream that was reset
    if conn.stream_id & 1 == 0:
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    if conn.stream_id <= conn.last_id:
        return fail(conn, H2_STREAM_CLOSED, ABUSE_FRAME)
    conn.last_id = conn.stream_id
    if conn.goaway_sent and conn.stream_id > conn.goaway_last:
        return 0                 # the peer opens it again elsewhere, RFC 9113 section 6.8
    if conn.streams >= conn.streams_max:
        h2_emit_u32(conn, F_RST_STREAM, conn.stream_id, H2_REFUSED_STREAM)
        return 0
    stream = conn.ops.on_stream(conn, conn.stream_id)
    if stream is NULL:
        h2_emit_u32(conn, F_RST_STREAM, conn.stream_id, H2_REFUSED_STREAM)
        return 0
    h2_add(conn, stream, conn.stream_id)
    conn.header_dead = False
    return 0


cdef int begin_fragment(h2_conn *conn) noexcept nogil:
    conn.header_bytes += conn.left
    if conn.header_bytes > FRAGMENT_MAX:
        return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_HEADERS)
    conn.mode = P_FRAGMENT
    if conn.left == 0:
        if not conn.flags & FL_END_HEADERS and flood(conn, &conn.empties, EMPTY_BURST, EMPTY_RATE):
            return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_EMPTY)
        return take_fragment(conn, NULL, 0)
    return 0


cdef int take_fragment(h2_conn *conn, const uint8_t *data, size_t size) noexcept nogil:
    cdef nghttp2_nv field
    cdef int flags
    cdef ssize_t used
    cdef bint last
    cdef h2_stream *stream = NULL if conn.header_dead else h2_find(conn, conn.header_stream)
    conn.left -= <uint32_t>size
    last = conn.left == 0 and (conn.flags & FL_END_HEADERS) != 0
    while True:
        flags = 0
        used = nghttp2_hd_inflate_hd2(conn.inflater, &field, &flags, data, size, last)
        if used < 0:
            return fail(conn, H2_COMPRESSION_ERROR, ABUSE_FRAME)
        data += used
        size -= <size_t>used
        if flags & NGHTTP2_HD_INFLATE_EMIT:
            conn.header_list += <uint32_t>(field.namelen + field.valuelen + 32)
            if conn.header_list > conn.header_max:
                conn.header_over = True
            elif stream is not NULL:
                conn.ops.on_header(conn, stream, &field)
        if flags & NGHTTP2_HD_INFLATE_FINAL:
            nghttp2_hd_inflate_end_headers(conn.inflater)
            break
        if size == 0 and not flags & NGHTTP2_HD_INFLATE_EMIT:
            break
    if conn.left == 0:
        skip_padding(conn)
    if last:
        return end_block(conn, stream)
    return 0


cdef int end_block(h2_conn *conn, h2_stream *stream) noexcept nogil:
    conn.header_stream = 0
    if conn.header_over:
        # The peer was told the limit in SETTINGS, so the list is no accident.
        return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_HEADERS)
    if stream is not NULL:
        if conn.header_end:
            stream.flags |= S_REMOTE_END
        conn.ops.on_headers(conn, stream, conn.header_end)
    return 0


# --- control frames ---

cdef int take_small(h2_conn *conn) noexcept nogil:
    next_frame(conn)
    if conn.type == F_WINDOW_UPDATE:
        return take_window(conn)
    if conn.type == F_SETTINGS:
        return take_settings(conn)
    if conn.type == F_PING:
        return take_ping(conn)
    if conn.type == F_RST_STREAM:
        return take_reset(conn)
    if conn.type == F_GOAWAY:
        conn.goaway_received = True
        conn.ops.on_goaway(conn, be_load32(conn.small) & 0x7FFFFFFF, be_load32(conn.small + 4))
        return 0
    # PRIORITY carries nothing we use, but is free work for the sender.
    if flood(conn, &conn.empties, EMPTY_BURST, EMPTY_RATE):
        return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_EMPTY)
    return 0


cdef int take_window(h2_conn *conn) noexcept nogil:
    cdef uint32_t more = be_load32(conn.small) & 0x7FFFFFFF, code
    cdef h2_stream *stream
    if conn.stream_id == 0:
        if more == 0:
            return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
        conn.send_window += more
        if conn.send_window > H2_WINDOW_MAX:
            return fail(conn, H2_FLOW_CONTROL_ERROR, ABUSE_WINDOW)
        conn.ops.on_window(conn, NULL)
        return 0
    if is_idle(conn, conn.stream_id):
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    stream = h2_find(conn, conn.stream_id)
    if stream is NULL:
        return 0                 # it ended meanwhile
    if more == 0 or <int64_t>stream.send_window + more > H2_WINDOW_MAX:
        if more:
            conn.abuse = ABUSE_WINDOW
        code = H2_FLOW_CONTROL_ERROR if more else H2_PROTOCOL_ERROR
        return stream_error(conn, stream, code)
    stream.send_window += <int32_t>more
    conn.ops.on_window(conn, stream)
    return 0


cdef int take_settings(h2_conn *conn) noexcept nogil:
    cdef uint8_t ack[H2_HEAD]
    cdef uint32_t at, key, value
    if conn.flags & FL_ACK:
        return 0
    if flood(conn, &conn.settings, SETTINGS_BURST, SETTINGS_RATE):
        return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_SETTINGS)
    for at in range(0, be_load24(conn.head), 6):
        key = be_load16(conn.small + at)
        value = be_load32(conn.small + at + 2)
        if key == SET_WINDOW:
            if value > H2_WINDOW_MAX:
                return fail(conn, H2_FLOW_CONTROL_ERROR, ABUSE_WINDOW)
            if change_windows(conn, value) < 0:
                return -1
        elif key == SET_FRAME:
            if value < H2_FRAME_MIN or value > 16777215:
                return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
            conn.peer_frame_max = value
        elif key == SET_STREAMS:
            conn.peer_streams_max = value
        elif key == SET_TABLE_SIZE:
            nghttp2_hd_deflate_change_table_size(conn.deflater, value if value < HPACK_TABLE else HPACK_TABLE)
        elif key == SET_PUSH:
            if value > 1:
                return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    h2_put_head(ack, 0, F_SETTINGS, FL_ACK, 0)
    conn.ops.emit(conn, ack, H2_HEAD)
    conn.settings_seen = True
    conn.ops.on_window(conn, NULL)
    return 0


cdef int change_windows(h2_conn *conn, uint32_t value) noexcept nogil:
    """A new INITIAL_WINDOW_SIZE moves the window of every open stream (RFC 9113 section 6.9.2)."""
    cdef int64_t delta = <int64_t>value - conn.peer_window
    cdef h2_stream *stream
    cdef int i
    conn.peer_window = value
    for i in range(H2_BUCKETS):
        stream = conn.buckets[i]
        while stream is not NULL:
            if stream.send_window + delta > H2_WINDOW_MAX:
                return fail(conn, H2_FLOW_CONTROL_ERROR, ABUSE_WINDOW)
            stream.send_window += <int32_t>delta
            stream = stream.next
    if delta > 0:
        for i in range(H2_BUCKETS):
            stream = conn.buckets[i]
            while stream is not NULL:
                conn.ops.on_window(conn, stream)
                stream = stream.next
    return 0


cdef int take_ping(h2_conn *conn) noexcept nogil:
    cdef uint8_t frame[H2_HEAD + 8]
    if conn.flags & FL_ACK:
        conn.ops.on_pong(conn)
        return 0
    if flood(conn, &conn.pings, PING_BURST, PING_RATE):
        return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_PING)
    h2_put_head(frame, 8, F_PING, FL_ACK, 0)
    memcpy(frame + H2_HEAD, conn.small, 8)
    conn.ops.emit(conn, frame, H2_HEAD + 8)
    return 0


cdef int take_reset(h2_conn *conn) noexcept nogil:
    cdef h2_stream *stream
    if is_idle(conn, conn.stream_id):
        return fail(conn, H2_PROTOCOL_ERROR, ABUSE_FRAME)
    stream = h2_find(conn, conn.stream_id)
    if conn.server and (stream is NULL or not stream.flags & S_ANSWERED):
        if flood(conn, &conn.resets, RESET_BURST, RESET_RATE):
            return fail(conn, H2_ENHANCE_YOUR_CALM, ABUSE_RESET)
    if stream is not NULL:
        h2_remove(conn, stream)
        conn.ops.on_reset(conn, stream, be_load32(conn.small))
    return 0
