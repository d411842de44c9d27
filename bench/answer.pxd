# An HTTP/1.1 answer that comes in pieces: status 200, the length that was asked for, and all of it.
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    HEAD_MAX = 8192              # bytes of an answer's head; what nginx and Envoy allow at least
    V_MORE = 0                   # what became of a request; from V_CONNECT on: kinds of errors
    V_DONE = 1
    V_CONNECT = 2
    V_STATUS = 3
    V_HEAD = 4
    V_LENGTH = 5
    V_CLOSED = 6
    V_TIMEOUT = 7
    VERDICTS = 8

cdef struct answer_t:
    char *head                   # HEAD_MAX bytes, touched only by a head that comes in pieces; the owner's
    int64_t body                 # bytes of body to come; -1: still in the head
    uint32_t head_len
    uint8_t last                 # the answer says that the server will close

# Checks the next piece: V_MORE, V_DONE, or what is wrong with it.
cdef int answer_take(answer_t *answer, const char *data, size_t size, int64_t body_bytes) noexcept nogil
