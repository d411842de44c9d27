"""Flow table of a worker. The Python surface is `bench_lookup`, for the micro-benchmark."""

from libc.errno cimport ENOMEM
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from meshcore.linux cimport CLOCK_MONOTONIC, clock_gettime, getrandom, timespec
from meshcore.records cimport (M_BAGGAGE, M_DST_IP, M_DST_PORT, M_FORWARDED, M_HOST, M_LOCAL_IP, M_PEER, M_SRC_IP)

cdef extern from *:
    """
    typedef unsigned __int128 mesh_u128;
    """
    ctypedef unsigned long long u128 "mesh_u128"

cdef enum:
    KEY_WORDS = sizeof(flow_key) // 8
    START_SIZE = 256


cdef inline uint64_t mix(uint64_t a, uint64_t b) noexcept nogil:
    """128-bit product folded: the multiply-mix of the wyhash family, keyed so that nobody outside can aim."""
    cdef u128 product = <u128>a * b
    return <uint64_t>product ^ <uint64_t>(product >> 64)


cdef uint64_t hash_words(flowtable_t *table, const uint64_t *words, size_t count) noexcept nogil:
    cdef uint64_t h = table.seed[0]
    cdef size_t i
    for i in range(count):
        h = mix(h ^ words[i], table.seed[1] ^ <uint64_t>0x9E3779B97F4A7C15)
    return h ^ (h >> 29)


cdef int flowtable_init(flowtable_t *table, uint32_t limit) noexcept nogil:
    memset(table, 0, sizeof(flowtable_t))
    getrandom(table.seed, sizeof(table.seed), 0)
    table.seed[1] |= 1
    table.limit = limit
    table.size = START_SIZE
    table.buckets = <entry_t **>calloc(START_SIZE, sizeof(entry_t *))
    table.ids = <entry_t **>calloc(START_SIZE, sizeof(entry_t *))
    if table.buckets is NULL or table.ids is NULL:
        flowtable_destroy(table)
        return -ENOMEM
    return 0


cdef void clear_contents(entry_t *entry) noexcept nogil:
    free(entry.endpoint)
    free(entry.cumulative)
    free(entry.text)
    entry.endpoint = NULL
    entry.cumulative = NULL
    entry.text = NULL
    entry.endpoints = entry.baggage_len = entry.host_len = entry.reason_len = 0
    entry.weight = 0


cdef void flowtable_destroy(flowtable_t *table) noexcept nogil:
    cdef uint32_t i
    cdef entry_t *entry
    if table.buckets is not NULL:
        for i in range(table.size):
            while table.buckets[i] is not NULL:
                entry = table.buckets[i]
                table.buckets[i] = entry.chain
                clear_contents(entry)
                free(entry)
    free(table.buckets)
    free(table.ids)
    table.buckets = NULL
    table.ids = NULL


cdef void flowtable_text(flowtable_t *table, const char *text, size_t size, uint64_t *out) noexcept nogil:
    """128 keyed bits that stand for a text; the empty text is 0, 0."""
    cdef uint64_t word, a = table.seed[0] ^ size, b = table.seed[1] + size
    cdef size_t at = 0, n
    if size == 0:
        out[0] = out[1] = 0
        return
    while at < size:
        n = size - at if size - at < 8 else 8
        word = 0
        memcpy(&word, text + at, n)
        a = mix(a ^ word, table.seed[1] ^ <uint64_t>0xA0761D6478BD642F)
        b = mix(b ^ word, table.seed[0] ^ <uint64_t>0xE7037ED1A0B428DB)
        at += n
    out[0] = a | 1
    out[1] = b


cdef void apply_mask(flow_key *out, const flow_key *key, uint32_t mask) noexcept nogil:
    out[0] = key[0]
    if not mask & M_SRC_IP:
        out.src_ip[0] = out.src_ip[1] = 0
    if not mask & M_DST_IP:
        out.dst_ip[0] = out.dst_ip[1] = 0
    if not mask & M_DST_PORT:
        out.dst_port = 0
    if not mask & M_LOCAL_IP:
        out.local_ip[0] = out.local_ip[1] = 0
    if not mask & M_PEER:
        out.peer[0] = out.peer[1] = 0
    if not mask & M_HOST:
        out.host[0] = out.host[1] = 0
    if not mask & M_FORWARDED:
        out.forwarded[0] = out.forwarded[1] = 0
    if not mask & M_BAGGAGE:
        out.baggage[0] = out.baggage[1] = 0


