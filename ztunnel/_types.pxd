# Structs and enums of the worker. Everybody cimports this file; it cimports nothing of the worker's.
#
# Ownership: worker_t owns pods, tunnels and flows. A pod owns its listeners; a tunnel's socket, TLS session and
# streams' table are its own; a flow owns its sockets and its queue. Closed tunnels and flows go to the grave list
# and are freed at the end of the loop turn, so the current batch of events may still name them.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free

from meshcore.flowtable cimport entry_t, flow_key, flowtable_t, link_t
from meshcore.h2types cimport h2_conn, h2_stream
from meshcore.pool cimport chunk_t, pool_t, queue_t
from meshcore.records cimport DIR_INBOUND_HBONE, rec_config, rec_endpoint
from meshcore.tls cimport bundle_t, cert_t, sans_t, tls_env, tls_t
from meshcore.wheel cimport timer_fn, timer_t, wheel_t

cdef enum:
    EVENTS_MAX = 256             # events per epoll_wait
    CIPHER_IN = 65536            # bytes per read of a tunnel: four full records
    CIPHER_OUT = 69632           # four sealed records (16,406 bytes each) and small change
    PLAIN_BYTES = 81920          # five plaintext records parsed in place before the spans are written out
    PLAIN_RECORD = 16384
    SPANS_MAX = 512
    OUT_HIGH = 262144            # bytes of ciphertext waiting for a socket: stop reading the applications
    OUT_LOW = 65536              # ... and go on below this
    QUANTUM = 65536              # bytes one flow may move per turn before the others have theirs
    READS_MAX = 4                # reads of one tunnel per turn
    ACCEPT_BATCH = 64
    LOG_BYTES = 65536            # access-log lines waiting to be written; more are dropped and counted
    LOG_WRITE = 4096             # PIPE_BUF: a write of this size to a pipe that polls writable never blocks
    LOG_FLUSH_MS = 100
    CHAINS = 256                 # buckets of the small tables (pods, certificates, bundles, identity lists)
    AUTHORITY_MAX = 264          # a hostname of 253, a colon and a port, and room
    FORWARDED_MAX = 256
    BAGGAGE_MAX = 2048
    RETRIES_MAX = 2              # a stream that was never answered may move to another tunnel

cdef enum ready_bit:             # sticky readiness of an edge-triggered descriptor
    R_IN = 1
    R_OUT = 2
    R_HUP = 4                    # the peer has ended its side: read until 0
    R_ERR = 8                    # the connection is broken, whatever is still queued

cdef enum tunnel_state:
    T_WAIT_CERT = 0              # accepted, identity not here yet
    T_CONNECTING = 1
    T_HANDSHAKE = 2
    T_OPEN = 3
    T_CLOSED = 4

cdef enum flow_state:
    F_HEADERS = 0                # inbound: CONNECT is being read
    F_ASKING = 1                 # waits for a verdict
    F_TUNNEL = 2                 # outbound: waits for a tunnel to open
    F_REQUESTED = 3              # outbound: CONNECT sent
    F_DIALLING = 4               # TCP connect under way
    F_OPEN = 5
    F_CLOSED = 6

cdef enum:                       # flow_t.bits
    B_UP_DONE = 1                # client -> server finished: FIN or END_STREAM passed on
    B_DOWN_DONE = 2
    B_REMOTE_END = 4             # END_STREAM received, bytes may still be queued
    B_APP_SHUT = 8               # SHUT_WR done on the application's socket
    B_COUNTED = 16               # `opened` was counted: the close is counted too
    B_KEPT = 32                  # the dialled socket has keepalive
    B_REEVALUATE = 64            # live, and asking again
    B_ABORT = 128                # close the application's socket with RST

cdef enum:                       # ev_t.kind, whose descriptor it is: index of worker_ops.on_event
    EV_DEAD = 0                  # closed, may still be named by the current batch
    EV_CONTROL = 1
    EV_SIGNAL = 2
    EV_ALARM = 3
    EV_LISTENER = 4
    EV_TUNNEL = 5
    EV_APP = 6                   # flow_t.app
    EV_FAR = 7                   # relay_t.ev
    EV_KINDS = 8

