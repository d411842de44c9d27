"""Access log and per-label counters of the worker. No Python surface."""

from libc.string cimport memcpy, memmove, strlen

from meshcore cimport linux
from meshcore.linux cimport CLOCK_REALTIME, POLLOUT, clock_gettime, poll, pollfd, timespec
from meshcore.records cimport (DIR_OUTBOUND, FLAG_NONE, PC_LOG_DROPPED, PC_LOG_LINES, PROTO_HBONE, SC_CLOSED, SC_FAILED,
                               SC_OPENED)
from meshcore.wheel cimport timer_set
from ztunnel._sock cimport ADDRESS_TEXT, addr_is_v4, addr_text
from ztunnel._types cimport *

cdef extern from "<string.h>" nogil:
    void *memrchr(const void *data, int c, size_t size)

cdef enum:
    LINE_MAX = 6144              # bytes of one line; fragments are bounded by the control process
    NUMBER_MAX = 20              # digits of a u64


cdef struct line_t:              # 0 <= size <= LINE_MAX; what does not fit is cut
    char *text
    size_t size


cdef void put(line_t *line, const char *text, size_t size) noexcept nogil:
    if size > LINE_MAX - line.size:
        size = LINE_MAX - line.size
    memcpy(line.text + line.size, text, size)
    line.size += size


cdef void puts(line_t *line, const char *text) noexcept nogil:
    put(line, text, strlen(text))


cdef void put_number(line_t *line, uint64_t value, int width) noexcept nogil:
    """Decimal, with leading zeros up to `width`."""
    cdef char digits[NUMBER_MAX]
    cdef int at = NUMBER_MAX
    while value or at == NUMBER_MAX or NUMBER_MAX - at < width:
        at -= 1
        digits[at] = <char>(c"0" + <int>(value % 10))
        value //= 10
    put(line, digits + at, <size_t>(NUMBER_MAX - at))


