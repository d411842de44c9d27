"""Whether an HTTP/1.1 answer is the one that was asked for, however its bytes come."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy
from posix.strings cimport strncasecmp

VERDICT_NAMES = ("more", "done", "connect", "status", "head", "length", "closed", "timeout")


cdef bint is_header(const char *line, size_t size, const char *name, size_t name_len) noexcept nogil:
    return size > name_len and line[name_len] == b":" and strncasecmp(line, name, name_len) == 0


cdef int64_t number(const char *text, size_t size) noexcept nogil:
    """-> the decimal number between blanks; -1 when it is not one."""
    cdef int64_t value = 0
    while size and (text[0] == b" " or text[0] == b"\t"):
        text += 1
        size -= 1
    while size and (text[size - 1] == b" " or text[size - 1] == b"\t"):
        size -= 1
    if size == 0 or size > 18:           # what surely fits into 63 bits
        return -1
    while size:
        if text[0] < b"0" or text[0] > b"9":
            return -1
        value = value * 10 + (text[0] - c"0")
        text += 1
        size -= 1
    return value


cdef bint says_close(const char *text, size_t size) noexcept nogil:
    """Is `close` among the words of a Connection header?"""
    while size >= 5:
        while size and (text[0] == b" " or text[0] == b"\t" or text[0] == b","):
            text += 1
            size -= 1
        if size >= 5 and strncasecmp(text, b"close", 5) == 0 and (
                size == 5 or text[5] == b"," or text[5] == b" " or text[5] == b"\t"):
            return True
        while size and text[0] != b",":
            text += 1
            size -= 1
    return False


cdef int status_line(const char *line, size_t size) noexcept nogil:
    """-> V_DONE for 200, V_STATUS for another, V_HEAD when it is not the first line of an HTTP/1.1 answer."""
    cdef int i
    if size < 12 or strncasecmp(line, b"HTTP/1.1 ", 9) or (size > 12 and line[12] != b" "):
        return V_HEAD
    for i in range(9, 12):
        if line[i] < b"0" or line[i] > b"9":
            return V_HEAD
    return V_DONE if line[9] == b"2" and line[10] == b"0" and line[11] == b"0" else V_STATUS


cdef int parse_head(const char *data, size_t size, int64_t wanted, uint8_t *last) noexcept nogil:
    """-> length of the head; 0: not complete; or what is wrong, negated. `last` is set when the server will close."""
    cdef const char *line = data
    cdef const char *limit = data + min(size, <size_t>HEAD_MAX)
    cdef const char *end = data
    cdef int64_t length = -1, value
    cdef size_t width
    cdef int verdict = V_DONE
    while True:
        end = <const char *>memchr(line, c"\n", limit - line)
        if end is NULL:
            return -V_HEAD if size >= HEAD_MAX else 0
        if end is line or (end - 1)[0] != b"\r":
            return -V_HEAD
        width = end - 1 - line
        if line is data:
            verdict = status_line(line, width)
            if verdict == V_HEAD:
                return -V_HEAD
        elif width == 0:
            break
        elif is_header(line, width, b"content-length", 14):
            value = number(line + 15, width - 15)
            if value != wanted or (length >= 0 and value != length):
                verdict = V_LENGTH if verdict == V_DONE else verdict
            length = value
        elif is_header(line, width, b"transfer-encoding", 17):
            verdict = V_LENGTH if verdict == V_DONE else verdict
        elif is_header(line, width, b"connection", 10) and says_close(line + 11, width - 11):
            last[0] = 1
        line = end + 1
    if verdict == V_DONE and length < 0:
        verdict = V_LENGTH
    return <int>(end + 1 - data) if verdict == V_DONE else -verdict


cdef int answer_take(answer_t *answer, const char *data, size_t size, int64_t body_bytes) noexcept nogil:
    cdef size_t kept = answer.head_len, used
    cdef int length
    if answer.body < 0:
        if kept:
            used = min(size, HEAD_MAX - kept)
            memcpy(answer.head + kept, data, used)
            answer.head_len += <uint32_t>used
            length = parse_head(answer.head, kept + used, body_bytes, &answer.last)
        else:
            length = parse_head(data, size, body_bytes, &answer.last)
        if length < 0:
            return -length
        if length == 0:
            if not kept:                     # less than HEAD_MAX, or it would be wrong
                memcpy(answer.head, data, size)
                answer.head_len = <uint32_t>size
            return V_MORE
        used = <size_t>length - kept
        data += used
        size -= used
        answer.body = body_bytes
    if size > <uint64_t>answer.body:
        return V_LENGTH
    answer.body -= <int64_t>size
    return V_MORE if answer.body else V_DONE


def judge(pieces, int64_t body_bytes):
    """What becomes of an answer that comes in these pieces: more, done or a kind of error. For the tests."""
    cdef answer_t answer
    cdef bytes piece
    cdef int verdict = V_MORE
    answer.head = <char *>malloc(HEAD_MAX)
    if answer.head is NULL:
        raise MemoryError
    answer.body = -1
    answer.head_len = 0
    answer.last = 0
    try:
        for piece in pieces:
            verdict = answer_take(&answer, piece, <size_t>len(piece), body_bytes)
            if verdict != V_MORE:
                break
        return VERDICT_NAMES[verdict]
    finally:
        free(answer.head)
