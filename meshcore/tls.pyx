"""TLS sessions of a worker over libssl, with SPIFFE verification. No Python surface."""

from libc.errno cimport EINVAL, ENOMEM, EPROTO
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, strlen

from meshcore.openssl cimport *
from meshcore.seeds cimport seed_copy

# ALPN in wire form: the one protocol HBONE speaks.
cdef const unsigned char *ALPN_H2 = b"\x02h2"
# AES-128 first: 8 % cheaper than AES-256 here and no weaker in practice; ChaCha20 is not offered, as upstream.
cdef const char *SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
cdef const char *SUITES_12 = (b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:"
                              b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256")
cdef const char *GROUPS = b"X25519:P-256:P-384"
cdef const char *SPIFFE = b"spiffe://"

cdef enum:
    SPIFFE_LEN = 9
    EX_INDEX = 0                 # slot 0 of SSL ex_data is the application's own (SSL_set_app_data)


cdef int bio_read(BIO *bio, char *data, int size) noexcept nogil:
    cdef tls_t *tls = <tls_t *>BIO_get_data(bio)
    cdef size_t n = tls.input_size
    BIO_clear_retry_flags(bio)
    if n == 0:
        if tls.input_eof:
            return 0
        BIO_set_retry_read(bio)
        return -1
    if n > <size_t>size:
        n = <size_t>size
    memcpy(data, tls.input, n)
    tls.input += n
    tls.input_size -= n
    return <int>n


cdef int bio_write(BIO *bio, const char *data, int size) noexcept nogil:
    cdef tls_t *tls = <tls_t *>BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    # The sink queues what the socket does not take, so libssl never sees a partial write.
    return size if tls.sink(tls.owner, <const uint8_t *>data, <size_t>size) == 0 else -1


cdef long bio_ctrl(BIO *bio, int command, long number, void *pointer) noexcept nogil:
    return 1 if command == BIO_CTRL_FLUSH else 0


cdef int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size, const unsigned char *offered,
                     unsigned int size, void *arg) noexcept nogil:
    cdef unsigned int at = 0
    while at < size and at + 1 + offered[at] <= size:
        if offered[at] == 2 and memcmp(&offered[at + 1], b"h2", 2) == 0:
            out[0] = &offered[at + 1]
            out_size[0] = 2
            return SSL_TLSEXT_ERR_OK
        at += 1 + offered[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef bint is_identity(const char *uri, size_t size) noexcept nogil:
    """spiffe://TD/ns/NS/sa/SA with five non-empty parts and no byte that could break a log line."""
    cdef size_t i, part = 0, start = SPIFFE_LEN
    if size <= SPIFFE_LEN or size > SPIFFE_MAX or memcmp(uri, SPIFFE, SPIFFE_LEN) != 0:
        return False
    for i in range(SPIFFE_LEN, size + 1):
        if i < size and uri[i] != c"/":
            if uri[i] <= 32 or uri[i] >= 127 or uri[i] == c'"' or uri[i] == c"\\":
                return False
            continue
        if i == start:
            return False
        if part == 1 and (i - start != 2 or memcmp(uri + start, b"ns", 2) != 0):
            return False
        if part == 3 and (i - start != 2 or memcmp(uri + start, b"sa", 2) != 0):
            return False
        if part == 0 and i - start >= TRUST_DOMAIN_MAX:
            return False
        part += 1
        start = i + 1
    return part == 5


cdef bint same_trust_domain(const char *uri, const char *trust_domain) noexcept nogil:
    cdef size_t n = strlen(trust_domain)
    return memcmp(uri + SPIFFE_LEN, trust_domain, n) == 0 and uri[SPIFFE_LEN + n] == c"/"


cdef bint in_sans(sans_t *sans, const char *uri, size_t size) noexcept nogil:
    cdef const char *at = sans.text
    cdef const char *end = sans.text + sans.size
    cdef size_t n
    while at < end:
        n = strlen(at)
        if n == size and memcmp(at, uri, n) == 0:
            return True
        at += n + 1
    return False


cdef bint check_identity(tls_t *tls, X509 *cert) noexcept nogil:
    """Does the leaf carry an identity this session accepts? Remembers the first SPIFFE URI as the peer."""
    cdef GENERAL_NAMES *names = <GENERAL_NAMES *>X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL)
    cdef GENERAL_NAME *name
    cdef ASN1_IA5STRING *text
    cdef const char *uri
    cdef size_t size
    cdef int i, kind = 0
    cdef bint accepted = False
    if names is NULL:
        return False
    for i in range(sk_GENERAL_NAME_num(names)):
        name = sk_GENERAL_NAME_value(names, i)
        text = <ASN1_IA5STRING *>GENERAL_NAME_get0_value(name, &kind)
        if kind != GEN_URI:
            continue
        uri = <const char *>ASN1_STRING_get0_data(text)
        size = <size_t>ASN1_STRING_length(text)
        if not is_identity(uri, size):
            continue
        if tls.peer is NULL:
            tls.peer = <char *>malloc(size + 1)
            if tls.peer is NULL:
                break
            memcpy(tls.peer, uri, size)
            tls.peer[size] = 0
            tls.peer_len = <uint16_t>size
        if tls.role == TLS_CLIENT:
            accepted = accepted or in_sans(tls.sans, uri, size)
        else:
            # memcmp above needs the whole text; `peer` is its NUL-terminated copy for the first one.
            accepted = accepted or (size > SPIFFE_LEN + strlen(tls.cert.trust_domain)
                                    and same_trust_domain(uri, tls.cert.trust_domain))
    GENERAL_NAMES_free(names)
    return accepted


