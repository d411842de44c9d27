"""Buffer pool and byte queues of a worker. No Python surface."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from meshcore cimport linux
from meshcore.linux cimport EAGAIN, EINTR, ENOMEM, iovec, writev

cdef enum:
    WRITE_SPANS = 16             # chunks handed to one writev: 256 KiB, more than a socket buffer usually takes


cdef void pool_init(pool_t *pool, uint64_t max_bytes, uint64_t *gauge) noexcept nogil:
    pool.free = NULL
    pool.kept = pool.out = pool.high = 0
    pool.limit = <uint32_t>(max_bytes // CHUNK_BYTES)
    pool.gauge = gauge
    gauge[0] = 0


cdef void pool_destroy(pool_t *pool) noexcept nogil:
    cdef chunk_t *chunk
    while pool.free is not NULL:
        chunk = pool.free
        pool.free = chunk.next
        free(chunk)
    pool.kept = 0


cdef chunk_t *pool_get(pool_t *pool) noexcept nogil:
    cdef chunk_t *chunk = pool.free
    if chunk is not NULL:
        pool.free = chunk.next
        pool.kept -= 1
    else:
        chunk = <chunk_t *>malloc(sizeof(chunk_t))
        if chunk is NULL:
            return NULL
    chunk.next = NULL
    chunk.start = chunk.end = 0
    pool.out += 1
    pool.gauge[0] = pool.out
    if pool.out > pool.high:
        pool.high = pool.out
        pool.gauge[1] = pool.out
    return chunk


cdef void pool_put(pool_t *pool, chunk_t *chunk) noexcept nogil:
    pool.out -= 1
    pool.gauge[0] = pool.out
    if pool.kept >= POOL_KEEP:
        free(chunk)
        return
    chunk.next = pool.free
    pool.free = chunk
    pool.kept += 1


cdef int queue_append(queue_t *queue, pool_t *pool, const uint8_t *data, size_t size) noexcept nogil:
    cdef chunk_t *tail
    cdef size_t room
    while size:
        tail = queue.tail
        if tail is NULL or tail.end == CHUNK_BYTES:
            tail = pool_get(pool)
            if tail is NULL:
                return -ENOMEM
            queue_push(queue, tail)
        room = CHUNK_BYTES - tail.end
        if room > size:
            room = size
        memcpy(&tail.data[tail.end], data, room)
        tail.end += <uint32_t>room
        tail.queued += room
        data += room
        size -= room
    return 0


cdef void queue_push(queue_t *queue, chunk_t *chunk) noexcept nogil:
    cdef chunk_t *tail = queue.tail
    chunk.queued = chunk.end - chunk.start
    chunk.next = chunk
    if tail is not NULL:
        chunk.queued += tail.queued
        chunk.next = tail.next
        tail.next = chunk
    queue.tail = chunk


cdef void drop_first(queue_t *queue, pool_t *pool) noexcept nogil:
    cdef chunk_t *first = queue.tail.next
    if first is queue.tail:
        queue.tail = NULL
    else:
        queue.tail.next = first.next
    pool_put(pool, first)


cdef void queue_clear(queue_t *queue, pool_t *pool) noexcept nogil:
    while queue.tail is not NULL:
        drop_first(queue, pool)


cdef ssize_t queue_write(queue_t *queue, pool_t *pool, int fd, uint64_t *calls) noexcept nogil:
    cdef iovec spans[WRITE_SPANS]
    cdef chunk_t *chunk
    cdef ssize_t written, total = 0, asked
    cdef int count
    while queue.tail is not NULL:
        chunk = queue.tail
        count = 0
        asked = 0
        while count < WRITE_SPANS and (count == 0 or chunk is not queue.tail):
            chunk = chunk.next
            spans[count].iov_base = &chunk.data[chunk.start]
            spans[count].iov_len = chunk.end - chunk.start
            asked += chunk.end - chunk.start
            count += 1
        calls[0] += 1
        written = writev(fd, spans, count)
        if written < 0:
            if linux.errno == EINTR:
                continue
            return total if linux.errno == EAGAIN else -linux.errno
        total += written
        asked -= written
        queue.tail.queued -= <uint64_t>written
        while queue.tail is not NULL and written >= queue.tail.next.end - queue.tail.next.start:
            written -= queue.tail.next.end - queue.tail.next.start
            drop_first(queue, pool)
        if queue.tail is not NULL:
            queue.tail.next.start += <uint32_t>written
        if asked:
            break
    return total
