# Types of the HTTP/2 engine (RFC 9113): one connection, its streams, and the calls it makes upward.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from meshcore.nghttp2 cimport nghttp2_hd_deflater, nghttp2_hd_inflater, nghttp2_nv

cdef enum:
    H2_HEAD = 9                  # bytes of a frame head, RFC 9113 section 4.1
    H2_WINDOW_START = 65535      # both windows until SETTINGS say otherwise, section 6.9.2
    H2_WINDOW_MAX = 2147483647
    H2_FRAME_MIN = 16384         # SETTINGS_MAX_FRAME_SIZE before it is announced
    H2_BUCKETS = 32              # stream table; a connection has at most a few hundred streams
    H2_PREFACE_LEN = 24
    H2_SMALL = 192               # bytes of a control frame that are looked at: 32 settings

cdef enum h2_code:               # RFC 9113 section 7
    H2_NO_ERROR = 0
    H2_PROTOCOL_ERROR = 1
    H2_INTERNAL_ERROR = 2
    H2_FLOW_CONTROL_ERROR = 3
    H2_SETTINGS_TIMEOUT = 4
    H2_STREAM_CLOSED = 5
    H2_FRAME_SIZE_ERROR = 6
    H2_REFUSED_STREAM = 7
    H2_CANCEL = 8
    H2_COMPRESSION_ERROR = 9
    H2_CONNECT_ERROR = 10
    H2_ENHANCE_YOUR_CALM = 11

cdef enum h2_abuse:              # why a connection was ended, for the counters
    ABUSE_NONE = 0
    ABUSE_RESET = 1
    ABUSE_PING = 2
    ABUSE_SETTINGS = 3
    ABUSE_EMPTY = 4
    ABUSE_HEADERS = 5
    ABUSE_FRAME = 6
    ABUSE_WINDOW = 7

cdef enum:                       # h2_stream.flags
    S_LOCAL_END = 1              # we sent END_STREAM
    S_REMOTE_END = 2             # the peer sent END_STREAM
    S_ANSWERED = 4               # response headers passed, in whichever direction they go
    S_DEAD = 8                   # reset by either side, or forgotten

cdef struct h2_stream:           # embedded in its owner
    h2_stream *next              # bucket chain
    uint32_t id                  # 0: in no table
    int32_t send_window          # negative after a smaller INITIAL_WINDOW_SIZE
    int32_t recv_window          # what the peer may still send
    uint32_t recv_credit         # consumed here, not yet given back
    uint8_t flags

cdef struct h2_bucket_t:         # token bucket against floods
    uint32_t tokens
    uint64_t at_ms

cdef struct h2_conn

cdef struct h2_ops:              # upward calls; none may free the connection, on_window may not remove a stream
    h2_stream *(*on_stream)(h2_conn *conn, uint32_t id) noexcept nogil        # server; NULL refuses
    void (*on_header)(h2_conn *conn, h2_stream *stream, const nghttp2_nv *field) noexcept nogil
    void (*on_headers)(h2_conn *conn, h2_stream *stream, bint end) noexcept nogil
    void (*on_data)(h2_conn *conn, h2_stream *stream, const uint8_t *data, uint32_t size, bint end) noexcept nogil
    void (*on_reset)(h2_conn *conn, h2_stream *stream, uint32_t code) noexcept nogil   # stream is out of the table
    void (*on_window)(h2_conn *conn, h2_stream *stream) noexcept nogil        # NULL: the connection's
    void (*on_goaway)(h2_conn *conn, uint32_t last, uint32_t code) noexcept nogil
    void (*on_pong)(h2_conn *conn) noexcept nogil
    void (*emit)(h2_conn *conn, const uint8_t *frame, size_t size) noexcept nogil

cdef struct h2_conn:
    const h2_ops *ops
    void *owner
    nghttp2_hd_deflater *deflater
    nghttp2_hd_inflater *inflater
    uint64_t now_ms              # set by the owner before every call
    int64_t send_window
    int64_t recv_window
    uint32_t recv_credit
    # ours
    uint32_t window              # per stream
    uint32_t conn_window
    uint32_t frame_max
    uint32_t streams_max         # server: concurrent streams the peer may have
    uint32_t header_max          # bytes of a decoded header list, RFC 9113 section 6.5.2
    # the peer's
    uint32_t peer_window
    uint32_t peer_frame_max
    uint32_t peer_streams_max
    # streams
    uint32_t streams
    uint32_t next_id             # client: next stream to open
    uint32_t last_id             # highest stream id the peer opened
    uint32_t goaway_last         # after our GOAWAY: streams above are ignored
    bint server
    bint goaway_sent
    bint goaway_received
    bint settings_seen
    bint hold_credit             # owner is short of buffers: the connection's credit waits for h2_credit(conn, 0)
    # parser
    uint8_t mode
    uint8_t type
    uint8_t flags
    uint8_t have                 # bytes of head or of small
    uint8_t error                # h2_code of the connection error
    uint8_t abuse
    bint header_dead             # the block being read belongs to no live stream
    bint header_over             # the list is over header_max
    uint16_t header_frames
    uint32_t header_bytes        # of the encoded block
    uint32_t header_list         # of the decoded list, with 32 per field
    uint32_t header_stream       # != 0: only CONTINUATION of it may follow
    bint header_end              # END_STREAM of the block
    uint32_t stream_id
    uint32_t left                # payload bytes still to come, padding excluded
    uint32_t pad
    uint32_t preface             # server: bytes of the client preface seen
    uint8_t head[H2_HEAD]
    uint8_t small[H2_SMALL]
    h2_bucket_t resets
    h2_bucket_t pings
    h2_bucket_t settings
    h2_bucket_t empties
    uint64_t late                # what the peer may still send on streams that we have reset: see h2_reset
    h2_stream *buckets[H2_BUCKETS]
