"""Pods of the worker: listeners, arrival and departure, endpoints that vanish, drain. No Python surface."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from meshcore cimport linux
from meshcore.flowtable cimport link_init
from meshcore.linux cimport *
from meshcore.records cimport *
from meshcore.wheel cimport timer_set
from ztunnel._decide cimport control_send, decide
from ztunnel._flow cimport flow_fail, flow_new
from ztunnel._sock cimport ev_close, sock_accept, sock_keepalive, sock_listener, sock_original, sock_waiting
from ztunnel._tunnel cimport tunnel_accept, tunnel_break, tunnel_close, tunnel_drain
from ztunnel._types cimport *

cdef enum:
    DRAIN_GRACE_MS = 1000        # between the announcing GOAWAY and the refusing one: a round trip with room
    ACCEPT_PAUSE_MS = 100        # no descriptors or memory: the queue waits this long
    KEEP_BATCH = 256             # sockets given keepalive in one turn


cdef pod_t *pod_find(worker_t *w, uint32_t id) noexcept nogil:
    cdef pod_t *pod = w.pods[id & (CHAINS - 1)]
    while pod is not NULL and pod.id != id:
        pod = pod.chain
    return pod


cdef int accept_tunnels(worker_t *w, listener_t *listener) noexcept nogil:
    """Connections of peers to 15008: 0 | -errno."""
    cdef addr_t peer
    cdef int i, fd
    for i in range(ACCEPT_BATCH):
        if i and not sock_waiting(listener.ev.fd):
            return 0
        fd = sock_accept(w, listener.ev.fd, &peer)
        if fd == -EINTR:
            continue
        if fd < 0:
            return fd
        tunnel_accept(w, listener.pod, fd, &peer)
    return 0


cdef int accept_captured(worker_t *w, listener_t *listener) noexcept nogil:
    """Connections redirected to 15001 and 15006: 0 | -errno."""
    cdef flow_t *flow
    cdef addr_t peer
    cdef int i, fd
    for i in range(ACCEPT_BATCH):
        if i and not sock_waiting(listener.ev.fd):
            return 0
        fd = sock_accept(w, listener.ev.fd, &peer)
        if fd == -EINTR:
            continue
        if fd < 0:
            return fd
        flow = flow_new(w, listener.pod, listener.direction)
        if flow is NULL:
            linux.close(fd)
            w.page[PC_SOCKETS_OPEN] -= 1
            return -ENOMEM
        flow.app.fd = fd
        flow.src = peer
        flow.protocol = PROTO_TCP
        sock_original(w, fd, &peer, &flow.dst)
        decide(w, flow)
    return 0


cdef void pods_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil:
    cdef listener_t *listener = listener_of_ev(ev)
    cdef int rc
    rc = accept_tunnels(w, listener) if listener.direction == DIR_INBOUND_HBONE else accept_captured(w, listener)
    if rc == -EMFILE or rc == -ENFILE or rc == -ENOMEM or rc == -ENOBUFS:
        # The queue keeps the connections; without a pause the level-triggered listener would spin.
        listeners_want(w, 0)
        timer_set(&w.wheel, &w.accept_timer, w.now_ms + ACCEPT_PAUSE_MS, on_accept_timer, w)


cdef void listeners_want(worker_t *w, uint32_t events) noexcept nogil:
    cdef epoll_event event
    cdef pod_t *pod
    cdef int i, j
    event.events = events
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            for j in range(3):
                event.data.ptr = &pod.listeners[j].ev
                if pod.listeners[j].ev.kind != EV_DEAD:
                    epoll_ctl(w.epfd, EPOLL_CTL_MOD, pod.listeners[j].ev.fd, &event)
            pod = pod.chain


cdef void on_accept_timer(void *owner) noexcept nogil:
    listeners_want(<worker_t *>owner, EPOLLIN)


cdef int listen_on(worker_t *w, listener_t *listener, int fd) noexcept nogil:
    """Level-triggered: a batch that leaves connections in the queue is called again."""
    cdef epoll_event event
    sock_listener(w, fd, listener.direction != DIR_INBOUND_HBONE)
    w.page[PC_SOCKETS_OPEN] += 1
    listener.ev.fd = fd
    listener.ev.kind = EV_LISTENER
    event.events = EPOLLIN
    event.data.ptr = &listener.ev
    if epoll_ctl(w.epfd, EPOLL_CTL_ADD, fd, &event) < 0:
        return -linux.errno
    return 0


cdef void pods_add(worker_t *w, const rec_pod_add *record, int *fds, int count) noexcept nogil:
    cdef pod_t *pod
    cdef rec_pod reply
    cdef int i
    if count != 4 or pod_find(w, record.pod_id) is not NULL:
        for i in range(count):
            linux.close(fds[i])
        return
    pod = <pod_t *>calloc(1, sizeof(pod_t))
    if pod is NULL:
        for i in range(count):
            linux.close(fds[i])
        return
    pod.w = w
    pod.id = record.pod_id
    pod.cert_id = record.cert_id
    pod.spoof = record.flags & 1
    pod.netns = fds[0]
    pod.users = 1                # the table's own share
    link_init(&pod.tunnels)
    link_init(&pod.flows)
    pod.chain = w.pods[pod.id & (CHAINS - 1)]
    w.pods[pod.id & (CHAINS - 1)] = pod
    for i in range(3):
        pod.listeners[i].pod = pod
        pod.listeners[i].direction = <uint8_t>(DIR_OUTBOUND + i)
        listen_on(w, &pod.listeners[i], fds[i + 1])
    memset(&reply, 0, sizeof(reply))
    reply.head.type = REC_POD_READY
    reply.head.version = RECORDS_VERSION
    reply.head.size = sizeof(reply)
    reply.pod_id = pod.id
    control_send(w, &reply, sizeof(reply))


cdef void close_listeners(worker_t *w, pod_t *pod) noexcept nogil:
    cdef epoll_event unused
    cdef int i
    for i in range(3):
        if pod.listeners[i].ev.kind != EV_DEAD:
            # The control process keeps a duplicate, so closing ours would leave the registration behind.
            epoll_ctl(w.epfd, EPOLL_CTL_DEL, pod.listeners[i].ev.fd, &unused)
            ev_close(w, &pod.listeners[i].ev)


cdef void pod_release(worker_t *w, pod_t *pod) noexcept nogil:
    pod.users -= 1
    if pod.users == 0:
        pod.chain = w.grave_pods
        w.grave_pods = pod


cdef void pods_del(worker_t *w, uint32_t id) noexcept nogil:
    """The pod has left: its listeners, connections and tunnels go at once."""
    cdef pod_t **at = &w.pods[id & (CHAINS - 1)]
    cdef pod_t *pod
    while at[0] is not NULL and at[0].id != id:
        at = &at[0].chain
    pod = at[0]
    if pod is NULL:
        return
    at[0] = pod.chain
    pod.gone = 1
    close_listeners(w, pod)
    while pod.flows.next is not &pod.flows:
        flow_fail(w, flow_of_pod(pod.flows.next), FLAG_NONE, b"workload left the mesh")
    while pod.tunnels.next is not &pod.tunnels:
        tunnel_close(w, tunnel_of_pod(pod.tunnels.next))
    if w.netns == pod.netns:
        w.netns = -1             # the number may come back as another namespace
    linux.close(pod.netns)
    pod.netns = -1
    pod_release(w, pod)


cdef void pods_endpoint_gone(worker_t *w, const uint8_t *ip) noexcept nogil:
    cdef link_t *link
    cdef tunnel_t *tunnel
    cdef flow_t *flow
    cdef pod_t *pod
    cdef int i
    for i in range(CHAINS):
        link = w.client_pool[i].next
        while link is not &w.client_pool[i]:
            tunnel = tunnel_of_pool(link)
            link = link.next
            if memcmp(tunnel.peer.ip, ip, 16) == 0:
                tunnel_break(w, tunnel, FLAG_CONNECT, b"endpoint is gone")
        pod = w.pods[i]
        while pod is not NULL:
            link = pod.flows.next
            while link is not &pod.flows:
                flow = flow_of_pod(link)
                link = link.next
                if (flow.direction == DIR_OUTBOUND and relay_of(flow) is not NULL
                        and memcmp(flow.actual.ip, ip, 16) == 0):
                    flow_fail(w, flow, FLAG_CONNECT, b"endpoint is gone")
            pod = pod.chain


cdef int dialled_fd(flow_t *flow) noexcept nogil:
    if relay_of(flow) is not NULL:
        return relay_of(flow).ev.fd
    return flow.app.fd if flow.direction == DIR_INBOUND_HBONE else -1


cdef void pods_keepalive(void *owner) noexcept nogil:
    """A timer: keepalive for every dialled connection that is younger than the last round. Pods list by age."""
    cdef worker_t *w = <worker_t *>owner
    cdef pod_t *pod
    cdef flow_t *flow
    cdef link_t *link
    cdef int i, fd, left = KEEP_BATCH
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            link = pod.flows.prev
            while link is not &pod.flows and flow_of_pod(link).opened_ms > w.kept_ms:
                flow = flow_of_pod(link)
                link = link.prev
                fd = dialled_fd(flow)
                if fd < 0 or flow.bits & B_KEPT:
                    continue
                if left == 0:
                    timer_set(&w.wheel, &w.keep_timer, w.now_ms, pods_keepalive, w)
                    return
                left -= 1
                flow.bits |= B_KEPT
                sock_keepalive(w, fd)
            pod = pod.chain
    w.kept_ms = w.now_ms


cdef void drain_tunnels(worker_t *w, bint final) noexcept nogil:
    cdef pod_t *pod
    cdef link_t *link
    cdef int i
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            link = pod.tunnels.next
            while link is not &pod.tunnels:
                link = link.next
                tunnel_drain(w, tunnel_of_pod(link.prev), final)
            pod = pod.chain


cdef void on_drain_grace(void *owner) noexcept nogil:
    cdef worker_t *w = <worker_t *>owner
    drain_tunnels(w, True)
    w.drain_final = True
    timer_set(&w.wheel, &w.drain_timer, w.drain_ms, on_drain_deadline, w)


cdef void on_drain_deadline(void *owner) noexcept nogil:
    cdef worker_t *w = <worker_t *>owner
    cdef pod_t *pod
    cdef int i
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            while pod.flows.next is not &pod.flows:
                flow_fail(w, flow_of_pod(pod.flows.next), FLAG_NONE, b"connection closed due to connection drain")
            pod = pod.chain


cdef void pods_drain(worker_t *w, uint32_t deadline_ms) noexcept nogil:
    cdef pod_t *pod
    cdef int i
    w.draining = True
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            close_listeners(w, pod)
            pod = pod.chain
    drain_tunnels(w, False)
    w.drain_ms = w.now_ms + deadline_ms
    timer_set(&w.wheel, &w.drain_timer, w.now_ms + (DRAIN_GRACE_MS if deadline_ms > DRAIN_GRACE_MS else deadline_ms),
              on_drain_grace, w)


cdef void pods_free_graves(worker_t *w) noexcept nogil:
    cdef flow_t *flow
    cdef tunnel_t *tunnel
    cdef pod_t *pod
    while w.grave_flows is not NULL:
        flow = w.grave_flows
        w.grave_flows = <flow_t *>flow.wait_link.next
        pod_release(w, flow.pod)
        free(relay_of(flow))
        free(flow)
    while w.grave_tunnels is not NULL:
        tunnel = w.grave_tunnels
        w.grave_tunnels = <tunnel_t *>tunnel.pool_link.next
        pod_release(w, tunnel.pod)
        free(tunnel)
    while w.grave_pods is not NULL:
        pod = w.grave_pods
        w.grave_pods = pod.chain
        free(pod)
