# libssl and libcrypto (>= 3.0) as meshcore/tls.pyx uses them. Extern declarations only.
# Convention: 1 is success and 0 failure unless a comment says otherwise; the error queue is per thread.
from libc.stdint cimport uint64_t

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL
    ctypedef struct SSL_CTX
    ctypedef struct SSL_METHOD
    ctypedef struct BIO
    ctypedef struct BIO_METHOD
    ctypedef struct X509
    ctypedef struct X509_STORE
    ctypedef struct X509_STORE_CTX
    ctypedef struct EVP_PKEY
    ctypedef struct ASN1_IA5STRING
    ctypedef struct GENERAL_NAMES
    ctypedef struct GENERAL_NAME:
        int type
    ctypedef struct OPENSSL_STACK
    ctypedef struct X509_STACK "STACK_OF(X509)"

    const int SSL_ERROR_NONE, SSL_ERROR_SSL, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_SYSCALL
    const int SSL_ERROR_ZERO_RETURN
    const int SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    const long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    const uint64_t SSL_OP_NO_TICKET, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION
    const int TLS1_2_VERSION, TLS1_3_VERSION
    const long SSL_SESS_CACHE_OFF
    const int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL

    const SSL_METHOD *TLS_client_method()
    const SSL_METHOD *TLS_server_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *ctx)
    int SSL_CTX_set_min_proto_version(SSL_CTX *ctx, int version)
    int SSL_CTX_set_max_proto_version(SSL_CTX *ctx, int version)
    int SSL_CTX_set_ciphersuites(SSL_CTX *ctx, const char *names)
    int SSL_CTX_set_cipher_list(SSL_CTX *ctx, const char *names)
    int SSL_CTX_set1_groups_list(SSL_CTX *ctx, const char *names)
    uint64_t SSL_CTX_set_options(SSL_CTX *ctx, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *ctx, long mode)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *ctx, long mode)
    int SSL_CTX_set_num_tickets(SSL_CTX *ctx, size_t count)
    int SSL_CTX_set_alpn_protos(SSL_CTX *ctx, const unsigned char *protos, unsigned int size)   # 0 is success
    void SSL_CTX_set_alpn_select_cb(SSL_CTX *ctx, int (*cb)(SSL *, const unsigned char **, unsigned char *,
                                    const unsigned char *, unsigned int, void *) noexcept nogil, void *arg)
    void SSL_CTX_set_verify(SSL_CTX *ctx, int mode, void *callback)
    void SSL_CTX_set_cert_verify_callback(SSL_CTX *ctx, int (*cb)(X509_STORE_CTX *, void *) noexcept nogil, void *arg)
    SSL *SSL_new(SSL_CTX *ctx)
    void SSL_free(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *rbio, BIO *wbio)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    int SSL_use_cert_and_key(SSL *ssl, X509 *leaf, EVP_PKEY *key, X509_STACK *chain, int override)
    long SSL_set1_verify_cert_store(SSL *ssl, X509_STORE *store)
    int SSL_set_ex_data(SSL *ssl, int index, void *data)
    void *SSL_get_ex_data(const SSL *ssl, int index)
    int SSL_get_ex_data_X509_STORE_CTX_idx()
    int SSL_do_handshake(SSL *ssl)
    int SSL_read(SSL *ssl, void *data, int size)
    int SSL_write(SSL *ssl, const void *data, int size)
    int SSL_shutdown(SSL *ssl)
    int SSL_get_error(const SSL *ssl, int rc)
    long SSL_get_verify_result(const SSL *ssl)
    int SSL_has_pending(const SSL *ssl)

cdef extern from "<openssl/bio.h>" nogil:
    const int BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH
    BIO_METHOD *BIO_meth_new(int type, const char *name)
    void BIO_meth_free(BIO_METHOD *method)
    int BIO_meth_set_read(BIO_METHOD *method, int (*fn)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_write(BIO_METHOD *method, int (*fn)(BIO *, const char *, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*fn)(BIO *, int, long, void *) noexcept nogil)
    BIO *BIO_new(const BIO_METHOD *method)
    BIO *BIO_new_mem_buf(const void *data, int size)
    int BIO_free(BIO *bio)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_init(BIO *bio, int init)
    void BIO_set_retry_read(BIO *bio)
    void BIO_clear_retry_flags(BIO *bio)

cdef extern from "<openssl/x509v3.h>" nogil:
    const int NID_subject_alt_name, GEN_URI
    void *X509_get_ext_d2i(const X509 *cert, int nid, int *critical, int *index)
    void GENERAL_NAMES_free(GENERAL_NAMES *names)
    int sk_GENERAL_NAME_num(const GENERAL_NAMES *names)
    GENERAL_NAME *sk_GENERAL_NAME_value(const GENERAL_NAMES *names, int index)
    void *GENERAL_NAME_get0_value(const GENERAL_NAME *name, int *type)

cdef extern from "<openssl/x509.h>" nogil:
    const int X509_V_ERR_APPLICATION_VERIFICATION
    X509_STORE *X509_STORE_new()
    void X509_STORE_free(X509_STORE *store)
    int X509_STORE_add_cert(X509_STORE *store, X509 *cert)
    int X509_verify_cert(X509_STORE_CTX *ctx)
    X509 *X509_STORE_CTX_get0_cert(const X509_STORE_CTX *ctx)
    void *X509_STORE_CTX_get_ex_data(const X509_STORE_CTX *ctx, int index)
    void X509_STORE_CTX_set_error(X509_STORE_CTX *ctx, int error)
    const char *X509_verify_cert_error_string(long error)
    int X509_check_private_key(const X509 *cert, const EVP_PKEY *key)
    void X509_free(X509 *cert)
    X509_STACK *sk_X509_new_null()
    int sk_X509_push(X509_STACK *stack, X509 *cert)          # count afterwards, 0 on failure
    void sk_X509_pop_free(X509_STACK *stack, void (*fn)(X509 *) noexcept nogil)

cdef extern from "<openssl/pem.h>" nogil:
    X509 *PEM_read_bio_X509(BIO *bio, X509 **out, void *callback, void *user)        # NULL at the end
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *bio, EVP_PKEY **out, void *callback, void *user)

cdef extern from "<openssl/evp.h>" nogil:
    void EVP_PKEY_free(EVP_PKEY *key)

cdef extern from "<openssl/asn1.h>" nogil:
    const unsigned char *ASN1_STRING_get0_data(const ASN1_IA5STRING *text)
    int ASN1_STRING_length(const ASN1_IA5STRING *text)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()
    unsigned long ERR_peek_last_error()
    const char *ERR_reason_error_string(unsigned long code)  # NULL when unknown

cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_get_ex_new_index(int cls, long argl, void *argp, void *new_func, void *dup_func, void *free_func)
    const int CRYPTO_EX_INDEX_SSL
    void OPENSSL_cleanse(void *data, size_t size)
