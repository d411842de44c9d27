"""The worker's end of the control socket. No Python surface."""

from libc.errno cimport EINVAL, ENOMEM
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset, strlen

from meshcore cimport linux
from meshcore.flowtable cimport flowtable_destroy, flowtable_init
from meshcore.linux cimport *
from meshcore.openssl cimport OPENSSL_cleanse
from meshcore.pool cimport pool_destroy, pool_init
from meshcore.records cimport *
from meshcore.tls cimport *
from ztunnel._decide cimport control_send, decide_flush, decide_verdict
from ztunnel._log cimport log_flush
from ztunnel._relay cimport relay_free_spares
from ztunnel._pods cimport pods_add, pods_del, pods_drain, pods_endpoint_gone, pods_free_graves
from ztunnel._tunnel cimport tunnel_certified
from ztunnel._types cimport *

cdef enum:
    FDS_MAX = 8                  # descriptors of one record; a pod has four
    CONTROL_BYTES = 64           # ancillary buffer for them
    RECORDS_PER_TURN = 64        # then the data path has its turn
    ORPHAN_DRAIN_MS = 25000      # upstream's drain under the default grace period of 30 s
    DUMP_WAIT_MS = 20            # how long a dump may hold the loop when the control process does not read


# === tables by id ===

cdef int slot_put(slot_t **slots, uint32_t id, void *value, void **old) noexcept nogil:
    cdef slot_t *slot = slots[id & (CHAINS - 1)]
    old[0] = NULL
    while slot is not NULL and slot.id != id:
        slot = slot.chain
    if slot is not NULL:
        old[0] = slot.value
        slot.value = value
        return 0
    slot = <slot_t *>malloc(sizeof(slot_t))
    if slot is NULL:
        return -ENOMEM
    slot.id = id
    slot.value = value
    slot.chain = slots[id & (CHAINS - 1)]
    slots[id & (CHAINS - 1)] = slot
    return 0


cdef void *slot_take(slot_t **slots, uint32_t id) noexcept nogil:
    cdef slot_t **at = &slots[id & (CHAINS - 1)]
    cdef slot_t *slot
    cdef void *value
    while at[0] is not NULL and at[0].id != id:
        at = &at[0].chain
    slot = at[0]
    if slot is NULL:
        return NULL
    at[0] = slot.chain
    value = slot.value
    free(slot)
    return value


# === certificates ===

cdef void cert_error(worker_t *w, uint32_t cert_id, const char *text) noexcept nogil:
    cdef uint8_t buffer[512]
    cdef rec_cert *record = <rec_cert *>buffer
    cdef size_t size = strlen(text)
    if size > 512 - sizeof(rec_cert):
        size = 512 - sizeof(rec_cert)
    memset(record, 0, sizeof(rec_cert))
    record.head.type = REC_CERT_ERROR
    record.head.version = RECORDS_VERSION
    record.head.size = <uint32_t>(sizeof(rec_cert) + size)
    record.cert_id = cert_id
    memcpy(buffer + sizeof(rec_cert), text, size)
    control_send(w, buffer, record.head.size)


cdef void cert_set(worker_t *w, const rec_cert *record, const uint8_t *body) noexcept nogil:
    cdef bundle_t *bundle = <bundle_t *>slot_find(w.bundles, record.bundle_id)
    cdef cert_t *cert
    cdef void *old = NULL
    cdef const char *reason = b""
    cdef pod_t *pod
    cdef link_t *link
    cdef tunnel_t *tunnel
    cdef int i
    if bundle is NULL:
        cert_error(w, record.cert_id, b"its trust bundle is not known")
        return
    cert = cert_load(record.cert_id, bundle, body, record.chain_len, body + record.chain_len, record.key_len, &reason)
    if cert is NULL:
        cert_error(w, record.cert_id, reason)
        return
    if slot_put(w.certs, record.cert_id, cert, &old) < 0:
        cert_release(cert)
        return
    if old is not NULL:
        cert_release(<cert_t *>old)
        return                   # a rotation: nobody waits
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            link = pod.tunnels.next if pod.cert_id == record.cert_id else &pod.tunnels
            while link is not &pod.tunnels:
                tunnel = tunnel_of_pod(link)
                link = link.next
                tunnel_certified(w, tunnel, cert)
            pod = pod.chain


cdef void bundle_set(worker_t *w, const rec_bundle *record, const uint8_t *body) noexcept nogil:
    cdef const char *reason = b""
    cdef void *old = NULL
    cdef bundle_t *bundle = bundle_load(record.bundle_id, body, record.pem_len, &reason)
    if bundle is NULL:
        cert_error(w, 0, reason)
        return
    if slot_put(w.bundles, record.bundle_id, bundle, &old) < 0:
        bundle_release(bundle)
    elif old is not NULL:
        bundle_release(<bundle_t *>old)


