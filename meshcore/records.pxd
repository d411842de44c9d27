# What the control process and its workers say to each other, and the shared counter page.
# This file is the definition; meshcore/records.py mirrors it and a test holds the two equal.
#
# Transport: one SOCK_SEQPACKET socket per worker, one record per packet, host byte order, structs
# packed by natural alignment (no implicit padding: every hole is a named pad field).
# Addresses are 16 bytes; IPv4 is v4-mapped (::ffff:a.b.c.d). Ports are in host byte order.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    RECORD_MAX = 131072          # bytes; the largest record either side sends, and its receive buffer
    RECORDS_VERSION = 1          # a worker refuses to start under a control process that disagrees

cdef enum rec_type:
    # control process -> worker
    REC_CONFIG = 1
    REC_POD_ADD = 2              # + SCM_RIGHTS: netns, listeners of 15001, 15006, 15008, in this order
    REC_POD_DEL = 3
    REC_CERT = 4                 # + chain PEM (leaf first), then key PEM
    REC_CERT_DEL = 5
    REC_BUNDLE = 6               # + PEM of all trust anchors
    REC_LABEL = 7                # + source fragment, then destination fragment
    REC_SANS = 8                 # + expected URIs, each ended by NUL
    REC_VERDICT = 9              # + endpoints, baggage, host, reason
    REC_FLUSH = 10
    REC_ENDPOINT_GONE = 11
    REC_DRAIN = 12
    REC_STOP = 13
    REC_DUMP = 14                # answered by REC_DUMP_FLOW..., then REC_DUMP_END
    REC_LABEL_DEL = 15
    REC_SANS_DEL = 16
    # worker -> control process
    REC_HELLO = 64
    REC_UPCALL = 65              # + peer, host, forwarded host, baggage
    REC_EVICT = 66               # + verdict ids (u32 each)
    REC_POD_READY = 67           # listeners of a pod are being accepted from
    REC_CERT_ERROR = 68          # + text
    REC_DRAINED = 69             # last connection is gone after REC_DRAIN
    REC_DUMP_FLOW = 70
    REC_DUMP_END = 71

cdef enum direction:
    DIR_OUTBOUND = 1             # captured on 15001
    DIR_INBOUND_PLAIN = 2        # captured on 15006
    DIR_INBOUND_HBONE = 3        # a CONNECT stream on 15008

cdef enum action:
    ACT_DENY = 1
    ACT_PASSTHROUGH = 2          # to the original destination, untouched
    ACT_BALANCE = 3              # to one of the endpoints
    ACT_DELIVER = 4              # inbound: to the application, endpoints[0] says where

cdef enum:                       # verdict flags
    VF_SPOOF = 1                 # dial the application with the client's source address
    VF_SERVICE = 2               # the destination was addressed as a service
    VF_PROXY_PROTOCOL = 4        # write a PROXY v2 header before the first byte

cdef enum protocol:
    PROTO_TCP = 1
    PROTO_HBONE = 2

cdef enum authority_kind:
    AUTH_ENDPOINT = 1            # ip:target_port of the endpoint
    AUTH_ORIGINAL = 2            # the address the application dialled (waypoints)

cdef enum:                       # fields a verdict consulted; pod and direction always count
    M_SRC_IP = 1
    M_DST_IP = 2
    M_DST_PORT = 4
    M_PEER = 8                   # identity of the mTLS peer
    M_HOST = 16                  # hostname form of the CONNECT authority
    M_FORWARDED = 32             # host= of the Forwarded header
    M_LOCAL_IP = 64
    M_BAGGAGE = 128

cdef enum:                       # upcall flags
    UF_GATEWAY = 1               # x-forwarded-network present: the client is behind a gateway

cdef enum:                       # flag: response_flags of telemetry, index into the failed counters
    FLAG_NONE = 0                # "-"
    FLAG_DENY = 1
    FLAG_CONNECT = 2
    FLAG_TLS_FAILURE = 3
    FLAG_H2_HANDSHAKE_FAILURE = 4
    FLAG_NETWORK_POLICY = 5
    FLAG_IDENTITY_ERROR = 6
    FLAG_CERT_REVOKED = 7
    FLAG_COUNT = 8

cdef struct rec_head:            # every record starts so
    uint16_t type
    uint16_t version
    uint32_t size                # bytes of the whole record, this head included

