# HTTP/2 output and the stream table of one connection.
#
# Control frames go to the owner through `emit`; the owner writes its own DATA frames behind a head made by
# h2_data_head, so payload is never copied here.
from libc.stdint cimport uint8_t, uint32_t

from meshcore.h2types cimport h2_conn, h2_stream
from meshcore.nghttp2 cimport nghttp2_nv

cdef enum frame_type:
    F_DATA = 0
    F_HEADERS = 1
    F_PRIORITY = 2
    F_RST_STREAM = 3
    F_SETTINGS = 4
    F_PUSH_PROMISE = 5
    F_PING = 6
    F_GOAWAY = 7
    F_WINDOW_UPDATE = 8
    F_CONTINUATION = 9

cdef enum:
    FL_END_STREAM = 1
    FL_ACK = 1
    FL_END_HEADERS = 4
    FL_PADDED = 8
    FL_PRIORITY = 32

cdef enum setting:
    SET_TABLE_SIZE = 1
    SET_PUSH = 2
    SET_STREAMS = 3
    SET_WINDOW = 4
    SET_FRAME = 5
    SET_HEADER_LIST = 6

cdef void h2_put_head(uint8_t *head, uint32_t size, int kind, int flags, uint32_t stream_id) noexcept nogil
cdef void h2_emit_u32(h2_conn *conn, int kind, uint32_t stream_id, uint32_t value) noexcept nogil
cdef void h2_start(h2_conn *conn) noexcept nogil                          # preface and SETTINGS
cdef void h2_add(h2_conn *conn, h2_stream *stream, uint32_t id) noexcept nogil
cdef void h2_remove(h2_conn *conn, h2_stream *stream) noexcept nogil
cdef h2_stream *h2_find(h2_conn *conn, uint32_t id) noexcept nogil
# Encodes the fields as one HEADERS frame (with CONTINUATION past the peer's frame size): 0 | -1
cdef int h2_headers(h2_conn *conn, h2_stream *stream, const nghttp2_nv *fields, size_t count, bint end) noexcept nogil
cdef void h2_data_head(h2_conn *conn, h2_stream *stream, uint8_t *head, uint32_t size, bint end) noexcept nogil
cdef void h2_reset(h2_conn *conn, h2_stream *stream, uint32_t code) noexcept nogil    # and takes it out of the table
cdef void h2_consumed(h2_conn *conn, h2_stream *stream, uint32_t size) noexcept nogil  # bytes left our hands
cdef void h2_credit(h2_conn *conn, uint32_t size) noexcept nogil          # the connection's share, at receipt
cdef void h2_ping(h2_conn *conn) noexcept nogil
cdef void h2_goaway(h2_conn *conn, uint32_t last, uint32_t code) noexcept nogil
