# HPACK of libnghttp2 (RFC 7541). Extern declarations only; negative results are NGHTTP2_ERR_*.
from libc.stdint cimport uint8_t

cdef extern from "<nghttp2/nghttp2.h>" nogil:
    ctypedef struct nghttp2_hd_deflater
    ctypedef struct nghttp2_hd_inflater
    ctypedef struct nghttp2_nv:
        uint8_t *name
        uint8_t *value
        size_t namelen
        size_t valuelen
        uint8_t flags
    const uint8_t NGHTTP2_NV_FLAG_NONE, NGHTTP2_NV_FLAG_NO_INDEX
    const int NGHTTP2_HD_INFLATE_NONE, NGHTTP2_HD_INFLATE_FINAL, NGHTTP2_HD_INFLATE_EMIT
    int nghttp2_hd_deflate_new(nghttp2_hd_deflater **out, size_t table_max)
    void nghttp2_hd_deflate_del(nghttp2_hd_deflater *deflater)
    int nghttp2_hd_deflate_change_table_size(nghttp2_hd_deflater *deflater, size_t table_max)
    ssize_t nghttp2_hd_deflate_hd(nghttp2_hd_deflater *deflater, uint8_t *out, size_t size, const nghttp2_nv *nv,
                                  size_t count)
    size_t nghttp2_hd_deflate_bound(nghttp2_hd_deflater *deflater, const nghttp2_nv *nv, size_t count)
    int nghttp2_hd_inflate_new(nghttp2_hd_inflater **out)
    void nghttp2_hd_inflate_del(nghttp2_hd_inflater *inflater)
    ssize_t nghttp2_hd_inflate_hd2(nghttp2_hd_inflater *inflater, nghttp2_nv *out, int *flags, const uint8_t *data,
                                   size_t size, int final)
    int nghttp2_hd_inflate_end_headers(nghttp2_hd_inflater *inflater)