cdef int verify_peer(X509_STORE_CTX *ctx, void *arg) noexcept nogil:
    cdef SSL *ssl = <SSL *>X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx())
    cdef tls_t *tls = <tls_t *>SSL_get_ex_data(ssl, EX_INDEX)
    if X509_verify_cert(ctx) != 1:
        tls.fault = FAULT_CHAIN
        return 0
    if not check_identity(tls, X509_STORE_CTX_get0_cert(ctx)):
        tls.fault = FAULT_IDENTITY
        X509_STORE_CTX_set_error(ctx, X509_V_ERR_APPLICATION_VERIFICATION)
        return 0
    return 1


cdef SSL_CTX *new_context(const SSL_METHOD *method, bint tls12) noexcept nogil:
    cdef SSL_CTX *ctx = SSL_CTX_new(method)
    if ctx is NULL:
        return NULL
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION if tls12 else TLS1_3_VERSION) != 1
            or SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1
            or SSL_CTX_set_ciphersuites(ctx, SUITES) != 1
            or SSL_CTX_set_cipher_list(ctx, SUITES_12) != 1
            or SSL_CTX_set1_groups_list(ctx, GROUPS) != 1):
        SSL_CTX_free(ctx)
        return NULL
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION)
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE
                     | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_num_tickets(ctx, 0)
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL)
    SSL_CTX_set_cert_verify_callback(ctx, verify_peer, NULL)
    return ctx


cdef int tls_env_init(tls_env *env, bint tls12) noexcept nogil:
    env.method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, b"worker")
    env.client = new_context(TLS_client_method(), tls12)
    env.server = new_context(TLS_server_method(), tls12)
    if env.method is NULL or env.client is NULL or env.server is NULL:
        tls_env_destroy(env)
        return -ENOMEM
    BIO_meth_set_read(env.method, bio_read)
    BIO_meth_set_write(env.method, bio_write)
    BIO_meth_set_ctrl(env.method, bio_ctrl)
    if SSL_CTX_set_alpn_protos(env.client, ALPN_H2, 3) != 0:
        tls_env_destroy(env)
        return -EINVAL
    SSL_CTX_set_alpn_select_cb(env.server, select_alpn, NULL)
    return 0


cdef void tls_env_destroy(tls_env *env) noexcept nogil:
    if env.client is not NULL:
        SSL_CTX_free(env.client)
    if env.server is not NULL:
        SSL_CTX_free(env.server)
    if env.method is not NULL:
        BIO_meth_free(env.method)
    env.client = env.server = NULL
    env.method = NULL


cdef const char *last_error(const char *otherwise) noexcept nogil:
    cdef const char *text = ERR_reason_error_string(ERR_peek_last_error())
    return otherwise if text is NULL else text