cdef struct rec_config:
    rec_head head
    uint32_t connect_timeout_ms      # TCP connect to an application or a peer; upstream: 10 s, fixed
    uint32_t tls_timeout_ms          # accept or connect until the handshake ends
    uint32_t response_timeout_ms     # CONNECT sent until its response headers
    uint32_t upcall_timeout_ms       # flow-table miss until the verdict; upstream: 5 s
    uint32_t ping_interval_ms        # 10 s upstream
    uint32_t ping_timeout_ms         # 20 s upstream
    uint32_t pool_idle_ms            # POOL_UNUSED_RELEASE_TIMEOUT
    uint32_t pool_max_streams        # POOL_MAX_STREAMS_PER_CONNECTION
    uint32_t server_max_streams      # 200 upstream
    uint32_t stream_window           # HTTP2_STREAM_WINDOW_SIZE
    uint32_t connection_window       # HTTP2_CONNECTION_WINDOW_SIZE
    uint32_t frame_size              # HTTP2_FRAME_SIZE
    uint32_t header_list_max         # bytes, server side; 64 KiB upstream
    uint32_t keepalive_idle_s        # KEEPALIVE_TIME; 0 = KEEPALIVE_ENABLED is false
    uint32_t keepalive_interval_s    # KEEPALIVE_INTERVAL
    uint32_t keepalive_retries       # KEEPALIVE_RETRIES
    uint32_t user_timeout_ms         # TCP_USER_TIMEOUT, 0 = off
    uint32_t packet_mark             # SO_MARK; 0 = none
    uint32_t flow_table_max          # entries per worker
    uint32_t buffer_max              # bytes of the worker's buffer pool
    uint32_t log_json                # 1: LOG_FORMAT=json
    uint32_t log_access              # 0: access log off
    uint32_t half_close_ms           # 0: a half-closed connection may stay so for ever
    uint32_t tls12                   # 1: TLS12_ENABLED

cdef struct rec_pod_add:
    rec_head head
    uint32_t pod_id              # chosen by the control process, never 0, never reused
    uint32_t cert_id             # identity of the pod's service account
    uint32_t flags               # 1: source spoofing works on these listeners
    uint32_t pad

cdef struct rec_pod:             # REC_POD_DEL, REC_POD_READY
    rec_head head
    uint32_t pod_id
    uint32_t pad

cdef struct rec_cert:            # REC_CERT, REC_CERT_DEL (lengths 0)
    rec_head head
    uint32_t cert_id             # a second REC_CERT with the same id replaces: rotation
    uint32_t bundle_id           # trust anchors that peers of this identity are verified with
    uint32_t chain_len
    uint32_t key_len

cdef struct rec_bundle:
    rec_head head
    uint32_t bundle_id
    uint32_t pem_len

cdef struct rec_label:           # REC_LABEL, REC_LABEL_DEL (lengths 0)
    rec_head head
    uint32_t label_id            # also the slot in the shared counter page
    uint16_t source_len          # `src.workload=... src.cluster=...`, rendered by the control process
    uint16_t destination_len     # `dst.service=... direction=...`

cdef struct rec_sans:            # REC_SANS, REC_SANS_DEL (count 0)
    rec_head head
    uint32_t sans_id
    uint32_t count

cdef struct rec_endpoint:
    uint8_t ip[16]               # where to dial
    uint16_t port                # where to dial: 15008, or the target port for plain TCP
    uint16_t target_port         # the application's port, for the authority
    uint8_t protocol
    uint8_t authority
    uint16_t weight              # 0 is never picked
    uint32_t sans_id             # identities accepted of the peer; HBONE only
    uint32_t label_id

cdef struct rec_verdict:
    rec_head head
    uint64_t cookie              # of the upcall; 0: an update of verdict_id that nobody asked for
    uint32_t verdict_id          # chosen by the control process, unique among live verdicts, never 0
    uint32_t mask                # M_* bits that were consulted
    uint32_t cert_id             # outbound: identity to present; 0 = none
    uint32_t label_id            # of the flow when no endpoint says otherwise
    uint32_t ttl_ms              # 0 = until flushed; else the entry is dropped after that long
    uint16_t status              # ACT_DENY of a CONNECT: HTTP status of the answer
    uint8_t action
    uint8_t flag                 # ACT_DENY: response flag for telemetry
    uint8_t flags                # VF_*
    uint8_t pad
    uint16_t endpoints
    uint16_t baggage_len         # outbound: request header; inbound: response header
    uint16_t host_len            # outbound: host= of Forwarded; inbound: unused
    uint16_t reason_len          # ACT_DENY: text for the access log
    uint16_t pad2
    uint32_t pad3

cdef struct rec_flush:
    rec_head head
    uint32_t verdict_id
    uint32_t reevaluate          # 1: live connections ask again and close when they are denied

cdef struct rec_endpoint_gone:   # pooled and live connections to this address are closed
    rec_head head
    uint8_t ip[16]

