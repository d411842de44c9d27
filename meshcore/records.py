"""Mirror of `records.pxd` for the control process: encoders, decoders and names.

The `.pxd` file is the definition of the records; `tests/unit/ztunnel/test_records.py` holds sizes,
offsets and numbers of both sides equal. Nothing here allocates beyond the record itself.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from typing import Final, NamedTuple

from meshcore.errors import ProtocolError

RECORD_MAX: Final = 131072
RECORDS_VERSION: Final = 1
PAGE_BYTES: Final = 4096
SLOT_BYTES: Final = 128
SLOT_MAX: Final = 16384


class Rec(enum.IntEnum):
    """Record types."""

    CONFIG = 1
    POD_ADD = 2
    POD_DEL = 3
    CERT = 4
    CERT_DEL = 5
    BUNDLE = 6
    LABEL = 7
    SANS = 8
    VERDICT = 9
    FLUSH = 10
    ENDPOINT_GONE = 11
    DRAIN = 12
    STOP = 13
    DUMP = 14
    LABEL_DEL = 15
    SANS_DEL = 16
    HELLO = 64
    UPCALL = 65
    EVICT = 66
    POD_READY = 67
    CERT_ERROR = 68
    DRAINED = 69
    DUMP_FLOW = 70
    DUMP_END = 71


class Direction(enum.IntEnum):
    OUTBOUND = 1
    INBOUND_PLAIN = 2
    INBOUND_HBONE = 3


class Action(enum.IntEnum):
    DENY = 1
    PASSTHROUGH = 2
    BALANCE = 3
    DELIVER = 4


class VerdictFlag(enum.IntFlag):
    SPOOF = 1
    SERVICE = 2
    PROXY_PROTOCOL = 4


class Protocol(enum.IntEnum):
    TCP = 1
    HBONE = 2


class AuthorityKind(enum.IntEnum):
    ENDPOINT = 1
    ORIGINAL = 2


class Mask(enum.IntFlag):
    """Fields a verdict consulted; pod and direction always count."""

    SRC_IP = 1
    DST_IP = 2
    DST_PORT = 4
    PEER = 8
    HOST = 16
    FORWARDED = 32
    LOCAL_IP = 64
    BAGGAGE = 128


class UpcallFlag(enum.IntFlag):
    GATEWAY = 1


class Flag(enum.IntEnum):
    """`response_flags` of telemetry."""

    NONE = 0
    DENY = 1
    CONNECT = 2
    TLS_FAILURE = 3
    H2_HANDSHAKE_FAILURE = 4
    NETWORK_POLICY = 5
    IDENTITY_ERROR = 6
    CERT_REVOKED = 7

    @property
    def label(self) -> str:
        return "-" if self is Flag.NONE else self.name


class PageCell(enum.IntEnum):
    """u64 cells of the worker-wide page."""

    PID = 0
    LOOP_TURNS = 1
    EPOLL_WAIT = 2
    ACCEPT = 3
    READ = 4
    WRITE = 5
    SPLICE = 6
    CONNECT = 7
    CLOSE = 8
    EPOLL_CTL = 9
    SETNS = 10
    SOCKOPT = 11
    TLS_ACCEPT_OK = 12
    TLS_ACCEPT_FAIL = 13
    TLS_CONNECT_OK = 14
    TLS_CONNECT_FAIL = 15
    FLOW_HIT = 16
    FLOW_MISS = 17
    UPCALL = 18
    UPCALL_TIMEOUT = 19
    FLOWS_OPEN = 20
    TUNNELS_OPEN = 21
    SOCKETS_OPEN = 22
    BUFFERS_OUT = 23
    BUFFERS_HIGH = 24
    FLOW_ENTRIES = 25
    FLOW_EVICTED = 26
    LOG_LINES = 27
    LOG_DROPPED = 28
    H2_GOAWAY_SENT = 29
    H2_RESET_FLOOD = 30
    H2_PING_FLOOD = 31
    H2_SETTINGS_FLOOD = 32
    H2_EMPTY_FLOOD = 33
    H2_HEADERS_TOO_BIG = 34
    H2_BAD_FRAME = 35
    H2_WINDOW_OVERFLOW = 36
    KEEPALIVE_TIMEOUT = 37
    CONNECT_TIMEOUT = 38
    TLS_TIMEOUT = 39
    RESPONSE_TIMEOUT = 40
    CLOSED_BY_POLICY = 41
    POOL_HIT = 42
    POOL_DIAL = 43
    CLOCK_MS = 44
    TIMER = 45


class SlotCell(enum.IntEnum):
    """u64 cells of one label set. `FAILED + flag` counts closes with that flag."""

    OPENED = 0
    CLOSED = 1
    RECEIVED = 2
    SENT = 3
    FAILED = 8


HEAD: Final = struct.Struct("=HHI")
CONFIG: Final = struct.Struct("=HHI24I")
POD_ADD: Final = struct.Struct("=HHI4I")
POD: Final = struct.Struct("=HHIII")
CERT: Final = struct.Struct("=HHI4I")
BUNDLE: Final = struct.Struct("=HHIII")
LABEL: Final = struct.Struct("=HHIIHH")
SANS: Final = struct.Struct("=HHIII")
ENDPOINT: Final = struct.Struct("=16sHHBBHII")
VERDICT: Final = struct.Struct("=HHIQ5IHBBBBHHHHHI")
FLUSH: Final = struct.Struct("=HHIII")
ENDPOINT_GONE: Final = struct.Struct("=HHI16s")
DRAIN: Final = struct.Struct("=HHIII")
HELLO: Final = struct.Struct("=HHIII")
UPCALL: Final = struct.Struct("=HHIQIHH16s16s16sBBHHHHHI")
DUMP_FLOW: Final = struct.Struct("=HHIII16s16s16sHHHBBQQQ")

CONFIG_FIELDS: Final = (
    "connect_timeout_ms",
    "tls_timeout_ms",
    "response_timeout_ms",
    "upcall_timeout_ms",
    "ping_interval_ms",
    "ping_timeout_ms",
    "pool_idle_ms",
    "pool_max_streams",
    "server_max_streams",
    "stream_window",
    "connection_window",
    "frame_size",
    "header_list_max",
    "keepalive_idle_s",
    "keepalive_interval_s",
    "keepalive_retries",
    "user_timeout_ms",
    "packet_mark",
    "flow_table_max",
    "buffer_max",
    "log_json",
    "log_access",
    "half_close_ms",
    "tls12",
)

_V4_PREFIX: Final = b"\0" * 10 + b"\xff\xff"


def pack_ip(address: bytes) -> bytes:
    """4 or 16 network-order bytes -> the 16 bytes a record carries."""
    if len(address) == 4:
        return _V4_PREFIX + address
    if len(address) == 16:
        return address
    raise ValueError(f"an IP address has 4 or 16 bytes, not {len(address)}")


def unpack_ip(address: bytes) -> bytes:
    """16 bytes of a record -> 4 bytes for IPv4, else 16."""
    return address[12:] if address.startswith(_V4_PREFIX) else address


def ip_text(address: bytes) -> str:
    """Address bytes of either length -> the text form (RFC 5952 for IPv6)."""
    return str(ipaddress.ip_address(unpack_ip(address) if len(address) == 16 else address))


def _head(kind: Rec, size: int) -> tuple[int, int, int]:
    if size > RECORD_MAX:
        raise ProtocolError(f"a {kind.name} record of {size} bytes is over the limit of {RECORD_MAX}")
    return kind, RECORDS_VERSION, size


class Endpoint(NamedTuple):
    """One choice of a BALANCE verdict, or the target of a DELIVER one. `ip` is 4 or 16 bytes."""

    ip: bytes
    port: int
    target_port: int
    protocol: Protocol
    authority: AuthorityKind
    weight: int
    sans_id: int
    label_id: int


class Verdict(NamedTuple):
    """The answer to an upcall; field meanings as in `records.pxd`."""

    action: Action
    mask: Mask
    label_id: int
    cert_id: int = 0
    ttl_ms: int = 0
    status: int = 0
    flag: Flag = Flag.NONE
    flags: VerdictFlag = VerdictFlag(0)
    endpoints: tuple[Endpoint, ...] = ()
    baggage: bytes = b""
    host: bytes = b""
    reason: bytes = b""


class Upcall(NamedTuple):
    """A flow-table miss. Addresses are 4 or 16 bytes, texts empty when absent."""

    cookie: int
    pod_id: int
    direction: Direction
    flags: UpcallFlag
    src_ip: bytes
    src_port: int
    dst_ip: bytes
    dst_port: int
    local_ip: bytes
    peer: str
    host: str
    forwarded: str
    baggage: str


class DumpFlow(NamedTuple):
    """A live connection, for `config_dump` and `ztunnel-config connections`."""

    pod_id: int
    verdict_id: int
    direction: Direction
    protocol: Protocol
    src: tuple[bytes, int]
    dst: tuple[bytes, int]
    actual: tuple[bytes, int]
    bytes_sent: int
    bytes_received: int
    age_ms: int


def encode_config(values: dict[str, int]) -> bytes:
    """`values` holds exactly CONFIG_FIELDS."""
    if values.keys() != set(CONFIG_FIELDS):
        raise ValueError(f"config fields differ: {sorted(values.keys() ^ set(CONFIG_FIELDS))}")
    return CONFIG.pack(*_head(Rec.CONFIG, CONFIG.size), *(values[name] for name in CONFIG_FIELDS))


def encode_pod_add(pod_id: int, cert_id: int, *, spoof: bool) -> bytes:
    """Goes with four descriptors: netns, listeners of 15001, 15006 and 15008."""
    return POD_ADD.pack(*_head(Rec.POD_ADD, POD_ADD.size), pod_id, cert_id, int(spoof), 0)


def encode_pod_del(pod_id: int) -> bytes:
    return POD.pack(*_head(Rec.POD_DEL, POD.size), pod_id, 0)


def encode_cert(cert_id: int, bundle_id: int, chain_pem: bytes, key_pem: bytes) -> bytes:
    size = CERT.size + len(chain_pem) + len(key_pem)
    head = CERT.pack(*_head(Rec.CERT, size), cert_id, bundle_id, len(chain_pem), len(key_pem))
    return head + chain_pem + key_pem


def encode_cert_del(cert_id: int) -> bytes:
    return CERT.pack(*_head(Rec.CERT_DEL, CERT.size), cert_id, 0, 0, 0)


def encode_bundle(bundle_id: int, pem: bytes) -> bytes:
    return BUNDLE.pack(*_head(Rec.BUNDLE, BUNDLE.size + len(pem)), bundle_id, len(pem)) + pem


def encode_label(label_id: int, source: bytes, destination: bytes) -> bytes:
    size = LABEL.size + len(source) + len(destination)
    return LABEL.pack(*_head(Rec.LABEL, size), label_id, len(source), len(destination)) + source + destination


def encode_label_del(label_id: int) -> bytes:
    return LABEL.pack(*_head(Rec.LABEL_DEL, LABEL.size), label_id, 0, 0)


def encode_sans(sans_id: int, uris: tuple[str, ...]) -> bytes:
    body = b"".join(uri.encode() + b"\0" for uri in uris)
    return SANS.pack(*_head(Rec.SANS, SANS.size + len(body)), sans_id, len(uris)) + body


def encode_sans_del(sans_id: int) -> bytes:
    return SANS.pack(*_head(Rec.SANS_DEL, SANS.size), sans_id, 0)


def encode_verdict(verdict: Verdict, verdict_id: int, cookie: int = 0) -> bytes:
    body = b"".join(
        ENDPOINT.pack(pack_ip(e.ip), e.port, e.target_port, e.protocol, e.authority, e.weight, e.sans_id, e.label_id)
        for e in verdict.endpoints
    )
    body += verdict.baggage + verdict.host + verdict.reason
    return (
        VERDICT.pack(
            *_head(Rec.VERDICT, VERDICT.size + len(body)),
            cookie,
            verdict_id,
            verdict.mask,
            verdict.cert_id,
            verdict.label_id,
            verdict.ttl_ms,
            verdict.status,
            verdict.action,
            verdict.flag,
            verdict.flags,
            0,
            len(verdict.endpoints),
            len(verdict.baggage),
            len(verdict.host),
            len(verdict.reason),
            0,
            0,
        )
        + body
    )


def encode_flush(verdict_id: int, *, reevaluate: bool) -> bytes:
    return FLUSH.pack(*_head(Rec.FLUSH, FLUSH.size), verdict_id, int(reevaluate))


def encode_endpoint_gone(ip: bytes) -> bytes:
    return ENDPOINT_GONE.pack(*_head(Rec.ENDPOINT_GONE, ENDPOINT_GONE.size), pack_ip(ip))


def encode_drain(deadline_ms: int) -> bytes:
    return DRAIN.pack(*_head(Rec.DRAIN, DRAIN.size), deadline_ms, 0)


def encode_stop() -> bytes:
    return HEAD.pack(*_head(Rec.STOP, HEAD.size))


def encode_dump() -> bytes:
    return HEAD.pack(*_head(Rec.DUMP, HEAD.size))


def record_type(record: bytes) -> Rec:
    """Check the head of a record from a worker; raises ProtocolError naming what is off."""
    if len(record) < HEAD.size:
        raise ProtocolError(f"a record of {len(record)} bytes has no head")
    kind, version, size = HEAD.unpack_from(record)
    if version != RECORDS_VERSION:
        raise ProtocolError(f"worker speaks record version {version}, this process {RECORDS_VERSION}")
    if size != len(record):
        raise ProtocolError(f"record says {size} bytes, packet has {len(record)}")
    try:
        return Rec(kind)
    except ValueError:
        raise ProtocolError(f"unknown record type {kind}") from None


def decode_upcall(record: bytes) -> Upcall:
    fields = UPCALL.unpack_from(record)
    (cookie, pod_id, src_port, dst_port, src_ip, dst_ip, local_ip, direction, flags, *lengths) = fields[3:]
    texts, at = [], UPCALL.size
    for length in lengths[:4]:
        texts.append(record[at : at + length].decode("utf-8", "replace"))
        at += length
    return Upcall(
        cookie,
        pod_id,
        Direction(direction),
        UpcallFlag(flags),
        unpack_ip(src_ip),
        src_port,
        unpack_ip(dst_ip),
        dst_port,
        unpack_ip(local_ip),
        *texts,
    )


def decode_evict(record: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"={(len(record) - HEAD.size) // 4}I", record, HEAD.size)


def decode_pod(record: bytes) -> int:
    return int(POD.unpack_from(record)[3])


def decode_hello(record: bytes) -> tuple[int, int]:
    """-> (pid, record version)."""
    fields = HELLO.unpack_from(record)
    return fields[3], fields[4]


def decode_cert_error(record: bytes) -> tuple[int, str]:
    """-> (cert id, text)."""
    return CERT.unpack_from(record)[3], record[CERT.size :].decode("utf-8", "replace")


def decode_dump_flow(record: bytes) -> DumpFlow:
    (pod_id, verdict_id, src, dst, actual, src_port, dst_port, actual_port, direction, protocol, *counts) = (
        DUMP_FLOW.unpack_from(record)[3:]
    )
    return DumpFlow(
        pod_id,
        verdict_id,
        Direction(direction),
        Protocol(protocol),
        (unpack_ip(src), src_port),
        (unpack_ip(dst), dst_port),
        (unpack_ip(actual), actual_port),
        *counts,
    )