cdef bundle_t *bundle_load(uint32_t id, const uint8_t *pem, size_t size, const char **reason) noexcept nogil:
    cdef bundle_t *bundle = <bundle_t *>calloc(1, sizeof(bundle_t))
    cdef BIO *bio = BIO_new_mem_buf(pem, <int>size)
    cdef X509 *cert
    cdef int count = 0
    ERR_clear_error()
    if bundle is not NULL:
        bundle.id = id
        bundle.users = 1
        bundle.store = X509_STORE_new()
    while bio is not NULL and bundle is not NULL and bundle.store is not NULL:
        cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        if cert is NULL:
            break
        count += X509_STORE_add_cert(bundle.store, cert)
        X509_free(cert)
    if bio is not NULL:
        BIO_free(bio)
    ERR_clear_error()            # the end of the PEM text is an error to the reader, not to us
    if count == 0:
        reason[0] = b"no certificate in the trust bundle"
        if bundle is not NULL:
            bundle_release(bundle)
        return NULL
    return bundle


cdef void bundle_release(bundle_t *bundle) noexcept nogil:
    bundle.users -= 1
    if bundle.users == 0:
        if bundle.store is not NULL:
            X509_STORE_free(bundle.store)
        free(bundle)


cdef cert_t *cert_load(uint32_t id, bundle_t *bundle, const uint8_t *chain, size_t chain_size, const uint8_t *key,
                       size_t key_size, const char **reason) noexcept nogil:
    cdef cert_t *cert = <cert_t *>calloc(1, sizeof(cert_t))
    cdef BIO *bio
    cdef X509 *link
    if cert is NULL:
        reason[0] = b"out of memory"
        return NULL
    cert.id = id
    cert.users = 1
    cert.bundle = bundle
    bundle.users += 1            # undone in cert_release
    ERR_clear_error()
    bio = BIO_new_mem_buf(chain, <int>chain_size)
    if bio is not NULL:
        cert.leaf = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        cert.chain = sk_X509_new_null()
        while cert.leaf is not NULL and cert.chain is not NULL:
            link = PEM_read_bio_X509(bio, NULL, NULL, NULL)
            if link is NULL:
                break
            if sk_X509_push(cert.chain, link) == 0:
                X509_free(link)
                break
        BIO_free(bio)
    bio = BIO_new_mem_buf(key, <int>key_size)
    if bio is not NULL:
        cert.key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL)
        BIO_free(bio)
    if cert.leaf is NULL or cert.chain is NULL:
        reason[0] = b"the certificate chain cannot be read"
    elif cert.key is NULL:
        reason[0] = b"the private key cannot be read"
    elif X509_check_private_key(cert.leaf, cert.key) != 1:
        reason[0] = b"the private key does not belong to the certificate"
    elif not read_trust_domain(cert):
        reason[0] = b"the certificate has no SPIFFE identity"
    else:
        ERR_clear_error()
        return cert
    ERR_clear_error()
    cert_release(cert)
    return NULL


cdef bint read_trust_domain(cert_t *cert) noexcept nogil:
    """Our own trust domain, from our own leaf: peers of a server must share it."""
    cdef GENERAL_NAMES *names = <GENERAL_NAMES *>X509_get_ext_d2i(cert.leaf, NID_subject_alt_name, NULL, NULL)
    cdef ASN1_IA5STRING *text
    cdef const char *uri
    cdef const char *end
    cdef size_t size
    cdef int i, kind = 0
    if names is NULL:
        return False
    for i in range(sk_GENERAL_NAME_num(names)):
        text = <ASN1_IA5STRING *>GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &kind)
        if kind != GEN_URI:
            continue
        uri = <const char *>ASN1_STRING_get0_data(text)
        size = <size_t>ASN1_STRING_length(text)
        if not is_identity(uri, size):
            continue
        end = <const char *>memchr(uri + SPIFFE_LEN, c"/", size - SPIFFE_LEN)
        memcpy(cert.trust_domain, uri + SPIFFE_LEN, end - uri - SPIFFE_LEN)
        cert.trust_domain[end - uri - SPIFFE_LEN] = 0
        break
    GENERAL_NAMES_free(names)
    return cert.trust_domain[0] != 0


cdef void cert_release(cert_t *cert) noexcept nogil:
    cert.users -= 1
    if cert.users:
        return
    if cert.leaf is not NULL:
        X509_free(cert.leaf)
    if cert.key is not NULL:
        EVP_PKEY_free(cert.key)
    if cert.chain is not NULL:
        sk_X509_pop_free(cert.chain, X509_free)
    bundle_release(cert.bundle)
    free(cert)


