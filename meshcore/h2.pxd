# HTTP/2 of one connection (RFC 9113), sans I/O: plaintext spans in, callbacks out.
#
# The engine never buffers DATA: spans go to on_data as they arrive. Only header blocks pass through HPACK state.
from libc.stdint cimport uint8_t, uint64_t

from meshcore.h2types cimport h2_conn, h2_ops

# 0 | -ENOMEM
cdef int h2_init(h2_conn *conn, const h2_ops *ops, void *owner, bint server, uint64_t now_ms) noexcept nogil
cdef void h2_destroy(h2_conn *conn) noexcept nogil
cdef int h2_input(h2_conn *conn, const uint8_t *data, size_t size) noexcept nogil   # 0 | -1: see error, abuse