cdef entry_t *probe(flowtable_t *table, const flow_key *key, uint64_t hash, int state, uint32_t mask) noexcept nogil:
    cdef entry_t *entry = table.buckets[hash & (table.size - 1)]
    while entry is not NULL:
        if (entry.hash == hash and entry.state == state and (state == ENTRY_PENDING or entry.mask == mask)
                and memcmp(&entry.key, key, sizeof(flow_key)) == 0):
            return entry
        entry = entry.chain
    return NULL


cdef entry_t *flowtable_find(flowtable_t *table, const flow_key *key, uint64_t now_ms) noexcept nogil:
    cdef flow_key masked
    cdef entry_t *entry
    cdef uint32_t i, mask
    for i in range(table.mask_count[key.direction]):
        mask = table.masks[key.direction][i]
        if table.mask_users[key.direction][i] == 0:
            continue
        apply_mask(&masked, key, mask)
        entry = probe(table, &masked, hash_words(table, <uint64_t *>&masked, KEY_WORDS), ENTRY_LIVE, mask)
        if entry is not NULL:
            if entry.expires_ms and entry.expires_ms <= now_ms:
                flowtable_drop(table, entry)
                continue
            entry.used = 1
            return entry
    return NULL


cdef void insert(flowtable_t *table, entry_t *entry) noexcept nogil:
    cdef entry_t **bucket
    if table.count >= table.size:
        grow(table)
    bucket = &table.buckets[entry.hash & (table.size - 1)]
    entry.chain = bucket[0]
    bucket[0] = entry
    table.count += 1


cdef void grow(flowtable_t *table) noexcept nogil:
    """Doubles both arrays; when there is no memory the chains get longer instead."""
    cdef uint32_t size = table.size * 2, i
    cdef entry_t **buckets = <entry_t **>calloc(size, sizeof(entry_t *))
    cdef entry_t **ids = <entry_t **>calloc(size, sizeof(entry_t *))
    cdef entry_t *entry
    if buckets is NULL or ids is NULL:
        free(buckets)
        free(ids)
        return
    for i in range(table.size):
        while table.buckets[i] is not NULL:
            entry = table.buckets[i]
            table.buckets[i] = entry.chain
            entry.chain = buckets[entry.hash & (size - 1)]
            buckets[entry.hash & (size - 1)] = entry
        while table.ids[i] is not NULL:
            entry = table.ids[i]
            table.ids[i] = entry.id_chain
            entry.id_chain = ids[entry.verdict_id & (size - 1)]
            ids[entry.verdict_id & (size - 1)] = entry
    free(table.buckets)
    free(table.ids)
    table.buckets = buckets
    table.ids = ids
    table.size = size


cdef bint evict(flowtable_t *table) noexcept nogil:
    """Second-chance clock over the buckets: drops one live entry without flows. False: there is none."""
    cdef uint32_t _step
    cdef entry_t *entry
    for _step in range(2 * table.size):
        entry = table.buckets[table.hand]
        while entry is not NULL:
            if entry.state == ENTRY_LIVE and entry.users == 0:
                if not entry.used:
                    flowtable_drop(table, entry)
                    return True
                entry.used = 0
            entry = entry.chain
        table.hand = (table.hand + 1) & (table.size - 1)
    return False


cdef entry_t *flowtable_pending(flowtable_t *table, const flow_key *key, bint *created) noexcept nogil:
    cdef uint64_t hash = hash_words(table, <const uint64_t *>key, KEY_WORDS)
    cdef entry_t *entry = probe(table, key, hash, ENTRY_PENDING, 0)
    created[0] = False
    if entry is not NULL:
        return entry
    if table.count >= table.limit and not evict(table):
        return NULL
    entry = <entry_t *>calloc(1, sizeof(entry_t))
    if entry is NULL:
        return NULL
    entry.key = key[0]
    entry.hash = hash
    entry.state = ENTRY_PENDING
    link_init(&entry.flows)
    insert(table, entry)
    created[0] = True
    return entry