cdef void sans_release(sans_t *sans) noexcept nogil:
    sans.users -= 1
    if sans.users == 0:
        free(sans)


cdef int tls_open(tls_t *tls, tls_env *env, int role, cert_t *cert, sans_t *sans, tls_sink sink,
                  void *owner) noexcept nogil:
    cdef BIO *bio
    tls.role = <uint8_t>role
    tls.fault = FAULT_NONE
    tls.peer = NULL
    tls.peer_len = 0
    tls.input = NULL
    tls.input_size = 0
    tls.input_eof = False
    tls.sink = sink
    tls.owner = owner
    tls.cert = NULL
    tls.sans = NULL
    ERR_clear_error()
    tls.ssl = SSL_new(env.server if role == TLS_SERVER else env.client)
    if tls.ssl is NULL:
        return -ENOMEM
    bio = BIO_new(env.method)
    if (bio is NULL or SSL_use_cert_and_key(tls.ssl, cert.leaf, cert.key, cert.chain, 1) != 1
            or SSL_set1_verify_cert_store(tls.ssl, cert.bundle.store) != 1
            or SSL_set_ex_data(tls.ssl, EX_INDEX, tls) != 1):
        if bio is not NULL:
            BIO_free(bio)
        SSL_free(tls.ssl)
        tls.ssl = NULL
        return -ENOMEM
    BIO_set_data(bio, tls)
    BIO_set_init(bio, 1)
    SSL_set_bio(tls.ssl, bio, bio)
    cert.users += 1              # unpinned in tls_close
    tls.cert = cert
    if sans is not NULL:
        sans.users += 1          # unpinned in tls_close
        tls.sans = sans
    if role == TLS_SERVER:
        SSL_set_accept_state(tls.ssl)
    else:
        SSL_set_connect_state(tls.ssl)
    return 0


cdef void tls_close(tls_t *tls) noexcept nogil:
    if tls.ssl is not NULL:
        SSL_free(tls.ssl)
        tls.ssl = NULL
    if tls.cert is not NULL:
        cert_release(tls.cert)
        tls.cert = NULL
    if tls.sans is not NULL:
        sans_release(tls.sans)
        tls.sans = NULL
    if tls.peer is not NULL:
        free(tls.peer)
        tls.peer = NULL
    ERR_clear_error()


cdef void tls_feed(tls_t *tls, const uint8_t *data, size_t size, bint eof) noexcept nogil:
    tls.input = data
    tls.input_size = size
    tls.input_eof = eof


cdef int tls_handshake(tls_t *tls) noexcept nogil:
    cdef int rc, error
    ERR_clear_error()
    rc = SSL_do_handshake(tls.ssl)
    if rc == 1:
        return 1
    error = SSL_get_error(tls.ssl, rc)
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        return TLS_WANT
    if tls.fault == FAULT_NONE:
        tls.fault = FAULT_PROTOCOL
    return TLS_FAILED


cdef int tls_read(tls_t *tls, uint8_t *data, int size) noexcept nogil:
    cdef int rc, error
    rc = SSL_read(tls.ssl, data, size)
    if rc > 0:
        return rc
    error = SSL_get_error(tls.ssl, rc)
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        return TLS_WANT
    if error == SSL_ERROR_ZERO_RETURN:
        return TLS_CLOSED
    # A TCP end without close_notify: HTTP/2 frame lengths catch truncation, so it is an end, not an attack.
    ERR_clear_error()
    return TLS_CLOSED if tls.input_eof and tls.input_size == 0 else TLS_FAILED


cdef int tls_write(tls_t *tls, const uint8_t *data, int size) noexcept nogil:
    cdef int rc
    seed_copy(data, size)
    while size:
        rc = SSL_write(tls.ssl, data, size)
        if rc <= 0:
            ERR_clear_error()
            return -EPROTO
        data += rc
        size -= rc
    return 0


cdef void tls_notify_close(tls_t *tls) noexcept nogil:
    SSL_shutdown(tls.ssl)
    ERR_clear_error()


cdef const char *tls_reason(tls_t *tls) noexcept nogil:
    cdef long verify
    if tls.fault == FAULT_IDENTITY:
        return b"peer identity is not the one expected"
    if tls.fault == FAULT_CHAIN:
        verify = SSL_get_verify_result(tls.ssl)
        return X509_verify_cert_error_string(verify)
    return last_error(b"peer closed the connection during the handshake")
