"""Plain relaying by splice. No Python surface.

A pipe is held only while bytes are in it, so an idle connection has two sockets and nothing else.
"""

from libc.errno cimport ENOMEM
from libc.stdlib cimport calloc

from meshcore cimport linux
from meshcore.linux cimport (EAGAIN, EINTR, O_CLOEXEC, O_NONBLOCK, SHUT_WR, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, pipe2,
                             splice)
from meshcore.records cimport PC_CLOSE, PC_SPLICE, SC_RECEIVED, SC_SENT
from ztunnel._log cimport slot_of
from ztunnel._sock cimport ev_close, sock_reset_on_close
from ztunnel._types cimport *

cdef enum:
    SPARES = 16                  # empty pipes kept for the next relay
    PIECE = 65536                # bytes asked of one splice: what a default pipe holds


cdef int take_pipe(worker_t *w, pipe_t *pipe) noexcept nogil:
    if w.spare_count:
        w.spare_count -= 1
        pipe.fds[0] = w.spare_pipes[w.spare_count][0]
        pipe.fds[1] = w.spare_pipes[w.spare_count][1]
        return 0
    if pipe2(pipe.fds, O_NONBLOCK | O_CLOEXEC) < 0:
        pipe.fds[0] = pipe.fds[1] = -1
        return -linux.errno
    return 0


cdef void give_pipe(worker_t *w, pipe_t *pipe) noexcept nogil:
    if pipe.fds[0] < 0:
        return
    if w.spare_count < SPARES and pipe.size == 0:
        w.spare_pipes[w.spare_count][0] = pipe.fds[0]
        w.spare_pipes[w.spare_count][1] = pipe.fds[1]
        w.spare_count += 1
    else:
        w.page[PC_CLOSE] += 2
        linux.close(pipe.fds[0])
        linux.close(pipe.fds[1])
    pipe.fds[0] = pipe.fds[1] = -1
    pipe.size = 0


cdef void relay_free_spares(worker_t *w) noexcept nogil:
    while w.spare_count:
        w.spare_count -= 1
        linux.close(w.spare_pipes[w.spare_count][0])
        linux.close(w.spare_pipes[w.spare_count][1])


cdef int relay_open(worker_t *w, flow_t *flow) noexcept nogil:
    cdef relay_t *relay = <relay_t *>calloc(1, sizeof(relay_t))
    if relay is NULL:
        return -ENOMEM
    relay.flow = flow
    relay.ev.fd = -1
    relay.up.fds[0] = relay.up.fds[1] = relay.down.fds[0] = relay.down.fds[1] = -1
    flow.extra.relay = relay
    return 0


cdef void relay_close(worker_t *w, flow_t *flow) noexcept nogil:
    cdef relay_t *relay = relay_of(flow)
    if relay is NULL:
        return
    if flow.bits & B_ABORT and relay.ev.fd >= 0:
        sock_reset_on_close(w, relay.ev.fd)
    ev_close(w, &relay.ev)
    give_pipe(w, &relay.up)
    give_pipe(w, &relay.down)


cdef int pump(worker_t *w, ev_t *source, ev_t *target, pipe_t *pipe, uint64_t *total, uint64_t *cell) noexcept nogil:
    """One direction: 0 waits for a socket, 1 quantum used up, 2 end passed on, -errno."""
    cdef uint64_t moved = 0
    cdef ssize_t n
    cdef int rc
    while moved < QUANTUM * 4:
        if pipe.size == 0:
            if not source.ready & (R_IN | R_HUP):
                give_pipe(w, pipe)
                return 0
            if pipe.fds[0] < 0:
                rc = take_pipe(w, pipe)
                if rc < 0:
                    return rc
            w.page[PC_SPLICE] += 1
            n = splice(source.fd, NULL, pipe.fds[1], NULL, PIECE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if n < 0:
                if linux.errno == EINTR:
                    continue
                give_pipe(w, pipe)
                if linux.errno != EAGAIN:
                    return -linux.errno
                source.ready &= <uint8_t>~(R_IN | R_HUP)
                return 0
            if n == 0:
                give_pipe(w, pipe)
                linux.shutdown(target.fd, SHUT_WR)
                return 2
            pipe.size = <uint32_t>n
        if not target.ready & R_OUT:
            return 0
        w.page[PC_SPLICE] += 1
        n = splice(pipe.fds[0], NULL, target.fd, NULL, pipe.size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n < 0:
            if linux.errno == EINTR:
                continue
            if linux.errno != EAGAIN:
                return -linux.errno
            target.ready &= <uint8_t>~R_OUT
            return 0
        pipe.size -= <uint32_t>n
        moved += <uint64_t>n
        total[0] += <uint64_t>n
        cell[0] += <uint64_t>n
    return 1


cdef int relay_pump(worker_t *w, flow_t *flow) noexcept nogil:
    cdef relay_t *relay = relay_of(flow)
    cdef uint64_t *cells = slot_of(w, flow.label_id)
    cdef int more = 0, rc
    if not flow.bits & B_UP_DONE:
        rc = pump(w, &flow.app, &relay.ev, &relay.up, &flow.sent, &cells[SC_RECEIVED])
        if rc < 0:
            return rc
        if rc == 2:
            flow.bits |= B_UP_DONE
        more |= rc & 1
    if not flow.bits & B_DOWN_DONE:
        rc = pump(w, &relay.ev, &flow.app, &relay.down, &flow.received, &cells[SC_SENT])
        if rc < 0:
            return rc
        if rc == 2:
            flow.bits |= B_DOWN_DONE
        more |= rc & 1
    if flow.bits & B_UP_DONE and flow.bits & B_DOWN_DONE:
        return 2
    return more