cdef void put_time(line_t *line) noexcept nogil:
    """RFC 3339 in UTC with microseconds; the calendar is Howard Hinnant's days-to-civil arithmetic."""
    cdef timespec now
    cdef uint64_t days, seconds, era, doe, yoe, doy, mp, year
    clock_gettime(CLOCK_REALTIME, &now)
    days = <uint64_t>now.tv_sec // 86400 + 719468
    seconds = <uint64_t>now.tv_sec % 86400
    era = days // 146097
    doe = days - era * 146097
    yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    year = yoe + era * 400 + (1 if mp >= 10 else 0)
    put_number(line, year, 4)
    puts(line, b"-")
    put_number(line, mp + 3 if mp < 10 else mp - 9, 2)
    puts(line, b"-")
    put_number(line, doy - (153 * mp + 2) // 5 + 1, 2)
    puts(line, b"T")
    put_number(line, seconds // 3600, 2)
    puts(line, b":")
    put_number(line, seconds // 60 % 60, 2)
    puts(line, b":")
    put_number(line, seconds % 60, 2)
    puts(line, b".")
    put_number(line, <uint64_t>now.tv_nsec // 1000, 6)
    puts(line, b"Z")


cdef void put_addr(line_t *line, const addr_t *addr, uint16_t port) noexcept nogil:
    cdef char text[ADDRESS_TEXT]
    cdef size_t size = addr_text(addr, text)
    cdef bint v4 = addr_is_v4(addr)
    if not v4:
        puts(line, b"[")
    put(line, text, size)
    puts(line, b":" if v4 else b"]:")
    put_number(line, port, 0)


cdef void key(line_t *line, bint json, const char *name, bint first) noexcept nogil:
    if json:
        puts(line, b',"' if not first else b'"')
        puts(line, name)
        puts(line, b'":')
    else:
        if not first:
            puts(line, b" ")
        puts(line, name)
        puts(line, b"=")


cdef void key_addr(line_t *line, bint json, const char *name, const addr_t *addr, uint16_t port,
                   bint first) noexcept nogil:
    key(line, json, name, first)
    if json:
        puts(line, b'"')
    put_addr(line, addr, port)
    if json:
        puts(line, b'"')


cdef void fragment(line_t *line, bint json, const char *text, size_t size) noexcept nogil:
    if size:
        puts(line, b"," if json else b" ")
        put(line, text, size)


cdef void write_line(worker_t *w, flow_t *flow, const char *error, line_t *line) noexcept nogil:
    cdef bint json = w.config.log_json != 0
    cdef const char *level = b"info"
    cdef const char *message = b"connection complete"
    cdef label_t *label = NULL
    cdef const addr_t *hop = &flow.actual if flow.actual.port else &flow.dst
    if error is not NULL:
        level = b"error"
    if error is not NULL and flow.label_id == 0 and flow.flag == FLAG_NONE and not flow.bits & B_COUNTED:
        # Refused before anything was known about either end: a warning, and no metrics (upstream calls it early deny).
        level = b"warn"
        message = b"connection failed"
    if flow.label_id < w.labels_size and w.labels[flow.label_id].text is not NULL:
        label = &w.labels[flow.label_id]
    if json:
        puts(line, b'{"level":"')
        puts(line, level)
        puts(line, b'","time":"')
        put_time(line)
        puts(line, b'","scope":"access","message":"')
        puts(line, message)
        puts(line, b'",')
    else:
        put_time(line)
        puts(line, b"\t")
        puts(line, level)
        puts(line, b"\taccess\t")
        puts(line, message)
        puts(line, b"\t")
    key_addr(line, json, b"src.addr", &flow.src, flow.src.port, True)
    if label is not NULL:
        fragment(line, json, label.text, label.source_len)
    key_addr(line, json, b"dst.addr", hop, hop.port, False)
    if flow.direction == DIR_OUTBOUND and flow.protocol == PROTO_HBONE:
        key_addr(line, json, b"dst.hbone_addr", &flow.actual if flow.authority == 1 else &flow.dst,
                 flow.target_port if flow.authority == 1 else flow.dst.port, False)
    if label is not NULL:
        fragment(line, json, label.text + label.source_len, label.destination_len)
    else:
        key(line, json, b"direction", False)
        puts(line, b'"outbound"' if flow.direction == DIR_OUTBOUND else b'"inbound"')
    key(line, json, b"bytes_sent", False)
    put_number(line, flow.sent, 0)
    key(line, json, b"bytes_recv", False)
    put_number(line, flow.received, 0)
    key(line, json, b"duration", False)
    puts(line, b'"')
    put_number(line, w.now_ms - flow.opened_ms, 0)
    puts(line, b'ms"')
    if error is not NULL:
        key(line, json, b"error", False)
        puts(line, b'"')
        if flow.status:
            puts(line, b"http status: ")
            put_number(line, flow.status, 0)
        elif error[0] == 0 and flow.entry is not NULL and flow.entry.reason_len:
            put(line, flow.entry.text + flow.entry.baggage_len + flow.entry.host_len, flow.entry.reason_len)
        else:
            puts(line, error)
        puts(line, b'"')
    if json:
        puts(line, b"}")
    if line.size == LINE_MAX:
        line.size -= 1
    line.text[line.size] = c"\n"
    line.size += 1


cdef void log_complete(worker_t *w, flow_t *flow, const char *error) noexcept nogil:
    cdef line_t line
    if not w.config.log_access:
        return
    if w.log_used + LINE_MAX > LOG_BYTES:
        log_flush(w)
        if w.log_used + LINE_MAX > LOG_BYTES:
            w.page[PC_LOG_DROPPED] += 1
            return
    line.text = w.log + w.log_used
    line.size = 0
    write_line(w, flow, error, &line)
    w.log_used += <uint32_t>line.size
    w.page[PC_LOG_LINES] += 1
    if w.log_used >= LOG_WRITE:
        log_flush(w)
    if w.log_used and w.log_timer.fn is NULL:
        timer_set(&w.wheel, &w.log_timer, w.now_ms + LOG_FLUSH_MS, log_timer, w)


cdef void log_flush(worker_t *w) noexcept nogil:
    cdef pollfd out
    cdef uint32_t done = 0, size
    cdef const char *newline
    cdef ssize_t n
    out.fd = 1
    out.events = POLLOUT
    while done < w.log_used:
        if poll(&out, 1, 0) <= 0 or not out.revents & POLLOUT:
            break
        size = w.log_used - done
        if size > LOG_WRITE:
            # Whole lines, so that several workers may share one pipe.
            newline = <const char *>memrchr(w.log + done, c"\n", LOG_WRITE)
            size = LOG_WRITE if newline is NULL else <uint32_t>(newline + 1 - (w.log + done))
        n = linux.write(1, w.log + done, size)
        if n <= 0:
            break
        done += <uint32_t>n
    if done:
        memmove(w.log, w.log + done, w.log_used - done)
        w.log_used -= done


cdef void log_timer(void *owner) noexcept nogil:
    cdef worker_t *w = <worker_t *>owner
    log_flush(w)
    if w.log_used:
        timer_set(&w.wheel, &w.log_timer, w.now_ms + LOG_FLUSH_MS, log_timer, w)


cdef void count_opened(worker_t *w, flow_t *flow) noexcept nogil:
    if not flow.bits & B_COUNTED:
        flow.bits |= B_COUNTED
        slot_of(w, flow.label_id)[SC_OPENED] += 1


cdef void count_closed(worker_t *w, flow_t *flow) noexcept nogil:
    cdef uint64_t *cells = slot_of(w, flow.label_id)
    if flow.flag != FLAG_NONE:
        cells[SC_FAILED + flow.flag] += 1
    elif flow.bits & B_COUNTED:
        cells[SC_CLOSED] += 1
