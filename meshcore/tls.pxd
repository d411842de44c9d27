# TLS 1.3 sessions of a worker: libssl on memory, SPIFFE verification inside the handshake.
#
# Identities are cheap: one SSL_CTX per role and worker; an identity is a parsed leaf, key and chain that
# sessions borrow, trust anchors are one X509_STORE per bundle.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from meshcore.openssl cimport BIO, BIO_METHOD, EVP_PKEY, SSL, SSL_CTX, X509, X509_STACK, X509_STORE

cdef enum:
    SPIFFE_MAX = 512             # bytes of a SPIFFE URI; longer ones are not identities of this mesh
    TRUST_DOMAIN_MAX = 256

cdef enum tls_role:
    TLS_CLIENT = 0
    TLS_SERVER = 1

cdef enum tls_rc:                # results of handshake and read, beside a byte count
    TLS_WANT = 0                 # nothing more until the socket has more
    TLS_CLOSED = -1              # close_notify or EOF
    TLS_FAILED = -2              # fatal; tls_reason() says why

cdef enum tls_fault:             # why verification refused, for telemetry
    FAULT_NONE = 0
    FAULT_CHAIN = 1              # not signed by the trust anchors, expired, not yet valid
    FAULT_IDENTITY = 2           # chain is fine, SPIFFE identity is not the one expected
    FAULT_PROTOCOL = 3           # anything else

cdef struct bundle_t:            # freed when `users` is 0 and the owner has let go
    uint32_t id
    uint32_t users
    X509_STORE *store

cdef struct cert_t:              # freed when `users` is 0 and the owner has let go
    uint32_t id
    uint32_t users               # sessions, and the table that holds it
    X509 *leaf
    EVP_PKEY *key
    X509_STACK *chain
    bundle_t *bundle
    char trust_domain[TRUST_DOMAIN_MAX]

cdef struct sans_t:              # accepted identities of a peer: `count` URIs, each ended by NUL
    uint32_t id
    uint32_t users
    uint32_t count
    uint32_t size
    char text[1]

ctypedef int (*tls_sink)(void *owner, const uint8_t *data, size_t size) noexcept nogil   # 0 | -errno

cdef struct tls_t:               # one session; embedded in its connection
    SSL *ssl
    cert_t *cert                 # pinned here, released in tls_close
    sans_t *sans                 # client: accepted identities; pinned likewise
    const uint8_t *input         # ciphertext of the current read, borrowed during a call
    size_t input_size
    bint input_eof
    tls_sink sink                # takes ciphertext to send
    void *owner
    uint8_t role
    uint8_t fault
    uint16_t peer_len
    char *peer                   # first SPIFFE URI of the peer, malloc'd, NUL-terminated; NULL until verified

cdef struct tls_env:             # one per worker
    SSL_CTX *client
    SSL_CTX *server
    BIO_METHOD *method

cdef int tls_env_init(tls_env *env, bint tls12) noexcept nogil               # 0 | -ENOMEM | -EINVAL
cdef void tls_env_destroy(tls_env *env) noexcept nogil
cdef bundle_t *bundle_load(uint32_t id, const uint8_t *pem, size_t size, const char **reason) noexcept nogil
cdef void bundle_release(bundle_t *bundle) noexcept nogil
cdef cert_t *cert_load(uint32_t id, bundle_t *bundle, const uint8_t *chain, size_t chain_size,
                       const uint8_t *key, size_t key_size, const char **reason) noexcept nogil
cdef void cert_release(cert_t *cert) noexcept nogil
cdef void sans_release(sans_t *sans) noexcept nogil
cdef int tls_open(tls_t *tls, tls_env *env, int role, cert_t *cert, sans_t *sans, tls_sink sink,
                  void *owner) noexcept nogil                                # 0 | -ENOMEM
cdef void tls_close(tls_t *tls) noexcept nogil
cdef void tls_feed(tls_t *tls, const uint8_t *data, size_t size, bint eof) noexcept nogil
cdef int tls_handshake(tls_t *tls) noexcept nogil                            # 1 done | TLS_WANT | TLS_FAILED
cdef int tls_read(tls_t *tls, uint8_t *data, int size) noexcept nogil        # bytes | tls_rc
cdef int tls_write(tls_t *tls, const uint8_t *data, int size) noexcept nogil  # 0 | -errno | TLS_FAILED
cdef void tls_notify_close(tls_t *tls) noexcept nogil
cdef const char *tls_reason(tls_t *tls) noexcept nogil