# === labels and identity lists ===

cdef void label_set(worker_t *w, const rec_label *record, const uint8_t *body) noexcept nogil:
    cdef uint32_t size = w.labels_size if w.labels_size else 64
    cdef label_t *labels
    cdef char *text = NULL
    cdef size_t length = <size_t>record.source_len + record.destination_len
    if record.label_id >= SLOT_MAX:
        return
    while size <= record.label_id:
        size *= 2
    if size > w.labels_size:
        labels = <label_t *>realloc(w.labels, size * sizeof(label_t))
        if labels is NULL:
            return
        memset(labels + w.labels_size, 0, (size - w.labels_size) * sizeof(label_t))
        w.labels = labels
        w.labels_size = size
    if length:
        text = <char *>malloc(length)
        if text is NULL:
            return
        memcpy(text, body, length)
    free(w.labels[record.label_id].text)
    w.labels[record.label_id].text = text
    w.labels[record.label_id].source_len = record.source_len
    w.labels[record.label_id].destination_len = record.destination_len


cdef void sans_set(worker_t *w, const rec_sans *record, const uint8_t *body, size_t size) noexcept nogil:
    cdef sans_t *sans = <sans_t *>malloc(sizeof(sans_t) + size)
    cdef void *old = NULL
    if sans is NULL:
        return
    sans.id = record.sans_id
    sans.users = 1
    sans.count = record.count
    sans.size = <uint32_t>size
    memcpy(sans.text, body, size)
    sans.text[size] = 0
    if slot_put(w.sans, record.sans_id, sans, &old) < 0:
        free(sans)
    elif old is not NULL:
        sans_release(<sans_t *>old)


# === drain and dump ===

cdef void control_drain_check(worker_t *w) noexcept nogil:
    cdef rec_head head
    if not w.drain_final or w.drained_sent or w.flows:
        return
    if w.orphan:
        w.stop = True
        return
    head.type = REC_DRAINED
    head.version = RECORDS_VERSION
    head.size = sizeof(head)
    if control_send(w, &head, sizeof(head)) == 0:
        w.drained_sent = True


cdef bint dump_send(worker_t *w, const void *record, size_t size) noexcept nogil:
    cdef pollfd out
    if control_send(w, record, size) == 0:
        return True
    out.fd = w.control
    out.events = POLLOUT
    return poll(&out, 1, DUMP_WAIT_MS) > 0 and control_send(w, record, size) == 0


cdef void dump(worker_t *w) noexcept nogil:
    cdef rec_dump_flow record
    cdef rec_head end
    cdef pod_t *pod
    cdef link_t *link
    cdef flow_t *flow
    cdef int i
    memset(&record, 0, sizeof(record))
    record.head.type = REC_DUMP_FLOW
    record.head.version = RECORDS_VERSION
    record.head.size = sizeof(record)
    for i in range(CHAINS):
        pod = w.pods[i]
        while pod is not NULL:
            link = pod.flows.next
            while link is not &pod.flows:
                flow = flow_of_pod(link)
                link = link.next
                if flow.state != F_OPEN:
                    continue
                record.pod_id = pod.id
                record.verdict_id = 0 if flow.entry is NULL else flow.entry.verdict_id
                memcpy(record.src_ip, flow.src.ip, 16)
                memcpy(record.dst_ip, flow.dst.ip, 16)
                memcpy(record.actual_ip, flow.actual.ip, 16)
                record.src_port = flow.src.port
                record.dst_port = flow.dst.port
                record.actual_port = flow.actual.port
                record.direction = flow.direction
                record.protocol = flow.protocol
                record.bytes_sent = flow.sent
                record.bytes_received = flow.received
                record.age_ms = w.now_ms - flow.opened_ms
                if not dump_send(w, &record, sizeof(record)):
                    return
            pod = pod.chain
    end.type = REC_DUMP_END
    end.version = RECORDS_VERSION
    end.size = sizeof(end)
    dump_send(w, &end, sizeof(end))


# === records ===