ctypedef void (*ev_fn)(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil

cdef struct addr_t:              # IPv4 is v4-mapped; port in host order
    uint8_t ip[16]
    uint16_t port

cdef struct ev_t:                # one epoll registration; embedded in its owner
    int fd
    uint8_t kind                 # EV_*
    uint8_t ready                # R_* bits
    uint8_t armed                # is in the epoll set

cdef struct listener_t:
    ev_t ev
    pod_t *pod
    uint8_t direction

cdef struct pod_t:
    worker_t *w
    pod_t *chain
    uint32_t id
    uint32_t cert_id
    int netns
    uint32_t users               # flows and tunnels
    uint8_t spoof
    uint8_t gone                 # deleted: freed with its last user
    link_t tunnels
    link_t flows
    listener_t listeners[3]

cdef struct label_t:
    char *text                   # source fragment, then destination fragment
    uint16_t source_len
    uint16_t destination_len

cdef struct slot_t:              # by id: certificates, bundles, identity lists
    slot_t *chain
    uint32_t id
    void *value

cdef struct tunnel_t:            # one HBONE connection, either role
    ev_t ev
    worker_t *w
    tls_t tls
    h2_conn h2
    timer_t timer                # handshake deadline, then keepalive
    pod_t *pod
    link_t pod_link
    link_t pool_link             # client: bucket of the pool
    link_t dirty_link            # has plaintext to seal or a failure to handle
    link_t ready_link            # more to read next turn
    link_t waiting               # client: flows that wait for the handshake
    link_t blocked               # flows that wait for window or room
    chunk_t *rec                 # plaintext record under construction
    uint32_t last_frame          # offset of the newest DATA head in rec
    uint32_t last_stream         # whose it is; 0: none
    queue_t out                  # ciphertext that the socket did not take
    request_t *request           # server: NULL between header blocks
    texts_t *texts               # server: of the latest CONNECT that had any
    addr_t peer
    addr_t local
    uint64_t peer_id[2]          # flowtable_text of the peer's identity
    uint64_t opened_ms
    uint64_t heard_ms            # last time bytes came in
    uint64_t idle_ms             # client: since when there is no stream; 0 = there is one
    uint32_t cert_id
    uint32_t sans_id
    uint32_t claimed             # client: waiting flows that will open streams
    uint8_t state
    uint8_t role                 # tls_role
    uint8_t pinged
    uint8_t draining             # takes no new stream
    uint8_t misbehaved           # the peer broke the protocol: its streams are not tried elsewhere
    uint8_t flag                 # response flag of its end
    const char *broken           # why it must be closed at the end of the turn

cdef struct request_t:           # inbound CONNECT while its header block is being read
    uint16_t authority_len
    uint16_t forwarded_len
    uint16_t baggage_len
    uint8_t connect
    uint8_t forbidden            # :scheme or :path was there
    uint8_t gateway
    uint8_t too_long
    char authority[AUTHORITY_MAX]
    char forwarded[FORWARDED_MAX]
    char baggage[BAGGAGE_MAX]

cdef struct texts_t:             # of an inbound CONNECT, as long as a flow lives: it may have to ask again
    uint32_t users               # flows with these very texts, and the tunnel of the latest
    uint16_t host_len            # hostname form of the authority
    uint16_t forwarded_len
    uint16_t baggage_len
    uint16_t flags               # UF_*
    char data[1]

cdef struct pipe_t:              # held only while bytes are in it
    int fds[2]
    uint32_t size

cdef struct relay_t:             # the second socket of a plain flow, and its two pipes
    flow_t *flow
    ev_t ev
    pipe_t up                    # client -> server
    pipe_t down

cdef struct setup_t:             # of a flow that is not open yet, or is open and half-closed with a limit on that
    timer_t timer                # owner: the flow
    uint32_t sans_id             # outbound HBONE
    uint32_t cert_id
    uint8_t retries

cdef union extra_t:              # relay_of and texts_of know which
    relay_t *relay               # NULL for tunnelled flows
    texts_t *texts               # inbound HBONE; NULL: nothing but addresses

cdef struct flow_t:              # one proxied connection; as small as can be, for thousands of them lie idle
    ev_t app                     # outbound and plain: the accepted socket; inbound HBONE: the application's
    h2_stream stream
    tunnel_t *tunnel             # NULL for plain flows
    extra_t extra
    queue_t to_app
    link_t wait_link             # waiting, blocked or ready: one at a time
    uint64_t sent                # bytes client -> server
    uint64_t received            # bytes server -> client
    uint32_t label_id
    uint16_t target_port
    uint8_t direction
    uint8_t state
    uint8_t bits
    uint8_t flag
    uint8_t authority            # enum authority_kind
    uint8_t protocol             # enum protocol of the next hop
    uint16_t status              # HTTP status when the peer refused
    addr_t src
    addr_t dst                   # as addressed by the client
    addr_t actual                # where the bytes go
    setup_t *setup               # NULL: open, and nothing to wait for
    pod_t *pod
    entry_t *entry
    link_t entry_link
    link_t pod_link
    uint64_t opened_ms

cdef struct span_t:
    flow_t *flow
    const uint8_t *data
    uint32_t size

cdef struct worker_ops:          # calls from a lower file to a higher one
    ev_fn on_event[EV_KINDS]     # by kind; none for EV_DEAD
    void (*proceed)(worker_t *w, flow_t *flow) noexcept nogil          # the flow's entry is live
    h2_stream *(*stream_new)(worker_t *w, tunnel_t *tunnel) noexcept nogil
    void (*stream_field)(worker_t *w, flow_t *flow, const char *name, size_t name_len, const char *value,
                         size_t value_len) noexcept nogil
    void (*stream_headers)(worker_t *w, flow_t *flow, bint end) noexcept nogil
    void (*stream_data)(worker_t *w, flow_t *flow, const uint8_t *data, uint32_t size, bint end) noexcept nogil
    void (*stream_reset)(worker_t *w, flow_t *flow, uint32_t code) noexcept nogil
    void (*stream_retry)(worker_t *w, flow_t *flow) noexcept nogil     # never answered: another tunnel may
    void (*flow_ready)(worker_t *w, flow_t *flow) noexcept nogil       # may send again
    void (*tunnel_open)(worker_t *w, tunnel_t *tunnel) noexcept nogil
    void (*flow_fail)(worker_t *w, flow_t *flow, int flag, const char *error) noexcept nogil
    void (*spans_flush)(worker_t *w) noexcept nogil
    void (*decide_again)(worker_t *w, flow_t *flow) noexcept nogil
    timer_fn keepalive           # owner: the worker

cdef struct worker_t:
    int epfd
    int control
    int index
    int netns                    # descriptor of the namespace this thread is in; -1: its own
    uint64_t now_ms              # CLOCK_MONOTONIC, read once per turn
    uint64_t random              # xorshift64* state
    uint64_t *page               # worker-wide counters
    uint8_t *slots               # per label counters
    const worker_ops *ops
    bint stop
    bint draining
    bint orphan                  # the control process is gone
    bint drained_sent
    bint drain_final             # new streams are refused
    bint failed                  # the control process sent what nobody understands
    bint tight                   # the buffer pool was at its bound last turn
    bint configured
    uint32_t flows
    uint32_t tunnels
    rec_config config
    tls_env tls
    pool_t pool
    wheel_t wheel
    flowtable_t table
    label_t *labels              # by label id
    uint32_t labels_size
    slot_t *certs[CHAINS]
    slot_t *bundles[CHAINS]
    slot_t *sans[CHAINS]
    pod_t *pods[CHAINS]
    link_t client_pool[CHAINS]
    link_t ready                 # flows with more to do
    link_t ready_tunnels
    link_t dirty
    flow_t *grave_flows          # linked through wait_link.next
    tunnel_t *grave_tunnels      # linked through pool_link.next
    pod_t *grave_pods
    ev_t control_ev
    ev_t signal_ev
    ev_t alarm_ev
    uint64_t alarm_ms            # when the alarm rings; 0: it is not set
    timer_t log_timer
    timer_t drain_timer
    timer_t accept_timer
    timer_t keep_timer
    uint64_t kept_ms             # flows made until then have had their keepalive
    uint64_t drain_ms            # deadline
    span_t spans[SPANS_MAX]
    uint32_t span_count
    uint32_t plain_used
    tunnel_t *cipher_owner
    uint32_t cipher_used
    uint32_t log_used
    int spare_pipes[16][2]       # empty pipes for splice
    uint32_t spare_count
    uint32_t pad
    uint8_t *plain
    uint8_t *cipher_in
    uint8_t *cipher_out
    uint8_t *record              # receive buffer of the control socket
    char *log

cdef inline uint64_t next_random(worker_t *w) noexcept nogil:
    w.random ^= w.random >> 12
    w.random ^= w.random << 25
    w.random ^= w.random >> 27
    return w.random * <uint64_t>2685821657736338717


# Containers of what is embedded in them. 4096 stands for an object's address only to measure the member's offset.
cdef inline tunnel_t *tunnel_of_pool(link_t *link) noexcept nogil:
    return <tunnel_t *>(<char *>link - (<char *>&(<tunnel_t *>4096).pool_link - <char *>4096))

cdef inline tunnel_t *tunnel_of_pod(link_t *link) noexcept nogil:
    return <tunnel_t *>(<char *>link - (<char *>&(<tunnel_t *>4096).pod_link - <char *>4096))

cdef inline tunnel_t *tunnel_of_dirty(link_t *link) noexcept nogil:
    return <tunnel_t *>(<char *>link - (<char *>&(<tunnel_t *>4096).dirty_link - <char *>4096))

cdef inline tunnel_t *tunnel_of_ready(link_t *link) noexcept nogil:
    return <tunnel_t *>(<char *>link - (<char *>&(<tunnel_t *>4096).ready_link - <char *>4096))

cdef inline flow_t *flow_of_wait(link_t *link) noexcept nogil:
    return <flow_t *>(<char *>link - (<char *>&(<flow_t *>4096).wait_link - <char *>4096))

cdef inline flow_t *flow_of_entry(link_t *link) noexcept nogil:
    return <flow_t *>(<char *>link - (<char *>&(<flow_t *>4096).entry_link - <char *>4096))

cdef inline flow_t *flow_of_pod(link_t *link) noexcept nogil:
    return <flow_t *>(<char *>link - (<char *>&(<flow_t *>4096).pod_link - <char *>4096))

cdef inline flow_t *flow_of_app(ev_t *ev) noexcept nogil:
    return <flow_t *>(<char *>ev - (<char *>&(<flow_t *>4096).app - <char *>4096))

cdef inline flow_t *flow_of_stream(h2_stream *stream) noexcept nogil:
    return <flow_t *>(<char *>stream - (<char *>&(<flow_t *>4096).stream - <char *>4096))

cdef inline relay_t *relay_of_ev(ev_t *ev) noexcept nogil:
    return <relay_t *>(<char *>ev - (<char *>&(<relay_t *>4096).ev - <char *>4096))

cdef inline tunnel_t *tunnel_of_ev(ev_t *ev) noexcept nogil:
    return <tunnel_t *>(<char *>ev - (<char *>&(<tunnel_t *>4096).ev - <char *>4096))

cdef inline listener_t *listener_of_ev(ev_t *ev) noexcept nogil:
    return <listener_t *>(<char *>ev - (<char *>&(<listener_t *>4096).ev - <char *>4096))

cdef inline relay_t *relay_of(flow_t *flow) noexcept nogil:
    return NULL if flow.direction == DIR_INBOUND_HBONE else flow.extra.relay

cdef inline texts_t *texts_of(flow_t *flow) noexcept nogil:
    return flow.extra.texts if flow.direction == DIR_INBOUND_HBONE else NULL

cdef inline void texts_release(texts_t *texts) noexcept nogil:
    if texts is not NULL:
        texts.users -= 1
        if texts.users == 0:
            free(texts)

cdef inline void *slot_find(slot_t **slots, uint32_t id) noexcept nogil:
    cdef slot_t *slot = slots[id & (CHAINS - 1)]
    while slot is not NULL and slot.id != id:
        slot = slot.chain
    return NULL if slot is NULL else slot.value