cdef uint64_t flowtable_cookie(flowtable_t *table, entry_t *entry) noexcept nogil:
    """The hash finds the bucket again, and nothing of ours leaves the process but the hash."""
    return entry.hash


cdef entry_t *flowtable_by_cookie(flowtable_t *table, uint64_t cookie) noexcept nogil:
    cdef entry_t *entry = table.buckets[cookie & (table.size - 1)]
    while entry is not NULL and (entry.hash != cookie or entry.state != ENTRY_PENDING):
        entry = entry.chain
    return entry


cdef entry_t *flowtable_by_id(flowtable_t *table, uint32_t verdict_id) noexcept nogil:
    cdef entry_t *entry = table.ids[verdict_id & (table.size - 1)]
    while entry is not NULL and entry.verdict_id != verdict_id:
        entry = entry.id_chain
    return entry


cdef int flowtable_fill(entry_t *entry, const rec_verdict *verdict, uint64_t now_ms) noexcept nogil:
    cdef size_t texts = verdict.baggage_len + verdict.host_len + verdict.reason_len
    cdef const uint8_t *body = <const uint8_t *>verdict + sizeof(rec_verdict)
    cdef size_t list_size = verdict.endpoints * sizeof(rec_endpoint)
    cdef rec_endpoint *endpoint = NULL
    cdef uint32_t *cumulative = NULL
    cdef char *text = NULL
    cdef uint32_t sum = 0
    cdef int i
    if verdict.endpoints:
        endpoint = <rec_endpoint *>malloc(list_size)
        cumulative = <uint32_t *>malloc(verdict.endpoints * sizeof(uint32_t))
    if texts:
        text = <char *>malloc(texts)
    if (verdict.endpoints and (endpoint is NULL or cumulative is NULL)) or (texts and text is NULL):
        free(endpoint)
        free(cumulative)
        free(text)
        return -ENOMEM
    clear_contents(entry)
    if verdict.endpoints:
        memcpy(endpoint, body, list_size)
        for i in range(verdict.endpoints):
            sum += endpoint[i].weight
            cumulative[i] = sum
    if texts:
        memcpy(text, body + list_size, texts)
    entry.endpoint = endpoint
    entry.cumulative = cumulative
    entry.text = text
    entry.weight = sum
    entry.endpoints = verdict.endpoints
    entry.baggage_len = verdict.baggage_len
    entry.host_len = verdict.host_len
    entry.reason_len = verdict.reason_len
    entry.cert_id = verdict.cert_id
    entry.label_id = verdict.label_id
    entry.status = verdict.status
    entry.action = verdict.action
    entry.flag = verdict.flag
    entry.flags = verdict.flags
    entry.expires_ms = now_ms + verdict.ttl_ms if verdict.ttl_ms else 0
    return 0


cdef bint use_mask(flowtable_t *table, int direction, uint32_t mask, int change) noexcept nogil:
    cdef uint32_t i
    for i in range(table.mask_count[direction]):
        if table.masks[direction][i] == mask:
            table.mask_users[direction][i] += <uint32_t>change
            return True
    if change < 0:
        return False
    for i in range(table.mask_count[direction]):
        if table.mask_users[direction][i] == 0:
            table.masks[direction][i] = mask
            table.mask_users[direction][i] = 1
            return True
    if table.mask_count[direction] == MASKS_MAX:
        return False
    i = table.mask_count[direction]
    table.masks[direction][i] = mask
    table.mask_users[direction][i] = 1
    table.mask_count[direction] += 1
    return True


cdef void unchain(flowtable_t *table, entry_t *entry) noexcept nogil:
    cdef entry_t **at = &table.buckets[entry.hash & (table.size - 1)]
    while at[0] is not entry:
        at = &at[0].chain
    at[0] = entry.chain
    table.count -= 1