cdef int configure(worker_t *w, const rec_config *record) noexcept nogil:
    w.config = record[0]
    if w.configured:
        w.pool.limit = <uint32_t>(w.config.buffer_max // 16384)
        w.table.limit = w.config.flow_table_max
        return 0
    pool_init(&w.pool, w.config.buffer_max, &w.page[PC_BUFFERS_OUT])
    if flowtable_init(&w.table, w.config.flow_table_max) < 0 or tls_env_init(&w.tls, w.config.tls12 != 0) < 0:
        return -ENOMEM
    w.configured = True
    return 0


cdef bint verdict_fits(const rec_verdict *record) noexcept nogil:
    return record.head.size == (sizeof(rec_verdict) + record.endpoints * sizeof(rec_endpoint) + record.baggage_len
                                + record.host_len + record.reason_len)


cdef size_t least_size(int kind) noexcept nogil:
    if kind == REC_CONFIG:
        return sizeof(rec_config)
    if kind == REC_POD_ADD:
        return sizeof(rec_pod_add)
    if kind == REC_POD_DEL:
        return sizeof(rec_pod)
    if kind == REC_CERT or kind == REC_CERT_DEL:
        return sizeof(rec_cert)
    if kind == REC_BUNDLE:
        return sizeof(rec_bundle)
    if kind == REC_LABEL or kind == REC_LABEL_DEL:
        return sizeof(rec_label)
    if kind == REC_SANS or kind == REC_SANS_DEL:
        return sizeof(rec_sans)
    if kind == REC_VERDICT:
        return sizeof(rec_verdict)
    if kind == REC_FLUSH:
        return sizeof(rec_flush)
    if kind == REC_ENDPOINT_GONE:
        return sizeof(rec_endpoint_gone)
    if kind == REC_DRAIN:
        return sizeof(rec_drain)
    return sizeof(rec_head)


cdef int take(worker_t *w, uint8_t *data, size_t size, int *fds, int count) noexcept nogil:
    """One record: 0, or -EINVAL when the two sides do not understand each other, which ends the worker."""
    cdef rec_head *head = <rec_head *>data
    cdef rec_cert *cert = <rec_cert *>data
    cdef rec_bundle *bundle = <rec_bundle *>data
    cdef rec_label *label = <rec_label *>data
    cdef void *value
    if size < sizeof(rec_head) or head.size != size or head.version != RECORDS_VERSION or size < least_size(head.type):
        return -EINVAL
    if head.type == REC_CONFIG:
        return configure(w, <rec_config *>data)
    if not w.configured:
        return -EINVAL
    if head.type == REC_VERDICT:
        if not verdict_fits(<rec_verdict *>data):
            return -EINVAL
        decide_verdict(w, <rec_verdict *>data)
    elif head.type == REC_LABEL:
        if size != sizeof(rec_label) + label.source_len + label.destination_len:
            return -EINVAL
        label_set(w, label, data + sizeof(rec_label))
    elif head.type == REC_LABEL_DEL:
        label.source_len = label.destination_len = 0
        label_set(w, label, data)
    elif head.type == REC_SANS:
        sans_set(w, <rec_sans *>data, data + sizeof(rec_sans), size - sizeof(rec_sans))
    elif head.type == REC_SANS_DEL:
        value = slot_take(w.sans, (<rec_sans *>data).sans_id)
        if value is not NULL:
            sans_release(<sans_t *>value)
    elif head.type == REC_FLUSH:
        decide_flush(w, (<rec_flush *>data).verdict_id, (<rec_flush *>data).reevaluate != 0)
    elif head.type == REC_POD_ADD:
        pods_add(w, <rec_pod_add *>data, fds, count)
        return 1                 # the descriptors are taken
    elif head.type == REC_POD_DEL:
        pods_del(w, (<rec_pod *>data).pod_id)
    elif head.type == REC_CERT:
        if size != sizeof(rec_cert) + <size_t>cert.chain_len + cert.key_len:
            return -EINVAL
        cert_set(w, cert, data + sizeof(rec_cert))
        OPENSSL_cleanse(data, size)
    elif head.type == REC_CERT_DEL:
        value = slot_take(w.certs, cert.cert_id)
        if value is not NULL:
            cert_release(<cert_t *>value)
    elif head.type == REC_BUNDLE:
        if size != sizeof(rec_bundle) + <size_t>bundle.pem_len:
            return -EINVAL
        bundle_set(w, bundle, data + sizeof(rec_bundle))
    elif head.type == REC_ENDPOINT_GONE:
        pods_endpoint_gone(w, (<rec_endpoint_gone *>data).ip)
    elif head.type == REC_DRAIN:
        pods_drain(w, (<rec_drain *>data).deadline_ms)
    elif head.type == REC_DUMP:
        dump(w)
    elif head.type == REC_STOP:
        w.stop = True
    return 0


cdef int take_fds(msghdr *message, int *fds) noexcept nogil:
    cdef cmsghdr *head = CMSG_FIRSTHDR(message)
    cdef int count
    if head is NULL or head.cmsg_level != SOL_SOCKET or head.cmsg_type != SCM_RIGHTS:
        return 0
    count = <int>((head.cmsg_len - CMSG_LEN(0)) // sizeof(int))
    memcpy(fds, CMSG_DATA(head), <size_t>count * sizeof(int))
    return count


cdef void control_read(worker_t *w) noexcept nogil:
    cdef msghdr message
    cdef iovec vector
    cdef uint8_t ancillary[CONTROL_BYTES]
    cdef int fds[FDS_MAX]
    cdef int _i, j, count, rc
    cdef ssize_t n
    for _i in range(RECORDS_PER_TURN):
        memset(&message, 0, sizeof(message))
        vector.iov_base = w.record
        vector.iov_len = RECORD_MAX
        message.msg_iov = &vector
        message.msg_iovlen = 1
        message.msg_control = ancillary
        message.msg_controllen = CONTROL_BYTES
        n = recvmsg(w.control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
        if n < 0:
            if linux.errno == EINTR:
                continue
            if linux.errno != EAGAIN:
                lost_control(w)
            return
        if n == 0:
            lost_control(w)
            return
        count = take_fds(&message, fds)
        rc = take(w, w.record, <size_t>n, fds, count)
        if rc != 1:
            for j in range(count):
                linux.close(fds[j])
        if rc < 0:
            w.stop = True
            w.failed = True
            return
        if w.stop:
            return


cdef void lost_control(worker_t *w) noexcept nogil:
    """The control process has died: go on with what is known. New flows wait, bounded, for one that may come."""
    w.control_ev.kind = EV_DEAD
    linux.close(w.control)
    w.control = -1
    w.orphan = True


cdef void control_event(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil:
    control_read(w)


cdef void control_signal(worker_t *w, ev_t *ev, uint32_t ready) noexcept nogil:
    """SIGTERM: an orphan drains, because nobody else can tell it to; otherwise the control process starts another."""
    cdef signalfd_siginfo info
    while linux.read(w.signal_ev.fd, &info, sizeof(info)) == sizeof(info):
        if not w.orphan:
            w.stop = True
        elif not w.draining:
            pods_drain(w, ORPHAN_DRAIN_MS)


cdef int watch_signals(worker_t *w) noexcept nogil:
    cdef sigset_t set
    cdef epoll_event event
    sigemptyset(&set)
    sigaddset(&set, SIGTERM)
    if sigprocmask(SIG_BLOCK, &set, NULL) < 0:
        return -linux.errno
    w.signal_ev.kind = EV_SIGNAL
    w.signal_ev.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)
    event.events = EPOLLIN
    event.data.ptr = &w.signal_ev
    if w.signal_ev.fd < 0 or epoll_ctl(w.epfd, EPOLL_CTL_ADD, w.signal_ev.fd, &event) < 0:
        return -linux.errno
    return 0


cdef int control_open(worker_t *w) noexcept nogil:
    cdef rec_hello hello
    cdef epoll_event event
    cdef int rc = watch_signals(w)
    if rc < 0:
        return rc
    hello.head.type = REC_HELLO
    hello.head.version = RECORDS_VERSION
    hello.head.size = sizeof(hello)
    hello.pid = <uint32_t>getpid()
    hello.records_version = RECORDS_VERSION
    w.control_ev.kind = EV_CONTROL
    w.control_ev.fd = w.control
    event.events = EPOLLIN       # level-triggered: what a turn leaves is called again
    event.data.ptr = &w.control_ev
    if epoll_ctl(w.epfd, EPOLL_CTL_ADD, w.control, &event) < 0:
        return -linux.errno
    return control_send(w, &hello, sizeof(hello))


# === the end of things ===

cdef void control_close(worker_t *w) noexcept nogil:
    cdef int i
    cdef void *value
    for i in range(CHAINS):
        while w.pods[i] is not NULL:
            pods_del(w, w.pods[i].id)
    pods_free_graves(w)
    log_flush(w)
    relay_free_spares(w)
    for i in range(CHAINS):
        while w.certs[i] is not NULL:
            value = slot_take(w.certs, w.certs[i].id)
            cert_release(<cert_t *>value)
        while w.bundles[i] is not NULL:
            value = slot_take(w.bundles, w.bundles[i].id)
            bundle_release(<bundle_t *>value)
        while w.sans[i] is not NULL:
            value = slot_take(w.sans, w.sans[i].id)
            sans_release(<sans_t *>value)
    for i in range(<int>w.labels_size):
        free(w.labels[i].text)
    free(w.labels)
    if w.configured:
        flowtable_destroy(&w.table)
        tls_env_destroy(&w.tls)
        pool_destroy(&w.pool)
    if w.signal_ev.fd > 0:
        linux.close(w.signal_ev.fd)
    if w.control >= 0:
        linux.close(w.control)