cdef struct rec_drain:
    rec_head head
    uint32_t deadline_ms
    uint32_t pad

cdef struct rec_hello:
    rec_head head
    uint32_t pid
    uint32_t records_version

cdef struct rec_upcall:
    rec_head head
    uint64_t cookie
    uint32_t pod_id
    uint16_t src_port
    uint16_t dst_port
    uint8_t src_ip[16]           # TCP peer
    uint8_t dst_ip[16]           # original destination, or the address form of the CONNECT authority
    uint8_t local_ip[16]         # inbound HBONE: local address of the connection
    uint8_t direction
    uint8_t flags                # UF_*
    uint16_t peer_len            # SPIFFE URI of the mTLS peer; 0 = plaintext
    uint16_t host_len            # hostname form of the authority; then dst_ip is all zero
    uint16_t forwarded_len
    uint16_t baggage_len
    uint16_t pad
    uint32_t pad2

cdef struct rec_dump_flow:
    rec_head head
    uint32_t pod_id
    uint32_t verdict_id
    uint8_t src_ip[16]
    uint8_t dst_ip[16]           # as the client addressed it
    uint8_t actual_ip[16]        # where the bytes go
    uint16_t src_port
    uint16_t dst_port
    uint16_t actual_port
    uint8_t direction
    uint8_t protocol
    uint64_t bytes_sent          # client -> server
    uint64_t bytes_received      # server -> client
    uint64_t age_ms

# Shared counters: one memfd per worker index, written by that worker alone, read by the control
# process. u64 cells. A respawned worker goes on with the same page, so a crash loses no count.
cdef enum:
    PAGE_BYTES = 4096            # worker-wide cells first
    SLOT_BYTES = 128             # then one slot per label id
    SLOT_MAX = 16384             # label ids; id 0 is the overflow set

cdef enum:                       # page_cell
    PC_PID = 0
    PC_LOOP_TURNS = 1
    PC_EPOLL_WAIT = 2
    PC_ACCEPT = 3
    PC_READ = 4
    PC_WRITE = 5
    PC_SPLICE = 6
    PC_CONNECT = 7
    PC_CLOSE = 8
    PC_EPOLL_CTL = 9
    PC_SETNS = 10
    PC_SOCKOPT = 11
    PC_TLS_ACCEPT_OK = 12
    PC_TLS_ACCEPT_FAIL = 13
    PC_TLS_CONNECT_OK = 14
    PC_TLS_CONNECT_FAIL = 15
    PC_FLOW_HIT = 16
    PC_FLOW_MISS = 17
    PC_UPCALL = 18
    PC_UPCALL_TIMEOUT = 19
    PC_FLOWS_OPEN = 20           # gauge
    PC_TUNNELS_OPEN = 21         # gauge
    PC_SOCKETS_OPEN = 22         # gauge
    PC_BUFFERS_OUT = 23          # gauge, 16 KiB each
    PC_BUFFERS_HIGH = 24         # high-water mark
    PC_FLOW_ENTRIES = 25         # gauge
    PC_FLOW_EVICTED = 26
    PC_LOG_LINES = 27
    PC_LOG_DROPPED = 28
    PC_H2_GOAWAY_SENT = 29       # connections ended for a protocol error or abuse
    PC_H2_RESET_FLOOD = 30
    PC_H2_PING_FLOOD = 31
    PC_H2_SETTINGS_FLOOD = 32
    PC_H2_EMPTY_FLOOD = 33
    PC_H2_HEADERS_TOO_BIG = 34
    PC_H2_BAD_FRAME = 35
    PC_H2_WINDOW_OVERFLOW = 36
    PC_KEEPALIVE_TIMEOUT = 37
    PC_CONNECT_TIMEOUT = 38
    PC_TLS_TIMEOUT = 39
    PC_RESPONSE_TIMEOUT = 40
    PC_CLOSED_BY_POLICY = 41
    PC_POOL_HIT = 42
    PC_POOL_DIAL = 43
    PC_CLOCK_MS = 44             # last loop turn, CLOCK_MONOTONIC: a hung worker shows
    PC_TIMER = 45                # times the alarm was set
    PC_COUNT = 46

cdef enum:                       # slot_cell
    SC_OPENED = 0
    SC_CLOSED = 1                # closed without a failure flag
    SC_RECEIVED = 2              # bytes client -> server (istio_tcp_received_bytes_total)
    SC_SENT = 3                  # bytes server -> client (istio_tcp_sent_bytes_total)
    SC_FAILED = 8                # + flag: closed with that flag (FLAG_NONE is unused)
