# Buffers of one worker: 16 KiB chunks, held only while bytes are in flight.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    CHUNK_BYTES = 16384          # plaintext of one full TLS record: 9 bytes of frame head + 16375 of payload
    POOL_KEEP = 64               # free chunks kept for reuse; the rest goes back to malloc

cdef struct chunk_t:             # 0 <= start <= end <= CHUNK_BYTES
    chunk_t *next                # in a queue: the last one's is the first
    uint64_t queued              # of the last one in a queue: bytes of the whole queue
    uint32_t start
    uint32_t end
    uint64_t pad                 # data begins on a multiple of 16, which is cheaper to copy
    uint8_t data[CHUNK_BYTES]

cdef struct pool_t:
    chunk_t *free
    uint32_t kept                # chunks on the free list
    uint32_t out                 # chunks in use
    uint32_t high                # most ever in use
    uint32_t limit               # chunks; at this many the sources are no longer read
    uint64_t *gauge              # shared cells: [0] in use, [1] high-water mark

cdef struct queue_t:             # bytes waiting for a socket, in order; a pointer, since most of the time it is empty
    chunk_t *tail                # NULL: empty

cdef void pool_init(pool_t *pool, uint64_t max_bytes, uint64_t *gauge) noexcept nogil
cdef void pool_destroy(pool_t *pool) noexcept nogil
cdef chunk_t *pool_get(pool_t *pool) noexcept nogil          # NULL: no memory
cdef void pool_put(pool_t *pool, chunk_t *chunk) noexcept nogil
cdef int queue_append(queue_t *queue, pool_t *pool, const uint8_t *data, size_t size) noexcept nogil   # 0 | -ENOMEM
cdef void queue_push(queue_t *queue, chunk_t *chunk) noexcept nogil          # takes the chunk over
cdef void queue_clear(queue_t *queue, pool_t *pool) noexcept nogil
# Writes what the socket takes: bytes written, 0 when it takes none, -errno when it is broken. `calls` counts writes.
cdef ssize_t queue_write(queue_t *queue, pool_t *pool, int fd, uint64_t *calls) noexcept nogil

cdef inline uint64_t queue_size(const queue_t *queue) noexcept nogil:
    return 0 if queue.tail is NULL else queue.tail.queued

cdef inline bint pool_tight(pool_t *pool) noexcept nogil:
    return pool.out >= pool.limit