cdef entry_t *flowtable_settle(flowtable_t *table, entry_t *entry, const rec_verdict *verdict,
                               uint64_t now_ms) noexcept nogil:
    cdef flow_key masked
    cdef entry_t *twin
    cdef uint64_t hash
    cdef entry_t **bucket
    apply_mask(&masked, &entry.key, verdict.mask)
    hash = hash_words(table, <uint64_t *>&masked, KEY_WORDS)
    twin = flowtable_by_id(table, verdict.verdict_id)
    if twin is not NULL:
        # Asked twice before the first answer came: the same verdict, or a newer text of it.
        if flowtable_fill(twin, verdict, now_ms) < 0:
            return NULL
        return twin
    if flowtable_fill(entry, verdict, now_ms) < 0 or not use_mask(table, masked.direction, verdict.mask, 1):
        return NULL
    twin = probe(table, &masked, hash, ENTRY_LIVE, verdict.mask)
    if twin is not NULL:
        flowtable_drop(table, twin)
    unchain(table, entry)
    entry.key = masked
    entry.hash = hash
    entry.mask = verdict.mask
    entry.verdict_id = verdict.verdict_id
    entry.state = ENTRY_LIVE
    entry.used = 1
    insert(table, entry)
    bucket = &table.ids[entry.verdict_id & (table.size - 1)]
    entry.id_chain = bucket[0]
    bucket[0] = entry
    return entry


cdef void flowtable_drop(flowtable_t *table, entry_t *entry) noexcept nogil:
    cdef entry_t **at
    if entry.state == ENTRY_GONE:
        return
    unchain(table, entry)
    if entry.state == ENTRY_LIVE:
        at = &table.ids[entry.verdict_id & (table.size - 1)]
        while at[0] is not entry:
            at = &at[0].id_chain
        at[0] = entry.id_chain
        use_mask(table, entry.key.direction, entry.mask, -1)
        if table.evicted_count < 64:
            table.evicted[table.evicted_count] = entry.verdict_id
            table.evicted_count += 1
    entry.state = ENTRY_GONE
    flowtable_free_if_idle(entry)


cdef void flowtable_free_if_idle(entry_t *entry) noexcept nogil:
    if entry.state == ENTRY_GONE and entry.users == 0:
        clear_contents(entry)
        free(entry)


cdef rec_endpoint *flowtable_pick(entry_t *entry, uint64_t random) noexcept nogil:
    cdef uint32_t target, low = 0, high = entry.endpoints, middle
    if entry.weight == 0:
        return NULL
    target = <uint32_t>(((random & <uint64_t>0xFFFFFFFF) * entry.weight) >> 32)
    while low + 1 < high:
        middle = (low + high) // 2
        if entry.cumulative[middle - 1] <= target:
            low = middle
        else:
            high = middle
    return &entry.endpoint[low]


def bench_lookup(int flows, int loops, int masks=1):
    """Nanoseconds per hit in a table of `flows` outbound entries with one mask (destination address and port).

    `masks` (1 to MASKS_MAX): the entries stand under the last of so many, so that a hit has tried all others before.
    """
    cdef flowtable_t table
    cdef flow_key key
    cdef rec_verdict verdict
    cdef entry_t *entry
    cdef bint created = False
    cdef int i, found = 0
    cdef timespec start, end
    if masks < 1 or masks > MASKS_MAX:
        raise ValueError(f"masks={masks} is not between 1 and {MASKS_MAX}")
    if flowtable_init(&table, <uint32_t>(flows + masks)) < 0:
        raise MemoryError
    memset(&key, 0, sizeof(key))
    memset(&verdict, 0, sizeof(verdict))
    key.pod_id = 7
    key.direction = 1
    for i in range(1 - masks, flows):
        # Below 0: one entry under each mask that is tried in vain, the peer, the host and so on in all combinations.
        verdict.mask = M_DST_IP | M_DST_PORT | (<uint32_t>-i * M_PEER if i < 0 else 0)
        key.dst_ip[1] = <uint64_t>i
        verdict.verdict_id = <uint32_t>(i + masks)
        entry = flowtable_pending(&table, &key, &created)
        flowtable_settle(&table, entry, &verdict, 0)
    with nogil:
        clock_gettime(CLOCK_MONOTONIC, &start)
        for i in range(loops):
            key.dst_ip[1] = (<uint64_t>i * 7919) % <uint64_t>flows
            key.src_ip[1] = <uint64_t>i
            if flowtable_find(&table, &key, 0) is not NULL:
                found += 1
        clock_gettime(CLOCK_MONOTONIC, &end)
        flowtable_destroy(&table)
    if found != loops:
        raise AssertionError(f"BUG: {loops - found} of {loops} flows were not found")
    return ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / loops
