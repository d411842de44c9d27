# Verdicts of a worker, found by the fields their decision consulted (what OVS calls a megaflow).
#
# An entry is keyed by its flow with the unconsulted fields zeroed. A lookup tries each distinct mask
# of the direction in turn, so its cost is the number of masks in use, not of entries.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from meshcore.records cimport rec_endpoint, rec_verdict

cdef enum:
    MASKS_MAX = 16               # distinct masks per direction; a 17th falls back to the exact key
    DIRECTIONS = 4               # index by enum direction, 0 unused
    TEXT_ID = 2                  # u64 words that stand for a text

cdef enum entry_state:
    ENTRY_PENDING = 0            # asked, waiters parked; keyed by the whole flow
    ENTRY_LIVE = 1
    ENTRY_GONE = 2               # out of the table, kept while flows name it

cdef struct flow_key:            # no padding: hashed and compared as words
    uint32_t pod_id
    uint8_t direction
    uint8_t flags
    uint16_t dst_port
    uint64_t src_ip[2]
    uint64_t dst_ip[2]
    uint64_t local_ip[2]
    uint64_t peer[TEXT_ID]
    uint64_t host[TEXT_ID]
    uint64_t forwarded[TEXT_ID]
    uint64_t baggage[TEXT_ID]

cdef struct link_t:              # list membership of a flow; a head links to itself when empty
    link_t *next
    link_t *prev

cdef struct entry_t:
    entry_t *chain               # bucket
    entry_t *id_chain            # by verdict id; pending entries are not in there
    uint64_t hash
    flow_key key
    link_t flows                 # waiting while pending, live afterwards
    uint64_t expires_ms          # 0 = until flushed
    uint32_t users               # flows in the list
    uint32_t mask
    uint32_t verdict_id
    uint32_t cert_id
    uint32_t label_id
    uint32_t weight              # sum of the endpoints'
    uint16_t status
    uint16_t endpoints
    uint16_t baggage_len
    uint16_t host_len
    uint16_t reason_len
    uint8_t state
    uint8_t action
    uint8_t flag
    uint8_t flags
    uint8_t used                 # since the eviction hand last passed
    rec_endpoint *endpoint
    uint32_t *cumulative         # weights summed up to and including each endpoint
    char *text                   # baggage, host, reason, one after the other

cdef struct flowtable_t:
    entry_t **buckets
    entry_t **ids
    uint32_t size                # buckets of either array, power of two
    uint32_t count               # live and pending
    uint32_t limit
    uint32_t hand                # eviction clock
    uint32_t mask_count[DIRECTIONS]
    uint32_t masks[DIRECTIONS][MASKS_MAX]
    uint32_t mask_users[DIRECTIONS][MASKS_MAX]
    uint64_t seed[2]
    uint32_t evicted[64]         # verdict ids to report; the owner empties it
    uint32_t evicted_count

cdef int flowtable_init(flowtable_t *table, uint32_t limit) noexcept nogil                     # 0 | -ENOMEM
cdef void flowtable_destroy(flowtable_t *table) noexcept nogil
cdef void flowtable_text(flowtable_t *table, const char *text, size_t size, uint64_t *out) noexcept nogil
cdef entry_t *flowtable_find(flowtable_t *table, const flow_key *key, uint64_t now_ms) noexcept nogil
cdef entry_t *flowtable_pending(flowtable_t *table, const flow_key *key, bint *created) noexcept nogil  # NULL: full
cdef entry_t *flowtable_by_cookie(flowtable_t *table, uint64_t cookie) noexcept nogil
cdef entry_t *flowtable_by_id(flowtable_t *table, uint32_t verdict_id) noexcept nogil
cdef uint64_t flowtable_cookie(flowtable_t *table, entry_t *entry) noexcept nogil
# A pending entry becomes live under the verdict's mask. When an equal live entry is there already, that one is
# returned and the caller moves the waiters over. Fills contents from `verdict`: NULL when out of memory.
cdef entry_t *flowtable_settle(flowtable_t *table, entry_t *entry, const rec_verdict *verdict,
                               uint64_t now_ms) noexcept nogil
cdef int flowtable_fill(entry_t *entry, const rec_verdict *verdict, uint64_t now_ms) noexcept nogil   # 0 | -ENOMEM
cdef void flowtable_drop(flowtable_t *table, entry_t *entry) noexcept nogil   # freed with its last flow
cdef void flowtable_free_if_idle(entry_t *entry) noexcept nogil
cdef rec_endpoint *flowtable_pick(entry_t *entry, uint64_t random) noexcept nogil   # NULL: nothing to pick

cdef inline void link_init(link_t *head) noexcept nogil:
    head.next = head
    head.prev = head

cdef inline void link_add(link_t *head, link_t *link) noexcept nogil:
    link.prev = head.prev
    link.next = head
    head.prev.next = link
    head.prev = link

cdef inline void link_del(link_t *link) noexcept nogil:
    if link.next is not NULL:
        link.prev.next = link.next
        link.next.prev = link.prev
        link.next = link.prev = NULL
